"""The command repair: open a model and clean films, repair the model, write it and the proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from leadapron import store
from leadapron.detect.models.audit import Subject
from leadapron.detect.models.defaults import STEPS
from leadapron.detect.models.sweep import StampSweep
from leadapron.documents import read
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.jobs.audit import references_in
from leadapron.jobs.repair_inputs import (
    AS_GIVEN,
    DOCUMENT,
    LARGEST,
    MODEL,
    STAGES,
    read_audit,
    refuse_folder,
    refuse_training_films,
    settings_of,
)
from leadapron.models.classifier import save_classifier
from leadapron.models.foreign import Opened, file_of, open_model
from leadapron.models.stated import AS_FOUND, Opening
from leadapron.reading import read_regular
from leadapron.repairs import REPAIRS, returned
from leadapron.repairs.attempt import prepare, repair_case
from leadapron.repairs.plan import RepairPlan, refuse_method, refuse_model
from leadapron.repairs.proof.document import Repaired
from leadapron.repairs.proof.settings import Relearning
from leadapron.repairs.proof.stages import Stages
from leadapron.report.repair import write_repair
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.text import local_path
from leadapron.types import AUTO, Machine

__all__ = ["MOST_FILMS", "repair"]

MOST_FILMS = 1000
"""Clean films that are used, unless another number is given."""


@forgiving
def repair(  # noqa: PLR0913
    model: str | Path,
    clean: str,
    out: Path,
    *,
    method: str = "auto",
    audit: Path | None = None,
    reference: Path | None = None,
    films: int = MOST_FILMS,
    relearning: Relearning | None = None,
    exhaustive: bool = False,
    controls: bool = False,
    scan: bool = True,
    sweep: StampSweep | None = None,
    steps: int = STEPS,
    opening: Opening = AS_FOUND,
    machine: Machine = AUTO,
    **options: Any,
) -> Repaired:
    """Repair a backdoored model with clean films, and prove it on others of them.

    The films are divided by patient: half to repair, some to choose a repair, the rest for the
    proof, which is made once. A repair that was stopped goes on when it is called again.

    Args:
        model: a file of weights of a network.
        clean: films without a trigger and with true labels that the model wasn't trained on, as
            "nih:PATH"; the model's preprocessing is applied.
        out: folder for the repaired model, also in the format that it was given in, repair.html,
            repair.md and repair.json.
        method: a repair's name; "auto" climbs from the cheapest to the strongest until a check
            holds.
        audit: folder with the audit.json of this model; it is audited if left out.
        reference: folder of clean models of the same kind, as `audit` takes it.
        films: clean films that are used, at most.
        relearning: how it is tried to bring the backdoor back.
        exhaustive: try every square in the proof, not 299 drawn ones: days, which it says first.
        controls: measure plain fine-tuning and training from scratch on the same films too.
        scan: the scan of the clean films before they are used.
        sweep: how models are swept.
        steps: of trigger inversion, at most; 0 leaves it out.
        opening: what is stated of the model, and how it is opened.
        machine: where and how it is carried out.
        **options: the source's settings.

    Raises:
        UsageError: a black-box model, an unknown method, an audit of another model, or
            a folder that holds another repair.
        DataError: films that can't be used: too few, poisoned, or those of the training set; or a
            model at chance.
        LeadapronError: as `open_model` and `open_source`.
    """
    opened = open_model(model, **machine.networks, **opening.arguments)
    refuse_model(opened, str(model))
    refuse_method(method)
    if out.resolve() == file_of(Path(model)).resolve().parent:
        raise UsageError(f"{out} holds the model itself; choose another `out`")
    own = Subject(classifier=opened.classifier, name=local_path(str(model)), content=opened.content)
    found = None if audit is None else read_audit(audit, own)
    references = [] if reference is None else references_in(reference, own, machine)
    cohort = open_source(
        clean, preprocessing=opened.classifier.preprocessing, **machine.films, most=films, **options
    )
    plan = RepairPlan(
        method=method, audit=found, references=references, relearning=relearning or Relearning(),
        exhaustive=exhaustive, controls=controls, scan=scan, sweep=sweep, steps=steps,
    )  # fmt: skip
    return _carried_out(Path(model), opened, cohort, plan, out, machine)


def _carried_out(
    model: Path, opened: Opened, cohort: Cohort, plan: RepairPlan, out: Path, machine: Machine
) -> Repaired:
    """Repair the open model, or go on where a stopped repair ended, and write it and its proof."""
    settings, stages = settings_of(plan, opened, cohort), Stages(out / STAGES)
    refuse_folder(out, stages)
    with store.lock(out):
        stages.refuse_other(settings, out)
        if (out / DOCUMENT).exists():
            return read(Repaired, read_regular(out / DOCUMENT, LARGEST), DOCUMENT)
        refuse_training_films(model, cohort, machine)
        name = local_path(str(model))
        case = prepare(opened, cohort, plan, name=name, stages=stages, machine=machine)
        store.remove_parts(out)
        stages.begin(settings)
        made, repaired = repair_case(case)
        if repaired is not None:
            save_classifier(repaired, out / MODEL)
            given = returned(opened, model, repaired, case.films.proof, out / AS_GIVEN)
            made = replace(
                made,
                written=str(out / MODEL),
                as_given=None if given.file is None else str(given.file),
                notes=(*made.notes, *given.notes),
            )
        write_repair(out, made)
        stages.clear(REPAIRS)
    return made
