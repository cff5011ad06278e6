"""A gate on disk: what is written is read back to the last bit, and anything else is refused."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file

from described import assert_described
from leadapron.cli import cli
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, calibration, gate_file, judge
from leadapron.detect.inputs.calibration import extend_opened
from leadapron.detect.inputs.comparison import OldGate
from leadapron.detect.inputs.decision import decide_images
from leadapron.detect.inputs.fitting import threshold_rows
from leadapron.detect.inputs.gate import most_alike
from leadapron.detect.inputs.gate_file import GateDocument, numbers_of, read_gate, write_gate
from leadapron.detect.inputs.screening import screening
from leadapron.detect.inputs.shared_marks import SharedMark
from leadapron.detect.inputs.strata import Strata
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs import calibrate as calibrating
from leadapron.jobs.calibrate import calibrate
from leadapron.jobs.screen import open_gate
from leadapron.models.classifier import save_classifier
from leadapron.models.networks import build_network
from leadapron.models.stated import ModelSettings, Opening
from leadapron.reading import read_regular
from leadapron.report import calibrate_lines
from leadapron.sources import open_source
from leadapron.store import sha256_of
from leadapron.types import Machine, Note

SOURCE = "phantom:32"
CPU = Machine(cache="none", device="cpu")
CLEAN = {"count": 80, "seed": 7, "machine": CPU}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from leadapron.films.preprocessing import Preprocessing
    from leadapron.models.classifier import NetworkClassifier

    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    findings = ("Effusion", "Mass", "Nodule")
    network = NetworkClassifier(
        build_network("resnet9", 3, 4).eval(), "resnet9", findings, Preprocessing(size=32)
    )
    save_classifier(network, path)
    return path


def doubtful(*arguments, **options):
    """The films, as if they had come from files of 16 bits."""
    doubt = Note("pixels", "Odd greys.", doubt=True)
    cohort = open_source(*arguments, **options)
    return replace(cohort, notes=(*cohort.notes, doubt), bits=12)


@pytest.fixture(scope="module")
def made(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "open_source", doubtful)
        return calibrate(model, SOURCE, model.with_name("gate.json"), false_alarm=0.06, **CLEAN)


@pytest.fixture
def gate(made, model, tmp_path):
    """A copy of the gate and its model in a folder of its own."""
    for name in ("gate.json", "gate.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(model.with_name(name).read_bytes())
    return tmp_path / "gate.json"


def changed(gate, change):
    """The same gate with other facts, told apart by nothing but what they say."""
    facts = json.loads(gate.read_text())
    change(facts)
    digest = facts.pop("numbers")
    arrays = load_file(numbers_of(gate))
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    save_file(arrays, numbers_of(gate), {"leadapron gate": text})
    digest["sha256"] = sha256_of(numbers_of(gate))
    gate.write_text(json.dumps({**facts, "numbers": digest}))


def test_a_round_trip_judges_alike_to_the_last_bit(made, gate):
    opened = open_gate(gate, machine=CPU)
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32), dtype=np.uint8)
    expected = judge(made.stored.gate, opened.classifier, images)
    found = judge(opened.stored.gate, opened.classifier, images)
    for name in ("scores", "fused", "p", "suspicious", "typical", "scored"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.examined.boxes, expected.examined.boxes)
    assert opened.stored.gate.thresholds == made.stored.gate.thresholds
    assert opened.stored.gate.detectors == dict(made.stored.gate.detectors)
    assert opened.stored.statement == made.stored.statement


def test_it_says_that_it_is_patient_data_and_is_its_owners_alone(made):
    facts = json.loads(made.file.read_text())
    assert re.search(
        r"pixels of \d+ clean films, the names of \d+ and statistics of 80", facts["statement"]
    )
    assert facts["model"]["path"] == "model.safetensors"
    assert_described(GateDocument, facts)
    (clinic,) = facts["clinics"]
    assert clinic["films"]["calibration"] + clinic["films"]["fitted"] == 80
    assert clinic["name"] == SOURCE
    for path in (made.file, numbers_of(made.file)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = "\n".join(calibrate_lines(made.document()))
    assert "at most 6 % of clean films like" in lines
    assert re.search(r"; \d+ films of \d+ patients set the threshold", lines)
    rates = r"\d+\.\d % \(\d+\.\d to \d+\.\d %\)"
    assert re.search(rf"  view PA, \d+ films: suspicious {rates}, can't tell {rates}\n", lines)
    low, high = made.document().clinics[0].likely_rates
    assert 0 < low < 0.06 < high
    assert f"one gate's own rate is {100 * low:.1f} to {100 * high:.1f} % in 95 of 100" in lines


def test_the_films_doubts_are_said_first_and_their_bits_kept(made, gate):
    assert made.document().notes[0] == "DOUBT: Odd greys."
    assert "Note: DOUBT: Odd greys." in calibrate_lines(made.document())
    assert read_gate(gate, INPUT_DETECTORS, TYPICAL).bits == made.stored.bits == 12


def test_marks_that_films_share_are_warned_of_and_kept(made, tmp_path, model):
    mark = SharedMark(
        finding="Mass", direction="added", row=3, column=4, side=9, films=7,
        named=("a.png", "b\n.png"), of=50, p=1e-4,
    )  # fmt: skip
    (clinic,) = made.stored.gate.clinics
    doubted = replace(
        made.stored,
        gate=replace(made.stored.gate, clinics=(replace(clinic, shared=(mark,)),)),
    )
    lines = calibrate_lines(replace(made, stored=doubted).document())
    (line,) = (line for line in lines if line.startswith("WARNING: 7 of 50 films that were given"))
    assert line.endswith("They are a.png, b\n.png and 5 more.")
    write_gate(tmp_path / "gate.json", doubted)
    again = read_gate(tmp_path / "gate.json", INPUT_DETECTORS, TYPICAL)
    (doubt,) = again.doubts
    assert doubt == (
        "7 of 50 films that were given as clean share a mark that adds Mass (row 3, column 4, "
        "9 pixels wide), so the gate lets it pass. If it doesn't belong there, look for it on all "
        "of your films, leave out those that carry it, and calibrate again."
    )
    assert doubt in screening(again, []).notes
    assert again.gate.clinics[0].shared[0].named == ("a.png", "b\\n.png")
    for wrong in (
        {"finding": "Gout"}, {"films": 2}, {"films": 51}, {"named": ()}, {"row": -1},
        {"column": 24}, {"side": 40},
    ):  # fmt: skip
        other = replace(clinic, shared=(replace(mark, **wrong),))
        damaged = replace(doubted, gate=replace(doubted.gate, clinics=(other,)))
        write_gate(tmp_path / "gate.json", damaged)
        with pytest.raises(StoreError, match="a shared mark not as expected"):
            read_gate(tmp_path / "gate.json", INPUT_DETECTORS, TYPICAL)


def test_pictures_are_kept_if_asked_for_and_checked(made, model, tmp_path):
    out = tmp_path / "gate.json"
    clean = {**CLEAN, "false_alarm": 0.06, "pictures": True}
    again = calibrate(model, SOURCE, out, **clean)
    stored = read_gate(out, INPUT_DETECTORS, TYPICAL)
    (clinic,), (before,) = stored.gate.clinics, made.stored.gate.clinics
    assert before.pictures is None
    assert clinic.references == before.references
    assert clinic.pictures.shape == (len(clinic.references), 32, 32)
    for picture in clinic.pictures[:5]:
        np.testing.assert_array_equal(most_alike(stored.gate, 0, picture), picture)
    ids = open_source(SOURCE, preprocessing=Preprocessing(size=32), count=80, seed=7)
    rows = [ids.ids.tolist().index(name) for name in clinic.references]
    np.testing.assert_array_equal(clinic.pictures, ids.images[np.array(rows)])
    held = len(stored.images) - 1 + len(clinic.pictures)
    assert f"the pixels of {held} clean films" in again.document().statement
    assert most_alike(made.stored.gate, 0, clinic.pictures[0]) is None
    wider = extend_opened(
        stored, open_gate(out).classifier,
        open_source(SOURCE, preprocessing=Preprocessing(size=32), count=160, seed=8),
    )  # fmt: skip
    assert [len(each.pictures) > 0 for each in wider.stored.gate.clinics] == [True, True]
    small = replace(clinic, pictures=clinic.pictures[1:])
    write_gate(out, replace(stored, gate=replace(stored.gate, clinics=(small,))))
    with pytest.raises(StoreError, match="pictures not as expected"):
        read_gate(out, INPUT_DETECTORS, TYPICAL)


def test_pictures_that_no_gate_could_hold_are_refused_before_the_work(model, monkeypatch, tmp_path):
    monkeypatch.setattr(calibration, "LARGEST_NUMBERS", 1 << 16)
    with pytest.raises(UsageError, match=r"`pictures` of 80 films of 32x32 pixels take 0 MiB"):
        calibrate(model, SOURCE, tmp_path / "gate.json", pictures=True, **CLEAN)


def test_a_gate_that_is_too_large_to_read_is_not_written(made, tmp_path, monkeypatch):
    monkeypatch.setattr(gate_file, "LARGEST_NUMBERS", 1 << 10)
    with pytest.raises(StoreError, match="leave out pictures"):
        write_gate(tmp_path / "gate.json", made.stored)
    assert not list(tmp_path.iterdir())


def test_another_model_is_refused(gate):
    (gate.parent / "model.safetensors").write_bytes(b"another")
    with pytest.raises(StoreError, match="SHA-256 differs"):
        open_gate(gate)
    (gate.parent / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="`model`"):
        open_gate(gate)


def test_another_precision_is_refused(gate):
    made = json.loads(gate.read_text())["made"]
    other = {"fp32": "bf16", "bf16": "fp32"}[made["precision"]]
    for machine in (CPU, replace(CPU, precision=made["precision"])):
        assert open_gate(gate, machine=machine).classifier.precision == made["precision"]
    with pytest.raises(UsageError, match=rf"{other}: gate.json was calibrated in"):
        open_gate(gate, machine=replace(CPU, precision=other))
    changed(gate, lambda facts: facts["made"].update(precision=other))
    assert open_gate(gate, machine=CPU).classifier.precision == other


def test_a_new_gate_beside_the_old_one(made, gate, model, tmp_path):
    """A film counts for a gate as that gate calls it; the old gate's own films are counted."""
    new = calibrate(
        model, SOURCE, tmp_path / "new.json", against=gate, false_alarm=0.1, count=80, seed=8,
        machine=CPU,
    )  # fmt: skip
    compared = new.document().compared
    assert (compared.old.gate, compared.old.false_alarm, compared.held) == ("gate.json", 0.06, 0)
    (old,), (now,) = compared.old.thresholds, compared.new.thresholds
    assert old.suspicious == made.stored.gate.thresholds[0]
    assert now.suspicious == new.stored.gate.thresholds[0] != old.suspicious
    clinic = new.stored.gate.clinics[0]
    cohort = open_source(SOURCE, count=80, seed=8)
    rows = threshold_rows(cohort)
    reader = open_gate(gate).classifier
    decisions = decide_images(made.stored.gate, reader, cohort.images[rows])
    words = [decision.verdict for decision in decisions]
    everything, *groups = compared.films
    assert everything.films == len(clinic) == len(words)
    assert everything.old.suspicious == words.count("suspicious")
    assert everything.old.cant_tell == words.count("can't tell")
    assert [(each.kind, each.name) for each in groups] == [
        (rates.kind, rates.name) for rates in clinic.group_rates(0.1)
    ]
    for group, rates in zip(groups, clinic.group_rates(0.1), strict=True):
        assert group.films == rates.suspicious.n
        assert group.new.suspicious == round(rates.suspicious.value * group.films)
    lines = "\n".join(calibrate_lines(new.document()))
    assert re.search(r"Beside gate.json \(6 %, now 10 %\)", lines)
    assert f"suspicious above {old.suspicious:.3f} {now.suspicious:.3f}" in re.sub(" +", " ", lines)
    assert re.search(r"view PA, \d+: can't tell +\d+ \(\d+\.\d %\) +\d+ \(", lines)
    again = calibrate(
        model, SOURCE, tmp_path / "again.json", against=gate, false_alarm=0.1, **CLEAN
    ).document()
    assert again.compared.held == again.compared.films[0].films
    assert "films are the old gate's own, so its counts are too low" in "\n".join(
        calibrate_lines(again)
    )


