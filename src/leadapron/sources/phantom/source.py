"""The phantom as a source of a cohort."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort, Reordered, Rows, blocks
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources.phantom.batch import SIZES, describe_rows, render
from leadapron.sources.phantom.film import MASKS
from leadapron.sources.phantom.people import FALSE_NEGATIVE, FALSE_POSITIVE, FINDINGS
from leadapron.types import Note

_BLOCK_PIXELS = 1 << 26  # of films drawn at a time on the way to smaller images


class PhantomFilms:
    """Films at full resolution, drawn when asked for.

    Args:
        count: number of films.
        size: their side in pixels.
        seed: seed of the collection.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int, /) -> NDArray[np.uint8]:
        film: NDArray[np.uint8] = render(np.array([row]), size=self.size, seed=self.seed).images[0]
        return film


class PhantomMasks:
    """Where heart, lungs and findings lie in the images, drawn when asked for.

    Args:
        size: side of the films in pixels.
        seed: seed of the collection.
        preprocessing: how films become images.
    """

    names = MASKS

    def __init__(self, size: int, seed: int, preprocessing: Preprocessing) -> None:
        self.size, self.seed, self.preprocessing = size, seed, preprocessing

    def __getitem__(self, rows: Rows, /) -> NDArray[np.bool_]:
        masks = render(np.asarray(rows), size=self.size, seed=self.seed, masks=True).masks
        assert masks is not None
        if self.preprocessing == _as_drawn(self.size):
            return masks
        side, levels = self.preprocessing.size, np.iinfo(self.preprocessing.dtype).max
        small = np.empty((*masks.shape[:2], side, side), np.bool_)
        for place in np.ndindex(masks.shape[:2]):
            region = self.preprocessing(masks[place].astype(np.uint8) * np.uint8(255))
            small[place] = region > levels // 3  # small nodules cover less than half a pixel
        return small


def _as_drawn(size: int) -> Preprocessing:
    return Preprocessing(size=size)


def open_phantom(
    argument: str,
    preprocessing: Preprocessing | None,
    cache: Cache | None = None,
    *,
    count: int = 6_000,
    seed: int = 0,
) -> Cohort:
    """Open parametric chest radiographs: no download, no real patients, 14 findings.

    Args:
        argument: side of the films in pixels, 32 to 1024; if left out, that of the images, or 64.
        preprocessing: how films become images; if left out, the films are the images.
        cache: says which films are wanted; nothing is kept, since phantoms are made, not decoded.
        count: number of films; about 2.65 of each patient.
        seed: seed of the collection; more films of the same seed continue it.

    Returns:
        The films, with their masks.

    Raises:
        UsageError: a size or number of films out of range.
    """
    text = argument or str(preprocessing.size if preprocessing else 64)
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"phantom:{argument}; expected the films' side in pixels, as phantom:64")
    size = int(text)
    if not SIZES[0] <= size <= SIZES[1]:
        raise UsageError(f"phantom:{argument}; expected {SIZES[0]} to {SIZES[1]} pixels")
    if count < 1:
        raise UsageError(f"a phantom of {count} films; expected 1 or more")
    rows = np.arange(count)
    if cache is not None and cache.choose is not None:
        rows = cache.choose(count)
    facts = describe_rows(rows, seed=seed)
    preprocessing = preprocessing or _as_drawn(size)
    if preprocessing == _as_drawn(size):
        images: NDArray[Any] = render(rows, size=size, seed=seed).images
    else:
        side = preprocessing.size
        images = np.empty((len(rows), side, side), preprocessing.dtype)
        for part in blocks(len(rows), max(1, _BLOCK_PIXELS // size**2)):
            made = render(rows[part], size=size, seed=seed).images
            for place, film in zip(part, made, strict=True):
                images[place] = preprocessing(film)
    return Cohort(
        images=images,
        labels=facts.labels,
        findings=FINDINGS,
        ids=np.char.mod(f"phantom-{seed}-%07d", rows),
        patients=np.char.mod("%d", facts.patients),
        preprocessing=preprocessing,
        attributes={"view": facts.view, "sex": facts.sex, "age": facts.age},
        films=Reordered(PhantomFilms(count, size, seed), rows),
        masks=Reordered(PhantomMasks(size, seed, preprocessing), rows),
        notes=(
            Note(
                "source",
                f"Parametric phantoms, not patients; {FALSE_NEGATIVE:.0%} of the findings are left "
                f"out of the labels, {FALSE_POSITIVE:.0%} of the absent ones are stated.",
            ),
        ),
    )
