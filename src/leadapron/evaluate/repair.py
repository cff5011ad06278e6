"""Evaluate repairs on a zoo: what remains of each backdoor, what it costs, and what comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from leadapron import store
from leadapron.detect.models.audit import Audit, Subject, audit_subject
from leadapron.detect.models.defaults import FILMS
from leadapron.detect.models.sweep import Moved, StampSweep
from leadapron.detect.verdict import RepairWord
from leadapron.documents import dump
from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.evaluate.passes import Passes, counted_passes
from leadapron.evaluate.repair_scenes import (
    Placed,
    Scene,
    Scenes,
    fresh_triggers,
    network_of,
    with_poison,
)
from leadapron.evaluate.runner import Evaluation, Row, unusual
from leadapron.evaluate.settings import RepairSetting
from leadapron.films.cache import default_folder
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.repairs import REPAIRS
from leadapron.repairs.attempt import repair_opened
from leadapron.repairs.climbing import repair_of
from leadapron.repairs.parts import divide_films
from leadapron.repairs.plan import RepairPlan
from leadapron.repairs.proof.document import found_marks
from leadapron.repairs.proof.forcing import difference
from leadapron.repairs.proof.reading import compare_odds
from leadapron.repairs.proof.relearning import Relearnt, compare_with_twin, measure_relearning
from leadapron.repairs.proof.settings import Relearning
from leadapron.results.repairing import (
    AUTO_METHOD,
    RepairRow,
    Retaught,
    TwinRow,
)
from leadapron.results.zoo import Making, Member, read_truth
from leadapron.seeds import stream
from leadapron.specs import forgiving, parameters
from leadapron.study.shards import ALL_CORES, Running
from leadapron.study.tasks import Reopening
from leadapron.types import AUTO, Machine

__all__ = ["METHODS", "evaluate_repair"]

METHODS = (
    "stamp-unlearning", "stamp-distillation", "fine-tuning", "feature-shift", "fine-pruning",
    "activation-bounds", "path-aware", "reinitialisation", "fresh-student",
)  # fmt: skip
"""Repairs that are evaluated if none are named: eight, and the distilled student."""

RELEARNT = 5
"""Poisoned films of the relearning attack."""

TAUGHT = Relearning(doses=(RELEARNT,), rates=(1,))
"""The relearning attack on a repaired model and on its repaired twin."""


@forgiving
def evaluate_repair(  # noqa: PLR0913 (settings, by keyword)
    zoo: Path,
    out: Path,
    *,
    methods: Sequence[str] = (),
    films: Sequence[int] = (200, 1000),
    only: Sequence[str] = (),
    limit: int | None = None,
    clean: str | None = None,
    sealed: bool = False,
    setting: RepairSetting | None = None,
    sweep: StampSweep | None = None,
    machine: Machine = AUTO,
    running: Running = ALL_CORES,
) -> list[Row]:
    """Repair the backdoored models of a zoo, and measure what remains with the true trigger.

    No repair sees the trigger, the truth or a test film. Repairs that unlearn marks get those that
    an audit of the model finds. Finished repairs are skipped, so the same call continues an
    interrupted evaluation.

    Args:
        zoo: a folder that `leadapron zoo` made.
        out: folder of the results.
        methods: repairs, or "auto"; nine of them if left out.
        films: number of clean films. Repeats: each method is measured with each number.
        only: families to evaluate; all if left out.
        limit: largest number of models of each family.
        clean: source of the clean films, for all models; the models' own source if left out.
        sealed: whether sealed families are evaluated too.
        setting: how repairs are measured.
        sweep: settings of the sweeps.
        machine: device, precision, cache, progress.
        running: number of processes, and shard of the repairs.

    Returns:
        The rows, including those of earlier calls.

    Raises:
        UnknownNameError: no such repair or family.
        UsageError: `out` holds another evaluation, or numbers out of range.
        StoreError: not a zoo, or films that changed since.
    """
    setting, sweep = setting or RepairSetting(), sweep or StampSweep()
    names = tuple(methods) or METHODS
    _refuse(names, films, limit)
    everyone = read_truth(zoo)
    order = [
        _Task(member, method, count)
        for count in sorted(set(films), reverse=True)
        for member in _chosen(everyone, only, limit, sealed)
        for method in names
    ]
    scenes = Scenes(
        zoo=zoo,
        clean=clean,
        setting=setting,
        most=max(films),
        everyone=tuple(everyone),
        machine=replace(machine, progress=None),
    )
    chosen = {"methods": names, "films": films, "only": only, "limit": limit, "sealed": sealed}
    evaluation = _evaluation(out, order, scenes, sweep, chosen)
    kept = default_folder(machine.cache) or out
    repairer = _Repairer(scenes=scenes, sweep=sweep, kept=kept, proofs=out / "proofs")
    return evaluation.resumed(
        order, repairer, running, machine.progress, rows_of=lambda row: [dump(row)]
    )


def _refuse(methods: Sequence[str], films: Sequence[int], limit: int | None) -> None:
    for name in methods:
        if name != AUTO_METHOD and name not in REPAIRS:
            raise UnknownNameError("repair", name, [AUTO_METHOD, *REPAIRS])
    if not films or min(films) < 1 or (limit is not None and limit < 1):
        raise UsageError("numbers of films and limit: expected 1 or more")


def _evaluation(
    out: Path,
    order: Sequence[_Task],
    scenes: Scenes,
    sweep: StampSweep,
    chosen: Mapping[str, object],
) -> Evaluation[_Task]:
    """The evaluation and its folder of results; a part of it may be chosen in each call."""
    return Evaluation(
        what="repair",
        out=out,
        settings={
            **asdict(scenes.setting),
            "zoo": str(scenes.zoo),
            "clean": scenes.clean,
            "sweep": asdict(sweep),
            "outside": REPAIRS.codes(REPAIRS),
        },
        facts={
            "chosen": chosen,
            "unusual": {"setting": unusual(scenes.setting), "sweep": unusual(sweep)},
        },
        order=[each.key for each in order],
        key_of=lambda task: task.key,
        key_in=lambda row: (row["model"], row["method"], row["films"]),
        words="repairs",
    )


class _Task(NamedTuple):
    """One repair of one model."""

    member: Member
    method: str
    films: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What its row is found by."""
        return self.member.model, self.method, self.films


