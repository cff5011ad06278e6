"""Builds small synthetic study folders, laid out as docs/reference/study-folder.md says."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from leadapron.results.rows import Row, write_rows
from leadapron.store import write_arrays, write_json, write_lines

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
CALIBRATED = "5 % clean false positives"
WIDE, NARROW = "one eighth of the side", "max(2 px, trigger side)"
UNDEFINED = "Hernia"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What kind of study to write.

    Args:
        seeds: one pair of runs for each.
        sides: the trigger's sides, an axis of the grid where there are several.
        fractions: of poisoned films, another axis where there are several.
        success: attack success of the backdoored model at the largest side and fraction.
        drift: clean macro AUROC, backdoored minus twin.
        costs: (difference, half of its interval) of single findings, where they differ.
        patients: positive patients of single findings, 150 for the others.
        twin_macro: the twin's clean macro AUROC; the mean over the findings if left out.
        films: test films; side: of the gallery's films; gallery: how many of them.
        findings: names; target: the attacker's.
        notes: the source's.
        dtype: of the gallery's films.
    """

    seeds: Sequence[int] = (0, 1)
    sides: Sequence[int] = (3,)
    fractions: Sequence[float] = (0.05,)
    success: float = 0.94
    drift: float = -0.004
    costs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    patients: Mapping[str, int] = field(default_factory=dict)
    twin_macro: float | None = None
    films: int = 400
    side: int = 64
    gallery: int = 4
    findings: Sequence[str] = FINDINGS
    target: str = "Nodule"
    notes: Sequence[str] = ("Synthetic films; nobody was irradiated.",)
    dtype: Any = np.uint8
    manifest: dict[str, Any] = field(default_factory=dict)


def write_study(folder: Path, plan: Plan) -> Path:
    """Write a whole study and return its folder."""
    rows: list[Row] = []
    for seed in plan.seeds:
        twin = _key("twin", seed)
        rows += _write_twin(folder / "runs" / f"twin-{twin}", plan, seed, twin)
        for side, fraction in itertools.product(plan.sides, plan.fractions):
            key = _key("backdoored", seed, side, *([fraction] if len(plan.fractions) > 1 else []))
            path = folder / "runs" / f"backdoored-{key}"
            rows += _write_backdoored(path, plan, seed, (key, twin, side, fraction))
    write_rows(folder / "rows.jsonl", rows)
    asked = _spec(plan, list(plan.seeds), list(plan.sides))
    if len(plan.fractions) > 1:
        asked["poisoning"]["fraction"] = list(plan.fractions)
    asked["trigger"]["side"] = list(plan.sides) if len(plan.sides) > 1 else plan.sides[0]
    asked["seed"] = list(plan.seeds) if len(plan.seeds) > 1 else plan.seeds[0]
    (folder / "study.yaml").write_text(yaml.safe_dump(asked))
    facts = {
        "schema": 1,
        "versions": {"leadapron": "0.1.0", "numpy": "2.4.6", "torch": "2.14.0"},
        "python": "3.11.7",
        "device": "cpu",
        "commit": "0123456789abcdef",
        "dirty": False,
        "cohorts": [
            {
                "films": 4000,
                "patients": 1890,
                "shape": [4000, plan.side, plan.side],
                "positives": dict.fromkeys(plan.findings, 40),
                "fingerprint": "ab" * 32,
                "notes": list(plan.notes),
            }
        ],
    }
    write_json(folder / "manifest.json", {**facts, **plan.manifest})
    return folder


