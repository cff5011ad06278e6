"""The evidence region: removing it removes the finding, and transplanting it adds the finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.detect.inputs.readings import Readings, State
from leadapron.detect.scale import LEAST_FILMS, logit_spreads, mad_spread
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import blocks
from leadapron.models.classifier import batch_size, refuse_not_finite
from leadapron.models.protocols import BlackBox, Capability, Differentiable, differentiable
from leadapron.seeds import stream

__all__ = ["EvidenceRegion", "Examined", "background", "box_sums"]

Floats = NDArray[np.float64]

FLOOR = 0.05
"""Least deviation of a logit's changes, in the logit's own spreads. Without it, chance changes of a
finding that removals hardly affect would count as evidence."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Examined:
    """Evidence regions of n films.

    Args:
        scores: (n,) effect of the region's removal and transplant on one finding, the lesser of
            both.
        smoothed: (n,) effect of removing all small detail on a finding; a separate score.
        boxes: (n, 4) int64, row, column, height and width of each film's region.
        findings: (n,) int64 columns of the finding that the region supports.
        logits: (n, k) float32 of the films with the region removed.
        rises: (n, k) rise of clean films' logits by the region, in spreads of the logit.
        falls: (n, k) fall of this film's logits by the region's removal, in spreads of the logit.
    """

    scores: Floats
    smoothed: Floats
    boxes: NDArray[np.int64]
    findings: NDArray[np.int64]
    logits: NDArray[np.float32]
    rises: Floats
    falls: Floats

    @classmethod
    def joined(cls, parts: Sequence[Examined]) -> Examined:
        """Return the regions of several batches of films, one or more, as those of all films."""
        names = [each.name for each in fields(cls)]
        return cls(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})

    def take(self, rows: NDArray[np.int64]) -> Examined:
        """Return those of some of the films, in the order of `rows`."""
        return Examined(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class EvidenceRegion:
    """Tests whether one small region decides a finding, on this film and on others.

    A median filter removes all small detail from the film, which gives its *background*. The
    finding whose logit this changes most, relative to clean films, is explained. Gradients between
    the film and its background, times the detail, attribute the change to pixels (with one step,
    the default, only roughly, by the gradient at the film), and the square with the largest sum is
    the region. Two effects are then measured for all findings: replacing the region by background,
    and transplanting it to clean films at the same place. A trigger has both effects, nearly the
    same on every film; anatomy doesn't.

    Args:
        side: side of the region, in pixels of the image, odd.
        filter_side: side of the median filter, odd; it removes flat squares of up to .7 of it.
        steps: points between film and background at which gradients are taken.
        hosts: number of clean films that receive the region.
        seed: seed of their selection.

    Raises:
        UsageError: a value outside its range.

    Source: Chou et al., SentiNet, IEEE SPW 2020 (the region on other films) and Doan et al.,
    Februus, ACSAC 2020 (its removal). Differs: all findings and both directions at once; the region
    comes from integrated gradients (Sundararajan et al., ICML 2017) with the film's own background
    as the baseline instead of Grad-CAM, whose map has 4 x 4 places at 128 pixels; the region is
    replaced by a median instead of a generative network; effects are in spreads of the logit
    instead of counts of changed labels.
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
        """Forward passes per film in addition to the first; a backward pass counts as two."""
        return 1 + 3 * self.steps + 1 + self.hosts

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Return each logit's spread, the effect of removals on clean films, and the host films.

        Raises:
            DataError: fewer than 20 films or than hosts; films smaller than the region; or logits
                that aren't finite after removing small detail.
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
        """Return (n,) effects of the region on one finding, the lesser of the two."""
        return self.examine(classifier, suspect, state).scores

    def examine(self, classifier: BlackBox, suspect: Readings, state: State) -> Examined:
        """Return scores, the region, the finding and the readings without the region.

        Both scores are NaN for a film with an output that isn't finite.

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
        # A trigger has both effects in one direction: take the lesser, for the best finding.
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
        side: side of the square, odd; edges are mirrored.
    """
    if images.dtype == np.uint8:
        # Three times as fast as scipy's, but for 8-bit pixels only, and it clamps at edges.
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
    """(n, h, w) integrated gradients: contributions of each pixel's detail to one logit per film.

    Gradients are taken at the ends of `steps` equal parts of the path from background to film,
    including the film itself, since some triggers respond only there.
    """
    shares = np.empty(images.shape, np.float32)
    for rows in blocks(len(images), batch_size(images.shape)):
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
    """Return (n, h - height + 1, w - width + 1) sums over the box that starts at each place.

    Args:
        values: (n, h, w).
        height: height of the box.
        width: width of the box.
    """
    n, h, w = values.shape
    sums = np.zeros((n, h + 1, w + 1))
    sums[:, 1:, 1:] = values.cumsum(1, dtype=np.float64).cumsum(2)
    upper, lower = sums[:, :-height], sums[:, height:]
    inner: Floats = lower[..., width:] - upper[..., width:] - lower[..., :-width]
    return inner + upper[..., :-width]


def _inside(boxes: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(n, h, w) bool, pixels inside their film's box."""
    row, column, height, width = (boxes[:, i, None, None] for i in range(4))
    down, across = np.arange(size[0])[None, :, None], np.arange(size[1])[None, None, :]
    inside: NDArray[np.bool_] = (
        (down >= row) & (down < row + height) & (across >= column) & (across < column + width)
    )
    return inside
