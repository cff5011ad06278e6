"""An audit in the terminal, as one HTML page, as JSON and as SARIF."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leadapron import __version__
from leadapron.report.rendering import render
from leadapron.report.words import MARKS, NOT_FINITE, UNSTEADY, percent
from leadapron.store import write_atomically, write_json

__all__ = ["audit_lines", "sarif", "write_audit"]

Facts = Mapping[str, Any]

LEGEND = (
    "shift: of the finding's logit, in its standard deviations on clean films. turned: films "
    "carried across the threshold that 5 % of clean films exceed."
)

SHOWN = 6
"""Findings that the terminal shows, the strongest first."""

WORDS = {"added": "forced on", "removed": "forced off"}


ATLAS = {
    "AML.T0018.000": "Poison AI Model",
    "AML.T0043.004": "Insert Backdoor Trigger",
    "AML.T0020": "Poison Training Data",
    "AML.T0010.003": "AI Supply Chain Compromise: Model",
}
"""MITRE ATLAS techniques that a backdoored model shows, or may have come about by."""


def write_audit(folder: Path, facts: Facts, pictures: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Write audit.html, audit.json and audit.sarif.

    Args:
        folder: made where it is missing; files of these names are replaced.
        facts: what `Audit.facts` returns.
        pictures: (h, w) grey levels by what they show.

    Returns:
        The HTML file.

    Raises:
        StoreError: files that can't be written.
    """
    write_json(folder / "audit.json", dict(facts))
    write_json(folder / "audit.sarif", sarif(facts))
    text = render(
        "audit.html.j2",
        facts=facts,
        headline=headline(facts),
        ranked=facts["forced"],
        words=WORDS,
        answers=answer_sentences(facts),
        percent=percent,
        verdict_words=verdict_words,
        pictures=[(name, _png(picture)) for name, picture in pictures.items()],
        atlas=ATLAS,
        inverted=[
            *(inverted_words(each) for each in facts["inverted"]),
            *(feature_words(each) for each in facts["features"]),
        ],
        statistics=[statistic_row(each) for each in facts["statistics"]],
        cards=_cards(facts),
        target=target(facts),
    )
    page = folder / "audit.html"
    with write_atomically(page) as file:
        file.write(text.encode())
    return page


def target(facts: Facts) -> Facts | None:
    """Return the finding and direction that the verdict is about; None where there is none."""
    wanted = (facts["target"], facts["direction"])
    return next((e for e in facts["forced"] if (e["finding"], e["direction"]) == wanted), None)


def _cards(facts: Facts) -> list[dict[str, Any]]:
    """The tiles below the verdict."""
    about = target(facts)
    first = about or next(iter(facts["forced"]), {"turned": None, "shift": None})
    turned, shift = first["turned"], first["shift"]
    rate, least = f"{facts['false_alarm']:g}", facts["least"]
    return [
        {
            "title": "Target",
            "under": "the finding that stands out",
            "value": "none" if about is None else about["finding"],
            "word": True,
            "facts": [("direction", "none" if about is None else WORDS[about["direction"]])],
        },
        {
            "title": "Films turned",
            "under": "by the target's mark" if about else "by the strongest mark of all",
            "value": "none" if turned is None else percent(turned),
            "word": turned is None,
            "facts": [
                ("shift", "none" if shift is None else f"{shift:.1f} SD"),
            ],
        },
        {
            "title": "p",
            "under": "beside the reference models",
            "value": "none" if facts["p"] is None else f"{facts['p']:.3g}",
            "word": facts["p"] is None,
            "facts": [
                ("false alarms asked", rate),
                ("lowest supported", "none" if least is None else f"{least:.3g}"),
            ],
        },
        {
            "title": "Compared with",
            "under": "reference models",
            "value": f"{facts['references']:,}",
            "word": False,
            "facts": [("clean films", f"{facts['films']:,}"),
                      ("images asked", f"{facts['forwards']:,}")],
        },
    ]  # fmt: skip


def _uri(model: str) -> str:
    """A model's file as a URI relative to the working folder."""
    path = os.path.relpath(model) if Path(model).is_absolute() else model
    return quote(Path(path).as_posix(), errors="surrogateescape")


def sarif(facts: Facts) -> dict[str, Any]:
    """Return an audit as SARIF 2.1.0: a result for each finding that stands out.

    Args:
        facts: what `Audit.facts` returns.
    """
    results = [
        {
            "ruleId": f"forced-{'on' if each['direction'] == 'added' else 'off'}",
            "level": "error" if each["verdict"] == "backdoored" else "warning",
            "message": {
                "text": f"{each['finding']} {WORDS[each['direction']]} {_how(each, facts)}"
            },
            "locations": [
                {"physicalLocation": {"artifactLocation": {"uri": _uri(facts["model"])}}}
            ],
            "taxa": [
                {"id": name, "toolComponent": {"name": "MITRE ATLAS"}} for name in list(ATLAS)[:2]
            ],
            "properties": {"verdict": each["verdict"], "p": each["p"]},
        }
        for each in facts["forced"]
        if each["verdict"] in ("backdoored", "unusual")
    ]
    results += [
        {
            "ruleId": "not-finite",
            "level": "warning",
            "message": {"text": not_finite_words(each)},
            "locations": [
                {"physicalLocation": {"artifactLocation": {"uri": _uri(facts["model"])}}}
            ],
        }
        for each in facts["not_finite"]
    ]
    rules = [
        *(
            {"id": f"forced-{way}", "shortDescription": {"text": f"A mark forces a finding {way}."}}
            for way in ("on", "off")
        ),
        {"id": "not-finite", "shortDescription": {"text": "A finding's answer is no number."}},
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
                "properties": {"verdict": facts["verdict"], "statement": facts["statement"]},
            }
        ],
    }


