"""What every source of films in files does in the end: decode them, leave bad ones out, check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.cache import Cache, decode
from leadapron.cohort import Cohort
from leadapron.errors import DataError
from leadapron.preprocessing import Preprocessing
from leadapron.sources.tables import LabelTable
from leadapron.sources.words import count
from leadapron.types import Form, Note, Odd

__all__ = ["Leakage", "assemble"]

Leakage = Literal["refuse", "allow"]

LISTED = 5
"""Bad films that a note names."""


def assemble(
    films: Any,
    table: LabelTable,
    *,
    source: str,
    preprocessing: Preprocessing,
    cache: Cache | None,
    leakage: Leakage = "refuse",
) -> Cohort:
    """Decode films and return their cohort.

    Args:
        films: (n) a `Decodable` that is also `Films`.
        table: what is known of them, row by row.
        source: what the cache calls them.
        preprocessing: film to image.
        cache: where decoded films are kept, and whether bad ones stop; memory and yes if left out.
        leakage: what to do with patients who have films on both sides of the source's split.

    Raises:
        DataError: films that can't be decoded, or a split that leaks.
        StoreError: as `decode`.
    """
    notes = list(table.notes)
    _refuse_repeats(table)
    _refuse_leaks(table.patients, table.attributes.get("split"), leakage, notes)
    decoded = decode(films, preprocessing, cache or Cache(), source)
    cohort = Cohort(
        images=decoded.images,
        labels=table.labels,
        findings=table.findings,
        ids=table.ids,
        patients=table.patients,
        preprocessing=preprocessing,
        attributes=table.attributes,
        films=films,
        notes=(*notes, *_form_notes(decoded.forms), *_bad_notes(decoded.bad)),
    )
    good = np.setdiff1d(np.arange(len(table)), list(decoded.bad))
    cohort = cohort if len(good) == len(table) else cohort.take(good)
    return replace(cohort, forms=dict(decoded.forms))  # bad films have none


def _refuse_repeats(table: LabelTable) -> None:
    """Before anything is decoded."""
    names, counts = np.unique(table.ids, return_counts=True)
    repeated = names[counts > 1]
    if len(repeated):
        raise DataError(
            f"{table.name} names {count(len(repeated), 'film')} more than once, first "
            f"{str(repeated[0])!r}"
        )


def _refuse_leaks(
    patients: NDArray[np.str_], split: NDArray[Any] | None, leakage: Leakage, notes: list[Note]
) -> None:
    if split is None:
        return
    parts = [np.unique(patients[split == name]) for name in ("train", "validation", "test")]
    names, seen = np.unique(np.concatenate(parts), return_counts=True)
    shared = names[seen > 1]
    if not len(shared):
        return
    words = f"{count(len(shared), 'patient')} on more than one side of the split"
    if leakage == "refuse":
        raise DataError(
            f"{words}: results would be too good; correct the split, or --source.leakage allow"
        )
    said = f"{words}; results on its test films are too good."
    notes.append(Note("split", said, doubt=True))


_ODD: Mapping[Odd, tuple[str, bool]] = {
    "colour": (
        "Turned to grey: {} in colour, with transparency or in black and white.",
        False,
    ),
    "not square": (
        "Enlarged along one side, since the pixels aren't square: {}.",
        False,
    ),
    "contradicts its presentation": (
        "{} whose photometric interpretation and presentation LUT shape contradict each other.",
        True,
    ),
    "looks inverted": (
        "{} brighter in the upper corners than inside; their photometric interpretation may be "
        "wrong, or what wasn't exposed is white.",
        True,
    ),
    "exceeds its bits": (
        "{} with values longer than the bits that the header states; all of their bits were taken "
        "where the values jump without the upper ones.",
        True,
    ),
    "has its bits elsewhere": (
        "{} whose values are at the lower end of their words, not at the upper end as the header "
        "states; they were taken from there.",
        True,
    ),
    "has the other sign": (
        "{} whose values jump if they have the sign that the header states; the other was taken.",
        True,
    ),
    "has a table of other bits": (
        "{} with a lookup table made for other bits than it states; it was taken to span those "
        "that it holds.",
        True,
    ),
    "is beside its window": (
        "{} of which a window or table in the header shows nothing; the next was taken, or the "
        "lowest to the highest value. See --source.window.",
        True,
    ),
    "loses its greys": (
        "{} seen nearly all black or white, or in two greys, though its stored values vary; its "
        "window or table may be wrong. See --source.window.",
        True,
    ),
}
"""What is said of films that are so, and whether that is a doubt."""


def _is(odd: Odd, form: Form) -> bool:
    return odd in form.odd


def _form_notes(forms: Mapping[Form, int]) -> list[Note]:
    """What the films are."""

    def said(which: Callable[[Form], bool], words: str, doubt: bool = False) -> list[Note]:
        films = sum(n for form, n in forms.items() if which(form))
        return [Note("pixels", words.format(count(films, "film")), doubt)] if films else []

    notes = [
        *said(lambda form: form.bits == 16, "16 bits a pixel: {}."),
        *said(lambda form: form.photometric == "MONOCHROME1", "MONOCHROME1, inverted: {}."),
    ]
    for odd, (words, doubt) in _ODD.items():
        notes += said(partial(_is, odd), words, doubt)
    windows = Counter[str]()
    for form, n in forms.items():
        if form.window:
            windows[form.window] += n
    if windows:
        notes.append(Note("pixels", f"Windows: {_window_words(windows)}."))
    return notes


_WINDOWS = {
    "table": "the header's VOI table",
    "film": "lowest to highest value of the film",
    "full": "all that the stored bits can hold",
}


def _window_words(windows: Counter[str]) -> str:
    parts = [
        f"{words} ({count(windows[k], 'film')})" for k, words in _WINDOWS.items() if windows[k]
    ]
    pairs = {value: n for value, n in windows.items() if "/" in value}
    if pairs:
        numbers = np.array([[float(x) for x in value.split("/")] for value in pairs])
        ends = [
            f"{low:g}" if low == high else f"{low:g} to {high:g}"
            for low, high in zip(numbers.min(axis=0), numbers.max(axis=0), strict=True)
        ]
        parts.insert(0, f"centre {ends[0]}, width {ends[1]} ({count(sum(pairs.values()), 'film')})")
    return "; ".join(parts)


def _bad_notes(bad: Mapping[int, str]) -> list[Note]:
    if not bad:
        return []
    rows = sorted(bad)
    listed = "; ".join(bad[row] for row in rows[:LISTED])
    more = f"; and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
    words = f"Left out: {count(len(rows), 'film')} that can't be decoded: {listed}{more}."
    return [Note("files", words)]
