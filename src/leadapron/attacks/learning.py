"""Learnt triggers: noise, or a generator of it, that raises a finding on a surrogate network."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron.attacks.triggers.learned import DILATIONS, Recipe, generated
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import ImageArray
from leadapron.models.classifier import NetworkClassifier
from leadapron.seeds import named_seed, stream

__all__ = ["learn_generator", "learn_noise"]

Step = Callable[[int, int], None]

BATCH = 32
"""Films a step."""

RATE = 0.25
"""First step of the noise as a share of epsilon; steps fall to 0."""

CHANNELS = 12
"""Number of channels of the generator's maps."""

GENERATOR_RATE = 5e-3
"""Adam's learning rate for the generator."""


def learn_noise(
    classifier: NetworkClassifier,
    images: ImageArray,
    finding: str,
    *,
    epsilon: float = 8.0,
    steps: int = 100,
    seed: int = 0,
    after_step: Step | None = None,
) -> Recipe:
    """Return one pattern for all films that raises a finding's logit.

    Projected gradient steps of fixed size: delta <- clip(delta + rate sign(d logit / d delta)),
    the logit averaged over 32 films that are drawn in each step, clipped to epsilon and the films
    to their range.

    Args:
        classifier: the surrogate; it stays as it is.
        images: (n, h, w) clean films of its preprocessing, 2 or more.
        finding: the finding to raise.
        epsilon: largest change of a pixel, in grey levels of 256: the L-infinity norm.
        steps: 1 or more.
        seed: seed of the films' order.
        after_step: called with the steps done and the total.

    Raises:
        UsageError: a value outside its range.
        UnknownNameError: no such finding.
        DataError: fewer than 2 films.

    Source: Hanif et al., BAPLe, MICCAI 2024, arXiv 2408.07440: a noise trigger within an
    L-infinity ball, learnt together with the prompts of the attacked vision-language model. Here
    only the noise is learnt, on a fixed surrogate's logit instead of a softmax over prompts, before
    any poisoning, and without their patch of a fixed logo. One pattern for all films:
    Moosavi-Dezfooli et al., CVPR 2017; the steps: Madry et al., ICLR 2018.
    """
    column = _column(classifier, images, finding, epsilon, steps)
    delta = torch.zeros(images.shape[1:], device=classifier.device)
    rng = stream(seed, "learn noise")
    for step in range(steps):
        films = _films(classifier, images, rng)
        delta.requires_grad_()
        logit = _logits(classifier, films, delta, epsilon)[:, column].mean()
        (slope,) = torch.autograd.grad(logit, delta)
        rate = RATE * (1 - step / steps)
        delta = (delta.detach() + rate * slope.sign()).clamp(-1, 1)
        if after_step is not None:
            after_step(step + 1, steps)
    height, width = images.shape[1:]
    return Recipe("noise", epsilon, (height, width), {"noise": delta.cpu().numpy()})


