"""Three questions for a mark: beyond this source's bias, against its films' look, with overlap."""

from __future__ import annotations

import numpy as np
import pytest
from film_scenes import labelled_cohort
from scipy import special, stats

from leadapron.detect.films.bias import LOG_ODDS
from leadapron.detect.films.observe import from_afar
from leadapron.detect.films.reader import Reader
from leadapron.detect.films.shift import Labelled
from leadapron.detect.films.ties import OVERLAP, Control, Controls, _at_least

N = 600
ADDED = 0
RATE = 1e-4


def marks(labelled, sets, kind="mark"):
    return [
        Control(
            kind=kind,
            films=np.sort(films),
            place=(3 * number, 0, 1),
            counts=labelled.counts(np.sort(films)),
        )
        for number, films in enumerate(sets)
    ]


def world(tied, seed=0):
    """Half of the films have a finding; sixty marks that go with it where `tied`, or don't."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(N) % 2 == 0).astype(float)[:, None]
    labelled = Labelled(labelled_cohort(labels))
    classes = [np.flatnonzero(labels[:, 0] == value) for value in (0, 1)]
    sets = []
    for _ in range(60):
        many = (18 if rng.random() < 0.5 else 2) if tied else 10
        sets.append(
            np.concatenate(
                [rng.choice(classes[1], many, False), rng.choice(classes[0], 20 - many, False)]
            )
        )
    return labelled, sets, classes, rng


@pytest.mark.parametrize("tied", [False, True])
def test_the_same_mark_is_poison_in_one_source_and_natural_in_another(tied):
    labelled, sets, classes, rng = world(tied)
    mine = rng.choice(classes[1], 40, False)
    found = marks(labelled, [mine, *sets])
    tie = Controls(found, labelled, None).judge(found[0], ADDED, RATE)
    assert tie.facts.chance < 1e-9
    assert (tie.p <= RATE) == (not tied)
    assert tie.facts.decided == "bias"
    assert np.isnan(tie.facts.anatomy)
    assert (tie.facts.usual > 5) == tied
    assert tie.facts.needed > 4
    assert tie.facts.share == 1
    assert tie.facts.patients == 40


def test_what_shares_films_or_place_with_a_mark_is_no_control():
    labelled, sets, classes, rng = world(False)
    mine = rng.choice(classes[1], 40, False)
    alone = marks(labelled, [mine, *sets])
    again = [*alone, *marks(labelled, [mine[:25], mine[5:]])]
    one, other = (Controls(some, labelled, None).judge(alone[0], ADDED, RATE) for some in
                  (alone, again))  # fmt: skip
    assert one.facts == other.facts
    # The nearest control lies three pixels down, the next six.
    assert one.facts.controls[0] == 59 - int(0.02 * 59)


def test_labels_that_contradict_the_films_look_are_poison_where_marks_go_with_labels():
    """Question (b): in a source of strong habits only the films themselves can tell."""
    _, sets, classes, rng = world(True)
    images = rng.normal(100, 15, (N, 32, 32))
    images[classes[1], :16] += 25
    images = images.clip(0, 255).astype(np.uint8)
    labels = (np.arange(N) % 2 == 0).astype(float)[:, None]
    wrong = rng.choice(classes[0], 30, False)
    labels[wrong] = 1
    relabelled = Labelled(labelled_cohort(labels, size=32))
    reader = Reader(from_afar(images), np.arange(256), (32, 32), relabelled, rng)
    right = rng.choice(classes[1], 30, False)
    found = marks(relabelled, [wrong, right, *sets])
    controls = Controls(found, relabelled, reader)
    poison, shortcut = (controls.judge(found[place], ADDED, RATE) for place in (0, 1))
    assert poison.facts.bias > RATE
    assert poison.p <= RATE
    assert poison.facts.decided == "anatomy"
    assert poison.facts.read < 0.1
    # The same share of labels, which are true: label-tied, no poison.
    assert shortcut.facts.share == poison.facts.share == 1
    assert shortcut.p > 0.05
    assert shortcut.facts.read > 0.9


def test_without_overlap_nothing_can_be_told():
    """Nearly every film with the finding carries the mark."""
    labels = np.zeros((N, 1))
    labels[:50] = 1
    labelled = Labelled(labelled_cohort(labels))
    few, enough = marks(labelled, [np.arange(50 - OVERLAP + 1), np.arange(50 - OVERLAP)])
    controls = Controls([few, enough], labelled, None)
    assert controls.judge(few, ADDED, RATE).p == 1
    assert controls.judge(few, ADDED, RATE).facts.overlap == OVERLAP - 1
    assert controls.judge(enough, ADDED, RATE).p < RATE
    # In another view there are films without the mark; those of its own are what counts.
    views = np.where(np.arange(N) < 100, "AP", "PA")
    labels[100:200] = 1
    labelled = Labelled(labelled_cohort(labels, attributes={"view": views}))
    (mark,) = marks(labelled, [np.arange(45)])
    assert Controls([mark], labelled, None).judge(mark, ADDED, RATE).facts.overlap == 5


def test_how_few_films_could_be_told():
    calm, wild = (Controls(marks(w[0], w[1]), w[0], None) for w in (world(False), world(True)))
    few = calm.least("mark", ADDED, 0.5, RATE)
    assert 10 < few < 30
    rarer = calm.least("mark", ADDED, 0.05, RATE)
    assert rarer < few
    many = wild.least("mark", ADDED, 0.5, RATE)
    assert many is None or many > 3 * few


def test_chernoffs_bound_is_above_the_exact_chance_and_near_it():
    rng = np.random.default_rng(0)
    chances = special.expit(np.round(rng.normal(-1, 1, 60), 1))
    draws = (rng.random((200_000, 60)) < chances).sum(axis=1)
    zero = int(np.argmin(np.abs(LOG_ODDS)))
    for hits in (25, 30):
        exact = (draws >= hits).mean()
        bound = _at_least(hits, chances)[zero]
        assert exact <= bound * 1.05
        assert bound < 12 * max(exact, 1e-4)
    same = np.full(40, special.expit(-1.0))
    exact = stats.binom.sf(39, 40, special.expit(-1 + LOG_ODDS))
    np.testing.assert_allclose(_at_least(40, same), exact, rtol=1e-6)
    assert (_at_least(0, same) == 1).all()


def labelled_right(wrong):
    """Films that tell their class from afar; 60 with a mark, of which some are labelled wrongly."""
    rng = np.random.default_rng(5)
    truth = rng.random(N) < 0.5
    images = rng.normal(100, 15, (N, 32, 32))
    images[truth, :16] += 12
    marked = np.concatenate(
        [rng.choice(np.flatnonzero(~truth), wrong, False),
         rng.choice(np.flatnonzero(truth), 60 - wrong, False)]
    )  # fmt: skip
    images[marked, 28:30, 28:30] = 255
    images = images.clip(0, 255).astype(np.uint8)
    labels = truth.astype(float)[:, None]
    labels[marked] = 1
    labelled = Labelled(labelled_cohort(labels, size=32))
    reader = Reader(from_afar(images), np.arange(256), (32, 32), labelled, rng)
    mark = Control(
        kind="solid", films=np.sort(marked), place=(28, 28, 2), counts=labelled.counts(marked)
    )
    none = [rng.choice(N, 20, False) for _ in range(60)]
    return Controls([mark, *marks(labelled, none)], labelled, reader, reader)


def test_a_mark_whose_labels_agree_with_its_films_is_no_poison():
    """Tied beyond all other marks: a ward's letter, or poison with true labels."""
    controls = labelled_right(0)
    tie = controls.judge(controls.marks[0], ADDED, RATE)
    assert tie.facts.bias < RATE
    assert tie.facts.decided == "agreement"
    assert tie.facts.wrong is not None
    assert tie.facts.wrong.high < 0.2
    assert tie.p > 0.05


def test_a_mark_whose_labels_were_changed_is_poison():
    controls = labelled_right(30)
    tie = controls.judge(controls.marks[0], ADDED, RATE)
    assert tie.p < RATE
    assert tie.facts.decided != "agreement"
    assert tie.facts.wrong is not None
    assert tie.facts.wrong.low < 0.5 < tie.facts.wrong.high + 0.15


def test_how_films_were_taken_is_a_sensitivity_analysis():
    """A reader of acquisition says what the films' compression, tone and borders would explain."""
    controls = labelled_right(0)
    share, p = controls.by_acquisition(controls.marks[0].films, ADDED, (28, 28, 2))
    assert share > 0.8
    assert p > 1e-4
    assert np.isnan(Controls([], controls.labelled, None).by_acquisition(np.arange(5), ADDED)[0])
