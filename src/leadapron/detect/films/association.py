"""Association: the labels of a pixel's outliers differ from those of the outliers around it.

This finds marks whose grey levels vary between films. A natural mark, such as a tube or a letter,
is spread over its neighbourhood, and so is its association with labels. The null hypothesis for a
pixel is the rate of the labels among the outliers of the surrounding pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.bias import (
    LOG_ODDS,
    SPREADS,
    evidence_of_spreads,
    learn_bias,
    profiles,
)
from leadapron.detect.films.method import Films, Found
from leadapron.detect.films.observe import TAILS, Observed
from leadapron.detect.films.shift import Labelled
from leadapron.detect.films.ties import BESIDE, Control
from leadapron.detect.scores import LabelTie
from leadapron.films.cohort import Rows, blocks

__all__ = ["LEAST_SIDE", "Association", "Associations", "associations"]

LEAST_SIDE = 64
"""Least side in pixels of the films that are tested. In smaller ones a finding is no larger than a
pixel's neighbourhood, and its own place looks like a mark: of 10 clean sets of 1,500 phantoms of 32
pixels 6 were called poisoned, of 6 of 40 pixels 2, of 6 of 64 pixels none."""

NEAR, FAR = 2, 4
"""The ring around a pixel: its distances in pixels are above the first and at most the second."""

FEWEST = 5
"""Fewest outliers of a pixel that is tested, and fewest of them in a group."""

RING = 20
"""Fewest outliers in the ring of a pixel that serves as a negative control."""

APART = 5
"""Distance in pixels between negative controls."""

CHUNK = 8192
"""Films per block when outliers are counted."""

MOST = 50
"""Most associations that are returned, those with the smallest p-values."""


class Associations:
    """Outliers of single pixels, as a method of the scan.

    They aren't poison if their films' labels agree with the films' appearance.
    """

    def find(self, films: Films) -> Iterator[Found]:
        """Test each pixel's outliers, and judge those of neighbouring pixels together."""
        if min(films.seen.shape[1:]) < LEAST_SIDE:
            return
        pixels, tests = associations(films.seen, films.labelled)
        ties = _agreeing(pixels, tests, films)
        for pixel in pixels:
            shade = "bright" if pixel.bright else "dark"
            p, tie = min(1.0, pixel.p * tests), ties.get(pixel)
            yield Found(
                p=p if tie is None else 1.0,
                chance=1.0 if tie is None else p,
                group=films.labelled.groups[pixel.group],
                share=pixel.share,
                expected=float("nan") if tie is None else tie.expected,
                films=pixel.films,
                what=f"{shade} outliers at row {pixel.row}, column {pixel.column}",
                place=(pixel.row, pixel.column, 1),
                tie=tie,
                scattered=True,
            )


@dataclass(frozen=True, eq=False)
class Association:
    """A pixel whose outliers are associated with one group.

    Args:
        row: the pixel's.
        column: the pixel's.
        bright: whether the outliers are brighter than their surroundings.
        group: number of the group.
        p: the larger of two p-values, not corrected. The first is binomial, against the ring's
            rate or the whole set's, whichever is higher; the odds may exceed it as they do at this
            source's other pixels (`bias`). The second is that of the outliers' labels within their
            strata.
        share: of the outliers that are in the group, 0 to 1.
        films: the outliers in the group.
    """

    row: int
    column: int
    bright: bool
    group: int
    p: float
    share: float
    films: Rows


