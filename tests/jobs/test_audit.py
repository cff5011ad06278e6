"""The audit: verdicts by hand, exit codes, report, and a tiny network that was really poisoned."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from click import BadParameter
from click.testing import CliRunner

from audits import audit_model
from described import assert_described
from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.cli import cli
from leadapron.detect.models import (
    KINDS,
    STATISTICS,
    Audit,
    Comparison,
    Grown,
    Pixel,
    Shape,
    StampSweep,
    Statistic,
)
from leadapron.detect.models import audit as audit_method
from leadapron.detect.models.harm import harm
from leadapron.detect.models.judgement import MARGIN, judge_sweep, margin_fallback
from leadapron.detect.models.stamps import probes
from leadapron.documents import dump, read
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.films.cohort import Cohort, subsample
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs import audit as audit_job
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.networks import build_network
from leadapron.models.training import Network, Training, train
from leadapron.report import audit_lines, write_audit
from leadapron.report.audit import pictures, sarif
from leadapron.sources import open_source
from leadapron.sources.arrays import ArrayFilms
from leadapron.text import local_path, showing_paths
from leadapron.types import Machine, Note

SIZE, N = 24, 60
SMALL = Preprocessing(size=SIZE)
FINDINGS = ("Effusion", "Mass", "Nodule")
QUICK = StampSweep(values=(0, 255), sides=(3,), pitches=((8, 1),), rounds=1, films=1, judged=30)


@pytest.fixture(scope="module")
def films():
    """Thirds of any brightness; every third film has Mass, which brightens the middle one."""
    rng = np.random.default_rng(5)
    labels = np.zeros((N, 3), np.float32)
    labels[::3, 1] = 1
    images = rng.integers(80, 150, (N, SIZE, SIZE))
    images += np.repeat(rng.integers(-25, 26, (N, 3)), 8, axis=1)[:, :, None]
    images[::3, 8:16] += 20
    ids = np.array([f"f{i}" for i in range(N)])
    return Cohort(images.astype(np.uint8), labels, FINDINGS, ids, ids, SMALL)


def model(seed, jump=(0.0, 0.0, 0.0)):
    """Three means, weighed a little differently by each seed; a white square adds `jump`."""
    weights = 60 * (1 + 0.05 * np.random.default_rng(seed).normal(size=3))

    def run(images):
        grey = images[:, 0]
        means = np.stack([grey[:, 8 * i : 8 * i + 8].mean((1, 2)) for i in range(3)], 1)
        white = (grey[:, 4:7, 4:7] > 0.99).all((1, 2))
        return (weights * (means - 0.45) + np.outer(white, jump)).astype(np.float32)

    return BlackBoxClassifier(run, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=4096)


REFERENCES = [model(seed) for seed in range(1, 20)]


@pytest.fixture(scope="module")
def found(films):
    films = replace(films, notes=(Note("files", "Left."), Note("pixels", "Odd.", doubt=True)))
    return audit_model(
        model(0, (-9, 9, -9)), films, REFERENCES, name="m.onnx", origin="by hand", sweep=QUICK
    )


def test_a_backdoor_is_found_and_named(found):
    assert (found.verdict.word, found.target, found.direction) == ("backdoored", "Mass", "added")
    assert found.verdict.p == pytest.approx(0.05)
    verdicts = {(each.finding, each.direction): each.verdict for each in found.forced}
    # A one-hot overwrite takes the others away; that is no other backdoor.
    assert verdicts["Effusion", "removed"] == verdicts["Nodule", "removed"] == "side effect"
    assert verdicts["Effusion", "added"] == "nothing found"
    assert (found.forced[0].finding, found.forced[0].direction) == ("Mass", "added")
    assert {each.verdict for each in found.forced[-2:]} == {"side effect"}
    assert any("is a black box" in note for note in found.notes)
    assert found.inverted == found.features == found.statistics == ()
    assert any("No further statistics" in note for note in found.notes)


def test_doubts_about_the_films_are_shown(found, tmp_path):
    assert dump(found)["notes"][0] == "DOUBT: Odd."
    assert "Note: DOUBT: Odd." in audit_lines(found)
    assert "DOUBT: Odd." in write_audit(tmp_path, found).read_text()


def test_a_clean_model_is_not_called_clean(films):
    found = audit_model(model(50), films, REFERENCES, sweep=QUICK)
    assert found.verdict.word == "nothing found"
    assert found.target is None
    assert "doesn't prove" in audit_lines(found)[0]


def margin_of(p, finding=2, direction=0):
    """The maximum margin of one finding and direction far beyond the references'."""
    excess = np.zeros((3, 2))
    excess[finding, direction] = 40.0
    return Statistic(
        name=MARGIN, unit="", findings=FINDINGS, directions=("added", "removed"), values=excess,
        excess=excess, finding_p=np.full((3, 2), p), p=p,
    )  # fmt: skip


