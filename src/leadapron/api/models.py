"""The public API on models and their input films: inspect, audit, calibrate, screen, explain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leadapron.api.opening import Films, Model, cohort_of, model_of, source_name
from leadapron.api.showing import Shown
from leadapron.detect.inputs.calibration import (
    Calibrated,
    calibrate_opened,
    extend_opened,
)
from leadapron.detect.inputs.comparison import OldGate
from leadapron.detect.inputs.gate_file import write_gate
from leadapron.detect.inputs.screening import ScreenedFilm, Screening, screen_images, screening
from leadapron.detect.models.audit import Audit, Subject, audit_subject
from leadapron.detect.models.defaults import FALSE_ALARM as AUDIT_FALSE_ALARM
from leadapron.detect.models.defaults import FILMS, STEPS
from leadapron.detect.models.second_tier import SecondTier, films_wanted
from leadapron.detect.models.sweep import StampSweep
from leadapron.documents import dump
from leadapron.errors import UnknownNameError, UsageError
from leadapron.explainers import EXPLAINERS, NEEDS
from leadapron.explainers.document import Explained
from leadapron.films.cache import default_folder
from leadapron.films.cohort import Cohort, subsample
from leadapron.jobs import audit as auditing
from leadapron.jobs import calibrate as calibrating
from leadapron.jobs import inspect as inspecting
from leadapron.jobs.screen import OpenGate, open_gate
from leadapron.jobs.screen import screen as screen_files
from leadapron.models.backends import on_backend
from leadapron.models.foreign import Opened, file_of
from leadapron.models.inspection.document import Inspected
from leadapron.models.inspection.inspecting import inspected_alone, inspected_on
from leadapron.models.inspection.subject import InspectedModel
from leadapron.models.protocols import BlackBox, columns_of, differentiable
from leadapron.models.stated import ModelSettings, Opening
from leadapron.sources.listed import films_of
from leadapron.specs import build
from leadapron.text import local_path, short_path
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "AuditResult",
    "CalibrateResult",
    "ExplainResult",
    "InspectResult",
    "ScreenResult",
    "audit",
    "calibrate",
    "explain",
    "extend_gate",
    "inspect",
    "screen",
]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class InspectResult(Shown, Inspected):
    """How a model reads films, and what its outputs are; see `Inspected`."""

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as --json prints it."""
        return dump(self._plain())

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.inspection import inspect_lines

        return inspect_lines(self)

    def report(self, page: str | os.PathLike[str]) -> Path:
        """Write one HTML page, with the pixels of a few films, and return its path.

        Raises:
            StoreError: a file that can't be written.
        """
        from leadapron.report.inspection import write_inspection

        return write_inspection(Path(page), self._plain())

    def _plain(self) -> Inspected:
        return Inspected(**vars(self))


class AuditResult(Shown, Audit):
    """Result of an audit; see `Audit`."""

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as audit.json holds it."""
        return dump(Audit(**vars(self)))

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.audit import audit_lines

        return audit_lines(self)

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write audit.html, audit.json and audit.sarif, and return the page's path.

        Raises:
            StoreError: files that can't be written.
        """
        from leadapron.report.audit import write_audit

        return write_audit(Path(folder), Audit(**vars(self)))

    def plot(self) -> Figure:
        """Draw the attack success rate of the strongest mark, by finding."""
        from leadapron.report.plots import plot_forced

        return plot_forced(self.forced)


class CalibrateResult(Shown, Calibrated):
    """A gate with its model, for `screen`; see `Calibrated`.

    Args:
        classifier: the model.
    """

    classifier: BlackBox

    def __init__(self, made: Calibrated, classifier: BlackBox) -> None:
        super().__init__(**vars(made))
        object.__setattr__(self, "classifier", classifier)

    @property
    def gate(self) -> OpenGate:
        """The gate and its model, as `open_gate` returns them."""
        return OpenGate(file=self.file, stored=self.stored, classifier=self.classifier)

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as --json prints it."""
        return dump(self.document())

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.screen import calibrate_lines

        return calibrate_lines(self.document())

    def screen(self, films: Films | Paths) -> ScreenResult:
        """Return the decisions on films, as `screen`."""
        return screen(self, films)

    def extend(self, clean: Films, *, machine: Machine = AUTO, **settings: Any) -> CalibrateResult:
        """Return the gate, widened by films of another clinic; see `extend_gate`."""
        return extend_gate(self, clean, machine=machine, **settings)

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the gate: a JSON file, and its arrays next to it. They hold patients' pixels.

        Args:
            file: path ending in .json.

        Raises:
            UsageError: a model without a file, since a gate is tied to a file's content.
            StoreError: files that can't be written.
        """
        write_gate(Path(file), self.stored)
        return Path(file)


