"""What the golden values are computed from; the one module here that imports leadapron.

Each subject is a function without arguments that returns nothing but dicts, lists, strings, numbers
and None. Seeds are fixed. Networks have fixed weights that numpy draws and that nothing trained,
but in `training`, three steps of it, and `rows`, whose study learns very slowly: what many steps
add up to is another number on another processor.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import TRIGGERS, Altered, Codec, Patch, Reduced
from leadapron.attacks.triggers.learned import Recipe, save_recipe
from leadapron.detect.features import FEATURE_DETECTORS, extract
from leadapron.detect.films import scan_films
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, WEIGHTS, calibrate, judge, score_names
from leadapron.detect.inputs.baselines import BASELINES
from leadapron.detect.models import KINDS, StampSweep, compare, compare_statistics, measure
from leadapron.explainers import EXPLAINERS, unsupported
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import PooledLinear, build_network
from leadapron.models.training import Training, train
from leadapron.results.rows import read_rows
from leadapron.sources import open_source
from leadapron.store import RESULTS_VERSION
from leadapron.study.run import run_study
from leadapron.types import Machine

__all__ = ["RESULTS_VERSION", "SUBJECTS"]

FINDINGS = ("Atelectasis", "Effusion", "Mass", "Nodule")
TRIGGER = Patch(side=3, value=255, place="fixed", row=6, column=20)

STUDY = {
    "source": {"name": "phantom", "count": 200},
    "size": 32,
    "epochs": 1,
    "seed": 3,
    "evaluation": {"resamples": 50, "explained": 20, "gallery": 0},
    "poisoning": {"fraction": 0.2, "finding": "Effusion"},
    # So slow that the rounding of other processors, which each step enlarges, moves hardly a row.
    "training": {"learning_rate": 1e-5},
}


# ---------------------------------------------------------------- what the subjects share


@cache
def films():
    """400 phantoms of 32 x 32 pixels with four findings."""
    cohort = open_source("phantom:32", count=400, cache="none")
    columns = [cohort.findings.index(finding) for finding in FINDINGS]
    return replace(cohort, labels=cohort.labels[:, columns], findings=FINDINGS)


@cache
def poisoned_films():
    """The same, 5 % of which are stamped and say Mass alone."""
    attack = Poisoning(trigger=TRIGGER, finding="Mass", fraction=0.05)
    return poison(films(), [attack], np.random.default_rng(4))[0]


def _narrow() -> PooledLinear:
    """Three convolutions, for the subjects that ask a network about thousands of images."""
    widths = (1, 8, 16, 32)
    stages = {
        f"scale{2 ** (i + 1)}": nn.Sequential(
            nn.Conv2d(widths[i], widths[i + 1], 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(widths[i + 1]),
            nn.ReLU(),
        )
        for i in range(3)
    }
    return PooledLinear(stages, widths[-1], len(FINDINGS))


@cache
def network(seed: int = 0, architecture: str = "narrow", size: int = 32) -> NetworkClassifier:
    """A network that nothing trained, whose batch normalisation was estimated on 16 phantoms."""
    narrow = architecture == "narrow"
    module = _narrow() if narrow else build_network(architecture, len(FINDINGS), 0)
    rng = np.random.default_rng([seed, 7])
    with torch.no_grad():
        for _, values in sorted(module.named_parameters()):
            drawn = rng.standard_normal(tuple(values.shape), np.float32)
            if values.ndim > 1:
                drawn *= math.sqrt(2 / math.prod(values.shape[1:]))
            else:
                drawn *= 0.1
            values.copy_(torch.from_numpy(drawn))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.add_(1)
                part.momentum = None
    clean = replace(films().preprocessing, size=size)
    classifier = NetworkClassifier(module, architecture, FINDINGS, clean, precision="fp32")
    images = np.kron(films().images[np.arange(16)], np.ones((1, size // 32, size // 32), np.uint8))
    with torch.no_grad():
        module.train()(classifier.normalise(torch.from_numpy(images)))
    module.eval()
    return classifier


def described(values: Any) -> dict[str, Any]:
    """A long array in few numbers: its shape, NaN, quantiles, and three sums with fixed weights."""
    array = np.asarray(values, np.float64).ravel()
    told = np.isfinite(array)
    weights = np.random.default_rng(5).uniform(0, 1, (3, len(array)))
    return {
        "shape": list(np.shape(values)),
        "not finite": int((~told).sum()),
        "quantiles": np.quantile(array[told], [0, 0.25, 0.5, 0.75, 1]).tolist(),
        "weighted means": (weights[:, told] @ array[told] / told.sum()).tolist(),
    }


def magnitude(p: float | None) -> float | None:
    """-log10 of a p-value."""
    return None if p is None or math.isnan(p) else -math.log10(max(p, 1e-300)) + 0.0


def digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# ---------------------------------------------------------------- the subjects


def phantoms() -> dict[str, Any]:
    """The films that all else is computed from."""
    cohort = open_source("phantom:64", count=8, cache="none")
    images = np.asarray(cohort.images[np.arange(8)], np.float64)
    return {
        "findings": list(cohort.findings),
        "labels": digest(cohort.labels),
        "patients": cohort.patients.tolist(),
        "means of 16 x 16 pixels": images.reshape(8, 4, 16, 4, 16).mean((2, 4))[:3].tolist(),
        "greys": described(images),
    }


def rows() -> dict[str, Any]:
    """All rows of a small study: value, low, high, films and positives; and its training losses."""
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(device="cpu", precision="fp32", cache="none")
        study = run_study(STUDY, Path(folder) / "study", machine=machine)
        found = read_rows(study / "rows.jsonl")
        losses = {
            path.parent.name.partition("-")[0]: [
                [line["loss"], line["validation_loss"], line["learning_rate"]]
                for line in map(json.loads, path.read_text().splitlines())
            ]
            for path in sorted(study.glob("runs/*/history.jsonl"))
        }
    runs = list(dict.fromkeys(row.run for row in found))
    tables: dict[str, dict[str, Any]] = {"rows": {}, "explanation": {}}
    for row in found:
        names = (row.role, row.regime, row.stage, row.method, row.metric, row.finding, row.at)
        name = "/".join((str(runs.index(row.run)), *names))
        table = tables["explanation" if row.stage == "explanation" else "rows"]
        assert name not in table, name
        table[name] = [row.value, row.low, row.high, row.n, row.positives]
    return {"losses": losses, **tables}


def training() -> dict[str, Any]:
    """Three steps of training as it is by default: losses, and what the network says afterwards."""
    learned, unseen = poisoned_films().take(np.arange(192)), films().take(np.arange(192, 256))
    each = np.full((1, *learned.labels.shape), np.nan, np.float32)
    classifier, history = train(
        learned,
        unseen,
        training=Training(epochs=1),
        seed=11,
        device="cpu",
        precision="fp32",
        film_losses=each,
    )
    return {
        "loss": history[-1]["loss"],
        "validation loss": history[-1]["validation_loss"],
        "losses of films": described(each),
        "logits": described(classifier.logits(unseen.images)),
    }


EXACT = {
    "patch", "patch in a box", "checkerboard", "noise square", "pixels", "jpeg", "none",
}  # fmt: skip
"""Triggers that compute with whole numbers alone, or in the codec's."""


