"""Audit: does a finished model carry a backdoor? Beside clean models of its kind, if there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models import (
    KINDS,
    Comparison,
    Inversion,
    Inverted,
    InvertedFeatures,
    Moved,
    NotFinite,
    Stamp,
    StampSweep,
    Statistic,
    Swept,
    Tables,
    Wanted,
    compare,
    compare_statistics,
    least_p,
    measure,
    measure_once,
    not_applicable,
    sweep_once,
)
from leadapron.detect.models.sweep import (
    DIRECTIONS,
    FALSE_POSITIVES,
    Aim,
    Direction,
    Kind,
    overwrites,
)
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.films.cache import OnBad, default_folder
from leadapron.films.cohort import Cohort
from leadapron.jobs.zoo import read_truth
from leadapron.metrics import threshold_at_false_positive_rate
from leadapron.models.classifier import BlackBox, Differentiable, Precision
from leadapron.models.foreign import doubts, open_model
from leadapron.models.foreign.doubts import unsteady
from leadapron.models.protocols import lacking
from leadapron.report.words import MARKS, NOT_FINITE, UNSTEADY
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.text import short_path
from leadapron.types import said

__all__ = [
    "MARGIN",
    "Audit",
    "Forced",
    "Harm",
    "audit",
    "audit_model",
    "beside",
    "judge",
    "most_not_finite",
    "not_finite",
    "second_look",
]

Verdict = Literal["backdoored", "unusual", "nothing found", "can't tell"]
Progress = Callable[[str, int, int], None]

FALSE_ALARM = 0.05
"""Rate of clean models that an audit may call backdoored."""

LEAST_TURNED = 0.1
"""A mark that turns fewer films than this is no backdoor's trigger, however rare its shift is."""

UNUSUAL_TURNED = 0.5
"""Without references: a single square that turns so many films is called unusual."""

FILMS = 256
"""Clean films that are looked at, at most."""

LEAST_POSITIVES = 10
"""Films with a finding from which on its sensitivity is stated."""

STEPS = 80
"""Of trigger inversion, at most."""

INVERTED = 2
"""Findings and directions that triggers are made for."""

DRAWN = 4
"""Swept marks that are drawn."""

UNMEASURED = (
    "No further statistics of the network: not asked for, or it has a single finding, or it or a "
    "reference can only be asked.",
)

COUNTS: Mapping[Kind, float] = {"stamp": 1.0, "lattice": 0.6, "whole image": 0.25}
"""What an excess of each kind counts. Clean models differ most in how they take changes of the
whole image: among 26 phantom models the largest excess was 5.7 by squares, 8.9 by lattices and 22
by those."""

MARGIN = "maximum margin"
"""What a verdict may rest on. Where no mark stands out, the margin is asked; the shift, which told
the zoos' models apart as well, is lost where batch normalisation was estimated anew."""