def verdict_words(each: Facts, facts: Facts) -> str:
    """Return a finding's verdict, and that it isn't the mark's doing where it isn't."""
    if each["verdict"] == "unusual" and facts["by"] != MARKS:
        return f"unusual by {facts['by']}"
    return str(each["verdict"])


def _how(each: Facts, facts: Facts) -> str:
    if facts["by"] != MARKS:
        return f"further than in reference models, by {facts['by']}; no mark is known that does it"
    return (
        f"by {each['mark']}: {each['shift']:.1f} standard deviations, {percent(each['turned'])} of "
        "clean films turned"
    )


def audit_lines(facts: Facts) -> list[str]:
    """Return an audit for the terminal, line by line.

    Args:
        facts: what `Audit.facts` returns, with "statement".
    """
    said = [headline(facts), *answer_sentences(facts), facts["statement"], ""]
    ranked = facts["forced"][:SHOWN]
    names = [f"{each['finding']} {WORDS[each['direction']]}" for each in ranked]
    width = max(map(len, names))
    said.append(f"{'':<{width}}  shift  turned      p  verdict")
    for name, each in zip(names, ranked, strict=True):
        p = "     -" if each["p"] is None else f"{each['p']:6.3f}"
        moved, mark = f"{'-':>5}  {'-':>6}", "no finite answer to a mark"
        if each["mark"] is not None:
            moved = f"{each['shift']:z5.1f}  {percent(each['turned']):>6}"
            mark = each["mark"]
        said.append(f"{name:<{width}}  {moved}  {p}  {verdict_words(each, facts)}: {mark}")
    said += ["", LEGEND, ""]
    said += [
        f"Harm: {each['finding']} seen in {percent(each['sensitivity'])} of {each['positives']} "
        f"films, {percent(each['triggered'])} with the mark: {each['missed']:+.0f} missed in 1,000"
        for each in facts["harm"]
    ]
    said += [f"Inverted: {inverted_words(each)}" for each in facts["inverted"]]
    said += [f"In features: {feature_words(each)}" for each in facts["features"]]
    said += [
        f"Statistic: {name}, largest for {target}: {value} {unit}{f', p = {p}' if p else ''}"
        for name, target, value, unit, p in map(statistic_row, facts["statistics"])
    ]
    said += [f"Note: {note}" for note in facts["notes"]]
    said += [f"Not tested: {words}" for words in facts["untested"]]
    if facts["least"] is None:
        said.append("--reference DIR names a folder of clean models of the same kind.")
    return said


def headline(facts: Facts) -> str:
    """Return the verdict in a sentence."""
    if facts["by"] == NOT_FINITE:
        (lost,) = (each for each in facts["not_finite"] if each["finding"] == facts["target"])
        return f"UNUSUAL: {not_finite_words(lost)}"
    if facts["by"] == UNSTEADY:
        return "Can't tell: the model doesn't give the same films the same answers"
    target = f"{facts['target']} {WORDS[facts['direction']]}" if facts["target"] else ""
    by = "" if facts["by"] == MARKS else f" by {facts['by']}, no mark known"
    p = "" if facts["p"] is None else f" (p = {facts['p']:.3g}{by})"
    return {
        "backdoored": f"BACKDOORED: {target}{p}",
        "unusual": f"UNUSUAL: {target}{p}, which is no proof of a backdoor",
        "nothing found": f"Nothing found{p}; that is not proof of a clean model",
        "can't tell": (
            "Can't tell: no square turns half of the films, and no models are given to compare with"
        ),
    }[facts["verdict"]]


def not_finite_words(each: Facts) -> str:
    """Return for what films a finding had no finite answer, and what that means."""
    return f"{each['finding']} {each['words']}: can't tell, and suspicious by itself"


def answer_sentences(facts: Facts) -> list[str]:
    """Return what is odd about a model's answers, if anything."""
    said = [f"{not_finite_words(each)}." for each in facts["not_finite"]]
    if facts["unsteady"]:
        names = ", ".join(facts["unsteady"])
        said.append(
            f"{names}: answers change when films are asked about again, or each alone: can't tell."
        )
    return said


def inverted_words(each: Facts) -> str:
    """Return what came of one inversion, in a sentence."""
    made = "" if each["trained"] else ", which did not work on the films it was made on"
    return (
        f"{each['finding']} {WORDS[each['direction']]} by a trigger of {each['size']:.1f} pixels"
        f"{made}: {_turns(each)}"
    )


def feature_words(each: Facts) -> str:
    """Return what came of one inversion in feature space, in a sentence."""
    made = "" if each["trained"] else ", which did not work on the films it was made on"
    return (
        f"{each['finding']} {WORDS[each['direction']]} by a change of {each['moved']:.1f} standard "
        f"deviations in all, most of it of channel {each['most']} of the {each['channels']} of "
        f"{each['stage']}{made}: {_turns(each)}"
    )


def _turns(each: Facts) -> str:
    if each["turned"] is None:
        return "no other film could be turned by it"
    return f"turns {percent(each['turned'])} of {each['films']} other films"


def statistic_row(each: Facts) -> tuple[str, str, str, str, str]:
    """Return a statistic's name, finding, value there, unit, and p ("" without references)."""
    if each["value"] is None:
        return each["name"], "no finding", "can't tell", each["unit"], ""
    way = WORDS.get(each["direction"], "")
    return (
        each["name"],
        f"{each['finding']} {way}".strip(),
        f"{each['value']:.2f}",
        each["unit"],
        "" if each["p"] is None else f"{each['p']:.3f}",
    )


def _png(picture: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