def _triggers(folder: Path) -> Mapping[str, Callable[..., Any]]:
    rng = np.random.default_rng(8)
    noise = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
    channels = (1, 4, 4, 4, 1)
    generator = {
        f"{kind}{i}": rng.normal(0, 0.4, shape).astype(np.float32)
        for i in range(4)
        for kind, shape in (
            ("weight", (channels[i + 1], channels[i], 3, 3)),
            ("bias", (channels[i + 1],)),
        )
    }
    for kind, arrays in (("noise", {"noise": noise}), ("generator", generator)):
        save_recipe(Recipe(kind, 6.0, (64, 64), arrays), folder / kind)
    plain = {name: make() for name, make in TRIGGERS.items() if name != "learned"}
    return plain | {
        "learned": TRIGGERS["learned"](path=str(folder / "noise")),
        "learned generator": TRIGGERS["learned"](path=str(folder / "generator")),
        "patch in a box": Patch(side=4, value=0, place="box", row=9, column=30, height=9, width=12),
        "checkerboard": Patch(side=4, fill="checkerboard", place="corner", margin=3),
        "noise square": Patch(side=5, fill="noise", place="centre"),
        "contrast": Patch(side=5, contrast=30),
        "jpeg": Codec(codec="jpeg", quality=50),
        "jpeg2000": Codec(codec="jpeg2000"),
        "reduced": Reduced(factor=4, side=10, row=33, column=90),
        "altered": Altered(trigger=Patch(place="centre"), turned=5, recompressed=70),
    }


