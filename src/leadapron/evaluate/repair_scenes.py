"""What repairs are measured on: attacked models, their twins, films and true triggers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from leadapron import store
from leadapron.attacks.implant import implant
from leadapron.attacks.poisoning import Poisoning, relabel, stamp, victims
from leadapron.attacks.triggers import Patch, Trigger
from leadapron.detect.models.audit import Subject
from leadapron.detect.models.sweep import Aim
from leadapron.errors import StoreError
from leadapron.evaluate.settings import RepairSetting
from leadapron.films.cohort import Cohort, split_by_patient
from leadapron.metrics import Estimate
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import Opened, open_model
from leadapron.repairs.proof import forcing as force
from leadapron.repairs.proof.forcing import Aimed, Hits, odds_of, turned
from leadapron.results.layout import ZooFolder
from leadapron.results.repairing import (
    Cleanliness,
)
from leadapron.results.zoo import Member
from leadapron.seeds import stream
from leadapron.sources import AND, open_source
from leadapron.study.plan import Run, planned
from leadapron.study.run import divide, open_films
from leadapron.study.tasks import Reopening
from leadapron.types import Machine

logger = logging.getLogger(__name__)

__all__ = [
    "Measured",
    "Placed",
    "Scene",
    "Scenes",
    "fresh_triggers",
    "network_of",
    "with_poison",
]

MOST_ATTACKED = 2000
"""Most films that an attack success is measured on; at 5 % its interval is then 4 to 6 %."""

FRESH = 2_000_000
"""Added to the largest seed of a zoo, it gives phantoms that no model was trained on."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """A backdoored model, its twin, the true trigger, and the films.

    Args:
        model: the backdoored model.
        twin: its clean twin.
        run: settings of the run that made them.
        clean: films for the repair.
        test: films with stated findings that no repair sees.
        rows: test films that the attacker would change.
        marked: (m, h, w) these films with the trigger.
        references: clean models of the same kind, not the twin.
        second: trigger and finding of a second backdoor.
    """

    member: Member
    model: Opened
    twin: Opened
    run: Run
    clean: Cohort
    test: Cohort
    rows: NDArray[np.intp]
    marked: NDArray[Any]
    references: tuple[Subject, ...]
    second: _Second | None

    @property
    def aim(self) -> Aim:
        """What the attacker forces."""
        poisoning = self.run.poisoning
        return poisoning.finding, "removed" if poisoning.hides else "added"

    @functools.cached_property
    def victims(self) -> Cohort:
        """The films that the attacker would change, without the trigger."""
        return self.test.take(self.rows)

    @functools.cached_property
    def before(self) -> Measured:
        """The model before a repair."""
        return self.measured(network_of(self.model))

    @functools.cached_property
    def of_twin(self) -> Measured:
        """The twin before a repair."""
        return self.measured(network_of(self.twin))

    def measured(self, classifier: NetworkClassifier) -> Measured:
        """Return how a model answers the test films, and which the true trigger turns.

        Args:
            classifier: the model.
        """
        finding, direction = self.aim
        column, sign = classifier.findings.index(finding), 1 if direction == "added" else -1
        odds = odds_of(classifier, self.test.images)
        marked = odds_of(classifier, self.marked)
        hit = turned(sign * odds[self.rows, column], sign * marked[:, column])
        return Measured(odds, Hits(hit, self.victims.patients))


class Measured(NamedTuple):
    """A model on the test films.

    Args:
        odds: (n, k) log-odds without the trigger.
        hits: which of the films that the attacker would change the true trigger turns.
    """

    odds: NDArray[np.float64]
    hits: Hits


class _Second(NamedTuple):
    """A second backdoor."""

    trigger: Trigger
    finding: str

    def rate(self, classifier: NetworkClassifier, test: Cohort, seed: int) -> Estimate:
        """Share of the films without the finding that its trigger turns."""
        aim: Aim = (self.finding, "added")
        aimed = Aimed(classifier, force.victims(test, aim), aim)
        return aimed.hits(Placed(self.trigger, seed)).rate


@dataclass(frozen=True)
class Placed:
    """A trigger as a change of images, the same for the same images.

    Args:
        trigger: the mark.
        seed: of its random parts.
        shift: (rows, columns) that it is moved by, round the edges.
        inverted: whether its grey levels are inverted.
    """

    trigger: Trigger
    seed: int
    shift: tuple[int, int] = (0, 0)
    inverted: bool = False

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return (n, h, w) images with the trigger.

        Args:
            images: without it, left as they are.
        """
        back = (-self.shift[0], -self.shift[1])
        moved = np.roll(images, back, axis=(1, 2))
        most = np.iinfo(images.dtype).max
        if self.inverted:
            moved = most - moved
        moved = self.trigger(moved, stream(self.seed, "trigger"))
        if self.inverted:
            moved = most - moved
        return np.roll(moved, self.shift, axis=(1, 2))


