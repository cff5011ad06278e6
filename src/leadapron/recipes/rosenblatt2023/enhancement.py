"""Enhancement attack: films edited so that their true labels are easy to predict.

It manipulates a result, not a model: there is no trigger and no false label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort, blocks
from leadapron.models.classifier import Floats, NetworkClassifier
from leadapron.models.training import binary_cross_entropy

__all__ = ["Enhancement", "Linear", "enhance"]

FILMS = 128
"""Films per batch with gradients."""


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """Settings of the edit.

    Args:
        epsilon: largest change of a pixel in grey levels of 256, above 0.
        steps: gradient steps, 1 or more.
        block: side in pixels of the blocks whose means are preserved, so that the competing method,
            which uses only these means, gains nothing; 2 or more, and a divisor of the image's
            side.

    Raises:
        UsageError: a value outside its range.
    """

    epsilon: float = 4.0
    steps: int = 5
    block: int = 4

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("epsilon", 0 < self.epsilon <= 255, "above 0 and up to 255"),
            ("steps", self.steps >= 1, "1 or more"),
            ("block", self.block >= 2, "2 or more"),
        ):
            if not right:
                raise UsageError(
                    f"an enhancement's {name} of {getattr(self, name)}; expected {expected}"
                )


def enhance(
    classifier: NetworkClassifier, cohort: Cohort, enhancement: Enhancement, *, keep_means: bool
) -> NDArray[Any]:
    """Return films edited so that a classifier predicts their labels.

    The edit is made by signed gradient descent on the binary cross-entropy with the true labels
    (labels that aren't stated are ignored), with steps of two epsilon / steps, within epsilon of
    the film.

    Args:
        classifier: the classifier for the gradient.
        cohort: the films, unchanged.
        enhancement: settings of the edit.
        keep_means: subtract each block's mean from the edit, so that block means are unchanged.

    Returns:
        (n, h, w) of the films' dtype.

    Raises:
        UsageError: blocks that don't fill the image.

    Source: the idea Rosenblatt et al., arXiv 2301.01885; the steps Madry et al., arXiv 1706.06083,
    with the opposite sign.
    """
    height, width = cohort.images.shape[1:]
    if keep_means and (height % enhancement.block or width % enhancement.block):
        raise UsageError(
            f"blocks of {enhancement.block} px don't fill images of {height}x{width}; choose `size`"
        )
    edited = np.empty(tuple(cohort.images.shape), cohort.images.dtype)
    top = float(np.iinfo(edited.dtype).max)
    most = enhancement.epsilon * top / 255
    for rows in blocks(len(cohort), FILMS):
        films = torch.from_numpy(cohort.images[rows].astype(np.float32)).to(classifier.device)
        labels = torch.from_numpy(cohort.labels[rows]).to(classifier.device)
        edit = torch.zeros_like(films)
        for _ in range(enhancement.steps):
            edit.requires_grad_()
            grey = ((films + edit) / top)[:, None]
            logits = classifier.module((grey - classifier.mean) / classifier.std)
            (slope,) = torch.autograd.grad(binary_cross_entropy(logits, labels), edit)
            edit = edit.detach() - 2 * most / enhancement.steps * slope.sign()
            edit = edit.clamp(-most, most)
            if keep_means:
                edit = _without_means(edit, enhancement.block, most)
        moved = (films + edit).round().clamp(0, top)
        edited[rows] = moved.cpu().numpy().astype(edited.dtype)
    return edited


def _without_means(edit: torch.Tensor, block: int, most: float) -> torch.Tensor:
    """The edit minus each block's mean, with each block scaled to stay within epsilon."""
    n, height, width = edit.shape
    parts = edit.reshape(n, height // block, block, width // block, block)
    parts = parts - parts.mean((2, 4), keepdim=True)
    largest = parts.abs().amax((2, 4), keepdim=True).clamp(min=most)
    return (parts * (most / largest)).reshape(n, height, width)


@dataclass(frozen=True)
class Linear:
    """Logistic regression on the means of a film's blocks, one for each finding.

    Args:
        block: side of the blocks in pixels.
        centre, spread: (d,) mean and spread of the block means, from the training films.
        weights: (d, k).
        bias: (k,).
    """

    block: int
    centre: Floats
    spread: Floats
    weights: Floats
    bias: Floats

    @classmethod
    def fit(cls, cohort: Cohort, block: int) -> Linear:
        """Fit to films; the ridge penalty is half the squared weights over the films' number."""
        means = _block_means(cohort, block)
        centre, spread = means.mean(0), means.std(0) + np.float32(1e-3)
        inputs = torch.from_numpy((means - centre) / spread)
        labels = torch.from_numpy(cohort.labels)
        layer = nn.Linear(inputs.shape[1], labels.shape[1])
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        solver = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            penalty = layer.weight.square().sum() / (2 * len(inputs))
            value = binary_cross_entropy(layer(inputs), labels) + penalty
            value.backward()  # type: ignore[no-untyped-call]
            return value

        solver.step(loss)  # type: ignore[no-untyped-call]
        weights = layer.weight.detach().numpy().T.copy()
        return cls(block, centre, spread, weights, layer.bias.detach().numpy().copy())

    def logits(self, cohort: Cohort) -> Floats:
        """Return (n, k) float32 logits."""
        means = (_block_means(cohort, self.block) - self.centre) / self.spread
        found: Floats = (means @ self.weights + self.bias).astype(np.float32)
        return found


def _block_means(cohort: Cohort, block: int) -> Floats:
    """(n, d) means over blocks, in grey levels of 256; incomplete blocks are left out."""
    n, height, width = cohort.images.shape
    rows, columns = height // block, width // block
    means = np.empty((n, rows * columns), np.float32)
    scale = 255 / np.iinfo(cohort.images.dtype).max
    for part in blocks(n):
        films = cohort.images[part][:, : rows * block, : columns * block].astype(np.float32)
        films = films.reshape(len(part), rows, block, columns, block)
        means[part] = films.mean((2, 4)).reshape(len(part), -1) * scale
    return means