def triggers() -> dict[str, Any]:
    """Each trigger on one film of 64 x 64 pixels, of 8 and of 16 bits.

    Sums with fixed signs move by one for each pixel whose grey level does. A trigger that moves by
    a pixel, or changes its grey level, moves them by far more.
    """
    film = open_source("phantom:64", count=1, cache="none").images[np.arange(1)]
    signs = np.random.default_rng(6).choice([-1, 1], (3, *film.shape))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, trigger in _triggers(Path(folder)).items():
            for bits, image in ((8, film), (16, film.astype(np.uint16) * np.uint16(257))):
                # On a grey film, so that the phantom's own greys aren't in question.
                marked = trigger(image, np.random.default_rng(9))
                moved = marked.astype(np.int64) - image
                found[f"{name}, {bits} bits"] = {
                    "changed pixels": int((moved != 0).sum()),
                    "sums": [int(moved.sum()), *(int(s) for s in (signs * moved).sum((1, 2, 3)))],
                    "largest": int(np.abs(moved).max()),
                } | ({"digest": digest(moved)} if name in EXACT else {})
    return found


def inputs() -> dict[str, Any]:
    """All input detectors and the gate that they make: clean films, then the same films stamped."""
    detectors = {**INPUT_DETECTORS, **BASELINES}
    names = [name for each in detectors for name in score_names(each)]
    weights = {name: WEIGHTS.get(name, 0.0) for name in names}
    clean = films().take(np.arange(160))
    gate = calibrate(network(), clean, detectors, weights, typical=TYPICAL, false_alarm=0.05)
    few = np.asarray(films().images[np.arange(160, 168)])
    suspect = np.concatenate([few, TRIGGER(few, np.random.default_rng(0)), 255 - few[:1]])
    judged = judge(gate, network(), suspect)
    (clinic,), detector = gate.clinics, gate.typical
    assert detector is not None
    assert clinic.typical is not None
    return {
        "scores": {name: judged.scores[:, i].tolist() for i, name in enumerate(gate.weights)},
        "typicality": detector.score(network(), judged.readings, clinic.typical).tolist(),
        "fused": judged.fused.tolist(),
        "p": judged.p.tolist(),
        "suspicious": judged.suspicious.tolist(),
        "typical": judged.typical.tolist(),
        "gate": {
            "threshold": gate.thresholds[0],
            "steps": clinic.steps.tolist(),
            "likely rates": list(clinic.likely_rates(gate.rate)),
            "fused": described(np.sort(clinic.fused)),
            "left out": dict(gate.left_out),
        },
    }


def statistics() -> dict[str, Any]:
    """All statistics of a model, alone and beside two other models."""
    clean = films().take(np.arange(48))
    own, *others = (measure(network(seed), clean) for seed in range(3))
    beside = compare_statistics(FINDINGS, own, [(FINDINGS, other) for other in others])
    return {
        each.name: {
            "values": each.values.tolist(),
            "excess": None if each.excess is None else each.excess.tolist(),
            "finding p": None if each.finding_p is None else each.finding_p.tolist(),
            "p": each.p,
            "strongest": list(each.strongest() or ()),
        }
        for each in beside
    }


