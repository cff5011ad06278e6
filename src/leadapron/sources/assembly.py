"""What every source of films in files does in the end: decode them, leave bad ones out, check."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cache import Cache, Decoded, decode
from leadapron.films.cohort import Cohort, Reordered
from leadapron.films.preprocessing import FEWEST, FULL, Preprocessing
from leadapron.sources.tables import LabelTable
from leadapron.sources.words import listed
from leadapron.text import count
from leadapron.types import Form, Note, Odd

__all__ = ["Leakage", "assemble", "doubts_of"]

Leakage = Literal["refuse", "allow"]

FEW = 0.05
"""Share of films that may use fewer bits than the others: dark ones."""


def assemble(
    films: Any,
    table: LabelTable,
    *,
    source: str,
    preprocessing: Preprocessing,
    cache: Cache | None,
    leakage: Leakage = "refuse",
    bits: int = 0,
) -> Cohort:
    """Decode films and return their cohort.

    Args:
        films: (n) a `Decodable` that is also `Films`, and has `of_bits` as `FilmFiles`.
        table: what is known of them, row by row.
        source: what the cache calls them.
        preprocessing: film to image.
        cache: which films are decoded, where they are kept, and whether bad ones stop; all, in
            memory and yes if left out.
        leakage: what to do with patients who have films on both sides of the source's split.
        bits: that films of 16 bits use, 8 to 16; those of their highest values, if 0.

    Raises:
        UsageError: bits out of range.
        DataError: films that can't be decoded, or a split that leaks.
        StoreError: as `decode`.
    """
    table = table.cleaned()
    notes = list(table.notes)
    _refuse_repeats(table)
    _refuse_leaks(table.patients, table.attributes.get("split"), leakage, notes)
    if bits and not FEWEST <= bits <= 16:
        raise UsageError(f"`source.bits` {bits}: expected {FEWEST} to 16")
    kept = cache or Cache()
    if kept.choose is not None:
        rows = kept.choose(len(table))
        films, table = _Chosen(films, rows), table.take(rows)
        kept = kept if len(rows) else Cache()  # nothing to keep
    films = films.of_bits(bits) if bits else films
    decoded = decode(films, preprocessing, kept, source)
    lengths = _lengths(decoded.forms)
    used, said = _used(lengths, bits)
    if not bits and used != 16 and lengths:
        films = films.of_bits(used)
        decoded = decode(films, preprocessing, kept, source)
    cohort = Cohort(
        images=decoded.images,
        labels=table.labels,
        findings=table.findings,
        ids=table.ids,
        patients=table.patients,
        preprocessing=preprocessing,
        attributes=table.attributes,
        films=films,
        notes=(
            *notes,
            *said,
            *_form_notes(decoded.forms),
            *_bad_notes(decoded.bad),
            *_contradictions(table, decoded),
        ),
        bits=used if lengths else 0,
    )
    good = np.setdiff1d(np.arange(len(table)), list(decoded.bad))
    cohort = cohort if len(good) == len(table) else cohort.take(good)
    return replace(cohort, forms=dict(decoded.forms))  # bad films have none


class _Chosen(Reordered):
    """Some of the films of a source: `Decodable` and `Films`."""

    @property
    def paths(self) -> list[str]:
        """The files that they lie in: one each, or those that all films of the source share."""
        paths = self.base.paths
        shared = len(paths) != len(self.base)
        return list(paths) if shared else [paths[row] for row in self.order]

    @property
    def decoder(self) -> str:
        """As of the source; where films share a file, the rows decide too."""
        rows = hashlib.sha256(np.ascontiguousarray(self.order).tobytes()).hexdigest()
        return f"{self.base.decoder}, rows {rows[:16]}"

    def image(self, row: int, preprocessing: Preprocessing) -> tuple[NDArray[Any], Form]:
        """Return a film's image and what the film is."""
        made: tuple[NDArray[Any], Form] = self.base.image(int(self.order[row]), preprocessing)
        return made

    def of_bits(self, bits: int) -> Self:
        """Return the same films, taken to use so many bits."""
        return type(self)(self.base.of_bits(bits), self.order)


def _lengths(forms: Mapping[Form, int]) -> Counter[int]:
    """How many pictures and arrays of 16 bits use how many."""
    lengths = Counter[int]()
    for form, n in forms.items():
        if form.used:
            lengths[form.used] += n
    return lengths