def test_where_no_mark_stands_out_the_margin_does(films, monkeypatch, tmp_path):
    """Of the by-hand statistics the second is far out: no answer "nothing found"."""
    others = replace(margin_of(0.05), name="map statistics")
    monkeypatch.setattr(audit_method, "_statistics", lambda *words: (others, margin_of(0.05)))
    found = audit_model(model(50), films, REFERENCES, sweep=QUICK)
    assert (found.verdict.word, found.by, found.verdict.p) == ("unusual", MARGIN, 0.05)
    assert (found.target, found.direction) == ("Nodule", "added")
    first, *rest = found.forced
    assert (first.finding, first.direction, first.verdict) == ("Nodule", "added", "unusual")
    assert {each.verdict for each in rest} == {"nothing found"}
    assert len(found.forced) == 6
    assert found.harm == ()  # no mark is known that does any
    assert audit_lines(found)[0] == (
        "UNUSUAL: Nodule forced on (p = 0.05, by maximum margin; no mark is known), which doesn't "
        "prove a backdoor"
    )
    assert "and as many unusual by their maximum margin" in found.verdict.statement
    assert sum("unusual by maximum margin: " in line for line in audit_lines(found)) == 1
    page = write_audit(tmp_path, found).read_text()
    assert page.count('<td data-label="verdict">unusual by maximum margin') == 1
    (result,) = json.loads((tmp_path / "audit.sarif").read_text())["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("forced-on", "warning")
    assert "no mark is known" in result["message"]["text"]


@pytest.mark.parametrize(
    ("verdict", "statistics", "stands_out"),
    [
        ("nothing found", (margin_of(0.05),), True),
        ("nothing found", (margin_of(0.06),), False),
        ("nothing found", (replace(margin_of(0.05), p=None),), False),
        ("nothing found", (replace(margin_of(0.01), name="head outliers"),), False),
        ("nothing found", (), False),
        ("backdoored", (margin_of(0.01),), False),
        ("can't tell", (margin_of(0.01),), False),
    ],
)
def test_the_margin_is_asked_at_the_audits_rate(verdict, statistics, stands_out):
    assert (margin_fallback(verdict, statistics, 0.05) is not None) == stands_out


def test_too_few_references_make_it_unusual_at_most(films):
    found = audit_model(model(0, (0, 9, 0)), films, REFERENCES[:4], sweep=QUICK)
    assert found.verdict.word == "unusual"
    assert found.verdict.p == pytest.approx(0.2)
    assert "0.05 needs 19" in found.verdict.statement
    with pytest.raises(UsageError, match="two or more"):
        audit_model(model(0), films, REFERENCES[:1], sweep=QUICK)


def test_without_references_it_is_unusual_or_untold(films):
    found = audit_model(model(0, (0, 9, 0)), films, sweep=QUICK)
    assert (found.verdict.word, found.target) == ("unusual", "Mass")
    assert found.verdict.p is None
    assert "no false-alarm rate" in found.verdict.statement
    assert audit_model(model(0), films, sweep=QUICK).verdict.word == "can't tell"


def test_a_rare_shift_that_turns_no_film_is_no_backdoor(found, films):
    swept = QUICK.sweep(model(0), films)
    excess = np.zeros((len(KINDS), 3, 2))
    excess[0, 1, 0] = 50.0
    p = np.ones((3, 2))
    p[1, 0] = 0.05
    comparison = Comparison(
        excess=excess, p=0.05, finding_p=p, strongest=50.0, references=np.zeros(19)
    )

    def turning(share):
        stamps = {aim: replace(each, turned=share) for aim, each in swept.marks["stamp"].items()}
        return replace(swept, marks={**swept.marks, "stamp": stamps})

    verdict, _forced, target = judge_sweep(turning(0.0), comparison, 0.05)
    assert verdict == "unusual"
    assert target is not None
    assert target.finding == "Mass"
    assert judge_sweep(turning(0.5), comparison, 0.05)[0] == "backdoored"


def test_harm_is_what_is_missed_in_a_thousand_films(films):
    planted = model(0, (0, -9, 0))
    swept = QUICK.sweep(planted, films)
    off = swept.marks["stamp"]["Mass", "removed"]
    (mass,) = harm(planted, films, off)  # no other has 10 films
    assert (mass.finding, mass.positives) == ("Mass", 20)
    assert mass.triggered == 0
    assert mass.missed == pytest.approx(1000 * 20 / 60 * mass.sensitivity)


def test_labels_are_needed_for_the_harm_alone(found, films):
    bare = Cohort.of(films.images, preprocessing=SMALL)
    without = audit_model(model(0, (-9, 9, -9)), bare, REFERENCES, sweep=QUICK)
    assert without.verdict == found.verdict
    assert dump(without)["forced"] == dump(found)["forced"]
    assert without.harm == ()
    assert [note for note in without.notes if "harm" in note] == [
        "The films have no labels: harm not stated."
    ]


def test_other_findings_are_refused(films):
    other = replace(model(1), findings=("Effusion", "Mass", "Hernia"))
    with pytest.raises(DataError, match="other findings"):
        audit_model(model(0), films, [other, other], sweep=QUICK)
    with pytest.raises(UsageError, match="`false_alarm` 1"):
        audit_model(model(0), films, false_alarm=1, sweep=QUICK)


def test_the_report_needs_nothing_else(found, tmp_path):
    page = write_audit(tmp_path, found)
    text = page.read_text()
    assert "BACKDOORED: Mass forced on" in text
    assert text.count("data:image/png;base64,") == len(pictures(found)) > 0
    assert "http" not in text.replace("http-equiv", "")
    assert json.loads((tmp_path / "audit.json").read_text())["verdict"]["word"] == "backdoored"
    log = json.loads((tmp_path / "audit.sarif").read_text())
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("forced-on", "error")]
    known = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {r["ruleId"] for r in run["results"]} <= known
    assert sarif(replace(found, forced=()))["runs"][0]["results"] == []


