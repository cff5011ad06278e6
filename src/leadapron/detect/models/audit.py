"""Audit: does a finished model carry a backdoor? Compared with clean models of its kind, if given.

Needs a classifier and clean films in memory; files are the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from leadapron.detect.models.defaults import FALSE_ALARM, STEPS
from leadapron.detect.models.harm import LEAST_POSITIVES, Harm, harm
from leadapron.detect.models.inversion import Inversion, Inverted, InvertedFeatures, Wanted
from leadapron.detect.models.judgement import (
    MARGIN,
    NOT_FINITE,
    UNSTEADY,
    Forced,
    Ground,
    Judgement,
    judge_model,
    rank,
)
from leadapron.detect.models.kept import measure_once, sweep_once
from leadapron.detect.models.null import least_p
from leadapron.detect.models.stamps import Stamp
from leadapron.detect.models.statistics import Statistic, compare_statistics, not_applicable
from leadapron.detect.models.sweep import Direction, NotFinite, StampSweep, Swept
from leadapron.detect.verdict import Verdict, refuse_rate
from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.models.foreign import Opened, doubts
from leadapron.models.foreign.doubts import unsteady
from leadapron.models.protocols import BlackBox, Differentiable, lacking
from leadapron.types import Progress, said

__all__ = ["Audit", "Subject", "audit_subject", "invert", "invert_features"]


INVERTED = 2
"""Findings and directions that triggers are inverted for."""

UNMEASURED = (
    "No further statistics of the network: not asked for, or it has a single finding, or it or a "
    "reference can only be asked.",
)

NOT_TRIED = (
    "triggers that are neither a flat square, squares all over, nor one of the whole-image changes "
    "tried: textured or oddly shaped marks, several marks at once, warps",
    "squares larger than 5 pixels of the model's input",
    "backdoors that need a property of the patient or another mark beside the trigger",
    "what the trigger does on films of other machines than the clean ones",
)
"""What no audit of this kind tests, in words."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A model that is audited, or that one is compared with.

    Args:
        classifier: the model.
        name: what to call it.
        content: SHA-256 of its file, by which sweeps are kept; None of a model without a file.
        origin: what it is, in words.
        notes: what was assumed or is doubtful about it.
    """

    classifier: BlackBox
    name: str = ""
    content: str | None = None
    origin: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, opened: Opened, name: str, clean: Cohort | None = None) -> Subject:
        """Return a model that was opened.

        Args:
            opened: the model, and what is known of it.
            name: what to call it.
            clean: films that it is looked at with, for what is odd about it.
        """
        odd = () if clean is None else doubts(opened.classifier, clean)
        return cls(
            classifier=opened.classifier,
            name=name,
            content=opened.content,
            origin=opened.origin,
            notes=(*opened.notes, *odd),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Audit:
    """What an audit found.

    Args:
        model: the file or function.
        origin: what it is, in words.
        verdict: on the model.
        by: what the verdict rests on.
        target: the finding that the verdict is about; None where there is none.
        direction: in which it is forced; None where that can't be told.
        false_alarm: share of clean models that may be called backdoored.
        least: the lowest rate that the references support; None without them.
        references: how many.
        films: clean films looked at.
        image: (height, width) of the model's input.
        forwards: images that the model was asked for.
        forced: every finding and direction, the largest excess first, side effects last.
        harm: what the target's mark does to the findings' sensitivity.
        inverted: triggers inverted by gradients for the first findings; the verdict doesn't rest
            on them. None of a model that can only be asked.
        features: for the target, or else the first finding, the few channels whose change forces
            it; the verdict doesn't rest on them either.
        statistics: of the network, compared with the references' where there are any. None of a
            model that can only be asked.
        not_finite: findings for which the model answered NaN or infinity.
        unsteady: findings for which it answered otherwise when it was asked for the same films
            again, or for each alone.
        notes: what was assumed or is doubtful.
        content: SHA-256 of the model's file; None of a model without a file.
    """

    SCHEMA: ClassVar[int] = 1

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
    not_finite: tuple[NotFinite, ...] = ()
    unsteady: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    content: str | None = None


def audit_subject(
    subject: Subject,
    clean: Cohort,
    references: Sequence[Subject] = (),
    *,
    false_alarm: float = FALSE_ALARM,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    statistics: bool = True,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit a model that is open, beside references that are.

    Args:
        subject: the model.
        clean: films without a trigger, of its preprocessing.
        references: clean models with the same findings.
        false_alarm: share of clean models that may be called backdoored.
        sweep: how it is swept.
        steps: of trigger inversion, at most; 0 leaves it out.
        statistics: whether the network's further statistics are taken, of the references too.
        kept: folder where sweeps and statistics of models with a file are kept, and looked for;
            None keeps nothing.
        progress: called with what is being done, the models done and in all.

    Raises:
        UsageError: a rate out of range, or a single reference.
        DataError: films or logits that can't be used, or references with other findings.
    """
    classifier = subject.classifier
    _refuse(classifier, [each.classifier for each in references], false_alarm)
    every = (subject, *references)
    swept = _swept(every, clean, sweep or StampSweep(), kept, progress)
    further = _statistics(every, clean, kept, progress) if statistics else ()
    differs = unsteady(classifier, clean.images)
    judged = judge_model(swept[0], swept[1:], further, differs, false_alarm=false_alarm)
    inverted, features, left = _made(classifier, clean, judged, swept[0], steps)
    least = least_p(len(references)) if references else None
    return Audit(
        model=subject.name,
        origin=subject.origin,
        verdict=Verdict.of(
            "audit",
            judged.word,
            p=judged.p,
            statement=_statement(least, len(references), false_alarm, margin=bool(further)),
            untested=NOT_TRIED,
            next=_next(judged, least, false_alarm),
        ),
        by=judged.by,
        target=judged.finding,
        direction=None if judged.target is None else judged.target.direction,
        false_alarm=false_alarm,
        least=least,
        references=len(references),
        films=len(clean),
        image=(int(clean.images.shape[1]), int(clean.images.shape[2])),
        forwards=swept[0].forwards,
        forced=judged.forced,
        harm=() if judged.mark is None else harm(classifier, clean, judged.mark),
        inverted=inverted,
        features=features,
        statistics=further,
        not_finite=judged.lost,
        unsteady=differs,
        notes=(
            *said(note for note in clean.notes if note.doubt),
            *subject.notes,
            *_left_out(classifier, clean, steps),
            *(_not_measured(classifier) if statistics else ()),
            *left,
            *_lost_references(swept[1:]),
            *(() if further else UNMEASURED),
        ),
        content=subject.content,
    )


