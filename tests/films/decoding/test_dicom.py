from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicom_files import SECRETS, header, ramp, table, with_pixels, write
from leadapron.errors import FilmError
from leadapron.films.decoding import dicom
from leadapron.films.decoding.dicom import read_dicom, read_header
from leadapron.films.decoding.pictures import read_picture
from leadapron.types import Form

SALT = bytes(32)


@pytest.fixture
def read(tmp_path):
    """Write a dataset and read its film."""

    def written_and_read(dataset: Dataset, window: str = "header", **kw):
        return read_dicom(str(write(tmp_path / "film", dataset, **kw)), window)

    return written_and_read


def refusal(call, *arguments, **settings) -> str:
    with pytest.raises(FilmError) as caught:
        call(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert not [secret for secret in SECRETS if secret in message]
    return message


def levels(unit: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 at the film's levels."""
    return np.clip(unit, 0, 1) * np.iinfo(like.dtype).max


def assert_levels(film: np.ndarray, unit: np.ndarray) -> None:
    """Equal but for rounding, which may tip one level."""
    assert film.dtype in (np.uint8, np.uint16)
    np.testing.assert_allclose(film.astype(float), levels(unit, film), atol=0.51)


def spread(bits: int, *, signed: bool = False) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def by_pydicom(dataset: Dataset, stored: np.ndarray, index: int = 0) -> np.ndarray:
    """The windowed film between 0 and 1, by pydicom's own functions."""
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[index].LUTDescriptor[2]
        return apply_voi(values, dataset, index) / ((1 << bits) - 1)
    # Its output spans what the modality transform can give.
    low, high = spread(dataset.BitsStored, signed=stored.dtype.kind == "i")
    if dataset.get("ModalityLUTSequence"):
        low, high = spread(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
    elif "RescaleSlope" in dataset:
        low, high = (x * dataset.RescaleSlope + dataset.RescaleIntercept for x in (low, high))
    return (apply_windowing(values, dataset, index) - low) / (high - low)


# ---------------------------------------------------------------- stored values


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_all_that_is_stored_spans_the_range(read, bits, signed, photometric):
    stored = ramp(bits, signed=signed)
    dataset = with_pixels(stored, BitsStored=bits, PhotometricInterpretation=photometric)
    low, high = spread(bits, signed=signed)
    unit = (stored.astype(float) - low) / (high - low)
    unit = 1 - unit if photometric == "MONOCHROME1" else unit
    for window in ("full", "film"):
        film, form = read(dataset, window)
        assert film.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert_levels(film, unit)
        assert form.window == window
    assert (form.height, form.width, form.bits) == (24, 20, bits)
    assert (form.kind, form.photometric) == ("DICOM", photometric)


def test_without_a_window_eight_bits_are_shown_as_they_are_and_more_from_lowest_to_highest(read):
    film, form = read(with_pixels(np.full((4, 4), 100, np.uint8)))
    assert form.window == "full"
    assert (film == 100).all()
    stored = ramp(12) // 2 + 300
    film, form = read(with_pixels(stored, BitsStored=12))
    assert form.window == "film"
    assert_levels(film, (stored - 300.0) / (stored.max() - 300.0))


def test_overlays_in_unused_bits_are_not_seen(read):
    stored = ramp(12)
    overlay = stored | np.uint16(0xF000)
    expected, _ = read(with_pixels(stored, BitsStored=12), "full")
    film, _ = read(with_pixels(overlay, BitsStored=12), "full")
    np.testing.assert_array_equal(film, expected)
    film, _ = read(with_pixels(stored << 4 | np.uint16(7), BitsStored=12, HighBit=15), "full")
    np.testing.assert_array_equal(film, expected)
    signed = ramp(12, signed=True)
    expected, _ = read(with_pixels(signed, BitsStored=12), "full")
    film, _ = read(with_pixels(signed & 0x0FFF, BitsStored=12), "full")
    np.testing.assert_array_equal(film, expected)


def test_padding_is_black_and_does_not_stretch_the_window(read):
    stored = ramp(12) // 8 + 1000
    padded = stored.copy()
    padded[:6] = 4095
    inside = (stored[6:].astype(float) - stored[6:].min()) / np.ptp(stored[6:])
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        facts = {"BitsStored": 12, "PhotometricInterpretation": photometric}
        film, _ = read(with_pixels(padded, PixelPaddingValue=4095, **facts))
        assert not film[:6].any()
        assert_levels(film[6:], 1 - inside if photometric == "MONOCHROME1" else inside)
    padded[:3] = 4000
    padding = {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}
    film, _ = read(with_pixels(padded, BitsStored=12, **padding))
    assert not film[:6].any()
    assert_levels(film[6:], inside)
    everything = np.full((4, 4), 9, np.uint16)
    film, _ = read(with_pixels(everything, PixelPaddingValue=9))
    assert not film.any()


def test_signed_padding(read):
    stored = ramp(12, signed=True) // 4
    stored[:2] = -2000
    film, _ = read(with_pixels(stored, PixelPaddingValue=-2000), "film")
    inside = stored[2:].astype(float)
    assert not film[:2].any()
    assert_levels(film[2:], (inside - inside.min()) / np.ptp(inside))


def test_colour_turns_grey_as_pillow_does_it(read):
    colour = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    film, form = read(with_pixels(colour))
    assert "colour" in form.odd
    pillow = np.asarray(Image.fromarray(colour).convert("L")).astype(int)
    assert np.abs(film - pillow).max() <= 1
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1)).reshape(10, 12, 3)
    film, _ = read(with_pixels(planes, PlanarConfiguration=1))
    assert np.abs(film - pillow).max() <= 1


# ---------------------------------------------------------------- modality and VOI


@pytest.mark.parametrize(
    ("slope", "intercept"), [(1, 0), (1, -1024), (2.5, 100), (0.001, 1e6), (-1, 4095)]
)
@pytest.mark.parametrize("signed", [False, True])
def test_rescaled(read, slope, intercept, signed):
    stored = ramp(12, signed=signed)
    dataset = with_pixels(stored, BitsStored=12, RescaleSlope=slope, RescaleIntercept=intercept)
    values = stored * float(slope) + intercept
    unit = (values - values.min()) / np.ptp(values)
    for window in ("film", "full"):
        assert_levels(read(dataset, window)[0], unit)
    dataset.WindowCenter, dataset.WindowWidth = float(np.median(values)), float(np.ptp(values) / 2)
    if slope > 0 and dataset.WindowWidth > 256:
        # pydicom's own output range is upside down below 0, and its steps are whole.
        assert_levels(read(dataset)[0], by_pydicom(dataset, stored))


@pytest.mark.parametrize("first", [0, 100, 300])
def test_modality_table(read, first):
    stored = ramp(12)
    entries = np.sqrt(np.linspace(0, 1, 3000)) * 1023
    dataset = with_pixels(
        stored, BitsStored=12, WindowCenter=512, WindowWidth=700,
        ModalityLUTSequence=Sequence([table(entries, first, 10)]),
    )  # fmt: skip
    # pydicom wants tables of 8 or 16 bits.
    sixteen = Dataset()
    sixteen.update(dataset)
    sixteen.ModalityLUTSequence = Sequence([table(entries, first, 16)])
    values = apply_modality_lut(stored, sixteen).astype(float)
    assert_levels(read(dataset)[0], (values - 512 + 0.5) / 699 + 0.5)


def test_a_table_longer_than_its_index_can_count(read):
    stored = ramp(8)
    dataset = with_pixels(stored, ModalityLUTSequence=Sequence([table(range(4096), 0, 12)]))
    assert_levels(read(dataset, "full")[0], stored / 255.0)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(("signed", "first"), [(False, 0), (False, 200), (True, -1000)])
def test_voi_table(read, bits, signed, first):
    stored = ramp(12, signed=signed)
    entries = (np.linspace(0, 1, 2500) ** 2 * ((1 << bits) - 1)).round()
    dataset = with_pixels(
        stored, BitsStored=12, WindowCenter=1, WindowWidth=2,
        VOILUTSequence=Sequence([table(entries, first, bits), table(entries[::-1], first, bits)]),
    )  # fmt: skip
    film, form = read(dataset)
    assert form.window == "table"
    places = np.clip(stored.astype(int) - first, 0, 2499)
    assert_levels(film, entries[places] / ((1 << bits) - 1))
    second, form = read(dataset, "header:2")
    assert form.window == "table"
    assert_levels(second, entries[::-1][places] / ((1 << bits) - 1))
    if bits > 8:  # in tables of 8 bits pydicom looks values above 255 up at the wrong place
        assert_levels(film, by_pydicom(dataset, stored))
        assert_levels(second, by_pydicom(dataset, stored, 1))


@pytest.mark.parametrize("how", ["bytes", "one byte each", "big endian", "one entry"])
def test_voi_table_in_other_encodings(read, how):
    stored = ramp(8)
    entries = np.arange(256)[::-1] // 2
    item = table(entries, 0, 8)
    syntax = {}
    if how == "bytes":
        item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    elif how == "one byte each":
        item.add_new("LUTData", "OW", entries.astype("u1").tobytes())
    elif how == "big endian":
        item.add_new("LUTData", "OW", entries.astype(">u2").tobytes())
        syntax = {"syntax": ExplicitVRBigEndian}
    else:
        entries = np.array([100])
        item = table(entries, 0, 8)
    film, _ = read(with_pixels(stored, VOILUTSequence=Sequence([item])), "header:1", **syntax)
    assert_levels(film, entries[np.minimum(stored, len(entries) - 1)] / 255)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", ""])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_windows(read, function, signed, bits):
    stored = ramp(bits, signed=signed)
    middle = float(np.median(stored))
    dataset = with_pixels(
        stored, BitsStored=bits, VOILUTFunction=function or "LINEAR",
        WindowCenter=[middle, middle + 20], WindowWidth=[100, 31.5],
    )  # fmt: skip
    if not function:
        del dataset.VOILUTFunction
    for index in (0, 1):
        film, form = read(dataset, f"header:{index + 1}")
        with np.errstate(over="ignore"):
            assert_levels(film, by_pydicom(dataset, stored, index))
    assert form.window == f"{middle + 20:g}/31.5"
    np.testing.assert_array_equal(read(dataset)[0], read(dataset, "header:1")[0])
    assert refusal(read, dataset, "header:3") == "has no window 3"
    dataset.PhotometricInterpretation = "MONOCHROME1"
    with np.errstate(over="ignore"):
        assert_levels(read(dataset)[0], 1 - by_pydicom(dataset, stored))


def test_a_window_of_ones_own(read):
    stored = ramp(12)
    dataset = with_pixels(stored, BitsStored=12, WindowCenter=1, WindowWidth=10)
    film, form = read(dataset, "2000/1000")
    assert form.window == "2000/1000"
    dataset.WindowCenter, dataset.WindowWidth = 2000, 1000
    assert_levels(film, by_pydicom(dataset, stored))
    film, _ = read(dataset, "2000/1")
    np.testing.assert_array_equal(film, np.where(stored > 1999.5, 65535, 0))
    np.testing.assert_array_equal(read(dataset, "-5.5/0")[0], np.full(stored.shape, 65535))


@pytest.mark.parametrize(
    ("centre", "width"),
    [(None, 100), (100, None), (100, 0), (100, -5), ("", 100), ([1, 2], []), ("1e30", "1e30")],
)
def test_windows_that_make_no_sense_are_passed_over(read, centre, width):
    dataset = with_pixels(ramp(12), BitsStored=12)
    if centre is not None:
        dataset.WindowCenter = centre
    if width is not None:
        dataset.WindowWidth = width
    assert read(dataset)[1].window == "film"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "rescale slope"),
        ({"RescaleSlope": "1e300", "RescaleIntercept": 1}, "rescale slope"),
        ({"VOILUTSequence": Sequence([Dataset()])}, "damaged DICOM"),
        ({"VOILUTSequence": Sequence([table([], 0, 8)])}, "lookup table|damaged"),
        ({"NumberOfFrames": 2}, "has 2 frames; expected one"),
        ({"NumberOfFrames": -1}, "has -1 frames"),
        (
            {"PhotometricInterpretation": "PALETTE COLOR"},
            "is in palette colour.*expected grey or RGB",
        ),
        ({"PhotometricInterpretation": "HSV"}, "that isn't supported"),
        ({"PhotometricInterpretation": ""}, "has no photometric interpretation, so low values"),
        ({"PhotometricInterpretation": None}, "has no photometric interpretation, so low values"),
        ({"PhotometricInterpretation": "RGB"}, "fit its pixels|damaged pixels"),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0}, "damaged pixels"),
        ({"BitsStored": 17}, "stores 17 of 16 bits"),
        ({"BitsStored": 1}, "stores 1 of 16 bits"),
        ({"BitsAllocated": 24}, "of 24 bits"),
        ({"Rows": 30_000, "Columns": 30_000}, "has 30000x30000 pixels; expected at most 100"),
        ({"Rows": 25}, "damaged pixels"),
        ({"Rows": 0}, "has no Rows"),
        ({"PixelSpacing": [0.001, 1]}, None),
        ({"PixelSpacing": ["", 1]}, None),
        ({"PixelSpacing": 3}, None),
    ],
)
def test_headers_that_make_no_sense(read, values, message):
    dataset = with_pixels(ramp(16), **values)
    if message is None:
        assert read(dataset)[0].shape == (24, 20)
    else:
        with pytest.raises(FilmError, match=message) as caught:
            read(dataset)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["Rows", "Columns", "BitsStored", "BitsAllocated", "PixelData"])
