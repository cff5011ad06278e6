"""Learn a trigger: noise, or a generator of it, on a surrogate network; what it does is measured.

The surrogate is the attacker's own network. Films for learning, for its threshold and for the
measurement are divided by patient as a study with the same seed divides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.attacks.learning import learn_generator, learn_noise
from leadapron.attacks.triggers import Learned, Noise, Trigger
from leadapron.attacks.triggers.learned import digest, save_recipe
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, load_classifier, resolve_device
from leadapron.models.training import train
from leadapron.seeds import stream
from leadapron.specs import forgiving, merge
from leadapron.study.measure import FALSE_POSITIVES
from leadapron.study.plan import Run, aimed, plan
from leadapron.study.run import divide, open_films
from leadapron.study.settings import complete
from leadapron.types import AUTO, Machine

__all__ = ["KINDS", "Learnt", "learn_trigger"]

KINDS = {"noise": learn_noise, "generator": learn_generator}
"""What can be learnt."""


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What a learnt trigger does to the surrogate, on test films without the target.

    Args:
        kind: "noise" or "generator".
        finding: what it raises.
        epsilon: the most that a pixel is moved, in grey levels of 256.
        sha256: of the file.
        films: how many it was measured on.
        rise: mean rise of the target's logit.
        random_rise: by random signs of the same size.
        crossed_rise: by another film's pattern; None for noise, which is the same on all.
        success: share of the films that are called the target, at a threshold of 5 % clean false
            positives.
        random_success, crossed_success: the same by random signs, by another film's pattern.
    """

    kind: str
    finding: str
    epsilon: float
    sha256: str
    films: int
    rise: float
    random_rise: float
    crossed_rise: float | None
    success: float
    random_success: float
    crossed_success: float | None


@forgiving
def learn_trigger(
    tree: Mapping[str, Any],
    out: Path,
    *,
    kind: Literal["noise", "generator"] = "noise",
    epsilon: float = 8.0,
    steps: int = 100,
    surrogate: str = "train",
    machine: Machine = AUTO,
) -> Learnt:
    """Learn a trigger on a surrogate network, and write it to a file.

    It is noise within an L-infinity bound that raises a finding, measured beside random noise of
    the same size.

    Args:
        tree: settings of a study, of which source, preprocessing, network, training, seed and
            `poisoning.finding` count.
        out: the file, ending in .safetensors, for --trigger learned --trigger.path FILE.
        kind: "noise", one pattern for all films, or a "generator", a small network that makes one
            for each.
        epsilon: the most that a pixel is moved, in grey levels of 256.
        steps: steps of the optimisation, of 32 films each.
        surrogate: "train" for a clean network, trained here and not kept; or a saved classifier's
            file, whose preprocessing then counts.
        machine: device, precision (of training alone), cache, progress.

    Raises:
        UsageError: another ending, several settings, or a value outside its range.
        LeadapronError: films or a classifier that can't be used.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"`out` {out}: expected a file ending in .safetensors")
    if kind not in KINDS:
        raise UsageError(f"`kind` {kind}: expected noise or generator")
    network = None
    if surrogate != "train":
        # Gradients in fp32: steps are small, and nothing here takes long.
        network = load_classifier(surrogate, device=machine.device, precision="fp32")
        tree = merge(tree, {"preprocessing": asdict(network.preprocessing)})
    runs = plan(complete(tree))
    if len(runs) != 1:
        raise UsageError(f"{len(runs)} settings; a trigger is learnt with one: give no lists")
    cohort = open_films(runs[0], machine)
    run = aimed(runs[0], cohort.findings)
    finding = run.poisoning.finding
    cohort.column(finding)
    parts = divide(cohort, run.seed)
    network = network or _trained(run, parts, machine)
    recipe = KINDS[kind](
        network,
        parts["train"].images,
        finding,
        epsilon=epsilon,
        steps=steps,
        seed=run.seed,
        after_step=lambda done, total: machine.tell(f"learning {kind}", done, total),
    )
    save_recipe(recipe, out)
    return _measured(network, parts, Learned(path=str(out)), finding, kind, epsilon)


def _trained(run: Run, parts: Mapping[str, Cohort], machine: Machine) -> NetworkClassifier:
    """A clean network of the attacker's own: its stream of chance is no study's."""
    resolve_device(machine.device)
    seed = int(stream(run.seed, "surrogate").integers(2**31))
    network, _ = train(
        parts["train"],
        parts["validation"],
        network=run.network,
        training=replace(run.training, disguise=0.0),
        seed=seed,
        **machine.networks,
        after_step=lambda done, total: machine.tell("training surrogate", done, total),
    )
    return replace(network, precision="fp32")


def _measured(
    network: NetworkClassifier,
    parts: Mapping[str, Cohort],
    trigger: Learned,
    finding: str,
    kind: str,
    epsilon: float,
) -> Learnt:
    """What the trigger and its controls do on test films without the target."""
    (column,) = network.columns([finding])
    test, validation = parts["test"], parts["validation"]
    without = validation.labels[:, validation.column(finding)] == 0
    rows = np.flatnonzero(test.labels[:, test.column(finding)] == 0)
    if len(rows) < 2 or not without.any():
        raise DataError(f"{len(rows)} test films are stated to be without {finding}; expected more")
    threshold = metrics.threshold_at_false_positive_rate(
        network.logits(validation.images)[without, column], FALSE_POSITIVES
    )
    films = test.images[rows]
    clean = network.logits(films)[:, column]

    def found(marked: NDArray[Any]) -> tuple[float, float]:
        logits = network.logits(marked)[:, column]
        return float((logits - clean).mean()), float((logits > threshold).mean())

    def by(mark: Trigger) -> NDArray[Any]:
        return mark(films, stream(0, "learn"))  # neither leaves anything to chance

    marked = by(trigger)
    rise, success = found(marked)
    random_rise, random_success = found(by(Noise(epsilon=epsilon)))
    crossed_rise = crossed_success = None
    if kind == "generator":
        moved = np.roll(marked.astype(np.int64) - films, 1, axis=0)
        crossed = np.clip(films + moved, 0, np.iinfo(films.dtype).max).astype(films.dtype)
        crossed_rise, crossed_success = found(crossed)
    return Learnt(
        kind=kind,
        finding=finding,
        epsilon=epsilon,
        sha256=digest(Path(trigger.path)),
        films=len(rows),
        rise=rise,
        random_rise=random_rise,
        crossed_rise=crossed_rise,
        success=success,
        random_success=random_success,
        crossed_success=crossed_success,
    )
