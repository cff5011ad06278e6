"""ChestMNIST of MedMNIST v2 (Yang et al., Scientific Data 2023): NIH's films at low resolution."""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import store
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, open_regular, there
from leadapron.result_cache import make_private
from leadapron.sources.arrays import ArrayFilms, read_array, read_shapes
from leadapron.sources.assembly import assemble
from leadapron.sources.nih import FINDINGS
from leadapron.sources.tables import LabelTable, unknown_patients
from leadapron.sources.words import plain_reason
from leadapron.types import Note, Progress

__all__ = ["MD5", "RELEASE", "open_chestmnist"]

logger = logging.getLogger(__name__)

RELEASE: Mapping[str, str | int] = {
    "name": "ChestMNIST",
    "films": 112_120,
    "citation": (
        "Yang, Shi, Wei, Liu, Zhao, Ke, Pfister, Ni: MedMNIST v2 - A large-scale lightweight "
        "benchmark for 2D and 3D biomedical image classification. Scientific Data 10, 41 (2023)"
    ),
    "terms": "CC BY 4.0; not intended for clinical use.",
    "page": "https://zenodo.org/records/10519652",
}
"""Facts of the release."""

URL = "https://zenodo.org/records/10519652/files/{name}?download=1"
MD5 = {
    28: "02c8a6516a18b556561a56cbdd36c4a8",
    64: "9de6cd0b934ebb5b7426cfba5efbae16",
    128: "db107e5590b27930b62dbaf558aebee3",
    224: "45bd33e6f06c3e8cdb481c74a89152aa",
}
"""MD5 checksum of each file, by the side of its films in pixels."""

PARTS = {"train": "train", "val": "validation", "test": "test"}
CHUNK = 1 << 20


def open_chestmnist(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    download: bool = False,
    verify: bool = True,
) -> Cohort:
    """Open ChestMNIST.

    Args:
        argument: the .npz file; or the side of its films, 28, 64, 128 or 224, with `download`.
        preprocessing: how films become images; the films' own size if left out.
        cache: where decoded films and a downloaded file are kept; in memory if left out.
        download: fetch the file from zenodo.org into the cache, unless it is there already.
        verify: compare the file with its published checksum.

    Returns:
        Its films in the order train, validation, test.

    Raises:
        DataError: a file that isn't ChestMNIST.
        UsageError: no file given, or no cache to download to.
        StoreError: a download that failed.
    """
    if not argument:
        raise UsageError(
            "chestmnist needs a file: chestmnist:FILE.npz, or chestmnist:64 `download`"
        )
    file = _downloaded(argument, cache or Cache()) if download else given_path(argument)
    if not there(file):
        hint = f"; to fetch it: chestmnist:{argument} `download`" if argument.isdigit() else ""
        raise DataError(f"no file {argument}{hint}")
    shapes = read_shapes(file)
    missing = [n for part in PARTS for n in (f"{part}_images", f"{part}_labels") if n not in shapes]
    if missing:
        raise DataError(f"{file.name} has no array {missing[0]!r}; is it ChestMNIST's?")
    films = ArrayFilms(file, [f"{part}_images" for part in PARTS], cache)
    notes = [
        Note(
            "split",
            "ChestMNIST's split is not NIH's official one: 17,920 of NIH's 25,596 test films are "
            "among its training films. Don't test a model on one that was trained on the other.",
        ),
        Note("labels", "Labels follow NIH's table of 2017, not the one of 2020."),
    ]
    if verify and MD5.get(films.size[0]) != _md5(file, cache):
        raise DataError(
            f"{file.name} differs from the published ChestMNIST of {films.size[0]} pixels; fetch "
            "it again, or `source.verify` false for a file of your own"
        )
    labels = [
        _labels(file, f"{part}_labels", shapes, films.lengths[f"{part}_images"]) for part in PARTS
    ]
    ids = np.asarray(
        [f"{part}-{i}" for part, a in zip(PARTS, labels, strict=True) for i in range(len(a))]
    )
    table = LabelTable(
        name=file.name,
        labels=np.concatenate(labels).astype(np.float32),
        findings=FINDINGS,
        ids=ids,
        patients=unknown_patients(ids, notes),
        attributes={"split": np.repeat(list(PARTS.values()), [len(array) for array in labels])},
        notes=tuple(notes),
    )
    return assemble(
        films,
        table,
        source=f"chestmnist:{file.absolute()}",
        preprocessing=preprocessing or Preprocessing(size=films.size[0]),
        cache=cache,
    )


def _labels(
    file: Path, name: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], n: int
) -> NDArray[Any]:
    """(n, 14) labels of a part; type and shape are checked before they are read."""
    shape, dtype = shapes[name]
    expected = (n, len(FINDINGS))
    if dtype.kind not in "biu":
        raise DataError(
            f"{file.name}: {name} of type {dtype}; expected whole numbers, as ChestMNIST's uint8 "
            "(astype('uint8') makes them)"
        )
    if shape != expected:
        raise DataError(f"{file.name}: {name} of shape {shape}; expected {expected}")
    labels = read_array(file, name)
    if labels.max(initial=0) > 1 or labels.min(initial=0) < 0:
        found = labels.min(), labels.max()
        raise DataError(f"{file.name}: {name} from {found[0]} to {found[1]}; expected 0, 1")
    return labels


def _downloaded(argument: str, cache: Cache) -> Path:
    """The file in the cache, fetched if it isn't there."""
    if not argument.isdigit() or int(argument) not in MD5:
        sides = ", ".join(map(str, MD5))
        raise UsageError(f"chestmnist:{argument} `download`: expected a side of {sides} pixels")
    if cache.folder is None:
        raise UsageError("`download` needs a cache; expected `cache` FOLDER")
    side = int(argument)
    name = "chestmnist.npz" if side == 28 else f"chestmnist_{side}.npz"
    file = cache.folder / "downloads" / name
    if not file.is_file():
        _fetch(URL.format(name=name), file, MD5[side], cache.progress)
    return file


def _fetch(url: str, file: Path, md5: str, progress: Progress | None) -> None:
    logger.info("fetching %s", url)
    digest = hashlib.md5(usedforsecurity=False)
    make_private(file.parent)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, store.write_atomically(file) as out:  # noqa: S310
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while chunk := answer.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
                done += len(chunk)
                if progress is not None and total:
                    progress("fetching", done, total)
            if digest.hexdigest() != md5:
                raise DataError(f"{url}: the downloaded file doesn't have the checksum {md5}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise StoreError(f"can't fetch {url}: {plain_reason(error)}") from error


def _md5(file: Path, cache: Cache | None) -> str:
    digest, total, done = hashlib.md5(usedforsecurity=False), file.stat().st_size, 0
    with open_regular(file) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if cache is not None and cache.progress is not None:
                cache.progress("checking", done, total)
    return digest.hexdigest()
