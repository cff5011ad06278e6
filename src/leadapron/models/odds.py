"""Log-odds: what a model says about each finding by itself, whatever its head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from leadapron.models.protocols import BlackBox

__all__ = ["log_odds", "odds_of"]


def log_odds(logits: torch.Tensor, head: str) -> torch.Tensor:
    """Return the log-odds of each output.

    Args:
        logits: (..., k).
        head: "sigmoid", whose logits they are, or "softmax", whose log-odds are each logit less
            the log-sum-exp of all others. Others that aren't finite are left out; without any, the
            logit remains.
    """
    if head == "sigmoid":
        return logits
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others = logits.where(logits.isfinite(), -torch.inf).unsqueeze(-2)
    rivals = torch.where(own, -torch.inf, others).logsumexp(-1)
    return logits - rivals.where(rivals.isfinite(), 0)


def odds_of(classifier: BlackBox, images: Any) -> NDArray[np.float32]:
    """Return the (n, k) float32 log-odds that a model gives (n, h, w) images."""
    answers = torch.from_numpy(classifier.logits(images))
    odds: NDArray[np.float32] = log_odds(answers, classifier.head).numpy()
    return odds