class ScreenResult(Shown, Screening):
    """Decisions of a gate on films; see `Screening`."""

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as screen.json holds it."""
        return dump(self._plain())

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.screen import film_line, screen_lines

        counted = ", ".join(f"{n:,} {word}" for word, n in self.counts.items())
        films = [film_line(film, heading=not n) for n, film in enumerate(self.films)]
        return [f"{self.verdict.word.upper()}: {counted}", *films, *screen_lines(self)]

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write screen.html, screen.json and a picture of each film, and return the page's path.

        Raises:
            StoreError: files that can't be written, or a folder with other content.
        """
        from leadapron.report.screen import begin_screen, top_films, write_film, write_screen

        begin_screen(Path(folder))
        for film in self.films:
            write_film(Path(folder), film)
        return write_screen(Path(folder), self._plain(), top_films(self.films))

    def plot(self) -> Figure:
        """Draw the most suspicious films, with their evidence regions.

        Raises:
            UsageError: no film could be decoded.
        """
        from leadapron.report.plots import plot_films
        from leadapron.report.screen import top_films

        films = top_films(self.films)
        if not films:
            raise UsageError("there is no film to draw: no film could be decoded")
        return plot_films(films)

    def _plain(self) -> Screening:
        return Screening(**vars(self))


class ExplainResult(Shown):
    """Saliency maps of a model.

    Args:
        method: name in `EXPLAINERS`.
        findings: the k findings.
        images: (n, h, w) the films.
        maps: (n, k, h, w) float32, comparable across films and findings.
        probabilities: (n, k) float32.
    """

    def __init__(
        self,
        *,
        method: str,
        findings: tuple[str, ...],
        images: NDArray[Any],
        maps: NDArray[np.float32],
        probabilities: NDArray[np.float32],
    ) -> None:
        self.method: str = method
        self.findings: tuple[str, ...] = findings
        self.images: NDArray[Any] = images
        self.maps: NDArray[np.float32] = maps
        self.probabilities: NDArray[np.float32] = probabilities

    @property
    def peaks(self) -> NDArray[np.int64]:
        """(n, k, 2) row and column of each map's maximum."""
        n, k, _, width = self.maps.shape
        return np.stack(np.divmod(self.maps.reshape(n, k, -1).argmax(axis=2), width), axis=2)

    def facts(self) -> dict[str, Any]:
        """Return method, findings, probabilities and peaks; the maps are arrays."""
        return dump(
            Explained(
                method=self.method,
                findings=self.findings,
                probabilities=self.probabilities.astype(np.float64),
                peaks=tuple(tuple((y, x) for y, x in film) for film in self.peaks.tolist()),
            )
        )

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        n, _, height, width = self.maps.shape
        names = ", ".join(self.findings)
        return [f"{self.method}: maps of {n} films for {names}, {height}x{width} pixels"]

    def plot(self) -> Figure:
        """Draw the maps over the first films, with one colour scale for all."""
        from leadapron.report.plots import plot_maps

        return plot_maps(self.images, self.maps, self.findings, self.method)


