"""Backdoors in chest-radiograph classifiers: measured, found, screened out."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Cohort": "cohort",
    "Overlay": "cohort",
    "AnswerKey": "cohort",
    "split_by_patient": "cohort",
    "Preprocessing": "preprocessing",
    "open_source": "sources",
    "Blend": "triggers",
    "Patch": "triggers",
    "Poisoning": "poison",
    "load_classifier": "classifier",
    "save_classifier": "classifier",
    "Training": "train",
    "run_study": "study",
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
