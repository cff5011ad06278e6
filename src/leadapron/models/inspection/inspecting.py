"""What is found out of a model: alone, and on clean films with their labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.confinement import missing
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import (
    NORMALISATIONS,
    BlackBoxClassifier,
    Normalisation,
    model_warnings,
)
from leadapron.models.inspection.choosing import SIZES, Axes, Chosen, choose
from leadapron.models.inspection.document import (
    Basis,
    Inspected,
    Program,
    Setting,
    Trial,
    View,
)
from leadapron.models.inspection.outputs import (
    head_of,
    named_by_films,
    output_facts,
    probabilities_given,
)
from leadapron.models.inspection.subject import InspectedModel
from leadapron.models.inspection.trials import Answered, Bench, FilmsAt, Point, Truth, balanced
from leadapron.models.protocols import BlackBox
from leadapron.models.stated import IMAGE, ModelSettings
from leadapron.text import local_path
from leadapron.types import Machine, said

__all__ = ["inspected_alone", "inspected_on"]

TRIED = (
    "unit", "imagenet", "0.5/0.5", "torchxrayvision", f"0/{1 / 255:.7f}",
)  # fmt: skip
"""Normalisations that are tried: 0 to 1, ImageNet's, -1 to 1, -1024 to 1024, 0 to 255."""

ASPECTS: tuple[Literal["squash", "pad", "crop"], ...] = ("squash", "pad", "crop")

GREY = "leadapron"
"""The normalisation like ImageNet's of one channel."""

SHOWN = 4
"""Films that the page shows."""

ASKED = 60
"""Films on which doubts about the outputs are looked for."""


def _program(subject: InspectedModel) -> Program | None:
    limits = subject.opened.limits
    if limits is None:
        return None
    lacking = missing()
    kind = subject.opened.origin.partition(",")[0]
    how = (
        "in a process without access to files, network and other processes"
        if not lacking
        else f"unconfined, since this system lacks {lacking}"
    )
    batch = "any number of films" if limits.batch is None else f"{limits.batch} films"
    words = [
        f"It is a program: its own code runs for every batch, {how}.",
        f"It takes {batch} at a time"
        + (f", of {limits.size} x {limits.size} pixels." if limits.size else ", of any size that "
           "its layers allow."),
        "Only its outputs can be seen: methods that need gradients or features are left out.",
    ]  # fmt: skip
    if limits.metadata:
        words.append(f"Its header states {', '.join(sorted(limits.metadata))[:200]}.")
    return Program(
        kind=kind, confined=not lacking, batch=limits.batch, size=limits.size, half=limits.half,
        words=tuple(words),
    )  # fmt: skip


# --- settings, and what they rest on


def _settings(subject: InspectedModel) -> dict[str, Setting]:
    """Every setting as the file, its card and the caller leave it."""
    opened, known = subject.opened, subject.known.given
    classifier = opened.classifier
    now: dict[str, Any] = {n: getattr(classifier.preprocessing, n) for n in IMAGE}
    now |= {"head": classifier.head, "findings": classifier.findings, **subject.guessed}
    if isinstance(classifier, BlackBoxClassifier):
        now |= {
            "channels": classifier.channels,
            "gives": classifier.gives,
            "normalisation": str(classifier.normalisation),
        }
    if isinstance(classifier, NetworkClassifier):
        given, scale = opened.given, Normalisation((classifier.mean,), (classifier.std,))
        if given is not None and given.first is None:  # its channels are as in the file
            scale = given.scale
        now |= {"architecture": classifier.architecture, "normalisation": str(scale)}
    of_file = {"channels", "architecture", "findings", *(now if subject.own else ())}
    if opened.limits is not None and opened.limits.size is not None:
        of_file.add("size")
    found = {}
    for name in ModelSettings.__dataclass_fields__:
        if name in known:
            found[name] = _setting(name, known[name], "stated", "stated")
        elif name == "findings" and not subject.named:
            count = len(classifier.findings)
            words = f"the file doesn't name its {count} output{'s' * (count > 1)}"
            found[name] = Setting(name=name, value="", basis="unknown", words=words)
        elif name in subject.guessed:
            words = f"one of {len(subject.networks)} networks in the file, usually the deployed one"
            found[name] = _setting(name, now[name], "assumed", words)
        elif name in now and name in of_file:
            found[name] = _setting(name, now[name], "file", "read from the file")
        elif name in now:
            found[name] = _setting(
                name, now[name], "assumed", "taken for granted; the file doesn't state it"
            )
    return found


def _setting(name: str, value: Any, basis: Basis, words: str) -> Setting:
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return Setting(name=name, value=shown, basis=basis, words=words)