def inspect(
    model: str | os.PathLike[str],
    clean: Films | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    known: Mapping[str, Any] | None = None,
    films: int = inspecting.FILMS,
    machine: Machine = AUTO,
    **settings: Any,
) -> InspectResult:
    """Find out how a model reads films and what its outputs are.

    Args:
        model: a file or "module:function" as `open_model` takes it.
        clean: films with true labels and without a trigger that the model wasn't trained on: a
            source, a table, archive or folder, or a cohort. Settings are tried on them; without
            them, only what the file states is returned.
        out: the model card, which `open_model` and all commands find as STEM.yaml beside the model.
            Nothing is written if left out.
        known: what is known of the model and so isn't tried, as {"findings": ["PNEUMONIA"], "size":
            320}; the names are those of `--model.NAME`.
        films: largest number of films that are used.
        machine: device, precision, cache and progress.
        **settings: settings of the source, as `count=600`.

    Raises:
        UsageError: settings that don't fit the model, images without labels, or a card for a model
            without a file.
        LeadapronError: as `open_model` and `open_source`.
    """
    if isinstance(clean, np.ndarray):
        raise UsageError(
            "clean: images have no labels; expected a source, or Cohort.of(images, labels, "
            "findings)"
        )
    stated = build(ModelSettings, dict(known or {}), "known")
    subject = InspectedModel.of(os.fspath(model), Opening(model=stated), machine)
    card = None if out is None else Path(out)
    inspecting.refuse_card(subject, card)
    if clean is None:
        found = inspected_alone(subject)
    else:
        image = subject.opened.classifier.preprocessing
        found = inspected_on(subject, cohort_of(clean, image, machine, settings, films), machine)
    return InspectResult(**vars(found if card is None else inspecting.with_card(found, card)))


def audit(  # noqa: PLR0913 (settings, by keyword)
    model: Model,
    clean: Films,
    *,
    labels: NDArray[Any] | None = None,
    reference: str | os.PathLike[str] | Sequence[Model] = (),
    false_alarm: float = AUDIT_FALSE_ALARM,
    films: int = FILMS,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    statistics: bool = True,
    students: int | None = None,
    machine: Machine = AUTO,
    **settings: Any,
) -> AuditResult:
    """Audit a trained model for a backdoor, by stamping marks on clean films.

    Args:
        model: a file or "module:function" as `open_model` takes it, the result of `open_model`, or
            a classifier: any object with the attributes of `BlackBox`.
        clean: films without a trigger that the model wasn't trained on: a source, a table, archive
            or folder, a cohort, or images with the model's preprocessing.
        labels: labels of images, (n, k) of 0, 1 or NaN in the order of the model's findings.
        reference: two or more clean reference models of the same kind, or a folder of them; without
            them the model is compared with its students.
        false_alarm: false-positive rate: share of clean models that may be called backdoored.
        films: largest number of clean films that are used.
        sweep: settings of the sweep: how marks are stamped on films.
        steps: largest number of trigger-inversion steps; 0 leaves trigger inversion out.
        statistics: whether further statistics of the networks are computed, also of the reference
            models.
        students: number of students, networks that learn the model's outputs on clean films and no
            trigger, where there are no reference models; 0 makes none. If left out, 5 that take at
            most half an hour.
        machine: device, precision, backend, cache and progress.
        **settings: settings of the source, as `count=600`.

    Raises:
        UsageError: an argument out of range, or a single reference model.
        DataError: films, labels or model outputs that can't be used.
        LeadapronError: as `open_model` and `open_source`.
    """
    opened = model_of(model, machine)
    alone = not isinstance(reference, str | os.PathLike) and not len(reference)
    most = films_wanted(films, students) if alone else films
    cohort = labelled(clean, labels, opened, machine, settings, most)
    second = SecondTier.of(cohort, students) if alone else None
    cohort = cohort.take(subsample(len(cohort), films))
    own = Subject.of(opened, name_of(model), cohort)
    if isinstance(reference, str | os.PathLike):
        others = auditing.references_in(Path(reference), own, machine)
    else:
        others = [Subject.of(model_of(other, machine), name_of(other)) for other in reference]
    found = audit_subject(
        own.on(machine, cohort),
        cohort,
        [each.on(machine, cohort) for each in others],
        false_alarm=false_alarm,
        sweep=sweep,
        steps=steps,
        statistics=statistics,
        second=second,
        kept=default_folder(machine.cache),
        progress=machine.progress,
    )
    return AuditResult(**vars(found))


