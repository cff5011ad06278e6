"""Audits and gates by a backend: it is recorded, and a gate is used with its own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import leadapron as la
from backend_scenes import in_place
from leadapron.cli import run
from leadapron.detect.models import StampSweep
from leadapron.detect.models.students import Students
from leadapron.documents import dump
from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.audit import audit
from leadapron.jobs.calibrate import calibrate
from leadapron.jobs.screen import open_gate
from leadapron.models.backends import CompiledClassifier, on_backend
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.distillation import Teaching
from leadapron.models.networks import build_network
from leadapron.types import Machine

TORCH = Machine(device="cpu", precision="fp32", cache="none")
ONNX = replace(TORCH, backend="onnxruntime")
SWEEP = StampSweep(sides=(3,), values=(255,), pitches=((8, 1),), places=2, rounds=0, judged=10)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = NetworkClassifier(
        build_network("plain4", 3, 4).eval(), "plain4", ("Effusion", "Mass", "Nodule"),
        Preprocessing(size=32),
    )  # fmt: skip
    save_classifier(network, path)
    return path


def test_an_audit_sweeps_on_the_backend_and_says_so(monkeypatch, model, tmp_path):
    sessions = in_place(monkeypatch)
    found = {}
    for machine in (TORCH, ONNX):
        found[machine.backend] = audit(
            model, "phantom:32", machine=replace(machine, cache=tmp_path), sweep=SWEEP, students=0,
            statistics=False, steps=0, count=40,
        )  # fmt: skip
    torchs, onnxs = found["auto"], found["onnxruntime"]
    assert (torchs.backend, onnxs.backend) == ("torch", "onnxruntime")
    assert dump(replace(onnxs, backend="torch")) == dump(torchs)
    (session,) = sessions
    assert session.films > onnxs.forwards  # torch's sweep, which is kept, isn't taken for its own


def test_students_run_as_their_model_does(monkeypatch, model):
    sessions = in_place(monkeypatch)
    teacher = la.open_model(model, device="cpu", precision="fp32").classifier
    films = la.open_source("phantom:32", count=200)
    how = Students(number=1, teaching=Teaching(epochs=1), sweep=SWEEP, measured=20)
    seen = how.observe(on_backend(teacher, ONNX, films.images), films)
    assert len(seen.students) == 1
    assert len(sessions) == 2
    assert sessions[1].films > 400


def test_a_gate_is_used_with_the_backend_that_made_it(monkeypatch, model, tmp_path, capsys):
    in_place(monkeypatch)
    gates = {}
    for machine in (TORCH, ONNX):
        made = calibrate(
            model, "phantom:32", tmp_path / f"{len(gates)}.json", false_alarm=0.1,
            machine=machine, count=60,
        )  # fmt: skip
        gates[made.stored.made.backend] = made
    film = tmp_path / "film.png"
    Image.new("L", (32, 32)).save(film)
    films = la.open_source("phantom:32", count=6, seed=3).images[np.arange(6)]
    said = []
    for backend, made in gates.items():
        assert json.loads(made.file.read_text())["made"]["backend"] == backend
        opened = open_gate(made.file, machine=replace(TORCH, precision="auto"))
        assert isinstance(opened.classifier, CompiledClassifier) == (backend == "onnxruntime")
        assert opened.classifier.precision == "fp32"
        said.append([each.verdict for each in la.screen(opened, films).films])
        other = {"torch": "onnxruntime", "onnxruntime": "torch"}[backend]
        words = f"`backend` {other}: {made.file.name} was calibrated in {backend}, and"
        with pytest.raises(UsageError, match=f"^{words}"):
            open_gate(made.file, machine=replace(TORCH, backend=other))
        assert run(["screen", str(made.file), str(film), "--backend", other]) == 4
        assert capsys.readouterr().err.count("\n") == 1
    assert said[0] == said[1]
    # An old gate keeps its own backend beside a new one of another.
    old, clean = gates["torch"].file, la.open_source("phantom:32", count=60, seed=4)
    new = la.calibrate(model, clean, false_alarm=0.1, against=old, machine=ONNX)
    assert new.compared.old.gate == old.name


@pytest.mark.slow
def test_a_thousand_films_get_the_same_verdicts_by_both_backends():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    size = 32
    mark = la.Poisoning(
        trigger=la.Patch(side=4, place="corner", value=255), finding="Mass", fraction=0.1,
        stage="image", labels="add",
    )  # fmt: skip
    clean = la.open_source(f"phantom:{size}", count=1400, seed=1, cache="none")
    taught, _ = la.poison(clean.take(np.arange(1000)), mark, np.random.default_rng(0))
    calibrating = clean.take(np.arange(1000, 1400))
    model, _ = la.train(taught, calibrating, training=la.Training(epochs=4), **TORCH.networks)
    films = la.open_source(f"phantom:{size}", count=1000, seed=2, cache="none").images
    films = np.asarray(films[np.arange(1000)])
    films[500:] = mark.trigger(films[500:], np.random.default_rng(1))
    words = {}
    for machine in (TORCH, ONNX):
        gate = la.calibrate(model, calibrating, false_alarm=0.05, machine=machine)
        words[machine.backend] = np.array([each.verdict for each in gate.screen(films).films])
    ours, theirs = words.values()
    suspicious = (ours == "suspicious").reshape(2, 500).mean(axis=1)
    assert suspicious[0] < 0.1
    assert suspicious[1] > 0.5
    assert (ours != theirs).sum() == 0
