"""Evaluate audits without reference models: each model compared with its own students."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from leadapron.detect.models.defaults import TAUGHT
from leadapron.detect.models.gap import Examined, examine
from leadapron.detect.models.population import Kind, Population, Teacher, shipped_population
from leadapron.detect.models.rule import RULE
from leadapron.detect.models.second_tier import named_gap
from leadapron.detect.models.students import Students
from leadapron.documents import dump
from leadapron.errors import StoreError, UsageError
from leadapron.evaluate.fresh_films import FreshFilms
from leadapron.evaluate.runner import Evaluation, Row
from leadapron.films.cache import default_folder
from leadapron.models.classifier import Differentiable
from leadapron.models.foreign import open_model
from leadapron.results.layout import ZooFolder
from leadapron.results.zoo import Member, read_truth
from leadapron.specs import forgiving
from leadapron.store import read_json, read_lines, write_json
from leadapron.study.shards import Running
from leadapron.study.tasks import Reopening
from leadapron.types import Machine

__all__ = ["evaluate_population", "evaluate_without_references"]


def evaluate_without_references(
    zoo: Path,
    out: Path,
    *,
    clean: str | None,
    sealed: bool,
    students: Students,
    machine: Machine,
    running: Running,
) -> list[Row]:
    """Compare all models of a zoo with their students, or continue an interrupted evaluation.

    A model's p comes from clean teachers of all other kinds: those of the zoo and those that the
    package ships.

    Args:
        zoo: as `evaluate_audit`.
        out: as `evaluate_audit`.
        clean: as `evaluate_audit`.
        sealed: as `evaluate_audit`.
        students: how students are made.
        machine: as `evaluate_audit`.
        running: as `evaluate_audit`.

    Returns:
        One record for each model; while other shards haven't finished, without a verdict.

    Raises:
        LeadapronError: as `evaluate_audit`.
    """
    everyone = read_truth(zoo)
    members = [each for each in everyone if sealed or not each.sealed]
    comparer = _Comparer(
        zoo=zoo,
        fresh=FreshFilms.of_zoo(everyone, clean=clean, films=TAUGHT, machine=machine),
        students=students,
        kept=default_folder(machine.cache) or out,
        machine=replace(machine, progress=None),
    )
    evaluation: Evaluation[Member] = Evaluation(
        what="audit",
        out=out,
        settings={
            "references": False,
            "zoo": str(zoo),
            "clean": clean,
            "films": TAUGHT,
            "sealed": sealed,
            "students": asdict(students),
            "rule": RULE.digest(),
        },
        order=[each.model for each in members],
        key_of=lambda member: member.model,
        key_in=lambda row: row["model"],
        words="models compared with their students",
    )

    def finish(rows: list[Row]) -> list[Row]:
        return rows if len(rows) < len(members) else judged(rows, shipped_population())

    return evaluation.resumed(
        members,
        comparer,
        running,
        machine.progress,
        rows_of=lambda each: [_row(each)],
        finish=finish,
    )


class _Compared(NamedTuple):
    """A model compared with its students."""

    member: Member
    direction: Literal["added", "removed"] | None
    examined: Examined
    teacher: Teacher


@dataclass(frozen=True, kw_only=True)
class _Comparer(Reopening):
    """Compares models with their students.

    Args:
        zoo: the zoo.
        fresh: films that no member was trained on.
        students: how students are made.
        kept: folder of what is kept.
        machine: without progress.
    """

    zoo: Path
    fresh: FreshFilms
    students: Students
    kept: Path
    machine: Machine

    def __call__(self, member: Member) -> _Compared:
        """Compare a model with its students, or read what is kept of it."""
        zoo = ZooFolder(self.zoo)
        file = zoo.model(member.model)
        opened = open_model(file, **self.machine.networks)
        classifier = opened.classifier
        if not isinstance(classifier, Differentiable) or opened.content is None:
            raise StoreError(f"{file.name} holds no weights; expected a network that a zoo trained")
        run = zoo.study.run(member.run).facts()
        try:
            source, seed = dict(run.spec["source"]), int(run.spec["seed"])
            start = str(run.spec["network"]["weights"])
            clears = member.kind != "clean" and run.spec["poisoning"]["labels"] == "clear"
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.zoo} has no whole spec.json of {member.model}") from error
        examined = examine(
            self.students,
            classifier,
            self.fresh.of(classifier, source, seed, run.cohort),
            content=opened.content,
            folder=self.kept,
            name=member.model,
        )
        kind = Kind(
            architecture=classifier.architecture,
            data=_data(self.fresh.clean or str(source["name"])),
            size=classifier.preprocessing.size,
            findings=len(classifier.findings),
            start="random" if start == "none" else "pretrained",
        )
        direction: Literal["added", "removed"] = "removed" if clears else "added"
        return _Compared(
            member,
            None if member.kind == "clean" else direction,
            examined,
            Teacher.of(
                examined, kind, macro=member.clean_macro, seed=member.seed, content=opened.content
            ),
        )


def _data(source: str) -> str:
    """A source's name, with the last part of a path: "phantom", "folder kermany224"."""
    name, _, argument = source.partition(":")
    if name == "phantom":
        return name
    return f"{name} {Path(argument).stem}"


