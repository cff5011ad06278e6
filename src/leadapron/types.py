"""Facts that pass through the whole house as types: notes, places, films, the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self, TypedDict, get_args

__all__ = [
    "AUTO",
    "About",
    "BadFilm",
    "Contradictions",
    "Device",
    "Estimate",
    "FilmSettings",
    "Form",
    "Machine",
    "NetworkSettings",
    "Note",
    "Odd",
    "OnBad",
    "Place",
    "Precision",
    "Progress",
    "said",
]

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp32"]
OnBad = Literal["stop", "skip"]
Contradictions = Literal["refuse", "allow"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and in all."""


class NetworkSettings(TypedDict):
    """What a function that runs a network takes of a `Machine`."""

    device: Device
    precision: Precision


class FilmSettings(TypedDict):
    """What a function that opens films takes of a `Machine`."""

    cache: str | os.PathLike[str] | None
    on_bad: OnBad
    progress: Progress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and how a job is carried out; none of it is part of a run's key.

    Args:
        device: Where networks run.
        precision: Of networks; auto: bf16 where it is faster.
        cache: Folder of decoded films and of sweeps, or none; LEADAPRON_CACHE or the system's
            cache if left out.
        on_bad: At a film that is missing or can't be decoded; skipped ones are listed.
        progress: Called with what is being done, the steps done and in all.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    cache: str | os.PathLike[str] | None = None
    on_bad: OnBad = "stop"
    progress: Progress | None = None

    @property
    def networks(self) -> NetworkSettings:
        """Its arguments of `open_model`, `load_classifier` and `train`."""
        return {"device": self.device, "precision": self.precision}

    @property
    def films(self) -> FilmSettings:
        """Its arguments of `open_source`."""
        return {"cache": self.cache, "on_bad": self.on_bad, "progress": self.progress}

    def tell(self, what: str, done: int, total: int) -> None:
        """Pass progress on."""
        if self.progress is not None:
            self.progress(what, done, total)


AUTO = Machine()
"""The machine as it is: its fastest device and precision, its own cache."""

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