def _used(lengths: Mapping[int, int], stated: int) -> tuple[int, list[Note]]:
    """The bits that films of 16 use as a set, and what is to be said of it.

    A highest value of half of what a set's can be is common, of a quarter is rare.
    """
    if not lengths or stated:
        return stated, []
    most, films = max(lengths), sum(lengths.values())
    lower = {used: n for used, n in lengths.items() if used < most - 1}
    notes = []
    if most < FEWEST:
        words = f"{count(films, 'film')} of 16 bits with values below {1 << most}: nearly black."
        return 16, [Note("pixels", words, doubt=True)]
    if most == FULL:
        words = (
            "16 bits a pixel, and no film is brighter than half; if their values have 15 bits, "
            "--source.bits 15 says so."
        )
        notes.append(Note("pixels", words, doubt=True))
        most = 16
    elif most < FULL:
        words = (
            f"16 bits a pixel, of which no film uses more than {most}: those were spread over all "
            f"levels, as --source.bits {most} does."
        )
        notes.append(Note("pixels", words))
    if sum(lower.values()) > FEW * films:
        words = (
            f"{count(sum(lower.values()), 'film')} of {films:,} of 16 bits with values that use "
            f"{max(lower)} bits at most, where others use {most}: darker for it if they come from "
            "another device or program; open those apart, with --source.bits."
        )
        notes.append(Note("pixels", words, doubt=True))
    return most, notes


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
            f"{words}: results would be too good; correct the split, or `source.leakage` allow"
        )
    said = f"{words}; results on its test films are too good."
    notes.append(Note("split", said, doubt=True))


def _contradictions(table: LabelTable, decoded: Decoded) -> list[Note]:
    groups = _contradicting(table.labels, decoded)
    if not groups:
        return []
    first = groups[0]
    both = (table.labels[first] == 1).any(axis=0) & (table.labels[first] == 0).any(axis=0)
    finding = table.findings[int(np.argmax(both))]
    words = (
        f"{count(sum(map(len, groups)), 'film')} in {count(len(groups), 'group')} of identical "
        f"ones, whose labels contradict each other, first in {finding}; leadapron describe names "
        "them."
    )
    return [Note("copies", words, doubt=True)]


def _contradicting(labels: NDArray[np.float32], decoded: Decoded) -> list[NDArray[np.int64]]:
    """Groups of rows with equal images, one with a finding and one without; blank films aside."""
    good = np.setdiff1d(np.arange(len(labels)), list(decoded.bad))
    # The first half of a digest finds all groups, and sorts ten times as fast.
    half = decoded.digests.view(np.uint64)[::2][good]
    order = np.argsort(half, kind="stable")
    alike = half[order][1:] == half[order][:-1]
    if not alike.any():
        return []
    copies = good[np.sort(order[np.append(alike, False) | np.append(False, alike)])]
    _, group = np.unique(decoded.digests[copies], return_inverse=True)
    present = np.zeros((group.max() + 1, labels.shape[1]), dtype=np.bool_)
    absent = present.copy()
    np.logical_or.at(present, group, labels[copies] == 1)
    np.logical_or.at(absent, group, labels[copies] == 0)
    wrong = np.flatnonzero((present & absent).any(axis=1))
    groups = [copies[group == number] for number in wrong.tolist()]
    return sorted(
        (rows for rows in groups if np.ptp(decoded.images[rows[0]]) > 0),
        key=lambda rows: int(rows[0]),
    )


_ODD: Mapping[Odd, tuple[str, bool]] = {
    "colour": (
        "Turned to grey: {} in colour, with transparency or in black and white.",
        False,
    ),
    "colour of 16 bits": (
        "{} in colour of 16 bits, of which the upper 8 were read: dark for it. Grey ones are read "
        "whole.",
        True,
    ),
    "turned": ("Turned as their EXIF orientation says: {}.", False),
    "may be turned": ("{} with an EXIF orientation that can't be read.", True),
    "not square": (
        "Enlarged along one side, since the pixels aren't square: {}.",
        False,
    ),
    "contradicts its presentation": (
        "{} whose photometric interpretation and presentation LUT shape contradict each other.",
        True,
    ),
    "looks inverted": (
        "{} brighter in the upper corners than inside; the photometric interpretation may be "
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
        "{} seen nearly all black or white, or in two greys, though the stored values vary; the "
        "window or table may be wrong. See --source.window.",
        True,
    ),
}
"""What is said of films that are so, and whether that is a doubt."""


def doubts_of(form: Form) -> list[str]:
    """Return what may be wrong with the greys of one film."""
    said = [_ODD[odd] for odd in form.odd]
    return [str(Note("pixels", words.format("a film"), doubt)) for words, doubt in said if doubt]


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
    said = listed([bad[row] for row in sorted(bad)])
    return [Note("files", f"Left out: {count(len(bad), 'film')} that can't be decoded: {said}.")]