def test_what_is_no_film(read, missing):
    dataset = with_pixels(ramp(8))
    delattr(dataset, missing)
    assert refusal(read, dataset) == f"has no {missing}: not a film"


# ---------------------------------------------------------------- headers that contradict pixels


def chest(bits: int, *, shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    """Values of a smooth picture with dark corners, floats."""
    down, across = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    noise = np.random.default_rng(bits).normal(0, 0.01, shape)
    unit = 0.9 * np.exp(-1.5 * (down**2 + across**2)) + 0.05 + noise
    return np.rint(np.clip(unit, 0, 1) * ((1 << bits) - 1))


def over_its_range(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / np.ptp(values)


@pytest.mark.parametrize(
    ("stated", "held"), [(16, 12), (16, 10), (14, 12), (16, 8), (10, 12), (8, 12)]
)
def test_a_table_that_states_other_bits_than_it_holds(read, stated, held):
    stored = chest(12).astype(np.uint16)
    entries = np.linspace(0, (1 << held) - 1, 4096).round()
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        dataset = with_pixels(
            stored, BitsStored=12, PhotometricInterpretation=photometric,
            VOILUTSequence=Sequence([table(entries, 0, stated)]),
        )  # fmt: skip
        film, form = read(dataset)
        unit = entries[stored.astype(int)] / ((1 << held) - 1)
        assert_levels(film, unit if photometric == "MONOCHROME2" else 1 - unit)
        assert "has a table of other bits" in form.odd


def test_a_table_of_bytes_that_states_more_bits(read):
    item = table(range(256), 0, 16)
    item.add_new("LUTData", "OW", np.arange(256, dtype=np.uint8).tobytes())
    film, form = read(with_pixels(chest(8).astype(np.uint8), VOILUTSequence=Sequence([item])))
    assert_levels(film, chest(8) / 255)
    assert form.odd == ("has a table of other bits",)


def test_a_table_that_lacks_one_bit_is_as_it_states(read):
    entries = np.arange(4096) // 2
    dataset = with_pixels(
        chest(12).astype(np.uint16), BitsStored=12,
        VOILUTSequence=Sequence([table(entries, 0, 12)]),
    )  # fmt: skip
    film, form = read(dataset)
    assert_levels(film, entries[chest(12).astype(int)] / 4095)
    assert form.odd == ()


@pytest.mark.parametrize(
    ("bits", "signed", "values", "first", "facts"),
    [
        (12, True, chest(12) - 2048, 63488, {}),
        (12, True, np.clip(chest(12) - 2048, 0, None), 63488, {}),
        (12, True, np.clip(chest(12) - 2048, None, -1), 63488, {}),
        (16, False, chest(12) + 36000, 36000 - 65536, {}),
        (16, True, chest(12) - 30000, 35536, {}),
        (12, False, chest(12), 65536 - 1000, {"RescaleSlope": 1, "RescaleIntercept": -1000}),
        (12, False, np.clip(chest(12), 1000, None), 65536 - 1000,
         {"RescaleSlope": 1, "RescaleIntercept": -1000}),
        (12, False, chest(12), -1000, {}),  # no unsigned film has an input of 64536
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_first_input_in_a_field_of_the_wrong_sign(read, name, bits, signed, values, first, facts):
    if facts and name == "ModalityLUTSequence":
        pytest.skip("a file has a table or a slope")
    entries = np.linspace(0, 65535, 6000).round()
    item = table(entries, 0, 16)
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [6000, first, 16])
    dataset = with_pixels(
        values.astype("<i2" if signed else "<u2"), BitsStored=bits, **{name: Sequence([item])},
        **facts,
    )  # fmt: skip
    film, form = read(dataset, "header" if name == "VOILUTSequence" else "0/131072")
    right = {63488: -2048, 36000 - 65536: 36000, 35536: -30000}.get(first, -1000)
    places = values + facts.get("RescaleIntercept", 0) - right
    unit = entries[places.astype(int)] / 65535
    if name == "VOILUTSequence":
        assert_levels(film, unit)
    else:
        np.testing.assert_allclose(film, 32768 + unit * 32768, atol=2)
    assert form.odd == ()


def test_windows_of_values_with_a_fractional_slope(read):
    stored = chest(12).astype(np.uint16)
    for slope, centre, width in (
        (1 / 4096, 0.5, 1.0), (1 / 4096, 0.5, 0.9), (1 / 4096, 0.4, 0.25), (0.00078, 1.6, 3.2),
        (-1 / 4096, -0.5, 0.9), (0.5, 1000.0, 200.0),
    ):  # fmt: skip
        facts = {"RescaleSlope": f"{slope:.12g}", "RescaleIntercept": "0"}
        dataset = with_pixels(
            stored, BitsStored=12, WindowCenter=centre, WindowWidth=width, **facts
        )
        unit = (stored * slope - (centre - width / 2)) / (width - abs(slope))
        film, form = read(dataset)
        np.testing.assert_allclose(film, levels(unit, film), atol=2)
        assert form.odd == (() if slope > 0 else ("looks inverted",))
        np.testing.assert_array_equal(read(dataset, f"{centre}/{width}")[0], film)
        exact = read(with_pixels(stored, BitsStored=12, WindowCenter=centre, WindowWidth=width,
                                 VOILUTFunction="LINEAR_EXACT", **facts))[0]  # fmt: skip
        np.testing.assert_allclose(exact, film, atol=65535 * abs(slope) / width + 2)


@pytest.mark.parametrize(
    ("centres", "widths", "taken"),
    [
        ([100, 2000], [0, 3000], "2000/3000"),
        (["", 2000], [100, 3000], "2000/3000"),
        ([2000, 2000], [0.5, 3000], "2000/3000"),  # no grey between whole numbers
        ([2000, 3], [3000, 0], "2000/3000"),
    ],
)
def test_the_first_window_that_makes_sense(read, centres, widths, taken):
    facts = {"WindowCenter": centres, "WindowWidth": widths}
    film, form = read(with_pixels(chest(12).astype(np.uint16), BitsStored=12, **facts))
    assert (form.window, form.odd) == (taken, ())
    assert_levels(film, (chest(12) - 2000 + 0.5) / 2999 + 0.5)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40000, 1000), (-500, 100), (-30000, 2)])
