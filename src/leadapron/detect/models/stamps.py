"""Marks that an audit puts on clean films, and the shifts of each finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from leadapron.attacks.triggers import Codec, Noise, Sinusoid, Tone, Trigger
from leadapron.documents import Floats

if TYPE_CHECKING:
    from leadapron.models.protocols import BlackBox

__all__ = ["Floats", "Mark", "Probe", "Stamp", "mark_of", "plain_mark", "probes", "shifts"]

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

    def words(self) -> str:
        """Return a description, as "3x3 of grey level 255 at row 4, column 7"."""
        shape = f"{self.side}x{self.side} of grey level {self.value}"
        if self.pitch:
            return f"{shape} every {self.pitch} pixels from row {self.row}, column {self.column}"
        return f"{shape} at row {self.row}, column {self.column}"


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


def plain_mark(mark: Stamp | Probe) -> dict[str, int] | str:
    """Return a square's settings, or the name of a change of the whole image."""
    return asdict(mark) if isinstance(mark, Stamp) else mark.name


def mark_of(plain: Stamp | Probe | Mapping[str, int] | str) -> Stamp | Probe:
    """Return a mark from plain values, the reverse of `plain_mark`; ValueError for another name."""
    if isinstance(plain, str):
        known = {probe.name: probe for probe in probes()}
        if plain not in known:
            raise ValueError(f"{plain!r} isn't a change of the whole image")
        return known[plain]
    return Stamp(**plain) if isinstance(plain, Mapping) else plain


Mark = Annotated[
    Stamp | Probe,
    PlainValidator(mark_of),
    PlainSerializer(plain_mark),
    WithJsonSchema({
        "anyOf": [
            {"type": "string", "description": "a change of the whole image"},
            {
                "type": "object",
                "description": "a square; pitch 0: a single one",
                "properties": {
                    name: {"type": "integer"} for name in Stamp.__dataclass_fields__
                },
            },
        ]
    }),
]  # fmt: skip
"""A square, or a change of the whole image; in documents its settings or its name."""


def shifts(
    classifier: BlackBox,
    images: NDArray[Any],
    marks: Sequence[Stamp | Probe],
    clean: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return (marks, n, k) shifts of each logit of each film by each mark.

    NaN where the output for the film, or for the marked film, isn't finite.

    Args:
        classifier: run on marks times n images.
        images: (n, h, w) clean films.
        marks: the marks, each put on every film.
        clean: (n, k) logits of the unmarked films.
    """
    n, height, width = images.shape
    each = max(1, IMAGES // n)
    moved = np.empty((len(marks), n, clean.shape[1]), np.float32)
    for start in range(0, len(marks), each):
        some = marks[start : start + each]
        stack = np.empty((len(some), n, height, width), images.dtype)
        for place, mark in enumerate(some):
            if isinstance(mark, Stamp):
                stack[place] = images
                mark.paint(stack[place])
            else:
                stack[place] = mark(images)
        answers = classifier.logits(stack.reshape(-1, height, width))
        with np.errstate(over="ignore", invalid="ignore"):
            moved[start : start + each] = answers.reshape(len(some), n, -1) - clean
    moved[~np.isfinite(moved)] = np.nan
    return moved
