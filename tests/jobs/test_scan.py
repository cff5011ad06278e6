"""Scanning a source and cleaning it, on phantoms whose truth is known."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
import types
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from leadapron import cli
from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.detect import rankings
from leadapron.detect import scanned as scanning
from leadapron.detect.films.document import Suspect
from leadapron.detect.scanned import scan_cohort
from leadapron.documents import dump
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs import clean as cleaning
from leadapron.report import clean_lines, scan_lines
from leadapron.report.panels import panels_of
from leadapron.report.scan import write_scan
from leadapron.sources import open_source, own_pixels
from leadapron.sources.own_pixels import open_own_pixels
from leadapron.study import retraining
from leadapron.text import plain_cell, showing_paths
from leadapron.types import Machine, Note


@pytest.fixture(scope="module")
def films():
    return open_source("phantom:64", count=400)


@pytest.fixture(scope="module")
def poisoned(films):
    """40 films with a white square at one place, called Atelectasis alone; and their rows."""
    attack = Poisoning(
        trigger=Patch(side=3, place="fixed", row=20, column=40), finding="Atelectasis", fraction=0.1
    )
    cohort, key = poison(films, attack, np.random.default_rng(0))
    return cohort, key.rows


def write_npz(path, cohort, **others):
    np.savez(
        path,
        **{
            "images": cohort.images[np.arange(len(cohort))],
            "labels": cohort.labels,
            "findings": np.asarray(cohort.findings),
            "ids": cohort.ids,
            "patients": cohort.patients,
            "view": cohort.attributes["view"],
            **others,
        },
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, films, poisoned):
    """A poisoned source, where some names are formulas."""
    place = tmp_path_factory.mktemp("scan")
    cohort, rows = poisoned
    ids = cohort.ids.astype("U40")
    ids[rows[0]], ids[rows[1]] = "=HYPERLINK(1)", "<b>&film"
    write_npz(place / "poisoned.npz", cohort, ids=ids)
    return place


def called(words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["leadapron", "-q", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return int(left.value.code or 0)


@pytest.fixture
def run(capsys):
    def call(*words):
        code = called(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def scanned(folder):
    """The poisoned source's scan, as the command writes it."""
    source = f"npz:{folder / 'poisoned.npz'}"
    code = called(["scan", source, "--out", folder / "scan"])
    return code, json.loads((folder / "scan" / "scan.json").read_text())


def test_poison_is_found_with_its_films_place_and_finding(scanned, poisoned, folder):
    code, facts = scanned
    assert (code, facts["verdict"]["word"], facts["image"]) == (1, "poisoned", [64, 64])
    first = facts["evidence"][0]
    assert (first["kind"], first["finding"]) == ("poison", "Atelectasis")
    assert first["direction"] == "one-hot"
    assert np.abs(np.subtract(first["place"], (20, 40, 3))).max() <= 1
    with (folder / "scan" / "films.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "rank", "id", "path", "score", "finding", "row", "column", "reasons",
    ]  # fmt: skip
    truth = {*poisoned[0].ids[poisoned[1][2:]].tolist(), "=HYPERLINK(1)", "<b>&film"}
    named = {plain_cell(row["id"]) for row in rows}
    assert len(named & truth) / len(truth) >= 0.95
    assert len(named & truth) / len(named) >= 0.95
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["finding"] for row in rows} == {"Atelectasis"}
    assert {(row["row"], row["column"]) for row in rows} == {tuple(map(str, first["place"][:2]))}
    shift = next(each for each in first["labels"] if each["finding"] == "Atelectasis")
    assert shift["films"] > 0.9
    assert shift["others"] < 0.3


def test_names_can_be_no_formulas_and_no_markup(scanned, folder):
    text = (folder / "scan" / "films.csv").read_text()
    assert "'=HYPERLINK(1)" in text
    assert not re.search(r"(^|,)=", text, re.MULTILINE)
    page = (folder / "scan" / "scan.html").read_text()
    assert "&lt;b&gt;&amp;film" in page
    assert "<b>&film" not in page


def test_the_page_stands_alone_and_says_what_it_holds(scanned, folder):
    page = (folder / "scan" / "scan.html").read_text()
    assert "This page holds patients' pixels" in page
    assert str(folder) not in page
    assert page.count("data:image/png;base64,") >= 3 + 12 + 6
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)


