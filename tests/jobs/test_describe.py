"""What a source holds, against cohorts counted by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from leadapron import cli
from leadapron.detect.films.description import describe_cohort
from leadapron.documents import dump
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.describe import describe
from leadapron.metrics import rate
from leadapron.report import description_lines, write_description
from leadapron.sources import open_source
from leadapron.types import Form, Note

NAN = np.nan
SPLIT = np.array(["train", "train", "test", "test", "train", "", "train", "test"])


@pytest.fixture(scope="module")
def films():
    return open_source("phantom:64", count=40).images[np.arange(40)]


@pytest.fixture
def cohort(films):
    """Eight films: 2 is 0 again, 3 is 1 brightened, 6 is black, 7 is bright at its border."""
    images = films[:8].copy()
    images[2] = images[0]
    images[3] = np.clip(images[1].astype(int) + 10, 0, 255)
    images[6] = 0
    images[7] = 250
    images[7, 8:-8, 8:-8] = 20
    return Cohort(
        images=images,
        labels=np.array(
            [[1, 0], [1, 1], [0, 0], [1, 1], [NAN, 1], [0, NAN], [0, 0], [NAN, NAN]], np.float32
        ),
        findings=("Mass", "Nodule"),
        ids=np.array([f"film{i}" for i in range(8)]),
        patients=np.array(["a", "a", "b", "a", "c", "c", "d", "e"]),
        preprocessing=Preprocessing(size=64),
        attributes={
            "split": SPLIT,
            "view": np.array(["PA", "PA", "AP", "PA", "", "", "AP", "PA"]),
            "age": np.array([40.0, 40, 7, NAN, 81, 81, 60, 60]),
        },
        notes=(Note("source", "Made by hand."), Note("pixels", "Odd.", doubt=True)),
        forms={Form(height=64, width=64, bits=8, kind="PNG"): 8},
    )


def test_films_patients_columns_and_split(cohort):
    found = describe_cohort(cohort, "hand")
    assert (found.films, found.patients) == (8, 5)
    assert (found.films_per_patient.median, found.films_per_patient.most) == (1, 3)
    view, age = found.columns
    assert (view.values, view.others, view.unstated) == ({"PA": 4, "AP": 2}, 0, 2)
    assert (age.low, age.median, age.high, age.unstated) == (7, 60, 81, 1)
    parts = [(part.name, part.films, part.patients) for part in found.split]
    assert parts == [("train", 4, 3), ("test", 3, 3), ("", 1, 1)]
    assert found.shared_patients == 1  # a; c is in train and in no part
    assert found.verdict.word == "leakage"
    assert found.forms == {"formats": {"PNG": 8}, "bits": {"8": 8}, "sizes": {"64x64": 8}}
    assert found.notes == ("DOUBT: Odd.", "Made by hand.")


def test_labels_are_counted_as_stated(cohort):
    mass, nodule = describe_cohort(cohort).findings
    assert (mass.positives, mass.negatives, mass.unstated, mass.patients) == (3, 3, 2, 1)
    assert (nodule.positives, nodule.negatives, nodule.unstated) == (3, 3, 2)
    known = ~np.isnan(cohort.labels[:, 0])
    assert mass.prevalence == rate(cohort.labels[known, 0] == 1, cohort.patients[known])
    (pair,) = describe_cohort(cohort).together
    assert (pair.both, pair.odds_ratio.n) == (2, 5)
    assert describe_cohort(cohort).unstated == 4 / 16


def test_copies_are_grouped_with_what_is_wrong_with_them(cohort):
    found = describe_cohort(cohort)
    (same,) = found.identical.groups
    assert (same.films, same.patients, same.parts) == (("film0", "film2"), 2, ("test", "train"))
    assert (same.differ, same.correlation) == (("Mass",), 1)
    (near,) = found.near.groups
    assert (near.films, near.patients, near.differ) == (("film1", "film3"), 1, ())
    assert found.correlation <= near.correlation <= 1
    counts = found.identical
    assert (counts.films, counts.across_patients, counts.across_split) == (2, 1, 1)
    assert (counts.labels_differ, found.near.labels_differ) == (1, 0)


def test_an_altered_copy_of_identical_films_is_in_one_group_with_both(cohort):
    images = np.asarray(cohort.images).copy()
    images[4] = np.clip(images[0].astype(int) + 10, 0, 255)
    found = describe_cohort(replace(cohort, images=images))
    assert ("film0", "film2", "film4") in [group.films for group in found.near.groups]
    assert [group.films for group in found.identical.groups] == [("film0", "film2")]


def test_grey_levels(cohort):
    greys = describe_cohort(cohort).greys
    assert (greys.constant, greys.nearly_black) == (1, 1)
    assert greys.border_much_brighter == 1
    assert greys.border_brighter >= 1
    deep = replace(
        cohort,
        images=np.asarray(cohort.images).astype(np.uint16) * np.uint16(257),
        preprocessing=Preprocessing(size=64, dtype="uint16"),
    )
    assert describe_cohort(deep).greys == replace(greys, mean=describe_cohort(deep).greys.mean)
    assert describe_cohort(deep).greys.mean == pytest.approx(greys.mean, abs=1e-4)


def test_odds_ratios_of_single_films_are_scipys(films):
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 2)) < 0.4).astype(np.float32)
    cohort = Cohort(
        images=films,
        labels=labels,
        findings=("A", "B"),
        ids=np.array([str(i) for i in range(40)]),
        patients=np.array([str(i) for i in range(40)]),
        preprocessing=Preprocessing(size=64),
    )
    (pair,) = describe_cohort(cohort).together
    table = [[((labels[:, 0] == a) & (labels[:, 1] == b)).sum() for b in (1, 0)] for a in (1, 0)]
    expected = stats.contingency.odds_ratio(table, kind="sample")
    assert pair.odds_ratio.value == pytest.approx(expected.statistic)
    low, high = expected.confidence_interval(0.95)
    # Over patients the variance has the factor n / (n - 1).
    assert np.log(pair.odds_ratio.low) == pytest.approx(np.log(low), abs=0.03)
    assert np.log(pair.odds_ratio.high) == pytest.approx(np.log(high), abs=0.03)


def test_a_sound_source_says_so():
    found = describe("phantom:64", count=300)
    assert found.verdict.word == "done"
    assert not found.identical.groups
    assert not found.near.groups  # no false pairs among 300 films of 109 patients
    assert len(found.together) == 14 * 13 / 2
    assert found.split == ()
    text = "\n".join(description_lines(found))
    assert "LEAKAGE" not in text
    assert "300 films of 109 patients" in text


def test_a_cohort_without_findings(cohort):
    bare = replace(
        cohort, labels=np.zeros((8, 0), np.float32), findings=(), attributes={}, forms={}
    )
    found = describe_cohort(bare, "bare")
    assert (found.findings, found.together, found.unstated) == ((), (), 0.0)
    assert "No labels." in description_lines(found)


def test_lines_warn_first(cohort):
    lines = description_lines(describe_cohort(cohort, "hand"))
    assert lines[0].startswith("LEAKAGE: 1 patient on more than one side")
    assert lines[1] == "LEAKAGE: 1 group of identical images on more than one side of the split."
    text = "\n".join(lines)
    assert "film0, film2: 2 patients, in test and train, labels differ on Mass" in text
    assert "Mass            3         3        2 (25.0 %)  50.0 % (" in text
    assert lines[-1] == "Note: Made by hand."


def test_facts_are_json_without_nan(cohort):
    empty = replace(cohort, labels=np.full((8, 2), NAN, np.float32))
    found = describe_cohort(empty)
    facts = dump(found)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert (facts["schema"], facts["verdict"]["word"]) == (1, "leakage")
    assert facts["findings"][0]["prevalence"]["value"] is None
    assert facts["together"][0]["odds_ratio"]["value"] is None
    assert "undefined" in "\n".join(description_lines(found))


def test_the_page_stands_alone_and_holds_no_pixels(cohort, tmp_path):
    facts = describe_cohort(cohort, "<hand> & co")
    page = write_description(tmp_path / "page.html", facts)
    text = page.read_text()
    assert "<img" not in text
    assert "<image" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "&lt;hand&gt; &amp; co" in text
    assert text.count("LEAKAGE") == 3
    assert "film0, film2" in text
    assert write_description(tmp_path / "again.html", facts).read_bytes() == page.read_bytes()
    for undefined in (np.full((8, 2), NAN, np.float32), np.zeros((8, 2), np.float32)):
        facts = describe_cohort(replace(cohort, labels=undefined))
        write_description(page, facts)


@pytest.fixture
def leaking(tmp_path, films):
    """A folder with a split that shares patient p0 and holds a film twice."""
    for place, row in (
        ("train/NORMAL/p0-1", 0), ("train/SICK/p1-1", 1), ("train/SICK/p2-1", 2),
        ("test/NORMAL/p0-2", 3), ("test/SICK/p3-1", 4), ("test/NORMAL/p4-1", 1),
    ):  # fmt: skip
        path = tmp_path / "films" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(films[row]).save(path)
    return tmp_path / "films"


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["leadapron", "-q", "describe", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def test_the_command_describes_what_other_jobs_refuse(run, leaking, tmp_path):
    source = (f"folder:{leaking}", "--size", "32", "--source.patient", "^(p[0-9]+)")
    page = tmp_path / "page.html"
    code, out, err = run(*source, "--out", page)
    assert (code, err) == (0, "")
    assert out.startswith("LEAKAGE: 1 patient on more than one side of the split")
    assert out.splitlines()[-1] == f"Page: {page}"
    assert page.read_text().startswith("<!DOCTYPE html>")

    code, out, _ = run(*source, "--json")
    facts = json.loads(out)
    assert (code, facts["schema"], facts["verdict"]["word"]) == (0, 1, "leakage")
    assert (facts["films"], facts["patients"], facts["shared_patients"]) == (6, 5, 1)
    assert facts["identical"]["labels_differ"] == 1
    assert facts["forms"] == {"formats": {"PNG": 6}, "bits": {"8": 6}, "sizes": {"64x64": 6}}
    assert facts["image"] == [32, 32]

    code, out, err = run(*source, "--source.leakage", "refuse")
    assert (code, out) == (2, "")
    assert "on more than one side of the split" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["phantm:64"], 4, "did you mean phantom"),
        (["folder:/nowhere"], 2, "/nowhere"),
        (["phantom:64", "--source.cont", "3"], 4, "--source.count"),
        (["phantom:64", "--source.patient", "x"], 4, "patient"),
        (["phantom:64", "--size", "2"], 4, "size 2"),
    ],
)
def test_bad_input_is_one_line(run, words, code, said):
    left, out, err = run(*words)
    assert (left, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_films_that_are_skipped_have_no_form(run, leaking):
    (leaking / "train/SICK/p9-1.png").write_bytes(b"\x89PNG\r\n\x1a\nno film")
    code, out, _ = run(f"folder:{leaking}", "--size", "32", "--on-bad", "skip", "--json")
    facts = json.loads(out)
    assert (code, facts["films"], facts["forms"]["formats"]["PNG"]) == (0, 6, 6)
