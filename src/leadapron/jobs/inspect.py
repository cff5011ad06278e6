"""The command inspect: open a model, try it on clean films, and write its card."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.confinement import missing
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.audit import named
from leadapron.models.card import ModelCard, write_card
from leadapron.models.classifier import FORMAT, NetworkClassifier
from leadapron.models.foreign import (
    NORMALISATIONS,
    BlackBoxClassifier,
    Normalisation,
    Opened,
    SeveralError,
    UnnamedError,
    model_warnings,
    networks_in,
    open_model,
)
from leadapron.models.inspection.choosing import SIZES, Axes, Chosen, choose
from leadapron.models.inspection.document import (
    Basis,
    Inspected,
    NamedNetwork,
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
from leadapron.models.inspection.trials import Answered, Bench, FilmsAt, Point, Truth, balanced
from leadapron.models.parsing.reading import open_file, open_weights
from leadapron.models.protocols import BlackBox
from leadapron.models.stated import AS_FOUND, IMAGE, ModelSettings, Opening
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.types import AUTO, Machine, said

__all__ = ["FILMS", "inspect"]

FILMS = 300
"""Clean films that are used, at most."""

TRIED = (
    "unit", "imagenet", "0.5/0.5", "torchxrayvision", f"0.0/{1 / 255!r}",
)  # fmt: skip
"""Normalisations that are tried: 0 to 1, ImageNet's, -1 to 1, -1024 to 1024, 0 to 255."""

ASPECTS: tuple[Literal["squash", "pad", "crop"], ...] = ("squash", "pad", "crop")

GREY = "leadapron"
"""The normalisation like ImageNet's of one channel."""

SHOWN = 4
"""Films that the page shows."""

ASKED = 60
"""Films on which doubts about the outputs are looked for."""


@forgiving
def inspect(
    model: str | Path,
    *,
    clean: str | None = None,
    out: Path | None = None,
    films: int = FILMS,
    opening: Opening = AS_FOUND,
    machine: Machine = AUTO,
    **options: Any,
) -> Inspected:
    """Find out how a model reads films and what its outputs are, and write its card.

    With clean films and their labels, sizes, normalisations and ways to make films square are
    tried. A setting is taken if its lead over the others is beyond chance; else it is listed as
    one that must be stated.

    Args:
        model: a file of weights, a TorchScript or ONNX file, or "module:function".
        clean: films with true labels and without a trigger that the model wasn't trained on, as
            "nih:PATH".
        out: the model card; beside the model, as STEM.yaml, every command finds it.
        films: largest number of clean films that are used.
        opening: what is stated of the model, and how it is opened.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Raises:
        UsageError: settings that don't fit the model, or a card for a model without a file.
        LeadapronError: as `open_model` and `open_source`.
    """
    subject = _Subject.of(str(model), opening, machine)
    if out is not None and subject.opened.content is None:
        raise UsageError(f"`out` {out}: a card is of a file; {model} is a function")
    found = _without_films(subject)
    if clean is not None:
        cohort = open_source(
            clean,
            preprocessing=subject.opened.classifier.preprocessing,
            **machine.films,
            most=films,
            **options,
        )
        found = _with_films(subject, cohort, machine)
    if out is None:
        return found
    write_card(out, card_of(found))
    return replace(found, card=str(out))


