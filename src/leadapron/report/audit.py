"""An audit in the terminal, as one HTML page, as JSON and as SARIF."""

from __future__ import annotations

import base64
import io
import math
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leadapron import __version__
from leadapron.detect.models import (
    Audit,
    Forced,
    Inverted,
    InvertedFeatures,
    NotFinite,
    Probe,
    Stamp,
    Statistic,
)
from leadapron.detect.models.judgement import FLAGGED, MARKS, NOT_FINITE, UNSTEADY
from leadapron.detect.models.rule import RULE
from leadapron.detect.models.second_tier import StudentComparison
from leadapron.detect.models.stamps import AnyMark
from leadapron.documents import dump
from leadapron.report.rendering import write_page
from leadapron.report.words import percent
from leadapron.store import write_json

__all__ = ["audit_lines", "sarif", "write_audit"]

LEGEND = (
    "shift: change of the finding's logit, in its standard deviations on clean films. turned: "
    "films "
    "moved across the threshold that 5 % of clean films exceed."
)

DRAWN = 4
"""Most swept marks that the page draws."""

SHOWN = 6
"""Most findings that the terminal shows, the strongest first."""

WORDS = {"added": "forced on", "removed": "forced off"}


ATLAS = {
    "AML.T0018.000": "Poison AI Model",
    "AML.T0043.004": "Insert Backdoor Trigger",
    "AML.T0020": "Poison Training Data",
    "AML.T0010.003": "AI Supply Chain Compromise: Model",
}
"""MITRE ATLAS techniques that a backdoored model shows, or that may have led to it."""


def write_audit(folder: Path, audit: Audit) -> Path:
    """Write audit.html, audit.json and audit.sarif.

    Args:
        folder: created if missing; files of these names are replaced.
        audit: the audit.

    Returns:
        The HTML file.

    Raises:
        StoreError: files that can't be written.
    """
    write_json(folder / "audit.json", dump(audit))
    write_json(folder / "audit.sarif", sarif(audit))
    return write_page(
        folder / "audit.html",
        "audit.html.j2",
        facts=audit,
        headline=headline(audit),
        parts=answer_parts(audit)[1:],
        words=WORDS,
        answers=answer_sentences(audit),
        percent=percent,
        verdict_words=verdict_words,
        pictures=[(name, _png(picture)) for name, picture in pictures(audit).items()],
        atlas=ATLAS,
        inverted=[
            *(inverted_words(each) for each in audit.inverted),
            *(feature_words(each) for each in audit.features),
        ],
        statistics=[statistic_row(each) for each in audit.statistics],
        cards=_cards(audit),
        target=target(audit),
        sketch=None if (first := target(audit)) is None else _sketch(first, audit.image),
    )


def pictures(audit: Audit) -> dict[str, NDArray[np.uint8]]:
    """Return marks and inverted triggers on plain grey, (h, w) each, by name.

    They have no patient's pixels. An audit that was read back has no inverted triggers, since
    documents hold no images.
    """
    drawn: dict[str, NDArray[np.uint8]] = {}
    grey = _grey(audit.image)
    for each in audit.forced[:DRAWN]:
        mark = _drawable(each)
        if mark is not None:
            drawn[f"{each.finding} {each.direction}: {mark.words()}"] = mark(grey)[0]
    for trigger in audit.inverted:
        if trigger.mask.size:
            words = f"{trigger.finding} {trigger.direction}: inverted, {trigger.size:.0f} pixels"
            drawn[words] = trigger(grey)[0]
    return drawn


def _drawable(each: Forced) -> AnyMark | None:
    """The mark, or marks, that force a finding; None if a change of the whole image does."""
    mark = None if each.strongest is None else each.strongest.mark
    return None if isinstance(mark, Probe) else mark


class _Run(NamedTuple):
    """Neighbouring pixels of one grey level in a row: where they start, and how many they are."""

    row: int
    column: int
    length: int
    level: int


class _Sketch(NamedTuple):
    """A mark as drawn on plain grey.

    Args:
        lattice: squares all over the image; None for a single mark.
        runs: the pixels of a single mark.
        centre: (x, y) of its middle, in pixels.
        radius: of a circle around it.
    """

    lattice: Stamp | None
    runs: tuple[_Run, ...] = ()
    centre: tuple[float, float] = (0.0, 0.0)
    radius: float = 0.0