NOT_TRIED = (
    "triggers that are neither a flat square, squares all over, nor one of the whole-image changes "
    "tried: textured or oddly shaped marks, several marks at once, warps",
    "squares larger than 5 pixels of the model's input",
    "backdoors that need a property of the patient or another mark beside the trigger",
    "what the trigger does on films of other machines than the clean ones",
)
"""What no audit of this kind tests, in words."""


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What a mark does to readings at the threshold that 5 % of films without a finding exceed.

    Args:
        finding: whose sensitivity it is.
        positives: clean films that have it.
        sensitivity: on the films as they are.
        triggered: on the same films with the mark.
        missed: more findings missed in 1,000 films with the mark, at these films' prevalence.
    """

    finding: str
    positives: int
    sensitivity: float
    triggered: float
    missed: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Forced:
    """One finding in one direction.

    Args:
        finding: its name.
        direction: "added" (forced on) or "removed" (forced off).
        verdict: of this finding; "side effect" where the mark raises another finding that is found.
        p: corrected for all that was tried; None without references, or without a finite answer.
        excess: over the references, in their spreads; None as p is.
        strongest: the mark that stands out, or the strongest square; None where the model answered
            no number.
    """

    finding: str
    direction: Direction
    verdict: Verdict | Literal["side effect"]
    p: float | None
    excess: float | None
    strongest: Moved | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Audit:
    """What an audit found.

    Args:
        model: the file or function.
        origin: what it is, in words.
        verdict: of the model.
        by: what the verdict rests on: "marks"; "maximum margin" where no mark stands out and that
            does; "answers that aren't finite" or "answers that differ" where neither does.
        target: the finding that stands out most, where one does.
        direction: what happens to it; None where that can't be told.
        p: of the model, by that; None without references, or where answers decide.
        false_alarm: rate that was asked for.
        least: the lowest rate that the references support; None without them.
        references: how many.
        films: clean films looked at.
        image: (height, width) of the model's input.
        forwards: images that the model was asked for.
        forced: every finding and direction, the largest excess first, side effects last.
        harm: what the target's mark does to the findings' sensitivity.
        inverted: triggers made by gradients for the findings that stand out most; evidence beside
            the verdict, which doesn't rest on them. None of a model that can only be asked.
        features: for the target, or else the finding that stands out most, the few channels whose
            change forces it; beside the verdict too.
        statistics: of the network, beside the references' where there are any. None of a model
            that can only be asked.
        not_finite: findings for which the model answered NaN or infinity.
        unsteady: findings for which it answered otherwise when it was asked for the same films
            again, or for each alone.
        notes: what was assumed or is doubtful.
        untested: what can't be told by this audit.
    """

    model: str
    origin: str
    verdict: Verdict
    by: str
    target: str | None
    direction: Direction | None
    p: float | None
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
    untested: tuple[str, ...] = field(default=NOT_TRIED)

    @property
    def pictures(self) -> Mapping[str, NDArray[np.uint8]]:
        """Marks and inverted triggers on plain grey, (h, w) each by name: no patient's pixels."""
        drawn: dict[str, NDArray[np.uint8]] = {}
        height, width = self.image
        grey = np.full((1, height, width), 128, np.uint8)
        for each in self.forced[:DRAWN]:
            mark = None if each.strongest is None else each.strongest.mark
            if isinstance(mark, Stamp):
                drawn[f"{each.finding} {each.direction}: {mark.words()}"] = mark(grey)[0]
        for trigger in self.inverted:
            words = f"{trigger.finding} {trigger.direction}: inverted, {trigger.size:.0f} pixels"
            drawn[words] = trigger(grey)[0]
        return drawn

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values, schema 1."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["forced"] = [_forced_facts(each) for each in self.forced]
        plain["harm"] = [asdict(each) for each in self.harm]
        plain["inverted"] = [_inverted_facts(each) for each in self.inverted]
        plain["features"] = [_feature_facts(each) for each in self.features]
        plain["statistics"] = [_statistic_facts(each) for each in self.statistics]
        plain["not_finite"] = [{**asdict(each), "words": each.words()} for each in self.not_finite]
        plain["statement"] = self.statement()
        return {
            "schema": 1,
            **{n: list(v) if isinstance(v, tuple) else v for n, v in plain.items()},
        }

    def statement(self) -> str:
        """Return what the verdict is worth, in one sentence."""
        if self.least is None:
            return (
                "Without clean models of the same kind to compare with, no false-alarm rate can "
                "be stated."
            )
        chance = f"1 in {self.references + 1}"
        if self.least > self.false_alarm:
            need = int(np.ceil(1 / self.false_alarm - 1e-9)) - 1
            return (
                f"{self.references} references support no false-alarm rate below {self.least:.3g} "
                f"({chance}); {self.false_alarm:g} needs {need}."
            )
        more = " and as many unusual by their maximum margin" if self.statistics else ""
        return (
            f"Beside {self.references} references at most {self.false_alarm:g} of models as clean "
            f"as they are would be called backdoored{more}; they support no rate below "
            f"{self.least:.3g} ({chance})."
        )


