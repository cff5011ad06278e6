"""Losses on outputs: error on the stated labels, and distance to another model."""

from __future__ import annotations

import torch

from leadapron.models.training import each_cross_entropy

__all__ = ["distance", "finding_loss", "log_odds"]


def log_odds(logits: torch.Tensor, head: str) -> torch.Tensor:
    """Return the log-odds of each output.

    Args:
        logits: (n, k).
        head: "sigmoid", whose logits they are, or "softmax", whose log-odds are each logit less
            the log-sum-exp of all others.
    """
    if head == "sigmoid":
        return logits
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None].expand(-1, logits.shape[1], -1).masked_fill(own, -torch.inf)
    return logits - others.logsumexp(2)


def finding_loss(odds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy, averaged by finding over stated labels, then over findings.

    A finding that few films state weighs as much as one that all state. A label that isn't stated
    has no gradient; findings that no film states count for nothing.

    Args:
        odds: (n, k) log-odds.
        labels: (n, k) in {0, 1, NaN}, or anything between 0 and 1.
    """
    stated = ~labels.isnan()
    films = stated.sum(0)
    each = torch.where(stated, each_cross_entropy(odds, labels), 0).sum(0) / films.clamp(min=1)
    return each.sum() / (films > 0).sum().clamp(min=1)


def distance(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the distance of a student's outputs from its teacher's.

    The cross-entropy of softened probabilities, sigmoid(log-odds / T), times T squared, so that
    its gradient doesn't shrink with T.

    Args:
        student: (n, k) log-odds.
        teacher: (n, k) log-odds.
        temperature: T, above 0.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531, section 2, with a sigmoid by finding in
    place of the softmax.
    """
    wanted = (teacher / temperature).sigmoid().detach()
    return temperature**2 * finding_loss(student / temperature, wanted)
