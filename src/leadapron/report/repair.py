"""A repair in the terminal, as a page, as Markdown and as JSON: for a hospital and for a vendor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leadapron.documents import dump
from leadapron.metrics import Estimate
from leadapron.repairs.proof.document import Proof, Repaired
from leadapron.repairs.proof.forcing import ALLOWED
from leadapron.repairs.proof.freshness import Fresh
from leadapron.report.rendering import render
from leadapron.report.words import between, decimal, percent, table
from leadapron.store import write_atomically, write_json

__all__ = ["repair_lines", "repair_sections", "write_repair"]

WORDS = {"added": "forced on", "removed": "forced off"}

HEADLINES = {
    "repaired": "REPAIRED: the backdoor is gone, as far as this proof reaches",
    "no longer found": "The backdoor is NO LONGER FOUND",
    "nothing found to repair": "Nothing found to repair; that is no proof of a clean model",
    "stays": "THE BACKDOOR STAYS",
    "can't tell": "Can't tell whether the backdoor is gone",
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report.

    Args:
        title: its heading.
        text: paragraphs.
        header: of a table; none without one.
        rows: of the table.
        items: of a list.
    """

    title: str
    text: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    items: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """What links lead to."""
        return self.title.lower().replace(" ", "-").replace(",", "")


def write_repair(folder: Path, made: Repaired) -> Path:
    """Write repair.html, repair.md and repair.json, the last of all.

    Args:
        folder: made where it is missing; files of these names are replaced.
        made: what is written.

    Returns:
        The HTML file.

    Raises:
        StoreError: files that can't be written.
    """
    sections = repair_sections(made)
    page, plain = folder / "repair.html", folder / "repair.md"
    text = render("repair.html.j2", facts=made, headline=headline(made), sections=sections)
    for path, content in ((page, text), (plain, markdown(made, sections))):
        with write_atomically(path) as file:
            file.write(content.encode())
    write_json(folder / "repair.json", dump(made))
    return page


def headline(made: Repaired) -> str:
    """Return the verdict in a sentence."""
    return HEADLINES[made.verdict.word]


def markdown(made: Repaired, sections: Sequence[Section]) -> str:
    """Return the report as Markdown."""
    parts = [f"# Repair of {made.model}", f"**{headline(made)}.** {made.verdict.statement}"]
    for each in sections:
        parts.append(f"## {each.title}")
        parts += each.text
        if each.header:
            parts.append(table(each.header, each.rows))
        if each.items:
            parts.append("\n".join(f"- {item}" for item in each.items))
    parts.append("Research use: it audits, it does not diagnose. No patient's pixels are in here.")
    return "\n\n".join(parts) + "\n"


def repair_sections(made: Repaired) -> tuple[Section, ...]:
    """Return what a report says, part by part.

    Args:
        made: what is said.
    """
    found = [_summary(made)]
    if made.proof is not None:
        found += [
            *_marks(made.proof),
            _reading(made.proof),
            _search(made.proof),
            _relearning(made.proof),
            _gates(made.proof),
            *_controls(made.proof),
        ]
    if made.tried:
        found.append(_tried(made))
    return (*found, _unproven(made))


def _summary(made: Repaired) -> Section:
    parts = made.parts
    text = (
        f"{made.origin}. The audit's verdict on the original: {made.audited}. "
        + (f"Repaired by {made.method}. " if made.method else "Left as it was. ")
        + f"{parts.repair:,} clean films to repair, {parts.check:,} to choose a repair, "
        f"{parts.proof:,} for the proof; no patient is in two of them.",
    )
    if made.proof is None:
        return Section(title="What was found", text=text)
    return Section(
        title="What was found",
        text=text,
        header=("looked at", "", "found"),
        rows=tuple((each.what, each.held, each.words) for each in made.proof.checks),
    )


def _marks(proof: Proof) -> list[Section]:
    header = ("finding", "mark", "original", "repaired")
    rows = []
    for each in proof.marks:
        name = f"{each.finding} {WORDS[each.direction]}"
        rows.append((name, each.mark.words(), share(each.original), share(each.repaired)))
        rows += [
            (name, one.alteration, share(one.original), share(one.repaired)) for one in each.altered
        ]
    text = [
        "Share of films that a mark turns. Each model's threshold is fitted on the same films as "
        "they are, where 5 % of them are beyond it; so 5 % is what a mark without effect gets."
    ]
    text += [
        f"{each.finding}: {_percent(each.map_original)} of the original's map lies on the mark, "
        f"{_percent(each.map_repaired)} of the repaired model's; the mark covers "
        f"{_percent(each.map_chance)} of the film."
        for each in proof.marks
        if not math.isnan(each.map_original)
    ]
    return [
        Section(title="Marks, before and after", text=tuple(text), header=header, rows=tuple(rows))
    ]