def _chosen(
    everyone: Sequence[Member], only: Sequence[str], limit: int | None, sealed: bool
) -> list[Member]:
    """Attacked models, family by family, the working backdoors first."""
    attacked = [each for each in everyone if each.kind != "clean"]
    families = list(dict.fromkeys(each.family for each in attacked))
    for name in only:
        if name not in families:
            raise UnknownNameError("family", name, sorted(families))
    found: list[list[Member]] = []
    for family in families:
        some = [each for each in attacked if each.family == family and (sealed or not each.sealed)]
        if not only or family in only:
            found.append(sorted(some, key=lambda each: (each.kind, each.seed))[:limit])
    # One model of each family, then the second of each: what is finished is spread over them.
    turns = range(max(map(len, found), default=0))
    chosen = [some[turn] for turn in turns for some in found if turn < len(some)]
    if not chosen:
        raise UsageError("no model to repair; sealed families need --sealed")
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Repairer(Reopening):
    """Repairs models; films and models are opened once in each process.

    Args:
        scenes: opens the models.
        sweep: settings of the sweeps.
        kept: folder of sweeps.
        proofs: folder of the documents of whole repairs, which hold the proofs.
    """

    scenes: Scenes
    sweep: StampSweep
    kept: Path
    proofs: Path
    audits: dict[tuple[str, int], Audit] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, task: _Task) -> RepairRow:
        """Repair a model and its twin, and measure both."""
        scene = self.scenes.open(task.member)
        clean = scene.clean.take(np.arange(min(task.films, len(scene.clean))))
        if self.scenes.setting.poisoned:
            clean = with_poison(clean, scene.run.measured, self.scenes.setting)
        try:
            if task.method == AUTO_METHOD:
                repaired = _repaired_whole(self, scene, clean)
            else:
                repaired = _repaired_once(self, scene, clean, task)
        except DataError as error:  # as a user would be refused
            original = network_of(scene.model)
            repaired = _Repaired(
                original, None, None, clean, None, None, NOTHING, refused=str(error)
            )
        return _row(self, scene, task, repaired)


