"""Audit: does a finished model carry a backdoor? Compared with clean models of its kind, if given.

It needs a classifier and clean films in memory; the caller handles files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from leadapron.detect.models.defaults import FALSE_ALARM, STEPS
from leadapron.detect.models.harm import LEAST_POSITIVES, Harm, harm
from leadapron.detect.models.inversion import Inversion, Inverted, InvertedFeatures, Wanted
from leadapron.detect.models.judgement import (
    MARGIN,
    MARKS,
    NOT_FINITE,
    UNSTEADY,
    Forced,
    Ground,
    Judgement,
    judge_model,
    rank,
)
from leadapron.detect.models.kept import Kept, measure_once, sweep_once
from leadapron.detect.models.null import least_p
from leadapron.detect.models.rule import RULE
from leadapron.detect.models.second_tier import SecondTier, StudentComparison
from leadapron.detect.models.stamps import Stamp
from leadapron.detect.models.statistics import Statistic, compare_statistics, not_applicable
from leadapron.detect.models.sweep import Direction, NotFinite, StampSweep, Swept
from leadapron.detect.verdict import Verdict, refuse_rate
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.backends import backend_of, on_backend
from leadapron.models.foreign import Opened, model_warnings
from leadapron.models.foreign.model_warnings import unsteady
from leadapron.models.protocols import BlackBox, Differentiable, lacking
from leadapron.types import Backend, Machine, Progress, said

__all__ = ["Audit", "Subject", "audit_subject", "invert", "invert_features"]


INVERTED = 2
"""Number of findings (with direction) for which triggers are inverted."""

UNMEASURED = (
    "No further statistics of the network: not requested, or it or a reference is a black box.",
)

NOT_TRIED = (
    "triggers far from those in the sweep (flat squares, squares all over the film, whole-image "
    "changes, and the looks that were requested): for example textured or oddly shaped marks, "
    "several marks at once, or warps",
    "flat squares larger than 5 pixels of the model's input, and other marks of another size",
    "backdoors that also need a property of the patient or a second mark",
    "the trigger's effect on films of other scanners than those of the clean films",
)
"""Limits of every audit."""

NOT_COMPARED = "squares that cover more than 1 % of the image, in the comparison with students"
"""A further limit of an audit with students."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """An audited model or a reference.

    Args:
        classifier: the model.
        name: its name in results.
        content: SHA-256 of its file, the key of cached sweeps; None for a model without a file.
        origin: description of the model.
        notes: assumptions and warnings about it.
        unsteady: as in `Audit`; None if it wasn't measured yet.
    """

    classifier: BlackBox
    name: str = ""
    content: str | None = None
    origin: str = ""
    notes: tuple[str, ...] = ()
    unsteady: tuple[str, ...] | None = None

    @classmethod
    def of(cls, opened: Opened, name: str, clean: Cohort | None = None) -> Subject:
        """Return a model that was opened.

        Args:
            opened: the model, and what is known of it.
            name: its name in results.
            clean: films that it is looked at with, for what is odd about it.
        """
        differs = None if clean is None else unsteady(opened.classifier, clean.images)
        odd = () if clean is None else model_warnings(opened.classifier, clean, differs)
        return cls(
            classifier=opened.classifier,
            name=name,
            content=opened.content,
            origin=opened.origin,
            notes=(*opened.notes, *odd),
            unsteady=differs,
        )

    def on(self, machine: Machine, clean: Cohort) -> Subject:
        """Return the model on a machine's backend, as `on_backend`.

        Args:
            machine: its backend is used.
            clean: films of the model's preprocessing, on which a backend is compared with torch.
        """
        return replace(self, classifier=on_backend(self.classifier, machine, clean.images))


@dataclass(frozen=True, eq=False, kw_only=True)
class Audit:
    """Result of an audit.

    Args:
        model: the file or function.
        origin: description of the model.
        verdict: verdict on the model.
        by: basis of the verdict.
        target: the finding that the verdict is about; None if there is none.
        direction: direction in which it is forced; None if unknown.
        false_alarm: largest share of clean models called backdoored; with students at most .02, at
            which the rule's false alarms are measured.
        least: lowest false-alarm rate that the references support; None without references.
        references: number of reference models.
        films: number of clean films.
        image: (height, width) of the model's input.
        forwards: number of images run through the model.
        forced: every finding and direction, ordered by excess, side effects last.
        harm: effect of the target's mark on the findings' sensitivity.
        inverted: triggers inverted by gradients for the first findings; they don't affect the
            verdict. None for a black-box model.
        features: the few channels whose change forces the target (or else the first finding); they
            don't affect the verdict either.
        statistics: statistics of the network, compared with those of any references. None for a
            black-box model.
        students: the model compared with its students, on which the verdict rests then; None if
            none were made.
        not_finite: findings with NaN or infinite outputs.
        unsteady: findings whose outputs differ between two runs on the same films, or for films in
            a batch and alone.
        notes: assumptions and warnings.
        content: SHA-256 of the model's file; None of a model without a file.
        backend: what ran the network's forward passes; "auto" for a black-box model.
    """

    SCHEMA: ClassVar[int] = 4

    model: str
    origin: str
    verdict: Verdict
    by: Ground
    target: str | None
    direction: Direction | None
    false_alarm: float
    least: float | None
    references: int
    films: int
    image: tuple[int, int]
    forwards: int
    forced: tuple[Forced, ...]
    harm: tuple[Harm, ...] = ()
    inverted: tuple[Inverted, ...] = ()
    features: tuple[InvertedFeatures, ...] = ()
    statistics: tuple[Statistic, ...] = ()
    students: StudentComparison | None = None
    not_finite: tuple[NotFinite, ...] = ()
    unsteady: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    content: str | None = None
    backend: Backend = "auto"


def audit_subject(
    subject: Subject,
    clean: Cohort,
    references: Sequence[Subject] = (),
    *,
    false_alarm: float = FALSE_ALARM,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    statistics: bool = True,
    second: SecondTier | None = None,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit an open model, compared with open references, or without them with its students.

    Args:
        subject: the model.
        clean: films without a trigger, of its preprocessing.
        references: clean models with the same findings.
        false_alarm: largest share of clean models called backdoored; with students at most .02, at
            which the rule's false alarms are measured.
        sweep: settings of the sweep.
        steps: most steps of trigger inversion; 0 leaves it out.
        statistics: whether to compute further statistics of the network and the references.
        second: students, made where there are no references; None makes none.
        kept: folder of the cache of sweeps and statistics of models with a file, or None.
        progress: called with the name of the step, the models done, and the total.

    Raises:
        UsageError: a rate out of range, or a single reference.
        DataError: films or logits that can't be used, or references with other findings.
    """
    classifier = subject.classifier
    _refuse(classifier, [each.classifier for each in references], false_alarm)
    every = (subject, *references)
    sweeps = _swept(every, clean, sweep or StampSweep(), kept, progress)
    swept = [each.swept for each in sweeps]
    further = _statistics(every, clean, kept, progress) if statistics else ()
    differs = subject.unsteady
    if differs is None:
        differs = unsteady(classifier, clean.images)
    judged = judge_model(swept[0], swept[1:], further, differs, false_alarm=false_alarm)
    level = RULE.level(false_alarm)
    judged, compared, refused = _compared_with_students(
        subject, judged, second, sweeps, level, kept, progress
    )
    false_alarm = false_alarm if compared is None else level
    inverted, features, left = _made(classifier, clean, judged, swept[0], steps)
    return Audit(
        model=subject.name,
        origin=subject.origin,
        verdict=_verdict(judged, compared, len(references), false_alarm, margin=bool(further)),
        by=judged.by,
        target=judged.finding,
        direction=None if judged.target is None else judged.target.direction,
        false_alarm=false_alarm,
        least=least_p(len(references)) if references else None,
        references=len(references),
        films=len(clean),
        image=(int(clean.images.shape[1]), int(clean.images.shape[2])),
        forwards=swept[0].forwards,
        forced=judged.forced,
        harm=() if judged.mark is None else harm(classifier, clean, judged.mark),
        inverted=inverted,
        features=features,
        statistics=further,
        students=compared,
        not_finite=judged.lost,
        unsteady=differs,
        notes=(
            *said(note for note in clean.notes if note.doubt),
            *subject.notes,
            *_left_out(classifier, clean, steps),
            *(_not_measured(classifier) if statistics else ()),
            *refused,
            *left,
            *_lost_references(swept[1:]),
            *(() if further else UNMEASURED),
        ),
        content=subject.content,
        backend=backend_of(classifier),
    )