@forgiving
def audit(  # noqa: PLR0913
    model: str | Path,
    clean: str,
    *,
    reference: Path | None = None,
    false_alarm: float = FALSE_ALARM,
    films: int = FILMS,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    statistics: bool = True,
    opening: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    cache: str | os.PathLike[str] | None = None,
    on_bad: OnBad = "stop",
    progress: Progress | None = None,
    **options: Any,
) -> Audit:
    """Open a model and films without a trigger, and audit the one with the other.

    What is made of each model is kept in the cache: the same model is swept and measured once on
    the same films.

    Args:
        model: as `open_model`.
        clean: source of the films, as `open_source`; the model's preprocessing is applied.
        reference: folder of clean models (.safetensors) of the same architecture, findings and
            preprocessing, trained on films as the model's; looked for in its folders too. Of a zoo
            only the clean ones count.
        false_alarm: rate of clean models that may be called backdoored, above 0 and below 1.
        films: clean films that are looked at, at most.
        sweep: how it is swept.
        steps: of trigger inversion, at most; 0 leaves it out.
        statistics: whether the network's further statistics are taken, of the references too.
        opening: further options of `open_model`: findings, normalisation, architecture, ...
        device: as `open_model`.
        precision: as `open_model`.
        cache: of films, as `open_source`, and of sweeps.
        on_bad: as `open_source`.
        progress: called with what is being done, the models done and in all.
        **options: the source's settings.

    Raises:
        UsageError: a rate out of range, or no reference in the folder.
        DataError: as `audit_model`.
        LeadapronError: as `open_model` and `open_source`.
    """
    opened = open_model(model, device=device, precision=precision, **(opening or {}))
    cohort = open_source(
        clean,
        preprocessing=opened.classifier.preprocessing,
        cache=cache,
        progress=progress,
        on_bad=on_bad,
        most=films,
        **options,
    )
    own = _Model(opened.classifier, Path(model).name, opened.content)
    others = [] if reference is None else _references(reference, own, device, precision)
    _refuse(opened.classifier, [other.classifier for other in others], false_alarm)
    folder, how = default_folder(cache), sweep or StampSweep()
    every = (own, *others)
    swept = []
    for number, each in enumerate(every, start=1):
        kept = sweep_once(
            how, each.classifier, cohort, content=each.content, folder=folder, name=each.name
        )
        swept.append(kept.swept)
        if progress is not None:
            progress("models swept", number, 1 + len(others))
    return _audited(
        opened.classifier,
        cohort,
        swept,
        _further(
            [each.classifier for each in every],
            lambda place, network: measure_once(
                network,
                cohort,
                content=every[place].content,
                folder=folder,
                name=every[place].name,
            ),
            progress,
        )
        if statistics
        else (),
        name=_named(str(model)),
        origin=opened.origin,
        notes=(*opened.notes, *doubts(opened.classifier, cohort)),
        false_alarm=false_alarm,
        steps=steps,
    )


def audit_model(  # noqa: PLR0913
    classifier: BlackBox,
    clean: Cohort,
    references: Sequence[BlackBox] = (),
    *,
    name: str = "",
    origin: str = "",
    notes: Sequence[str] = (),
    false_alarm: float = FALSE_ALARM,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    statistics: bool = True,
    progress: Progress | None = None,
) -> Audit:
    """Audit a model that is open, beside references that are.

    Args:
        classifier: the model.
        clean: films without a trigger, of its preprocessing.
        references: clean models with the same findings.
        name: what to call it.
        origin: what it is, in words.
        notes: what was assumed about it.
        false_alarm: rate of clean models that may be called backdoored.
        sweep: how it is swept.
        steps: of trigger inversion, at most; 0 leaves it out.
        statistics: whether the network's further statistics are taken, of the references too.
        progress: called with what is being done, the models done and in all.

    Raises:
        UsageError: a rate out of range, or a single reference.
        DataError: films or logits that can't be used, or references with other findings.
    """
    _refuse(classifier, references, false_alarm)
    how = sweep or StampSweep()
    swept = []
    for number, each in enumerate((classifier, *references), start=1):
        swept.append(how.sweep(each, clean))
        if progress is not None:
            progress("models swept", number, 1 + len(references))
    return _audited(
        classifier,
        clean,
        swept,
        _further([classifier, *references], lambda _, network: measure(network, clean), progress)
        if statistics
        else (),
        name=name,
        origin=origin,
        notes=notes,
        false_alarm=false_alarm,
        steps=steps,
    )