def inspected_alone(subject: InspectedModel) -> Inspected:
    """What the file and its card say."""
    opened, settings = subject.opened, _settings(subject)
    return _summed_up(
        Inspected(
            model=local_path(subject.model),
            content=opened.content,
            origin=opened.origin,
            verdict="can't tell",
            networks=subject.networks,
            program=_program(subject),
            settings=tuple(settings.values()),
            known=subject.known,
            missing=(),
            tried=0,
            films=0,
            patients=0,
            trials=(),
            outputs=(),
            doubts=(),
            notes=opened.notes,
        )
    )


def _summed_up(found: Inspected) -> Inspected:
    """The result with its verdict and with what must be stated."""
    # A crop or an interpolation is seldom meant, and changes little.
    usual = ("crop", "interpolation", "head", "gives")
    open_names = [
        each.name
        for each in found.settings
        if not each.settled and not (each.basis == "assumed" and each.name in usual)
    ]
    return replace(
        found,
        missing=tuple(f"--model.{name.replace('_', '-')}" for name in open_names),
        verdict="can't tell" if open_names else "settled",
    )


# --- with films


def inspected_on(subject: InspectedModel, cohort: Cohort, machine: Machine) -> Inspected:
    """What trials on clean films say in addition."""
    plain = inspected_alone(subject)
    settings = {each.name: each for each in plain.settings}
    names = subject.opened.classifier.findings if subject.named else None
    films, truth = FilmsAt(cohort), Truth.of(cohort, names)
    rows = np.arange(len(cohort))
    counted = replace(plain, films=len(cohort), patients=len(np.unique(cohort.patients)))
    if not truth.usable(cohort.patients, rows):
        shared = "have too few patients with and without" if truth.names else "state none of"
        words = f"The films {shared} its findings, so that nothing could be tried."
        return replace(counted, doubts=(words,))
    bench = Bench(_models(subject), _image(subject), films, truth, machine.progress)
    chosen = choose(bench, _axes(subject, films), rows)
    best = chosen.best
    known = dict(subject.known.given)
    for name, value in _values(chosen).items():
        evidence = chosen.settled.get(name)
        if evidence is not None:
            known[name] = value
            settings[name] = _setting(name, value, "tried", f"{evidence} than the others")
        elif name in chosen.settled:
            settings[name] = _setting(name, value, "assumed", _open_words(name, chosen))
        elif name == "aspect" and settings[name].basis == "assumed":
            words = "can't tell: these films are square already"
            settings[name] = _setting(name, value, "assumed", words)
    if not subject.named and chosen.sees:
        cohorts = cohort.labels[best.rows], cohort.patients[best.rows]
        given = named_by_films(cohorts[0], cohort.findings, best.logits, cohorts[1])
        if given is not None:
            known["findings"] = given
            settings["findings"] = _setting(
                "findings", given, "tried", "each output fits its finding, on both halves"
            )
            truth = Truth.of(cohort, given)
    final, head = _final(subject, bench, chosen, truth, known)
    settings |= {each.name: each for each in head}
    known |= {each.name: each.value for each in head if each.settled}
    settings = {
        name: settings[name] for name in ModelSettings.__dataclass_fields__ if name in settings
    }
    few = cohort.take(balanced(truth, cohort.patients, ASKED))
    image = final.preprocessing
    seen = films.images(best.rows, image)
    return _summed_up(
        replace(
            counted,
            settings=tuple(settings.values()),
            known=ModelSettings(**known),
            tried=chosen.tried,
            films=len(best.rows),
            patients=len(np.unique(cohort.patients[best.rows])),
            trials=tuple(_trial(each) for each in chosen.trials),
            outputs=output_facts(final.findings, final.probabilities(seen), truth, best.rows),
            doubts=(*_doubts(chosen), *_asked(final, few)),
            notes=(*_notes(subject, known), *said(cohort.notes)),
            views=_views(bench, chosen, best.rows),
        )
    )


def _notes(subject: InspectedModel, known: Mapping[str, Any]) -> tuple[str, ...]:
    """What is still assumed and omitted if the model is opened with what is known by now."""
    found = {n: value for n, value in known.items() if n not in subject.known.given}
    if subject.own or not found:
        return subject.opened.notes
    return subject.again(**found).notes


def _models(subject: InspectedModel) -> Callable[[str], BlackBox]:
    """The model with another normalisation; a file of weights is opened anew for each."""
    now = subject.opened.classifier
    own = _settings(subject)["normalisation"].value if not subject.own else ""

    @functools.cache
    def model(normalisation: str) -> BlackBox:
        if subject.own or normalisation == own:
            return now
        if isinstance(now, BlackBoxClassifier):
            scale = NORMALISATIONS.get(normalisation) or Normalisation.parsed(normalisation)
            return replace(now, normalisation=scale)
        return subject.again(normalisation=normalisation).classifier

    return model


