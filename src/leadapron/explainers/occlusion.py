"""Maps made by occluding parts of the film."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from leadapron.errors import UsageError
from leadapron.explainers.passes import collect
from leadapron.films.cohort import ImageArray
from leadapron.models.classifier import batch_size
from leadapron.models.protocols import Differentiable, Floats, columns_of

__all__ = ["occlusion"]

WINDOW = 3 / 16
"""Side of the occluding square, as a share of the image's side."""


def occlusion(
    classifier: Differentiable,
    images: ImageArray,
    findings: Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
) -> Floats:
    """Occlusion: the fall of the logit when a square of the film is hidden.

    The square has the film's mean grey level. All findings share the forward passes: 100 per film
    with the defaults. The resolution is the square's size: smaller objects appear as large as the
    square.

    Args:
        classifier: gives gradients.
        images: (n, h, w) uint8 or uint16.
        findings: k names.
        window: side of the square in pixels; 3/16 of the image's side if left out.
        stride: pixels from square to square, at most its side; half of it if left out.

    Returns:
        (n, k, h, w) float32: the mean fall of the logit over the squares that cover a pixel.
        Negative where hiding raises it.

    Raises:
        DataError: maps that aren't finite.
        UnknownNameError: no such finding.
        UsageError: a window or stride outside its range, or no images.

    Source: Zeiler and Fergus, ECCV 2014; equal to captum's Occlusion.
    """
    side = min(images.shape[1:])
    window = max(2, round(WINDOW * side)) if window is None else window
    if not 1 <= window <= side:
        raise UsageError(f"window {window}; expected 1 to {side} pixels, the image's side")
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window:
        raise UsageError(f"stride {stride}; expected 1 to {window} pixels, the window's side")
    columns = columns_of(classifier, findings)
    tops, lefts = (_starts(length, window, stride) for length in images.shape[1:])
    squares = [
        (slice(top, top + window), slice(left, left + window)) for top in tops for left in lefts
    ]

    @torch.inference_mode()
    def maps(batch: torch.Tensor) -> torch.Tensor:
        grey = batch.mean((2, 3), keepdim=True)
        whole = classifier.module(batch)[:, columns]  # (b, k)
        falls = batch.new_zeros(len(batch), len(columns), *batch.shape[2:])
        covered = batch.new_zeros(batch.shape[2:])
        together = max(1, batch_size(batch[:, 0].shape) // len(batch))
        for first in range(0, len(squares), together):
            part = squares[first : first + together]
            hidden = batch.repeat(len(part), 1, 1, 1)
            for place, (rows, across) in enumerate(part):
                films = slice(place * len(batch), (place + 1) * len(batch))
                hidden[films, :, rows, across] = grey
            found = classifier.module(hidden)[:, columns].reshape(len(part), *whole.shape)
            for (rows, across), logits in zip(part, found, strict=True):
                falls[:, :, rows, across] += (whole - logits)[:, :, None, None]
                covered[rows, across] += 1
        return falls / covered

    return collect(classifier, images, maps, findings=findings)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Positions of the squares; the last one may extend over the edge."""
    return [stride * i for i in range(math.ceil((length - window) / stride) + 1)]