def _sketch(each: Forced, image: tuple[int, int]) -> _Sketch | None:
    """The sketch of a finding's mark; None if a change of the whole image forces it."""
    mark = _drawable(each)
    if mark is None:
        return None
    if isinstance(mark, Stamp) and mark.pitch:
        return _Sketch(mark)
    grey = _grey(image)
    marked = mark(grey)[0]
    rows, columns = np.nonzero(marked != grey[0])
    if not len(rows):
        return None
    runs: list[_Run] = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        level = int(marked[row, column])
        last = runs[-1] if runs else None
        if last and (row, column, level) == (last.row, last.column + last.length, last.level):
            runs[-1] = last._replace(length=last.length + 1)
        else:
            runs.append(_Run(row, column, 1, level))
    side = 1 + max(int(np.ptp(rows)), int(np.ptp(columns)))
    x, y = (float(at.min() + at.max() + 1) / 2 for at in (columns, rows))
    return _Sketch(None, tuple(runs), (x, y), 0.9 * side + 0.02 * image[1])


def _grey(image: tuple[int, int]) -> NDArray[np.uint8]:
    return np.full((1, *image), 128, np.uint8)


def target(audit: Audit) -> Forced | None:
    """Return the finding and direction that the verdict is about; None if there is none."""
    wanted = audit.target, audit.direction
    return next((each for each in audit.forced if each.aim == wanted), None)


def _cards(audit: Audit) -> list[dict[str, Any]]:
    """The tiles below the verdict."""
    about = target(audit)
    first = about or next(iter(audit.forced), None)
    mark = None if first is None else first.strongest
    rate, least, p = f"{audit.false_alarm:g}", audit.least, audit.verdict.p
    if audit.students is not None and audit.students.support is not None:
        least = audit.students.support.least
    return [
        {
            "title": "Target",
            "under": "the flagged finding",
            "value": "none" if about is None else about.finding,
            "word": True,
            "facts": [("direction", "none" if about is None else WORDS[about.direction])],
        },
        {
            "title": "Films turned",
            "under": "by the target's mark" if about else "by the strongest of all marks",
            "value": "none" if mark is None else percent(mark.turned),
            "word": mark is None,
            "facts": [
                ("shift", "none" if mark is None else f"{mark.shift:.1f} SD"),
            ],
        },
        {
            "title": "p",
            "under": "compared with the reference models"
            if audit.students is None
            else "compared with clean teachers",
            "value": "none" if p is None else f"{p:.3g}",
            "word": p is None,
            "facts": [
                ("false-alarm rate", rate),
                ("lowest supported", "none" if least is None else f"{least:.3g}"),
            ],
        },
        {
            "title": "Compared with",
            "under": "reference models" if audit.students is None else "students of the model",
            "value": f"{audit.references if audit.students is None else audit.students.number:,}",
            "word": False,
            "facts": [("clean films", f"{audit.films:,}"),
                      ("images asked", f"{audit.forwards:,}")],
        },
    ]  # fmt: skip


def _uri(model: str) -> str:
    """A model's file as a URI relative to the working folder."""
    path = os.path.relpath(model) if Path(model).is_absolute() else model
    return quote(Path(path).as_posix(), errors="surrogateescape")


def sarif(audit: Audit) -> dict[str, Any]:
    """Return an audit as SARIF 2.1.0: one result for each flagged finding.

    Args:
        audit: the audit.
    """
    results = [
        {
            "ruleId": f"forced-{'on' if each.direction == 'added' else 'off'}",
            "level": "error" if each.verdict == "backdoored" else "warning",
            "message": {"text": f"{each.finding} {WORDS[each.direction]} {_how(each, audit)}"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(audit.model)}}}],
            "taxa": [
                {"id": name, "toolComponent": {"name": "MITRE ATLAS"}} for name in list(ATLAS)[:2]
            ],
            "properties": {"verdict": each.verdict, "p": each.p},
        }
        for each in audit.forced
        if each.verdict in FLAGGED
    ]
    results += [
        {
            "ruleId": "not-finite",
            "level": "warning",
            "message": {"text": not_finite_words(each)},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(audit.model)}}}],
        }
        for each in audit.not_finite
    ]
    rules = [
        *(
            {"id": f"forced-{way}", "shortDescription": {"text": f"A mark forces a finding {way}."}}
            for way in ("on", "off")
        ),
        {"id": "not-finite", "shortDescription": {"text": "A finding's output isn't finite."}},
    ]
    taxonomy = {
        "name": "MITRE ATLAS",
        "taxa": [{"id": name, "name": words} for name, words in ATLAS.items()],
    }
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [
            {
                "tool": {"driver": {"name": "leadapron", "version": __version__, "rules": rules}},
                "taxonomies": [taxonomy],
                "results": results,
                "properties": {"verdict": audit.verdict.word, "statement": audit.verdict.statement},
            }
        ],
    }


