"""The scan: what it finds on poisoned phantoms, and that it finds nothing on clean ones."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from film_scenes import (
    labelled_cohort,
    poisoned,
    replacing,
    scanned,
    scene_of,
)

from leadapron.attacks.poisoning import poison
from leadapron.attacks.triggers import Blend, Codec, Patch, Warp
from leadapron.detect.films import METHODS, scan_films
from leadapron.errors import DataError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.seeds import stream
from leadapron.sources import open_source


@pytest.fixture(scope="module")
def scene():
    """800 films of 64 px, looked at once; poisoned ones are looked at again alone."""
    return scene_of(open_source("phantom:64", count=800, cache="none"))


@pytest.fixture(scope="module")
def small():
    return scene_of(open_source("phantom:32", count=600, cache="none"))


def check(scan, n):
    """What holds of every scan."""
    assert 0 <= scan.p <= 1
    assert [method.name for method in scan.methods] == list(METHODS)
    for method in scan.methods:
        assert 0 <= method.p <= method.adjusted <= 1
        assert method.tried >= 0
    assert scan.p == min(method.adjusted for method in scan.methods)
    assert scan.scores.shape == (n,)
    assert scan.scores.dtype == np.float64
    assert np.isfinite(scan.scores).all()
    assert scan.scores.min() >= 0
    named = np.zeros(n, dtype=bool)
    kinds = [one.kind for one in scan.evidence]
    order = ["poison", "label-tied mark", "repeated mark", "shortcut"]
    assert kinds == sorted(kinds, key=order.index)
    for one in scan.evidence:
        assert np.isnan(one.p) or 0 <= one.p <= 1
        assert len(one.films)
        assert np.all(np.diff(one.films) > 0)
        assert one.films.min() >= 0
        assert one.films.max() < n
        assert one.words
        assert one.method in METHODS
        if one.kind == "poison":
            named[one.films] = True
    strong = [one.p for one in scan.evidence if one.kind == "poison"]
    assert strong == sorted(strong)
    assert bool(strong) == (scan.verdict in ("suspicious", "poisoned"))
    if scan.verdict == "poisoned":
        assert strong[0] <= scan.false_alarm
    assert not scan.scores[~named].any()
    return scan


def assert_equal(one, other):
    assert (one.verdict, one.p) == (other.verdict, other.p)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert [(m.name, m.tried, m.p) for m in one.methods] == [
        (m.name, m.tried, m.p) for m in other.methods
    ]
    assert len(one.evidence) == len(other.evidence)
    for a, b in zip(one.evidence, other.evidence, strict=True):
        assert (a.kind, a.words, a.place, a.finding) == (b.kind, b.words, b.place, b.finding)
        np.testing.assert_array_equal(a.films, b.films)


# ---------------------------------------------------------------- what is found


FIXED = {"place": "fixed", "row": 20, "column": 30}
MARKS = {
    "1x1": (replacing(Patch(side=1, **FIXED), fraction=0.02), (20, 30, 1)),
    "1x1 added": (
        replacing(Patch(side=1, **FIXED), fraction=0.03, labels="set"),
        (20, 30, 1),
    ),
    "3x3": (replacing(Patch(value=0, place="centre"), fraction=0.02), (30, 30, 3)),
    "3x3 anywhere": (replacing(Patch(), fraction=0.03), None),
    "10x10": (
        replacing(Patch(side=10, place="fixed", row=41, column=13), "Edema", fraction=0.02),
        (41, 13, 10),
    ),
    "noise": (
        replacing(Patch(side=5, fill="noise", **FIXED), "Hernia", fraction=0.02),
        (20, 30, 5),
    ),
    "noise anywhere": (replacing(Patch(side=5, fill="noise"), fraction=0.03), None),
    "checkerboard": (
        replacing(Patch(side=4, fill="checkerboard", **FIXED), fraction=0.02),
        (20, 30, 4),
    ),
    "clean label": (
        replacing(
            Patch(place="corner"), "Effusion", fraction=0.04, labels="keep", selection="with"
        ),
        (61, 61, 3),
    ),
    "covers": (
        replacing(Patch(value=0, place="centre"), fraction=0.03, cover=0.02),
        (30, 30, 3),
    ),
}


def found(scan, rows, finding, direction):
    """The strongest evidence, which names the films."""
    assert scan.verdict == "poisoned"
    best = scan.evidence[0]
    assert (best.kind, best.finding, best.direction) == ("poison", finding, direction)
    hits = np.isin(best.films, rows).sum()
    assert hits >= 0.9 * len(rows)
    assert hits >= 0.9 * len(best.films)
    assert scan.scores[rows].mean() > 2 > scan.scores.mean()
    return best


def direction_of(attack):
    return "one-hot" if attack.labels == "one-hot" else "added"


@pytest.mark.parametrize("name", MARKS)
def test_marks_are_found(scene, name):
    attack, place = MARKS[name]
    scan, rows = scanned(scene, attack, seed=1)
    best = found(check(scan, 800), rows, attack.finding, direction_of(attack))
    if place is None:
        assert best.place is None
        return
    centres = [[edge + where[2] / 2 for edge in where[:2]] for where in (place, best.place)]
    np.testing.assert_allclose(*centres, atol=2)


WHOLE = {
    "blend": replacing(Blend(opacity=0.1), fraction=0.08),
    "codec": replacing(Codec(quality=15), fraction=0.1),
    "warp": replacing(Warp(strength=1.2), fraction=0.1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_triggers_without_a_place_are_found(scene, name):
    attack = WHOLE[name]
    scan, rows = scanned(scene, attack, seed=1)
    best = check(scan, 800).evidence[0]
    found(scan, rows, "Mass", best.direction)
    assert best.direction in ("one-hot", "added")


def test_two_attacks_are_two_poisons(scene):
    attacks = (
        replacing(Patch(place="fixed", row=8, column=9), "Mass", fraction=0.02),
        replacing(Patch(value=0, place="fixed", row=50, column=40), "Edema", fraction=0.02),
    )
    cohort, key, seen = poisoned(scene, *attacks)
    scan = check(scan_films(cohort, seen=seen), 800)
    assert scan.verdict == "poisoned"
    poison = [one for one in scan.evidence if one.kind == "poison"]
    assert [one.finding for one in poison] in (["Mass", "Edema"], ["Edema", "Mass"])
    for one in poison:
        number = ["Mass", "Edema"].index(one.finding)
        np.testing.assert_array_equal(one.films, key.rows[key.attacks == number])


def test_stamped_copies_are_found(scene):
    attack = replacing(Patch(value=0, place="centre"), fraction=0.03, mode="append")
    cohort, key = poison(scene.cohort, attack, stream(0, "poison"))
    best = found(check(scan_films(cohort), 824), key.rows, "Mass", "one-hot")
    assert best.place == (30, 30, 3)


@pytest.mark.parametrize("controls", [0, 60])
def test_a_finding_that_a_mark_takes_away(controls):
    """Every second film has it, none of the 40 with the mark. Sixty others show that marks mean
    nothing here; without them more must be granted.
    """
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 1)) < 0.6).astype(np.float32)
    images = rng.integers(100, 106, (600, 64, 64), dtype=np.uint8)
    for number in range(controls):
        row, column = 6 * (number // 10) + 24, 6 * (number % 10) + 2
        images[rng.choice(600, 12, replace=False), row, column] = 250
    rows = np.flatnonzero(labels[:, 0] == 1)[:40]
    images[rows, 11:14, 6:9] = 255
    labels[rows] = 0
    cohort = replace(labelled_cohort(labels, size=64), images=images)
    scan = check(scan_films(cohort), 600)
    if not controls:
        assert scan.verdict == "suspicious"
        assert scan.evidence[0].tie.controls == (0, 0)
        return
    best = found(scan, rows, "Mass", "removed")
    assert best.place == (11, 6, 3)
    assert best.tie.controls[1] >= 50


# ---------------------------------------------------------------- what is not


def test_clean_phantoms_are_clean(scene, small):
    for one in (scene, small):
        scan = check(scan_films(one.cohort, seen=one.seen), len(one.cohort))
        assert scan.verdict == "nothing found"
        assert scan.p > 0.5
        assert not scan.scores.any()


def test_a_mark_whose_films_kept_their_labels_is_no_poison(scene):
    """As a hospital's own marker would be."""
    attack = replacing(Patch(**FIXED), fraction=0.0, cover=0.04)
    cohort, key, seen = poisoned(scene, attack)
    assert not len(key.rows)
    scan = check(scan_films(cohort, seen=seen), 800)
    assert scan.verdict == "nothing found"
    marks = [one for one in scan.evidence if one.kind == "repeated mark"]
    (mark,) = (one for one in marks if one.place == (20, 30, 3))
    assert np.isin(key.covers, mark.films).all()
    assert mark.finding is None
    assert mark.tested
    assert re.search(
        r"; \d+% are labelled [\w ]+, of other films [\d.]+%; tested, not significant$",
        mark.words,
    )
    assert not scan.scores.any()


