"""What `import leadapron as la` offers: on paths, arrays and open objects."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from input_scenes import FINDINGS, backdoored, black_square, cohort, films
from PIL import Image

import leadapron as la
from leadapron.detect.films.description import Description
from leadapron.detect.films.document import ScanDocument
from leadapron.detect.inputs.calibration import CalibrationDocument
from leadapron.detect.inputs.screening import Screening
from leadapron.detect.models.audit import Audit
from leadapron.detect.models.sweep import StampSweep
from leadapron.documents import read
from leadapron.errors import DataError, StoreError, UnknownNameError, UsageError
from loaded import load_package

NAMES = [name for name in la.__all__ if name != "__version__"]
HERE = la.Machine(device="cpu", cache="none")
QUICK = StampSweep(sides=(3,), values=(0,), pitches=((8, 1),), places=8, rounds=1, judged=16)


class Asked:
    """A classifier of somebody's own: no class of the package's."""

    def __init__(self, network):
        self.findings, self.preprocessing, self.head = (
            network.findings, network.preprocessing, network.head,
        )  # fmt: skip
        self.logits, self.probabilities = network.logits, network.probabilities


@pytest.fixture(scope="module")
def network():
    return backdoored()


@pytest.fixture(scope="module")
def poisoned():
    clean = la.open_source("phantom:32", count=240)
    attack = la.Poisoning(
        trigger=la.Patch(side=4, place="corner"), finding="Mass", fraction=0.12, labels="add",
        stage="image",
    )  # fmt: skip
    return la.poison(clean, attack, np.random.default_rng(0))[0]


@pytest.fixture(scope="module")
def gate(network):
    return la.calibrate(network, cohort(seed=1), false_alarm=0.05, machine=HERE)


# --- names


def test_public_names_are_functions_and_classes_whatever_was_imported():
    load_package()
    for name in NAMES:
        public = getattr(importlib.import_module("leadapron"), name)
        assert callable(public), name
        assert not isinstance(public, types.ModuleType), name
    assert set(NAMES) <= set(dir(la))
    with pytest.raises(AttributeError, match="nothing"):
        la.nothing  # noqa: B018


def test_type_checkers_see_the_same_names():
    (block,) = (
        node for node in ast.parse(Path(la.__file__).read_text()).body if isinstance(node, ast.If)
    )
    seen = {
        alias.asname: node.module.removeprefix("leadapron.")
        for node in block.body
        for alias in node.names
    }
    assert set(seen) == set(NAMES)
    for name, module in seen.items():
        there = importlib.import_module(f"leadapron.{module}")
        assert getattr(there, name) is getattr(la, name)


def test_films_are_scanned_without_torch_or_figures():
    code = (
        "import sys, leadapron as la; la.scan, la.describe, la.clean, la.load_rows;"
        "assert not {'torch', 'matplotlib', 'jinja2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# --- films


@pytest.fixture(scope="module")
def scanned(poisoned):
    return la.scan(poisoned, machine=HERE)


def test_a_scan_of_arrays_is_that_of_the_cohort(poisoned, scanned, tmp_path):
    few = poisoned.take(np.arange(30))
    images = few.images[np.arange(30)]
    of_cohort, of_arrays = la.scan(few), la.scan(images, few.labels, findings=few.findings)
    assert of_cohort.scan.p == of_arrays.scan.p
    assert len(of_cohort.scan.evidence) == len(of_arrays.scan.evidence)
    found = scanned
    assert found.verdict.word == "poisoned"
    assert str(found).startswith("POISONED: p ")
    assert "\n" not in str(found)
    assert repr(found) == f"<ScanResult: {found}>"
    assert found._repr_html_().startswith("<p><strong>POISONED: p ")
    document = read(ScanDocument, found.to_json())
    assert document.suspects == found.suspects
    page = found.report(tmp_path)
    assert page == tmp_path / "scan.html"
    assert json.loads((tmp_path / "scan.json").read_text()) == found.facts()
    assert len(found.plot().axes) >= 2


def test_a_source_is_opened_with_its_settings(tmp_path):
    found = la.scan("phantom:32", count=60, machine=HERE)
    assert len(found.cohort) == 60
    assert found.verdict.word in ("nothing found", "label-tied mark", "can't tell")
    with pytest.raises(UsageError, match="there is no evidence of poison to draw"):
        found.plot()
    described = la.describe("phantom:32", count=60, machine=HERE)
    assert str(described).startswith("phantom:32: 60 films of ")
    assert read(Description, described.to_json()).films == 60
    assert described.report(tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    (axes,) = described.plot().axes
    assert len(axes.get_yticklabels()) == 14


def test_a_setting_of_the_source_may_have_the_name_of_an_argument():
    """A scan has a seed of its own."""
    found = la.scan("phantom:32", count=60, source_seed=5, seed=2, machine=HERE)
    assert found.cohort.fingerprint == la.open_source("phantom:32", count=60, seed=5).fingerprint
    with pytest.raises(UnknownNameError, match="setting of source 'beed'"):
        la.scan("phantom:32", source_beed=5, machine=HERE)


def test_a_path_needs_no_source_name(tmp_path):
    for number, image in enumerate(films(3)):
        folder = tmp_path / "films" / ("NORMAL" if number else "SICK")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    assert la.describe(tmp_path / "films", size=32, machine=HERE).films == 3
    with pytest.raises(UsageError, match=r"none: expected a table .* or a folder of films"):
        la.describe(tmp_path / "none")


def test_images_without_labels_are_described():
    images = films(20)
    found = la.describe(images)
    assert (found.films, found.patients, found.findings) == (20, 20, ())
    assert "Patients aren't named: each film counts as a separate patient." in found.notes
    one = la.describe(images, np.arange(20) % 2)
    assert [(each.name, each.positives) for each in one.findings] == [("finding 1", 10)]


def test_what_a_scan_suspects_is_left_out(poisoned, scanned, tmp_path):
    np.savez(
        tmp_path / "films.npz",
        images=poisoned.images[np.arange(len(poisoned))],
        labels=poisoned.labels,
        findings=np.asarray(poisoned.findings),
        ids=poisoned.ids,
    )
    source = tmp_path / "films.npz"
    done = la.clean(source, scanned, tmp_path / "left", machine=HERE)
    assert done.dropped == len(scanned.suspects) > 0
    assert str(done).startswith(f"{done.dropped} films dropped, {done.kept} kept")
    assert json.loads(done.to_json())["kept"] == done.kept
    again = la.clean(source, poisoned.ids[:2].tolist(), tmp_path / "two", machine=HERE)
    assert again.dropped == 2


# --- models


@pytest.mark.parametrize("kind", ["network", "asked", "opened", "file"])
def test_any_classifier_is_audited(network, kind, tmp_path):
    model = network
    if kind == "asked":
        model = Asked(network)
    elif kind != "network":
        la.save_classifier(small(), tmp_path / "model.safetensors")
        model = tmp_path / "model.safetensors"
        model = la.open_model(model) if kind == "opened" else model
    found = la.audit(
        model, films(40), sweep=QUICK, steps=0, statistics=False, machine=HERE
    )  # fmt: skip
    assert found.references == 0
    assert found.verdict.word in ("unusual", "can't tell")
    assert "\n" not in str(found)
    assert read(Audit, found.to_json()).films == 40
    assert len(found.plot().axes) == 1
    if kind == "asked":
        assert found.report(tmp_path / "page").name == "audit.html"
        assert found.model == "Asked"


def test_references_are_models_too(network):
    labels = np.arange(120).reshape(40, 3) % 2
    found = la.audit(
        network, films(40), labels=labels, reference=[backdoored(0.0), backdoored(0.1)],
        sweep=QUICK, steps=0, statistics=False, machine=HERE,
    )  # fmt: skip
    assert found.references == 2
    assert found.target == "Mass"


def test_a_gate_in_memory_screens_arrays(gate, network, tmp_path):
    assert str(gate).startswith("Calibrated on 240 films; ")
    assert read(CalibrationDocument, gate.to_json()).gate == ""
    plain = films(30, seed=2)
    found = gate.screen(np.concatenate([plain, black_square(plain[:5])]))
    # At 32 pixels a 3x3 square makes some films unlike the calibration films; none passes.
    assert {film.verdict for film in found.films[30:]} == {"suspicious", "can't tell"}
    assert all(film.p < 0.02 for film in found.films[30:])
    assert found.verdict.word == "suspicious"
    assert str(found).startswith("SUSPICIOUS: ")
    assert len(read(Screening, found.to_json()).films) == 35
    assert found.report(tmp_path / "page").name == "screen.html"
    assert len(list((tmp_path / "page").glob("*.png"))) == 35
    assert found.plot().axes
    assert "<pre>" in found._repr_html_()
    same = la.screen(gate.gate, la.Cohort.of(plain, preprocessing=network.preprocessing))
    assert [film.verdict for film in same.films] == [film.verdict for film in found.films[:30]]


def test_a_gate_in_memory_is_widened(network, tmp_path):
    gate = la.calibrate(network, cohort(100, each=1), false_alarm=0.1)
    new = cohort(100, seed=1, each=1)
    new = replace(new, images=new.images // 3 + 150)
    found = la.extend_gate(gate, new).screen(new.images[:8])
    assert {film.clinic for film in found.films} == {2}
    assert found.films[0].nearest[0] in new.ids
    assert "Judged by clinic 2" in found.report(tmp_path / "page").read_text()
    with pytest.raises(DataError, match="holds 100 of these 100 films already"):
        gate.extend(cohort(100, each=1))
    with pytest.raises(UsageError, match="model: the gate is open"):
        la.extend_gate(gate, new, model="model.safetensors")


def test_a_gate_in_memory_screens_files(gate, tmp_path):
    Image.fromarray(films(1, seed=3)[0]).save(tmp_path / "a.png")
    (film,) = la.screen(gate, tmp_path / "a.png").films
    assert film.file.endswith("a.png")
    assert film.p is not None
    (missing,) = la.screen(gate, [tmp_path / "none.png"]).films
    assert missing.bad == "missing"
    with pytest.raises(UsageError, match="no film to draw"):
        la.screen(gate, [tmp_path / "none.png"]).plot()


def test_a_gate_of_a_file_is_written_and_opened(tmp_path):
    path = tmp_path / "model.safetensors"
    la.save_classifier(small(), path)
    made = la.calibrate(path, cohort(seed=1), tmp_path / "gate.json", machine=HERE)
    assert made.file == tmp_path / "gate.json"
    plain = films(8, seed=2)
    once, again, opened = (
        la.screen(each, plain, machine=HERE)
        for each in (made, tmp_path / "gate.json", la.open_gate(tmp_path / "gate.json"))
    )
    assert [f.p for f in once.films] == [f.p for f in again.films] == [f.p for f in opened.films]
    loaded = la.Gate.load(tmp_path / "gate.json", machine=HERE)
    assert [loaded.screen(film).p for film in plain] == pytest.approx([f.p for f in once.films])
    with pytest.raises(StoreError, match="no model"):
        la.Gate.load(tmp_path / "gate.json", model=tmp_path / "gone.safetensors")


def test_threads_share_a_gate(gate, tmp_path):
    shared = la.Gate(gate.gate)
    marked = black_square(films(6, seed=3))
    Image.fromarray(marked[0]).save(tmp_path / "a.png")
    alone = [shared.screen(film) for film in marked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(shared.screen, [*marked, tmp_path / "a.png"]))
    assert [film.score for film in alone] == [film.score for film in together[:6]]
    assert together[6].score == alone[0].score
    assert together[6].file.endswith("a.png")
    assert shared.screen(tmp_path / "none.png").bad == "missing"
    for wrong in (marked, marked[0][:20], marked[0].astype(float)):
        with pytest.raises(UsageError, match=r"the model takes \(32, 32\), uint8"):
            shared.screen(wrong)


def test_a_gate_without_a_model_file_is_not_written(gate, network, tmp_path):
    with pytest.raises(UsageError, match="this model has no file"):
        gate.save(tmp_path / "gate.json")
    assert not list(tmp_path.iterdir())


def test_maps_of_all_findings(network):
    marked = black_square(films(3), row=4, column=20)
    found = la.explain(network, marked, ["Mass"], method="grad-cam")
    assert found.maps.shape == (3, 1, 32, 32)
    assert (np.abs(found.peaks[:, 0] - (5, 21)) <= 2).all()
    assert str(found) == "grad-cam: maps of 3 films for Mass, 32x32 pixels"
    assert json.loads(found.to_json())["findings"] == ["Mass"]
    assert len(found.plot().axes) == 3
    assert la.explain(network, marked).findings == FINDINGS


# --- studies


def test_rows_come_with_the_settings_of_their_run(tmp_path, monkeypatch):
    out = tmp_path / "study"
    done = la.run_study(
        {
            "source": {"name": "phantom", "count": 60}, "size": 32, "epochs": 1,
            "trigger": {"name": "patch", "side": 4, "place": "corner"},
            "poisoning": {"finding": "Effusion", "fraction": 0.2, "stage": "image"},
            "evaluation": {"resamples": 20, "explained": 4},
        },
        out,
        machine=HERE,
    )  # fmt: skip
    assert done.folder == out
    assert "\n" not in str(done)
    assert done.report() == out / "report.html"
    assert done.plot().axes
    assert json.loads(done.to_json())["folder"] == "study"
    monkeypatch.setitem(sys.modules, "pandas", None)
    rows = la.load_rows(out)
    assert rows == done.rows
    (fraction,) = {row["poisoning.fraction"] for row in rows if row["role"] == "backdoored"}
    assert fraction == 0.2
    assert {row["metric"] for row in rows} >= {"auroc", "attack success"}
    frames = types.SimpleNamespace(DataFrame=lambda table: ("a frame", table))
    monkeypatch.setitem(sys.modules, "pandas", frames)
    assert la.load_rows(out) == ("a frame", rows)
    with pytest.raises(StoreError, match="holds no finished run"):
        la.load_rows(tmp_path)


# --- errors


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: la.scan(films(12), false_alarm=1), "`false_alarm` 1: expected above 0 and below"),
        (lambda: la.scan("phantom:32", count="x"), "`source.count` x: "),
        (lambda: la.scan(films(12), count=3), "count: .*these films are in memory"),
        (lambda: la.scan("phantom:32", np.zeros(3)), "labels: a source has its own"),
        (lambda: la.scan(cohort(12), np.zeros((12, 3))), "labels, findings: a cohort has its own"),
        (lambda: la.scan("phantom:32", count=20, train=True, model="a"), "`model` and `train`"),
        (lambda: la.audit(7, films(12)), "model is a int; expected a file, or a classifier"),
        (lambda: la.calibrate(backdoored(), films(12), false_alarm=0), "`false_alarm` 0: "),
        (lambda: la.audit(backdoored(), films(30), false_alarm=2), "`false_alarm` 2: "),
        (
            lambda: la.audit(backdoored(), cohort(30), labels=np.zeros((30, 3))),
            "labels: a source and a cohort have their own",
        ),
    ],
)
def test_errors_speak_of_arguments(call, said):
    with pytest.raises(UsageError, match=said) as raised:
        call()
    assert "--" not in str(raised.value)


def test_other_images_are_refused(gate):
    with pytest.raises(UsageError, match="images of 64x64 uint8; the model takes 32x32 uint8"):
        la.screen(gate, np.zeros((1, 64, 64), np.uint8))
    with pytest.raises(UsageError, match="model: the gate is open"):
        la.screen(gate, films(1), model="model.safetensors")
    for wrong in (np.zeros((3, 4)), np.zeros((2, 8, 8)), np.zeros((2, 8, 8, 1), np.uint8)):
        with pytest.raises(DataError):
            la.describe(wrong)
    with pytest.raises(DataError, match="labels aren't numbers"):
        la.describe(films(2), [["a"], ["b"]])
    with pytest.raises(UnknownNameError, match="unknown method 'gradcam'; did you mean grad-cam"):
        la.explain(backdoored(), films(1), method="gradcam")


def small():
    """A network that the package can save."""
    from leadapron.models.classifier import NetworkClassifier
    from leadapron.models.networks import build_network

    return NetworkClassifier(
        build_network("resnet9", 3, 4).eval(), "resnet9", FINDINGS, la.Preprocessing(size=32)
    )