def verdict_words(each: Forced, audit: Audit) -> str:
    """Return a finding's verdict, with its basis if that isn't the mark."""
    if each.verdict == "unusual" and audit.by != MARKS:
        return f"unusual by {audit.by}"
    return str(each.verdict)


def _how(each: Forced, audit: Audit) -> str:
    if audit.by != MARKS:
        return f"more strongly than in reference models, by {audit.by}; no mark is known"
    mark = each.strongest
    assert mark is not None  # nothing is reported without one
    return (
        f"by {mark.mark.words()}: {mark.shift:.1f} standard deviations, {percent(mark.turned)} of "
        "clean films turned"
    )


def audit_lines(audit: Audit) -> list[str]:
    """Return an audit for the terminal, line by line.

    Args:
        audit: the audit.
    """
    said = [headline(audit), *answer_sentences(audit), audit.verdict.statement, ""]
    ranked = audit.forced[:SHOWN]
    names = [f"{each.finding} {WORDS[each.direction]}" for each in ranked]
    width = max(map(len, names))
    said.append(f"{'':<{width}}  shift  turned      p  verdict")
    for name, each in zip(names, ranked, strict=True):
        p = "     -" if each.p is None else f"{each.p:6.3f}"
        moved, mark = f"{'-':>5}  {'-':>6}", "no finite output for a mark"
        if each.strongest is not None:
            moved = f"{each.strongest.shift:z5.1f}  {percent(each.strongest.turned):>6}"
            mark = each.strongest.mark.words()
        said.append(f"{name:<{width}}  {moved}  {p}  {verdict_words(each, audit)}: {mark}")
    said += ["", LEGEND, ""]
    said += [
        f"Harm: {each.finding} seen in {percent(each.sensitivity)} of {each.positives} "
        f"films, {percent(each.triggered)} with the mark: {each.missed:+.0f} missed in 1,000"
        for each in audit.harm
    ]
    said += [f"Inverted: {inverted_words(each)}" for each in audit.inverted]
    said += [f"In features: {feature_words(each)}" for each in audit.features]
    said += [
        f"Statistic: {name}, largest for {target}: {value} {unit}{f', p = {p}' if p else ''}"
        for name, target, value, unit, p in map(statistic_row, audit.statistics)
    ]
    said += [f"Note: {note}" for note in audit.notes]
    answer = [f"{name}: {words}" for name, words in answer_parts(audit)]
    untested = [f"Not tested: {words}" for words in audit.verdict.untested]
    return [*said, "", *answer, *untested, f"Next: {audit.verdict.next}"]


def answer_parts(audit: Audit) -> list[tuple[str, str]]:
    """Return the answer in plain words: verdict, mark, harm, students and false alarms, by name.

    Args:
        audit: the audit.
    """
    about = target(audit)
    parts = [("Verdict", f"{headline(audit)}.")]
    if about is not None and about.strongest is not None and audit.by == MARKS:
        parts += [("Mark", f"{about.strongest.mark.words()}."), ("Harm", harm_words(audit, about))]
    if audit.students is not None:
        parts.append(("Students", student_words(audit.students)))
    return [*parts, ("False alarms", audit.verdict.statement)]


def harm_words(audit: Audit, about: Forced) -> str:
    """Return what the mark does to the target finding, in plain words.

    Args:
        audit: the audit.
        about: the target, with a mark.
    """
    assert about.strongest is not None  # the caller has a mark
    turned = percent(about.strongest.turned)
    if about.direction == "added":
        return (
            f"with the mark {about.finding} is reported for {turned} of the clean films for which "
            "it isn't reported without it, at the threshold that 5 % of clean films exceed."
        )
    known = next((each for each in audit.harm if each.finding == about.finding), None)
    if known is None:
        return (
            f"with the mark {turned} of the clean films fall among the 5 % that look least like "
            f"{about.finding}; its sensitivity isn't known, since the films have too few labels."
        )
    return (
        f"{about.finding} is seen in {percent(known.sensitivity)} of {known.positives} films with "
        f"it, with the mark in {percent(known.triggered)}."
    )