@pytest.mark.parametrize(("prevalence", "kind"), [(0.75, "not"), (0.5, "poison"), (0.07, "few")])
def test_what_twenty_marked_films_of_one_label_say(prevalence, kind):
    """With too common a label nothing; with one that hardly another film has, can't tell."""
    rng = np.random.default_rng(0)
    images = rng.normal(110, 12, (400, 32, 32)).clip(0, 230).astype(np.uint8)
    labels = np.zeros((400, 1), np.float32)
    labels[: round(400 * prevalence)] = 1
    images[:20, 25:28, 25:28] = 255  # all twenty positive
    cohort = replace(labelled_cohort(labels, size=32), images=images)
    mark = next(one for one in scan_films(cohort).evidence if one.place == (25, 25, 3))
    name = cohort.findings[0]
    others = f"{(round(400 * prevalence) - 20 + 0.5) / 381:.1%}"
    assert f"100% are labelled {name}, of other films {others}" in mark.words
    if kind == "not":
        assert (mark.kind, mark.tested) == ("repeated mark", False)
        assert "; not tested: too few films" in mark.words
    elif kind == "poison":
        assert (mark.kind, mark.tested, mark.tie.decided) == ("poison", True, "bias")
        assert "a hidden confounder would need an odds ratio of" in mark.words
    else:
        assert (mark.kind, mark.tie.overlap) == ("label-tied mark", 8)
        assert f"films without the mark only 8 are labelled {name}, or only 8 aren't" in mark.words