def test_a_clean_set_ends_in_0_and_its_page_has_no_pixels(run, tmp_path):
    code, out, _ = run(
        "scan", "phantom:64", "--source.count", 300, "--out", tmp_path, "--false-alarm", 0.001
    )
    assert (code, out.partition(":")[0]) == (0, "NOTHING FOUND")
    assert (tmp_path / "films.csv").read_text().count("\n") == 1
    page = (tmp_path / "scan.html").read_text()
    assert "but no pixels" in page
    assert "data:image" not in page


def test_json_is_the_whole_answer(run):
    code, out, _ = run("scan", "phantom:32", "--source.count", 120, "--json")
    facts = json.loads(out)
    assert (code, facts["schema"], facts["films"]) == (0, 1, 120)
    assert facts["verdict"]["word"] == "nothing found"
    assert len(facts["methods"]) == 6
    assert facts["suspects"] == facts["rankings"] == []


def test_the_seed_of_the_source_is_not_that_of_the_scan(run, monkeypatch):
    job, given = import_module("leadapron.jobs.scan"), {}
    opened = job.open_own_pixels
    monkeypatch.setattr(
        job, "open_own_pixels", lambda source, **more: given.update(more) or opened(source, **more)
    )
    found = job.scan_cohort
    monkeypatch.setattr(
        job,
        "scan_cohort",
        lambda *films, **more: given.update(own=more["seed"]) or found(*films, **more),
    )
    run("scan", "phantom:32", "--source.count", 40, "--source.seed", 5, "--seed", 2)
    assert (given["count"], given["source_seed"], given["own"]) == (40, 5, 2)


def test_suspicious_ends_in_3(run, monkeypatch):
    whole = scanning.scan_films
    monkeypatch.setattr(
        scanning, "scan_films", lambda *a, **k: replace(whole(*a, **k), verdict="suspicious")
    )
    code, out, _ = run("scan", "phantom:32", "--source.count", 30)
    assert (code, out.partition(":")[0]) == (3, "SUSPICIOUS")


@pytest.mark.parametrize("kind", ["none", "not stated"])
def test_without_labels_it_cannot_tell(films, kind):
    some = films.take(np.arange(60))
    labels = np.full(some.labels.shape, np.nan, np.float32)
    other = (
        replace(some, labels=labels[:, :0], findings=())
        if kind == "none"
        else replace(some, labels=labels)
    )
    found = scan_cohort(other)
    assert found.verdict.word == "can't tell"
    assert not found.suspects
    words = "CAN'T TELL: no finding has films of 10 patients with it and of 10 without"
    assert scan_lines(found.document())[0].startswith(words)


def test_one_finding_twenty_films_and_constant_films_are_scanned(films):
    some = films.take(np.arange(60))
    many = np.arange(60)[:, None] % 2
    one = replace(some, labels=many.astype(np.float32), findings=some.findings[:1])
    assert scan_cohort(one).verdict.word == "nothing found"
    # Of so few films no finding has ten with it and ten without.
    assert scan_cohort(films.take(np.arange(19))).verdict.word == "can't tell"
    same = replace(one, labels=np.ones((60, 1), np.float32))
    assert scan_cohort(same).verdict.word == "can't tell"
    # Nor can sixty films of one patient say anything of others.
    alone = replace(one, patients=np.full(60, "p"))
    assert scan_cohort(alone).verdict.word == "can't tell"
    flat = replace(one, images=np.full((60, 64, 64), 7, np.uint8), films=None)
    assert scan_cohort(flat).verdict.word == "nothing found"


def test_doubts_about_the_films_are_said_first(films, tmp_path):
    notes = (Note("files", "Left out."), Note("pixels", "Odd greys.", doubt=True))
    found = scan_cohort(replace(films.take(np.arange(20)), notes=notes)).document()
    assert list(found.notes[:2]) == ["DOUBT: Odd greys.", "Left out."]
    assert "Note: DOUBT: Odd greys." in scan_lines(found)
    assert "DOUBT: Odd greys." in write_scan(tmp_path / "scan.html", found, ()).read_text()