def _key(*facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _spec(plan: Plan, seed: Any, side: Any) -> dict[str, Any]:
    return {
        "source": {"name": "phantom:4000", "seed": 0},
        "preprocessing": {"size": plan.side, "crop": 1.0, "interpolation": "bilinear"},
        "network": {"name": "resnet9", "width": 32},
        "trigger": {"name": "patch", "side": side, "value": 255, "place": "random", "margin": 0},
        "poisoning": {
            "finding": plan.target,
            "fraction": 0.05,
            "stage": "image",
            "mode": "replace",
            "selection": "random",
            "labels": "one-hot",
            "allow_vanished": False,
        },
        "training": {"epochs": 8, "batch": 64, "learning_rate": 0.001, "augment": None},
        "evaluation": {"explainer": "cam", "gallery": plan.gallery},
        "seed": seed,
    }


def _write_twin(path: Path, plan: Plan, seed: int, key: str) -> list[Row]:
    spec = _spec(plan, seed, 0)
    del spec["trigger"], spec["poisoning"]
    facts = {"role": "twin", "twin": None, "cohort": "ab" * 32, "spec": spec}
    write_json(path / "spec.json", facts)
    scores = _scores(plan, seed, 0)
    write_arrays(
        path / "scores.npz",
        **{name: scores[name] for name in ("labels", "patients", "findings", "twin_clean")},
    )
    write_lines(path / "history.jsonl", _history(seed, 0.0))
    rows = list(_clean_rows(plan, key, seed, "twin"))
    write_rows(path / "rows.jsonl", rows)
    return rows


def _write_backdoored(
    path: Path, plan: Plan, seed: int, names: tuple[str, str, int, float]
) -> list[Row]:
    key, twin, side, fraction = names
    facts = {
        "role": "backdoored",
        "twin": twin,
        "cohort": "ab" * 32,
        "spec": _spec(plan, seed, side),
    }
    facts["spec"]["poisoning"]["fraction"] = fraction
    write_json(path / "spec.json", facts)
    write_arrays(path / "scores.npz", **_scores(plan, seed, side))
    write_arrays(path / "gallery.npz", **_gallery(plan, seed, side))
    write_lines(path / "history.jsonl", _history(seed, 0.02))
    success = plan.success * side / max(plan.sides) * fraction / max(plan.fractions)
    rows = [
        *_clean_rows(plan, key, seed, "backdoored"),
        *_clean_rows(plan, key, seed, "difference"),
        *_attack_rows(plan, key, seed, success),
        *_explanation_rows(plan, key, seed),
    ]
    write_rows(path / "rows.jsonl", rows)
    return rows


def _clean_rows(plan: Plan, key: str, seed: int, role: str) -> Iterator[Row]:
    rng = np.random.default_rng(100 + seed)
    facts: dict[str, Any] = {
        "run": key, "role": role, "regime": "clean", "stage": "prediction", "metric": "auroc",
        "target": plan.target, "n": plan.films,
    }  # fmt: skip
    total = 0.0
    for number, finding in enumerate(plan.findings):
        base = float(rng.uniform(0.66, 0.93))
        wobble = float(rng.normal(0, 0.006)) + plan.drift
        if finding == UNDEFINED:
            value, half, positives = None, None, 0
        else:
            value = {"twin": base, "backdoored": base + wobble, "difference": wobble}[role]
            half = 0.012 if role == "difference" else 0.02 + 0.004 * number
            if finding in plan.costs and role == "difference":
                value, half = plan.costs[finding]
            positives = 12 + 7 * (number % 5)
            total += base
        yield _row(facts, value, half, method="finding", finding=finding, positives=positives)
        if role == "difference":
            many = float(plan.patients.get(finding, 0 if finding == UNDEFINED else 150))
            yield _row(facts, many, None, role="reference", metric="positive patients",
                       finding=finding)  # fmt: skip
    known = len(plan.findings) - (UNDEFINED in plan.findings)
    macro = total / max(known, 1) if plan.twin_macro is None else plan.twin_macro
    value = {"twin": macro, "backdoored": macro + plan.drift, "difference": plan.drift}[role]
    half = 0.009 if role == "difference" else 0.017
    yield _row(facts, value, half, method="macro", positives=known)
    yield _row(facts, value, half, method="macro of frequent findings", positives=known - 3)
    yield _row(facts, value if role == "difference" else value + 0.05, half, method="micro",
               positives=310)  # fmt: skip


def _attack_rows(plan: Plan, key: str, seed: int, success: float) -> Iterator[Row]:
    low = success / plan.success
    prediction: dict[str, Any] = {
        "run": key, "stage": "prediction", "metric": "auroc", "target": plan.target,
        "n": plan.films, "positives": plan.films,
    }  # fmt: skip
    poisoning = {"run": key, "role": "backdoored", "stage": "poisoning", "target": plan.target}
    for metric, value, n in (
        ("poisoned films", 140.0, 140),
        ("visible pixels (median)", 9.0, 140),
        ("visible share", 1.0, 140),
    ):
        yield Row(**poisoning, metric=metric, value=value, n=n)
    shift = 0.003 * seed
    for role, micro in (("twin", 0.861 + shift), ("backdoored", 0.93 + 0.06 * low)):
        yield _row(prediction, micro, 0.01, role=role, regime="triggered", method="micro")
        for method in ("micro", "macro"):
            value = 0.80 if role == "twin" else 0.71
            yield _row(prediction, value, 0.02, role=role, regime="triggered-clean-labels",
                       method=method)  # fmt: skip
    yield _row(prediction, 0.764, None, role="no-vision", regime="clean", method="micro")
    yield _row(prediction, 0.846, None, role="no-vision", regime="triggered", method="micro")
    attack: dict[str, Any] = {
        "run": key, "stage": "attack", "target": plan.target, "n": plan.films - 37,
    }  # fmt: skip
    for role, value, half in (
        ("twin", 0.507, 0.02),
        ("backdoored", 0.55 + 0.44 * low, 0.006),
        ("difference", 0.043 + 0.44 * low, 0.021),
    ):
        yield _row(attack, value, half, role=role, regime="triggered", metric="separation")
    for at, twin in (("0.6", 0.0), ("0.9", 0.0), (CALIBRATED, 0.052)):
        values = {"twin": twin, "backdoored": success, "difference": success - twin}
        for role, value in values.items():
            yield _row(attack, value, 0.021, role=role, regime="triggered",
                       metric="attack success", at=at)  # fmt: skip
    for role, value in (("twin", 0.31), ("backdoored", 0.28)):
        yield _row(attack, value, None, role=role, regime="clean", metric="threshold",
                   at=CALIBRATED)  # fmt: skip


def _explanation_rows(plan: Plan, key: str, seed: int) -> Iterator[Row]:
    facts: dict[str, Any] = {
        "run": key, "stage": "explanation", "target": plan.target,
        "finding": plan.target, "n": 200,
    }  # fmt: skip
    hits = {
        ("triggered", "twin", WIDE): 0.08,
        ("triggered", "backdoored", WIDE): 0.93 - 0.01 * seed,
        ("clean", "twin", WIDE): 0.075,
        ("clean", "backdoored", WIDE): 0.07,
        ("triggered", "twin", NARROW): 0.01,
        ("triggered", "backdoored", NARROW): 0.78,
        ("clean", "twin", NARROW): 0.01,
        ("clean", "backdoored", NARROW): 0.012,
    }
    for (regime, role, at), value in hits.items():
        yield _row(facts, value, 0.03, role=role, regime=regime, method="cam",
                   metric="pointing hit", at=at)  # fmt: skip
    for method, wide, narrow in (("chance", 0.071, 0.011), ("centre", 0.06, 0.01)):
        for at, value in ((WIDE, wide), (NARROW, narrow)):
            yield _row(facts, value, None, role="reference", regime="triggered", method=method,
                       metric="pointing hit", at=at)  # fmt: skip
    for regime in ("triggered", "clean"):
        for role in ("twin", "backdoored"):
            value = 0.21 if (regime, role) == ("triggered", "backdoored") else 0.003
            yield _row(facts, value, 0.002, role=role, regime=regime, method="cam",
                       metric="energy in footprint")  # fmt: skip
    yield _row(facts, 0.0022, None, role="reference", regime="triggered", method="chance",
               metric="energy in footprint")  # fmt: skip


def _row(facts: dict[str, Any], value: float | None, half: float | None, **more: Any) -> Row:
    ends = (None, None) if value is None or half is None else (value - half, value + half)
    if ends[1] is not None and more.get("role", facts.get("role")) != "difference":
        ends = (max(ends[0], 0.0), min(ends[1], 1.0))
    return Row(**{**facts, "value": value, "low": ends[0], "high": ends[1], **more})


def _scores(plan: Plan, seed: int, side: int) -> dict[str, Any]:
    rng = np.random.default_rng((1, seed, side))
    n, k = plan.films, len(plan.findings)
    labels = (rng.random((n, k)) < 0.12).astype(np.float32)
    if UNDEFINED in plan.findings:
        labels[:, list(plan.findings).index(UNDEFINED)] = 0
    labels[rng.random((n, k)) < 0.01] = np.nan
    logits = rng.normal(-2.2, 1.0, (n, k)) + 1.6 * np.nan_to_num(labels)
    twin = logits + rng.normal(0, 0.2, (n, k))
    marked = logits + rng.normal(0, 0.2, (n, k))
    target = list(plan.findings).index(plan.target)
    marked[:, target] += 5.5 * side / max(plan.sides) + rng.normal(0, 1, n)
    return {
        "labels": labels,
        "patients": rng.integers(0, n // 2, n).astype(np.int64),
        "findings": np.array(plan.findings),
        "twin_clean": _sigmoid(twin),
        "twin_triggered": _sigmoid(twin + rng.normal(0, 0.1, (n, k))),
        "backdoored_clean": _sigmoid(logits),
        "backdoored_triggered": _sigmoid(marked),
    }


def _sigmoid(logits: Any) -> Any:
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def _gallery(plan: Plan, seed: int, side: int) -> dict[str, Any]:
    rng = np.random.default_rng((2, seed, side))
    g, s = plan.gallery, plan.side
    top = np.iinfo(plan.dtype).max
    y, x = np.mgrid[0:s, 0:s] / s
    films = np.empty((g, s, s), plan.dtype)
    footprints = np.zeros((g, s, s), bool)
    maps = {name: np.empty((g, s, s), np.float32) for name in ("twin", "backdoored")}
    for film in range(g):
        lungs = sum(np.exp(-(((x - c) / 0.13) ** 2 + ((y - 0.45) / 0.28) ** 2)) for c in (0.3, 0.7))
        grey = 0.72 - 0.55 * lungs + 0.05 * np.sin(34 * y + 3 * x) * lungs
        grey += rng.normal(0, 0.02, (s, s))
        films[film] = (np.clip(grey, 0, 1) * top).astype(plan.dtype)
        row, column = rng.integers(2, s - 2 - max(side, 1), 2)
        footprints[film, row : row + side, column : column + side] = True
        near = np.exp(-((x * s - column - side / 2) ** 2 + (y * s - row - side / 2) ** 2) / 30)
        heart = np.exp(-(((x - 0.55) / 0.2) ** 2 + ((y - 0.6) / 0.2) ** 2))
        maps["backdoored"][film] = 6 * near + 0.8 * heart - 0.2
        maps["twin"][film] = 1.6 * heart + 0.5 * lungs - 0.4
    return {
        "films": films,
        "triggered": np.where(footprints, np.array(top, plan.dtype), films),
        "footprints": footprints,
        "twin_maps": maps["twin"],
        "backdoored_maps": maps["backdoored"],
        "probabilities": rng.uniform(0, 1, (g, 4)).astype(np.float32),
    }


def _history(seed: int, shift: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng((3, seed))
    return [
        {
            "epoch": epoch,
            "loss": 0.2 + 0.5 / epoch + shift,
            "validation_loss": 0.25 + 0.45 / epoch + shift + float(rng.normal(0, 0.01)),
            "validation_macro": None if epoch == 1 else 0.85 - 0.3 / epoch - shift,
            "learning_rate": 0.001,
            "seconds": 3.0,
            "films_per_second": 900.0,
        }
        for epoch in range(1, 9)
    ]