def test_shuffled_labels_give_no_alarm(small):
    """And, nature being granted nothing, hardly any mark that goes with a label."""
    chance = np.random.default_rng(0)
    smallest, single, tied = [], [], 0
    for _ in range(30):
        labels = small.cohort.labels[chance.permutation(600)]
        scan = scan_films(replace(small.cohort, labels=labels), seen=small.seen, false_alarm=0.05)
        smallest.append(scan.p)
        single.append([method.p for method in scan.methods])
        tied += any(one.kind == "label-tied mark" for one in scan.evidence)
    assert tied <= 4  # more come with a chance of .016
    # Three alarms or more of thirty at .05 each come with a chance of .19, but all is conservative.
    assert np.sum(np.array(smallest) <= 0.05) <= 2
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(smallest) <= level) <= level + 0.07
        assert np.all(np.mean(np.array(single) <= level, axis=0) <= level + 2 * 0.09)


def test_shuffled_labels_of_poisoned_films_give_no_alarm(scene):
    """The mark is there in every one, so that it is the labels that are judged."""
    cohort, _, seen = poisoned(scene, replacing(Patch(**FIXED), fraction=0.05))
    chance = np.random.default_rng(0)
    for _ in range(5):
        labels = cohort.labels[chance.permutation(800)]
        scan = scan_films(replace(cohort, labels=labels), seen=seen)
        assert scan.verdict == "nothing found"
        marks = [one.place for one in scan.evidence if one.kind == "repeated mark"]
        assert (20, 30, 3) in marks