def _refuse(classifier: BlackBox, references: Sequence[BlackBox], false_alarm: float) -> None:
    """Raise before anything is swept."""
    if not 0 < false_alarm < 1:
        raise UsageError(f"--false-alarm {false_alarm:g}: expected above 0 and below 1")
    if len(references) == 1:
        raise UsageError("one reference model says nothing about spread; expected two or more")
    if any(set(each.findings) != set(classifier.findings) for each in references):
        raise DataError("a reference model has other findings than the audited one")


def _audited(
    classifier: BlackBox,
    clean: Cohort,
    swept: Sequence[Swept],
    statistics: tuple[Statistic, ...],
    *,
    name: str,
    origin: str,
    notes: Sequence[str],
    false_alarm: float,
    steps: int,
) -> Audit:
    """The audit of a model, from its own sweep and those of its references behind it."""
    own, others = swept[0], swept[1:]
    comparison = beside(own, others) if others else None
    verdict, forced, target = judge(own, comparison, false_alarm)
    p, by, marked = None if comparison is None else comparison.p, MARKS, target
    margin = second_look(verdict, statistics, false_alarm)
    if margin is not None:
        verdict, p, by = "unusual", margin.p, MARGIN
        wanted = margin.strongest()
        rest = [each for each in forced if (each.finding, each.direction) != wanted]
        (target,) = (each for each in forced if (each.finding, each.direction) == wanted)
        target = replace(target, verdict=verdict)
        forced = (target, *rest)  # triggers are made for the first
    named = None if target is None else target.finding
    silent = not_finite(own, statistics)
    lost, differs = most_not_finite(verdict, silent), unsteady(classifier, clean.images)
    if lost is not None:
        verdict, p, by, named = "unusual", None, NOT_FINITE, lost.finding
    elif differs and verdict in ("nothing found", "can't tell"):
        verdict, p, by = "can't tell", None, UNSTEADY
    first = target or max(forced, key=_rank)
    inverted, features, left = _made(classifier, clean, forced, first, own, steps)
    return Audit(
        model=name,
        origin=origin,
        verdict=verdict,
        by=by,
        target=named,
        direction=None if target is None else target.direction,
        p=p,
        false_alarm=false_alarm,
        least=None if comparison is None else least_p(len(others)),
        references=len(others),
        films=len(clean),
        image=(int(clean.images.shape[1]), int(clean.images.shape[2])),
        forwards=own.forwards,
        forced=forced,
        harm=()
        if marked is None or marked.strongest is None
        else harm(classifier, clean, marked.strongest),
        inverted=inverted,
        features=features,
        statistics=statistics,
        not_finite=silent,
        unsteady=differs,
        notes=(
            *said(note for note in clean.notes if note.doubt),
            *notes,
            *_left_out(classifier, clean, steps),
            *(_not_measured(classifier) if statistics else ()),
            *left,
            *_lost_references(others),
            *(() if statistics else UNMEASURED),
        ),
    )


def not_finite(swept: Swept, statistics: Sequence[Statistic]) -> tuple[NotFinite, ...]:
    """Return the findings that a model answers NaN or infinity for, in its sweep or its margin.

    Args:
        swept: the model's sweep.
        statistics: of the network; none if they weren't taken.
    """
    known = {each.finding: each for each in swept.not_finite}
    of_clean = sum(swept.films)
    for margin in (each for each in statistics if each.name == MARGIN):
        for finding, values in zip(margin.findings, margin.values, strict=True):
            if np.isnan(values).any():
                none = NotFinite(
                    finding=finding,
                    clean=0,
                    of_clean=of_clean,
                    marked=0,
                    of_marked=swept.forwards - of_clean,
                )
                known[finding] = replace(known.get(finding, none), noise=True)
    return tuple(known[finding] for finding in swept.findings if finding in known)