def test_folders_above_a_suspected_film_are_in_no_json(films):
    found = scan_cohort(films.take(np.arange(20)))
    one = Suspect(
        rank=1, id="a.png", path="/data/Doe^Jane/a.png", score=3.0, finding="Mass",
        row=None, column=None, reasons=("why",),
    )  # fmt: skip
    found = replace(found, suspects=(one,))
    assert dump(found.document())["suspects"][0]["path"] == "a.png"
    with showing_paths():
        assert dump(found.document())["suspects"][0]["path"] == one.path


def test_five_films_are_one_line(run):
    code, out, err = run("scan", "phantom:32", "--source.count", 5)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "a scan needs 10" in err


def test_uint16_gives_what_uint8_gives(poisoned):
    cohort, _ = poisoned
    cohort = cohort.take(np.arange(300))
    deep = replace(
        cohort,
        images=cohort.images[np.arange(300)].astype(np.uint16) * np.uint16(257),
        preprocessing=Preprocessing(size=64, dtype="uint16"),
    )
    first, second = scan_cohort(cohort), scan_cohort(deep)
    assert first.verdict.word == second.verdict.word == "poisoned"
    assert [one.id for one in first.suspects] == [one.id for one in second.suspects]
    panel = panels_of(second, 0)[0]
    assert panel.films.dtype == np.uint8
    assert panel.films.max() == 255


def test_evidence_without_a_place_is_drawn_whole(poisoned):
    found = scan_cohort(poisoned[0].take(np.arange(200)))
    evidence = replace(found.scan.evidence[0], place=None)
    panel = panels_of(replace(found, scan=replace(found.scan, evidence=(evidence,))), 0)[0]
    assert panel.films.shape[1:] == (64, 64)
    placed = panels_of(found, 0)[0]
    top, left, height, width = placed.window
    row, column, side = placed.place
    assert (top <= row, left <= column) == (True, True)
    assert (row + side <= top + height, column + side <= left + width) == (True, True)


# --- the films' own pixels


@pytest.fixture
def tree(tmp_path, films):
    """A folder source of sides 48, 64 and 300."""
    for i in range(24):
        path = tmp_path / "films" / ("NORMAL" if i % 2 else "SICK") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 300 if i == 0 else 48 if i < 4 else 64
        Image.fromarray(films.images[i]).resize((side, side)).save(path)
    return tmp_path / "films"


def test_films_are_looked_at_with_their_own_pixels(tree, films, tmp_path, run):
    assert open_own_pixels(f"folder:{tree}").images.shape == (24, 64, 64)
    assert open_own_pixels(f"folder:{tree}", size=32).images.shape == (24, 32, 32)
    assert open_own_pixels("phantom:48", count=3).images.shape == (3, 48, 48)
    assert open_own_pixels("phantom:256", count=3).images.shape == (3, 224, 224)
    both = open_own_pixels(f"folder:{tree} + phantom:64", count=24)
    assert both.images.shape == (48, 64, 64)
    narrow = films.take(np.arange(12)).images[np.arange(12)][:, :, 8:56]
    file = write_npz(tmp_path / "narrow.npz", films.take(np.arange(12)), images=narrow)
    padded = open_own_pixels(f"npz:{file}").images[np.arange(12)]
    assert np.array_equal(padded[:, :, 8:56], narrow)
    assert run("scan", f"folder:{tree}")[0] == 0


def test_paths_are_those_of_the_files(tree):
    cohort = open_own_pixels(f"folder:{tree}")
    assert cohort.path(0) == str(tree / "NORMAL" / "01.png")
    assert cohort.take([3, 0]).path(1) == cohort.path(0)
    both = open_source(f"folder:{tree} + phantom:64", preprocessing=Preprocessing(size=64), count=2)
    assert (both.path(0), both.path(24)) == (cohort.path(0), "")


# --- networks


def test_networks_are_advised_where_the_films_alone_leave_it_open(films):
    some = films.take(np.arange(20))
    scanned = scan_cohort(some)
    ranking = rankings.Ranking(name="", unit="", scores=np.zeros(20), evidence=(), notes=())
    for word, open_ in (("suspicious", True), ("label-tied mark", True), ("poisoned", False)):
        found = replace(scanned, scan=replace(scanned.scan, verdict=word))
        alone, seen = (replace(found, rankings=some).verdict.next for some in ((), (ranking,)))
        assert ("leadapron scan --train" in alone) == open_
        assert alone.endswith(seen)
        assert "--train" not in seen