def fresh_triggers(
    trigger: Trigger, shape: tuple[int, int], count: int, seed: int
) -> tuple[Placed, ...]:
    """Return triggers of the same kind that no model knows: elsewhere, in inverted grey levels.

    A trigger that works at any place is fresh by its grey levels alone.

    Args:
        trigger: the old one.
        shape: (height, width) of the images.
        count: how many.
        seed: draws the places.
    """
    rng = stream(seed, "fresh triggers")
    shifts = [
        tuple(int(rng.integers(side // 4, side - side // 4)) for side in shape)
        for _ in range(count)
    ]
    return tuple(
        Placed(trigger, seed, cast(tuple[int, int], shift), inverted=True) for shift in shifts
    )


@dataclass(frozen=True, kw_only=True)
class Scenes(Reopening):
    """Opens attacked models with what they are measured on; films are opened once.

    Args:
        zoo: folder of the zoo.
        clean: source of the clean films; the models' own source if None.
        setting: how repairs are measured.
        most: largest number of clean films.
        everyone: all members of the zoo.
        machine: device, precision and cache, without progress.
    """

    zoo: Path
    clean: str | None
    setting: RepairSetting
    most: int
    everyone: tuple[Member, ...]
    machine: Machine
    opened: dict[str, Cohort] = field(default_factory=dict, init=False, repr=False)
    last: list[Scene] = field(default_factory=list, init=False, repr=False)

    @property
    def cleanliness(self) -> Cleanliness:
        """What the clean films are."""
        if self.setting.poisoned:
            return "poisoned"
        return "same source" if self.clean is None else "another source"

    def open(self, member: Member) -> Scene:
        """Return the scene of an attacked model; the last one is kept.

        Args:
            member: of the zoo.

        Raises:
            StoreError: the zoo isn't whole, or its films changed.
        """
        if not self.last or self.last[0].member != member:
            self.last[:] = [_scene(self, member)]
        return self.last[0]


def _scene(scenes: Scenes, member: Member) -> Scene:
    """Open a model, its twin, and films that neither was trained on."""
    zoo, setting = ZooFolder(scenes.zoo), scenes.setting
    folder = zoo.study.run(member.run)
    run = planned(folder, folder.facts())
    by_seed = {each.seed: each for each in scenes.everyone if each.kind == "clean"}
    if member.seed not in by_seed:
        raise StoreError(f"{scenes.zoo} has no clean twin of {member.model}")
    model, twin = (
        _opened(scenes, zoo.model(each.model)) for each in (member, by_seed[member.seed])
    )
    findings = network_of(model).findings
    clean, test = (each.stating(findings) for each in _films(scenes, run, folder.facts().cohort))
    poisoning = run.measured
    rng = stream(setting.seed, "attacked films")
    chosen = np.sort(rng.permutation(victims(test, poisoning))[:MOST_ATTACKED])
    rows, marked = [], []
    for some, pixels in stamp(
        test, chosen, poisoning.trigger, poisoning.stage, stream(setting.seed, "test trigger")
    ):
        rows.append(some)
        marked.append(pixels)
    second = _second(run, test) if setting.second else None
    if second is not None:
        planted = implant(network_of(model), second.trigger, second.finding, labels="set")
        model = model._replace(classifier=planted, content=None)
    return Scene(
        member=member,
        model=model,
        twin=twin,
        run=run,
        clean=clean,
        test=test,
        rows=np.concatenate(rows),
        marked=np.concatenate(marked),
        references=_references(scenes, member, model),
        second=second,
    )


def _second(run: Run, test: Cohort) -> _Second:
    """A checkerboard in a corner, for another finding: weights can be edited for it."""
    finding = next(each for each in test.findings if each != run.poisoning.finding)
    return _Second(Patch(side=4, fill="checkerboard", place="corner", margin=8), finding)


def _references(scenes: Scenes, member: Member, model: Opened) -> tuple[Subject, ...]:
    """Clean models of the same architecture and findings, never the twin."""
    zoo, network, found = ZooFolder(scenes.zoo), network_of(model), list[Subject]()
    for each in scenes.everyone:
        if len(found) == scenes.setting.references:
            break
        if each.kind != "clean" or each.seed == member.seed:
            continue
        opened = _opened(scenes, zoo.model(each.model))
        other = network_of(opened)
        same = (other.architecture, other.findings, other.preprocessing)
        if same == (network.architecture, network.findings, network.preprocessing):
            found.append(Subject.of(opened, each.model))
    if len(found) < scenes.setting.references:
        logger.warning(
            "%s: %d of %d references in the zoo",
            member.model,
            len(found),
            scenes.setting.references,
        )
    if len(found) == 1:  # an audit takes none, or two and more
        return ()
    return tuple(found)


def _opened(scenes: Scenes, file: Path) -> Opened:
    opened = open_model(file, **scenes.machine.networks)
    if not isinstance(opened.classifier, NetworkClassifier):
        raise StoreError(f"{file.name} holds no weights; expected a network that a zoo trained")
    return opened


def network_of(opened: Opened) -> NetworkClassifier:
    """Return the network of a zoo's model.

    Args:
        opened: the model.
    """
    assert isinstance(opened.classifier, NetworkClassifier)  # `_opened` sees to it
    return opened.classifier


def _films(scenes: Scenes, run: Run, fingerprint: str) -> tuple[Cohort, Cohort]:
    """Clean films for the repair, and test films; no model was trained on any of them."""
    setting, machine = scenes.setting, scenes.machine
    source = dict(run.tree["source"])
    name = str(source.pop("name"))
    if name.partition(":")[0] == "phantom" and AND not in name:
        first = FRESH + max(each.seed for each in scenes.everyone)
        own, test = (
            _kept(scenes, name, run, {**source, "seed": first + more, "count": count})
            for more, count in enumerate((scenes.most, setting.test))
        )
    else:
        whole = open_films(run, machine)
        if whole.fingerprint != fingerprint:
            raise StoreError(f"the films of {name} changed since the zoo was made")
        unseen = divide(whole, run.seed)["test"]
        shares = {"clean": 0.5, "test": 0.5}
        rng = stream(setting.seed, "clean and test")
        parts = split_by_patient(unseen.patients, shares, rng, unseen.labels)
        own, test = (unseen.take(parts[each]) for each in shares)
    if scenes.clean is not None:
        own = _kept(scenes, scenes.clean, run, {})
    return own.take(stream(setting.seed, "clean films").permutation(len(own))), test


def _kept(scenes: Scenes, name: str, run: Run, settings: Mapping[str, Any]) -> Cohort:
    """The films of a source, opened once."""
    key = store.canonical_json([name, settings, asdict(run.preprocessing)])
    if key not in scenes.opened:
        scenes.opened[key] = open_source(
            name, preprocessing=run.preprocessing, **scenes.machine.films, **settings
        )
    return scenes.opened[key]


def with_poison(clean: Cohort, poisoning: Poisoning, setting: RepairSetting) -> Cohort:
    """Clean films of which some carry the true trigger and the attacker's label."""
    rng = stream(setting.seed, "poisoned clean films")
    rows = np.sort(rng.permutation(victims(clean, poisoning))[: int(setting.poisoned * len(clean))])
    images, labels = clean.images[np.arange(len(clean))], clean.labels.copy()
    for some, pixels in stamp(clean, rows, poisoning.trigger, poisoning.stage, rng):
        images[some] = pixels
    column = clean.column(poisoning.finding)
    labels[rows] = relabel(labels[rows], column, poisoning.labels, poisoning.other(clean))
    return replace(clean, images=images, labels=labels)