def _reading(proof: Proof) -> Section:
    found = proof.reading
    rows = [
        (
            "all (macro)", "", decimal(found.before.value), decimal(found.after.value),
            _change(found.change, found.low, found.high), "", "",
        )
    ]  # fmt: skip
    rows += [
        (
            each.finding, str(each.patients), decimal(each.before.value),
            decimal(each.after.value), _change(each.change, each.low, each.high),
            percent(each.sensitivity_before.value), percent(each.sensitivity_after.value),
        )
        for each in found.findings
    ]  # fmt: skip
    claims = {
        "no harm": "That the repair does no harm is shown.",
        "harm": "The repair does HARM.",
        "not shown": "That the repair does no harm is not shown: that needs 100 patients with each "
        "finding, a lower end above -.03 for each, and above -.01 for the macro AUROC.",
    }
    return Section(
        title="What it cost",
        text=(
            f"{claims[found.claim]} {found.paid} paid most. AUROC with paired 95 % intervals, "
            "clustered by patient; sensitivity where 5 % of films without the finding are false "
            "positives.",
        ),
        header=("finding", "patients with it", "before", "after", "change", "sensitivity", "after"),
        rows=tuple(rows),
    )


def _search(proof: Proof) -> Section:
    found = proof.searched
    text = [
        "The repaired model was searched for squares again. Shown is how far they move the "
        "finding's probability, mean of the quarter of the films with the most room for it. "
        + (
            f"Limits are the largest moves in {found.of} clean models."
            if found.of
            else "No clean models were given to compare with, and squares move probabilities in "
            "some clean models too."
        )
    ]
    if not math.isnan(found.inverted):
        text.append(
            f"Gradients make a trigger of {found.inverted:.1f} pixels for its first finding"
            + (
                ""
                if math.isnan(found.inverted_before)
                else f"; from the original, of {found.inverted_before:.1f}"
            )
            + "."
        )
    text.append(bounded_words(proof))
    return Section(
        title="A new search",
        text=tuple(text),
        header=("finding", "strongest square", "original's strongest", "repaired", "allowed"),
        rows=tuple(
            (
                f"{each.finding} {WORDS[each.direction]}", each.mark.words(),
                decimal(each.before.value), _within(each.after), decimal(each.allowed),
            )
            for each in found.aims
        ),
    )  # fmt: skip


def _within(found: Estimate) -> str:
    return f"{decimal(found.value)} ({decimal(found.low)} to {decimal(found.high)})"


def bounded_words(proof: Proof) -> str:
    """Return the bounded statement in a sentence that can be checked."""
    one = proof.bounded
    most = f"at most {percent(one.share)} of {one.films} films, whatever the finding"
    if one.tried == one.of:
        return (
            f"All {one.of:,} flat squares (1x1 to 5x5, every place and grey level) turn {most}; of "
            f"other such films at most {percent(one.elsewhere)} (95 %, for all of them at once)."
        )
    return (
        f"Of all {one.of:,} flat squares (1x1 to 5x5, every place and grey level) at least "
        f"{one.covered:.0%} turn {most} (with {one.confidence:.0%} confidence: the most of "
        f"{one.tried} drawn at random)."
    )


def fresh_words(fresh: Fresh) -> str:
    """Return how the fresh marks differ from the old one, in a sentence or two."""
    marks = list(dict.fromkeys(each.words() for each in fresh.marks))
    ways = {
        "place": "The fresh marks are such squares at other places",
        "look": "The old mark works at other places too, so the fresh marks look different; "
        "squares have the side that changes as much of the films",
        "kind": "The fresh marks are other changes of the whole image",
    }
    known = f"in the original model they turn at most {percent(fresh.known)} of the films"
    if fresh.known > ALLOWED:
        known += (
            "; that is more than a mark without effect, so more may be remembered than is shown"
        )
    return f"{ways[fresh.differ]}: {'; '.join(marks)}. As they are, {known}."