def test_rankings_by_a_trained_network_leave_the_verdict(run, folder, monkeypatch, scanned):
    monkeypatch.setattr(rankings, "EPOCHS", 1)
    monkeypatch.setattr(scanning, "trained_network", lambda *films, **settings: None)
    source = f"npz:{folder / 'poisoned.npz'}"
    code, out, _ = run("scan", source, "--size", 32, "--train", "--json")
    without = json.loads(run("scan", source, "--size", 32, "--json")[1])
    facts = json.loads(out)
    assert code == {"poisoned": 1, "nothing found": 0}.get(facts["verdict"]["word"], 3)
    assert facts["evidence"] == without["evidence"]
    assert [each["name"] for each in facts["rankings"]] == [
        "spectral-signatures", "spectre", "activation-clustering", "beatrix", "scan",
        "loss-dynamics",
    ]  # fmt: skip
    for ranking in facts["rankings"]:
        scores = [film["score"] for film in ranking["films"]]
        assert 0 < len(scores) <= 100
        assert scores == sorted(scores, reverse=True)


def test_a_model_looks_at_films_in_its_own_way(run, tmp_path, films):
    from leadapron.models.classifier import save_classifier
    from leadapron.models.training import Training, train

    some = open_source("phantom:64", preprocessing=Preprocessing(size=32), count=120)
    network, _ = train(some, some, training=Training(epochs=1), device="cpu")
    save_classifier(network, tmp_path / "own.safetensors")
    words = ("scan", "phantom:64", "--source.count", 120)
    code, _, _ = run(*words, "--model", tmp_path / "own.safetensors", "--out", tmp_path)
    facts = json.loads((tmp_path / "scan.json").read_text())
    assert (code, facts["image"]) == (0, [64, 64])
    assert len(facts["rankings"]) == 5  # no losses were watched
    page = (tmp_path / "scan.html").read_text()
    assert "no false-alarm rate: these never change the verdict" in page

    code, out, err = run(*words, "--model", tmp_path / "own.safetensors", "--train")
    assert (code, out) == (4, "")
    assert "--model and --train" in err


def test_what_is_said_of_a_model_reaches_it(run, monkeypatch):
    asked = {}

    def recorded(model, **options):
        asked.update(options)
        raise UsageError("enough")

    monkeypatch.setattr("leadapron.models.foreign.open_model", recorded)
    words = ("scan", "phantom:32", "--model.weights-key", "ema", "--model.findings", "A, B")
    code, _, err = run(*words, "--model", "both.pt")
    assert (code, "enough" in err) == (4, True)
    assert (asked["weights_key"], asked["findings"]) == ("ema", ("A", "B"))
    code, _, err = run(*words)
    assert code == 4
    assert (
        "--model.findings, --model.weights-key: describes a model, but there is no --model" in err
    )


def test_a_black_box_has_no_features(run, monkeypatch):
    box = types.SimpleNamespace(
        findings=("Mass",),
        preprocessing=Preprocessing(size=32),
        head="sigmoid",
        logits=None,
        probabilities=None,
    )
    monkeypatch.setitem(sys.modules, "of_mine", types.SimpleNamespace(make=lambda: box))
    code, out, err = run("scan", "phantom:32", "--source.count", 20, "--model", "of_mine:make")
    assert (code, out) == (4, "")
    assert "is a black box without features" in err


# --- clean