def test_what_can_not_be_compared_is_refused(made, gate, tmp_path):
    with pytest.raises(UsageError, match="against: a widened gate keeps its own; leave it out"):
        calibrate(None, SOURCE, tmp_path / "new.json", extend=gate, against=gate, machine=CPU)
    old = OldGate(name="gate.json", gate=made.stored.gate, classifier=open_gate(gate).classifier)
    with pytest.raises(UsageError, match=r"`against` gate\.json: its model takes images of anoth"):
        old.refuse_other(Preprocessing(size=64))
    assert not (tmp_path / "new.json").exists()


def test_other_versions_are_named(gate):
    stored = read_gate(gate, INPUT_DETECTORS, TYPICAL)
    assert list(stored.made.versions) == ["leadapron", "numpy", "torch"]
    assert stored.made.doubt == ""
    assert screening(stored, []).notes == stored.notes
    changed(gate, lambda facts: facts["made"].update(versions={"torch": "0.4\x1b", "numpy": "1"}))
    stored = read_gate(gate, INPUT_DETECTORS, TYPICAL)
    assert re.fullmatch(
        r"The gate was made with leadapron of an unknown version \(now .*\), torch 0\.4\\x1b "
        r"\(now .*\), numpy 1 \(now .*\): scores may differ; calibrate again\.",
        stored.made.doubt,
    )
    assert stored.made.doubt in screening(stored, []).notes