def _image(subject: InspectedModel) -> Callable[[Point], Preprocessing]:
    now = subject.opened.classifier.preprocessing
    return lambda point: replace(now, size=point.size, aspect=point.aspect)


def _axes(subject: InspectedModel, films: FilmsAt) -> Axes:
    """What is tried: every setting that is only taken for granted."""
    settings, image = _settings(subject), subject.opened.classifier.preprocessing

    def free(name: str) -> bool:
        return name in settings and settings[name].basis == "assumed"

    aspects = [image.aspect, *(each for each in ASPECTS if each != image.aspect)]
    own = settings["normalisation"].value if "normalisation" in settings else ""
    return Axes(
        sizes=SIZES if free("size") else (image.size,),
        normalisations=_scales(subject) if free("normalisation") else (own,),
        aspects=tuple(aspects if free("aspect") and not films.square else aspects[:1]),
    )


def _scales(subject: InspectedModel) -> tuple[str, ...]:
    """The normalisations that the model can have: three means need three channels."""
    now = subject.opened.classifier
    channels = now.channels if isinstance(now, BlackBoxClassifier) else 0
    if not channels:
        try:
            subject.again(normalisation="imagenet")
            channels = 3
        except UsageError:
            channels = 1
    return tuple(GREY if n == "imagenet" and channels == 1 else n for n in TRIED)


def _values(chosen: Chosen) -> dict[str, Any]:
    point = chosen.best.point
    return {"size": point.size, "normalisation": point.normalisation, "aspect": point.aspect}


def _open_words(name: str, chosen: Chosen) -> str:
    if not chosen.sees:
        return "can't tell: with no setting does it read these films better than chance"
    rivals = ", ".join(map(str, chosen.rivals[name]))
    return f"can't tell from {rivals}: the lead isn't beyond chance"


def _final(
    subject: InspectedModel, bench: Bench, chosen: Chosen, truth: Truth, known: Mapping[str, Any]
) -> tuple[BlackBox, list[Setting]]:
    """The model with the best settings, and what its outputs say about its head."""
    model: Any = bench.model(chosen.best.point)
    if "findings" in known and not subject.own:
        model = replace(model, findings=known["findings"])
    found: list[Setting] = []
    if subject.own:
        return model, found
    outputs, given = chosen.best.logits, False
    if isinstance(model, BlackBoxClassifier):
        outputs = model.answers(bench.films.images(chosen.best.rows, model.preprocessing))
        given = probabilities_given(outputs)
        if "gives" not in known and given:
            model = replace(model, gives="probabilities")
            found.append(_setting("gives", "probabilities", "outputs", "all lie in 0 to 1"))
        given = model.gives == "probabilities"
    if "head" not in known and chosen.sees:
        patients = bench.films.cohort.patients[chosen.best.rows]
        head = head_of(outputs, truth, chosen.best.rows, patients, given)
        if head is not None:
            model = replace(model, head=head.name)
            found.append(_setting("head", head.name, "labels", head.words))
    final: BlackBox = model
    return final, found


def _trial(each: Answered) -> Trial:
    point = each.point
    return Trial(
        size=point.size, normalisation=point.normalisation, aspect=point.aspect,
        films=len(each.rows), macro=each.macro, findings=each.findings, misfit=each.misfit,
    )  # fmt: skip


def _doubts(chosen: Chosen) -> tuple[str, ...]:
    said = []
    if not chosen.sees:
        value = chosen.best.macro
        said.append(
            f"With no setting does it read these films better than chance: at best AUROC "
            f"{value.value:.2f} (95 % {value.low:.2f} to {value.high:.2f})."
        )
    if chosen.left_out:
        sizes = ", ".join(map(str, chosen.left_out))
        said.append(f"Sizes {sizes} weren't tried, since that would take too long.")
    return tuple(said)


def _asked(model: BlackBox, few: Cohort) -> tuple[str, ...]:
    """Doubts about the outputs, on a few films."""
    images = FilmsAt(few).images(np.arange(len(few)), model.preprocessing)
    return model_warnings(
        model, replace(few, images=images, preprocessing=model.preprocessing, masks=None)
    )


def _views(bench: Bench, chosen: Chosen, rows: NDArray[np.int64]) -> tuple[View, ...]:
    """The first films with the best settings, and with those of the next best size."""
    points = list({each.point.size: each.point for each in reversed(chosen.trials[:3])}.values())
    return tuple(
        View(words=str(point), images=bench.films.images(rows[:SHOWN], bench.image(point)))
        for point in reversed(points)
    )