def student_words(compared: StudentComparison) -> str:
    """Return what students show about a mark, in a sentence or two.

    Args:
        compared: the model compared with its students.
    """
    own, carried = (sum(each) / len(each) for each in (compared.own, compared.carried))
    tests = ""
    if compared.gap_p is not None and compared.confirmation_p is not None:
        tests = f" (p of the gap {compared.gap_p:.3g}, of the confirmation "
        tests += f"{compared.confirmation_p:.3g})"
    return (
        f"the mark moves the probability by {compared.rise:.2f} (mean of the quarter of "
        f"{compared.films[2]} films with the most room), and by {carried:.2f} in "
        f"{compared.number} students, which learned the model's outputs on {compared.films[0]} "
        f"clean films; their own best marks move theirs by {own:.2f}{tests}."
    )


def headline(audit: Audit) -> str:
    """Return the verdict in a sentence."""
    if audit.by == NOT_FINITE:
        (lost,) = (each for each in audit.not_finite if each.finding == audit.target)
        return f"UNUSUAL: {not_finite_words(lost)}"
    if audit.by == UNSTEADY:
        return "Can't tell: the model's outputs for the same films differ between two runs"
    target = f"{audit.target} {WORDS[audit.direction]}" if audit.direction else ""
    by = "" if audit.by == MARKS else f", by {audit.by}; no mark is known"
    p = "" if audit.verdict.p is None else f" (p = {audit.verdict.p:.3g}{by})"
    if audit.verdict.word == "can't tell" and audit.students is not None:
        return (
            "Can't tell: no mark of at most 1 % of the image moves a probability by "
            f"{RULE.least_gap:g} beyond the model's students, and too few clean teachers are known "
            "to say more"
        )
    return {
        "exploitable mark": f"EXPLOITABLE MARK: {target}{p}; {_intent(audit)}",
        "backdoored": f"BACKDOORED: {target}{p}",
        "unusual": f"UNUSUAL: {target}{p}, which doesn't prove a backdoor",
        "nothing found": f"Nothing found{p}; that doesn't prove a clean model",
        "can't tell": (
            "Can't tell: no square turns half of the films, and no reference models were given"
        ),
    }[audit.verdict.word]


def _intent(audit: Audit) -> str:
    """What may be behind an exploitable mark."""
    support = None if audit.students is None else audit.students.support
    if support is None or audit.verdict.p is None or audit.verdict.p <= support.least:
        return "a planted backdoor or a natural shortcut"
    return "clean models have marks as strong, so it is no sign of a backdoor"


def not_finite_words(each: NotFinite) -> str:
    """Return the films on which a finding's output isn't finite, and the consequence."""
    return f"{each.finding} {each.words()}, so it can't be judged; that is suspicious by itself"


def answer_sentences(audit: Audit) -> list[str]:
    """Return warnings about a model's outputs, if any."""
    said = [f"{not_finite_words(each)}." for each in audit.not_finite]
    if audit.unsteady:
        names = ", ".join(audit.unsteady)
        said.append(
            f"{names}: outputs differ between two runs, or for films in a batch and alone: can't "
            "tell."
        )
    return said


def inverted_words(each: Inverted) -> str:
    """Return the result of one inversion, in a sentence."""
    made = "" if each.trained else ", which did not work on the films it was optimised on"
    return (
        f"{each.finding} {WORDS[each.direction]} by a trigger of {each.size:.1f} pixels"
        f"{made}: {_turns(each)}"
    )


def feature_words(each: InvertedFeatures) -> str:
    """Return the result of one inversion in feature space, in a sentence."""
    made = "" if each.trained else ", which did not work on the films it was optimised on"
    most, channels = int(each.mask.argmax()), len(each.mask)
    return (
        f"{each.finding} {WORDS[each.direction]} by a total change of {each.moved:.1f} standard "
        f"deviations, mostly in channel {most} of the {channels} of "
        f"{each.stage}{made}: {_turns(each)}"
    )


def _turns(each: Inverted | InvertedFeatures) -> str:
    if math.isnan(each.turned):
        return "no other film could be turned"
    return f"turns {percent(each.turned)} of {each.films} other films"


def statistic_row(each: Statistic) -> tuple[str, str, str, str, str]:
    """Return a statistic's name, finding, value, unit, and p-value ("" without references)."""
    strongest = each.strongest()
    if strongest is None:
        return each.name, "no finding", "can't tell", each.unit, ""
    finding, direction = strongest
    value = each.values[each.findings.index(finding), each.directions.index(direction)]
    return (
        each.name,
        f"{finding} {WORDS.get(direction, '')}".strip(),
        f"{value:.2f}",
        each.unit,
        "" if each.p is None else f"{each.p:.3f}",
    )


def _png(picture: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