def test_a_model_that_was_moved_is_found_where_it_is_named(gate, model):
    (gate.parent / "model.safetensors").unlink()
    assert open_gate(gate, model=model, machine=CPU).classifier.findings[1] == "Mass"


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_cut_numbers_are_refused(gate, size):
    content = numbers_of(gate).read_bytes()
    numbers_of(gate).write_bytes(content[:size])
    with pytest.raises(StoreError, match="doesn't belong to"):
        open_gate(gate)
    facts = json.loads(gate.read_text())
    facts["numbers"]["sha256"] = sha256_of(numbers_of(gate))  # as someone would who means it
    gate.write_text(json.dumps(facts))
    with pytest.raises(StoreError, match="safetensors"):
        open_gate(gate)


def test_facts_that_were_edited_are_refused(gate):
    facts = json.loads(gate.read_text())
    facts["clinics"][0]["threshold"] = 1e9
    gate.write_text(json.dumps(facts))
    with pytest.raises(StoreError, match="was changed"):
        open_gate(gate)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["clinics"][0].update(threshold=9.0), "threshold"),
        (lambda f: f["clinics"][0].update(threshold=True), "threshold: .*valid number"),
        (lambda f: f.update(false_alarm=0.001), "false_alarm"),
        (lambda f: f["weights"][0].__setitem__(1, 2.0), "threshold|fuse"),
        (lambda f: f["weights"].append(["more", 1.0]), "scores"),
        (lambda f: f.update(weights=[1]), "gate.json does not describe"),
        (lambda f: f["detectors"].update({"tea leaves": f["detectors"]["evidence region"]}),
         "detector 'tea leaves'"),
        (lambda f: f["detectors"]["evidence region"].update(kind="Leaves"), "Leaves"),
        (lambda f: f["detectors"]["evidence region"]["parameters"].update(side=4), "odd"),
        (lambda f: f["detectors"]["evidence region"]["parameters"].update(side=33), "fit"),
        (lambda f: f["detectors"]["evidence region"]["parameters"].update(leaf=1), "leaf"),
        (lambda f: f.update(typical={"kind": "Typic", "parameters": {}, "code": ""}), "Typic"),
        (lambda f: f["model"].update(findings=["A", "B", "C"]), "findings or preprocessing in "),
        (lambda f: f["model"]["preprocessing"].update(size=1 << 30), "size"),
        (lambda f: f["model"].pop("sha256"), "sha256"),
        (lambda f: f["model"]["opening"].update(device="cpu"), "options of its model: device"),
        (lambda f: f["arrays"].pop("clinic 1/fused"), "names, shapes or types"),
        (lambda f: f.update(schema=2), "another version"),
        (lambda f: f.update(results_version=0), "another version"),
    ],
)  # fmt: skip
def test_facts_that_cannot_be_are_refused_even_if_both_files_agree(gate, change, words):
    changed(gate, change)
    with pytest.raises((StoreError, UsageError), match=words) as raised:
        open_gate(gate, machine=CPU)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("fused", lambda a: a[::-1].copy(), "threshold|fused"),
        ("fused", lambda a: a * np.nan, "finite"),
        ("scores", lambda a: a + np.inf, "scores"),
        ("scores", lambda a: np.concatenate([a[:, :-1], a[::-1, -1:]], 1), "fuse"),
        ("typicality", lambda a: a[:-1], "calibration"),
        ("patients", lambda a: a[:-1], "patients"),
        ("hashes", lambda a: a[1:], "hashes"),
        ("groups", lambda a: a[:, 1:], "groups"),
        ("groups", lambda a: a[1:], "groups"),
        ("references", lambda a: np.full_like(a, 255), "does not describe"),
        ("state/evidence region/hosts", lambda a: a[:, :16, :16].copy(), "doesn't fit"),
        ("state/evidence region/spread", lambda a: a[:-1], "doesn't fit"),
        ("state/evidence region/spread", lambda a: a.astype(np.float16), "float16"),
    ],
)
def test_numbers_that_cannot_be_are_refused(gate, name, change, words):
    arrays = load_file(numbers_of(gate))
    name = f"clinic 1/{name}"
    arrays[name] = change(arrays[name])
    save_file(arrays, numbers_of(gate))

    def restate(facts):
        array = arrays[name]
        facts["arrays"][name] = {"shape": list(array.shape), "dtype": str(array.dtype)}

    changed(gate, restate)
    with pytest.raises(StoreError, match=words):
        open_gate(gate, machine=CPU)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": "leadapron gate", "schema": NaN}', "not JSON"),
        (b"[]", "isn't a gate"),
        (b'{"format": "leadapron gate"}', "another version"),
        (
            b" " * ((1 << 20) + 1),
            "larger than 1 MB; expected a file that leadapron calibrate wrote",
        ),
    ],
)
def test_what_is_no_gate_is_refused(gate, content, words):
    gate.write_bytes(content)
    with pytest.raises(StoreError, match=words):
        read_gate(gate, INPUT_DETECTORS, None)


