"""Losses on outputs: error on the stated labels, and distance to another model."""

from __future__ import annotations

import torch

from leadapron.models.training import each_cross_entropy

__all__ = ["distance", "finding_loss", "taught_loss"]


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


def taught_loss(
    odds: torch.Tensor,
    labels: torch.Tensor,
    teacher: torch.Tensor,
    teaching: float,
    temperature: float,
) -> torch.Tensor:
    """Return (1 - teaching) error + teaching x distance from a teacher's outputs.

    Args:
        odds: (n, k) log-odds.
        labels: as `finding_loss`.
        teacher: (n, k) log-odds.
        teaching: 0 to 1.
        temperature: as `distance`.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531, section 2, without their constant factors.
    """
    apart = distance(odds, teacher, temperature)
    return (1 - teaching) * finding_loss(odds, labels) + teaching * apart


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
