"""The command audit: open a model, its references and clean films, and audit the one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leadapron.detect.models import StampSweep
from leadapron.detect.models.audit import Audit, Subject, audit_subject
from leadapron.detect.models.defaults import FALSE_ALARM, FILMS, STEPS
from leadapron.errors import StoreError, UsageError
from leadapron.films.cache import default_folder
from leadapron.models.bounds import unbounded
from leadapron.models.foreign import open_model
from leadapron.models.protocols import Differentiable
from leadapron.results.layout import ZooFolder
from leadapron.results.zoo import read_truth
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.text import short_path
from leadapron.types import AUTO, Machine

__all__ = ["audit", "named", "references_in"]


@forgiving
def audit(
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
    machine: Machine = AUTO,
    **options: Any,
) -> Audit:
    """Look for a backdoor in a model, with films without a trigger.

    What is made of each model is kept in the cache: the same model is swept and measured once on
    the same films.

    Args:
        model: a file of weights, a TorchScript or ONNX file, or "module:function".
        clean: films without a trigger that the model wasn't trained on, as "nih:PATH"; the model's
            preprocessing is applied.
        reference: folder of clean models (.safetensors) of the same architecture, findings and
            preprocessing, trained on films as the model's; looked for in its folders too. Of a zoo
            only the clean ones count. Without references the answer is at most "unusual".
        false_alarm: rate of clean models that may be called backdoored, above 0 and below 1.
        films: clean films that are looked at, at most.
        sweep: how it is swept.
        steps: steps of trigger inversion, at most; 0 leaves it out.
        statistics: the network's further statistics, the maximum margin among them, which counts
            where no mark is significant. They take time, for each reference too.
        opening: further options of `open_model`: findings, normalisation, architecture, ...
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        UsageError: a rate out of range, or no reference in the folder.
        LeadapronError: as `open_model`, `open_source` and `audit_subject`.
    """
    opened = open_model(model, **machine.networks, **(opening or {}))
    cohort = open_source(
        clean,
        preprocessing=opened.classifier.preprocessing,
        **machine.films,
        most=films,
        **options,
    )
    own = Subject.of(opened, named(str(model)), cohort)
    others = [] if reference is None else references_in(reference, own, machine)
    return audit_subject(
        own,
        cohort,
        others,
        false_alarm=false_alarm,
        sweep=sweep,
        steps=steps,
        statistics=statistics,
        kept=default_folder(machine.cache),
        progress=machine.progress,
    )


def named(model: str) -> str:
    """Return a model's path from the working folder, or its name where it isn't below that."""
    below = Path(model).is_absolute() and Path(model).is_relative_to(Path.cwd())
    return str(Path(model).relative_to(Path.cwd())) if below else short_path(model)


def references_in(folder: Path, own: Subject, machine: Machine) -> list[Subject]:
    """Return the clean models of a folder, but for the audited one itself.

    Args:
        folder: as the argument `reference` of `audit`.
        own: the audited model.
        machine: where they run.

    Raises:
        UsageError: no folder, or none in it.
        StoreError: a model of another architecture, or that takes other images.
    """
    if not folder.is_dir():
        raise UsageError(f"`reference` {folder} is no folder; expected one of clean models")
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
            raise StoreError(f"{path.name} is not a {kind}, as the model is")
        if other.preprocessing != classifier.preprocessing:
            ours, theirs = asdict(classifier.preprocessing), asdict(other.preprocessing)
            odd = ", ".join(f"{n} {theirs[n]}, not {ours[n]}" for n in ours if theirs[n] != ours[n])
            raise StoreError(f"{path.name} takes other images than the model: {odd}")
        found.append(Subject.of(opened, path.name))
    if not found:
        raise UsageError(f"`reference` {folder} holds no .safetensors but the model itself")
    return found


def clean_models(folder: Path) -> list[Path]:
    """Return a zoo's clean models; of any other folder all there are."""
    zoo = ZooFolder(folder)
    if zoo.finished:
        return [zoo.model(each.model) for each in read_truth(folder) if each.kind == "clean"]
    return sorted(folder.rglob("*.safetensors"))