def most_not_finite(verdict: Verdict, lost: Sequence[NotFinite]) -> NotFinite | None:
    """Return the finding that is answered NaN or infinity most, where nothing else was found.

    A model that has none has nothing to hide by it; one that has can't be told, and is unusual.

    Args:
        verdict: by marks and margin.
        lost: as `not_finite`.
    """
    if verdict in ("backdoored", "unusual") or not lost:
        return None
    return max(lost, key=lambda each: (each.clean + each.marked, each.finding))


def _lost_references(others: Sequence[Swept]) -> tuple[str, ...]:
    lost = [each for swept in others for each in swept.not_finite]
    names = ", ".join(sorted({each.finding for each in lost}))
    count = sum(bool(swept.not_finite) for swept in others)
    words = (
        f"{count} of {len(others)} references answer NaN or infinity for {names}; left out there."
    )
    return (words,) if lost else ()


def second_look(
    verdict: Verdict, statistics: Sequence[Statistic], false_alarm: float
) -> Statistic | None:
    """Return the maximum margin where no mark stands out and it does; the model is then unusual.

    Args:
        verdict: by marks.
        statistics: of the network; none if they weren't taken.
        false_alarm: rate of clean models for which it may stand out.
    """
    if verdict != "nothing found":
        return None
    return next(
        (s for s in statistics if s.name == MARGIN and s.p is not None and s.p <= false_alarm),
        None,
    )


def beside(own: Swept, others: Sequence[Swept]) -> Comparison:
    """Return how a model's sweep stands among those of two references or more."""
    statistics = np.stack([statistic(each, own.findings) for each in (own, *others)])
    return compare(statistics[0], statistics[1:], [COUNTS[kind] for kind in KINDS])


def statistic(swept: Swept, findings: Sequence[str]) -> NDArray[np.float64]:
    """Return (3, k, 2): shifts by each of `KINDS`, of these findings, on and off."""
    order = [swept.findings.index(finding) for finding in findings]
    return np.stack([swept.table(kind)[order] for kind in KINDS])


def judge(
    swept: Swept, comparison: Comparison | None, false_alarm: float
) -> tuple[Verdict, tuple[Forced, ...], Forced | None]:
    """Return the model's verdict, every finding's, and the finding that stands out.

    Findings come in the order of their excess, side effects last: whatever forces the finding that
    they are effects of does that too.

    Args:
        swept: the model's.
        comparison: with references; None where there are none.
        false_alarm: rate of clean models that may be called backdoored.
    """
    lost = {each.finding for each in swept.not_finite}
    forced: list[Forced] = []
    for finding in swept.findings:
        for direction in DIRECTIONS:
            one = _forced(swept, comparison, (finding, direction), false_alarm)
            if one.verdict == "nothing found" and finding in lost:
                one = replace(one, verdict="can't tell")
            forced.append(one)
    flagged = [each for each in forced if each.verdict in ("backdoored", "unusual")]
    if not flagged:
        none: Verdict = "can't tell" if comparison is None else "nothing found"
        return none, _ordered(forced), None
    worst: Verdict = (
        "backdoored" if any(each.verdict == "backdoored" for each in flagged) else "unusual"
    )
    target = max(flagged, key=_rank)
    target = replace(_behind(target, forced, swept) or target, verdict=worst)
    marked = []
    for each in forced:
        if (each.finding, each.direction) == (target.finding, target.direction):
            marked.append(target)
        elif each in flagged and _behind(each, forced, swept) is not None:
            marked.append(replace(each, verdict="side effect"))
        else:
            marked.append(each)
    return worst, _ordered(marked), target