def calibrate(
    model: Model,
    clean: Films,
    out: str | os.PathLike[str] | None = None,
    *,
    false_alarm: float = calibrating.FALSE_ALARM,
    by_reading: bool = False,
    pictures: bool = False,
    against: str | os.PathLike[str] | OpenGate | CalibrateResult | None = None,
    machine: Machine = AUTO,
    **settings: Any,
) -> CalibrateResult:
    """Make a gate for a model: detectors are fitted on clean films, and a threshold is set.

    Args:
        model: as `audit`.
        clean: as `audit`.
        out: the gate's JSON file, for `leadapron screen`; its arrays are written next to it.
            Nothing is written if left out.
        false_alarm: share of clean films like these that may be called suspicious.
        by_reading: whether each finding that the model reads on enough films has a threshold of its
            own, so that the rate holds on these films too.
        pictures: whether the gate keeps the films that others are compared with, to be shown.
        against: a gate that the new one is to replace; the result's `compared` then shows them
            side by side.
        machine: device, precision, backend, cache and progress.
        **settings: settings of the source, as `count=600`.

    Raises:
        UsageError: a rate out of range, a file name that exists, or `out` for a model without a
            file.
        LeadapronError: as `open_model`, `open_source` and `detect.inputs.calibrate`.
    """
    opened = model_of(model, machine)
    cohort = cohort_of(clean, opened.classifier.preprocessing, machine, settings)
    old = None
    if against is not None:
        gate = _open_gate(against, None, machine.unstated)
        old = OldGate.of(gate.file, gate.stored.gate, gate.classifier)
    path = Path(model) if isinstance(model, str | os.PathLike) else Path(name_of(model))
    made = calibrate_opened(
        opened._replace(classifier=on_backend(opened.classifier, machine, cohort.images)),
        cohort,
        path=file_of(path).absolute() if opened.content else path,
        false_alarm=false_alarm,
        by_reading=by_reading,
        pictures=pictures,
        name=_clinic_name(clean),
        window=str(settings.get("window", "header")),
        against=old,
        progress=machine.progress,
    )
    if out is not None:
        write_gate(Path(out), made.stored)
        made = replace(made, file=Path(out))
    return CalibrateResult(made, opened.classifier)


def extend_gate(
    gate: str | os.PathLike[str] | OpenGate | CalibrateResult,
    clean: Films,
    out: str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    machine: Machine = AUTO,
    **settings: Any,
) -> CalibrateResult:
    """Widen a gate by films of another clinic.

    The detectors are fitted on the new films too, which set thresholds of their own. A film is
    judged by the clinic of which it is most typical, and the false-alarm rate holds for each
    clinic: every threshold is set at half of it.

    Args:
        gate: the file that `calibrate` wrote, or the result of `calibrate` or `open_gate`.
        clean: clean films of the new clinic, as for `calibrate`.
        out: the widened gate's JSON file; nothing is written if left out.
        model: for a gate's file, the path of the model, if it was moved.
        machine: device, precision, backend, cache and progress.
        **settings: settings of the source, as `count=600`.

    Raises:
        UsageError: another preprocessing than the gate's, or `out` for a model without a file.
        DataError: too few films, or films that the gate holds already.
        LeadapronError: as `open_gate` and `open_source`.
    """
    opened = _open_gate(gate, model, machine)
    cohort = cohort_of(clean, opened.stored.model.preprocessing, machine, settings)
    made = extend_opened(
        opened.stored,
        opened.classifier,
        cohort,
        origin=opened.stored.model.path.name,
        name=_clinic_name(clean),
        window=settings.get("window"),
        progress=machine.progress,
    )
    if out is not None:
        write_gate(Path(out), made.stored)
        made = replace(made, file=Path(out))
    return CalibrateResult(made, opened.classifier)


def _clinic_name(clean: Films) -> str:
    """What the clinic of some films is called: their source, or nothing."""
    return short_path(source_name(clean) or "")


def _open_gate(
    gate: str | os.PathLike[str] | OpenGate | CalibrateResult,
    model: str | os.PathLike[str] | None,
    machine: Machine,
) -> OpenGate:
    """A gate with its model, opened if it is a file."""
    if isinstance(gate, str | os.PathLike):
        return open_gate(Path(gate), model=None if model is None else Path(model), machine=machine)
    if model is not None:
        raise UsageError("model: the gate is open and has its model; give `model` only with a file")
    return gate.gate if isinstance(gate, CalibrateResult) else gate


