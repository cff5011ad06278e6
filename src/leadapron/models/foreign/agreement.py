"""Whether a program computes what the network of its tensors computes.

TorchScript keeps its tensors under the names of its modules. If they fit a network of this package,
and the program, run in its confined process, gives the network's outputs for random images, the
network can stand for the program and offers gradients.
"""

from __future__ import annotations

import numpy as np
import torch

from leadapron.errors import LeadapronError
from leadapron.models.classifier import squashed
from leadapron.models.foreign.black_box import BlackBoxClassifier
from leadapron.models.foreign.library_weights import network_in
from leadapron.models.foreign.recognise import NORMALISATIONS, Normalisation, Recognised
from leadapron.models.parsing.reading import Weights

__all__ = ["IMAGES", "TOLERANCE", "compare", "fitting"]

UNIT = NORMALISATIONS["unit"]
IMAGES = 4
"""Random images on which both are run."""
TOLERANCE = 1e-4
"""Largest difference, relative to the network's largest output."""


def fitting(
    weights: Weights,
    outputs: tuple[str, ...] | None,
    architecture: str | None,
    scale: Normalisation = UNIT,
) -> Recognised | None:
    """Return the network that a program's tensors fit, for the program's own input.

    Args:
        weights: of a program.
        outputs: names of its outputs, if known.
        architecture: name in `networks.ARCHITECTURES`; the one that fits if left out.
        scale: what the program does to its input before the network's first layer.

    Returns:
        None if they fit none.
    """
    if not weights.groups:
        return None
    try:
        return network_in(weights, outputs, scale, architecture)
    except LeadapronError:
        return None


def compare(network: Recognised, program: BlackBoxClassifier) -> tuple[float, str]:
    """Return how far a program's outputs are from a network's, and which outputs it gives.

    Args:
        network: for the program's input, as `fitting` returns it.
        program: it runs in its own process.

    Returns:
        The largest difference, relative to the network's largest output of that kind; "logits" or
        "probabilities", whichever is nearer.
    """
    side = program.preprocessing.size
    # Drawn by chance, so that no program can know these images.
    grey = np.random.default_rng().random((IMAGES, 1, side, side), np.float32)
    given = np.concatenate(
        [program.run(np.repeat(grey[row : row + 1], program.channels, 1)) for row in range(IMAGES)]
    )
    with torch.inference_mode():
        logits = network.module((torch.from_numpy(grey) - network.mean) / network.std).numpy()
    points = network.operating_points
    kinds = {"logits": logits, "probabilities": squashed(logits, program.head, points)}
    return min(
        (float(np.abs(given - ours).max() / np.abs(ours).max()), kind)
        for kind, ours in kinds.items()
    )