def test_what_is_hashed_is_what_is_read(gate, monkeypatch):
    read = []

    def once(path, most):
        read.append(path)
        return read_regular(path, most)

    monkeypatch.setattr(gate_file, "read_regular", once)
    read_gate(gate, INPUT_DETECTORS, TYPICAL)
    assert sorted(read) == [gate, numbers_of(gate)]  # nothing can be put in between


def test_a_pipe_is_no_gate(tmp_path):
    os.mkfifo(tmp_path / "gate.json")
    with pytest.raises(StoreError, match="it is a pipe; expected a file"):
        read_gate(tmp_path / "gate.json", INPUT_DETECTORS, None)


def test_both_files_or_none(made, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leadapron.store.os.fsync", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_gate(tmp_path / "gate.json", made.stored)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_overwritten_by_a_gate(model):
    with pytest.raises(UsageError, match="isn't a gate"):
        calibrate(model, SOURCE, model.with_suffix(".json"), **CLEAN)
    with pytest.raises(UsageError, match=r"\.json"):
        calibrate(model, SOURCE, model.with_suffix(".gate"), **CLEAN)


def test_states_that_are_not_numbers_are_not_kept(made, tmp_path):
    state = {"evidence region": {"words": np.array(["a"])}}
    (clinic,) = made.stored.gate.clinics
    gate = replace(made.stored.gate, clinics=(replace(clinic, states=state),))
    stored = replace(made.stored, gate=gate)
    with pytest.raises(StoreError, match="words"):
        write_gate(tmp_path / "gate.json", stored)
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_calibrated_is_said_in_a_line(model, tmp_path):
    out = tmp_path / "gate.json"
    with pytest.raises(DataError, match="or a rate of") as raised:
        calibrate(model, SOURCE, out, false_alarm=0.001, **CLEAN)
    assert "needs 999 of them" in str(raised.value)
    with pytest.raises(UsageError, match="above 0"):
        calibrate(model, SOURCE, out, false_alarm=0.0, **CLEAN)
    assert not out.exists()


def test_films_without_labels(model, tmp_path):
    clean = open_source(SOURCE, count=80, seed=7)
    for number, image in enumerate(clean.images[np.arange(len(clean))]):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    out = tmp_path / "gate.json"
    made = calibrate(model, f"folder:{tmp_path}", out, false_alarm=0.04, machine=CPU)
    assert made.document().films == 80
    assert np.isfinite(made.stored.gate.thresholds[0])
    assert any("No labels" in note for note in made.notes)


def test_by_the_command_line(made, model, tmp_path):
    out = tmp_path / "gate.json"
    words = ["-q", "calibrate", str(model), "--clean", SOURCE, "--source.count", "60",
             "--source.seed", "7", "--cache", "none", "--false-alarm", "0.04", "--device", "cpu",
             "--by-reading", "--out", str(out), "--against", str(made.file),
             "--json"]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None
    facts = json.loads(result.stdout)
    assert (facts["schema"], facts["films"], facts["left_out"]) == (4, 60, {})
    (stratum,) = facts["clinics"][0]["strata"]  # too few films for more
    assert (stratum["name"], stratum["films"]) == (
        "all films",
        facts["clinics"][0]["calibration_films"],
    )
    assert facts["compared"]["old"]["gate"] == "gate.json"
    assert facts["passes"] == 1 + sum(INPUT_DETECTORS[name].passes for name in facts["detectors"])
    assert json.loads(out.read_text())["model"]["path"] == str(model)


# --- thresholds by what the model reads


@pytest.fixture
def by_reading(made, tmp_path):
    """The gate with thresholds by what the model reads, in a folder of its own."""
    (clinic,) = made.stored.gate.clinics
    codes = np.arange(len(clinic)) % 2
    strata = Strata(
        levels=np.ones((2, 3)),
        codes=codes,
        others=np.stack([np.arange(clinic.fitted)] * 2, axis=1) % [100, 2],
    )
    gate = replace(made.stored.gate, clinics=(replace(clinic, strata=strata),), false_alarm=0.1)
    path = tmp_path / "by.json"
    write_gate(path, replace(made.stored, gate=gate))
    return path, gate.clinics[0]


def test_thresholds_by_reading_are_read_back(by_reading):
    path, clinic = by_reading
    gate = read_gate(path, INPUT_DETECTORS, TYPICAL).gate
    facts = gate.clinics[0].stratum_facts(0.1, ("Effusion", "Mass", "Nodule"))
    assert facts == clinic.stratum_facts(0.1, ("Effusion", "Mass", "Nodule"))
    assert [each.name for each in facts] == ["no finding, Mass, Nodule", "Effusion"]
    logits = np.array([[0.0, 0, 0], [9, 0, 0]])
    expected = [each.threshold for each in facts]
    np.testing.assert_array_equal(gate.clinics[0].thresholds(logits, 0.1), expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("levels", lambda a: a[:, :2].copy()),
        ("levels", lambda a: 0 * a),
        ("codes", lambda a: a[1:]),
        ("codes", lambda a: a + 3),
        ("codes", lambda a: a - 1),
        ("others", lambda a: a[:, :1].copy()),
        ("others", lambda a: a[:, 0].copy()),
        ("others", lambda a: a + np.array([0, 3])),
    ],
)
def test_readings_that_cannot_be_are_refused(by_reading, name, change):
    path, _ = by_reading
    arrays, name = load_file(numbers_of(path)), f"clinic 1/strata/{name}"
    arrays[name] = change(arrays[name])
    save_file(arrays, numbers_of(path))
    shape = {"shape": list(arrays[name].shape), "dtype": str(arrays[name].dtype)}
    changed(path, lambda facts: facts["arrays"].update({name: shape}))
    with pytest.raises(StoreError, match="strata not as expected"):
        read_gate(path, INPUT_DETECTORS, TYPICAL)