def test_a_window_beside_all_values(read, function, centre, width):
    stored = chest(12).astype(np.uint16)
    facts = {"BitsStored": 12, "VOILUTFunction": function}
    film, form = read(with_pixels(stored, WindowCenter=centre, WindowWidth=width, **facts))
    assert (form.window, form.odd) == ("film", ("is beside its window",))
    assert_levels(film, over_its_range(chest(12)))
    both = {"WindowCenter": [centre, 2000], "WindowWidth": [width, 3000]}
    film, form = read(with_pixels(stored, **both, **facts))
    assert (form.window, form.odd) == ("2000/3000", ("is beside its window",))
    beside = Sequence([table([7] * 10, 0, 12)])
    film, form = read(with_pixels(stored, VOILUTSequence=beside, **both, **facts))
    assert (form.window, form.odd[-1]) == ("2000/3000", "is beside its window")
    # What is asked for is taken, and doubted.
    film, form = read(with_pixels(stored, **both, **facts), "header:1")
    assert (film.min(), form.odd) == (film.max(), ("loses its greys",))
    film, form = read(with_pixels(stored, **facts), "40000/1000")
    assert (film.max(), form.odd) == (0, ("loses its greys",))
    plain = np.full((8, 8), 5, np.uint16)  # nothing to lose
    assert read(with_pixels(plain, WindowCenter=centre, WindowWidth=width, **facts))[1].odd == ()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
