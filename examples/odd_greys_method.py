"""A method of the scan of one's own, in one file: films of odd grey levels, or of even ones.

A mark in the lowest bit of every pixel is seen by nobody, and none of the built-in methods looks
there.

leadapron scan --plugin examples/odd_greys_method.py FILMS
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from leadapron.detect.films import METHODS, Films, Found
from leadapron.films.cohort import blocks


@dataclass(frozen=True, kw_only=True)
class OddGreys:
    """Films most of whose pixels are odd, or even, whose labels are shifted.

    Args:
        share: of a film's pixels from which on, 0.5 to 1.
        odds: ratio between these films and a label that nature is granted, 1 or more.
    """

    share: float = 0.9
    odds: float = 10.0

    def find(self, films: Films) -> Iterator[Found]:
        """Test the labels of the films with odd levels, and of those with even ones."""
        odd = np.concatenate(
            [
                (films.cohort.images[rows] & 1).mean(axis=(1, 2))
                for rows in blocks(len(films.cohort))
            ]
        )
        labelled, ways = films.labelled, {"odd": odd, "even": 1 - odd}
        for words, share in ways.items():
            rows = np.flatnonzero(share >= self.share)
            best = labelled.strongest(rows, self.odds)
            if best is None:
                continue
            (plain,) = labelled.shifts(rows, 1.0, only=best.group)
            yield Found(
                p=min(1.0, best.p * len(ways)),
                chance=min(1.0, plain.p * len(labelled.groups) * len(ways)),
                group=labelled.groups[best.group],
                share=best.share,
                expected=best.expected,
                films=rows,
                what=f"{words} grey levels on {len(rows)} films",
            )


METHODS["odd greys"] = OddGreys()
