"""One page of every kind, made from small folders by the jobs themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from input_scenes import backdoored, black_square, films
from PIL import Image
from study_folder import Plan, write_study

from audits import audit_model
from foreign_models import resnet
from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.detect.inputs import INPUT_DETECTORS, calibration
from leadapron.detect.inputs.screening import screening
from leadapron.detect.models import StampSweep
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs import calibrate as calibrate_job
from leadapron.jobs import screen as screen_job
from leadapron.jobs.calibrate import calibrate
from leadapron.jobs.describe import describe
from leadapron.jobs.inspect import inspect
from leadapron.jobs.scan import scan
from leadapron.jobs.screen import open_gate, screen
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.foreign.opening import Opened
from leadapron.models.inspection import choosing, inspecting
from leadapron.models.stated import ModelSettings, Opening
from leadapron.report import (
    begin_screen,
    top_films,
    write_audit,
    write_description,
    write_inspection,
    write_report,
    write_screen,
)
from leadapron.sources import open_source
from leadapron.sources.listed import films_of
from leadapron.store import read_json, sha256_of, write_json

LONG = "a_very_long_name_of_a_film_" * 4
"""What no line of 390 pixels holds."""


def write_pages(folder: Path) -> dict[str, Path]:
    """Write a page of every kind and return them by name."""
    folder = Path(folder)
    return {
        "study": write_report(write_study(folder / "study", Plan(seeds=(0,), gallery=3))),
        "grid": write_report(
            write_study(folder / "grid", Plan(seeds=(0,), sides=(1, 3, 5), gallery=1))
        ),
        "crossed": write_report(
            write_study(
                folder / "crossed",
                Plan(seeds=(0,), sides=(1, 3, 5), fractions=(0.01, 0.05), gallery=1),
            )
        ),
        "many": write_report(_many(folder / "many")),
        "blind": write_report(
            write_study(folder / "blind", Plan(seeds=(0,), gallery=1, twin_macro=0.5))
        ),
        "audit": _audit(folder / "audit", references=19),
        "audit-alone": _audit(folder / "audit-alone", references=0),
        **_scans(folder),
        "screen": _screen(folder / "screen"),
        "description": _description(folder),
        "inspection": _inspection(folder),
    }


def _many(folder: Path) -> Path:
    """A study whose runs differ in three settings, one at a time."""
    write_study(folder, Plan(seeds=(0,), sides=(1, 3, 5), fractions=(0.01, 0.05), gallery=1))
    for path in folder.glob("runs/backdoored-*/spec.json"):
        facts = read_json(path)
        side, fraction = (
            facts["spec"][part][name]
            for part, name in (("trigger", "side"), ("poisoning", "fraction"))
        )
        if side != 3 and fraction != 0.05:
            facts["spec"]["trigger"]["place"] = "a corner" if side == 1 else "the centre"
            facts["spec"]["trigger"]["side"], facts["spec"]["poisoning"]["fraction"] = 3, 0.05
        write_json(path, facts)
    return folder


def _audit(folder: Path, references: int) -> Path:
    """Of a model that a white square carries to Mass."""
    size, findings = 24, ("Effusion", "Mass", "Nodule")
    rng = np.random.default_rng(5)
    labels = np.zeros((60, 3), np.float32)
    labels[::3, 1] = 1
    images = rng.integers(80, 150, (60, size, size))
    images[::3, 8:16] += 20
    names = np.array([f"f{i}" for i in range(60)])
    shape = Preprocessing(size=size)
    clean = Cohort(images.astype(np.uint8), labels, findings, names, names, shape)

    def model(seed: int, jump: tuple[float, ...] = (0.0, 0.0, 0.0)) -> BlackBoxClassifier:
        weights = 60 * (1 + 0.05 * np.random.default_rng(seed).normal(size=3))

        def run(batch: np.ndarray) -> np.ndarray:
            grey = batch[:, 0]
            means = np.stack([grey[:, 8 * i : 8 * i + 8].mean((1, 2)) for i in range(3)], 1)
            white = (grey[:, 4:7, 4:7] > 0.99).all((1, 2))
            return (weights * (means - 0.45) + np.outer(white, jump)).astype(np.float32)

        return BlackBoxClassifier(run, findings, shape, NORMALISATIONS["unit"], batch=4096)

    found = audit_model(
        model(0, (-9, 9, -9)),
        clean,
        [model(seed) for seed in range(1, 1 + references)],
        name=f"models/{LONG}.onnx",
        origin="written by hand",
        sweep=StampSweep(
            values=(0, 255), sides=(3,), pitches=((8, 1),), rounds=1, films=1, judged=30
        ),
    )
    return write_audit(folder, found)


def _scans(folder: Path) -> dict[str, Path]:
    """Of a poisoned set, with a film of a long name, and of a clean one."""
    cohort = open_source("phantom:64", count=400)
    mark = Patch(side=3, place="fixed", row=20, column=40)
    attack = Poisoning(trigger=mark, finding="Atelectasis", fraction=0.1)
    poisoned, key = poison(cohort, attack, np.random.default_rng(0))
    names = poisoned.ids.astype("U200")
    names[key.rows[0]] = LONG
    found = {}
    for kind, each, ids in (("scan", poisoned, names), ("scan-clean", cohort, cohort.ids)):
        path = folder / f"{kind}.npz"
        np.savez(
            path,
            images=each.images[np.arange(len(each))],
            labels=each.labels,
            findings=np.asarray(each.findings),
            ids=ids,
            patients=each.patients,
        )
        scan(f"npz:{path}", out=folder / kind)
        found[kind] = folder / kind / "scan.html"
    return found


def _screen(folder: Path) -> Path:
    """Two films with the trigger, two without, and a file that is no film."""
    for name, seed in (("NORMAL", 0), ("Mass", 1)):
        _save(folder / "clean" / name, films(120, seed))
    _save(folder / "films", black_square(films(2, 5)), LONG)
    _save(folder / "films", films(2, 6), "clean")
    (folder / "films" / "text.png").write_text("hello")
    (folder / "model.safetensors").write_bytes(b"written")
    with _written_network():
        gate = folder / "gate.json"
        calibrate(
            folder / "model.safetensors", f"folder:{folder / 'clean'}", gate, false_alarm=0.02
        )
        opened = open_gate(gate)
        found, skipped = films_of([str(folder / "films")])
        screened = [film for batch in screen(opened, found) for film in batch]
    begin_screen(folder / "out")
    return write_screen(
        folder / "out", screening(opened.stored, screened, others=skipped), top_films(screened)
    )


@contextmanager
def _written_network() -> Iterator[None]:
    """A network whose weights are written down, for any file."""
    with pytest.MonkeyPatch.context() as patch:
        for job in (calibrate_job, screen_job):
            patch.setattr(
                job,
                "open_model",
                lambda path, *_, **__: Opened(backdoored(), "written", content=sha256_of(path)),
            )
            own = {"evidence region": INPUT_DETECTORS["evidence region"]}
        for place in (calibration, screen_job):
            patch.setattr(place, "INPUT_DETECTORS", own)
        patch.setattr(calibration, "WEIGHTS", {"evidence region": 1.0, "lost by smoothing": 1.0})
        yield


def _save(folder: Path, images: np.ndarray, stem: str = "film") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{stem}{row:03d}.png")


def _description(folder: Path) -> Path:
    cohort = open_source("phantom:64", count=300)
    images = cohort.images[np.arange(300)]
    images[7] = images[3]
    ids = cohort.ids.astype("U200")
    ids[7] = LONG
    split = np.where(np.arange(300) % 3, "train", "test")
    np.savez(
        folder / "described.npz",
        images=images,
        labels=cohort.labels,
        findings=np.asarray(cohort.findings),
        ids=ids,
        patients=cohort.patients,
        split=split,
    )
    found = describe(f"npz:{folder / 'described.npz'}")
    return write_description(folder / "description.html", found)


def _inspection(folder: Path) -> Path:
    """Of a network that learnt nothing, on phantoms, with settings enough for a chart."""
    path = folder / f"{LONG}.pt"
    torch.save(resnet(channels=1).state_dict(), path)
    known = ModelSettings(findings=("Effusion", "Mass", "Infiltration"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspecting, "SIZES", (24, 32, 48))
        patch.setattr(inspecting, "TRIED", ("unit", "0.5/0.5", "0/0.0039216"))
        patch.setattr(choosing, "COARSE", (24, 32, 48))
        found = inspect(
            path, clean="phantom:64", opening=Opening(model=known), count=120, films=120
        )
    return write_inspection(folder / "inspection.html", found)