def test_greys_that_are_lost(read, photometric, signed):
    shift = 2048 if signed else 0
    stored = (chest(12) - shift).astype("<i2" if signed else "<u2")
    facts = {"BitsStored": 12, "PhotometricInterpretation": photometric}
    for centre, width, lost in (
        (2000, 1, True), (300, 60, True), (3800, 100, True), (2000, 3000, False), (900, 900, False),
    ):  # fmt: skip
        window = {"WindowCenter": centre - shift, "WindowWidth": width}
        form = read(with_pixels(stored, **window, **facts))[1]
        assert ("loses its greys" in form.odd) == lost, (centre, width)
    collimated = stored.copy()
    collimated[:, 6:] = stored.min()  # what isn't exposed has no greys to lose
    collimated[:4] = stored.max()
    window = {"WindowCenter": 1000 - shift, "WindowWidth": 2500}
    assert "loses its greys" not in read(with_pixels(collimated, **window, **facts))[1].odd
    two = np.where(stored > 0, 100, 50).astype(stored.dtype)
    assert "loses its greys" not in read(with_pixels(two, **facts))[1].odd


def in_a_stream(stored: np.ndarray, syntax: str, bits: int, **facts: object) -> Dataset:
    """A compressed film whose stream states so many bits."""
    if syntax == JPEG2000Lossless:
        utils = pytest.importorskip("openjpeg.utils")
        frame = utils.encode_array(stored, bits_stored=bits, photometric_interpretation=2)
    else:
        frame = bytes(pytest.importorskip("jpeg_ls").encode_array(stored))
    dataset = with_pixels(stored, **facts)
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize(("bits", "stated", "allocated"), [(14, 12, 16), (16, 10, 16), (12, 8, 8)])
def test_a_stream_of_more_bits_than_the_header_states(read, syntax, bits, stated, allocated):
    stored = chest(bits).astype(np.uint16)
    facts = {"BitsStored": stated, "BitsAllocated": allocated}
    film, form = read(in_a_stream(stored, syntax, bits, **facts), syntax=syntax)
    assert (form.bits, form.odd, film.dtype) == (bits, ("exceeds its bits",), np.uint16)
    assert_levels(film, over_its_range(chest(bits)))
    film, _ = read(in_a_stream(stored, syntax, bits, **facts), "full", syntax=syntax)
    assert_levels(film, chest(bits) / ((1 << bits) - 1))


