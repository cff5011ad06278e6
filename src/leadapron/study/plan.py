"""The plan of a study: settings by section, their defaults, the grid of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leadapron.attacks.implant import check_implant
from leadapron.attacks.poisoning import Poisoning
from leadapron.attacks.triggers import TRIGGERS, Altered, Learned, Trigger
from leadapron.attacks.triggers.learned import digest
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.explainers import EXPLAINERS, unsupported
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.architectures import ARCHITECTURES
from leadapron.models.starts import IMAGENET_SHA256
from leadapron.models.training import Network, Training
from leadapron.results.layout import RunFacts, RunFolder
from leadapron.sources import check_source
from leadapron.specs import (
    build,
    grid,
    grids,
    merge,
    validated,
)
from leadapron.store import canonical_json, sha256_of
from leadapron.study.settings import SECTIONS, Evaluation, complete

__all__ = [
    "Run",
    "plan",
    "planned",
    "with_target",
    "without",
]

Tree = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One point of the grid: everything that decides a backdoored model and its twin.

    Args:
        tree: the complete settings by section.
        outside: digests of the code and files outside this package that affect the backdoored
            model's results, by name ("trigger NAME").
        twin_outside: those that affect the twin's results.
        test_trigger: the trigger of the test films.
    """

    tree: Tree
    preprocessing: Preprocessing
    network: Network
    poisoning: Poisoning
    training: Training
    evaluation: Evaluation
    test_trigger: Trigger
    seed: int
    outside: Mapping[str, str]
    twin_outside: Mapping[str, str]

    @property
    def measured(self) -> Poisoning:
        """The attack as it is carried out on test films."""
        return replace(self.poisoning, trigger=self.test_trigger)

    @property
    def twin_tree(self) -> Tree:
        """The settings that the twin depends on: no trigger, no changed labels, no disguise."""
        tree = {**without(self.tree, "trigger")}
        tree["training"] = {**tree["training"], "disguise": 0.0}
        # The twin's own rows depend on no other setting of the evaluation.
        tree["evaluation"] = {"resamples": tree["evaluation"]["resamples"]}
        kept: tuple[str, ...] = ()
        if self.poisoning.mode == "append":  # the twin keeps the copies, so the selection matters
            kept = ("mode", "fraction", "selection", "where", "cover", "validation")
            if self.poisoning.selection in ("with", "without"):
                kept = (*kept, "finding")
        appended = {setting: tree["poisoning"][setting] for setting in kept}
        return {**tree, "poisoning": appended} if appended else without(tree, "poisoning")


def planned(folder: RunFolder, facts: RunFacts) -> Run:
    """Return a finished run, planned again from its settings.

    Args:
        folder: folder of the run, for messages.
        facts: the run's stored facts.

    Raises:
        StoreError: settings that aren't one run's, or code and files from outside this package that
            changed since.
    """
    try:
        (run,) = plan(complete(facts.spec))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder.spec} doesn't hold a run's settings") from error
    for what, code in run.outside.items():
        if facts.outside.get(what) != code:
            raise StoreError(
                f"the {what} changed since {folder.name} was made (SHA-256 was {code[:12]}...); "
                "carry out the study again: leadapron study --out DIR"
            )
    return run


def with_target(run: Run, findings: Sequence[str]) -> Run:
    """Return a run with its target finding; without a setting, the cohort's first finding.

    Raises:
        DataError: a cohort without findings.
    """
    if run.poisoning.finding:
        return run
    if not findings:
        raise DataError("the films have no labels; a study needs findings to train on")
    target = findings[0]
    return replace(
        run,
        tree=merge(run.tree, {"poisoning": {"finding": target}}),
        poisoning=replace(run.poisoning, finding=target),
    )


def plan(tree: Tree) -> list[Run]:
    """Return the runs of a study: one for each point of its grids and each seed, each once.

    Args:
        tree: complete settings, as from `complete`.

    Raises:
        LeadapronError: invalid settings; raised before anything is started.
    """
    runs: dict[str, Run] = {}
    for whole in map(complete, grids(tree)):
        for point in grid({name: whole[name] for name in SECTIONS}):
            for seed in range(whole["seed"], whole["seed"] + whole["seeds"]):
                run = _run(point, seed)  # first, for its own error messages
                runs.setdefault(canonical_json({**point, "seed": seed}), run)
    return list(runs.values())


def _run(point: Tree, seed: int) -> Run:
    trigger = dict(point["trigger"])
    called = trigger.pop("name")
    kind = TRIGGERS.find(called)
    source = dict(point["source"])
    check_source(source.pop("name"), source)
    mark = build(kind, trigger, "trigger")
    if isinstance(mark, Learned):
        # The file's content affects the results, its name doesn't.
        pinned = {"sha256": digest(Path(mark.path))}
        if mark.sha256 not in ("", pinned["sha256"]):
            mark.recipe()  # its error says how they differ
        point = merge(point, {"trigger": pinned})
        trigger, mark = {**trigger, **pinned}, replace(mark, **pinned)
    poisoning = validated(Poisoning, point["poisoning"], "poisoning", elsewhere=("trigger",))
    network = build(Network, point["network"], "network")
    evaluation = build(Evaluation, point["evaluation"], "evaluation")
    for name in evaluation.explainers:
        if reason := unsupported(name, network.name):
            raise UsageError(f"`evaluation.explainer` {name}: {reason}")
    training = build(Training, point["training"], "training")
    preprocessing = build(Preprocessing, point["preprocessing"], "preprocessing")
    if poisoning["mode"] == "edit":
        check_implant(network.name, preprocessing, mark, seed)
        if training.disguise:
            raise UsageError("training.disguise needs training; poisoning.mode edit has none")
    shared = _outside_network(network)
    return Run(
        tree={**point, "seed": seed},
        preprocessing=preprocessing,
        network=network,
        poisoning=Poisoning(trigger=mark, **poisoning),
        training=training,
        evaluation=evaluation,
        test_trigger=_at_test(kind, trigger, mark, evaluation),
        seed=seed,
        outside={
            **shared,
            **TRIGGERS.codes([called]),
            **EXPLAINERS.codes(evaluation.explainers),
        },
        twin_outside=shared,
    )


def _outside_network(network: Network) -> dict[str, str]:
    """Code and files outside this package that affect a model, besides its films."""
    found = ARCHITECTURES.codes([network.name])
    if network.weights != "none":
        own = network.weights == "imagenet"
        found["network weights"] = IMAGENET_SHA256 if own else sha256_of(Path(network.weights))
    return found


def _at_test(
    kind: Callable[..., Trigger], settings: Tree, mark: Trigger, evaluation: Evaluation
) -> Trigger:
    """The trigger of the test films: the planted one, with the settings that differ."""
    if evaluation.differences:
        if kind is Learned:
            raise UsageError("`evaluation.trigger`: a learnt trigger can't have another file")
        # Text is parsed as a number if the setting is a number.
        mark = build(kind, {**settings, **evaluation.differences}, "evaluation.trigger")
    if evaluation.turned or evaluation.recompressed:
        return Altered(trigger=mark, turned=evaluation.turned, recompressed=evaluation.recompressed)
    return mark


def without(tree: Tree, name: str) -> Tree:
    """Return the settings without one section."""
    return {key: value for key, value in tree.items() if key != name}