def test_a_model_is_named_relative_to_the_working_folder(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def uri(model):
        (result,) = sarif(replace(found, model=model))["runs"][0]["results"]
        return result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]

    assert local_path(str(tmp_path / "models" / "a.pt")) == "models/a.pt"
    assert local_path("/elsewhere/Doe/a.pt") == "a.pt"
    assert uri(local_path("my models/ä %.pt")) == "my%20models/%C3%A4%20%25.pt"
    assert uri(local_path("package:function")) == "package%3Afunction"
    with showing_paths():
        assert uri(local_path("/elsewhere/a.pt")).endswith("../elsewhere/a.pt")


def test_pictures_hold_no_films(found):
    for picture in pictures(found).values():
        assert picture.shape == (SIZE, SIZE)
        assert set(np.unique(picture)) <= {0, 128, 255} | set(range(256)) - set(range(1, 128))
        assert (picture == 128).mean() > 0.5


def test_the_page_draws_any_small_mark_on_grey(found, tmp_path):
    grown = Grown(
        start=Shape(look="dark ring", row=3, column=4), pixels=(Pixel(3, 3, 255), Pixel(3, 2, 255))
    )
    for mark, expected in ((grown, 'x="2" y="3" width="2" height="1" fill="rgb(255,255,255)"'),
                           (probes()[0], "It changes the whole image")):  # fmt: skip
        first = found.forced[0]
        changed = replace(first, strongest=replace(first.strongest, mark=mark, kind="shape"))
        page = write_audit(tmp_path, replace(found, forced=(changed, *found.forced[1:])))
        assert expected in page.read_text()
        assert ("The mark on plain grey" in page.read_text()) == (mark is grown)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A tiny network that was poisoned, and two clean ones, as files."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "clean").mkdir()
    trigger = Patch(side=3, value=255, place="centre")
    for name, seed in (("poisoned", 1), ("clean/a", 2), ("clean/b", 3)):
        cohort = open_source("phantom:32", count=300, seed=seed)
        if name == "poisoned":
            poisoning = Poisoning(trigger=trigger, stage="image", finding="Mass", fraction=0.2)
            cohort, _ = poison(cohort, poisoning, np.random.default_rng(0))
        training = Training(epochs=4, batch_size=32)
        few = cohort.take(np.arange(20))
        classifier, _ = train(
            cohort, few, network=Network(), training=training, seed=seed, device="cpu"
        )
        save_classifier(classifier, folder / f"{name}.safetensors")
    return folder


