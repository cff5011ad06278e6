"""Channels that amplify more than the others of their layer are pruned; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.detect.models.weights import channel_lipschitz
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.noise import normalisations
from leadapron.repairs.session import begin
from leadapron.types import Progress

__all__ = ["ChannelPruning", "outlying"]


def outlying(scores: NDArray[np.float64], spreads: float) -> NDArray[np.bool_]:
    """Return which of a layer's (channels,) scores exceed mean + spreads standard deviations.

    Scores that are NaN are left out; a layer with fewer than two others has no outlier.
    """
    told = scores[~np.isnan(scores)]
    if len(told) < 2:
        return np.zeros(scores.shape, np.bool_)
    over: NDArray[np.bool_] = scores > told.mean() + spreads * told.std(ddof=1)
    return over


@dataclass(frozen=True, kw_only=True)
class ChannelPruning:
    """Batch normalisation is set to 0 for channels that can amplify their input most (CLP).

    A channel's score bounds how much it can amplify, from weights alone; see
    `detect.models.channel_lipschitz`. Those above their layer's mean + `spreads` standard
    deviations are pruned; if the guard's films don't accept that, half a standard deviation is
    added, until they do.

    Args:
        spreads: standard deviations above the mean, above 0.

    Raises:
        UsageError: spreads that aren't above 0.

    Source: Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022,
    arXiv 2208.03111, with the authors' u = 3. Differs: where normalisation comes before the
    convolution, as in DenseNet, the score takes that convolution's kernels; clean films can raise
    the threshold.
    """

    spreads: float = 3.0
    needs: Capability = field(default="batch normalisation", init=False)

    def __post_init__(self) -> None:
        if not self.spreads > 0:
            raise UsageError(f"spreads of {self.spreads}; expected above 0")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("channel pruning", self.needs, classifier, clean, rng, progress)
        scores, layers = channel_lipschitz(session.module), normalisations(session.module)
        before, spreads = session.state(), self.spreads
        while True:
            cut = {name: outlying(scores[name], spreads) for name in scores if name in layers}
            with torch.no_grad():
                for name, channels in cut.items():
                    chosen = torch.from_numpy(channels).to(layers[name].weight.device)
                    layers[name].weight[chosen] = 0
                    layers[name].bias[chosen] = 0
            if not any(channels.any() for channels in cut.values()) or session.judge().accepted:
                return session.finish()
            session.module.load_state_dict(before)
            spreads += 0.5