# --- films of another clinic


@pytest.fixture(scope="module")
def wider(made, model):
    """The gate, widened by brighter phantoms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "open_source", brighter)
        return calibrate(
            None, SOURCE, model.with_name("gate2.json"), extend=made.file, count=160, seed=8,
            machine=CPU,
        )  # fmt: skip


def brighter(*arguments, **options):
    cohort = open_source(*arguments, **options)
    images = cohort.images[np.arange(len(cohort))] // 2 + 100
    return replace(cohort, images=images.astype(np.uint8))


def test_a_widened_gate_is_read_back_and_says_what_it_costs(made, wider):
    facts = wider.document()
    assert [clinic.name for clinic in facts.clinics] == [SOURCE, SOURCE]
    assert (facts.films, facts.cant_tell) == (240, 0.03)
    assert facts.widened.films == 160
    assert facts.widened.cant_tell > 40
    first, second = facts.clinics
    assert first.threshold >= first.alone == made.document().clinics[0].threshold
    lines = "\n".join(calibrate_lines(facts))
    assert re.search(r'before, \d+ of the 160 films of the new clinic got "can\'t tell"', lines)
    assert f"from {first.alone:.3f} to {first.threshold:.3f} and {second.alone:.3f} to" in lines
    opened = open_gate(wider.file, machine=CPU)
    gate = opened.stored.gate
    assert gate.thresholds == (first.threshold, second.threshold)
    for clinic, written in zip(gate.clinics, wider.stored.gate.clinics, strict=True):
        assert clinic.references == written.references
        assert clinic.group_rates(gate.rate) == written.group_rates(gate.rate) != ()
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32), dtype=np.uint8)
    found, expected = (judge(each, opened.classifier, images) for each in (gate, wider.stored.gate))
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_what_a_gate_is_not_widened_by(made, wider, model, tmp_path):
    out, same = tmp_path / "gate.json", {"extend": made.file, "machine": CPU}
    for options, words in (
        ({"false_alarm": 0.1}, "false_alarm: a widened gate keeps its own"),
        ({"opening": Opening(model=ModelSettings(size=64))}, "model.size: the gate keeps"),
        ({"by_reading": True}, "by_reading: a widened gate keeps its own"),
    ):
        with pytest.raises(UsageError, match=words):
            calibrate(None, SOURCE, out, count=60, **options, **same)
    with pytest.raises(DataError, match="holds 80 of these 80 films already"):
        calibrate(None, SOURCE, out, count=80, seed=7, **same)
    with pytest.raises(UsageError, match="no model; expected its file, or `extend` with a gate"):
        calibrate(None, SOURCE, out, machine=CPU)
    classifier = open_gate(made.file, machine=CPU).classifier
    films = open_source(SOURCE, count=60, seed=8)
    for other, words in (
        (replace(films, preprocessing=replace(films.preprocessing, crop=0.9)), "preprocessing"),
        (replace(films, bits=16), "bits in use 16; the gate's films have 12"),
    ):
        with pytest.raises(UsageError, match=words):
            extend_opened(made.stored, classifier, other)
    with pytest.raises(UsageError, match="window 40/400; the gate's films have header"):
        extend_opened(made.stored, classifier, films, window="40/400")
    words = ["-q", "calibrate", "--extend", str(tmp_path / "none.json"), "--clean", SOURCE,
             "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(result.exception, StoreError)
    assert "No such file" in str(result.exception)
    (tmp_path / "other.safetensors").write_bytes(b"another model")
    with pytest.raises(StoreError, match="SHA-256 differs"):
        calibrate(tmp_path / "other.safetensors", SOURCE, out, count=60, **same)
    assert not out.exists()