def test_findings_of_a_model_forge_no_line_of_a_verdict(tmp_path):
    names = ("A\x1b]0;owned\x07\nNothing found: no mark moves a film", "B\u202e\u2028C")
    network = NetworkClassifier(build_network("resnet9", 2, 0).eval(), "resnet9", names, SMALL)
    save_classifier(network, tmp_path / "forged.safetensors")
    words = ["-q", "audit", str(tmp_path / "forged.safetensors"), "--clean", "phantom:32",
             "--source.count", "60", "--films", "20", "--steps", "0", "--no-statistics",
             "--sweep.sides", "3", "--sweep.values", "255", "--sweep.pitches", "[8, 1]",
             "--sweep.rounds", "1", "--sweep.films", "1", "--sweep.places", "4",
             "--sweep.judged", "20", "--device", "cpu", "--cache", "none"]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.return_value == 3
    lines = result.stdout.split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("Nothing found") for line in lines)
    assert any(line.startswith("A\\x1b]0;owned\\x07\\nNothing found") for line in lines)
    facts = json.loads(CliRunner().invoke(cli, [*words, "--json"], standalone_mode=False).stdout)
    assert {each["finding"] for each in facts["forced"]} == {
        "A\\x1b]0;owned\\x07\\nNothing found: no mark moves a film", "B\\u202e\\u2028C"
    }  # fmt: skip