def test_what_is_left_of_an_npz_file_is_one(scanned, folder, poisoned, run, tmp_path):
    source = f"npz:{folder / 'poisoned.npz'}"
    code, out, _ = run(
        "clean", source, "--drop", folder / "scan" / "films.csv", "--out", tmp_path, "--json"
    )
    facts = json.loads(out)
    assert (code, facts["verdict"]) == (0, "done")
    assert facts["dropped"] + facts["kept"] == 400
    left, whole = open_source(facts["opens"]), open_source(source)
    rows = np.flatnonzero(np.isin(whole.ids, left.ids))
    assert len(rows) == facts["kept"]
    assert not np.isin(poisoned[1][:2], rows).any()
    assert np.array_equal(left.images[np.arange(len(rows))], whole.images[rows])
    assert np.array_equal(left.labels, whole.labels[rows], equal_nan=True)
    assert np.array_equal(left.patients, whole.patients[rows])
    assert np.array_equal(left.attributes["view"], whole.attributes["view"][rows])

    code, _, err = run("clean", source, "--drop", folder / "scan" / "films.csv", "--out", tmp_path)
    assert code == 2
    assert "is there already" in err


def test_what_is_left_of_files_is_a_table_that_points_to_them(tree, run, tmp_path):
    (tree / "SICK" / "=a film.png").write_bytes((tree / "SICK" / "02.png").read_bytes())
    (tmp_path / "drop.csv").write_text("id,why\nNORMAL/01.png,x\nSICK/00.png,y\n")
    code, out, _ = run("clean", f"folder:{tree}", "--drop", tmp_path / "drop.csv",
                       "--out", tmp_path / "left")  # fmt: skip
    assert code == 0
    opens = next(line for line in out.splitlines() if line.startswith("Open it as "))
    source, _, root = opens.removeprefix("Open it as ").partition(" --source.root ")
    left = open_source(source, root=root)
    names = [left.path(row) for row in range(len(left))]
    assert len(left) == 23
    assert str(tree / "SICK" / "=a film.png") in names
    assert str(tree / "NORMAL" / "01.png") not in names
    assert left.findings == ("SICK",)
    assert [bool(label) for label in left.labels[:, 0]] == ["/SICK/" in name for name in names]


def test_named_columns_survive(tree, run, tmp_path):
    rows = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.png"))
    lines = [
        f'{tree / row},p{i // 2},PA,{"MF"[i % 2]},"{i},5",Norte,{int("SICK" in row)},{i % 2}'
        for i, row in enumerate(rows)
    ]
    header = "fichero,paciente,proyeccion,sexo,edad,centro,Sick,Mass"
    (tree / "t.csv").write_text("\n".join([header, *lines]))
    (tmp_path / "drop.csv").write_text("id\nSICK/00.png\n")
    named = {
        "path": "fichero", "patient": "paciente", "view": "proyeccion", "sex": "sexo",
        "age": "edad", "site": "centro",
    }  # fmt: skip
    whole = open_source(f"table:{tree / 't.csv'}", **named)
    done = cleaning.clean(
        f"table:{tree / 't.csv'}", tmp_path / "drop.csv", tmp_path / "left", **named
    )
    source, *options = shlex.split(done.opens)
    left = open_source(source, root=options[1])
    kept = np.flatnonzero(whole.ids != "SICK/00.png")
    assert len(left) == 23
    assert left.findings == whole.findings == ("Sick", "Mass")
    np.testing.assert_array_equal(left.labels, whole.labels[kept])
    np.testing.assert_array_equal(left.patients, whole.patients[kept])
    assert left.attributes.keys() == whole.attributes.keys() == {"view", "sex", "age", "site"}
    for name, column in left.attributes.items():
        np.testing.assert_array_equal(column, whole.attributes[name][kept])


def test_patients_that_are_not_known_stay_so(tree, tmp_path):
    (tmp_path / "drop.csv").write_text("id\nSICK/00.png\n")
    done = cleaning.clean(f"folder:{tree}", tmp_path / "drop.csv", tmp_path / "left")
    source, *options = shlex.split(done.opens)
    left = open_source(source, root=options[1])
    assert "patients" in {note.about for note in left.notes}


def test_identical_films_that_contradict_are_doubted(tree, run):
    (tree / "SICK" / "04.png").write_bytes((tree / "NORMAL" / "05.png").read_bytes())
    code, out, _ = run("scan", f"folder:{tree}", "--size", 32)
    assert code != 2
    assert "contradictory labels, first in SICK" in out


