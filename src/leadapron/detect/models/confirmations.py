"""Confirmations: what else sets a planted mark apart from one that a clean network responds to.

Each looks at the mark with the largest gap between a model and its students, on the films that
measure marks. None uses the students' own searches, on which the gap rests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from leadapron.detect.models.effects import effects
from leadapron.detect.models.sweep import Moved
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.copying import copied_network
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.seeds import named_seed

__all__ = ["CONFIRMATIONS", "noisy"]

NOISE = 0.3
"""Standard deviation of the noise on batch normalisation's gains, as a share of each gain, and on
its biases, as a share of their layer's standard deviation."""

DRAWS = 3
"""Number of noisy networks."""


def noisy(classifier: BlackBox, images: NDArray[Any], effect: Moved) -> float | None:
    """Return the rise of a probability by a mark with noise in batch normalisation.

    The mean over three draws of noise, as `effects.rise`. None for a black box, or a network
    without batch normalisation.

    Args:
        classifier: the model.
        images: (n, h, w) films without a trigger.
        effect: the mark.

    Source: after Xu et al., BAN, NeurIPS 2024 (arXiv 2405.19928). Differs: random noise in place of
    adversarial noise, and the mark is known.
    """
    if not isinstance(classifier, Differentiable):
        return None
    if not any(isinstance(part, _BatchNorm) for part in classifier.module.modules()):
        return None
    return float(np.mean([_rise(_noised(classifier, i), images, effect) for i in range(DRAWS)]))


def _noised(classifier: Differentiable, draw: int) -> NetworkClassifier:
    copied = copied_network(classifier, "noise in batch normalisation")
    chance = torch.Generator().manual_seed(int(named_seed(draw, "noise").generate_state(1)[0]))
    with torch.no_grad():
        for part in copied.module.modules():
            if isinstance(part, _BatchNorm) and part.affine:
                for value, scale in (
                    (part.weight, part.weight.abs()),
                    (part.bias, part.bias.std()),
                ):
                    noise = torch.randn(value.shape, generator=chance).to(value.device)
                    value.add_(NOISE * scale * noise)
    return copied


def _rise(classifier: BlackBox, images: NDArray[Any], effect: Moved) -> float:
    found = effects(classifier, images, {effect.aim: effect.mark})
    return found[0].rise if found else 0.0


CONFIRMATIONS: Mapping[str, Callable[[BlackBox, NDArray[Any], Moved], float | None]] = (
    MappingProxyType({"noise in batch normalisation": noisy})
)
"""Confirmations that need the model alone; higher is more suspicious."""
