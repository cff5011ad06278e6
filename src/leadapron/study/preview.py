"""Effect of a trigger on films, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.poisoning import stamp
from leadapron.films.cohort import Cohort
from leadapron.films.similarity import peak_signal_to_noise, structural_similarity
from leadapron.seeds import stream
from leadapron.study.plan import Run, with_target

__all__ = ["Preview", "Previewed", "preview_trigger"]


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Changes by a trigger on some films, in the network's input images.

    Args:
        trigger: description of the trigger.
        stage: where it acts: "film" or "image".
        films: number of films.
        visible_pixels: number of changed pixels, for each film.
        psnr_db: peak signal-to-noise ratio of each film; infinity if nothing changed.
        ssim: mean structural similarity of each film.
    """

    trigger: str
    stage: str
    films: int
    visible_pixels: Sequence[int]
    psnr_db: Sequence[float]
    ssim: Sequence[float]


class Previewed(NamedTuple):
    """A preview, and (n, h, w) its films without and with the trigger."""

    found: Preview
    clean: NDArray[Any]
    marked: NDArray[Any]


def preview_trigger(run: Run, cohort: Cohort, count: int, words: str) -> Previewed:
    """Stamp a trigger on some films, and measure what it changes.

    Args:
        run: the trigger and where it acts, and the seed that chooses films and places.
        cohort: the films.
        count: number of films.
        words: description of the trigger.

    Raises:
        DataError: a trigger that doesn't fit the films.
    """
    run = with_target(run, cohort.findings or ("none",))
    choose, place = stream(run.seed, "preview").spawn(2)
    rows = np.sort(choose.permutation(len(cohort))[:count])
    clean: NDArray[Any] = cohort.images[rows]
    poisoning = run.poisoning
    parts = stamp(cohort, rows, poisoning.trigger, poisoning.stage, place)
    marked = np.concatenate([pixels for _, pixels in parts])
    found = Preview(
        trigger=words,
        stage=poisoning.stage,
        films=len(rows),
        visible_pixels=(clean != marked).sum(axis=(1, 2)).tolist(),
        psnr_db=peak_signal_to_noise(clean, marked).tolist(),
        ssim=structural_similarity(clean, marked).tolist(),
    )
    return Previewed(found, clean, marked)
