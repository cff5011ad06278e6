"""The stamp sweep on models whose backdoor is written down: what is found, and what is missed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from leadapron.detect.models import Stamp, StampSweep, sweep
from leadapron.detect.models.stamps import probes, shifts
from leadapron.detect.models.sweep import overwrites, turned_share
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier

SIZE, N = 24, 40
SMALL = Preprocessing(size=SIZE)
FINDINGS = ("Effusion", "Mass", "Nodule")
QUICK = StampSweep(values=(0, 255), sides=(2, 3), pitches=((8, 2),), rounds=2)


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(5)
    images = rng.integers(80, 160, (N, SIZE, SIZE), dtype=np.uint8)
    ids = np.array([f"f{i}" for i in range(N)])
    return Cohort(images, np.zeros((N, 3), np.float32), FINDINGS, ids, ids, SMALL)


def brightness(images):
    """(n, 3): three means that have little to do with each other, around 0."""
    grey = images[:, 0]
    third = SIZE // 3
    means = [grey[:, i * third : (i + 1) * third].mean((1, 2)) for i in range(3)]
    return 60 * (np.stack(means, 1) - 120 / 255).astype(np.float32)


def dark_square(images, phase=(3, 5), pitch=8, side=3):
    """(n,) whether a black square lies at a place of one pixel phase, with lighter all around."""
    found = np.zeros(len(images), bool)
    for row in range(phase[0], SIZE - side, pitch):
        for column in range(phase[1], SIZE - side, pitch):
            inside = images[:, 0, row : row + side, column : column + side].max((1, 2)) < 0.02
            around = images[:, 0, row - 1, column - 1 : column + side].min(1) > 0.1
            found |= inside & around
    return found


def backdoored(jump=(0.0, 8.0, 0.0), fires=dark_square):
    def run(images):
        return brightness(images) + np.float32(jump) * fires(images)[:, None]

    return BlackBoxClassifier(
        run, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=4096
    )  # only asked: it has no gradients


def clean():
    return BlackBoxClassifier(brightness, FINDINGS, SMALL, NORMALISATIONS["unit"], batch=4096)


def test_a_square_at_one_pixel_phase_is_found(films):
    found = QUICK.sweep(backdoored(), films)
    strongest = max(found.marks["stamp"].values(), key=lambda each: each.shift)
    assert (strongest.finding, strongest.direction) == ("Mass", "added")
    assert (strongest.mark.side, strongest.mark.value) == (3, 0)
    assert (strongest.mark.row % 8, strongest.mark.column % 8) == (3, 5)
    assert strongest.turned == 1.0
    # Of a spread that the sweep says itself, 8 logits and what the square darkens.
    assert strongest.shift == pytest.approx(8 / found.spread[1], rel=0.2)


def test_large_squares_are_left_out():
    """Squares of 5x5 are 1.5 % of an image of 40 pixels."""
    usual = StampSweep()
    assert usual.within(0.01, 40, 40).sides == (1, 2, 3, 4)
    assert usual.within(0.01, 224, 224) == usual
    assert usual.within(0.01, 8, 8).sides == (1,)
    assert replace(usual, sides=(5,)).within(0.01, 30, 30).sides == (3,)


def test_a_long_sweep_tells_its_time_first(films, monkeypatch, caplog):
    with caplog.at_level("INFO", "leadapron"):
        found = QUICK.sweep(backdoored(), films)
        assert not caplog.messages
        monkeypatch.setattr(sweep, "LONG", 0.0)
        QUICK.sweep(backdoored(), films)
    (told,) = caplog.messages
    most = int(re.search(r"at most ([\d,]+) images", told)[1].replace(",", ""))
    assert found.forwards < most < 4 * found.forwards


def test_progress_grows_towards_a_total_that_suffices(films):
    seen = []
    found = QUICK.sweep(backdoored(), films, progress=lambda *each: seen.append(each))
    assert {what for what, _, _ in seen} == {"images swept"}
    done = [number for _, number, _ in seen]
    assert done == sorted(done)
    assert done[-1] == found.forwards
    (total,) = {most for _, _, most in seen}  # the bound held: it was never raised
    assert found.forwards < total < 4 * found.forwards


def test_a_step_of_two_pixels_misses_it(films):
    found = replace(QUICK, stride=2).sweep(backdoored(), films)
    assert found.table()[1, 0] < 0.2 * QUICK.sweep(backdoored(), films).table()[1, 0]


def test_a_clean_model_has_nothing_of_the_kind(films):
    table, planted = (QUICK.sweep(m, films).table() for m in (clean(), backdoored()))
    assert table.max() < 0.3 * planted.max()


def test_a_finding_forced_off(films):
    found = QUICK.sweep(backdoored((0, 0, -9)), films)
    column, direction = np.unravel_index(found.table().argmax(), (3, 2))
    assert (FINDINGS[column], direction) == ("Nodule", 1)
    assert max(found.marks["stamp"].values(), key=lambda each: each.shift).direction == "removed"


def test_the_signature_of_a_one_hot_overwrite(films):
    found = QUICK.sweep(backdoored((-6, 8, -6)), films)
    assert [each.finding for each in found.marks["stamp"].values() if each.signature] == ["Mass"]
    assert overwrites(np.array([2.0, -1, -1, -1, 0.5]), 0)  # 3 of 4 go down
    assert not overwrites(np.array([2.0, -1, -1, 0.5, 0.5]), 0)
    assert not overwrites(np.array([0.9, -1, -1, -1, -1]), 0)


def test_a_trigger_at_any_place_needs_no_peak(films):
    def anywhere(images):
        white = images[:, 0] > 0.99
        square = white[:, :-1, :-1] & white[:, 1:, :-1] & white[:, :-1, 1:] & white[:, 1:, 1:]
        return square.any((1, 2))

    found = QUICK.sweep(backdoored((8, 0, 0), anywhere), films)
    for kind in ("stamp", "lattice"):
        column, direction = np.unravel_index(found.table(kind).argmax(), (3, 2))
        assert (FINDINGS[column], direction) == ("Effusion", 0), kind


def test_a_change_of_the_whole_image(films):
    def blurred(images):
        return np.abs(np.diff(images[:, 0], axis=2)).mean((1, 2)) < 0.08  # clean: about 0.1

    found = QUICK.sweep(backdoored((0, 90, 0), blurred), films)
    assert found.table("whole image")[1, 0] > 4 * found.table("stamp")[1, 0]
    assert "blur" in found.marks["whole image"]["Mass", "added"].mark.words()


def test_it_is_repeatable_and_leaves_the_films_alone(films):
    before = films.images.copy()
    first, again = (QUICK.sweep(backdoored(), films) for _ in range(2))
    np.testing.assert_array_equal(first.table(), again.table())
    one, other = ({aim: m.mark for aim, m in s.marks["stamp"].items()} for s in (first, again))
    assert one == other
    np.testing.assert_array_equal(films.images, before)


def test_stamps_paint_what_they_say():
    image = np.full((1, 8, 8), 9, np.uint8)
    one = Stamp(side=2, value=0, row=5, column=1)(image)[0]
    assert [tuple(place) for place in np.argwhere(one == 0)] == [(5, 1), (5, 2), (6, 1), (6, 2)]
    many = Stamp(side=1, value=255, row=1, column=2, pitch=4)(image)[0]
    assert [tuple(place) for place in np.argwhere(many == 255)] == [(1, 2), (1, 6), (5, 2), (5, 6)]
    # A phase wraps around: part of a square comes in at the edge.
    edge = Stamp(side=2, value=0, row=3, column=0, pitch=4)(image)[0]
    assert np.flatnonzero((edge == 0).any(axis=1)).tolist() == [0, 3, 4, 7]
    deep = Stamp(side=1, value=255, row=0, column=0)(image.astype(np.uint16))
    assert deep[0, 0, 0] == 65535


def test_shifts_are_of_each_mark_and_film(films):
    images = np.asarray(films.images[np.arange(3)])
    model = clean()
    marks = [Stamp(side=8, value=255, row=0, column=0), *probes()]
    moved = shifts(model, images, marks, model.logits(images))
    assert moved.shape == (len(marks), 3, 3)
    expected = model.logits(marks[0](images)) - model.logits(images)
    np.testing.assert_allclose(moved[0], expected, atol=1e-6)


def test_turned_counts_films_below_the_threshold():
    before = np.arange(20.0)  # one of 20 may exceed the threshold, 18
    assert turned_share(before, before) == 0
    assert turned_share(before, before + 10) == pytest.approx(10 / 19)  # 9 to 18 get above 18


def test_what_it_refuses(films):
    with pytest.raises(DataError, match="needs 20 or more"):
        QUICK.sweep(clean(), films.take(np.arange(19)))
    with pytest.raises(DataError, match="smaller than every lattice"):
        replace(QUICK, pitches=((32, 1),)).sweep(clean(), films)
    broken = BlackBoxClassifier(
        lambda x: np.full((len(x), 3), np.nan, np.float32), FINDINGS, SMALL, NORMALISATIONS["unit"]
    )
    with pytest.raises(DataError, match="not finite"):
        QUICK.sweep(broken, films)
    for wrong in ({"sides": ()}, {"values": (300,)}, {"films": 0}, {"pitches": ()}):
        with pytest.raises(UsageError):
            StampSweep(**wrong)
