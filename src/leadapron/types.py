"""Types that all parts of the package share: notes, places, films, the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, Self, TypedDict, get_args

__all__ = [
    "AUTO",
    "About",
    "Backend",
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
Backend = Literal["auto", "torch", "onnxruntime"]
OnBad = Literal["stop", "skip"]
Contradictions = Literal["refuse", "allow"]

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the steps done, and the total."""


class NetworkSettings(TypedDict):
    """Arguments from a `Machine` for a function that runs a network."""

    device: Device
    precision: Precision


class FilmSettings(TypedDict):
    """Arguments from a `Machine` for a function that opens films."""

    cache: str | os.PathLike[str] | None
    on_bad: OnBad
    progress: Progress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and how a job runs; none of it is part of a run's key.

    Args:
        device: Device of networks.
        precision: Precision of networks; auto: bf16 if it is faster.
        backend: What runs the forward passes of an audit and of a gate; auto: torch, or what the
            gate was made with. ONNX Runtime runs on the processor, in fp32.
        cache: Folder of decoded films and sweeps, or none; LEADAPRON_CACHE or the system's cache if
            left out.
        on_bad: What to do if a film is missing or can't be decoded; skipped ones are listed.
        progress: Called with the name of the step, the steps done, and the total.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    backend: Backend = "auto"
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

    @property
    def unstated(self) -> Machine:
        """The machine without a precision and backend, for a gate that keeps its own."""
        return replace(self, precision="auto", backend="auto")

    def tell(self, what: str, done: int, total: int) -> None:
        """Call `progress`."""
        if self.progress is not None:
            self.progress(what, done, total)


AUTO = Machine()
"""The default machine: its fastest device and precision, and its cache."""

About = Literal["source", "files", "pixels", "labels", "copies", "patients", "split", "columns"]


@dataclass(frozen=True, slots=True)
class Note:
    """A remark of a source or job.

    Args:
        about: its subject; code uses this, never the words.
        words: a sentence.
        doubt: whether it is a warning that results may be wrong; jobs show warnings first, marked
            "DOUBT".
    """

    about: About
    words: str
    doubt: bool = False

    def __str__(self) -> str:
        return f"DOUBT: {self.words}" if self.doubt else self.words


def said(notes: Iterable[Note]) -> tuple[str, ...]:
    """Return notes in the order of display: warnings first, marked "DOUBT"."""
    return tuple(str(note) for note in sorted(notes, key=lambda note: not note.doubt))


class Estimate(NamedTuple):
    """A number with its 95 % interval and sample size.

    Args:
        value: NaN if undefined, as the ends of the interval.
        low: the interval's lower end.
        high: its upper end.
        n: number of films, or of other counted items.
        positives: number of positive ones.
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
        """Return plain values for JSON, by name, with None for values that aren't finite."""
        return {
            name: number if math.isfinite(number) else None
            for name, number in self._asdict().items()
        }

    @classmethod
    def parsed(cls, facts: Mapping[str, Any]) -> Self:
        """Return an estimate from `plain` values."""
        value, low, high = (
            math.nan if facts[name] is None else float(facts[name])
            for name in ("value", "low", "high")
        )
        return cls(value, low, high, int(facts["n"]), int(facts["positives"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A rectangle in an image, in pixels.

    Args:
        row: row of its upper left pixel, from 0.
        column: column of its upper left pixel, from 0.
        height: height of the rectangle.
        width: width of the rectangle.
    """

    row: int
    column: int
    height: int
    width: int


BadFilm = Literal["missing", "unreadable", "undecodable"]
"""Why a film is bad: no such file; a file that can't be read; a file without a usable film."""

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
"""Irregularities of a film that are noted."""


LARGEST, LONGEST = 1 << 30, 100
"""Largest number and most characters in a form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Format of a film before preprocessing.

    Args:
        height: height in pixels, before pixels are made square.
        width: width in pixels, before pixels are made square.
        bits: bits per pixel that the file states; 0 if none.
        used: bits of the highest value of a 16-bit picture or array; 0 for others.
        kind: "PNG", "JPEG", "DICOM", "npz", or "".
        photometric: photometric interpretation of a DICOM file, or "".
        syntax: name of a DICOM file's transfer syntax, or "".
        window: "CENTRE/WIDTH", "table", "full" or "film" for a grey DICOM file, or "".
        odd: its irregularities.
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
        """Return plain values, without defaults."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value != type(self).__dataclass_fields__[name].default
        }

    @classmethod
    def parsed(cls, facts: Mapping[str, Any]) -> Self:
        """Return a form from untrusted `plain` values; ValueError if they are invalid."""
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
            raise ValueError("not a form of a film") from error
        if not sound:
            raise ValueError("not a form of a film")
        return form