def _refuse(classifier: BlackBox, references: Sequence[BlackBox], false_alarm: float) -> None:
    """Raise the errors of `audit_subject` that need no sweep."""
    refuse_rate(false_alarm)
    if len(references) == 1:
        raise UsageError("one reference model gives no spread; expected two or more")
    if any(set(each.findings) != set(classifier.findings) for each in references):
        raise DataError("a reference model has other findings than the audited one")


# --- measurements


def _swept(
    every: Sequence[Subject],
    clean: Cohort,
    how: StampSweep,
    kept: Path | None,
    progress: Progress | None,
) -> list[Kept]:
    found = []
    for number, each in enumerate(every, start=1):
        one = sweep_once(
            how,
            each.classifier,
            clean,
            content=each.content,
            folder=kept,
            name=Path(each.name).name,
            progress=progress,
        )
        found.append(one)
        if progress is not None:
            progress("models swept", number, len(every))
    return found


def _compared_with_students(
    subject: Subject,
    judged: Judgement,
    second: SecondTier | None,
    swept: Sequence[Kept],
    false_alarm: float,
    kept: Path | None,
    progress: Progress | None,
) -> tuple[Judgement, StudentComparison | None, tuple[str, ...]]:
    """The verdict from the model's students, and why none were made.

    They decide only where the verdict rests on marks and there are no references.
    """
    if second is None or len(swept) > 1 or judged.by != MARKS:
        return judged, None, ()
    own = swept[0]
    refused = second.refusal(subject.classifier, own.seconds / own.swept.forwards)
    if refused:
        return judged, None, (refused,)
    decided, compared = second.judge(
        subject.classifier,
        judged,
        false_alarm=false_alarm,
        content=subject.content,
        folder=kept,
        name=Path(subject.name).name,
        progress=progress,
    )
    return decided, compared, ()


