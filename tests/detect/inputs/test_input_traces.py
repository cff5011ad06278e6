"""Traces in a film's own pixels: what they see on phantoms, and what each is made of."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.attacks.triggers import Blend, Codec, Noise, Patch, Sinusoid
from leadapron.detect.inputs import Readings, Traces
from leadapron.detect.inputs.traces import _comb, _contrasts, _spectrum, _wave
from leadapron.errors import DataError, UsageError
from leadapron.metrics import auroc
from leadapron.sources import open_source


def readings(images):
    return Readings(images=images, logits=np.zeros((len(images), 1), np.float32), features=None)


@pytest.fixture(scope="module")
def films():
    return open_source("phantom:64", cache="none", count=400, seed=71).images[np.arange(400)]


@pytest.fixture(scope="module")
def state(films):
    return Traces().fit(None, readings(films[:250]))


def scored(images, state):
    return Traces().score(None, readings(images), state)


@pytest.mark.parametrize(
    ("trigger", "least"),
    [
        (Codec(quality=75), 0.99),
        (Noise(), 0.99),
        (Blend(opacity=0.15), 0.99),
        (Sinusoid(amplitude=20, cycles=12), 0.95),
        (Patch(side=3, place="random"), 0.95),
        (Patch(side=5, value=0, place="random"), 0.9),
        (Patch(side=1, place="corner", margin=4), 0.9),
    ],
)
def test_triggers_leave_traces(films, state, trigger, least):
    marked = trigger(films[250:], np.random.default_rng(0))
    scores = np.concatenate([scored(films[250:], state), scored(marked, state)])
    assert auroc(np.repeat([0, 1], 150), scores) > least


def test_films_are_scored_one_by_one_and_by_their_upper_bits(films, state):
    together = scored(films[:9], state)
    alone = np.concatenate([scored(film[None], state) for film in films[:9]])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    wide = films[:250].astype(np.uint16) * np.uint16(257)
    np.testing.assert_allclose(
        Traces().score(None, readings(wide[:9]), Traces().fit(None, readings(wide))), together
    )


def test_the_largest_trace_counts_in_steps_of_clean_films(films, state):
    """A white square on black: its contrast is 255, whatever else is odd about it."""
    scales = {name: value for name, value in state.items() if name.endswith(" scale")}
    assert len(scales) == 7
    film = films[:1].copy()
    film[0, 20:25, 20:25], film[0, 21:24, 21:24] = 0, 255
    median, step = state["flat square scale"]
    assert scored(film, state)[0] >= (255 - median) / step


def test_contrasts_by_hand():
    film = np.full((3, 40, 40), 100, np.uint8)
    film[0, 5:8, 9:12] = 140
    film[1, 5, 9] = 30
    film[2, 5:8, 9:12] = np.arange(9).reshape(3, 3) + 150
    found = _contrasts(film)
    np.testing.assert_array_equal(found["pixel"], [0, 70, 0])
    np.testing.assert_array_equal(found["square"], [40, 0, 50])
    np.testing.assert_array_equal(found["flat square"], [40, 0, 0])


def test_a_wave_stands_out_where_it_is_and_turns_with_the_film(films):
    usual = np.zeros((64, 64), np.float32)
    columns = np.arange(64) / 64
    plain = np.random.default_rng(0).integers(90, 110, (1, 64, 64))
    waved = (plain + 30 * np.sin(2 * np.pi * 9 * columns)).astype(np.uint8)
    plain = plain.astype(np.uint8)
    assert _wave(waved, usual)[0] > _wave(plain, usual)[0] + 2
    turned = np.ascontiguousarray(waved.transpose(0, 2, 1))
    np.testing.assert_allclose(_wave(turned, usual), _wave(waved, usual), rtol=1e-5)
    # Power at 9 of 64 cycles across: ring 2 of 8, in the first direction of 6, and nowhere else.
    gain = _spectrum(waved) - _spectrum(plain)
    assert gain.argmax() == 2 * 6


def test_combs_by_hand():
    """Every other level is lacking from a film whose levels were doubled."""
    ramp = np.arange(64, dtype=np.uint8).repeat(64).reshape(1, 64, 64)
    smooth, doubled = _comb(ramp)[0], _comb(ramp * 2)[0]
    assert smooth[1] == 0
    assert doubled[1] == pytest.approx(63 / 127)
    assert doubled[0] > smooth[0]
    np.testing.assert_allclose(doubled[2:], np.log(65 / 4096))


def test_what_can_not_be_described_is_refused(films):
    with pytest.raises(DataError, match="expected 4 or more"):
        Traces().fit(None, readings(films[:3]))
    with pytest.raises(DataError, match="all look the same"):
        Traces().fit(None, readings(films[:1].repeat(8, axis=0)))
    with pytest.raises(UsageError, match="expected 8 or more"):
        Traces().fit(None, readings(films[:8, :7]))
