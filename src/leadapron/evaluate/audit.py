"""Evaluate audits: how many of a zoo's backdoors they find, and their false-positive rate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron import store
from leadapron.detect.models import (
    KINDS,
    STATISTICS,
    StampSweep,
    Statistic,
    Swept,
    Tables,
    compare,
    compare_statistics,
    measure_once,
    sweep_once,
)
from leadapron.detect.models.defaults import FILMS
from leadapron.detect.models.judgement import compare_sweeps, judge_model, shift_table
from leadapron.detect.models.students import Students
from leadapron.errors import StoreError, UsageError
from leadapron.evaluate.fresh_films import FreshFilms
from leadapron.evaluate.no_references import evaluate_without_references
from leadapron.evaluate.runner import Evaluation, Row, unusual
from leadapron.films.cache import default_folder
from leadapron.models.classifier import Differentiable
from leadapron.models.foreign import open_model
from leadapron.results.layout import ZooFolder
from leadapron.results.zoo import Making, Member, read_truth
from leadapron.specs import forgiving
from leadapron.study.shards import ALL_CORES, Running
from leadapron.study.tasks import Reopening, carry_out
from leadapron.types import AUTO, Machine

__all__ = ["LEAST_CLEAN", "evaluate_audit"]

logger = logging.getLogger(__name__)

LOWEST = -1e9
"""Replaces an excess or shift that couldn't be measured, since rows hold numbers."""

LEAST_CLEAN = 4
"""Fewest clean models of a kind: each is compared with the others, without its twin."""


@forgiving
def evaluate_audit(
    zoo: Path,
    out: Path,
    *,
    clean: str | None = None,
    films: int = FILMS,
    sealed: bool = False,
    sweep: StampSweep | None = None,
    statistics: bool = True,
    references: bool = True,
    machine: Machine = AUTO,
    running: Running = ALL_CORES,
) -> list[Row]:
    """Audit all models of a zoo, or continue an interrupted evaluation.

    Each model is swept on films that it wasn't trained on: by default on phantoms of a seed that
    no member has, or on the test films of its own run. Its reference models are the zoo's clean
    models with the same architecture, preprocessing, findings and source, without itself and its
    twin. Verdicts follow when all models are swept; with several shards, the last one gives them.

    Args:
        zoo: a folder that `leadapron zoo` made.
        out: folder of the results: evaluation.json, and rows.jsonl as models are swept.
        clean: source of films without a trigger that no model was trained on; used for all models.
        films: largest number of films for a sweep.
        sealed: whether sealed families are evaluated too.
        sweep: settings of the sweeps.
        statistics: whether further statistics of each network are computed too.
        references: whether models are compared with reference models; otherwise with their
            students, as `evaluate_without_references`; films, sweep, statistics don't count then.
        machine: device, precision, progress; the cache keeps films and sweeps (without a cache,
            `out` keeps the sweeps).
        running: number of processes, and shard of the models.

    Returns:
        One record for each model with enough reference models; while other shards haven't
        finished, one for each swept model, without a verdict.

    Raises:
        UsageError: a zoo with too few clean models, or another evaluation in `out`.
        StoreError: a zoo that isn't whole, or films that changed since.
        LeadapronError: as `open_source`.
    """
    if not references:
        return evaluate_without_references(
            zoo, out, clean=clean, sealed=sealed, students=Students(), machine=machine,
            running=running,
        )  # fmt: skip
    everyone = read_truth(zoo)
    members = [each for each in everyone if sealed or not each.sealed]
    _refuse_few(zoo, members)
    sweeper = _Sweeper(
        zoo=zoo,
        fresh=FreshFilms.of_zoo(everyone, clean=clean, films=films, machine=machine),
        sweep=sweep or StampSweep(),
        statistics=statistics,
        # An interrupted evaluation continues from its sweeps, so they are always kept.
        kept=default_folder(machine.cache) or out,
        machine=replace(machine, progress=None),
    )
    evaluation = _evaluation(sweeper, out, members, sealed)
    looked: dict[str, _Looked] = {}

    def measured(each: _Looked) -> list[Row]:
        looked[each.member.model] = each
        return [_measured(each)]

    def judged(rows: list[Row]) -> list[Row]:
        """The rows with a verdict, once all models are swept."""
        if len(rows) < len(members):
            logger.info("other shards evaluate %d models", len(members) - len(rows))
            return rows
        elsewhere = [member for member in members if member.model not in looked]
        for _, each in carry_out(sweeper, elsewhere, running.processes):
            looked[each.member.model] = each
        return _with_verdicts([looked[member.model] for member in members])

    return evaluation.resumed(
        members, sweeper, running, machine.progress, rows_of=measured, finish=judged
    )


