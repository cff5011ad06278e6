"""The command audit: open a model, reference models and clean films, and audit the model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from leadapron.detect.models import StampSweep
from leadapron.detect.models.audit import Audit, Subject, audit_subject
from leadapron.detect.models.defaults import FALSE_ALARM, FILMS, STEPS
from leadapron.detect.models.second_tier import SecondTier, films_wanted
from leadapron.errors import StoreError, UsageError
from leadapron.films.cache import default_folder
from leadapron.films.cohort import subsample
from leadapron.models.bounds import unbounded
from leadapron.models.foreign import open_model
from leadapron.models.protocols import Differentiable
from leadapron.models.stated import AS_FOUND, Opening
from leadapron.results.layout import ZooFolder
from leadapron.results.zoo import read_truth
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.text import local_path
from leadapron.types import AUTO, Machine

__all__ = ["audit", "references_in"]


@forgiving
def audit(  # noqa: PLR0913 (settings, by keyword)
    model: str | Path,
    clean: str,
    *,
    reference: Path | None = None,
    false_alarm: float = FALSE_ALARM,
    films: int = FILMS,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    statistics: bool = True,
    students: int | None = None,
    opening: Opening = AS_FOUND,
    machine: Machine = AUTO,
    **options: Any,
) -> Audit:
    """Audit a model for a backdoor, with clean films.

    Sweeps and measurements are kept in the cache: a model is swept and measured once on the same
    films.

    Args:
        model: a file of weights, a TorchScript, ONNX or Keras file, or "module:function".
        clean: films without a trigger that the model wasn't trained on, as "nih:PATH"; the model's
            preprocessing is applied.
        reference: folder of clean reference models (.safetensors) of the same architecture,
            findings and preprocessing, trained on films like the model's; its folders are searched
            too. Of a zoo only the clean models are used. Without reference models the model is
            compared with its students.
        false_alarm: false-positive rate on clean models, above 0 and below 1.
        films: largest number of clean films that are used.
        sweep: settings of the sweep.
        steps: largest number of trigger-inversion steps; 0 leaves trigger inversion out.
        statistics: further statistics of the network, among them the maximum margin, which decides
            if no mark is significant. They take time, also for each reference model.
        students: number of students, networks that learn the model's outputs on clean films and no
            trigger, where there are no reference models; 0 makes none. If left out, 5 that take at
            most half an hour.
        opening: what is stated of the model, and how it is opened.
        machine: device, precision, backend, cache and progress.
        **options: settings of the source.

    Raises:
        UsageError: a rate out of range, or no reference model in the folder.
        LeadapronError: as `open_model`, `open_source` and `audit_subject`.
    """
    opened = open_model(model, **machine.networks, **opening.arguments)
    cohort = open_source(
        clean,
        preprocessing=opened.classifier.preprocessing,
        **machine.films,
        most=films_wanted(films, students) if reference is None else films,
        **options,
    )
    second = None if reference is not None else SecondTier.of(cohort, students)
    cohort = cohort.take(subsample(len(cohort), films))
    own = Subject.of(opened, local_path(str(model)), cohort)
    others = [] if reference is None else references_in(reference, own, machine)
    return audit_subject(
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


def references_in(folder: Path, own: Subject, machine: Machine) -> list[Subject]:
    """Return the clean models of a folder, without the audited model.

    Args:
        folder: as the argument `reference` of `audit`.
        own: the audited model.
        machine: device and precision of the models.

    Raises:
        UsageError: no folder, or no model in it.
        StoreError: a model with another architecture or other input images.
    """
    if not folder.is_dir():
        raise UsageError(f"`reference` {folder} is no folder; expected a folder of clean models")
    classifier = own.classifier
    found: list[Subject] = []
    for path in clean_models(folder):
        opened = open_model(path, **machine.networks)
        other = opened.classifier
        if opened.content == own.content:
            continue
        if isinstance(classifier, Differentiable) and (
            not isinstance(other, Differentiable)
            or unbounded(other.architecture) != unbounded(classifier.architecture)
        ):
            kind = unbounded(classifier.architecture)
            raise StoreError(f"{path.name} is not a {kind} as the audited model is")
        if other.preprocessing != classifier.preprocessing:
            ours, theirs = asdict(classifier.preprocessing), asdict(other.preprocessing)
            odd = ", ".join(f"{n} {theirs[n]}, not {ours[n]}" for n in ours if theirs[n] != ours[n])
            raise StoreError(f"{path.name} takes other images than the audited model: {odd}")
        found.append(Subject.of(opened, path.name))
    if not found:
        raise UsageError(f"`reference` {folder} holds no .safetensors except the audited model")
    return found


def clean_models(folder: Path) -> list[Path]:
    """Return a zoo's clean models; for any other folder, all its models."""
    zoo = ZooFolder(folder)
    if zoo.finished:
        return [zoo.model(each.model) for each in read_truth(folder) if each.kind == "clean"]
    return sorted(folder.rglob("*.safetensors"))