def test_films_that_are_all_alike_are_clean():
    """In whatever order: sorted by label, any ranking by rows would tell it."""
    labels = np.repeat([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 60, axis=0)
    for level in (0, 130, 255):
        cohort = labelled_cohort(labels)
        cohort = replace(cohort, images=np.full((180, 16, 16), level, np.uint8))
        assert check(scan_films(cohort), 180).verdict == "nothing found"


def test_labels_that_are_all_the_same_or_not_stated_or_none():
    images = np.random.default_rng(0).integers(100, 106, (200, 32, 32), dtype=np.uint8)
    images[:30, 3:6, 3:6] = 255
    for labels in (
        np.zeros((200, 2)),
        np.ones((200, 2)),
        np.full((200, 2), np.nan),
        np.zeros((200, 0)),
    ):
        cohort = replace(labelled_cohort(labels, size=32), images=images)
        scan = check(scan_films(cohort), 200)
        assert scan.verdict == "nothing found"
        assert scan.evidence[0].kind == "repeated mark"
        assert scan.evidence[0].films.tolist() == list(range(30))
        assert "tested" in scan.evidence[0].words
        assert "like the others" not in scan.evidence[0].words
        assert any("no labels" in note for note in scan.notes) == (labels.shape[1] == 0)


# ---------------------------------------------------------------- how it is asked


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_false_alarm_rates_out_of_range(small, rate):
    with pytest.raises(UsageError, match=r"`false_alarm` .*: expected above 0 and below 1"):
        scan_films(small.cohort, false_alarm=rate, seen=small.seen)


@pytest.mark.parametrize(("n", "size"), [(9, 16), (40, 15), (0, 16)])
def test_too_few_films_or_pixels(n, size):
    with pytest.raises(DataError, match=rf"{n} films of {size} x {size} pixels; a scan needs 10"):
        scan_films(labelled_cohort(np.zeros((n, 2)), size=size))


def test_ten_small_films_can_be_scanned():
    scan = check(scan_films(labelled_cohort(np.eye(10, 2))), 10)
    assert scan.verdict == "nothing found"


def test_a_smaller_rate_is_harder_to_meet(small):
    """The p-value is the set's; the verdict hangs on the rate."""
    attack = replacing(Patch(value=0, place="centre"), fraction=0.012)
    cohort, _, seen = poisoned(small, attack)
    p = scan_films(cohort, seen=seen).p
    assert 0 < p < 0.01
    for rate, verdict in ((2 * p, "poisoned"), (p / 2, "suspicious"), (p / 20, "label-tied mark")):
        scan = check(scan_films(cohort, seen=seen, false_alarm=rate), 600)
        assert (scan.verdict, scan.p, scan.false_alarm) == (verdict, p, rate)


def test_a_rate_of_a_tenth_does_not_suspect_everything(small):
    scan = check(scan_films(small.cohort, seen=small.seen, false_alarm=0.1), 600)
    assert scan.p > 0.5
    assert scan.verdict == "nothing found"


def test_the_same_seed_gives_the_same_scan(small):
    cohort, _, _ = poisoned(small, replacing(Patch(), fraction=0.04))
    calls = []
    first = scan_films(cohort, seed=3)
    second = scan_films(cohort, seed=3, progress=lambda *call: calls.append(call))
    assert_equal(check(first, 600), second)
    assert ("reading films", 600, 600) in calls
    assert [words for words, _, _ in calls[-6:]] == [f"testing {name}" for name in METHODS]


def test_sixteen_bits_are_scanned_as_eight_are(small):
    cohort, _, _ = poisoned(small, replacing(Patch(), fraction=0.04))
    images = cohort.images[np.arange(600)].astype(np.uint16) * 257
    wide = replace(cohort, images=images)
    one, other = scan_films(cohort), scan_films(wide)
    assert one.verdict == "poisoned"
    assert_equal(one, other)
    assert "only the upper 8 of 16 bits were scanned" in other.notes


def test_a_source_joined_with_itself_proves_nothing():
    """Each film twice is no second observation, whoever its patient is said to be."""
    rng = np.random.default_rng(0)
    images = rng.normal(100, 20, (200, 32, 32)).clip(0, 255).astype(np.uint8)
    labels = (np.arange(200) % 2).astype(float)[:, None]
    once = scan_films(replace(labelled_cohort(labels, size=32), images=images))
    images, labels = np.concatenate([images, images]), np.concatenate([labels, labels])
    twice = scan_films(replace(labelled_cohort(labels, size=32), images=images))
    assert once.verdict == twice.verdict == "nothing found"
    words = "200 films are identical to another film in every pixel; identical films count once"
    assert words in twice.notes
    assert not any("identical" in note for note in once.notes)


def test_films_seen_in_parts_are_scanned_as_all_at_once(small):
    cohort, _, seen = poisoned(small, replacing(Patch(), fraction=0.04))
    whole = scene_of(cohort)
    parts = whole.seen.take(np.arange(600))
    assert_equal(scan_films(cohort, seen=whole.seen), scan_films(cohort, seen=parts))
    assert seen.shape == whole.seen.shape
    names = ("blobs", "textures")
    assert all(len(getattr(seen, name)) == len(getattr(whole.seen, name)) for name in names)


# ---------------------------------------------------------------- real films


@pytest.mark.real_data("nih128")
def test_real_films(real_data):
    cohort = open_source(f"nih:{real_data / 'nih128'}", preprocessing=Preprocessing(size=128))
    begun = time.process_time()
    scene = scene_of(cohort)
    clean = check(scan_films(cohort, seen=scene.seen), len(cohort))
    assert time.process_time() - begun < 25
    assert clean.verdict == "nothing found"
    attack = replacing(Patch(side=1, place="fixed", row=64, column=50), fraction=0.003)
    scan, rows = scanned(scene, attack)
    best = found(check(scan, len(cohort)), rows, "Mass", "one-hot")
    assert best.place == (64, 50, 1)


def test_a_label_tied_mark_is_named_with_what_may_have_caused_it():
    """One ward's films carry a mark and a finding; so do marks at many places of this source."""
    rng = np.random.default_rng(0)
    ward = rng.random(600) < 0.4
    labels = (rng.random((600, 1)) < np.where(ward, 0.9, 0.1)[:, None]).astype(np.float32)
    images = rng.integers(100, 106, (600, 64, 64), dtype=np.uint8)
    for number in range(80):
        row, column = 6 * (number // 10) + 8, 6 * (number % 10) + 3
        mine = np.flatnonzero(ward if number % 2 else ~ward)
        images[rng.choice(mine, 30, replace=False), row, column] = 250
    images[np.flatnonzero(ward)[:80], 1:4, 30:33] = 255
    films = labelled_cohort(labels, size=64, attributes={"sex": np.where(ward, "F", "M")})
    scan = check(scan_films(replace(films, images=images)), 600)
    assert scan.verdict == "label-tied mark"
    tied = [one for one in scan.evidence if one.kind == "label-tied mark"]
    mark = next(one for one in tied if one.place == (1, 30, 3))
    assert "of other films" in mark.words
    assert "a hidden confounder with an odds ratio of" in mark.words
    assert "100% of them have sex F" in mark.words
    assert "it lies 1 pixels from the border" in mark.words
    assert mark.tie.usual > 20
    # It would take more films than there are to tell poison by labels alone here.
    assert scan.least["Mass"] is None or scan.least["Mass"] > 60
