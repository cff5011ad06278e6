"""What a repair starts from besides its model: an audit, a folder, films that may be refused."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from leadapron import store
from leadapron.detect.models.audit import Audit, Subject
from leadapron.documents import dump, read
from leadapron.errors import DataError, LeadapronError, StoreError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.duplicates import near_pairs, thumbnails
from leadapron.models.foreign import Opened
from leadapron.reading import read_regular
from leadapron.repairs.plan import RepairPlan
from leadapron.repairs.proof.document import Repaired
from leadapron.repairs.proof.stages import Stages
from leadapron.results.layout import RunFolder
from leadapron.sources import open_source
from leadapron.study.run import divide
from leadapron.types import Machine

__all__ = [
    "AS_GIVEN",
    "DOCUMENT",
    "LARGEST",
    "MODEL",
    "STAGES",
    "read_audit",
    "refuse_folder",
    "refuse_training_films",
    "settings_of",
]

logger = logging.getLogger(__name__)

MODEL, AS_GIVEN = RunFolder(Path()).classifier.name, "model-as-given"
DOCUMENT, STAGES = "repair.json", ".stages"

LARGEST = 1 << 28
"""Bytes of an audit.json or a repair.json that is read."""


def settings_of(plan: RepairPlan, opened: Opened, cohort: Cohort) -> dict[str, Any]:
    """Return what decides a repair's result, as JSON takes it.

    Args:
        plan: of the repair.
        opened: the model.
        cohort: the clean films.
    """
    return {
        "schema": Repaired.SCHEMA,
        "results_version": store.RESULTS_VERSION,
        "model": opened.content,
        "films": cohort.fingerprint,
        "audit": None if plan.audit is None else dump(plan.audit),
        "references": [each.content for each in plan.references],
        "method": plan.method,
        "relearning": _plain(plan.relearning),
        "exhaustive": plan.exhaustive,
        "controls": plan.controls,
        "steps": plan.steps,
        "sweep": None if plan.sweep is None else _plain(plan.sweep),
    }


def _plain(settings: Any) -> Any:
    """A dataclass of settings as JSON gives it back."""
    return json.loads(store.canonical_json(asdict(settings)))


def refuse_folder(out: Path, stages: Stages) -> None:
    """Raise StoreError for a folder with files of these names that no repair of this kind wrote.

    Args:
        out: the folder.
        stages: in it.
    """
    if not stages.begun:
        for name in (MODEL, DOCUMENT):
            if (out / name).exists():
                raise StoreError(f"{out} holds a {name} of something else; choose another `out`")


def read_audit(folder: Path, own: Subject) -> Audit:
    """Return the audit in a folder.

    Args:
        folder: it holds audit.json; or that file itself.
        own: the model under repair.

    Raises:
        UsageError: no audit there, or one of another model.
    """
    path = folder / "audit.json" if folder.is_dir() else folder
    try:
        found = read(Audit, read_regular(path, LARGEST), path.name)
    except OSError as error:
        raise UsageError(
            f"`audit` {folder}: no audit.json there; expected what `leadapron audit --out` wrote"
        ) from error
    other = found.content is not None and own.content is not None and found.content != own.content
    if other or {each.finding for each in found.forced} != set(own.classifier.findings):
        raise UsageError(
            f"`audit` {folder} is of another model, {found.model}; audit {own.name} again"
        )
    return found


def refuse_training_films(model: Path, cohort: Cohort, machine: Machine) -> None:
    """Raise DataError where clean films are those that the model's run was trained on.

    Nothing is said of a model beside which no run lies.

    Args:
        model: its file.
        cohort: the clean films.
        machine: how the run's films are opened.
    """
    run = RunFolder(model.parent)
    if not run.spec.is_file():
        return
    try:
        spec = run.facts().spec
        source = dict(spec["source"])
        theirs = open_source(
            source.pop("name"), preprocessing=cohort.preprocessing, **machine.films, **source
        )
        trained = divide(theirs, int(spec["seed"]))["train"]
    except (LeadapronError, KeyError, TypeError, ValueError) as error:
        logger.warning("the films of the model's run can't be compared: %s", error)
        return
    thumbs = np.concatenate(
        [thumbnails(each.images[np.arange(len(each))]) for each in (cohort, trained)]
    )
    pairs = near_pairs(thumbs)
    copies = np.unique(pairs.first[(pairs.first < len(cohort)) & (pairs.second >= len(cohort))])
    if len(copies) > len(cohort) // 100:
        raise DataError(
            f"{len(copies)} of {len(cohort):,} clean films are copies of films that the model was "
            f"trained on, first {cohort.ids[copies[0]]}; give films that it never saw"
        )