def test_a_stream_that_states_more_bits_than_it_uses(read):
    stored = chest(12).astype(np.uint16)
    dataset = in_a_stream(stored, JPEG2000Lossless, 16, BitsStored=12)
    film, form = read(dataset, "full", syntax=JPEG2000Lossless)
    assert (form.bits, form.odd) == (12, ())
    assert_levels(film, chest(12) / 4095)


@pytest.mark.parametrize(("bits", "stated"), [(14, 12), (16, 12), (13, 10)])
def test_values_that_exceed_the_bits(read, bits, stated):
    stored = chest(bits).astype(np.uint16)
    film, form = read(with_pixels(stored, BitsStored=stated))
    assert (form.bits, form.odd) == (bits, ("exceeds its bits",))
    assert_levels(film, over_its_range(chest(bits)))
    signed = (chest(bits) - (1 << bits - 1)).astype(np.int16)
    film, form = read(with_pixels(signed, BitsStored=stated))
    assert (form.bits, form.odd) == (bits, ("exceeds its bits",))
    assert_levels(film, over_its_range(chest(bits)))


def test_an_overlay_is_doubted_where_nothing_says_that_it_is_one(read):
    stored = chest(12).astype(np.uint16)
    marked = stored.copy()
    marked[10:20, 10:20] |= 0x8000
    expected = read(with_pixels(stored, BitsStored=12))[0]
    film, form = read(with_pixels(marked, BitsStored=12))
    np.testing.assert_array_equal(film, expected)
    assert form.odd == ("exceeds its bits",)
    stated = with_pixels(marked, BitsStored=12)
    stated.add_new((0x6000, 0x0102), "US", 15)
    film, form = read(stated)
    np.testing.assert_array_equal(film, expected)
    assert form.odd == ()


@pytest.mark.parametrize("signed", [False, True])
def test_values_at_the_other_end_of_their_words(read, signed):
    shift = 2048 if signed else 0
    stored = (chest(12) - shift).astype("<i2" if signed else "<u2")
    film, form = read(with_pixels(stored, BitsStored=12, HighBit=15), "full")
    assert form.odd == ("has its bits elsewhere",)
    assert_levels(film, chest(12) / 4095)
    film, form = read(with_pixels(stored << 4, BitsStored=12, HighBit=15), "full")
    assert form.odd == ()
    assert_levels(film, chest(12) / 4095)
    film, form = read(with_pixels(stored << 4, BitsStored=12), "film")
    assert form.odd == ("exceeds its bits",)
    assert_levels(film, over_its_range(chest(12)))


@pytest.mark.parametrize(("bits", "dtype"), [(8, "1"), (12, "2"), (16, "2")])
def test_values_that_jump_with_the_stated_sign(read, bits, dtype):
    unsigned = chest(bits).astype(f"u{dtype}")
    wrapped = unsigned.view(f"i{dtype}")
    film, form = read(with_pixels(wrapped, BitsStored=bits), "film")
    assert form.odd == ("has the other sign",)
    assert_levels(film, over_its_range(chest(bits)))
    signed = (chest(bits) - (1 << bits - 1)).astype(f"i{dtype}")
    as_they_are = signed.view(f"u{dtype}") & ((1 << bits) - 1)
    film, form = read(with_pixels(as_they_are, BitsStored=bits), "film")
    assert form.odd == ("has the other sign",)
    assert_levels(film, over_its_range(chest(bits)))
    for right in (unsigned, signed):
        assert read(with_pixels(right, BitsStored=bits), "film")[1].odd == ()


