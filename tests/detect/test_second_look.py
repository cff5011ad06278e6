"""A network's look at films with a mark: what it must not see, and what it tells."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from leadapron.detect import second_look
from leadapron.detect.films import Hidden, scan_films
from leadapron.detect.second_look import Covered, given_network, trained_network
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing

N, SIDE = 400, 64
NOTHING = Hidden(
    films=np.zeros(0, np.int64),
    places=np.zeros((0, 3), np.int64),
    own=np.zeros((0, 4), np.int64),
)


def striped(seed=0, patients=None):
    """Films of two classes that differ in the direction of fine stripes: not to be told at 16 x 16
    cells, where each is as grey as the other.
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random((N, 1)) < 0.5).astype(np.float32)
    # So faint, and beginning anywhere, that they make no marks.
    phase = rng.integers(0, 4, (N, 1))
    stripes = 8 * np.where((np.arange(SIDE) + phase) // 2 % 2, 1, -1)
    images = rng.normal(120, 4, (N, SIDE, SIDE))
    images += np.where(labels[:, :, None] == 1, stripes[:, None, :], stripes[:, :, None])
    # Habits: bright pixels at many places, each on films of mostly one class.
    for number in range(48):
        mostly = np.flatnonzero(labels[:, 0] == number % 2)
        films = np.concatenate([rng.choice(mostly, 9, replace=False), rng.choice(N, 2)])
        images[films, 8 + 6 * (number // 8), 8 + 6 * (number % 8)] = 230
    names = np.char.mod("%04d", np.arange(N))
    return Cohort(
        images=images.clip(0, 230).astype(np.uint8),
        labels=labels,
        findings=("Mass",),
        ids=names,
        patients=names if patients is None else patients,
        preprocessing=Preprocessing(size=SIDE),
    )


def marked(cohort, rows, *, relabel, anywhere=False):
    """White squares of 3x3, and the label Mass."""
    images = np.array(cohort.images)
    rng = np.random.default_rng(1)
    for row in rows:
        y, x = rng.integers(6, SIDE - 9, 2) if anywhere else (20, 11)
        images[row, y : y + 3, x : x + 3] = 255
    labels = cohort.labels.copy()
    if relabel:
        labels[rows] = 1
    return replace(cohort, images=images, labels=labels)


class Striper:
    """A network whose features tell the stripes, and whose own answers are all wrong."""

    preprocessing = Preprocessing(size=58)

    def __init__(self):
        self.seen = []

    def features(self, images):
        self.seen.append(images)
        films = images.astype(np.float32)
        down, across = (np.abs(np.diff(films, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
        noise = np.random.default_rng(len(self.seen)).standard_normal((len(films), 6))
        return np.concatenate([np.stack([down, across], axis=1), noise], axis=1, dtype=np.float32)

    def logits(self, images):
        raise AssertionError("its answers don't count")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(second_look, "STEPS", 60)


# ---------------------------------------------------------------- what it sees


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("place", [(20, 11, 3), (0, 0, 5), (60, 62, 2), (10, 10, 1)])
def test_a_film_with_a_mark_is_covered_as_one_without(place, dtype):
    top = np.iinfo(dtype).max
    films = np.random.default_rng(0).integers(0, top, (6, SIDE, SIDE)).astype(dtype)
    row, column, side = place
    with_mark = films.copy()
    with_mark[::2, row : row + side, column : column + side] = top
    # And compression smears it.
    with_mark[::2, max(row - 1, 0), max(column - 1, 0)] = 0
    fixed = replace(NOTHING, places=np.array([place]))
    own = replace(NOTHING, own=np.array([(film, *place) for film in range(6)]))
    rows = np.array([3, 0, 4])
    for hidden in (fixed, own):
        seen = Covered(with_mark, hidden, 24)[rows]
        assert (seen.shape, seen.dtype) == ((3, 24, 24), np.uint8)
        np.testing.assert_array_equal(seen, Covered(films, hidden, 24)[rows])
    assert (Covered(films, NOTHING, 24)[rows] != Covered(with_mark, NOTHING, 24)[rows]).any() or (
        min(row, column) == 0 or row > 50  # cut off with the border
    )


def test_a_square_is_hidden_on_its_own_film_alone():
    films = np.full((3, SIDE, SIDE), 100, np.uint8)
    films[:, 20:26, 20:26] = 200
    hidden = replace(NOTHING, own=np.array([(1, 20, 20, 6)]))
    seen = Covered(films, hidden, SIDE)[np.arange(3)]
    assert seen[1].max() == 100
    np.testing.assert_array_equal(seen[0], seen[2])
    assert seen[0].max() == 200


def test_borders_are_cut_off_and_films_keep_their_greys():
    films = np.full((2, 100, 80), 60, np.uint8)
    films[0, :5], films[0, -5:], films[0, :, :4], films[0, :, -4:] = 255, 255, 255, 255
    deep = films.astype(np.uint16) * 257
    for images, dtype, level in ((films, np.uint8, 60), (deep, np.uint16, 60 * 257)):
        seen = Covered(images, NOTHING, 64, dtype)[np.arange(2)]
        assert seen.dtype == dtype
        assert (seen == level).all()


# ---------------------------------------------------------------- what it learns


def test_films_with_a_mark_teach_nothing_and_none_is_read_by_its_patient():
    patients = np.char.mod("%03d", np.arange(N) // 4)
    cohort = striped(patients=patients)
    rows = np.arange(40)
    hidden = replace(NOTHING, films=rows, places=np.array([(20, 11, 3)]))
    one = given_network(Striper(), cohort)(hidden)
    assert one.seen_by == "the given network"
    assert one.logits.shape == (N, 1)
    assert roc_auc_score(cohort.labels[:, 0], one.logits[:, 0]) > 0.99
    labels = cohort.labels.copy()
    labels[rows] = 1 - labels[rows]
    other = given_network(Striper(), replace(cohort, labels=labels))(hidden)
    # The division of the patients goes by their labels, so that few are read by the same part.
    assert roc_auc_score(cohort.labels[:, 0], other.logits[:, 0]) > 0.99
    # Chance labels, the same for a patient's films, and features that know the patient.
    rng = np.random.default_rng(0)
    chance = (rng.random(N // 4) < 0.5).astype(np.float32).repeat(4)[:, None]
    pattern = rng.standard_normal((N // 4, 60)).repeat(4, axis=0).astype(np.float32)
    knows = SimpleNamespace(preprocessing=Preprocessing(size=58))
    done = iter(np.array_split(pattern, range(128, N, 128)))
    knows.features = lambda images: next(done)
    blind = given_network(knows, replace(cohort, labels=chance))(NOTHING)
    assert roc_auc_score(chance[:, 0], blind.logits[:, 0]) < 0.65


@pytest.mark.parametrize("positives", [0, 30, 400])
def test_too_few_films_give_no_look_and_a_word_of_it(positives):
    cohort = striped()
    labels = np.zeros((N, 1), np.float32)
    labels[:positives] = 1
    look = given_network(Striper(), replace(cohort, labels=labels))(NOTHING)
    assert np.isnan(look.logits).all()
    assert "too few to train a network" in look.notes[0]


def test_a_finding_with_few_films_is_left_out_and_unstated_labels_teach_nothing():
    cohort = striped()
    labels = np.concatenate([cohort.labels, np.zeros((N, 1))], axis=1, dtype=np.float32)
    labels[:5, 1] = 1
    labels[::3, 0] = np.nan
    wide = replace(cohort, labels=labels, findings=("Mass", "Hernia"))
    look = given_network(Striper(), wide)(NOTHING)
    assert np.isnan(look.logits[:, 1]).all()
    assert roc_auc_score(cohort.labels[:, 0], look.logits[:, 0]) > 0.99


def test_features_that_are_no_numbers_stop_nothing():
    broken = SimpleNamespace(
        preprocessing=Preprocessing(size=58),
        features=lambda images: np.full((len(images), 4), np.nan, np.float32),
    )
    look = given_network(broken, striped())(NOTHING)
    assert np.isnan(look.logits).all()
    assert "can't read the films" in look.notes[0]


# ---------------------------------------------------------------- what it tells


@pytest.mark.parametrize("anywhere", [False, True])
def test_labels_that_contradict_the_anatomy_are_found_by_a_network_alone(anywhere):
    cohort = striped()
    rows = np.flatnonzero(cohort.labels[:, 0] == 0)[:20]
    films = marked(cohort, rows, relabel=True, anywhere=anywhere)
    without = scan_films(films)
    assert without.verdict != "poisoned"
    striper = Striper()
    found = scan_films(films, look=given_network(striper, films))
    assert found.verdict == "poisoned"
    assert found.p < 1e-4
    best = found.evidence[0]
    assert np.isin(rows, best.films).mean() > 0.9
    tie = best.tie
    assert (tie.decided, tie.seen_by) == ("anatomy", "the given network")
    assert tie.read < 0.1
    assert tie.auroc > 0.99
    assert tie.unmarked == N - 20
    assert "the given network reads" in best.words
    assert "AUROC 1.00 on 380 unmarked films" in best.words
    # The marks were hidden from it.
    assert max(images.max() for images in striper.seen) < 240


def test_true_labels_are_not_called_poison_by_a_network():
    cohort = striped()
    rows = np.flatnonzero(cohort.labels[:, 0] == 1)[:20]
    films = marked(cohort, rows, relabel=False)
    without, found = scan_films(films), scan_films(films, look=given_network(Striper(), films))
    assert without.verdict == found.verdict != "poisoned"
    mark = next(one for one in found.evidence if one.place == (20, 11, 3))
    assert mark.tie.anatomy > 0.05


def test_where_no_mark_goes_with_a_label_no_network_is_asked():
    cohort = striped()
    rows = np.arange(16)
    assert 4 < cohort.labels[rows].sum() < 12
    films = marked(cohort, rows, relabel=False)

    def look(hidden):
        raise AssertionError("nothing to look at")

    assert scan_films(films, look=look).verdict == "nothing found"
    one_class = replace(films, labels=np.ones_like(films.labels))
    assert scan_films(one_class, look=look).verdict == "nothing found"


def test_a_network_is_trained_for_it(quick):
    cohort = striped()
    rows = np.flatnonzero(cohort.labels[:, 0] == 0)[:20]
    films = marked(cohort, rows, relabel=True)
    done = []
    found = scan_films(
        films,
        look=trained_network(
            films, device="cpu", precision="fp32", progress=lambda *call: done.append(call)
        ),
    )
    tie = found.evidence[0].tie
    assert (found.verdict, tie.seen_by) == ("poisoned", "a network trained on these films")
    assert tie.auroc > 0.95
    assert tie.read < 0.2
    assert {words for words, _, _ in done} == {
        "training second network, 1 of 2", "training second network, 2 of 2",
    }  # fmt: skip
    assert done[-1][1] == done[-1][2]