def _evaluation(
    sweeper: _Sweeper, out: Path, members: Sequence[Member], sealed: bool
) -> Evaluation[Member]:
    """The evaluation and its folder of results."""
    outside = STATISTICS.codes(STATISTICS) if sweeper.statistics else {}
    return Evaluation(
        what="audit",
        out=out,
        settings={
            "zoo": str(sweeper.zoo),
            "clean": sweeper.fresh.clean,
            "films": sweeper.fresh.films,
            "sealed": sealed,
            "sweep": asdict(sweeper.sweep),
            "statistics": sweeper.statistics,
            **({"outside": outside} if outside else {}),
        },
        facts={"unusual": unusual(sweeper.sweep)},
        order=[each.model for each in members],
        key_of=lambda member: member.model,
        key_in=lambda row: row["model"],
        words="models swept",
    )


class _Group(NamedTuple):
    """Common properties of models that are compared with each other."""

    architecture: str
    preprocessing: str
    findings: tuple[str, ...]
    source: str


def _refuse_few(zoo: Path, members: Sequence[Member]) -> None:
    clean_models = sum(each.kind == "clean" for each in members)
    if clean_models < LEAST_CLEAN:
        raise UsageError(
            f"{zoo} has {clean_models} clean models; expected {LEAST_CLEAN} as reference models"
        )


class _Looked(NamedTuple):
    """A swept model: its sweep, and the attack of the run that made it."""

    member: Member
    group: _Group
    swept: Swept
    seconds: float
    direction: Literal["added", "removed"] | None
    statistics: Tables
    attack: Making | None


@dataclass(frozen=True, kw_only=True)
class _Sweeper(Reopening):
    """Sweeps models; films are opened once for all of them.

    Args:
        zoo: as `evaluate_audit`.
        fresh: films that no member was trained on.
        sweep: as `evaluate_audit`.
        statistics: as `evaluate_audit`.
        kept: folder of the sweeps.
        machine: as `evaluate_audit`, without progress.
    """

    zoo: Path
    fresh: FreshFilms
    sweep: StampSweep
    statistics: bool
    kept: Path
    machine: Machine

    def __call__(self, member: Member) -> _Looked:
        """Sweep a model, or read its stored sweep."""
        return _look(self, member)


def _look(setting: _Sweeper, member: Member) -> _Looked:
    """Sweep one model on films that it wasn't trained on."""
    zoo = ZooFolder(setting.zoo)
    file = zoo.model(member.model)
    opened = open_model(file, **setting.machine.networks)
    classifier = opened.classifier
    if not isinstance(classifier, Differentiable):
        raise StoreError(f"{file.name} holds no weights; expected a network that a zoo trained")
    run = zoo.study.run(member.run).facts()
    try:
        source, seed = dict(run.spec["source"]), int(run.spec["seed"])
        # A twin's settings have no label policy.
        attack = None if member.kind == "clean" else Making.of(run.spec)
        labels = run.spec["poisoning"]["labels"] if attack else ""
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{setting.zoo} has no whole spec.json of {member.model}") from error
    clean = setting.fresh.of(classifier, source, seed, run.cohort)
    kept = sweep_once(
        setting.sweep,
        classifier,
        clean,
        content=opened.content,
        folder=setting.kept,
        name=member.model,
    )
    statistics: Tables = {}
    if setting.statistics:
        statistics = measure_once(
            classifier,
            clean,
            content=opened.content,
            folder=setting.kept,
            name=member.model,
        )
    direction: Literal["added", "removed"] = "removed" if labels == "clear" else "added"
    return _Looked(
        member=member,
        group=_Group(
            architecture=classifier.architecture,
            preprocessing=store.canonical_json(asdict(classifier.preprocessing)),
            findings=classifier.findings,
            source=setting.fresh.clean or str(source["name"]),
        ),
        swept=kept.swept,
        seconds=kept.seconds,
        direction=None if member.kind == "clean" else direction,
        statistics=statistics,
        attack=attack,
    )