def _row(each: _Compared) -> Row:
    """A model's row before it is compared with teachers."""
    member, first = each.member, named_gap(each.examined)
    return {
        "model": member.model,
        "kind": member.kind,
        "family": member.family,
        "sealed": member.sealed,
        "seed": member.seed,
        "finding": member.finding,
        "direction": each.direction,
        "attack_success": member.attack_success,
        "twin_success": member.twin_success,
        "teacher": asdict(each.teacher),
        "rise": first.rise,
        "students": list(first.students),
        "carried": list(first.carried),
        "mark": first.effect.mark.words(),
        "named": first.effect.finding,
        "named_direction": first.effect.direction,
        "settings": each.examined.settings,
    }


def judged(
    rows: Sequence[Row], shipped: Population, false_alarm: float = RULE.false_alarm
) -> list[Row]:
    """Return rows with verdicts, by the teachers of all kinds but each model's own.

    Args:
        rows: of all models of a zoo.
        shipped: the population that the package ships; unused if made with other settings.
        false_alarm: significance level.
    """
    own = [_teacher(row) for row in rows if row["kind"] == "clean"]
    settings = rows[0]["settings"]
    base = shipped if shipped.settings == settings else replace(
        shipped, settings=settings, teachers=()
    )  # fmt: skip
    every = base.joined(own)
    found = []
    for row in rows:
        teacher = _teacher(row)
        compared = RULE.judge(teacher, every.without(teacher.kind), false_alarm)
        support = compared.support
        found.append(
            {
                **row,
                "verdict": compared.word,
                "p": compared.p,
                "gap_p": compared.gap_p,
                "confirmation_p": compared.confirmation_p,
                "references": 0 if support is None else support.teachers,
                "kinds": 0 if support is None else support.kinds,
            }
        )
    return found


def _teacher(row: Row) -> Teacher:
    facts = row["teacher"]
    return Teacher(**{**facts, "kind": Kind(**facts["kind"]), "films": tuple(facts["films"])})


@forgiving
def evaluate_population(evaluations: Sequence[Path], out: Path) -> Population:
    """Make a population of the clean models of several evaluations without references.

    Args:
        evaluations: folders of `evaluate audit --no-references`.
        out: the file, as references.json.

    Returns:
        The population.

    Raises:
        StoreError: no such evaluation, or one that isn't finished.
        UsageError: no clean model, or evaluations with different settings of students.
    """
    teachers: dict[str, Teacher] = {}
    settings, zoos = set(), []
    for folder in evaluations:
        facts, rows = read_json(folder / "evaluation.json"), read_lines(folder / "rows.jsonl")
        if facts.get("settings", {}).get("references") is not False:
            raise StoreError(f"{folder} holds no evaluation without references")
        zoos.append(Path(facts["settings"]["zoo"]).name)
        for row in rows:
            settings.add(row["settings"])
            if row["kind"] == "clean":
                each = _teacher(row)
                teachers[each.content] = each
    if not teachers or len(settings) > 1:
        raise UsageError(
            f"{len(teachers)} clean models with {len(settings)} settings of students; expected one "
            "or more, with the same settings"
        )
    found = Population(
        settings=settings.pop(),
        made=f"leadapron evaluate audit --no-references, zoos {', '.join(zoos)}",
        teachers=tuple(sorted(teachers.values(), key=lambda each: (each.kind.words(), each.seed))),
    )
    write_json(out, dump(found))
    return found
