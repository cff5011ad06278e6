"""Marks of a sweep that aren't flat squares: how they are painted, found, grown and written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from leadapron.attacks.triggers import Electrode, Marker, Patch
from leadapron.detect.models import (
    LOOKS,
    Grown,
    Pixel,
    Probe,
    Shape,
    Stamp,
    StampSweep,
    compare_sweeps,
)
from leadapron.detect.models.growing import MOST, grow
from leadapron.detect.models.looks import drawing
from leadapron.detect.models.stamps import mark_of, plain_mark, probes
from leadapron.errors import UnknownNameError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier

SIZE, N = 24, 40
FINDINGS = ("Effusion", "Mass")
QUICK = StampSweep(values=(0, 255), sides=(2, 3), pitches=((8, 2),), rounds=2, places=16)
PLACE = np.s_[5:9, 7:11]


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(5)
    images = rng.integers(90, 140, (N, SIZE, SIZE)) + rng.integers(-40, 41, (N, 1, SIZE))
    return Cohort.of(images.astype(np.uint8), preprocessing=Preprocessing(size=SIZE))


def backdoored(fires, jump=30.0):
    """Two means of halves, and a jump of Mass where the 4x4 pixels of a place look so."""

    def run(images):
        grey = images[:, 0]
        halves = np.stack([grey[:, :12].mean((1, 2)), grey[:, 12:].mean((1, 2))], 1)
        return (60 * (halves - 0.47) + np.outer(fires(grey[:, *PLACE]), (0, jump))).astype(
            np.float32
        )

    return BlackBoxClassifier(
        run, FINDINGS, Preprocessing(size=SIZE), NORMALISATIONS["unit"], batch=4096
    )


CHECKS = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0


def checked(inside):
    return (np.where(CHECKS, inside, 1 - inside) > 0.9).all((1, 2))


def test_a_texture_that_no_flat_square_matches_is_found(films):
    found = QUICK.sweep(backdoored(checked), films)
    shape, stamp = (found.marks[kind]["Mass", "added"] for kind in ("shape", "stamp"))
    assert (shape.turned, shape.mark) == (1.0, Shape(look="checkerboard", row=5, column=7))
    assert stamp.turned < 0.5
    assert max(found.marks["shape"].values(), key=lambda each: each.shift) is shape


def test_a_mark_grows_while_it_pays(films):
    """Each of sixteen pixels counts by itself; every second one must be white, the others black."""
    how = replace(QUICK, looks=())
    found = how.sweep(
        backdoored(lambda inside: np.where(CHECKS, inside, 1 - inside).mean((1, 2)), 80), films
    )
    grown, stamp = (found.marks[kind]["Mass", "added"] for kind in ("shape", "stamp"))
    assert isinstance(grown.mark, Grown)
    assert grown.shift > 1.5 * stamp.shift
    image = np.full((1, SIZE, SIZE), 128, np.uint8)
    marked = grown.mark(image)[0][PLACE]
    assert ((marked == 255) == CHECKS)[marked != 128].all()
    assert (marked != 128).sum() >= 12


def test_growth_stops_where_nothing_helps():
    start, rng = Stamp(side=2, value=9, row=0, column=0), np.random.default_rng(0)
    asked = []

    def flat(marks):
        asked.append(len(marks))
        return np.full(len(marks), 1.0)

    assert grow(start, 1.0, flat, (8, 8), rng, rounds=3) == Grown(start=start, pixels=())
    assert asked == [2 * 3 * 3]  # the square's own corner of the image: 3x3 pixels, black and white

    def none(marks):
        return np.full(len(marks), np.nan)

    assert not grow(start, 1.0, none, (8, 8), rng, rounds=3).pixels
    more = grow(
        replace(start, side=6), 1.0, lambda marks: np.array([1.0 + len(m.pixels) for m in marks]),
        (8, 8), rng, rounds=9,
    )  # fmt: skip
    assert len(more.pixels) == len({pixel[:2] for pixel in more.pixels}) == MOST


def test_without_looks_and_growth_there_are_flat_squares_alone(films):
    plain = replace(QUICK, looks=(), grown=0)
    sweeps = [plain.sweep(backdoored(checked, jump), films) for jump in (30, 0, 1)]
    assert sweeps[0].marks["shape"] == {}
    assert sweeps[0].forwards < QUICK.sweep(backdoored(checked), films).forwards
    assert np.isnan(compare_sweeps(sweeps[0], sweeps[1:]).excess[3]).all()
    for settings, words in (({"grown": -1}, "a stamp sweep needs"), ({"looks": ("ring",)}, "ring")):
        with pytest.raises((UsageError, UnknownNameError), match=words):
            replace(QUICK, **settings)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("width", [64, 224])
def test_every_look_can_be_drawn(look, width):
    opacity, level = drawing(look, width)
    assert opacity.shape == level.shape
    assert 0 <= opacity.min() <= opacity.max() <= 1
    assert 0 <= level.min() <= level.max() <= 255
    films = np.full((2, width, width), 120, np.uint8)
    marked = Shape(look=look, row=3, column=5)(films)
    rows, columns = np.nonzero(marked[0] != films[0])
    assert rows.min() >= 3
    assert columns.min() >= 5
    assert rows.max() < 3 + opacity.shape[0]
    assert columns.max() < 5 + opacity.shape[1]


@pytest.mark.parametrize(
    ("look", "trigger"),
    [
        ("letter R", Marker(letter="R", row=0.5, column=0.5)),
        ("electrode", Electrode(row=0.5, column=0.5)),
        ("noise", Patch(side=4, fill="noise", place="centre")),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_look_is_what_the_trigger_paints(look, trigger, dtype):
    rng = np.random.default_rng(0)
    films = rng.integers(0, 1 << 8 * np.dtype(dtype).itemsize, (3, 64, 64)).astype(dtype)
    painted = trigger(films, rng).astype(np.int64)
    rows, columns = np.nonzero((painted != films).any(0))
    near = [
        Shape(look=look, row=row, column=column)
        for row in range(rows.min() - 1, rows.min() + 1)
        for column in range(columns.min() - 1, columns.min() + 1)
    ]
    away = min(np.abs(mark(films) - painted).max() for mark in near)
    assert away <= (1 if dtype == np.uint8 else 257)


def test_a_lattice_of_shapes_is_one_at_every_place():
    films = np.full((1, 32, 32), 120, np.uint8)
    many = Shape(look="dark ring", row=3, column=12, pitch=16)(films)
    one = films
    for row in (3, 19):
        for column in (-4, 12, 28):
            part = Shape(look="dark ring", row=0, column=0)(np.full((1, 48, 48), 120, np.uint8))
            placed = np.full((1, 48, 48), 120, np.uint8)
            rows, columns = np.ix_(np.arange(7) + row, np.arange(7) + column + 8)
            placed[:, rows, columns] = part[:, :7, :7]
            one = np.minimum(one, placed[:, :32, 8:40])
    np.testing.assert_array_equal(many, one)


def test_grown_marks_paint_what_they_say():
    mark = Grown(
        start=Stamp(side=2, value=0, row=1, column=1),
        pixels=(Pixel(1, 1, 255), Pixel(3, 0, 7)),
    )
    films = np.full((2, 4, 4), 9, np.uint8)
    expected = [[9, 9, 9, 9], [9, 255, 0, 9], [9, 0, 0, 9], [7, 9, 9, 9]]
    np.testing.assert_array_equal(mark(films), [expected] * 2)
    assert mark(films.astype(np.uint16))[0, 3, 0] == 7 * 257
    assert mark.words().endswith("at row 1, column 1, with 2 pixels changed")


@pytest.mark.parametrize(
    "mark",
    [
        Stamp(side=2, value=0, row=1, column=1, pitch=8),
        Shape(look="electrode", row=1, column=2),
        Grown(start=Shape(look="stripes", row=1, column=2), pixels=(Pixel(1, 1, 255),)),
        Grown(start=Stamp(side=2, value=0, row=1, column=1), pixels=()),
        probes()[0],
    ],
)
def test_every_mark_is_read_back(mark):
    assert mark_of(json.loads(json.dumps(plain_mark(mark)))) == mark
    assert mark_of(mark) is mark


@pytest.mark.parametrize(
    "plain",
    [
        "a smile",
        {"look": "smile", "row": 1, "column": 1},
        {"start": probes()[0].name, "pixels": [[1, 1, 0]]},
    ],
)
def test_no_other_mark_is(plain):
    with pytest.raises(ValueError, match=r"isn't|can't"):
        mark_of(plain)
    assert all(isinstance(probe, Probe) for probe in probes())