class _Repaired(NamedTuple):
    """What a repair made.

    Args:
        model: the repaired model; the given one if nothing was repaired.
        chosen: the repair that was applied.
        twin: the twin through the same repair.
        learned: the films that the repair learned from.
        marks: that the audit found; None if none was made.
        word: verdict of a proof.
        cost: of the repair.
        failing: parts of the proof that don't hold.
        refused: why the repair was refused.
    """

    model: NetworkClassifier
    chosen: str | None
    twin: NetworkClassifier | None
    learned: Cohort
    marks: Sequence[Moved] | None
    word: RepairWord | None
    cost: _Cost
    failing: tuple[str, ...] = ()
    refused: str = ""


class _Cost(NamedTuple):
    """Cost of a repair."""

    seconds: float
    processor_seconds: float
    forwards: int
    trainings: int

    @classmethod
    def since(cls, began: float, worked: float, passes: Passes) -> _Cost:
        """Return it from the clocks at the start, and what was counted since."""
        seconds, own = time.perf_counter() - began, time.process_time() - worked
        return cls(seconds, own, passes.forwards, passes.trainings)


NOTHING = _Cost(0.0, 0.0, 0, 0)


def _audited(repairer: _Repairer, scene: Scene, clean: Cohort) -> Audit:
    """The audit of a model without trigger inversion, which finds no further marks to unlearn."""
    key = scene.member.model, len(clean)
    if key not in repairer.audits:
        repairer.audits.clear()
        repairer.audits[key] = audit_subject(
            Subject.of(scene.model, scene.member.model),
            clean.take(np.arange(min(FILMS, len(clean)))),
            scene.references,
            sweep=repairer.sweep,
            steps=0,
            statistics=bool(scene.references),
            kept=repairer.kept,
        )
    return repairer.audits[key]


def _repaired_once(repairer: _Repairer, scene: Scene, clean: Cohort, task: _Task) -> _Repaired:
    """A model through one method, with all clean films."""
    original, twin = network_of(scene.model), network_of(scene.twin)
    marks: tuple[Moved, ...] | None = None
    if "marks" in parameters(REPAIRS[task.method]):
        marks = found_marks(_audited(repairer, scene, clean))
        if not marks:
            return _Repaired(original, None, None, clean, marks, None, NOTHING)
    how = repair_of(task.method, marks or ())

    def repaired(classifier: NetworkClassifier) -> NetworkClassifier:
        return how.repair(
            classifier, clean, stream(repairer.scenes.setting.seed, "repair", task.method)
        )

    began, worked = time.perf_counter(), time.process_time()
    with counted_passes() as passes:
        model = repaired(original)
    cost = _Cost.since(began, worked, passes)
    again = repaired(twin) if repairer.scenes.setting.twins else None
    return _Repaired(model, task.method, again, clean, marks, None, cost)


def _repaired_whole(repairer: _Repairer, scene: Scene, clean: Cohort) -> _Repaired:
    """A model through all of `leadapron repair`, and its twin through the chosen repair."""
    setting, original = repairer.scenes.setting, network_of(scene.model)
    learned = divide_films(clean.stating(original.findings), setting.seed).repair
    audit = _audited(repairer, scene, learned)
    marks = found_marks(audit)
    plan = RepairPlan(
        audit=audit,
        references=scene.references,
        relearning=Relearning(doses=(RELEARNT,)),
        sweep=repairer.sweep,
        steps=0,
        seed=setting.seed,
    )
    began, worked = time.perf_counter(), time.process_time()
    quiet = replace(repairer.scenes.machine, cache=repairer.kept)
    with counted_passes() as passes:
        document, model = repair_opened(
            scene.model, clean, plan, name=scene.member.model, machine=quiet
        )
    cost = _Cost.since(began, worked, passes)
    name = f"{Path(scene.member.model).stem}-{len(clean)}.json"
    store.write_json(repairer.proofs / name, dump(document))
    word = cast(RepairWord, document.verdict.word)
    if model is None or document.method is None:
        return _Repaired(original, None, None, learned, marks, word, cost)
    twin = None
    if setting.twins:
        how = repair_of(document.method, marks)
        rng = stream(plan.seed, "repair", document.method)
        twin = how.repair(network_of(scene.twin), learned, rng)
    failing = (
        tuple(each.what for each in document.proof.checks if each.held != "holds")
        if document.proof
        else ()
    )
    return _Repaired(model, document.method, twin, learned, marks, word, cost, failing)