@pytest.mark.parametrize(
    ("dtype", "shift", "pad", "facts"),
    [
        ("<i2", 2048, -32768, [("US", 32768)]),
        ("<i2", 2048, -2048, [("US", 63488)]),
        ("<i2", 2048, -32768, [("US", 32768), ("SS", -32000)]),
        ("<u2", -30000, 65535, [("SS", -1)]),
        ("<u2", -30000, 65535, [("SS", -1), ("US", 65000)]),
        ("<u2", 0, 4095, [("US", 4095)]),
    ],
)
def test_padding_in_a_field_of_the_wrong_sign(read, dtype, shift, pad, facts):
    values = np.clip(chest(12), 10, 4000) - shift
    stored = values.astype(dtype)
    stored[:6] = pad
    dataset = with_pixels(stored)
    for (vr, value), element in zip(facts, (0x0120, 0x0121), strict=False):
        dataset.add_new((0x0028, element), vr, value)
    film, form = read(dataset, "film")
    assert not film[:6].any()
    assert_levels(film[6:], (values[6:] - values[6:].min()) / np.ptp(values[6:]))
    assert form.odd == ()


def test_padding_does_not_hide_what_has_a_neighbouring_meaning(read):
    stored = chest(12).astype(np.uint16)
    stored[:6] = 4095
    dataset = with_pixels(stored, BitsStored=12)
    dataset.add_new("PixelPaddingValue", "SS", -1)
    film, _ = read(dataset, "full")
    assert (film[:6] == 65535).all()  # -1 is 65535 in 16 bits, which no pixel is
    film, _ = read(with_pixels(chest(8).astype(np.uint8), PixelPaddingValue=65535), "full")
    assert_levels(film, chest(8) / 255)


# ---------------------------------------------------------------- geometry, doubts


@pytest.mark.parametrize("name", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"])
def test_pixels_that_are_not_square(read, name):
    stored = np.repeat(np.arange(20, dtype=np.uint8)[:, None] * 10, 30, axis=1)
    film, form = read(with_pixels(stored, **{name: [2, 1]}))
    assert film.shape == (40, 30)  # rows twice as far apart
    assert "not square" in form.odd
    assert np.abs(film[1::2].astype(int) - stored).max() <= 3
    assert (np.diff(film.astype(int), axis=0) >= 0).all()
    film, _ = read(with_pixels(stored, **{name: [1, 2]}))
    assert film.shape == (20, 60)
    film, form = read(with_pixels(stored, **{name: [1, 1]}))
    assert film.shape == (20, 30)
    assert "not square" not in form.odd
    assert read(with_pixels(stored, **{name: [1, 1.005]}))[0].shape == (20, 30)


@pytest.mark.parametrize(
    ("photometric", "shape", "doubt"),
    [
        ("MONOCHROME1", "INVERSE", False), ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "IDENTITY", True), ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, False),
    ],
)  # fmt: skip
def test_presentation_that_contradicts(read, photometric, shape, doubt):
    values = {} if shape is None else {"PresentationLUTShape": shape}
    _, form = read(with_pixels(ramp(8), PhotometricInterpretation=photometric, **values))
    assert ("contradicts its presentation" in form.odd) == doubt


def test_films_that_look_inverted(read):
    body = np.full((40, 40), 150, np.uint8)
    body[:6, :8], body[:6, -8:] = 20, 20  # air beside the neck
    assert "looks inverted" not in read(with_pixels(body))[1].odd
    assert "looks inverted" in read(with_pixels(255 - body))[1].odd
    dark = with_pixels(body, PhotometricInterpretation="MONOCHROME1")
    assert "looks inverted" in read(dark)[1].odd
    negative = with_pixels(255 - body, PhotometricInterpretation="MONOCHROME1")
    assert "looks inverted" not in read(negative)[1].odd
    read(with_pixels(np.zeros((1, 1), np.uint8)))  # nothing to compare


@pytest.mark.real_data("nih128", "kermany224")
@pytest.mark.parametrize(
    ("pattern", "false", "true"), [("nih128/images/*", 12, 450), ("kermany224/*/*", 6, 380)]
)
def test_how_often_films_look_inverted(real_data, pattern, false, true):
    """The rates that `CORNER` states."""
    paths = sorted(real_data.glob(pattern))
    counts = np.zeros(2, int)
    for row in np.random.default_rng(1).choice(len(paths), 500, replace=False):
        unit = np.asarray(Image.open(paths[row]).convert("L")).astype(np.float32) / 255
        nothing = np.zeros(unit.shape, bool)
        for place, shown in enumerate((unit, 1 - unit)):
            counts[place] += "looks inverted" in dicom._doubts(shown, nothing, "MONOCHROME2", "")
    assert counts[0] <= false
    assert counts[1] >= true


def test_the_same_film_as_png_and_as_dicom(read, tmp_path):
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        pixels = rng.integers(0, np.iinfo(dtype).max + 1, (30, 20), dtype)
        Image.fromarray(pixels).save(tmp_path / "film.png")
        picture, _ = read_picture(str(tmp_path / "film.png"))
        film, _ = read(with_pixels(pixels), "full")
        assert film.dtype == picture.dtype
        np.testing.assert_array_equal(film, picture)


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_encodings(read, syntax):
    stored = ramp(12)
    facts = {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 3000}
    expected, _ = read(with_pixels(stored, **facts))
    big = syntax == ExplicitVRBigEndian
    dataset = with_pixels(stored, **facts)
    if big:
        dataset.PixelData = stored.astype(">u2").tobytes()
    np.testing.assert_array_equal(read(dataset, syntax=syntax)[0], expected)


