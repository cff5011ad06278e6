"""Backdoors in chest-radiograph classifiers: measured, found, screened out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadapron.api.films import CleanResult as CleanResult
    from leadapron.api.films import DescribeResult as DescribeResult
    from leadapron.api.films import ScanResult as ScanResult
    from leadapron.api.films import clean as clean
    from leadapron.api.films import describe as describe
    from leadapron.api.films import scan as scan
    from leadapron.api.gates import Gate as Gate
    from leadapron.api.models import AuditResult as AuditResult
    from leadapron.api.models import CalibrateResult as CalibrateResult
    from leadapron.api.models import ExplainResult as ExplainResult
    from leadapron.api.models import InspectResult as InspectResult
    from leadapron.api.models import ScreenResult as ScreenResult
    from leadapron.api.models import audit as audit
    from leadapron.api.models import calibrate as calibrate
    from leadapron.api.models import explain as explain
    from leadapron.api.models import extend_gate as extend_gate
    from leadapron.api.models import inspect as inspect
    from leadapron.api.models import screen as screen
    from leadapron.api.repairing import RepairResult as RepairResult
    from leadapron.api.repairing import repair as repair
    from leadapron.api.studies import StudyResult as StudyResult
    from leadapron.api.studies import run_study as run_study
    from leadapron.attacks.poisoning import Poisoning as Poisoning
    from leadapron.attacks.poisoning import poison as poison
    from leadapron.attacks.triggers import Blend as Blend
    from leadapron.attacks.triggers import Patch as Patch
    from leadapron.errors import LeadapronError as LeadapronError
    from leadapron.films.cohort import AnswerKey as AnswerKey
    from leadapron.films.cohort import Cohort as Cohort
    from leadapron.films.cohort import Overlay as Overlay
    from leadapron.films.cohort import split_by_patient as split_by_patient
    from leadapron.films.preprocessing import Preprocessing as Preprocessing
    from leadapron.jobs.screen import open_gate as open_gate
    from leadapron.models.classifier import load_classifier as load_classifier
    from leadapron.models.classifier import save_classifier as save_classifier
    from leadapron.models.foreign import open_model as open_model
    from leadapron.models.training import Training as Training
    from leadapron.models.training import train as train
    from leadapron.report.page import write_report as write_report
    from leadapron.results.table import load_rows as load_rows
    from leadapron.sources import open_source as open_source
    from leadapron.types import Machine as Machine

__version__ = "0.1.0"

_HOME = {
    # Films.
    "scan": "api.films",
    "describe": "api.films",
    "clean": "api.films",
    "open_source": "sources",
    "poison": "attacks.poisoning",
    "split_by_patient": "films.cohort",
    # Models, and the films that they read.
    "inspect": "api.models",
    "audit": "api.models",
    "calibrate": "api.models",
    "extend_gate": "api.models",
    "repair": "api.repairing",
    "screen": "api.models",
    "explain": "api.models",
    "open_model": "models.foreign",
    "open_gate": "jobs.screen",
    "train": "models.training",
    "load_classifier": "models.classifier",
    "save_classifier": "models.classifier",
    # Studies.
    "run_study": "api.studies",
    "load_rows": "results.table",
    "write_report": "report",
    # What they take and give.
    "AnswerKey": "films.cohort",
    "AuditResult": "api.models",
    "Blend": "attacks.triggers",
    "CalibrateResult": "api.models",
    "CleanResult": "api.films",
    "Cohort": "films.cohort",
    "DescribeResult": "api.films",
    "ExplainResult": "api.models",
    "Gate": "api.gates",
    "InspectResult": "api.models",
    "LeadapronError": "errors",
    "Machine": "types",
    "Overlay": "films.cohort",
    "Patch": "attacks.triggers",
    "Poisoning": "attacks.poisoning",
    "Preprocessing": "films.preprocessing",
    "RepairResult": "api.repairing",
    "ScanResult": "api.films",
    "ScreenResult": "api.models",
    "StudyResult": "api.studies",
    "Training": "models.training",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that `import leadapron` costs nothing and never loads torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"leadapron.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
