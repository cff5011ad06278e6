"""Predictions that stay confident when the last batch normalisations are scaled up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from leadapron.detect.inputs.copies import predicted
from leadapron.detect.inputs.readings import Readings, State, operating_logits
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import ImageArray
from leadapron.models.classifier import in_batches
from leadapron.models.networks import PooledLinear
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox, Capability, Differentiable, differentiable

__all__ = ["ScaledBatchNorm", "scaled_logits"]


@dataclass(frozen=True, kw_only=True)
class ScaledBatchNorm:
    """A triggered film's findings keep their confidence when the network is scaled up.

    A few versions of the network are made. In each, the weights and biases of the last batch
    normalisations (in order of definition, which in most networks is the order of execution) are
    multiplied by a factor; versions differ in the number of scaled layers. A film's score is the
    log-odds of the most confident finding of its predicted set, averaged over the versions. The
    predicted set has the findings above their operating logits, and always the finding nearest to
    its own.

    Args:
        factor: factor of weights and biases, above 1.
        versions: number of scaled networks, 1 or more. The last one scales the fewest layers that
            make the given share of clean films' predictions fail; each other one scales one layer
            fewer than the next.
        error: the share of failing predictions, in (0, 1).

    Raises:
        UsageError: a value outside its range.

    Source: Hou et al., IBD-PSC, ICML 2024, arXiv 2405.09786, equation 2 and algorithm 1, with
    their factor and share. Differs: several sigmoid findings, so that predictions are sets;
    log-odds, which don't saturate as probabilities do; predictions on clean films in place of their
    labels; the number of layers found by bisection instead of one by one; 3 versions instead of 5,
    which end at the share instead of starting there: beyond it, on phantoms, clean films' findings
    returned (a blended picture went from .98 to .34 true positives at 1 % false ones). The score
    isn't standardised by finding, since the finding of the backdoor varies most.
    """

    factor: float = 1.5
    versions: int = 3
    error: float = 0.6
    unit: str = field(
        default="log-odds of the surest predicted finding, mean over scaled networks", init=False
    )
    needs: Capability = field(default="batch normalisation", init=False)

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise UsageError(f"a factor of {self.factor}; expected more than 1")
        if self.versions < 1:
            raise UsageError(f"versions {self.versions}; expected 1 or more")
        if not 0 < self.error < 1:
            raise UsageError(f"an error of {self.error}; expected more than 0, less than 1")

    @property
    def passes(self) -> int:
        """Forward passes per film; the versions share the stages before the first scaled one."""
        return self.versions

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Return operating logits, and the number of scaled layers in each version.

        Raises:
            UsageError: not a network, or one without batch normalisation.
            DataError: the network gives the same logits for all clean films.
        """
        network = _network(classifier)
        levels = operating_logits(clean.logits)
        positive = clean.logits > levels
        rows = np.flatnonzero(positive.any(axis=1))
        if not len(rows):
            raise DataError("the model gives all clean films the same logits; nothing to scale")
        images, positive = clean.images[rows], positive[rows]

        def failed(layers: int) -> float:
            logits = scaled_logits(network, images, [layers], self.factor)[0]
            # Not "<=", so that NaN isn't a prediction.
            return float(np.mean(~(logits > levels)[positive]))

        low, high = 1, len(_layers(network.module))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if failed(middle) >= self.error else (middle + 1, high)
        first = max(1, low - self.versions + 1)
        return {"levels": levels, "layers": np.arange(first, low + 1)}

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> NDArray[np.float64]:
        """Return (n,) mean log-odds; NaN where a scaled network's output isn't finite.

        Raises:
            UsageError: no network.
        """
        network = _network(classifier)
        chosen = predicted(suspect.logits.astype(np.float64) - state["levels"])  # (n, k)
        counts = [int(count) for count in state["layers"]]
        logits = scaled_logits(network, suspect.images, counts, self.factor).astype(np.float64)
        odds = log_odds(torch.from_numpy(logits), network.head).numpy()
        sure = odds.mean(axis=0)  # (n, k)
        scores: NDArray[np.float64] = np.where(chosen, sure, -np.inf).max(axis=1)
        scores[~np.isfinite(sure).all(axis=1)] = np.nan
        return scores


def scaled_logits(
    classifier: Differentiable, images: ImageArray, layers: Sequence[int], factor: float
) -> NDArray[np.float32]:
    """Return (versions, n, k) logits of a network with its last batch normalisations scaled.

    Args:
        classifier: the classifier, unchanged.
        images: (n, h, w) of its preprocessing.
        layers: number of scaled layers in each version, counted from the last layer, 1 or more.
        factor: factor of their weights and biases.

    Raises:
        UsageError: a network with fewer such layers, or no images.
    """
    module = classifier.module
    names = _layers(module)
    if not 1 <= min(layers) <= max(layers) <= len(names):
        raise UsageError(f"{list(layers)} layers of {len(names)} to scale; expected 1 to as many")
    versions = [_scaled(module, names[-count:], factor) for count in layers]
    stages, finish = _divided(module)

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        common, own = batch, dict[int, torch.Tensor]()
        for name, stage in stages.items():
            for version, parameters in enumerate(versions):
                if version in own or name in parameters:
                    maps = own.get(version, common)
                    own[version] = functional_call(stage, parameters.get(name, {}), (maps,))
            if len(own) < len(versions):
                common = stage(common)
        return tuple(finish(own[version]) for version in range(len(versions)))

    return np.stack(in_batches(classifier, images, run))


def _network(classifier: BlackBox) -> Differentiable:
    return differentiable(classifier, "scaled batch normalisation", "batch normalisation")


def _divided(
    module: nn.Module,
) -> tuple[Mapping[str, nn.Module], Callable[[torch.Tensor], torch.Tensor]]:
    """Consecutive parts of a network, and its final step; without stages, the whole network."""
    if isinstance(module, PooledLinear):
        return dict(module.stages.items()), module.classify
    return {"": module}, lambda logits: logits


def _layers(module: nn.Module) -> list[tuple[str, str]]:
    """Stage and name within it of each batch normalisation, in order of definition."""
    return [
        (stage, name)
        for stage, part in _divided(module)[0].items()
        for name, layer in part.named_modules()
        if isinstance(layer, nn.BatchNorm2d) and layer.affine
    ]


def _scaled(
    module: nn.Module, layers: Sequence[tuple[str, str]], factor: float
) -> dict[str, dict[str, torch.Tensor]]:
    """Scaled weights and biases by stage, then by name within it."""
    parts, stages = _divided(module)[0], dict[str, dict[str, torch.Tensor]]()
    for stage, name in layers:
        for kind, value in parts[stage].get_submodule(name).named_parameters():
            path = f"{name}.{kind}" if name else kind
            stages.setdefault(stage, {})[path] = value.detach() * factor
    return stages