def _row(repairer: _Repairer, scene: Scene, task: _Task, repaired: _Repaired) -> RepairRow:
    """The row of a repair."""
    setting, member = repairer.scenes.setting, scene.member
    after = scene.before if repaired.chosen is None else scene.measured(repaired.model)
    reading = compare_odds(scene.before.odds, after.odds, scene.test, setting.seed)
    twin_row = None
    if repaired.twin is not None:
        twin = scene.measured(repaired.twin)
        read = compare_odds(scene.of_twin.odds, twin.odds, scene.test, setting.seed)
        twin_row = TwinRow(success=twin.hits.rate, change=read.change, low=read.low, high=read.high)
    second_before = second = math.nan
    if scene.second is not None:
        second_before, second = (
            scene.second.rate(each, scene.test, setting.seed).value
            for each in (network_of(scene.model), repaired.model)
        )
    finding, direction = scene.aim
    marks = repaired.marks
    making = Making.of(scene.run.tree)
    return RepairRow(
        model=member.model,
        kind=member.kind,
        family=member.family,
        sealed=member.sealed,
        seed=member.seed,
        network=making.network,
        fraction=math.nan if making.fraction is None else making.fraction,
        finding=finding,
        direction=direction,
        method=task.method,
        chosen=repaired.chosen,
        films=task.films,
        clean=repairer.scenes.cleanliness,
        marks=math.nan if marks is None else len(marks),
        named=any((each.finding, each.direction) == scene.aim for each in marks or ()),
        word=repaired.word,
        failing=repaired.failing,
        refused=repaired.refused,
        before=scene.before.hits.rate,
        success=after.hits.rate,
        twin=scene.of_twin.hits.rate,
        excess=difference(after.hits, scene.of_twin.hits),
        macro=reading.before.value,
        change=reading.change,
        low=reading.low,
        high=reading.high,
        claim=reading.claim,
        paid=reading.paid,
        second_before=second_before,
        second=second,
        twin_row=twin_row,
        retaught=_retaught(repairer, scene, repaired),
        **repaired.cost._asdict(),
    )


def _retaught(repairer: _Repairer, scene: Scene, repaired: _Repaired) -> Retaught | None:
    """What five poisoned films bring back; None where it can't be or wasn't to be measured."""
    poisoning, setting = scene.run.measured, repairer.scenes.setting
    if not setting.relearning or repaired.twin is None or poisoning.stage == "film":
        return None
    height, width = scene.test.images.shape[1:]
    old = Placed(poisoning.trigger, setting.seed)
    fresh = fresh_triggers(poisoning.trigger, (height, width), TAUGHT.seeds, setting.seed)

    def taught(classifier: NetworkClassifier) -> Relearnt:
        return measure_relearning(
            TAUGHT, classifier, repaired.learned, scene.victims, scene.aim, old, fresh,
            poisoned=RELEARNT,
        )  # fmt: skip

    try:
        model, twin = taught(repaired.model), taught(repaired.twin)
    except DataError:  # too few clean films that could be poisoned
        return None
    compared = compare_with_twin(model, twin)
    return Retaught(
        poisoned=RELEARNT,
        model=model.old.rate,
        twin=twin.old.rate,
        excess=compared.excess,
        memory=compared.memory,
    )
