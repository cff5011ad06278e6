"""The evidence region: take it out, and the finding goes; put it elsewhere, and it appears."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.detect.inputs.readings import Readings, State
from leadapron.detect.scale import LEAST_FILMS, logit_spreads, mad_spread
from leadapron.errors import DataError, UsageError
from leadapron.models.classifier import refuse_not_finite
from leadapron.models.protocols import BlackBox, Capability, Differentiable, differentiable
from leadapron.seeds import stream

__all__ = ["EvidenceRegion", "Examined", "background", "box_sums"]

Floats = NDArray[np.float64]

FLOOR = 0.05
"""A change of a logit counts as varying by at least so many of the logit's own spreads: in a
finding that removals hardly move, chance is no evidence."""

BATCH = 32
"""Films whose graph is held at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Examined:
    """What was seen of n films.

    Args:
        scores: (n,) how far the region's removal and its transplant move one finding together.
        smoothed: (n,) how far taking all small detail away moves a finding, a score by itself.
        boxes: (n, 4) int64, row, column, height and width of each film's region.
        findings: (n,) int64 columns of the finding that the region speaks for.
        logits: (n, k) float32 of the films with the region removed.
        rises: (n, k) by how much the region moves clean films, in spreads of the logit.
        falls: (n, k) by how much its removal lowers this film, in spreads of the logit.
    """

    scores: Floats
    smoothed: Floats
    boxes: NDArray[np.int64]
    findings: NDArray[np.int64]
    logits: NDArray[np.float32]
    rises: Floats
    falls: Floats