def _measured(looked: _Looked) -> Row:
    """A model's row before its comparison with reference models."""
    facts = asdict(looked.member)
    return {
        **{name: facts[name] for name in KEPT},
        "direction": looked.direction,
        **({} if looked.attack is None else looked.attack._asdict()),
        "forwards": looked.swept.forwards,
        "films": list(looked.swept.films),
        "seconds": looked.seconds,
        "baselines": {"single square": float(_finite_max(looked.swept.table().ravel()))},
    }


KEPT = (
    "model", "kind", "family", "sealed", "seed", "finding", "attack_success", "twin_success",
    "edited",
)  # fmt: skip
"""Fields of a zoo's member in a row."""


def _others(one: _Looked, everyone: Sequence[_Looked]) -> list[_Looked]:
    """The clean models of a model's kind, without itself and its twin; none if they are too few."""
    others = [
        each
        for each in everyone
        if each.member.kind == "clean"
        and each.group == one.group
        and each.member.seed != one.member.seed
    ]
    if len(others) < LEAST_CLEAN - 1:
        logger.warning(
            "%s is left out: %d reference models of its architecture, images and source; "
            "%d are needed",
            one.member.model,
            len(others),
            LEAST_CLEAN - 1,
        )
        return []
    return others


def _with_verdicts(everything: Sequence[_Looked]) -> list[Row]:
    """The rows of all models with enough reference models."""
    return [
        _judged(_measured(each), each, others)
        for each in everything
        if (others := _others(each, everything))
    ]


def _judged(row: Row, one: _Looked, others: Sequence[_Looked]) -> Row:
    """A row with the model's comparison with reference models."""
    swept = [other.swept for other in others]
    comparison, known = compare_sweeps(one.swept, swept), _statistics(one, others)
    judged = judge_model(one.swept, swept, known)
    by_finding = _finite_max(comparison.excess)  # (k, 2)
    named = None
    if one.direction is not None:
        column = int(by_finding[:, int(one.direction == "removed")].argmax())
        named = one.swept.findings[column]
    tables = np.stack([shift_table(each.swept, one.swept.findings) for each in (one, *others)])
    alone = {
        f"{kind} alone": max(compare(tables[0, i : i + 1], tables[1:, i : i + 1]).strongest, LOWEST)
        for i, kind in enumerate(KINDS)
    }
    return {
        **row,
        "references": len(others),
        "p": comparison.p,
        "excess": max(comparison.strongest, LOWEST),
        "verdict": judged.word,
        "by": judged.by,
        "target": judged.finding,
        "target_direction": None if judged.target is None else judged.target.direction,
        "named": named,
        "baselines": {**row["baselines"], **alone},
        "statistics": {each.name: _told(each, one.direction) for each in known},
    }


def _statistics(one: _Looked, others: Sequence[_Looked]) -> tuple[Statistic, ...]:
    """The statistics of a network compared with those of others; none if none were computed."""
    if not one.statistics:
        return ()
    known = [(each.swept.findings, each.statistics) for each in (one, *others)]
    return compare_statistics(*known[0], known[1:])


def _finite_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest finite value along the first axis; LOWEST if there is none."""
    largest: NDArray[np.float64] = np.where(np.isfinite(values), values, LOWEST).max(axis=0)
    return largest


def _told(each: Statistic, direction: str | None) -> Mapping[str, object]:
    """The strongest excess, p, and the finding that it names in the attack's direction."""
    assert each.excess is not None  # there are references
    named, excess = None, _finite_max(each.excess[None])
    if direction is not None and len(each.findings) > 1:
        side = each.directions.index(direction) if direction in each.directions else 0
        named = each.findings[int(excess[:, side].argmax())]
    return {"excess": float(excess.max()), "p": 1.0 if each.p is None else each.p, "named": named}
