"""Unlearning small changes that turn the model and its copy alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, autocast
from leadapron.models.losses import finding_loss
from leadapron.models.odds import log_odds
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Batch, Optimisation, Session, begin
from leadapron.types import Progress

__all__ = ["SharedUnlearning", "disagreement", "operating_odds", "turned"]


def disagreement(one: torch.Tensor, other: torch.Tensor, stated: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of two models' answers, in nats, mean over the stated.

    Args:
        one: (n, k) log-odds.
        other: (n, k) log-odds.
        stated: (n, k) whether an answer counts.
    """
    sure = torch.finfo(torch.float32).eps
    p, q = (odds.sigmoid().clamp(sure, 1 - sure) for odds in (one, other))

    def entropy(share: torch.Tensor) -> torch.Tensor:
        return -(share * share.log() + (1 - share) * (1 - share).log())

    apart = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return torch.where(stated, apart, 0).sum() / stated.sum().clamp(min=1)


def operating_odds(odds: NDArray[np.float32], labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (k,) thresholds that as many films exceed as have the finding; NaN where none states.

    Args:
        odds: (n, k) log-odds.
        labels: (n, k) in {0, 1, NaN}.
    """
    found = np.full(odds.shape[1], np.nan, np.float32)
    for column in range(odds.shape[1]):
        stated = ~np.isnan(labels[:, column])
        if stated.any():
            share = labels[stated, column].mean()
            found[column] = np.quantile(odds[stated, column], 1 - share)
    return found


def turned(odds: torch.Tensor, labels: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Return the labels that answers contradict, NaN elsewhere.

    Args:
        odds: (n, k) log-odds.
        labels: (n, k) in {0, 1, NaN}.
        thresholds: (k,) log-odds from which a finding is called present.
    """
    wrong = (odds > thresholds) != (labels == 1)
    return torch.where(wrong & ~labels.isnan(), labels, torch.nan)


@dataclass(frozen=True, kw_only=True)
class SharedUnlearning:
    """Changes that turn the model and the original to the same wrong answers are unlearned (SAU).

    For each batch a change of every film, within `epsilon` of grey levels, makes the error of both
    networks large and their disagreement small. Where it turns the original beyond a finding's
    threshold, the model's error at that label is added to its error on clean films: the model must
    not be turned there with it.

    Args:
        epsilon: how much a pixel changes at most, in grey levels of 0 to 1, above 0.
        inner_steps: of the change, 1 or more; each is a pass of both networks.
        error: weight of both networks' error in the change, 0 or more.
        agreement: weight of their agreement in the change, 0 or more.
        weight: of the error where the original is turned, 0 or more.
        optimisation: how weights are changed; the authors take 100 epochs, which 36,000 film
            trainings don't reach (option `most_films`).

    Raises:
        UsageError: a value outside its range.

    Source: Wei et al., Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared
    Adversarial Examples, NeurIPS 2023, arXiv 2307.10562, with the authors' rate, epsilon, steps and
    weights. Differs: sigmoids by finding; "turned" is beyond the threshold that as many clean films
    exceed as have the finding; a fraction of their steps.
    """

    epsilon: float = 0.2
    inner_steps: int = 5
    error: float = 0.01
    agreement: float = 1.0
    weight: float = 1.0
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(learning_rate=1e-4, epochs=100)
    )
    needs: Capability = field(default="gradients", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise UsageError(f"an epsilon of {self.epsilon}; expected above 0")
        if self.inner_steps < 1:
            raise UsageError(f"inner_steps {self.inner_steps}; expected 1 or more")
        for name in ("error", "agreement", "weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"`{name}` {getattr(self, name)}; expected 0 or more")

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`."""
        session = begin("shared unlearning", self.needs, classifier, clean, rng, progress)
        before = torch.from_numpy(session.original.logits(session.learn.images))
        odds = log_odds(before, session.original.head).numpy()
        thresholds = torch.from_numpy(operating_odds(odds, session.learn.labels))
        thresholds = thresholds.to(session.student.device)

        def objective(batch: Batch) -> torch.Tensor:
            changed = batch.images + self.changes(session, batch)
            wrong = turned(session.taught(batch._replace(images=changed)), batch.labels, thresholds)
            error = session.fit(batch)
            if wrong.isnan().all():
                return error
            shown = session.odds(session.answers(changed))
            return error + self.weight * finding_loss(shown, wrong)

        session.tune(self.optimisation, objective, passes=2 * self.inner_steps + 2)
        return session.finish()

    def changes(self, session: Session, batch: Batch) -> torch.Tensor:
        """Return (b, 1, h, w) changes of normalised films, within epsilon, shared by both networks.

        Args:
            session: gives the student and the original.
            batch: the films.
        """
        most = self.epsilon / session.student.std
        change = torch.empty_like(batch.images).uniform_(-most, most)
        stated = ~batch.labels.isnan()
        for _ in range(self.inner_steps):
            leaf = change.clone().requires_grad_()
            own = session.odds(session.answers(batch.images + leaf))
            with autocast(session.student.device, session.student.precision):
                theirs = session.odds(session.original.module(batch.images + leaf))
            errors = (finding_loss(own, batch.labels) + finding_loss(theirs, batch.labels)) / 2
            gain = self.error * errors - self.agreement * disagreement(own, theirs, stated)
            (slope,) = torch.autograd.grad(gain, leaf)
            change = (change + 2 * most / self.inner_steps * slope.sign()).clamp(-most, most)
        return change
