from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from leadapron.errors import FilmError
from leadapron.films.decoding.pictures import read_picture, starts_as_picture
from leadapron.types import Form

NOISE = np.random.default_rng(0).integers(0, 256, (30, 24), np.uint8)


def encoded(kind: str, pixels: np.ndarray = NOISE, **settings) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(FilmError) as caught:
        read_picture(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert path.name not in message
    return message


@pytest.mark.parametrize(("kind", "name"), [("PNG", "film.jpg"), ("JPEG", "film.dcm")])
def test_content_counts_and_not_the_name(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(encoded(kind))
    assert starts_as_picture(str(path))
    film, form = read_picture(str(path))
    np.testing.assert_array_equal(film, np.asarray(Image.open(path)))
    assert form == Form(height=30, width=24, bits=8, kind=kind)


@pytest.mark.parametrize("head", [b"", b"\0", b"GIF89a", b"DICM", bytes(128) + b"DICM", b"\x89PNG"])
def test_other_files_do_not_start_as_pictures(tmp_path, head):
    (tmp_path / "film.png").write_bytes(head)
    assert not starts_as_picture(str(tmp_path / "film.png"))


def test_sixteen_bits(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (30, 24), np.uint16)
    (tmp_path / "film").write_bytes(encoded("PNG", deep))
    film, form = read_picture(str(tmp_path / "film"))
    assert film.dtype == np.uint16
    np.testing.assert_array_equal(film, deep)
    assert (form.bits, form.used) == (16, 16)
    (tmp_path / "film").write_bytes(encoded("PNG", deep // 16))
    film, form = read_picture(str(tmp_path / "film"), 12)
    assert (form.bits, form.used) == (16, 12)
    np.testing.assert_allclose(film, (deep // 16) * (65535 / 4095), atol=0.51)
    with pytest.raises(FilmError, match=r"holds values up to 4,0\d\d, too large for 11 bits"):
        read_picture(str(tmp_path / "film"), 11)


def deep_colour(most: int) -> bytes:
    """A PNG file in colour of 16 bits."""
    rows = np.random.default_rng(0).integers(0, most + 1, (30, 24, 3)).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 24, 30, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(("most", "dark"), [(65535, False), (4095, True)])
def test_colour_of_sixteen_bits_is_read_by_its_upper_eight(tmp_path, most, dark):
    (tmp_path / "film").write_bytes(deep_colour(most))
    film, form = read_picture(str(tmp_path / "film"))
    assert film.dtype == np.uint8
    assert ("colour of 16 bits" in form.odd) == dark


# ---------------------------------------------------------------- orientation


def with_exif(kind: str, pixels: np.ndarray, orientation: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(kind, pixels, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_is_turned_as_its_exif_says(tmp_path, orientation, dtype):
    pixels = NOISE.astype(dtype) * (257 if dtype == np.uint16 else 1)
    # TIFF 6.0: where row 0 and column 0 are to be seen.
    seen = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.T, 6: pixels.T[:, ::-1], 7: pixels.T[::-1, ::-1], 8: pixels.T[::-1],
    }[orientation]  # fmt: skip
    (tmp_path / "film").write_bytes(with_exif("PNG", pixels, orientation))
    film, form = read_picture(str(tmp_path / "film"))
    np.testing.assert_array_equal(film, seen)
    assert (form.height, form.width) == seen.shape
    assert form.odd == (() if orientation == 1 else ("turned",))


def test_a_jpeg_in_colour_is_turned_too(tmp_path):
    colour = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[:, None], 24, axis=1)
    content = with_exif("JPEG", np.stack([colour] * 3, axis=2), 8)
    (tmp_path / "film").write_bytes(content)
    film, form = read_picture(str(tmp_path / "film"))
    assert film.shape == (24, 32)
    assert film[12, 0] < 10 < 245 < film[12, -1]
    assert form.odd == ("turned", "colour")


@pytest.mark.parametrize("orientation", [9, 200, 65535])
def test_an_orientation_that_is_none_is_doubted(tmp_path, orientation):
    (tmp_path / "film").write_bytes(with_exif("PNG", NOISE, orientation))
    film, form = read_picture(str(tmp_path / "film"))
    np.testing.assert_array_equal(film, NOISE)
    assert form.odd == ("may be turned",)


def test_exif_that_is_broken_is_doubted(tmp_path):
    content = with_exif("JPEG", NOISE, 6)
    place = content.index(b"Exif\0\0") + 6
    (tmp_path / "film").write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
    assert read_picture(str(tmp_path / "film"))[1].odd == ("may be turned",)
    nothing = with_exif("PNG", NOISE, 0)  # says that nothing is known
    (tmp_path / "film").write_bytes(nothing)
    assert read_picture(str(tmp_path / "film"))[1].odd == ()


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_modes_of_jpeg(tmp_path, mode):
    picture = Image.fromarray(np.full((8, 8), 100, np.uint8)).convert(mode)
    picture.save(tmp_path / "film", "JPEG", quality=100)
    film, form = read_picture(str(tmp_path / "film"))
    assert film.dtype == np.uint8
    assert np.abs(film.astype(int) - 100).max() <= 2
    assert ("colour" in form.odd) == (mode != "L")


def test_of_several_pictures_in_a_file_the_first_counts(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "film", "PNG", save_all=True, append_images=frames[1:])
    film, _ = read_picture(str(tmp_path / "film"))
    assert (film == 10).all()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, *chunks: bytes) -> bytes:
    facts = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", facts) + b"".join(chunks) + chunk(b"IEND", b"")


def test_large_films(tmp_path):
    path = tmp_path / "film"
    path.write_bytes(png(20_000, 20_000, chunk(b"IDAT", zlib.compress(bytes(1000)))))
    assert refusal(path) == "has 20000x20000 pixels; expected at most 100 megapixels"
    path.write_bytes(png(20_000, 300, chunk(b"IDAT", zlib.compress(bytes(20_001 * 300)))))
    assert read_picture(str(path))[0].shape == (300, 20_000)
    path.write_bytes(encoded("PNG", np.array([[7]], np.uint8)))
    np.testing.assert_array_equal(read_picture(str(path))[0], [[7]])


def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(80)) + packer.flush()
    text = chunk(b"zTXt", b"DOE^JOHN\0\0" + packed)
    (tmp_path / "film").write_bytes(png(8, 8, text, chunk(b"IDAT", zlib.compress(bytes(72)))))
    message = refusal(tmp_path / "film")
    assert message.startswith("is not a readable PNG file (")
    assert "DOE" not in message


@pytest.mark.parametrize("content", [b"", bytes(100), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_picture(tmp_path, content):
    (tmp_path / "film.png").write_bytes(content)
    assert "is not a readable" in refusal(tmp_path / "film.png")


WHOLE = {
    "PNG": encoded("PNG"),
    "PNG in palette": encoded("PNG", NOISE // 16 * 16, bits=4),
    "JPEG": encoded("JPEG"),
    "JPEG, progressive": encoded("JPEG", np.dstack([NOISE] * 3), progressive=True),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_cut_off_anywhere(tmp_path, kind):
    whole = WHOLE[kind]
    for end in range(8, len(whole) - 28, 1 + len(whole) // 60):
        (tmp_path / "film").write_bytes(whole[:end])
        assert "is not a readable" in refusal(tmp_path / "film")


@pytest.mark.parametrize("kind", WHOLE)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_bytes_changed(tmp_path, kind, data):
    content = bytearray(WHOLE[kind])
    anywhere = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(anywhere, min_size=1, max_size=5)):
        content[place] = value
    path = tmp_path / "film"
    path.write_bytes(content)
    with warnings.catch_warnings(action="ignore"):
        try:
            film, _ = read_picture(str(path))
        except (FilmError, MemoryError) as error:
            words = str(error)
        else:
            words = ""
            assert film.ndim == 2
            assert film.dtype in (np.uint8, np.uint16)
    assert "\n" not in words