def _statistics(
    every: Sequence[Subject], clean: Cohort, kept: Path | None, progress: Progress | None
) -> tuple[Statistic, ...]:
    """The first network's statistics compared with the others'; none if one is a black box."""
    networks = [(e, e.classifier) for e in every if isinstance(e.classifier, Differentiable)]
    if len(networks) < len(every):
        return ()
    found = []
    for number, (each, network) in enumerate(networks, start=1):
        tables = measure_once(
            network, clean, content=each.content, folder=kept, name=Path(each.name).name
        )
        found.append((network.findings, tables))
        if progress is not None:
            progress("models measured", number, len(networks))
    return compare_statistics(*found[0], found[1:])


# --- inverted triggers


def _made(
    classifier: BlackBox, clean: Cohort, judged: Judgement, swept: Swept, steps: int
) -> tuple[tuple[Inverted, ...], tuple[InvertedFeatures, ...], tuple[str, ...]]:
    """Inverted triggers, in pixels and in features, and notes about failures."""
    if not steps:
        return (), (), ()
    inverted: tuple[Inverted, ...] = ()
    features: tuple[InvertedFeatures, ...] = ()
    left = []
    try:
        inverted = invert(classifier, clean, _wanted(judged.forced, swept), steps)
    except DataError as error:
        left.append(f"No trigger was inverted: {error}.")
    first = judged.target or max(judged.forced, key=rank)
    wanted = Wanted(finding=first.finding, direction=first.direction)
    try:
        features = invert_features(classifier, clean, wanted, steps)
    except DataError as error:
        left.append(f"No change of features was inverted: {error}.")
    return inverted, features, tuple(left)