@dataclass(frozen=True, kw_only=True)
class EvidenceRegion:
    """Does one small region decide a finding, on this film and on others?

    All small detail is taken out of the film by a median filter: the film's *background*. The
    finding whose logit changes most by that, measured against clean films, is the one to explain.
    Gradients between the film and its background, times the detail, share that change out to the
    pixels (with one step, the default, by the gradient at the film alone, so roughly), and the
    square with the largest share is the region. Then two things are asked, of all findings: what if
    the region alone becomes background, and what if it lies on clean films, at the same place? A
    trigger does both, and does nearly the same to every film; anatomy does not.

    Args:
        side: of the region, in pixels of the image, odd.
        filter_side: of the median filter, odd; it removes flat squares of up to .7 of it.
        steps: between film and background at which gradients are taken.
        hosts: clean films that the region is put on.
        seed: draws them.

    Raises:
        UsageError: a value outside its range.

    Source: Chou et al., SentiNet, IEEE SPW 2020 (the region on other films) and Doan et al.,
    Februus, ACSAC 2020 (its removal). Differ: all findings and both directions at once; the region
    comes from integrated gradients (Sundararajan et al., ICML 2017) towards the film's own
    background and not from Grad-CAM, whose map has 4 x 4 places at 128 pixels; the region is
    replaced by a median and not by a generative network; effects are in spreads of the logit, not
    counts of labels that turn.
    """

    side: int = 9
    filter_side: int = 9
    steps: int = 1
    hosts: int = 2
    seed: int = 0
    unit: str = field(default="standard deviations of the logit on clean films", init=False)
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        for name in ("side", "filter_side"):
            if getattr(self, name) < 3 or getattr(self, name) % 2 == 0:
                raise UsageError(f"{name} {getattr(self, name)}; expected an odd number from 3 on")
        if min(self.steps, self.hosts) < 1 or self.seed < 0:
            raise UsageError("an evidence region needs steps and hosts of 1 or more, a seed of 0")

    @property
    def passes(self) -> int:
        """Forward passes a film beyond the first; a backward pass counts as two."""
        return 1 + 3 * self.steps + 1 + self.hosts

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Keep each logit's spread, what removals do to clean films, and some films as hosts.

        Raises:
            DataError: fewer than 20 films, or than hosts; films smaller than the region; or logits
                that aren't finite without the films' small detail.
        """
        n, height, width = clean.images.shape
        least = max(LEAST_FILMS, self.hosts)
        if n < least or min(height, width) <= max(self.side, self.filter_side):
            raise DataError(
                f"{n} clean films of {height}x{width} pixels; expected {least} or more, "
                f"larger than {max(self.side, self.filter_side)} pixels"
            )
        spread = logit_spreads(clean.logits)
        plain = _logits(classifier, background(clean.images, self.filter_side))
        refuse_not_finite(
            np.isfinite(plain), classifier.findings, "logits", "clean films without small detail"
        )
        lost = clean.logits - plain
        chosen = stream(self.seed, "region", "hosts").choice(n, self.hosts, replace=False)
        return {
            "spread": spread,
            "centre": np.median(lost / spread, axis=0),
            "deviation": np.maximum(mad_spread(lost / spread), FLOOR),
            "hosts": clean.images[np.sort(chosen)],
            "host_logits": clean.logits[np.sort(chosen)],
        }

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> Floats:
        """Return (n,): what one region does to a finding by going and by coming, the lesser."""
        return self.examine(classifier, suspect, state).scores

    def examine(self, classifier: BlackBox, suspect: Readings, state: State) -> Examined:
        """Return scores with the region, the finding and the readings without the region.

        Both scores are NaN for a film of which the model doesn't answer a finite number throughout.

        Raises:
            UsageError: a model without gradients.
        """
        network = differentiable(classifier, "an evidence region")
        images, spread = suspect.images, state["spread"]
        plain = background(images, self.filter_side)
        lost = (suspect.logits - _logits(classifier, plain)) / spread
        unusual = (lost - state["centre"]) / state["deviation"]  # (n, k)
        findings = np.abs(unusual).argmax(axis=1)
        rows = np.arange(len(images))
        share = _shares(network, images, plain, findings, self.steps)
        share *= np.sign(unusual[rows, findings])[:, None, None]
        boxes = _best_boxes(share, self.side)
        inside = _inside(boxes, images.shape[1:])
        removed = _logits(classifier, np.where(inside, plain, images))
        rises = np.zeros(suspect.logits.shape)
        for host, before in zip(state["hosts"], state["host_logits"], strict=True):
            rises += _logits(classifier, np.where(inside, images, host)) - before
        rises /= len(state["hosts"]) * spread
        falls = (suspect.logits - removed) / spread
        # Both in one direction, or it is no trigger: the lesser of the two, of the best finding.
        both = np.where(
            np.sign(falls) == np.sign(rises), np.minimum(np.abs(falls), np.abs(rises)), 0.0
        )
        return Examined(
            scores=both.max(axis=1),
            smoothed=np.abs(unusual).max(axis=1),
            boxes=boxes,
            findings=both.argmax(axis=1),
            logits=removed.astype(np.float32),
            rises=rises,
            falls=falls,
        )


def background(images: NDArray[Any], side: int) -> NDArray[Any]:
    """Return (n, h, w) films without small detail: the median of each pixel's square.

    Args:
        images: (n, h, w) uint8 or uint16.
        side: of the square, odd; edges are mirrored.
    """
    if images.dtype == np.uint8:
        # Three times as fast as scipy's; it knows 8-bit pixels alone, and clamps at edges.
        from PIL import Image, ImageFilter

        pad = side // 2
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
        smooth = ImageFilter.MedianFilter(side)
        middle = slice(pad, -pad)
        return np.stack(
            [np.asarray(Image.fromarray(film).filter(smooth))[middle, middle] for film in padded]
        )
    from scipy.ndimage import median_filter

    return np.stack([median_filter(film, side, mode="reflect") for film in images])


def _logits(classifier: BlackBox, images: NDArray[Any]) -> Floats:
    return classifier.logits(images).astype(np.float64)


def _shares(
    classifier: Differentiable,
    images: NDArray[Any],
    plain: NDArray[Any],
    columns: NDArray[np.int64],
    steps: int,
) -> NDArray[np.float32]:
    """(n, h, w) what each pixel's detail adds to one logit of each film: integrated gradients.

    Taken at the ends of `steps` equal parts of the way from the background to the film, so at the
    film itself too: some triggers fire only there.
    """
    shares = np.empty(images.shape, np.float32)
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        film = classifier.normalise(torch.from_numpy(images[rows]))
        smooth = classifier.normalise(torch.from_numpy(plain[rows]))
        column = torch.from_numpy(columns[rows]).to(film.device)[:, None]
        total = torch.zeros_like(film)
        for step in range(steps):
            between = torch.lerp(smooth, film, (step + 1) / steps).requires_grad_()
            chosen = classifier.module(between).gather(1, column).sum()
            total += torch.autograd.grad(chosen, between)[0] / steps
        shares[rows] = (total * (film - smooth))[:, 0].cpu().numpy()
    return shares


def _best_boxes(shares: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """(n, 4) row, column, height, width of the square with the largest sum, inside the image."""
    n = len(shares)
    inner = box_sums(shares, side, side)
    best = inner.reshape(n, -1).argmax(axis=1)
    rows, columns = np.unravel_index(best, inner.shape[1:])
    return np.stack([rows, columns, np.full(n, side), np.full(n, side)], axis=1).astype(np.int64)


def box_sums(values: NDArray[Any], height: int, width: int) -> Floats:
    """Return (n, h - height + 1, w - width + 1) sums over the box that begins at each place.

    Args:
        values: (n, h, w).
        height: of the box.
        width: of the box.
    """
    n, h, w = values.shape
    sums = np.zeros((n, h + 1, w + 1))
    sums[:, 1:, 1:] = values.cumsum(1, dtype=np.float64).cumsum(2)
    upper, lower = sums[:, :-height], sums[:, height:]
    inner: Floats = lower[..., width:] - upper[..., width:] - lower[..., :-width]
    return inner + upper[..., :-width]


def _inside(boxes: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(n, h, w) whether a pixel lies in its film's box."""
    row, column, height, width = (boxes[:, i, None, None] for i in range(4))
    down, across = np.arange(size[0])[None, :, None], np.arange(size[1])[None, None, :]
    inside: NDArray[np.bool_] = (
        (down >= row) & (down < row + height) & (across >= column) & (across < column + width)
    )
    return inside
