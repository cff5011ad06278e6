"""A network tests films whose marks are associated with a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.method import Films, Found, Mark
from leadapron.detect.films.observe import Observed
from leadapron.detect.films.reader import Hidden, SecondLook
from leadapron.detect.films.repeats import squares
from leadapron.detect.films.ties import OVERLAP, Place
from leadapron.films.cohort import Rows
from leadapron.seeds import stream
from leadapron.text import count

__all__ = ["looked_again"]

MOST_HIDDEN = 0.25
"""Largest share of the films with marks hidden from a network: it is trained on the others."""


def looked_again(
    films: Films, marks: Sequence[Found], look: SecondLook
) -> tuple[Films, tuple[str, ...]]:
    """Test the films of marks that are associated with a label by more than chance.

    Args:
        films: all films.
        marks: findings about the marks without a network.
        look: the network.

    Returns:
        The films, with controls that use the network for these marks too; and notes.
    """
    tied = [
        each
        for each in marks
        if films.corrected(each.chance) <= films.false_alarm
        and each.tie is not None
        and each.tie.overlap >= OVERLAP
        and np.isfinite(each.tie.anatomy)
    ]
    reader = films.controls.reader
    if not tied or reader is None:
        return films, ()
    chosen, hidden = list[Mark](), np.zeros(len(films.cohort), dtype=np.bool_)
    # The marks closest to being evidence come first.
    for each in sorted(tied, key=lambda each: (each.p, each.chance)):
        both = hidden.copy()
        both[each.films] = True
        if each.mark is not None and both.mean() <= MOST_HIDDEN:
            hidden = both
            chosen.append(each.mark)
    notes: tuple[str, ...] = ()
    if left := len(tied) - len(chosen):
        notes = (
            f"{count(left, 'label-tied mark')} more would leave a network too few training films: "
            "they were tested without a network",
        )
    if not chosen:
        return films, notes
    given = look(_hidden(chosen, hidden, films.seen, films.seed))
    controls = films.controls.with_network(
        reader.with_network(given), [mark.control for mark in chosen]
    )
    return replace(films, controls=controls), (*notes, *given.notes)


def _hidden(marks: Sequence[Mark], films: NDArray[np.bool_], seen: Observed, seed: int) -> Hidden:
    """The squares of some marks that are hidden from a network.

    A mark without a fixed place is hidden where it lies; a film without it has squares hidden at
    the places of a randomly drawn film with it.
    """
    places, own = set[Place](), list[Rows]()
    rng = stream(seed, "hidden")
    for repeat, control in marks:
        if control.place is not None:
            places.add(control.place)
            continue
        at = squares(seen, repeat)
        starts = np.searchsorted(at[:, 0], repeat.films)
        ends = np.searchsorted(at[:, 0], repeat.films, side="right")
        donors = rng.integers(0, len(repeat.films), len(films))
        donors[repeat.films] = np.arange(len(repeat.films))
        lengths = (ends - starts)[donors]
        ahead = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        copied = at[np.repeat(starts[donors], lengths) + ahead]
        copied[:, 0] = np.repeat(np.arange(len(films)), lengths)
        own.append(copied)
    return Hidden(
        films=np.flatnonzero(films),
        places=np.array(sorted(places), dtype=np.int64).reshape(-1, 3),
        own=np.unique(np.concatenate([np.zeros((0, 4), np.int64), *own]), axis=0),
    )