def _wanted(forced: Sequence[Forced], swept: Swept) -> list[Wanted]:
    """The first findings, each with its strongest square to start from."""
    # A finding without finite outputs on clean films has no threshold.
    untold = {each.finding for each in swept.not_finite if each.clean}
    wanted = []
    for each in [each for each in forced if each.finding not in untold][:INVERTED]:
        square = swept.marks["stamp"].get(each.aim)
        start = square.mark if square is not None and isinstance(square.mark, Stamp) else None
        wanted.append(Wanted(finding=each.finding, direction=each.direction, start=start))
    return wanted


def invert(
    classifier: BlackBox, clean: Cohort, wanted: Sequence[Wanted], steps: int
) -> tuple[Inverted, ...]:
    """Return triggers inverted by gradients for some findings; none of a black box.

    Args:
        classifier: the model.
        clean: films without a trigger.
        wanted: findings and directions to force.
        steps: at most.

    Raises:
        DataError: as `Inversion.invert`.
    """
    if not isinstance(classifier, Differentiable) or clean.images.dtype != np.uint8:
        return ()
    return Inversion(films=8, steps=steps, together=INVERTED).invert(classifier, clean, wanted)


def invert_features(
    classifier: BlackBox, clean: Cohort, wanted: Wanted, steps: int
) -> tuple[InvertedFeatures, ...]:
    """Return the few channels that force a finding; none for a model without stages.

    Args:
        classifier: the model.
        clean: films without a trigger.
        wanted: findings and directions to force.
        steps: at most; 0 leaves it out.

    Raises:
        DataError: as `Inversion.invert_features`.
    """
    if not isinstance(classifier, Differentiable) or not steps or lacking(classifier, "stages"):
        return ()
    return Inversion(films=8, steps=steps).invert_features(classifier, clean, [wanted])


# --- statements


def _verdict(
    judged: Judgement,
    compared: StudentComparison | None,
    references: int,
    false_alarm: float,
    *,
    margin: bool,
) -> Verdict:
    """The verdict with what it rests on."""
    least = least_p(references) if references else None
    if compared is None:
        statement = _statement(least, references, false_alarm, margin=margin)
    else:
        statement = _student_statement(compared, false_alarm)
    return Verdict.of(
        "audit",
        judged.word,
        p=judged.p,
        statement=statement,
        untested=NOT_TRIED if compared is None else (*NOT_TRIED, NOT_COMPARED),
        next=_next(judged, least, false_alarm, compared),
    )


def _statement(least: float | None, references: int, false_alarm: float, *, margin: bool) -> str:
    """The false-alarm rate of the verdict, in one sentence."""
    if least is None:
        return (
            "Without clean models of the same kind to compare with, no false-alarm rate can be "
            "stated."
        )
    chance = f"1 in {references + 1}"
    if least > false_alarm:
        return (
            f"{references} references support no false-alarm rate below {least:.3g} "
            f"({chance}); {false_alarm:g} needs {_needed(false_alarm)}."
        )
    more = f", and as many unusual by their {MARGIN}" if margin else ""
    return (
        f"With {references} references, at most {false_alarm:g} of equally clean models "
        f"would be called backdoored{more}; they support no rate below {least:.3g} ({chance})."
    )


