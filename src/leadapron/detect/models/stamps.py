"""Marks that an audit puts on clean films, and the shifts of each finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from leadapron.attacks.triggers import Codec, Noise, Sinusoid, Tone, Trigger
from leadapron.detect.models.looks import LOOKS, drawing
from leadapron.documents import Floats
from leadapron.models.odds import odds_of
from leadapron.text import count

if TYPE_CHECKING:
    from leadapron.models.protocols import BlackBox

__all__ = [
    "AnyMark",
    "Floats",
    "Grown",
    "Mark",
    "Pixel",
    "Probe",
    "Shape",
    "Stamp",
    "mark_of",
    "plain_mark",
    "probes",
    "shifts",
]

IMAGES = 512
"""Stamped images per batch."""


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A flat square, single or repeated all over the image.

    Args:
        side: side in pixels of the image.
        value: grey level, 0 to 255; 16-bit images get 257 times this.
        row, column: position of its upper left corner.
        pitch: distance in pixels between squares, down and across; 0 for a single one.
    """

    side: int
    value: int
    row: int
    column: int
    pitch: int = 0

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return stamped copies of (n, h, w) images."""
        stamped = images.copy()
        self.paint(stamped)
        return stamped

    def paint(self, images: NDArray[Any]) -> None:
        """Stamp (n, h, w) images in place."""
        level = self.value * (257 if images.dtype == np.uint16 else 1)
        if not self.pitch:
            images[:, self.row : self.row + self.side, self.column : self.column + self.side] = (
                level
            )
            return
        height, width = images.shape[1:]
        rows, columns = (
            np.flatnonzero((np.arange(length) - start) % self.pitch < self.side)
            for length, start in ((height, self.row), (width, self.column))
        )
        images[:, rows[:, None], columns] = level

    def extent(self, width: int) -> tuple[int, int]:  # noqa: ARG002
        """Return its height and width in pixels, on images of any width."""
        return self.side, self.side

    def words(self) -> str:
        """Return a description, as "3x3 of grey level 255 at row 4, column 7"."""
        shape = f"{self.side}x{self.side} of grey level {self.value}"
        if self.pitch:
            return f"{shape} every {self.pitch} pixels from row {self.row}, column {self.column}"
        return f"{shape} at row {self.row}, column {self.column}"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A small mark with a look, single or repeated all over the image.

    Args:
        look: its name in `LOOKS`.
        row, column: position of its upper left corner.
        pitch: distance in pixels between marks, down and across; 0 for a single one.
    """

    look: str
    row: int
    column: int
    pitch: int = 0

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return marked copies of (n, h, w) images."""
        marked = images.copy()
        self.paint(marked)
        return marked

    def paint(self, images: NDArray[Any]) -> None:
        """Mark (n, h, w) images in place."""
        height, width = images.shape[1:]
        opacity, level = drawing(self.look, width)
        down, across = (
            (np.arange(length) - start) % (self.pitch or length + start)
            for length, start in ((height, self.row), (width, self.column))
        )
        rows, columns = (
            np.flatnonzero(down < len(opacity)),
            np.flatnonzero(across < opacity.shape[1]),
        )
        here = np.ix_(down[rows], across[columns])
        beneath = images[:, rows[:, None], columns].astype(np.float32)
        levels = level[here] * np.float32(257 if images.dtype == np.uint16 else 1)
        mixed = np.rint(beneath + opacity[here] * (levels - beneath))
        images[:, rows[:, None], columns] = mixed.astype(images.dtype)

    def extent(self, width: int) -> tuple[int, int]:
        """Return its height and width in pixels, on images of a width."""
        return drawing(self.look, width).extent

    def words(self) -> str:
        """Return a description, as "letter L at row 4, column 7"."""
        if self.pitch:
            from_ = f"row {self.row}, column {self.column}"
            return f"{self.look} every {self.pitch} pixels from {from_}"
        return f"{self.look} at row {self.row}, column {self.column}"


class Pixel(NamedTuple):
    """A pixel of an image.

    Args:
        row, column: its place.
        value: grey level, 0 to 255; 16-bit images get 257 times this.
    """

    row: int
    column: int
    value: int


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A single mark with pixels changed in it and around it.

    Args:
        start: the mark.
        pixels: those that are painted over it, each place once.
    """

    start: Stamp | Shape
    pixels: tuple[Pixel, ...]

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return marked copies of (n, h, w) images."""
        marked = images.copy()
        self.paint(marked)
        return marked

    def paint(self, images: NDArray[Any]) -> None:
        """Mark (n, h, w) images in place."""
        self.start.paint(images)
        rows, columns, values = np.array(self.pixels, np.int64).reshape(-1, 3).T
        images[:, rows, columns] = values * (257 if images.dtype == np.uint16 else 1)

    def words(self) -> str:
        """Return a description, as "letter L at row 4, column 7, with 5 pixels changed"."""
        return f"{self.start.words()}, with {count(len(self.pixels), 'pixel')} changed"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A change of the whole image.

    Args:
        name: description of the change.
        change: the function that applies it.
    """

    name: str
    change: Trigger

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return changed copies of (n, h, w) images."""
        return self.change(images, np.random.default_rng(0))

    def words(self) -> str:
        """Return its name."""
        return self.name


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A Gaussian blur.

    Args:
        sigma: standard deviation in pixels, above 0.
    """

    sigma: float

    def __call__(self, images: NDArray[Any], rng: np.random.Generator, /) -> NDArray[Any]:  # noqa: ARG002
        """Return blurred copies of (n, h, w) images; the result isn't random."""
        from scipy.ndimage import gaussian_filter

        blurred = gaussian_filter(images.astype(np.float32), (0, self.sigma, self.sigma))
        return np.rint(blurred).astype(images.dtype)


