"""The command learn-trigger: open films and surrogate, learn a trigger, write and measure it.

The surrogate is the attacker's own network. Films for learning, for the threshold and for the
measurement are split by patient, as in a study with the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from leadapron.attacks.learning import learn_generator, learn_noise
from leadapron.attacks.triggers import Learned
from leadapron.attacks.triggers.learned import save_recipe
from leadapron.errors import UsageError
from leadapron.models.classifier import load_classifier
from leadapron.specs import forgiving, merge
from leadapron.study.learnt import Learnt, measure_learnt, train_surrogate
from leadapron.study.plan import plan, with_target
from leadapron.study.run import divide, open_films
from leadapron.study.settings import complete
from leadapron.types import AUTO, Machine

__all__ = ["KINDS", "learn_trigger"]

KINDS = {"noise": learn_noise, "generator": learn_generator}
"""Kinds of triggers that can be learnt."""


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

    The trigger is noise within an L-infinity bound that raises a finding. It is compared with
    random noise of the same size.

    Args:
        tree: settings of a study; source, preprocessing, network, training, seed and
            `poisoning.finding` are used.
        out: the file, ending in .safetensors, for --trigger learned --trigger.path FILE.
        kind: "noise", one pattern for all films, or "generator", a small network that makes a
            pattern for each film.
        epsilon: largest change of a pixel, in grey levels of 256.
        steps: steps of the optimisation, each on 32 films.
        surrogate: "train" for a clean network, trained here and not kept; or a saved classifier's
            file, whose preprocessing is then used.
        machine: device, precision (of training only), cache, progress.

    Raises:
        UsageError: another file ending, several settings, or a value outside its range.
        LeadapronError: films or a classifier that can't be used.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"`out` {out}: expected a file ending in .safetensors")
    if kind not in KINDS:
        raise UsageError(f"`kind` {kind}: expected noise or generator")
    network = None
    if surrogate != "train":
        # Gradients in fp32, since steps are small; it takes little time.
        network = load_classifier(surrogate, device=machine.device, precision="fp32")
        tree = merge(tree, {"preprocessing": asdict(network.preprocessing)})
    runs = plan(complete(tree))
    if len(runs) != 1:
        raise UsageError(
            f"{len(runs)} combinations of settings; learning a trigger takes one: give no lists"
        )
    cohort = open_films(runs[0], machine)
    run = with_target(runs[0], cohort.findings)
    finding = run.poisoning.finding
    cohort.column(finding)
    parts = divide(cohort, run.seed)
    network = network or train_surrogate(run, parts, machine)
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
    return measure_learnt(network, parts, Learned(path=str(out)), finding, kind, epsilon)