def _refuse(classifier: BlackBox, references: Sequence[BlackBox], false_alarm: float) -> None:
    """Raise what `audit_subject` raises before anything is swept."""
    refuse_rate(false_alarm)
    if len(references) == 1:
        raise UsageError("one reference model says nothing about spread; expected two or more")
    if any(set(each.findings) != set(classifier.findings) for each in references):
        raise DataError("a reference model has other findings than the audited one")


# --- what is looked at


def _swept(
    every: Sequence[Subject],
    clean: Cohort,
    how: StampSweep,
    kept: Path | None,
    progress: Progress | None,
) -> list[Swept]:
    found = []
    for number, each in enumerate(every, start=1):
        one = sweep_once(
            how,
            each.classifier,
            clean,
            content=each.content,
            folder=kept,
            name=Path(each.name).name,
        )
        found.append(one.swept)
        if progress is not None:
            progress("models swept", number, len(every))
    return found


def _statistics(
    every: Sequence[Subject], clean: Cohort, kept: Path | None, progress: Progress | None
) -> tuple[Statistic, ...]:
    """The first network's statistics beside the others'; none where one can only be asked."""
    networks = [(e, e.classifier) for e in every if isinstance(e.classifier, Differentiable)]
    if len(networks) < len(every) or len(every[0].classifier.findings) < 2:
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


# --- triggers made by gradients


def _made(
    classifier: BlackBox, clean: Cohort, judged: Judgement, swept: Swept, steps: int
) -> tuple[tuple[Inverted, ...], tuple[InvertedFeatures, ...], tuple[str, ...]]:
    """What was inverted, in pixels and in features, and what couldn't be."""
    if not steps:
        return (), (), ()
    inverted: tuple[Inverted, ...] = ()
    features: tuple[InvertedFeatures, ...] = ()
    left = []
    try:
        inverted = invert(classifier, clean, _wanted(judged.forced, swept), steps)
    except DataError as error:
        left.append(f"No trigger was made by gradients: {error}.")
    first = judged.target or max(judged.forced, key=rank)
    wanted = Wanted(finding=first.finding, direction=first.direction)
    try:
        features = invert_features(classifier, clean, wanted, steps)
    except DataError as error:
        left.append(f"No change of features was made: {error}.")
    return inverted, features, tuple(left)


