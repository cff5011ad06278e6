"""Broken films by the whole path, as a user's folder would bring them: the caller must stay well.

    .venv/bin/python benchmarks/fuzz_films.py --films 5000

Bytes of pydicom's own test files and of small PNG and JPEG files are changed, cut, doubled and
swapped, and each is decoded as `scan` would decode it: in a confined worker. A finding is anything
but a picture or one line of ours, more than --longest on one film, or a caller that grows beyond
2 GB; its file stays in --out. `fuzz.py` looks deeper into one reader, inside one process.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import data_store
import numpy as np
import pydicom.data
from PIL import Image

from checksums import with_checksums
from leadapron.errors import DataError
from leadapron.films.decoding import FilmFiles
from leadapron.films.preprocessing import Preprocessing

LARGEST_SEED = 600_000
MOST_MEMORY = 2 << 30


def seeds() -> list[bytes]:
    """Valid films, and files that come close."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 36), np.uint8)
    colour = np.dstack([noise] * 3)
    deep = noise.astype(np.uint16) * 257
    pictures = [encoded(pixels, "PNG") for pixels in (noise, deep, colour)]
    pictures += [encoded(noise, "JPEG"), encoded(colour, "JPEG", progressive=True)]
    # pydicom-data brings more; get_testdata_files would look for the rest in the network.
    roots = [Path(module.__file__).parent for module in (pydicom.data, data_store)]
    files = sorted(file for root in roots for file in root.rglob("*.dcm"))
    dicom = [file.read_bytes() for file in files if decodes(file)]
    # A picture for each three DICOM files.
    return dicom + pictures * (len(dicom) // (3 * len(pictures)) + 1)


def decodes(file: Path) -> bool:
    """Whether a file is a film, and a small one."""
    if file.stat().st_size > LARGEST_SEED:
        return False
    try:
        FilmFiles([str(file)])[0]
    except DataError:
        return False
    return True


def encoded(pixels: np.ndarray, kind: str, **settings: object) -> bytes:
    """A picture file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def mutated(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """The same with one to seven changes, more often near the start, where headers are."""
    data = bytearray(content)
    for _ in range(int(2 ** rng.uniform(0, 3))):
        if len(data) < 2:
            break
        near = int(len(data) ** rng.random())
        place, length = (
            int(rng.integers(near)),
            int(rng.integers(1, 1 + int(2 ** rng.uniform(0, 9)))),
        )
        match rng.integers(14) % 10:
            case 0 | 7 | 8 | 9:
                data[place] ^= 1 << int(rng.integers(8))
            case 1:
                data[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            case 2:
                few = bytes(data[place : place + 4])
                data[place : place + len(few)] = (0xFFFFFFFF).to_bytes(4)[: len(few)]
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length] * int(rng.integers(1, 4))
            case 5:
                other = others[rng.integers(len(others))]
                begin = int(rng.integers(len(other)))
                data[place : place + length] = other[begin : begin + length]
            case _:
                del data[-int(rng.integers(1, len(data))) :]
    return with_checksums(bytes(data))


def main() -> None:
    """Mutate, decode, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=30, help="seconds for one film")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-films")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng, valid = np.random.default_rng(options.seed), seeds()
    films = FilmFiles([str(options.out / "film")])
    path, said, slowest, found = Path(films.paths[0]), Counter(), 0.0, 0
    for number in range(options.films):
        path.write_bytes(mutated(valid[rng.integers(len(valid))], valid, rng))
        began, problem = time.monotonic(), ""
        try:
            image, _ = films.image(0, Preprocessing(size=16))
            said["decoded"] += 1
            problem = "" if image.shape == (16, 16) else f"an image of {image.shape}"
        except DataError as error:
            words = str(error)
            said["crashed" if "crashes" in words else "refused"] += 1
            problem = "" if words.isprintable() else f"no line: {words!r}"
        except Exception as error:  # what must not come out
            problem = f"{type(error).__name__}: {error}"
        took = time.monotonic() - began
        slowest = max(slowest, took)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if took > options.longest:
            problem = f"{took:.0f} s"
        if memory > MOST_MEMORY:
            problem = f"{memory >> 20} MB in the caller"
        if problem:
            found += 1
            kept = path.rename(options.out / f"found-{options.seed}-{number}")
            print(f"{kept}: {problem}")
    print(
        f"{options.films} films: {dict(said)}; slowest {slowest:.1f} s; caller {memory >> 20} MB; "
        f"{found} findings"
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
