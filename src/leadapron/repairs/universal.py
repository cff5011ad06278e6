"""Unlearning of universal perturbations, by implicit hypergradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.protocols import BlackBox, Capability
from leadapron.models.training import each_cross_entropy
from leadapron.repairs.session import Batch, Optimisation, begin
from leadapron.types import Progress

__all__ = ["UniversalUnlearning", "adapting", "chosen", "within"]

STEP, PRICE = 0.1, 0.001
"""Of the step that the perturbations' change is taken of: its rate, and the weight of their squared
length; the authors' values."""


def adapting(
    outer: torch.Tensor,
    moved: torch.Tensor,
    inner: torch.Tensor,
    weights: Sequence[torch.Tensor],
    terms: int,
) -> torch.Tensor:
    """Return 0, whose gradient is what the outer loss gains by the perturbation's adapting.

    With Phi(d, w), one step of the perturbation d at weights w, d(w) = Phi(d(w), w) and the gain is
    (dL/dd) (1 - dPhi/dd)^-1 dPhi/dw; the inverse is the sum of the first powers of dPhi/dd.

    Args:
        outer: the loss L, a function of `inner`.
        moved: Phi.
        inner: d, of the shape of `moved`.
        weights: w.
        terms: powers of dPhi/dd that are summed, 1 or more.
    """
    (slope,) = torch.autograd.grad(outer, inner, retain_graph=True)
    total = slope
    for _ in range(terms - 1):
        (step,) = torch.autograd.grad(moved, inner, total, retain_graph=True)
        total = step + slope
    gains = torch.autograd.grad(moved, weights, total, allow_unused=True)
    pairs = [(w, g) for w, g in zip(weights, gains, strict=True) if g is not None]
    gained = torch.stack([(weight * gain).sum() for weight, gain in pairs]).sum()
    return gained - gained.detach()


def within(images: torch.Tensor, length: float, *, exactly: bool = False) -> torch.Tensor:
    """Return (n, h, w) images, each no longer than `length`, the root of its sum of squares.

    Args:
        images: numbers of any sign; one of zeros stays.
        length: above 0.
        exactly: whether shorter ones become longer.
    """
    norms = images.flatten(1).norm(dim=1)[:, None, None]
    scale = length / norms.clamp(min=1e-12)
    scaled: torch.Tensor = images * (scale if exactly else scale.clamp(max=1))
    return scaled


def chosen(labels: torch.Tensor) -> torch.Tensor:
    """Return a stated finding of each film, drawn by torch's generator; -1 where none is stated.

    Args:
        labels: (n, k) in {0, 1, NaN}.
    """
    drawn = torch.rand(labels.shape).to(labels.device)
    best = torch.where(labels.isnan(), -1.0, drawn).max(1)
    return torch.where(best.values < 0, -1, best.indices)


@dataclass(frozen=True, kw_only=True)
class UniversalUnlearning:
    """Perturbations that turn a finding on all films are found and unlearned together (I-BAU).

    For each finding, forced on and forced off, there is one perturbation. In each step half the
    films carry one that contradicts a label of theirs; the perturbations first take some steps
    that raise the error on these labels. The gradient of the films' error then counts how the
    perturbations would change with the weights.

    Args:
        radius: length of a perturbation at most, as the root of the sum over pixels of squared
            grey levels in 0 to 1, above 0.
        share: of the films of a step that are perturbed, more than 0 and at most 1.
        inner_steps: of the perturbations before each step, 1 or more; each is one pass more.
        terms: of the series for the perturbations' change, 1 or more; each counts as one pass.
        optimisation: how weights are changed; the authors' rate and 5 rounds.

    Raises:
        UsageError: a value outside its range.

    Source: Zeng et al., Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022,
    arXiv 2110.03735, with the authors' 5 terms. Differs: a perturbation for each finding and
    direction, kept from step to step, within a ball (in the authors' code the ball is commented
    out, and one batch alone shapes the perturbation); half the films carry one, not 1 %.
    """

    radius: float = 3.0
    share: float = 0.5
    inner_steps: int = 2
    terms: int = 5
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(learning_rate=1e-3, epochs=5)
    )
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise UsageError(f"a radius of {self.radius}; expected above 0")
        if not 0 < self.share <= 1:
            raise UsageError(f"a share of {self.share}; expected more than 0, at most 1")
        if self.inner_steps < 1 or self.terms < 1:
            raise UsageError(
                f"inner_steps {self.inner_steps} and terms {self.terms}; expected 1 or more"
            )

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("universal unlearning", self.needs, classifier, clean, rng, progress)
        findings, side = len(session.learn.findings), session.learn.images.shape[1:]
        kept = torch.zeros(2 * findings, *side, device=session.student.device)
        weights = list(session.module.parameters())
        radius = self.radius / session.student.std

        def objective(batch: Batch) -> torch.Tensor:
            column = chosen(batch.labels)[: math.ceil(self.share * len(batch.labels))]
            rows = (column >= 0).nonzero().squeeze(1)
            if not len(rows):
                return session.fit(batch)
            column = column[rows]
            label = batch.labels[rows, column]
            which = 2 * column + (label == 0).long()

            def gain(leaf: torch.Tensor) -> torch.Tensor:
                odds = session.odds(session.answers(batch.images[rows] + leaf[which, None]))
                told = odds.gather(1, column[:, None])[:, 0]
                return each_cross_entropy(told, label).mean() - PRICE * leaf.square().sum()

            for _ in range(self.inner_steps):
                leaf = kept.clone().requires_grad_()
                (slope,) = torch.autograd.grad(gain(leaf), leaf)
                kept.copy_(within(kept + radius / 4 * within(slope, 1.0, exactly=True), radius))
            leaf = kept.clone().requires_grad_()
            (slope,) = torch.autograd.grad(gain(leaf), leaf, create_graph=True)
            images = batch.images.index_add(0, rows, leaf[which, None])
            outer = session.loss(session.answers(images), batch.labels)
            return outer + adapting(outer, leaf + STEP * slope, leaf, weights, self.terms)

        session.tune(self.optimisation, objective, passes=self.inner_steps + self.terms + 2)
        return session.finish()
