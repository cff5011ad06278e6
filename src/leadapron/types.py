"""Facts that pass through the whole house as types: what is said of films, and what films are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

__all__ = ["About", "BadFilm", "Estimate", "Form", "Note", "Odd", "Place", "said"]

About = Literal["source", "files", "pixels", "labels", "copies", "patients", "split", "columns"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a source or job has to say.

    Args:
        about: what it is about; code goes by this, never by the words.
        words: a sentence.
        doubt: whether results may be wrong for it; every job shows its doubts, first and marked.
    """

    about: About
    words: str
    doubt: bool = False

    def __str__(self) -> str:
        return f"DOUBT: {self.words}" if self.doubt else self.words


def said(notes: Iterable[Note]) -> tuple[str, ...]:
    """Return notes as they are shown: doubts first and marked."""
    return tuple(str(note) for note in sorted(notes, key=lambda note: not note.doubt))


class Estimate(NamedTuple):
    """A number, its 95 % interval, and what it rests on.

    Args:
        value: NaN where undefined, as the ends of the interval.
        low: the interval's lower end.
        high: its upper end.
        n: of films, or of what else is counted.
        positives: how many of them are positive.
    """

    value: float
    low: float
    high: float
    n: int
    positives: int

    @property
    def defined(self) -> bool:
        """Whether there is a value (its interval may still be undefined)."""
        return not math.isnan(self.value)

    def plain(self) -> dict[str, float | int | None]:
        """Return it as JSON takes it: by name, None for what isn't finite."""
        return {
            name: number if math.isfinite(number) else None
            for name, number in self._asdict().items()
        }

    @classmethod
    def parsed(cls, facts: Mapping[str, Any]) -> Self:
        """Return what `plain` returned."""
        value, low, high = (
            math.nan if facts[name] is None else float(facts[name])
            for name in ("value", "low", "high")
        )
        return cls(value, low, high, int(facts["n"]), int(facts["positives"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A rectangle in an image, in pixels.

    Args:
        row: of its upper left pixel, from 0.
        column: of its upper left pixel, from 0.
        height: of the rectangle.
        width: of the rectangle.
    """

    row: int
    column: int
    height: int
    width: int


BadFilm = Literal["missing", "unreadable", "undecodable"]
"""No such file; a file that the system doesn't give; a file that holds no film that can be used."""

Odd = Literal[
    "colour",
    "colour of 16 bits",
    "turned",
    "may be turned",
    "not square",
    "contradicts its presentation",
    "looks inverted",
    "exceeds its bits",
    "has its bits elsewhere",
    "has the other sign",
    "has a table of other bits",
    "is beside its window",
    "loses its greys",
]
"""What is worth a note where a film is so."""


LARGEST, LONGEST = 1 << 30, 100
"""What a form's numbers and texts may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a film is, before it becomes an image.

    Args:
        height: in pixels, before pixels are made square.
        width: in pixels, before pixels are made square.
        bits: that the file states for a pixel; 0 where it states none.
        used: bits that the highest value of a picture or array of 16 bits takes; 0 of others.
        kind: "PNG", "JPEG", "DICOM", "npz", or "".
        photometric: interpretation of a DICOM file, or "".
        syntax: the DICOM file's transfer syntax, by its name, or "".
        window: "CENTRE/WIDTH", "table", "full" or "film", of a DICOM file in grey, or "".
        odd: what else is to be said of it.
    """

    height: int
    width: int
    bits: int = 0
    used: int = 0
    kind: str = ""
    photometric: str = ""
    syntax: str = ""
    window: str = ""
    odd: tuple[Odd, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, without what is left at its default."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value != type(self).__dataclass_fields__[name].default
        }

    @classmethod
    def parsed(cls, facts: Mapping[str, Any]) -> Self:
        """Return what `plain` returned, from whoever; ValueError for anything else."""
        try:
            form = cls(**{**facts, "odd": tuple(facts.get("odd", ()))})
            numbers = (form.height, form.width, form.bits, form.used)
            texts = (form.kind, form.photometric, form.syntax, form.window)
            sound = (
                all(type(number) is int and 0 <= number <= LARGEST for number in numbers)
                and all(len(text) <= LONGEST and text.isprintable() for text in texts)
                and all(odd in get_args(Odd) for odd in form.odd)
            )
        except (TypeError, AttributeError) as error:
            raise ValueError("no form of a film") from error
        if not sound:
            raise ValueError("no form of a film")
        return form