def test_without_preamble_or_meta_header(tmp_path):
    stored = ramp(12)
    dataset = with_pixels(stored, BitsStored=12)
    expected, _ = read_dicom(str(write(tmp_path / "whole", dataset)))
    for implicit in (True, False):
        for big in (False, True):
            if implicit and big:
                continue
            bare = with_pixels(stored.astype(">u2") if big else stored, BitsStored=12)
            path = tmp_path / f"{implicit}{big}"
            bare.save_as(path, implicit_vr=implicit, little_endian=not big)
            film, form = read_dicom(str(path))
            np.testing.assert_array_equal(film, expected)
            assert form.syntax


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_without_loss(read, syntax, bits, signed):
    stored = ramp(bits, signed=signed, shape=(64, 48))
    facts = {"BitsStored": bits, "WindowCenter": 30, "WindowWidth": 180}
    expected, _ = read(with_pixels(stored, **facts))
    dataset = with_pixels(stored, **facts)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.compress(syntax, encoding_plugin="")
    np.testing.assert_array_equal(read(dataset)[0], expected)


def test_jpeg_baseline(read):
    import io

    stored = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 3
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95)
    dataset = with_pixels(stored)
    dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    film, form = read(dataset, syntax=JPEGBaseline8Bit)
    np.testing.assert_array_equal(film, np.asarray(Image.open(buffer)))
    assert form.syntax == "JPEG Baseline (Process 1)"
    dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()[:200]])
    assert "holds damaged pixels" in refusal(read, dataset, syntax=JPEGBaseline8Bit)


def test_a_compression_that_nobody_knows(tmp_path):
    dataset = with_pixels(ramp(8))
    dataset.PixelData = pydicom.encaps.encapsulate([b"DOE^JOHN"])
    dataset["PixelData"].is_undefined_length = True
    content = write(tmp_path / "film", dataset, JPEGBaseline8Bit).read_bytes()
    private = b"1.2.3.4.19700413".ljust(len(JPEGBaseline8Bit) + 1, b"1")[: len(JPEGBaseline8Bit)]
    (tmp_path / "film").write_bytes(content.replace(JPEGBaseline8Bit.encode(), private))
    message = refusal(read_dicom, str(tmp_path / "film"))
    assert message == "is compressed in an unknown way"


def data(name: str) -> str:
    """A file of pydicom-data."""
    folder = pytest.importorskip("data_store").__path__[0]
    return str(Path(folder) / "data" / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("JPEG-LL.dcm", "JPEG Lossless; to decode it, install pylibjpeg and pylibjpeg-libjpeg"),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", "JPEG Lossless; to decode it, install pylibjpeg and"),
    ],
)
def test_a_missing_codec_is_named(name, words):
    assert f"is compressed as {words}" in refusal(read_dicom, data(name))


def test_another_missing_codec_is_named(read, monkeypatch):
    found = dicom.find_spec
    monkeypatch.setattr(dicom, "find_spec", lambda m: None if m == "jpeg_ls" else found(m))
    dataset = with_pixels(ramp(8))
    dataset.PixelData = pydicom.encaps.encapsulate([b"nothing"])
    dataset["PixelData"].is_undefined_length = True
    message = refusal(read, dataset, syntax=JPEGLSLossless)
    assert message == (
        "is compressed as JPEG-LS Lossless Image Compression; to decode it, install pyjpegls"
    )


def test_tables_of_pydicom_data_as_pydicom_applies_them():
    for name in ("vlut_04.dcm", "mlut_18.dcm"):
        dataset = pydicom.dcmread(data(name))
        expected = by_pydicom(dataset, dataset.pixel_array)
        if name.startswith("mlut"):
            values = apply_modality_lut(dataset.pixel_array, dataset).astype(float)
            expected = (values - values.min()) / np.ptp(values)
        assert_levels(read_dicom(data(name))[0], expected)


def test_a_chest_film_looks_right():
    """RG1: MONOCHROME1 of 15 bits; looked at once, lungs dark and bones bright."""
    film, form = read_dicom(data("RG1_UNCR.dcm"))
    assert film.shape == (1955, 1841)
    assert form == Form(
        height=1955, width=1841, bits=15, kind="DICOM", photometric="MONOCHROME1",
        syntax="Explicit VR Little Endian", window="15000/30000",
    )  # fmt: skip
    unit = film / 65535
    found = np.percentile(unit, [1, 5, 25, 50, 75, 95, 99])
    np.testing.assert_allclose(found, [0.24, 0.478, 0.65, 0.812, 0.875, 0.908, 0.928], atol=2e-3)
    lungs = (unit[600:1100, 350:650], unit[600:1100, 1250:1550])
    spine = unit[600:1100, 880:960]
    assert max(lung.mean() for lung in lungs) < spine.mean() - 0.1
    corners = np.concatenate([unit[:195, :184], unit[:195, -184:]])
    assert corners.mean() < unit.mean() - 0.1
    np.testing.assert_array_equal(read_dicom(data("RG1_J2KR.dcm"))[0], film)
    lossy = read_dicom(data("RG1_J2KI.dcm"))[0] / 65535
    assert np.abs(lossy - unit).mean() < 0.005


def every_file() -> list[Path]:
    folders = [Path(pydicom.__path__[0]) / "data"]
    try:
        import data_store

        folders.append(Path(data_store.__path__[0]) / "data")
    except ImportError:
        pass
    return sorted(p for folder in folders for p in folder.rglob("*") if p.suffix != ".pyc")