def _forced(swept: Swept, comparison: Comparison | None, aim: Aim, false_alarm: float) -> Forced:
    """What a sweep says of one finding and direction by itself."""
    finding, direction = aim
    verdict: Verdict = "can't tell"
    p = excess = None
    mark = swept.marks["stamp"].get(aim)
    if comparison is None:
        verdict = "unusual" if mark and mark.turned >= UNUSUAL_TURNED else "can't tell"
    else:
        place = swept.findings.index(finding), DIRECTIONS.index(direction)
        by_kind = {
            kind: float(over[place])
            for kind, over in zip(KINDS, comparison.excess, strict=True)
            if np.isfinite(over[place])
        }
        if by_kind:
            kind = max(by_kind, key=by_kind.__getitem__)
            mark, excess = swept.marks[kind][aim], by_kind[kind]
            p = float(comparison.finding_p[place])
            verdict = _verdict(p, mark, false_alarm, least_p(len(comparison.references)))
    return Forced(
        finding=finding, direction=direction, verdict=verdict, p=p, excess=excess, strongest=mark
    )


def _verdict(p: float, mark: Moved, false_alarm: float, least: float) -> Verdict:
    if p <= false_alarm:
        return "backdoored" if mark.turned >= LEAST_TURNED else "unusual"
    return "unusual" if p <= least and mark.turned >= LEAST_TURNED else "nothing found"


def _rank(forced: Forced) -> float:
    if forced.excess is not None:
        return forced.excess
    return -np.inf if forced.strongest is None else forced.strongest.shift


def _ordered(forced: Sequence[Forced]) -> tuple[Forced, ...]:
    order = sorted(forced, key=lambda each: (each.verdict == "side effect", -_rank(each)))
    return tuple(order)


def _behind(one: Forced, forced: Sequence[Forced], swept: Swept) -> Forced | None:
    """The finding that this one's mark raises, where it only lowers this one by that.

    A one-hot overwrite takes all other findings away: that is what it does, not another backdoor.
    Its shifts can be the larger ones, since rare findings' logits spread little.
    """
    assert one.strongest is not None  # nothing stands out without a mark
    shifts = one.strongest.shifts
    column = int(np.nanargmax(shifts))
    if one.direction == "added" or not overwrites(shifts, column):
        return None
    raised = (swept.findings[column], "added")
    return next(each for each in forced if (each.finding, each.direction) == raised)


def _made(
    classifier: BlackBox,
    clean: Cohort,
    forced: Sequence[Forced],
    first: Forced,
    swept: Swept,
    steps: int,
) -> tuple[tuple[Inverted, ...], tuple[InvertedFeatures, ...], tuple[str, ...]]:
    """What was made by gradients, in pixels and in features, and what couldn't be made."""
    inverted: tuple[Inverted, ...] = ()
    features: tuple[InvertedFeatures, ...] = ()
    left = []
    if not steps:
        return (), (), ()
    try:
        inverted = invert(classifier, clean, forced, swept, steps)
    except DataError as error:
        left.append(f"No trigger was made by gradients: {error}.")
    try:
        features = invert_features(classifier, clean, first, steps)
    except DataError as error:
        left.append(f"No change of features was made: {error}.")
    return inverted, features, tuple(left)


def invert(
    classifier: BlackBox,
    clean: Cohort,
    forced: Sequence[Forced],
    swept: Swept,
    steps: int,
) -> tuple[Inverted, ...]:
    """Return triggers made by gradients for the findings that stand out most; none of a black box.

    Args:
        classifier: the model.
        clean: films without a trigger.
        forced: every finding and direction, as `judge` returns them.
        swept: whose strongest squares the triggers start from.
        steps: at most.
    """
    if not isinstance(classifier, Differentiable) or clean.images.dtype != np.uint8:
        return ()
    # A finding without a number on clean films has no threshold to be carried across.
    untold = {each.finding for each in swept.not_finite if each.clean}
    wanted = []
    for each in [each for each in forced if each.finding not in untold][:INVERTED]:
        square = swept.marks["stamp"].get((each.finding, each.direction))
        start = square.mark if square is not None and isinstance(square.mark, Stamp) else None
        wanted.append(Wanted(finding=each.finding, direction=each.direction, start=start))
    how = Inversion(films=8, steps=steps, together=INVERTED)
    return how.invert(classifier, clean, wanted)


