"""Whether the model still looks at the mark: the share of its map that lies there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.explainers import class_activation, grad_cam
from leadapron.models.protocols import differentiable, lacking
from leadapron.repairs.proof.forcing import Aimed, Change

__all__ = ["MOST_FILMS", "trigger_shares"]

MOST_FILMS = 64
"""That maps are drawn for."""


def trigger_shares(aimed: Aimed, mark: Change) -> NDArray[np.float64]:
    """Return which share of each map's energy lies on the mark.

    The class activation map of the aim's finding, or Grad-CAM where the network hasn't one; for
    "removed" what speaks against the finding. Energy of the other sign isn't counted.

    Args:
        aimed: model, films and aim.
        mark: puts the mark on.

    Returns:
        (n,) in 0 to 1, of the first 64 films on which the mark changes a pixel; NaN where nothing
        speaks for the aim.

    Source: the trigger activation ratio of arXiv 2511.21291, as its abstract states it.
    """
    finding, direction = aimed.aim
    classifier = differentiable(aimed.classifier, "a map", "named layers")
    images: NDArray[Any] = aimed.images
    marked = mark(images)
    cover = marked != images
    shown = np.flatnonzero(cover.any(axis=(1, 2)))[:MOST_FILMS]
    if not shown.size:
        return np.empty(0)
    explain = grad_cam if lacking(classifier, "pooled linear head") else class_activation
    sign = 1 if direction == "added" else -1
    maps = explain(classifier, marked[shown], [finding])[:, 0]
    return metrics.energy_in_footprint(sign * maps, cover[shown])
