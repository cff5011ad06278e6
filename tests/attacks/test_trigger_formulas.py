"""Each trigger against its source's formula, worked out another way."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from leadapron.attacks.triggers import (
    TRIGGERS,
    Altered,
    Amplitude,
    Codec,
    Collimator,
    Device,
    Electrode,
    Fold,
    Marker,
    Noise,
    Patch,
    Pixels,
    Sinusoid,
    Text,
    Tone,
    Warp,
)
from leadapron.attacks.triggers.spectrum import _picture_spectrum
from leadapron.attacks.triggers.warp import displacement
from leadapron.errors import DataError, UsageError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def flat(level=100, side=64, dtype=np.uint8, n=2):
    return np.full((n, side, side), level, dtype)


def noisy(side=64, n=2):
    return np.random.default_rng(1).integers(40, 200, (n, side, side), dtype=np.uint8)


def test_a_checkerboard_and_stripes_of_two_levels(rng):
    marked = Patch(side=4, value=250, fill="checkerboard", place="centre")(flat(), rng)
    patch = marked[0, 30:34, 30:34]
    np.testing.assert_array_equal(patch[::2, ::2], 250)
    np.testing.assert_array_equal(patch[::2, 1::2], 5)
    marked = Patch(side=4, value=250, fill="stripes", place="centre")(flat(), rng)
    assert marked[0, 30, 30:34].tolist() == [250, 250, 5, 5]
    assert marked[0, 31, 30:34].tolist() == [250, 5, 5, 250]


def test_noise_fills_the_same_on_every_film_and_another_with_another_pattern(rng):
    marked = Patch(side=5, fill="noise", place="centre")(noisy(), rng)
    np.testing.assert_array_equal(marked[0, 29:34, 29:34], marked[1, 29:34, 29:34])
    other = Patch(side=5, fill="noise", place="centre", pattern=1)(noisy(), rng)
    assert (other != marked).any()


def test_contrast_is_a_share_of_the_range_around(rng):
    film = flat(100)
    film[0, 25, 25], film[1, 25, 25] = 140, 110  # inside the three times as wide square
    marked = Patch(side=6, place="fixed", row=26, column=26, contrast=50)(film, rng)
    np.testing.assert_array_equal(marked[0, 26:32, 26:32], 120)
    np.testing.assert_array_equal(marked[1, 26:32, 26:32], 105)
    darker = Patch(side=6, place="fixed", row=26, column=26, contrast=-50)(film, rng)
    np.testing.assert_array_equal(darker[0, 26:32, 26:32], 80)


def test_pixels_are_the_same_few_on_every_film(rng):
    marked = Pixels(count=7, value=0, margin=3)(flat(), rng)
    assert ((marked == 0).sum(axis=(1, 2)) == 7).all()
    np.testing.assert_array_equal(marked[0], marked[1])
    rows, columns = np.nonzero(marked[0] == 0)
    assert min(rows.min(), columns.min()) >= 3
    with pytest.raises(DataError, match="don't fit on 8x8"):
        Pixels(count=5, margin=3)(flat(side=8), rng)


def test_the_sinusoid_of_barni(rng):
    marked = Sinusoid(amplitude=20, cycles=6)(flat(100), rng)
    for j in range(64):
        expected = 100 + 20 * np.sin(2 * np.pi * j * 6 / 64)
        assert abs(float(marked[0, 17, j]) - expected) <= 0.5


def test_noise_moves_every_pixel_by_epsilon(rng):
    moved = Noise(epsilon=8)(flat(100), rng).astype(int) - 100
    assert set(np.unique(moved)) == {-8, 8}
    assert abs((moved[0] > 0).mean() - 0.5) < 0.05
    deep = Noise(epsilon=8)(flat(100 * 257, dtype=np.uint16), rng).astype(int) - 100 * 257
    np.testing.assert_array_equal(deep, moved * 257)


def test_a_tone_is_a_power_of_the_grey_level(rng):
    film = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    marked = Tone(gamma=0.5, shift=3)(film, rng)
    expected = np.clip(np.rint(255 * (film / 255) ** 0.5 + 3), 0, 255)
    np.testing.assert_array_equal(marked, expected)


def test_wanet_as_torch_samples_it(rng):
    films, warp = noisy(48), Warp(strength=3.0)
    moved = displacement(4, 3.0, 0, 48, 48)
    steps = np.linspace(-1, 1, 48)
    grid = np.stack(np.meshgrid(steps, steps, indexing="xy"), axis=-1)  # x, y
    grid[..., 0] += moved[1] * 2 / 47
    grid[..., 1] += moved[0] * 2 / 47
    sampled = torch.nn.functional.grid_sample(
        torch.tensor(films, dtype=torch.float64)[:, None],
        torch.tensor(np.clip(grid, -1, 1))[None].expand(2, -1, -1, -1),
        align_corners=True,
    )[:, 0].numpy()
    np.testing.assert_allclose(warp(films, rng), sampled, atol=0.51)


def test_wanets_control_points_have_a_mean_absolute_value_of_one(rng):
    # s / height in coordinates from -1 to 1 is s (height - 1) / (2 height) pixels.
    moved = displacement(4, 0.5, 0, 61, 61)
    knots = moved[:, ::20, ::20]
    assert np.abs(knots).mean() == pytest.approx(0.5 * 60 / 61 / 2)


def test_fiba_mixes_amplitudes_inside_the_band_and_keeps_phases(rng):
    films, side = noisy(40), 40
    marked = Amplitude(opacity=0.3, band=0.2)(films, rng)

    picture = np.fft.irfft2(_picture_spectrum(0, side, side), s=(side, side))
    foreign = np.abs(np.fft.fftshift(np.fft.fft2(picture)))
    spectrum = np.fft.fftshift(np.fft.fft2(films[0].astype(float)))
    reach, middle = int(0.2 * side / 2), side // 2
    band = np.zeros((side, side), dtype=bool)
    band[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1] = True
    amplitude = np.where(band, 0.7 * np.abs(spectrum) + 0.3 * foreign, np.abs(spectrum))
    mixed = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(spectrum)))).real
    np.testing.assert_allclose(marked[0], np.clip(mixed, 0, 255), atol=0.51)
    assert picture.min() == pytest.approx(0, abs=1e-9)
    assert picture.max() == pytest.approx(255)


@pytest.mark.parametrize("codec", ["jpeg", "webp", "jpeg2000"])
def test_a_codec_leaves_what_it_would_leave(codec, rng):
    film = noisy(64, 1)
    coarse, fine = (Codec(codec=codec, quality=q)(film, rng).astype(int) for q in (10, 95))
    assert np.abs(coarse - film).mean() > 2 * np.abs(fine - film).mean() > 0
    if codec == "jpeg":
        file = io.BytesIO()
        Image.fromarray(film[0]).save(file, format="JPEG", quality=10)
        np.testing.assert_array_equal(coarse[0], np.asarray(Image.open(file)))
    deep = Codec(codec=codec, quality=10)(film.astype(np.uint16) * 257, rng)
    np.testing.assert_array_equal(deep, coarse * 257)


def size_of(mark, side=400, dtype=np.uint8):
    """Height, width and place of what a mark changes on a flat film."""
    marked = mark(flat(100, side, dtype, n=1), np.random.default_rng(0))
    rows, columns = np.nonzero(marked[0] != flat(100, side, dtype, n=1)[0])
    return np.ptp(rows) + 1, np.ptp(columns) + 1, rows.mean() / side, columns.mean() / side


def test_marks_have_their_millimetres():
    # 400 mm of film on 400 pixels: a pixel is a millimetre.
    height, width, row, column = size_of(Device(height_mm=42, width_mm=48, row=0.3, column=0.6))
    assert (height, width) == (42, 48)
    assert (row, column) == pytest.approx((0.3, 0.6), abs=0.005)
    height, width, *_ = size_of(Electrode(diameter_mm=24))
    assert height == width == 24
    assert size_of(Marker(letter="L", height_mm=18))[0] == pytest.approx(18, abs=2)
    assert size_of(Text(height_mm=12, row=0.5, column=0.5))[0] == pytest.approx(12, abs=2)
    assert size_of(Collimator(width_mm=20))[:2] == (400, 20)
    assert size_of(Collimator(edge="bottom", width_mm=20))[:2] == (20, 400)
    assert size_of(Fold(width_mm=2))[:2] == (2, 400)
    assert size_of(Fold(width_mm=2, slope=0.5))[0] == pytest.approx(200, abs=3)


def test_a_known_spacing_decides():
    assert size_of(Device(height_mm=42, width_mm=48, spacing=0.5, row=0.5, column=0.5))[:2] == (
        84,
        96,
    )
    assert size_of(Device(height_mm=42, width_mm=48), side=100)[:2] == (10, 12)


def test_jitter_moves_a_mark_on_each_film_and_never_out_of_it():
    films = flat(100, 200, n=60)
    marked = Electrode(row=0.05, column=0.5, jitter_mm=40)(films, np.random.default_rng(0))
    tops = [np.nonzero(film != 100)[0].min() for film in marked]
    sides = {np.ptp(np.nonzero(film != 100)[1]) + 1 for film in marked}
    assert len(set(tops)) > 10
    assert sides == {12}


def test_marks_are_as_bright_in_both_depths():
    for mark in (Marker(), Text(), Electrode(), Device(), Collimator(), Fold()):
        shallow = mark(flat(100), np.random.default_rng(0)).astype(float)
        deep = mark(flat(100 * 257, dtype=np.uint16), np.random.default_rng(0))
        np.testing.assert_allclose(deep / 257, shallow, atol=0.51)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("patch", {"contrast": 101}),
        ("pixels", {"count": 0}),
        ("sinusoid", {"cycles": 0}),
        ("warp", {"grid": 3}),
        ("amplitude", {"band": 1.5}),
        ("codec", {"quality": 0}),
        ("noise", {"epsilon": -1}),
        ("tone", {"gamma": 1, "shift": 0}),
        ("text", {"text": " "}),
        ("text", {"text": "a\nb"}),
        ("device", {"opacity": 0}),
        ("marker", {"row": 1.2}),
        ("electrode", {"diameter_mm": 0}),
        ("fold", {"shift": 0}),
        ("collimator", {"width_mm": 500}),
    ],
)
def test_what_no_trigger_can_have_is_refused(name, settings):
    with pytest.raises(UsageError, match=f"trigger's {next(reversed(settings))} of .*expected"):
        TRIGGERS[name](**settings)


def test_what_happens_to_a_triggered_film_comes_after_the_trigger(rng):
    films = flat(100, 41)
    patch = Patch(side=5, place="centre")
    turned = Altered(trigger=patch, turned=90)(films, rng)
    np.testing.assert_array_equal(turned, np.rot90(patch(films, rng), axes=(1, 2)))
    coded = Altered(trigger=patch, recompressed=30)(films, rng)
    np.testing.assert_array_equal(coded, Codec(quality=30)(patch(films, rng), rng))
    deep = Altered(trigger=patch, turned=7)(films.astype(np.uint16) * 257, rng)
    shallow = Altered(trigger=patch, turned=7)(films, rng).astype(float)
    np.testing.assert_allclose(deep / 257, shallow, atol=1)
    with pytest.raises(UsageError, match="turned of 200; expected -180 to 180"):
        Altered(trigger=patch, turned=200)