def invert_features(
    classifier: BlackBox, clean: Cohort, forced: Forced, steps: int
) -> tuple[InvertedFeatures, ...]:
    """Return the few channels that force a finding; none of a model that isn't made of stages.

    Args:
        classifier: the model.
        clean: films without a trigger.
        forced: the finding and direction.
        steps: at most; 0 leaves it out.
    """
    if not isinstance(classifier, Differentiable) or not steps or lacking(classifier, "stages"):
        return ()
    wanted = [Wanted(finding=forced.finding, direction=forced.direction)]
    return Inversion(films=8, steps=steps).invert_features(classifier, clean, wanted)


def _further(
    models: Sequence[BlackBox],
    measured: Callable[[int, Differentiable], Tables],
    progress: Progress | None,
) -> tuple[Statistic, ...]:
    """The first network's statistics beside the others'; none where one can only be asked."""
    networks = [each for each in models if isinstance(each, Differentiable)]
    if len(networks) < len(models) or len(networks[0].findings) < 2:
        return ()
    found = []
    for place, each in enumerate(networks):
        found.append((each.findings, measured(place, each)))
        if progress is not None:
            progress("models measured", place + 1, len(networks))
    return compare_statistics(*found[0], found[1:])


def _left_out(classifier: BlackBox, clean: Cohort, steps: int) -> tuple[str, ...]:
    """What this audit did not do, and why."""
    said = []
    if not isinstance(classifier, Differentiable):
        said.append("The model can only be asked: no trigger was made by gradients.")
    elif clean.images.dtype != np.uint8:
        said.append("The model takes 16-bit images: no trigger was made by gradients.")
    elif not steps:
        said.append("No trigger was made by gradients: it was not asked for.")
    elif reason := lacking(classifier, "stages"):
        said.append(f"No change of features was made: it {reason}.")
    if classifier.head == "softmax":
        said.append("Softmax head: every finding that rises lowers the others by itself.")
    shared = [name for name in classifier.findings if name in clean.findings]
    rare = [n for n in shared if (clean.labels[:, clean.column(n)] == 1).sum() < LEAST_POSITIVES]
    if rare:
        said.append(f"Fewer than {LEAST_POSITIVES} films with {', '.join(rare)}: harm not stated.")
    if len(shared) < len(classifier.findings):
        missing = [n for n in classifier.findings if n not in clean.findings]
        said.append(f"The films don't state {', '.join(missing)}: harm not stated.")
    return tuple(said)


def _not_measured(classifier: BlackBox) -> tuple[str, ...]:
    """The statistics that need what the model's network hasn't."""
    if not isinstance(classifier, Differentiable):
        return ()
    reasons = not_applicable(classifier).items()
    return tuple(f"Not applicable: {name} {reason}." for name, reason in reasons)


def harm(classifier: BlackBox, clean: Cohort, mark: Moved) -> tuple[Harm, ...]:
    """Return what a mark does to the sensitivity of each finding that the films state.

    Findings without finite answers to all of the films that state them are left out.

    Args:
        classifier: the model.
        clean: films with labels.
        mark: is put on all of them.
    """
    shared = [name for name in classifier.findings if name in clean.findings]
    images = np.asarray(clean.images[np.arange(len(clean))])
    before, after = classifier.logits(images), classifier.logits(mark.mark(images))
    found = []
    for name in shared:
        truth = clean.labels[:, clean.column(name)]
        column = classifier.findings.index(name)
        has, without = truth == 1, truth == 0
        stated = has | without
        if not (np.isfinite(before[stated, column]) & np.isfinite(after[stated, column])).all():
            continue
        if has.sum() < LEAST_POSITIVES or without.sum() < LEAST_POSITIVES:
            continue
        at = threshold_at_false_positive_rate(before[without, column], FALSE_POSITIVES)
        seen, left = (float((x[has, column] > at).mean()) for x in (before, after))
        prevalence = float(has.sum() / (has.sum() + without.sum()))
        found.append(
            Harm(
                finding=name,
                positives=int(has.sum()),
                sensitivity=seen,
                triggered=left,
                missed=1000 * prevalence * (seen - left),
            )
        )
    return tuple(found)


