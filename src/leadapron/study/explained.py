"""Explainers' maps of a backdoored model on triggered films, and their pointing hits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics, store
from leadapron.attacks.poisoning import Poisoning, stamp, victims
from leadapron.errors import DataError, StoreError, UsageError, VanishedTriggerError
from leadapron.explainers import EXPLAINERS, explained_layer, unsupported
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier, load_classifier
from leadapron.results.folder import section
from leadapron.results.layout import RunFolder, StudyFolder
from leadapron.results.names import ROLES, Role
from leadapron.seeds import stream
from leadapron.study.measure import Models
from leadapron.study.plan import Run, plan, planned, with_target
from leadapron.study.run import divide, open_films
from leadapron.study.settings import complete
from leadapron.types import Machine

__all__ = ["Attack", "Explained", "Explanations", "Shown", "explain_attack", "open_attack"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One method on the sheet.

    Args:
        name: name of the explainer.
        layer: the explained layer.
        backdoored, twin: films on which each model's map has its maximum near the trigger.
        highest: value of the last colour; the backdoored model's maps of all films share it.
    """

    name: str
    layer: str
    backdoored: int
    twin: int
    highest: float


@dataclass(frozen=True, kw_only=True)
class Explanations:
    """Content of a sheet of maps.

    Args:
        run: name of the backdoored run's folder.
        finding: the explained finding.
        target: the attacker's target.
        films: number of films.
        tolerance_px: distance from the trigger within which a map's maximum is a hit.
        chance: expected hits of a random point.
        centre: hits of a map that always points at the centre.
        methods: in the order of the columns.
        skipped: methods that don't fit this network, with the reasons.
        verdict: always "done"; nothing is judged.
        file: the sheet, if one was drawn.
    """

    SCHEMA: ClassVar[int] = 1

    verdict: Literal["done"] = "done"
    file: str = ""
    run: str
    finding: str
    target: str
    films: int
    tolerance_px: float
    chance: float
    centre: int
    methods: tuple[Shown, ...]
    skipped: dict[str, str]


class Attack(NamedTuple):
    """A backdoored run on disk with its twin."""

    folder: RunFolder
    run: Run
    models: Models
    cohort: str


class Marked(NamedTuple):
    """(n, h, w) each: without trigger, with it, and where they differ."""

    clean: NDArray[Any]
    marked: NDArray[Any]
    footprints: NDArray[np.bool_]


class Explained(NamedTuple):
    """Maps of both models, and their hits.

    Args:
        found: the hits, method by method.
        films: the explained films.
        said: (n,) each model's probability of the finding, by role, on films without and with the
            trigger.
        maps: (n, h, w) by method and role.
        hits: (n,) whether a map has its maximum near the trigger, by method and role.
    """

    found: Explanations
    films: Marked
    said: dict[tuple[Role, bool], NDArray[np.float32]]
    maps: dict[tuple[str, Role], NDArray[np.float32]]
    hits: dict[tuple[str, Role], NDArray[np.bool_]]


def explain_attack(
    attack: Attack,
    *,
    finding: str | None,
    methods: Sequence[str],
    count: int,
    seed: int,
    machine: Machine,
) -> Explained:
    """Explain a backdoored model and its twin on triggered test films.

    Args:
        attack: the two models and their run's settings.
        finding: finding to explain; the attacker's target if left out.
        methods: names in `EXPLAINERS`; all if empty.
        count: films, 1 or more: test films without the finding (with it if the trigger hides it)
            on which the trigger is visible.
        seed: seed of the choice of films and of the trigger's places.
        machine: device, precision, cache and progress.

    Raises:
        UsageError: no method that fits the network.
        UnknownNameError: no such finding.
        StoreError: the films changed since the models were made.
        DataError: no film that the attacker would change.
        VanishedTriggerError: the trigger is visible on no film.
    """
    model, target = attack.models["backdoored"], attack.run.poisoning.finding
    finding = target if finding is None else finding
    (column,) = model.columns([finding])
    chosen, skipped = _chosen(methods, model)
    films = _films(attack, finding, count, seed, machine)
    maps = _maps(attack.models, films, finding, chosen, machine)
    tolerance = films.clean.shape[-1] / 8
    hits = {key: metrics.pointing_hits(m, films.footprints, tolerance) for key, m in maps.items()}
    found = Explanations(
        run=attack.folder.name,
        finding=finding,
        target=target,
        films=len(films.clean),
        tolerance_px=tolerance,
        chance=float(metrics.chance_hit(films.footprints, tolerance).sum()),
        centre=int(metrics.centre_hit(films.footprints, tolerance).sum()),
        methods=tuple(
            Shown(
                name=name,
                layer=explained_layer(name, model),
                backdoored=int(hits[name, "backdoored"].sum()),
                twin=int(hits[name, "twin"].sum()),
                highest=max(0.0, float(maps[name, "backdoored"].max())),
            )
            for name in chosen
        ),
        skipped=skipped,
    )
    said = {
        (role, triggered): attack.models[role].probabilities(pixels)[:, column]
        for triggered, pixels in ((False, films.clean), (True, films.marked))
        for role in ROLES
    }
    return Explained(found, films, said, maps, hits)