def card_of(found: Inspected) -> ModelCard:
    """Return the card of an inspected file: what is settled.

    Args:
        found: of a model with a file.
    """
    assert found.content is not None
    return ModelCard(
        file=Path(found.model).name,
        sha256=found.content,
        model=found.known,
        basis={each.name: each.words for each in found.settings if each.name in found.known.given},
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Subject:
    """The inspected model.

    Args:
        model: as it was named.
        opening: what is stated.
        machine: where it runs.
        opened: the model as it opens.
        guessed: settings without which it doesn't open, and which nobody stated: numbers in place
            of names, the likeliest of several networks.
        networks: those in its file.
    """

    model: str
    opening: Opening
    machine: Machine
    opened: Opened
    guessed: Mapping[str, Any]
    networks: tuple[NamedNetwork, ...]

    @classmethod
    def of(cls, model: str, opening: Opening, machine: Machine) -> _Subject:
        """Open the model."""
        guessed: dict[str, Any] = {}
        while True:
            try:
                opened = open_model(model, **machine.networks, **opening.arguments, **guessed)
                break
            except UnnamedError as error:
                if opening.model.findings is not None:
                    raise
                guessed["findings"] = tuple(f"output {i + 1}" for i in range(error.outputs))
            except SeveralError as error:
                guessed["weights_key"] = error.likeliest
        return cls(
            model=model, opening=opening, machine=machine, opened=opened, guessed=guessed,
            networks=_networks(model, opened),
        )  # fmt: skip

    @property
    def named(self) -> bool:
        """Whether its outputs have names."""
        return "findings" not in self.guessed

    @property
    def own(self) -> bool:
        """Whether the model states all of its settings."""
        ours = self.opened.origin.startswith("leadapron's own")
        return ours or not isinstance(
            self.opened.classifier, NetworkClassifier | BlackBoxClassifier
        )

    @property
    def known(self) -> ModelSettings:
        """What is stated, by the caller or a card."""
        given = self.opened.stated.given
        return ModelSettings(**{n: v for n, v in given.items() if n not in self.guessed})

    def again(self, **settings: Any) -> Opened:
        """Open the model with further settings."""
        stated = {**self.opening.arguments, **self.guessed, **settings}
        with _silent():
            return open_model(self.model, **self.machine.networks, **stated)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the notes of a model that was opened before."""
    logger = logging.getLogger("leadapron.models.foreign.opening")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _networks(model: str, opened: Opened) -> tuple[NamedNetwork, ...]:
    if opened.content is None or opened.limits is not None:
        return ()
    with open_file(Path(model)) as file, open_weights(file) as weights:
        if FORMAT in weights.metadata:
            return ()
        key = opened.stated.weights_key
        listed = networks_in(weights)
        return tuple(
            NamedNetwork(
                key=each.key if len(listed) > 1 else "",
                architecture=each.architecture,
                outputs=each.outputs,
                opened=len(listed) == 1 or key == each.key or each.key.startswith(f"{key}."),
            )
            for each in listed
        )


def _program(subject: _Subject) -> Program | None:
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


def _settings(subject: _Subject) -> dict[str, Setting]:
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
        now |= {
            "architecture": classifier.architecture,
            "normalisation": str(Normalisation((classifier.mean,), (classifier.std,))),
        }
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


def _without_films(subject: _Subject) -> Inspected:
    """What the file and its card say."""
    opened, settings = subject.opened, _settings(subject)
    return _summed_up(
        Inspected(
            model=named(subject.model),
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


def _with_films(subject: _Subject, cohort: Cohort, machine: Machine) -> Inspected:
    """What trials on clean films say in addition."""
    plain = _without_films(subject)
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
            settings[name] = _setting(name, value, "tried", f"tried: {evidence} than the others")
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
                "findings", given, "tried", "tried: each output fits its finding, on both halves"
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
            notes=(*plain.notes, *said(cohort.notes)),
            views=_views(bench, chosen, best.rows),
        )
    )


def _models(subject: _Subject) -> Callable[[str], BlackBox]:
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


def _image(subject: _Subject) -> Callable[[Point], Preprocessing]:
    now = subject.opened.classifier.preprocessing
    return lambda point: replace(now, size=point.size, aspect=point.aspect)


def _axes(subject: _Subject, films: FilmsAt) -> Axes:
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


def _scales(subject: _Subject) -> tuple[str, ...]:
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
    subject: _Subject, bench: Bench, chosen: Chosen, truth: Truth, known: Mapping[str, Any]
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