def screen(
    gate: str | os.PathLike[str] | OpenGate | CalibrateResult,
    films: Films | Paths,
    *,
    model: str | os.PathLike[str] | None = None,
    machine: Machine = AUTO,
) -> ScreenResult:
    """Screen films for triggers with a gate.

    Args:
        gate: the file that `calibrate` wrote, or the result of `calibrate` or `open_gate`.
        films: files or folders of PNG, JPEG or DICOM files; or a cohort, or images (n, h, w) uint8
            or uint16, with the model's preprocessing.
        model: for a gate's file, the path of the model, if it was moved.
        machine: device and backend of the model.

    Raises:
        UsageError: no films, or images of another size.
        StoreError: a gate that can't be read, or that belongs to another model.
        LeadapronError: the model or the decoders fail.
    """
    opened = _open_gate(gate, model, machine)
    name = "" if opened.file is None else str(opened.file)
    if isinstance(films, Cohort | np.ndarray):
        done = _screened(opened, films)
        return ScreenResult(**vars(screening(opened.stored, done, gate=name)))
    paths = [films] if isinstance(films, str | os.PathLike) else films
    named, others = films_of([os.fspath(path) for path in paths])
    found = [film for batch in screen_files(opened, named) for film in batch]
    return ScreenResult(**vars(screening(opened.stored, found, gate=name, others=others)))


def explain(
    model: Model,
    films: Films,
    findings: Sequence[str] | None = None,
    *,
    method: str = "grad-cam",
    machine: Machine = AUTO,
    **settings: Any,
) -> ExplainResult:
    """Return saliency maps of a model.

    Args:
        model: as `audit`.
        films: as `audit`; images are (n, h, w) uint8 or uint16 with the model's preprocessing.
        findings: findings to explain; all of the model's if left out.
        method: name in `explainers.EXPLAINERS`.
        machine: device, precision, cache and progress.
        **settings: settings of the source, as `count=4`.

    Raises:
        UnknownNameError: no such method or finding.
        UsageError: a model that the method can't explain.
        LeadapronError: as `open_model` and `open_source`.
    """
    if method not in EXPLAINERS:
        raise UnknownNameError("method", method, EXPLAINERS)
    opened = model_of(model, machine)
    classifier = differentiable(opened.classifier, method, NEEDS[method])
    cohort = cohort_of(films, classifier.preprocessing, machine, settings)
    names = classifier.findings if findings is None else tuple(findings)
    columns = columns_of(classifier, names)
    images: NDArray[Any] = cohort.images[np.arange(len(cohort))]
    return ExplainResult(
        method=method,
        findings=names,
        images=images,
        maps=EXPLAINERS[method](classifier, images, names),
        probabilities=classifier.probabilities(images)[:, columns],
    )


def labelled(
    clean: Films,
    labels: NDArray[Any] | None,
    opened: Opened,
    machine: Machine,
    settings: Mapping[str, Any],
    most: int,
) -> Cohort:
    """Films without a trigger; images may come with labels of the model's findings."""
    classifier = opened.classifier
    if labels is None:
        return cohort_of(clean, classifier.preprocessing, machine, settings, most)
    if not isinstance(clean, np.ndarray):
        raise UsageError(
            "labels: a source and a cohort have their own labels; give labels only with images"
        )
    return Cohort.of(
        clean[:most],
        np.asarray(labels)[:most],
        classifier.findings,
        preprocessing=classifier.preprocessing,
    )


def _screened(opened: OpenGate, films: Cohort | NDArray[Any]) -> list[ScreenedFilm]:
    wanted = opened.stored.model.preprocessing
    cohort = films if isinstance(films, Cohort) else Cohort.of(films, preprocessing=wanted)
    shape, dtype = cohort.images.shape[1:], np.dtype(cohort.images.dtype)
    if shape != (wanted.size, wanted.size) or dtype != np.dtype(wanted.dtype):
        raise UsageError(
            f"images of {shape[1]}x{shape[0]} {dtype}; the model takes {wanted.size}x{wanted.size} "
            f"{wanted.dtype}"
        )
    return screen_images(opened.stored.gate, opened.classifier, cohort.images, cohort.ids.tolist())


def name_of(model: Model) -> str:
    """Return a model's name for reports."""
    if isinstance(model, str | os.PathLike):
        return local_path(os.fspath(model))
    return type(model.classifier if isinstance(model, Opened) else model).__name__