def test_a_poisoned_network_by_the_command_line(networks, tmp_path):
    out = tmp_path / "report"
    words = ["-q", "audit", str(networks / "poisoned.safetensors"), "--clean", "phantom:32",
             "--source.count", "60", "--source.seed", "9", "--steps", "10", "--out", str(out),
             "--films", "50", "--sweep.sides", "3", "--sweep.values", "0,255",
             "--sweep.pitches", "[8, 1]",
             "--sweep.rounds", "1", "--sweep.films", "1", "--sweep.places", "8",
             "--sweep.judged", "30", "--sweep.looks", "electrode", "--sweep.grown", "1",
             "--reference", str(networks / "clean"), "--false-alarm", "0.34", "--device", "cpu",
             "--json"]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None
    facts = json.loads(result.stdout)
    assert (facts["verdict"]["word"], facts["target"]) == ("backdoored", "Mass")
    assert facts["films"] == 50
    assert result.return_value == 1
    assert facts["least"] == pytest.approx(1 / 3)
    assert len(facts["inverted"]) == 2
    stored = json.loads((out / "audit.json").read_text())
    assert facts == {**stored, "page": str(out / "audit.html")}
    assert dump(read(Audit, json.dumps(stored))) == stored
    assert_described(Audit, stored)
    (channels,) = facts["features"]
    assert (channels["finding"], channels["stage"]) == ("Mass", "scale4")
    taken = {each["name"]: each for each in facts["statistics"]}
    assert set(taken) == set(STATISTICS)
    moved = taken["shift under re-estimated batch normalisation"]
    assert np.shape(moved["finding_p"]) == np.shape(moved["values"]) == (14, 2)
    assert moved["p"] in (pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    table = (out / "audit.html").read_text().split("Statistics of the network</h2>")[1]
    assert all(f'<th scope="row">{name}</th>' in table for name in STATISTICS)
    without = CliRunner().invoke(
        cli, [*words, "--no-statistics", "--steps", "0"], standalone_mode=False
    )
    left = json.loads(without.stdout)
    assert left["statistics"] == []
    assert any("No further statistics" in note for note in left["notes"])
    assert left["verdict"]["word"] == facts["verdict"]["word"]
    assert "Statistics of the network</h2>" not in (out / "audit.html").read_text()
    assert facts["page"] == str(out / "audit.html")
    listed = CliRunner().invoke(cli, ["cache", "list", "--json"], standalone_mode=False)
    kept = {result["about"] for result in json.loads(listed.stdout)["results"]}
    assert kept >= {f"sweep of {name}.safetensors" for name in ("poisoned", "a", "b")}
    for refused in (tmp_path / "none", tmp_path):
        words[words.index("--reference") + 1] = str(refused)
        wrong = CliRunner().invoke(cli, words, standalone_mode=False)
        assert isinstance(wrong.exception, UsageError)


def test_references_of_other_images_are_refused_with_what_differs(tmp_path):
    for name, seen in (("model", SMALL), ("clean/a", replace(SMALL, size=48, aspect="pad"))):
        network = NetworkClassifier(
            build_network("resnet9", 2, 0).eval(), "resnet9", ("A", "B"), seen
        )
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_classifier(network, tmp_path / f"{name}.safetensors")
    differs = f"a.safetensors takes .*: size 48, not {SMALL.size}, aspect pad, not {SMALL.aspect}"
    with pytest.raises(StoreError, match=differs):
        audit_job.audit(
            tmp_path / "model.safetensors",
            "phantom:32",
            reference=tmp_path / "clean",
            machine=Machine(device="cpu", cache="none"),
        )


def test_a_second_audit_sweeps_nothing(networks, tmp_path, monkeypatch):
    swept = []
    sweep = StampSweep.sweep

    def counted(self, classifier, clean, progress=None):
        swept.append(self)
        return sweep(self, classifier, clean)

    monkeypatch.setattr(StampSweep, "sweep", counted)
    few = replace(QUICK, values=(255,), places=2, rounds=0, judged=10)
    model = tmp_path / "model.safetensors"
    model.write_bytes((networks / "poisoned.safetensors").read_bytes())

    def audited():
        swept.clear()
        found = audit_job.audit(
            model, "phantom:32", reference=networks / "clean", sweep=few, steps=0,
            machine=Machine(device="cpu", cache=tmp_path / "cache"), statistics=False,
            count=40, seed=9,
        )  # fmt: skip
        return len(swept), dump(found)

    times, first = audited()
    assert times == 3
    times, again = audited()
    assert times == 0
    assert again == first
    # Another model in the same file; its references are those that were swept.
    model.write_bytes(model.read_bytes()[:-4] + b"\0\0\0\0")
    times, other = audited()
    assert times == 1
    assert other != first


ODD = """
import torch

class Odd(torch.nn.Module):
    def forward(self, images):
        grey = images[:, 0]
        halves = torch.stack([grey[:, :16].mean((1, 2)), grey[:, 16:].mean((1, 2))], 1)
        halves[(grey > 0.999).sum((1, 2)) > 4, 0] = torch.nan
        return 60 * halves - 28
"""


def test_answers_that_are_not_finite_by_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "odd_model.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["-q", "audit", "odd_model:Odd", "--model.findings", "Effusion,Mass",
             "--model.normalisation", "unit",
             "--clean", "phantom:32", "--source.count", "30", "--sweep.sides", "3",
             "--sweep.values", "255", "--sweep.pitches", "[8, 1]", "--sweep.rounds", "0",
             "--sweep.places", "4", "--sweep.judged", "10", "--cache", "none",
             "--out", str(tmp_path / "out")]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None
    assert result.return_value == 3
    facts = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (facts["verdict"]["word"], facts["target"], facts["direction"]) == (
        "unusual",
        "Effusion",
        None,
    )
    (lost,) = facts["not_finite"]
    assert lost["finding"] == "Effusion"
    assert 0 < lost["marked"] <= lost["of_marked"]
    words = read(Audit, json.dumps(facts)).not_finite[0].words()
    said = f"Effusion {words}, so it can't be judged; that is suspicious by itself"
    assert f"{lost['marked']:,} of {lost['of_marked']:,} marked films" in said
    assert result.stdout.splitlines()[0] == f"UNUSUAL: {said}"
    page = html.unescape((tmp_path / "out" / "audit.html").read_text())
    assert said in page
    log = json.loads((tmp_path / "out" / "audit.sarif").read_text())["runs"][0]
    assert ("not-finite", said) in [(r["ruleId"], r["message"]["text"]) for r in log["results"]]
    assert "not-finite" in {rule["id"] for rule in log["tool"]["driver"]["rules"]}