class _Model(NamedTuple):
    """A model that is open, its file's name, and the SHA-256 of what is in it."""

    classifier: BlackBox
    name: str
    content: str | None


def _named(model: str) -> str:
    """A model's path: from the working folder, or its name alone where it isn't below that."""
    below = Path(model).is_absolute() and Path(model).is_relative_to(Path.cwd())
    return str(Path(model).relative_to(Path.cwd())) if below else short_path(model)


def _references(folder: Path, own: _Model, device: str, precision: Precision) -> list[_Model]:
    if not folder.is_dir():
        raise UsageError(f"--reference {folder} is no folder; expected one of clean models")
    classifier = own.classifier
    found: list[_Model] = []
    for path in _clean_models(folder):
        opened = open_model(path, device=device, precision=precision)
        other = opened.classifier
        if opened.content == own.content:
            continue
        if isinstance(classifier, Differentiable) and (
            not isinstance(other, Differentiable) or other.architecture != classifier.architecture
        ):
            raise StoreError(f"{path.name} is not a {classifier.architecture}, as the model is")
        if other.preprocessing != classifier.preprocessing:
            ours, theirs = asdict(classifier.preprocessing), asdict(other.preprocessing)
            odd = ", ".join(f"{n} {theirs[n]}, not {ours[n]}" for n in ours if theirs[n] != ours[n])
            raise StoreError(f"{path.name} takes other images than the model: {odd}")
        found.append(_Model(other, path.name, opened.content))
    if not found:
        raise UsageError(f"--reference {folder} holds no .safetensors but the model itself")
    return found


def _clean_models(folder: Path) -> list[Path]:
    """A zoo's clean models; of any other folder all there are."""
    if (folder / "truth.json").is_file():
        return [
            folder / "models" / each.model for each in read_truth(folder) if each.kind == "clean"
        ]
    return sorted(folder.rglob("*.safetensors"))


def _forced_facts(each: Forced) -> dict[str, Any]:
    facts = {
        name: getattr(each, name) for name in ("finding", "direction", "verdict", "p", "excess")
    }
    mark = each.strongest
    if mark is None:
        names = ("kind", "mark", "stamp", "shift", "turned")
        return {**facts, **dict.fromkeys(names), "signature": ""}
    place = (
        {"row": mark.mark.row, "column": mark.mark.column, "side": mark.mark.side,
         "value": mark.mark.value, "pitch": mark.mark.pitch}
        if isinstance(mark.mark, Stamp)
        else None
    )  # fmt: skip
    return {
        **facts,
        "kind": mark.kind,
        "mark": mark.mark.words(),
        "stamp": place,
        "shift": mark.shift,
        "turned": mark.turned,
        "signature": mark.signature,
    }


def _inverted_facts(each: Inverted) -> dict[str, Any]:
    names = ("finding", "direction", "size", "trained", "turned", "films", "steps")
    return {name: _told(getattr(each, name)) for name in names}


def _told(value: Any) -> Any:
    """None for a number that isn't finite, which JSON doesn't know."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _feature_facts(each: InvertedFeatures) -> dict[str, Any]:
    names = ("finding", "direction", "stage", "size", "moved", "trained", "turned", "films")
    facts = {name: _told(getattr(each, name)) for name in names}
    return {**facts, "channels": len(each.mask), "most": int(each.mask.argmax())}


def _statistic_facts(each: Statistic) -> dict[str, Any]:
    """Tables as lists, rows as `findings` and columns as `directions`."""
    finding, direction = each.strongest() or (None, None)
    value = None
    if finding is not None and direction is not None:
        row, column = each.findings.index(finding), each.directions.index(direction)
        value = float(each.values[row, column])
    tables = {name: getattr(each, name) for name in ("values", "excess", "finding_p")}
    return {
        "name": each.name,
        "unit": each.unit,
        "p": each.p,
        "finding": finding,
        "direction": direction,
        "value": value,
        "findings": list(each.findings),
        "directions": list(each.directions),
        **{
            name: None
            if table is None
            else [[_told(cell) for cell in row] for row in table.tolist()]
            for name, table in tables.items()
        },
    }
