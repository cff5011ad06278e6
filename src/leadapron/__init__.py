"""Backdoors in chest-radiograph classifiers: measured, found, screened out."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Cohort": "films.cohort",
    "Overlay": "films.cohort",
    "AnswerKey": "films.cohort",
    "split_by_patient": "films.cohort",
    "Preprocessing": "films.preprocessing",
    "open_source": "sources",
    "Blend": "attacks.triggers",
    "Patch": "attacks.triggers",
    "Poisoning": "attacks.poisoning",
    "load_classifier": "models.classifier",
    "save_classifier": "models.classifier",
    "Training": "models.training",
    "run_study": "study.run",
    "write_report": "report",
    "LeadapronError": "errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that `import leadapron` costs nothing and never loads torch.
    # Functions that share their module's name (poison, train) are imported from there.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"leadapron.{_HOME[name]}"), name)
    globals()[name] = value
    return value