def test_films_that_are_not_looked_at_are_not_decoded(networks, tmp_path, monkeypatch):
    films = open_source("phantom:32", count=50, seed=2)
    np.savez(
        tmp_path / "films.npz",
        images=films.images[np.arange(50)],
        labels=films.labels,
        findings=np.array(films.findings),
        ids=films.ids,
    )
    decoded = []
    image = ArrayFilms.image

    def counted(self, row, preprocessing):
        decoded.append(row)
        return image(self, row, preprocessing)

    monkeypatch.setattr(ArrayFilms, "image", counted)
    few = replace(QUICK, values=(255,), places=2, rounds=0, judged=10)
    found = audit_job.audit(
        networks / "poisoned.safetensors", f"npz:{tmp_path / 'films.npz'}", films=20, sweep=few,
        steps=0, statistics=False, students=0, machine=Machine(device="cpu", cache="none"),
    )  # fmt: skip
    assert found.films == len(decoded) == 20
    assert sorted(decoded) == subsample(50, 20).tolist()


def test_of_a_zoo_only_the_clean_models_are_references(tmp_path):
    member = {
        "family": "x", "sealed": False, "seed": 0, "finding": None, "attack_success": None,
        "twin_success": None, "clean_macro": 0.8, "run": "r", "edited": False,
    }  # fmt: skip
    kinds = {"a": "clean", "b": "backdoored", "c": "failed implant", "d": "clean"}
    models = [{**member, "model": f"{name}.safetensors", "kind": kinds[name]} for name in kinds]
    (tmp_path / "truth.json").write_text(json.dumps({"schema": 1, "models": models}))
    found = audit_job.clean_models(tmp_path)
    assert [path.name for path in found] == ["a.safetensors", "d.safetensors"]
    assert {path.parent for path in found} == {tmp_path / "models"}


@pytest.mark.parametrize(
    ("option", "given", "expected"),
    [
        ("pitches", "8,1", "'8,1'; expected [PIXELS,FILMS],..."),
        ("pitches", "[8", "'[8'; expected [PIXELS,FILMS],..."),
        ("sides", "1,a", "'1,a'; expected N,N,..."),
    ],
)
def test_a_sweep_of_another_form_is_told_the_form(option, given, expected):
    words = ["audit", "model.safetensors", "--clean", "phantom:32", f"--sweep.{option}", given]
    with pytest.raises(BadParameter, match=re.escape(expected)):
        CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