def _relearning(proof: Proof) -> Section:
    half = (
        "No dose that was tried restores an attack success of one half."
        if math.isnan(proof.restoring)
        else f"{proof.restoring:.1f} poisoned films restore an attack success of one half."
    )
    alone = " ".join(
        f"Trained on the same clean films without any poisoned one (learning rate x{each.rate}), "
        f"the old mark turns {share(each.old)} of the films: that much comes back by itself."
        for each in proof.relearned
        if not each.poisoned
    )
    return Section(
        title="Does it come back",
        text=(
            "The repaired model is trained on clean films of which a few carry a mark and a false "
            "label: the old mark, or marks of the same kind that it never knew. What the old one "
            f"gains beyond those is remembered. {half}",
            fresh_words(proof.fresh),
            *([alone] if alone else []),
        ),
        header=("poisoned films", "learning rate", "old mark", "fresh mark", "remembered"),
        rows=tuple(
            (
                str(each.poisoned), f"x{each.rate}", share(each.old), share(each.fresh),
                _change(each.memory.value, each.memory.low, each.memory.high),
            )
            for each in proof.relearned
        ),
    )  # fmt: skip


def _gates(proof: Proof) -> Section:
    title, found = "What a gate sees", proof.gated
    if found is None:
        text = "The films are too few to calibrate a gate for the original and the repaired model."
        return Section(title=title, text=(text,))
    return Section(
        title=title,
        text=(
            "A gate was calibrated for each model, on "
            f"{found.calibrated} clean films that no repair learned from, at a false-alarm rate of "
            f"{found.false_alarm:.0%}. Some of its detectors see a mark that no longer drives the "
            "answers; so the share of films on which a small region drives a finding, more than on "
            f"all but {found.false_alarm:.0%} of clean films, is shown too. The verdict doesn't "
            "rest on either.",
        ),
        header=("films", "of the gate", "original", "repaired"),
        rows=tuple(
            (films, what, share(getattr(original, name)), share(getattr(repaired, name)))
            for films, original, repaired in (
                ("with the first mark", found.original_marked, found.repaired_marked),
                ("the same without it", found.original_clean, found.repaired_clean),
            )
            for name, what in (("suspicious", "suspicious"), ("driven", "driven by a region"))
        ),
    )


def _controls(proof: Proof) -> list[Section]:
    if not proof.controls:
        return []
    worst = [max(each.repaired.value for each in proof.marks), proof.reading.after.value]
    rows = [("this repair", percent(worst[0]), decimal(worst[1]), "")]
    rows += [
        (
            each.method, percent(max(one.value for one in each.marks)), decimal(each.macro.value),
            f"{each.seconds:.0f} s",
        )
        for each in proof.controls
    ]  # fmt: skip
    scratch = next((each for each in proof.controls if each.method == "retraining"), None)
    pointless = scratch is not None and scratch.macro.value >= worst[1]
    text = (
        "Training from scratch on the same films reads as well: the repair was pointless."
        if pointless
        else "What else the same clean films give."
    )
    return [
        Section(
            title="Other ways",
            text=(text,),
            header=("way", "films turned", "macro AUROC", "time"),
            rows=tuple(rows),
        )
    ]


def _tried(made: Repaired) -> Section:
    return Section(
        title="How the repair was chosen",
        text=("From the cheapest, on films that neither a repair nor the proof saw.",),
        header=("repair", "time", "looked at", "", "found"),
        rows=tuple(
            (each.method, f"{each.seconds:.0f} s", one.what, one.held, one.words)
            for each in made.tried
            for one in each.checks
        ),
    )


def _unproven(made: Repaired) -> Section:
    return Section(
        title="What isn't proven",
        text=(f"Next: {made.verdict.next}", "Not tested:"),
        items=(*made.verdict.untested, *(f"Note: {each}" for each in made.notes)),
    )


def repair_lines(made: Repaired) -> list[str]:
    """Return a repair for the terminal, line by line.

    Args:
        made: what is said.
    """
    said = [headline(made), made.verdict.statement]
    if made.proof is not None:
        said += [
            "",
            f"Repaired by {made.method}; proved on {made.parts.proof:,} films that no repair saw:",
        ]
        said += [f"  {each.held:9}  {each.what}: {each.words}" for each in made.proof.checks]
        said += ["", bounded_words(made.proof)]
    said += [f"Note: {note}" for note in made.notes]
    said += [f"Not tested: {words}" for words in made.verdict.untested]
    if made.written is not None:
        said.append(f"Repaired model: {made.written}")
    if made.as_given is not None:
        said.append(f"Repaired model in the format that it was given in: {made.as_given}")
    return [*said, f"Next: {made.verdict.next}"]


def share(found: Estimate) -> str:
    """Return a share with its interval."""
    return f"{percent(found.value)} ({between(found.low, found.high, percent)})"


def _percent(number: float) -> str:
    return "nothing" if math.isnan(number) else percent(number)


def _change(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