def _wanted(forced: Sequence[Forced], swept: Swept) -> list[Wanted]:
    """The first findings, each with its strongest square to start from."""
    # A finding without a number on clean films has no threshold to be carried across.
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
        wanted: what to force.
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
    """Return the few channels that force a finding; none of a model that isn't made of stages.

    Args:
        classifier: the model.
        clean: films without a trigger.
        wanted: what to force.
        steps: at most; 0 leaves it out.

    Raises:
        DataError: as `Inversion.invert_features`.
    """
    if not isinstance(classifier, Differentiable) or not steps or lacking(classifier, "stages"):
        return ()
    return Inversion(films=8, steps=steps).invert_features(classifier, clean, [wanted])


# --- what is said


def _statement(least: float | None, references: int, false_alarm: float, *, margin: bool) -> str:
    """What the verdict is worth, in one sentence."""
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
    more = f" and as many unusual by their {MARGIN}" if margin else ""
    return (
        f"Beside {references} references at most {false_alarm:g} of models as clean as they are "
        f"would be called backdoored{more}; they support no rate below {least:.3g} ({chance})."
    )


def _needed(false_alarm: float) -> int:
    """References that support a rate."""
    return int(np.ceil(1 / false_alarm - 1e-9)) - 1


def _next(judged: Judgement, least: float | None, false_alarm: float) -> str:
    """What to do next, in one sentence."""
    if judged.word == "backdoored":
        return "Don't use the model; report the mark and the finding to whoever supplied it."
    if judged.by in (NOT_FINITE, UNSTEADY):
        return "Ask whoever supplied the model why it answers so; don't use it until then."
    if least is None or least > false_alarm:
        need = _needed(false_alarm)
        return f"Compare it with {need} or more clean models of the same kind as references."
    if judged.word == "unusual":
        return "Audit it on other clean films; don't use it while it remains unusual."
    return "Screen the films that it reads (leadapron calibrate): not every trigger was tested."


def _lost_references(others: Sequence[Swept]) -> tuple[str, ...]:
    lost = [each for swept in others for each in swept.not_finite]
    names = ", ".join(sorted({each.finding for each in lost}))
    count = sum(bool(swept.not_finite) for swept in others)
    words = (
        f"{count} of {len(others)} references answer NaN or infinity for {names}; left out there."
    )
    return (words,) if lost else ()


def _not_measured(classifier: BlackBox) -> tuple[str, ...]:
    """The statistics that need what the model's network hasn't."""
    if not isinstance(classifier, Differentiable):
        return ()
    reasons = not_applicable(classifier).items()
    return tuple(f"Not applicable: {name} {reason}." for name, reason in reasons)


def _left_out(classifier: BlackBox, clean: Cohort, steps: int) -> tuple[str, ...]:
    """What this audit did not do, and why."""
    notes = []
    if not isinstance(classifier, Differentiable):
        notes.append("The model can only be asked: no trigger was made by gradients.")
    elif clean.images.dtype != np.uint8:
        notes.append("The model takes 16-bit images: no trigger was made by gradients.")
    elif not steps:
        notes.append("No trigger was made by gradients: it was not asked for.")
    elif reason := lacking(classifier, "stages"):
        notes.append(f"No change of features was made: it {reason}.")
    if classifier.head == "softmax":
        notes.append("Softmax head: every finding that rises lowers the others by itself.")
    shared = [name for name in classifier.findings if name in clean.findings]
    rare = [n for n in shared if (clean.labels[:, clean.column(n)] == 1).sum() < LEAST_POSITIVES]
    if rare:
        notes.append(f"Fewer than {LEAST_POSITIVES} films with {', '.join(rare)}: harm not stated.")
    if len(shared) < len(classifier.findings):
        missing = [n for n in classifier.findings if n not in clean.findings]
        notes.append(f"The films don't state {', '.join(missing)}: harm not stated.")
    return tuple(notes)