def associations(seen: Observed, labelled: Labelled) -> tuple[list[Association], int]:
    """Test each pixel's outliers.

    Args:
        seen: observations of the films.
        labelled: their labels.

    Returns:
        The associations with the smallest p-values, at most 50, and the number of tests.
    """
    from scipy import ndimage, special, stats

    _, height, width = seen.shape
    shape = (len(TAILS), 2, height, width)
    side, inner = 2 * FAR + 1, 2 * NEAR + 1

    def around(counts: NDArray[np.floating]) -> NDArray[np.float64]:
        whole = ndimage.uniform_filter(counts, (0, 0, side, side), mode="constant") * side**2
        middle = ndimage.uniform_filter(counts, (0, 0, inner, inner), mode="constant") * inner**2
        ring: NDArray[np.float64] = np.maximum(whole - middle, 0)
        return ring

    numbers = [
        number for number, group in enumerate(labelled.groups) if group.direction != "removed"
    ]
    known = labelled.stated[:, numbers]
    inside = labelled.members[:, numbers] & known
    every_hit = _counted(seen, inside).reshape(-1, *shape)
    every_trial = _counted(seen, known).reshape(-1, *shape)
    # Films of one patient are not independent: the weights of a patient's films add up to 1.
    weight = 1 / np.bincount(labelled.patients)[labelled.patients]
    bases = (weight @ inside) / np.maximum(weight @ known, 1e-12)
    found, tests = list[tuple[float, float, int, tuple[int, ...]]](), 0
    for group, base, hits, trials in zip(numbers, bases, every_hit, every_trial, strict=True):
        tests += int((trials >= FEWEST).sum())
        ring = around(trials)
        rate = np.maximum((around(hits) + 1) / (ring + 2), base)
        at = np.nonzero((hits >= FEWEST) & (hits > trials * rate))
        if not len(at[0]):
            continue
        # These include pixels of the mark itself, too few of thousands to matter.
        sample = np.s_[..., ::APART, ::APART]
        usual = (trials[sample] >= FEWEST) & (ring[sample] >= RING)
        bias = learn_bias(
            evidence_of_spreads(
                profiles(hits[sample][usual], trials[sample][usual], rate[sample][usual])
            ),
            np.zeros((0, len(SPREADS))),
        )
        by_chance = np.asarray(stats.binom.sf(hits[at] - 1, trials[at], rate[at]))
        order = np.argsort(by_chance, kind="stable")[:MOST]
        likely = tuple(axis[order] for axis in at)
        raised = special.expit(special.logit(rate[likely])[:, None] + LOG_ODDS)
        p = stats.binom.sf((hits[likely] - 1)[:, None], trials[likely][:, None], raised)
        for number, chances in enumerate(p):
            cell = tuple(int(axis[number]) for axis in likely)
            found.append((bias.expected(chances), float(hits[cell] / trials[cell]), group, cell))
    best = sorted(found)[:MOST]
    columns = [int(np.ravel_multi_index(cell, shape)) for _, _, _, cell in best]
    films = _films(seen, columns)
    return [
        Association(
            row=cell[2],
            column=cell[3],
            bright=cell[1] == 1,
            group=group,
            # One site or machine may explain the outliers, so they are tested within strata too.
            p=max(p_value, _within_strata(films[column], group, labelled)),
            share=share,
            films=films[column][labelled.members[films[column], group]],
        )
        for (p_value, share, group, cell), column in zip(best, columns, strict=True)
    ], tests


def _agreeing(
    pixels: Sequence[Association], tests: int, films: Films
) -> dict[Association, LabelTie]:
    """Significant pixels whose films' labels agree with the films' appearance."""
    likely = [each for each in pixels if films.corrected(each.p * tests) <= films.suspicious]
    rate = films.rate / max(tests, 1)
    ties = dict[Association, LabelTie]()
    for near in _neighbours(likely):
        # A letter is an outlier at another pixel on each film, so neighbours are judged together.
        rows = np.unique(np.concatenate([each.films for each in near]))
        places = [(each.row, each.column, 1) for each in near]
        mark = Control(
            kind="associations", films=rows, place=places[0], counts=films.labelled.counts(rows)
        )
        wrong = films.controls.wrong(mark, near[0].group, places)
        if wrong is not None and wrong.agree:
            judged = films.controls.judge(mark, near[0].group, rate)
            tie = replace(judged.facts, wrong=wrong, decided="agreement")
            ties.update(dict.fromkeys(near, tie))
    return ties


def _neighbours(pixels: Sequence[Association]) -> list[list[Association]]:
    """Connected sets of neighbouring pixels, of one group each."""
    from scipy import spatial
    from scipy.sparse import csgraph

    if not pixels:
        return []
    # The third coordinate keeps the groups apart.
    at = np.array([(each.row, each.column, 10 * BESIDE * each.group) for each in pixels])
    near = spatial.distance.cdist(at, at, "chebyshev") <= BESIDE
    count, part = csgraph.connected_components(near, directed=False)
    return [
        [pixels[number] for number in np.flatnonzero(part == one).tolist()] for one in range(count)
    ]


def _within_strata(films: Rows, group: int, labelled: Labelled) -> float:
    """Binomial p-value of a pixel's outliers against the other films of their strata."""
    from scipy import stats

    stated = films[labelled.stated[films, group]]
    hits = labelled.members[stated, group].sum()
    expected = labelled.counts(films).expected[group]
    return float(stats.binom.sf(hits - 1, len(stated), expected))


def _counted(seen: Observed, holds: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(groups, cells): number of outliers on films for which `holds` is true."""
    from scipy import sparse

    cells = len(TAILS) * 2 * seen.shape[1] * seen.shape[2]
    counts = np.zeros((cells, holds.shape[1]), dtype=np.float64)
    for rows in blocks(seen.shape[0], CHUNK):
        starts = seen.starts[rows[0] : rows[-1] + 2]
        columns = seen.outliers[starts[0] : starts[-1]]
        table = sparse.csr_matrix(
            (np.ones(len(columns), dtype=np.float32), columns, starts - starts[0]),
            shape=(len(rows), cells),
        )
        counts += table.T @ holds[rows].astype(np.float32)
    return counts.T


def _films(seen: Observed, cells: Sequence[int]) -> dict[int, Rows]:
    """For each cell the films with an outlier there, ascending."""
    at = np.flatnonzero(np.isin(seen.outliers, np.unique(cells)))
    owner = np.searchsorted(seen.starts, at, side="right") - 1
    which = seen.outliers[at]
    return {cell: owner[which == cell].astype(np.int64) for cell in set(cells)}