def learn_generator(
    classifier: NetworkClassifier,
    images: ImageArray,
    finding: str,
    *,
    epsilon: float = 8.0,
    steps: int = 200,
    seed: int = 0,
    after_step: Step | None = None,
) -> Recipe:
    """Return a small network that makes a pattern for each film, one that raises a finding's logit.

    It minimises -(own - cross) + diversity over pairs of films: `own` is the rise of film i's logit
    by film i's pattern, `cross` the rise of film j's logit by film i's pattern (at least 0), both
    in units of the clean logits' standard deviation, diversity ||x_i - x_j|| / ||g(x_i) - g(x_j)||,
    each norm a root mean square.

    Args:
        classifier: the surrogate; it stays as it is.
        images: (n, h, w) clean films of its preprocessing, 2 or more.
        finding: the finding to raise.
        epsilon: largest change of a pixel, in grey levels of 256; the output is epsilon tanh(...).
        steps: 1 or more, of Adam.
        seed: seed of the initial weights and the films' order.
        after_step: called with the steps done and the total.

    Raises:
        UsageError, UnknownNameError, DataError: as `learn_noise`.

    Source: Nguyen and Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, arXiv 2010.08138:
    the diversity loss and the cross-trigger test; Li et al., Invisible Backdoor Attack with
    Sample-Specific Triggers (ISSBA), ICCV 2021, arXiv 2012.03816: noise bound to its film. Nguyen
    and Tran train generator and victim together, with crossed films labelled truly, and add a mask;
    here the surrogate is fixed and the victim learns only from poisoned films, so it may respond to
    another film's pattern. ISSBA hides a string with a steganographic encoder and uses no
    surrogate.
    """
    column = _column(classifier, images, finding, epsilon, steps)
    weights = _untrained(seed, classifier.device)
    optimizer = torch.optim.Adam(weights.values(), lr=GENERATOR_RATE)
    rng = stream(seed, "learn generator")
    for step in range(steps):
        films = _films(classifier, images, rng)
        others = films.roll(1, 0)
        patterns = generated(weights, films / 255)
        with torch.no_grad():
            before = _logits(classifier, films, torch.zeros_like(films), epsilon)[:, column]
        own = _logits(classifier, films, patterns, epsilon)[:, column] - before
        crossed = _logits(classifier, others, patterns, epsilon)[:, column] - before.roll(1, 0)
        unlike = (films - others).square().mean((1, 2)).sqrt() / 255
        apart = (patterns - patterns.roll(1, 0)).square().mean((1, 2)).add(1e-6).sqrt()
        spread = before.std().clamp(min=1e-6)
        loss = ((crossed.relu() - own) / spread + unlike / apart).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if after_step is not None:
            after_step(step + 1, steps)
    height, width = images.shape[1:]
    arrays = {name: value.detach().cpu().numpy() for name, value in weights.items()}
    return Recipe("generator", epsilon, (height, width), arrays)


def _column(
    classifier: NetworkClassifier, images: ImageArray, finding: str, epsilon: float, steps: int
) -> int:
    """The finding's column; raises if a setting or the films are invalid."""
    if not 0 < epsilon <= 255:
        raise UsageError(f"an epsilon of {epsilon}; expected above 0 and up to 255 grey levels")
    if steps < 1:
        raise UsageError(f"{steps} steps; expected 1 or more")
    if images.shape[0] < 2:
        raise DataError(f"{images.shape[0]} films to learn a trigger on; expected 2 or more")
    (column,) = classifier.columns([finding])
    return column


def _films(
    classifier: NetworkClassifier, images: ImageArray, rng: np.random.Generator
) -> torch.Tensor:
    """(b, h, w) float32 grey levels from 0 to 255 of films drawn without repetition."""
    n = images.shape[0]
    pixels: NDArray[np.float32] = images[rng.permutation(n)[:BATCH]].astype(np.float32)
    if np.dtype(images.dtype) == np.uint16:
        pixels /= 257
    return torch.from_numpy(pixels).to(classifier.device)


def _logits(
    classifier: NetworkClassifier, films: torch.Tensor, shares: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """(b, k) logits of films moved by shares of epsilon."""
    moved = (films + epsilon * shares).clamp(0, 255)
    logits: torch.Tensor = classifier.module(classifier.normalise(moved))
    return logits


def _untrained(seed: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A generator's initial weights: Gaussian, scaled as by He et al., without bias."""
    chance = torch.Generator()
    chance.manual_seed(int(named_seed(seed, "generator").generate_state(1)[0]))
    weights = {}
    for number in range(len(DILATIONS)):
        inputs = 1 if number == 0 else CHANNELS
        outputs = 1 if number == len(DILATIONS) - 1 else CHANNELS
        first = torch.randn((outputs, inputs, 3, 3), generator=chance) * math.sqrt(2 / (9 * inputs))
        weights[f"weight{number}"] = first.to(device).requires_grad_()
        weights[f"bias{number}"] = torch.zeros(outputs, device=device).requires_grad_()
    return weights