def _student_statement(compared: StudentComparison, false_alarm: float) -> str:
    """The false-alarm statement of a verdict that rests on students."""
    if compared.support is None:
        return f"No false-alarm rate can be stated: it needs {compared.missing}."
    support = compared.support
    alarms = support.alarms
    said = (
        f"Compared with {support.teachers} clean teachers of {support.kinds} kinds and their "
        f"students; they support no rate below {support.least:.3g}."
    )
    if support.apart <= false_alarm:
        said += (
            f" With each kind left out, the rule calls {alarms.positives} of {alarms.n} clean "
            f"teachers backdoored at {false_alarm:g} (95 % interval {100 * alarms.low:.0f} to "
            f"{100 * alarms.high:.0f} %, by kind)."
        )
    return (
        f'{said} For "backdoored" this is missing: {compared.missing}.'
        if compared.missing
        else said
    )


def _needed(false_alarm: float) -> int:
    """Number of references that support a rate."""
    return int(np.ceil(1 / false_alarm - 1e-9)) - 1


def _next(
    judged: Judgement, least: float | None, false_alarm: float, compared: StudentComparison | None
) -> str:
    """What to do next, in one sentence or two."""
    if judged.word == "backdoored":
        return "Don't use the model; report the mark and the finding to its supplier."
    if judged.word == "exploitable mark":
        return (
            "Show the mark to the model's supplier and ask why it works; whoever can put it on a "
            "film controls the finding. Until then repair the model (leadapron repair) or screen "
            "the films that it reads (leadapron calibrate)."
        )
    if judged.by in (NOT_FINITE, UNSTEADY):
        return "Ask the model's supplier to explain these outputs; don't use it until then."
    if compared is None and (least is None or least > false_alarm):
        need = _needed(false_alarm)
        return f"Compare it with {need} or more clean models of the same kind as references."
    if judged.word == "unusual":
        return "Audit it on other clean films; don't use it while it remains unusual."
    return "Screen the films that it reads (leadapron calibrate): not every trigger was tested."


def _lost_references(others: Sequence[Swept]) -> tuple[str, ...]:
    lost = [each for swept in others for each in swept.not_finite]
    names = ", ".join(sorted({each.finding for each in lost}))
    count = sum(bool(swept.not_finite) for swept in others)
    words = f"{count} of {len(others)} references give NaN or infinity for {names}; left out there."
    return (words,) if lost else ()


def _not_measured(classifier: BlackBox) -> tuple[str, ...]:
    """The statistics that need a capability that the network lacks."""
    if not isinstance(classifier, Differentiable):
        return ()
    reasons = not_applicable(classifier).items()
    return tuple(f"Not applicable: {name} {reason}." for name, reason in reasons)


def _left_out(classifier: BlackBox, clean: Cohort, steps: int) -> tuple[str, ...]:
    """Omitted steps of this audit, and the reasons."""
    notes = []
    if not isinstance(classifier, Differentiable):
        notes.append("The model is a black box: no trigger was inverted.")
    elif clean.images.dtype != np.uint8:
        notes.append("The model takes 16-bit images: no trigger was inverted.")
    elif not steps:
        notes.append("No trigger was inverted, since inversion was switched off.")
    elif reason := lacking(classifier, "stages"):
        notes.append(f"No change of features was inverted: it {reason}.")
    if classifier.head == "softmax":
        notes.append("Softmax head: a rising finding always lowers the others.")
    if not clean.findings:
        return (*notes, "The films have no labels: harm not stated.")
    shared = [name for name in classifier.findings if name in clean.findings]
    rare = [n for n in shared if (clean.labels[:, clean.column(n)] == 1).sum() < LEAST_POSITIVES]
    if rare:
        notes.append(f"Fewer than {LEAST_POSITIVES} films with {', '.join(rare)}: harm not stated.")
    if len(shared) < len(classifier.findings):
        missing = [n for n in classifier.findings if n not in clean.findings]
        notes.append(f"The films don't state {', '.join(missing)}: harm not stated.")
    return tuple(notes)
