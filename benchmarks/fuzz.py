"""Mutate films and tables until a reader does what it may not: coverage-guided, with atheris.

    python3.11 -m venv /tmp/fuzz-venv && /tmp/fuzz-venv/bin/pip install atheris
    PYTHONPATH=src:$(.venv/bin/python -c "import numpy; print(numpy.__path__[0] + '/..')") \
        /tmp/fuzz-venv/bin/python benchmarks/fuzz.py dicom --seconds 600

Atheris (PyPI, Linux, Python 3.11 to 3.13) is no dependency of the project. Targets: dicom, picture,
table, npz. A finding is an exception that isn't one of ours, a warning of numpy's, a hang of more
than 20 s, more than 4 GB, or a crash; the file that did it stays in --out, and
`fuzz.py TARGET FILE` runs it again. The corpus stays there too, so that the next run goes on.
Coverage is that of Python alone: codecs in C are tried, but nothing leads the mutations in them.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris
import numpy as np

from checksums import with_checksums

with atheris.instrument_imports(include=["pydicom", "PIL", "leadapron", "zipfile", "csv"]):
    from PIL import Image
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

    from leadapron.errors import LeadapronError
    from leadapron.films.decoding.dicom import read_dicom, read_header
    from leadapron.films.decoding.pictures import read_picture
    from leadapron.films.preprocessing import Preprocessing
    from leadapron.sources.arrays import ArrayFilms, read_array, read_shapes
    from leadapron.sources.table import labelled
    from leadapron.sources.tables import read_table

KNOWN = (LeadapronError, MemoryError, RecursionError)
LONGEST = 20_000
"""Bytes of an input; small ones find more in the same time."""


def dicom(path: Path) -> None:
    """Both readers, through every kind of window."""
    for read in (
        lambda: read_header(str(path), b"salt"),
        lambda: read_dicom(str(path)),
        lambda: read_dicom(str(path), "header:2"),
        lambda: read_dicom(str(path), "full"),
    ):
        try:
            read()
        except KNOWN as error:
            one_line(error)


def picture(path: Path) -> None:
    """A film and its image."""
    try:
        film, _ = read_picture(str(path), 12)
        Preprocessing(size=16)(film)
    except KNOWN as error:
        one_line(error)


def table(path: Path) -> None:
    """Columns and what they say."""
    try:
        columns = read_table(path)
        n = len(next(iter(columns.values())))
        labelled(columns, [str(i) for i in range(n)], path.name)
    except KNOWN as error:
        one_line(error)


def npz(path: Path) -> None:
    """Shapes, a small array, and films."""
    try:
        for name in read_shapes(path):
            if name == "images":
                films = ArrayFilms(path, [name], None)
                for row in range(min(3, len(films))):
                    films.image(row, Preprocessing(size=8))
            else:
                read_array(path, name)
    except KNOWN as error:
        one_line(error)


def one_line(error: BaseException) -> None:
    """Refuse words of more than one line."""
    if not isinstance(error, MemoryError | RecursionError) and not str(error).isprintable():
        raise AssertionError(f"not one line: {str(error)!r}") from error


TARGETS: dict[str, Callable[[Path], None]] = {
    "dicom": dicom, "picture": picture, "table": table, "npz": npz,
}  # fmt: skip


# --- what to begin with


def seeds(target: str) -> Iterator[bytes]:
    """Small valid files."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 36), np.uint8)
    if target == "picture":
        for pixels in (noise, noise.astype(np.uint16) * 257, np.dstack([noise] * 3)):
            yield encoded("PNG", pixels)
        yield encoded("PNG", noise.astype(np.uint16) * 16)
        exif = Image.Exif()
        exif[0x0112] = 6  # turned
        for kind in ("PNG", "JPEG"):
            yield encoded(kind, noise, exif=exif)
        for settings in ({}, {"progressive": True}, {"optimize": True}):
            yield encoded("JPEG", noise, **settings)
    elif target == "dicom":
        yield from dicom_seeds(noise)
    elif target == "table":
        yield b"path,patient,age,split,Mass,Edema\na.png,1,58,train,1,0\nb.png,2,6M,test,-1,\n"
        yield "path;findings\na;Mass|Edema\nb;No Finding\n".encode("utf-16")
        yield b'\xef\xbb\xbfimage\tview\tA\n"x\ny"\tPA\ttrue\n'
    else:
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, images=np.dstack([noise] * 3).transpose(2, 0, 1), labels=np.ones(3))
            yield buffer.getvalue()


def encoded(kind: str, pixels: np.ndarray, **settings: object) -> bytes:
    """A picture file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def dicom_seeds(noise: np.ndarray) -> Iterator[bytes]:
    """Films of several encodings, with what changes how they are shown."""
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless):
        for stored in (noise, (noise.astype(np.uint16) << 4)):
            dataset = dicom_film(stored)
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            if syntax != ExplicitVRLittleEndian:
                try:
                    dataset.compress(syntax)
                except (RuntimeError, ValueError, NotImplementedError):
                    continue
            yield written(dataset, enforce_file_format=True)
    yield written(dicom_film(noise), implicit_vr=True, little_endian=True)
    bare = dicom_film((noise.astype(np.int16) - 128) << 7)  # longer than its bits, of wrong sign
    del bare.VOILUTSequence, bare.WindowCenter, bare.RescaleSlope
    bare.PixelRepresentation, bare.HighBit, bare.PixelPaddingRangeLimit = 1, 15, 9
    yield written(bare, implicit_vr=True, little_endian=True)
    big = dicom_film(noise.astype(np.uint16))
    yield written(big, implicit_vr=False, little_endian=False)


def dicom_film(stored: np.ndarray) -> Dataset:
    """A dataset with windows, tables, padding and spacing."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    dataset.PatientID, dataset.PatientAge, dataset.ViewPosition = "7", "058Y", "PA"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *stored.shape, 1
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored = 8 if stored.dtype == np.uint8 else 12
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.WindowCenter, dataset.WindowWidth = [100, 30], [200, 10]
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    dataset.PixelSpacing, dataset.PixelPaddingValue = [1, 2], 0
    item = Dataset()
    item.LUTDescriptor = [8, 0, 12]
    item.add_new("LUTData", "OW", np.arange(8, dtype="<u2").tobytes())
    dataset.VOILUTSequence = [item]
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if stored.dtype == np.uint8 else "OW"
    return dataset


def written(dataset: Dataset, **settings: object) -> bytes:
    """A DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, **settings)
    return buffer.getvalue()


# --- the run


def main() -> None:
    """Parse, write the seeds, hand over to libFuzzer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("file", nargs="?", help="run this file again, and nothing else")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="/tmp/fuzz", help="corpus and findings")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", category=RuntimeWarning)
    one = TARGETS[options.target]
    if options.file:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "film").write_bytes(with_checksums(Path(options.file).read_bytes()))
            one(Path(folder) / "film")
        print("nothing found")
        return
    out = Path(options.out) / options.target
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(seeds(options.target)):
        (out / "corpus" / f"seed-{i}").write_bytes(content)
    path = out / "film"  # not a temporary folder: libFuzzer ends without tidying up

    def test(content: bytes) -> None:
        path.write_bytes(with_checksums(content))
        one(path)

    arguments = [
        sys.argv[0], f"-max_total_time={options.seconds}", f"-seed={options.seed}",
        f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=4096", "-malloc_limit_mb=4096",
        f"-artifact_prefix={out}/", "-print_final_stats=1", str(out / "corpus"),
    ]  # fmt: skip
    atheris.Setup(arguments, test)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