@pytest.mark.slow
def test_every_file_that_comes_with_pydicom_decodes_or_fails_in_our_words():
    """Of all of them the pixels of three contradict their header: 16x16 pixels cut out of a CT."""
    decoded, words, contradicted = 0, [], set()
    usual = {"colour", "not square", "looks inverted"}
    for path in every_file():
        if not path.is_file():
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                film, form = read_dicom(str(path))
        except FilmError as error:
            words.append((path.name, str(error)))
            continue
        decoded += 1
        assert film.ndim == 2
        assert film.dtype in (np.uint8, np.uint16)
        if set(form.odd) - usual:
            contradicted.add((path.name, *form.odd))
    assert decoded > 90
    assert contradicted == {
        ("17136", "loses its greys"),
        ("17166", "is beside its window"),
        ("17196", "is beside its window"),
    }
    assert not [
        w for name, w in words if "\n" in w or name in w or ("Error" in w and "damaged" not in w)
    ]


# ---------------------------------------------------------------- headers


def test_headers_leave_hashed(tmp_path):
    dataset = header(Rows=3, Columns=4)
    path = str(write(tmp_path / "film", dataset))
    facts = read_header(path, SALT)
    assert (facts["view"], facts["sex"], facts["age"], facts["pixels"]) == ("PA", "F", 58, True)
    names = [facts[name] for name in ("patient", "film", "study")]
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in names)
    assert len(set(names)) == 3
    assert not [s for s in (*SECRETS, str(dataset.SOPInstanceUID)) if s in str(facts)]
    assert read_header(path, SALT) == facts
    assert read_header(path, bytes(31) + b"1")["patient"] != facts["patient"]


def test_headers_with_text_where_none_belongs(tmp_path):
    dataset = header(ViewPosition="DOE^JOHN", PatientSex="DOE", PatientAge="ABCY", PatientID="")
    facts = read_header(str(write(tmp_path / "film", dataset)), SALT)
    assert (facts["view"], facts["sex"], facts["age"], facts["pixels"]) == ("", "", None, False)
    assert facts["patient"] == ""
    for age, years in (("006M", 0.5), ("002W", 14 / 365.25), ("58", None), ("058y", 58)):
        dataset.PatientAge = age
        facts = read_header(str(write(tmp_path / "film", dataset)), SALT)
        assert facts["age"] == (None if years is None else pytest.approx(years))


# ---------------------------------------------------------------- damage


KNOWN = (FilmError, MemoryError, RecursionError)


def survives(path: Path) -> bool:
    """Read whatever it is; anything but the known errors is a bug."""
    words = ""
    with warnings.catch_warnings(action="ignore"):
        for call in (lambda: read_header(str(path), SALT), lambda: read_dicom(str(path))):
            result = None
            try:
                result = call()
            except KNOWN as error:
                words += str(error)
    assert not [secret for secret in SECRETS if secret in words]
    return result is not None


def test_cut_off_anywhere(tmp_path):
    content = write(tmp_path / "whole", with_pixels(ramp(12), BitsStored=12)).read_bytes()
    path = tmp_path / "cut"
    for end in [*range(0, len(content) - 960, 13), *range(len(content) - 960, len(content), 97)]:
        path.write_bytes(content[:end])
        assert not survives(path)
    path.write_bytes(content)
    assert survives(path)


def compressed() -> bytes:
    from io import BytesIO

    dataset = with_pixels(ramp(8), WindowCenter=100, WindowWidth=50, PixelSpacing=[1, 2])
    dataset.VOILUTSequence = Sequence([table(range(256), 0, 8)])
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.compress(RLELossless)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


COMPRESSED = compressed()
ANYWHERE = st.tuples(st.integers(128, len(COMPRESSED) - 1), st.integers(0, 255))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(ANYWHERE, min_size=1, max_size=6))
def test_any_bytes_changed(tmp_path, changes):
    content = bytearray(COMPRESSED)
    for place, value in changes:
        content[place] = value
    (tmp_path / "film").write_bytes(content)
    survives(tmp_path / "film")


def test_lengths_beyond_the_file(tmp_path):
    dataset = with_pixels(ramp(8))
    whole = write(tmp_path / "film", dataset).read_bytes()
    place = whole.rindex(b"\xe0\x7f\x10\x00OB") + 8
    for length in (0xFFFFFFF0, 0x7FFFFFF0, 0xFFFFFFFF, len(dataset.PixelData) + 2, 0):
        content = bytearray(whole)
        content[place : place + 4] = struct.pack("<I", length)
        (tmp_path / "film").write_bytes(content)
        survives(tmp_path / "film")  # the pixels are all there


def test_nested_too_deeply(tmp_path):
    dataset = with_pixels(ramp(8))
    whole = write(tmp_path / "film", dataset).read_bytes()
    item = (
        struct.pack("<HH", 0x0028, 0x3010)
        + b"SQ\0\0\xff\xff\xff\xff"
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    )
    place = whole.rindex(b"\xe0\x7f\x10\x00OB")
    (tmp_path / "film").write_bytes(whole[:place] + item * 5000 + whole[place:])
    assert not survives(tmp_path / "film")


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_tiny_and_narrow_films(read, shape):
    for window in ("header", "film", "full"):
        film, _ = read(with_pixels(np.full(shape, 77, np.uint8)), window)
        assert film.shape == shape