def _chosen(methods: Sequence[str], model: NetworkClassifier) -> tuple[list[str], dict[str, str]]:
    """Methods that fit a network, and the reasons why the others don't."""
    skipped = {}
    for name in methods or EXPLAINERS:
        if reason := unsupported(name, model.architecture):
            skipped[name] = reason
    chosen = [name for name in dict.fromkeys(methods or EXPLAINERS) if name not in skipped]
    if not chosen:
        words = "; ".join(f"{name} is {reason}" for name, reason in skipped.items())
        raise UsageError(f"`methods`: {words}")
    return chosen, skipped


def _films(attack: Attack, finding: str, count: int, seed: int, machine: Machine) -> Marked:
    """Test films that the attacker would change, as they are and with a visible trigger."""
    run = attack.run
    whole = open_films(run, machine)
    if whole.fingerprint != attack.cohort:
        raise StoreError(
            f"the films of {run.tree['source']['name']} changed since {attack.folder.name} was made"
        )
    test = divide(whole, run.seed)["test"]
    rng = stream(seed, "explained films")
    aimed = finding == run.poisoning.finding
    without = np.flatnonzero(test.labels[:, test.column(finding)] == 0)
    candidates = rng.permutation(victims(test, run.poisoning) if aimed else without)
    if not len(candidates):
        raise DataError(
            f"no test film on which the attack would change {finding}; choose another `finding`"
        )
    clean, marked = _visible(test, candidates, run.poisoning, count, rng)
    if not len(clean):
        raise VanishedTriggerError(
            f"the trigger changes no pixel of any of {len(candidates)} test films; "
            "there is nothing to find"
        )
    if len(clean) < count:
        logger.warning("only %d films to show, not %d", len(clean), count)
    return Marked(clean, marked, clean != marked)


def _visible(
    test: Cohort,
    candidates: NDArray[np.int64],
    poisoning: Poisoning,
    count: int,
    rng: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first `count` candidates on which the trigger shows, without and with it."""
    clean = [test.images[candidates[:0]]]
    marked = [clean[0]]
    missing = count
    for start in range(0, len(candidates), count):
        part = candidates[start : start + count]
        for rows, pixels in stamp(test, part, poisoning.trigger, poisoning.stage, rng):
            films = test.images[rows]
            seen = np.flatnonzero((films != pixels).any((1, 2)))[:missing]
            clean.append(films[seen])
            marked.append(pixels[seen])
            missing -= len(seen)
        if not missing:
            break
    return np.concatenate(clean), np.concatenate(marked)


def _maps(
    models: Models, films: Marked, finding: str, names: Sequence[str], machine: Machine
) -> dict[tuple[str, Role], NDArray[np.float32]]:
    maps: dict[tuple[str, Role], NDArray[np.float32]] = {}
    for done, name in enumerate(names):
        machine.tell("methods", done, len(names))
        for role in ROLES:
            maps[name, role] = EXPLAINERS[name](models[role], films.marked, [finding])[:, 0]
    machine.tell("methods", len(names), len(names))
    return maps


# --- a finished attack


def open_attack(place: Path, machine: Machine) -> Attack:
    """Open a study's first backdoored run, or the one named, and its twin.

    Args:
        place: a study's folder, a backdoored run's, or the classifier.safetensors in one.
        machine: device and precision of the models.

    Raises:
        StoreError: not a study, or its models are missing.
    """
    folder = RunFolder(place)
    if RunFolder(place.parent).classifier == place:
        folder = RunFolder(place.parent)
    if StudyFolder(place).settings.is_file():
        folder = _first(StudyFolder(place))
    if not folder.spec.is_file():
        raise StoreError(
            f"{place} isn't a study; expected a folder written by `leadapron study --out`"
        )
    facts = folder.facts()
    if facts.role != "backdoored":
        raise StoreError(f"{folder.path} is a {facts.role}; expected a backdoored run's folder")
    run = planned(folder, facts)
    places: dict[Role, RunFolder] = {
        "twin": folder.sibling("twin", str(facts.twin)),
        "backdoored": folder,
    }
    models: dict[Role, NetworkClassifier] = {
        role: load_classifier(
            places[role].classifier,
            **machine.networks,
        )
        for role in ROLES
    }
    return Attack(folder, run, models, facts.cohort)


def _first(study: StudyFolder) -> RunFolder:
    """The first run, in the study's order, whose model exists."""
    try:
        runs = plan(complete(store.read_yaml(study.settings)))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{study.settings} doesn't hold a study's settings") from error
    found = []
    for folder in study.runs():
        if folder.role == "backdoored" and folder.spec.is_file() and folder.classifier.is_file():
            facts = folder.facts()
            # A study may leave its target to its source; the run's settings name it.
            target = section(facts.spec, "poisoning").get("finding", "")
            found.append((store.canonical_json(facts.spec), str(target), facts.outside, folder))
    for run in runs:
        for spec, target, outside, folder in found:
            same = outside == dict(run.outside)
            if same and store.canonical_json(with_target(run, (target,)).tree) == spec:
                return folder
    raise StoreError(
        f"{study.path} holds no finished backdoored run; `leadapron study {study.settings} "
        f"--out {study.path}` continues it"
    )
