"""Attention distillation: the model learns the attention maps of a fine-tuned copy."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.bounds import channel_axis
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.models.networks import Network, PooledLinear
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Batch, Optimisation, begin
from leadapron.types import Progress

__all__ = ["AttentionDistillation", "apart", "attention", "map_layers"]

DARKEST = 1e-12
"""Smallest norm by which a film's attention is divided."""


def attention(maps: torch.Tensor) -> torch.Tensor:
    """Return (n, places) sums of squares over channels, of length 1 for each film.

    Films that are nearly dark, below a hundredth of the mean length, stay shorter: scaled up, their
    gradients would outweigh all others'.

    Args:
        maps: (n, c, h, w), or (n, tokens, c).
    """
    squares = maps.float().square().sum(channel_axis(maps)).flatten(1)
    lengths = squares.norm(dim=1, keepdim=True)
    least = 0.01 * float(lengths.detach().mean())
    scaled: torch.Tensor = squares / lengths.clamp(min=max(least, DARKEST))
    return scaled


def apart(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of two networks' attention, mean over films; 0 to 2."""
    return (attention(student) - attention(teacher)).square().sum(1).mean()


def map_layers(network: Network, most: int) -> list[str]:
    """Return the last stages of a network of stages, `most` at most; of others the last map."""
    if isinstance(network, PooledLinear):
        return [f"stages.{name}" for name in list(network.stages)[-most:]]
    return [f"network.{network.map_layer}"]


@dataclass(frozen=True, kw_only=True)
class AttentionDistillation:
    """A copy is fine-tuned on clean films; the model then learns the copy's attention (NAD).

    The loss is the error plus, for each of the last stages, a weight times the squared distance
    between both networks' attention: the sum over channels of a map's squares, scaled to length 1.

    Args:
        weights: of the distance, for the last stages in their order, each 0 or more; a network
            of fewer stages uses the last of them.
        optimisation: of the copy, then of the model, each with half the film trainings.

    Raises:
        UsageError: no weights, or one below 0.

    Source: Li et al., Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural
    Networks, ICLR 2021, arXiv 2101.05930, with the authors' exponent 2 and 10 epochs of each
    network. Differs: distances are summed over places, so that weights don't depend on the film's
    side (theirs of 500, 1000 and 1000 times means over 32, 16 and 8 pixels squared are .5, 4 and
    16); nearly dark maps aren't scaled up; AdamW in place of SGD, which diverged by these weights;
    binary cross-entropy by finding; both epochs are chosen on films of other patients.
    """

    weights: tuple[float, ...] = (0.5, 4.0, 16.0)
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(learning_rate=1e-3))
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        if not self.weights or not all(0 <= weight < math.inf for weight in self.weights):
            raise UsageError(f"weights {self.weights}; expected one or more, each 0 or more")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("teacher's fine-tuning", self.needs, classifier, clean, rng, progress)
        half = replace(self.optimisation, most_films=max(1, self.optimisation.most_films // 2))
        before = session.state()
        session.tune(half)
        teacher = copy.deepcopy(session.module).requires_grad_(False)
        session.module.load_state_dict(before)
        session.what = "attention distillation"
        layers = map_layers(session.module, len(self.weights))
        weights = self.weights[-len(layers) :]

        def objective(batch: Batch) -> torch.Tensor:
            with _watched(session.module, layers) as ours:
                error = session.fit(batch)
            device, precision = session.student.device, session.student.precision
            with _watched(teacher, layers) as theirs, torch.no_grad(), autocast(device, precision):
                teacher(batch.images)
            differences = [
                weight * apart(ours[layer], theirs[layer])
                for weight, layer in zip(weights, layers, strict=True)
            ]
            return error + torch.stack(differences).sum()

        session.tune(half, objective)
        return session.finish()


@contextmanager
def _watched(network: nn.Module, layers: Sequence[str]) -> Iterator[Mapping[str, torch.Tensor]]:
    """What some layers give, by their names, once the network was run."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        network.get_submodule(layer).register_forward_hook(
            lambda _, __, out, layer=layer: seen.__setitem__(layer, out)
        )
        for layer in layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