def test_no_name_forges_a_line_of_a_verdict(run, tmp_path):
    cohort = open_source("phantom:32", count=60)
    forged = [f"{name}\nFORGED: nothing\x1b[2K\u202e" for name in cohort.findings]
    ids = [f"{name}\rFORGED: nothing\x1b[1A" for name in cohort.ids]
    path = write_npz(tmp_path / "a.npz", cohort, findings=np.asarray(forged), ids=np.asarray(ids))
    for words in (["scan", f"npz:{path}"], ["describe", f"npz:{path}"]):
        for more in ([], ["--json"]):
            code, out, err = run(*words, *more)
            assert code in (0, 1, 3), err
            for line in (out + err).splitlines():
                assert line.isprintable()
                assert not line.startswith("FORGED")


@pytest.mark.parametrize(
    "changed",
    [
        {}, {"place": None}, {"place": "abc"}, {"place": [0, 0, 1000]}, {"place": [1, True, 3]},
        {"place": [-1, 2, 3]}, {"finding": []}, {"finding": "Others"}, {"films": [3]},
        {"kind": "repeated mark"}, {"words": None}, {"direction": "up"},
    ],
)  # fmt: skip
def test_evidence_of_others_that_is_none_is_not_tried(films, tmp_path, changed):
    document = dump(scan_cohort(films.take(np.arange(20))).document())
    one = {
        "kind": "poison", "method": "marks", "p": 0.0, "finding": "Mass", "direction": "added",
        "place": [1, 2, 3], "films": ["a"], "tested": True, "tie": None, "words": "a mark",
        "labels": [],
    }  # fmt: skip
    path = tmp_path / "scan.json"
    path.write_text(json.dumps({**document, "evidence": [{**one, **changed}]}))
    assert len(retraining._evidence(cleaning._scan_beside(path), films)) == (not changed)
    for others in (7, {}, [7], [{}]):
        path.write_text(json.dumps({**document, "evidence": others}))
        assert retraining._evidence(cleaning._scan_beside(path), films) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id\nphantom-0-0000001\nphantom-9-1\n", "the first one 'phantom-9-1'"),
        ("id\n", "lists no film"),
        ("film\nx\n", "no column id"),
        ("id\n" + "\n".join(f"phantom-0-{i:07}" for i in range(12)) + "\n", "no film is left"),
    ],
)
def test_lists_that_do_not_fit_are_one_line(run, tmp_path, text, said):
    (tmp_path / "drop.csv").write_text(text)
    code, out, err = run("clean", "phantom:32", "--source.count", 12, "--drop",
                         tmp_path / "drop.csv", "--out", tmp_path / "left")  # fmt: skip
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert not (tmp_path / "left").exists()


def test_retraining_compares_networks_with_and_without(scanned, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(retraining, "EPOCHS", 1)
    done = cleaning.clean(
        f"npz:{folder / 'poisoned.npz'}",
        folder / "scan" / "films.csv",
        tmp_path,
        retrain=True,
        machine=Machine(device="cpu"),
    )
    again = done.retrained
    assert again.films[0] > again.films[1]
    assert 0 < again.before.low <= again.before.value <= again.before.high < 1
    (mark,) = again.marks
    assert mark.finding == "Atelectasis"
    assert mark.before.n == mark.after.n > 20
    lines = clean_lines(done)
    assert any(
        line.startswith("Suspected mark of 3x3 pixels at row 20, column 40") for line in lines
    )
    json.dumps(dump(done), allow_nan=False)


def test_a_scan_of_another_size_is_not_tried(scanned, folder):
    cohort = open_own_pixels(f"npz:{folder / 'poisoned.npz'}", size=32)
    scan = cleaning._scan_beside(folder / "scan" / "scan.json")
    assert scan.poison
    assert retraining._evidence(scan, cohort) == []
    assert cleaning._scan_beside(folder / "nothing.json") is None
    assert retraining._evidence(None, cohort) == []


def test_films_that_are_no_files_need_no_path():
    cohort = Cohort(
        images=np.zeros((1, 16, 16), np.uint8),
        labels=np.zeros((1, 1), np.float32),
        findings=("Mass",),
        ids=np.array(["a"]),
        patients=np.array(["a"]),
        preprocessing=Preprocessing(size=16),
    )
    assert cohort.path(0) == ""
    assert own_pixels._own_pixels(cohort) == cohort.preprocessing
    with pytest.raises(DataError, match="a scan needs 10"):
        scan_cohort(cohort)
