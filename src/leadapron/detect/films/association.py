"""Association: a pixel's outliers carry other labels than the outliers around it.

For marks that don't repeat level by level. What is natural, a tube or a letter, is spread over its
neighbourhood, and with it the labels that come with it; so the null hypothesis for a pixel is the
rate of the labels among the outliers of the pixels around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadapron.cohort import Rows
from leadapron.detect.films.observe import TAILS, Observed
from leadapron.detect.films.shift import Labelled

__all__ = ["Association", "associations"]

NEAR, FAR = 2, 4
"""The ring around a pixel: farther than the one, at most as far as the other, down or across."""

FEWEST = 5
"""Outliers in a group, at least."""

MOST = 50
"""Associations that are returned, the least likely first."""


@dataclass(frozen=True, eq=False)
class Association:
    """A pixel whose outliers are of one group.

    Args:
        row: the pixel's.
        column: the pixel's.
        bright: whether the outliers are brighter than their surroundings.
        group: number of the group.
        p: binomial p-value where the outliers' odds of being in the group may be `odds` times as
            high as those of the ring's outliers, and as the whole set's; not corrected.
        share: of the outliers that are in the group.
        films: the outliers in the group.
    """

    row: int
    column: int
    bright: bool
    group: int
    p: float
    share: float
    films: Rows


def associations(seen: Observed, labelled: Labelled, odds: float) -> tuple[list[Association], int]:
    """Test each pixel's outliers.

    Args:
        seen: what was seen of the films.
        labelled: their labels.
        odds: 1 or more.

    Returns:
        The least likely, and how many tests there were.
    """
    from scipy import ndimage, sparse, stats

    n, height, width = seen.shape
    cells = len(TAILS) * 2 * height * width
    table = sparse.csr_matrix(
        (np.ones(len(seen.outliers), dtype=np.float32), seen.outliers, seen.starts),
        shape=(n, cells),
    )
    shape = (len(TAILS), 2, height, width)
    side, inner = 2 * FAR + 1, 2 * NEAR + 1

    def around(counts: NDArray[np.floating]) -> NDArray[np.float64]:
        whole = ndimage.uniform_filter(counts, (0, 0, side, side), mode="constant") * side**2
        middle = ndimage.uniform_filter(counts, (0, 0, inner, inner), mode="constant") * inner**2
        ring: NDArray[np.float64] = np.maximum(whole - middle, 0)
        return ring

    found, tests = list[tuple[float, float, int, tuple[int, ...]]](), 0
    # Films of one patient are not independent: each counts by its share of the patient's films.
    weight = 1 / np.bincount(labelled.patients)[labelled.patients]
    for group, facts in enumerate(labelled.groups):
        if facts.direction == "removed":
            continue
        known = labelled.stated[:, group]
        inside = labelled.members[:, group] & known
        base = float(weight[inside].sum()) / max(float(weight[known].sum()), 1e-12)
        hits = (table.T @ inside.astype(np.float64)).reshape(shape)
        trials = (table.T @ known.astype(np.float64)).reshape(shape)
        tests += int((trials >= FEWEST).sum())
        rate = np.maximum((around(hits) + 1) / (around(trials) + 2), base)
        raised = odds * rate / (1 - rate + odds * rate)
        at = np.nonzero((hits >= FEWEST) & (hits > trials * raised))
        p = np.asarray(stats.binom.sf(hits[at] - 1, trials[at], raised[at]))
        for number in np.argsort(p, kind="stable")[:MOST]:
            cell = tuple(int(axis[number]) for axis in at)
            found.append((float(p[number]), float(hits[cell] / trials[cell]), group, cell))
    kept = []
    columns = table.tocsc()
    for p_value, share, group, cell in sorted(found)[:MOST]:
        column = int(np.ravel_multi_index(cell, shape))
        outliers = columns.indices[columns.indptr[column] : columns.indptr[column + 1]]
        films = np.sort(outliers[labelled.members[outliers, group]]).astype(np.int64)
        kept.append(
            Association(
                row=cell[2],
                column=cell[3],
                bright=cell[1] == 1,
                group=group,
                p=p_value,
                share=share,
                films=films,
            )
        )
    return kept, tests
