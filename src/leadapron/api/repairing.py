"""The public API on repairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from leadapron.api.models import labelled, name_of
from leadapron.api.opening import Films, Model, model_of
from leadapron.api.showing import Shown
from leadapron.detect.models.audit import Audit, Subject
from leadapron.detect.models.defaults import STEPS
from leadapron.detect.models.sweep import StampSweep
from leadapron.documents import dump
from leadapron.errors import UsageError
from leadapron.jobs import audit as auditing
from leadapron.jobs.repair import MOST_FILMS
from leadapron.models.classifier import NetworkClassifier, save_classifier
from leadapron.models.foreign import Opened
from leadapron.models.foreign.returning import write_as_given
from leadapron.models.protocols import BlackBox, differentiable
from leadapron.repairs import unwritable
from leadapron.repairs.attempt import repair_opened
from leadapron.repairs.plan import RepairPlan, refuse_model
from leadapron.repairs.proof.document import Repaired
from leadapron.repairs.proof.settings import Relearning
from leadapron.types import AUTO, Machine

__all__ = ["RepairResult", "repair"]


class RepairResult(Shown, Repaired):
    """Result of a repair; see `Repaired`.

    Args:
        classifier: the repaired model; None if there was nothing to repair.
    """

    classifier: BlackBox | None
    _original: tuple[Opened, Path | None]

    def __init__(
        self, made: Repaired, classifier: BlackBox | None, opened: Opened, source: Path | None
    ) -> None:
        super().__init__(**vars(made))
        object.__setattr__(self, "classifier", classifier)
        object.__setattr__(self, "_original", (opened, source))

    @property
    def document(self) -> Repaired:
        """The content of repair.json."""
        return Repaired(**{each.name: getattr(self, each.name) for each in fields(Repaired)})

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as repair.json holds it."""
        return dump(self.document)

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.repair import repair_lines

        return repair_lines(self)

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write repair.html, repair.md and repair.json, and return the page's path.

        Raises:
            StoreError: files that can't be written.
        """
        from leadapron.report.repair import write_repair

        return write_repair(Path(folder), self.document)

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the repaired model, as `save_classifier`, and return the file's path.

        Raises:
            UsageError: there was nothing to repair.
            StoreError: a file that can't be written.
        """
        save_classifier(self._repaired(), Path(file))
        return Path(file)

    def save_as_given(self, file: str | os.PathLike[str]) -> Path:
        """Write the repaired model as the state dict of another library that it was given as.

        Args:
            file: without an ending; .safetensors or .pt is added, by the file that was given.

        Returns:
            The file's path.

        Raises:
            UsageError: there was nothing to repair, no file of a state dict of another library was
                given, or it has no place for the repaired model's layers.
            StoreError: the given file was changed, or a file that can't be written.
        """
        repaired, (opened, source) = self._repaired(), self._original
        if opened.given is None or opened.content is None or source is None:
            raise UsageError(
                "the model wasn't given as a file with a state dict of another library; use `save`"
            )
        original = differentiable(opened.classifier, "a repair")
        if words := unwritable(original, repaired):
            raise UsageError(f"the format of {source.name} {words}; use `save`")
        return write_as_given(opened.given, opened.content, source, repaired.module, Path(file))

    def _repaired(self) -> NetworkClassifier:
        if not isinstance(self.classifier, NetworkClassifier):
            raise UsageError("nothing was repaired, so there is no repaired model to save")
        return self.classifier


def repair(  # noqa: PLR0913
    model: Model,
    clean: Films,
    *,
    labels: NDArray[Any] | None = None,
    method: str = "auto",
    audit: Audit | None = None,
    reference: str | os.PathLike[str] | Sequence[Model] = (),
    films: int = MOST_FILMS,
    relearning: Relearning | None = None,
    exhaustive: bool = False,
    controls: bool = False,
    scan: bool = True,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    machine: Machine = AUTO,
    **settings: Any,
) -> RepairResult:
    """Repair a backdoored model with clean films, and verify the repair on held-out films.

    Nothing is written; `RepairResult.save` and `report` write. The model itself isn't changed.

    Args:
        model: a file as `open_model` takes it, the result of `open_model`, or a classifier with a
            network.
        clean: films without a trigger and with true labels that the model wasn't trained on: a
            source, a table, archive or folder, a cohort, or images with the model's preprocessing.
        labels: labels of images, (n, k) of 0, 1 or NaN in the order of the model's findings.
        method: a repair's name; "auto" tries repairs from the cheapest to the strongest until a
            check passes.
        audit: an audit of this model; made here if left out.
        reference: two or more clean reference models of the same kind, or a folder of them.
        films: largest number of clean films that are used.
        relearning: settings of the relearning attack, which tries to restore the backdoor.
        exhaustive: test every square in the proof, not a random sample of 299; it may take days.
        controls: measure plain fine-tuning and training from scratch on the same films too.
        scan: whether the clean films are scanned before they are used.
        sweep: settings of the models' sweeps.
        steps: most steps of trigger inversion; 0 omits it.
        machine: device, precision, cache and progress.
        **settings: settings of the source, as `count=800`; `source_seed=1` for one of the name of
            an argument here.

    Raises:
        UsageError: a black-box model, or an unknown method.
        DataError: too few films, poisoned films, or a model no better than chance.
        LeadapronError: as `open_model` and `open_source`.
    """
    opened = model_of(model, machine)
    refuse_model(opened, name_of(model))
    cohort = labelled(clean, labels, opened, machine, settings, films)
    own = Subject(classifier=opened.classifier, name=name_of(model), content=opened.content)
    if isinstance(reference, str | os.PathLike):
        others = auditing.references_in(Path(reference), own, machine)
    else:
        others = [
            Subject(classifier=each.classifier, name=name_of(other), content=each.content)
            for other in reference
            for each in (model_of(other, machine),)
        ]
    plan = RepairPlan(
        method=method, audit=audit, references=others, relearning=relearning or Relearning(),
        exhaustive=exhaustive, controls=controls, scan=scan, sweep=sweep, steps=steps,
    )  # fmt: skip
    made, repaired = repair_opened(opened, cohort, plan, name=name_of(model), machine=machine)
    source = Path(model) if isinstance(model, str | os.PathLike) else None
    return RepairResult(made, repaired, opened, source)