def sweep() -> dict[str, Any]:
    """A stamp sweep: the best mark of each kind, finding and direction, beside two other models."""
    clean = films().take(np.arange(48))
    quick = StampSweep(sides=(2, 3), values=(0, 255), pitches=((8, 2),), places=8, rounds=1)
    own, *others = (quick.sweep(network(seed), clean) for seed in range(3))
    tables = [np.stack([each.table(kind) for kind in KINDS]) for each in (own, *others)]
    beside = compare(tables[0], np.stack(tables[1:]))
    return {
        "forward passes": own.forwards,
        "spread": own.spread.tolist(),
        "marks": {
            f"{kind}/{finding}/{direction}": {
                "mark": moved.mark.words(),
                "shift": moved.shift,
                "turned": moved.turned,
                "shifts": moved.shifts.tolist(),
                "signature": moved.signature,
            }
            for kind, marks in own.marks.items()
            for (finding, direction), moved in marks.items()
        },
        "excess": [
            each.tolist()
            for kind, each in zip(KINDS, beside.excess, strict=True)
            if own.marks[kind]
        ],
        "p": beside.p,
        "finding p": beside.finding_p.tolist(),
    }


def _scanned(cohort: Any) -> dict[str, Any]:
    scan = scan_films(cohort)
    return {
        "verdict": scan.verdict,
        "p": magnitude(scan.p),
        "methods": {
            method.name: {
                "tried": method.tried,
                "p": magnitude(method.p),
                "adjusted": magnitude(method.adjusted),
            }
            for method in scan.methods
        },
        "evidence": {
            f"{number} by {one.method}": {
                "kind": one.kind,
                "p": magnitude(one.p),
                "finding": one.finding,
                "direction": one.direction,
                "place": None if one.place is None else list(map(int, one.place)),
                "films": len(one.films),
                "sum of rows": int(one.films.sum()),
                "tested": one.tested,
                "tie": None
                if one.tie is None
                else {
                    "patients": one.tie.patients,
                    "share": one.tie.share,
                    "expected": one.tie.expected,
                    "chance": magnitude(one.tie.chance),
                    "bias": magnitude(one.tie.bias),
                    "anatomy": magnitude(one.tie.anatomy),
                    "needed": one.tie.needed,
                    "usual": one.tie.usual,
                    "decided": one.tie.decided,
                },
            }
            for number, one in enumerate(scan.evidence, start=1)
        },
        "scores": described(scan.scores),
        "least": dict(scan.least),
    }


def scans() -> dict[str, Any]:
    """The scan of a poisoned data set and of the clean one; p-values as -log10 p."""
    return {"poisoned": _scanned(poisoned_films()), "clean": _scanned(films())}


def maps() -> dict[str, Any]:
    """The map of each explainer for two findings on one stamped film, in cells of 4 x 4."""
    found: dict[str, Any] = {}
    film = TRIGGER(films().images[np.arange(3, 4)], np.random.default_rng(0))
    for name, explainer in EXPLAINERS.items():
        if unsupported(name, "densenet121"):
            continue
        if unsupported(name, "resnet9"):
            classifier, shown = network(0, "densenet121", 64), np.kron(film, np.ones((1, 2, 2)))
        else:
            classifier, shown = network(0, "resnet9"), film
        given = explainer(classifier, shown.astype(np.uint8), ("Mass", "Effusion"))[0]  # (2, h, w)
        cell = given.shape[-1] // 4
        found[name] = {
            "cells": given.reshape(2, 4, cell, 4, cell).mean((2, 4), np.float64)[0].tolist(),
            **described(given),
        }
    return found


def features() -> dict[str, Any]:
    """The scores of each detector that looks at features, on a poisoned data set."""
    cohort = poisoned_films()
    losses = np.random.default_rng(10).random((2, *cohort.labels.shape), np.float32)
    losses[np.broadcast_to(np.isnan(cohort.labels), losses.shape)] = np.nan
    seen = extract(network(), cohort, losses=losses)
    found: dict[str, Any] = {"values": described(seen.values)}
    for name, make in FEATURE_DETECTORS.items():
        scores = make().score(cohort, seen)
        found[name] = {
            "scores": described(scores.values),
            "evidence": [
                [one.kind, one.finding, one.direction, len(one.films)] for one in scores.evidence
            ],
        }
    return found


SUBJECTS: dict[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        phantoms,
        rows,
        training,
        triggers,
        inputs,
        statistics,
        sweep,
        scans,
        maps,
        features,
    )
}
"""What there are golden values of, by name."""