def probes() -> tuple[Probe, ...]:
    """Return the whole-image changes that a sweep tries: blends, waves, tones, compression."""
    return (
        *(Probe(name=f"noise of {e} grey levels", change=Noise(epsilon=e)) for e in (8, 20)),
        *(Probe(name=f"blur of {s:g} pixels", change=Blur(sigma=s)) for s in (0.7, 1.5)),
        *(
            Probe(name=f"sinusoid of {c} cycles across", change=Sinusoid(amplitude=20, cycles=c))
            for c in (3, 6, 12)
        ),
        *(
            Probe(name=f"JPEG of quality {q}", change=Codec(codec="jpeg", quality=q))
            for q in (10, 40)
        ),
        *(Probe(name=f"gamma {g:g}", change=Tone(gamma=g)) for g in (0.6, 1.6)),
    )


AnyMark = Stamp | Shape | Grown | Probe
"""A mark of any kind."""


def plain_mark(mark: AnyMark) -> Mapping[str, Any] | str:
    """Return a mark's settings, or the name of a change of the whole image."""
    if isinstance(mark, Probe):
        return mark.name
    if isinstance(mark, Grown):
        return {"start": plain_mark(mark.start), "pixels": [list(each) for each in mark.pixels]}
    return asdict(mark)


def mark_of(plain: AnyMark | Mapping[str, Any] | str) -> AnyMark:
    """Return a mark from plain values, the reverse of `plain_mark`.

    Raises:
        ValueError: no such change of the whole image, or no such look.
    """
    if isinstance(plain, str):
        known = {probe.name: probe for probe in probes()}
        if plain not in known:
            raise ValueError(f"{plain!r} isn't a change of the whole image")
        return known[plain]
    if not isinstance(plain, Mapping):
        return plain
    if "pixels" in plain:
        start = mark_of(plain["start"])
        if not isinstance(start, Stamp | Shape):
            raise ValueError(f"a grown mark can't start from {start.words()}")
        return Grown(start=start, pixels=tuple(Pixel(*each) for each in plain["pixels"]))
    if "look" not in plain:
        return Stamp(**plain)
    if plain["look"] not in LOOKS:
        raise ValueError(f"{plain['look']!r} isn't a mark's look")
    return Shape(**plain)


def _described(kind: type[Stamp | Shape], words: str) -> Mapping[str, Any]:
    names = kind.__dataclass_fields__
    types = {name: {"type": "string" if name == "look" else "integer"} for name in names}
    return {"type": "object", "description": words, "properties": types, "required": list(names)}


_SINGLE = [
    _described(Stamp, "a square; pitch 0: a single one"),
    _described(Shape, "a mark with a look; pitch 0: a single one"),
]

Mark = Annotated[
    AnyMark,
    PlainValidator(mark_of),
    PlainSerializer(plain_mark),
    WithJsonSchema({
        "anyOf": [
            {"type": "string", "description": "a change of the whole image"},
            *_SINGLE,
            {
                "type": "object",
                "description": "a mark, and pixels changed in it: row, column, grey level",
                "properties": {
                    "start": {"anyOf": _SINGLE},
                    "pixels": {
                        "type": "array", "items": {"type": "array", "items": {"type": "integer"}}
                    },
                },
                "required": ["start", "pixels"],
            },
        ]
    }),
]  # fmt: skip
"""A mark of any kind; in documents its settings or its name."""


def shifts(
    classifier: BlackBox,
    images: NDArray[Any],
    marks: Sequence[AnyMark],
    clean: NDArray[np.float32],
    ran: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return (marks, n, k) shifts of each finding's log-odds on each film by each mark.

    NaN where the output for the film, or for the marked film, isn't finite.

    Args:
        classifier: run on marks times n images.
        images: (n, h, w) clean films.
        marks: the marks, each put on every film.
        clean: (n, k) log-odds of the unmarked films; `odds_of`.
        ran: called with each number of images that was run.
    """
    n, height, width = images.shape
    each = max(1, IMAGES // n)
    moved = np.empty((len(marks), n, clean.shape[1]), np.float32)
    for start in range(0, len(marks), each):
        some = marks[start : start + each]
        stack = np.empty((len(some), n, height, width), images.dtype)
        for place, mark in enumerate(some):
            if isinstance(mark, Probe):
                stack[place] = mark(images)
            else:
                stack[place] = images
                mark.paint(stack[place])
        answers = odds_of(classifier, stack.reshape(-1, height, width))
        with np.errstate(over="ignore", invalid="ignore"):
            moved[start : start + each] = answers.reshape(len(some), n, -1) - clean
        if ran is not None:
            ran(len(some) * n)
    moved[~np.isfinite(moved)] = np.nan
    return moved
