"""Modules that several tests load: all of the package, and benchmarks."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import leadapron

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OF_SERVE = (
    "fastapi",
    "highdicom",
    "httpx",
    "prometheus_client",
    "pynetdicom",
    "starlette",
    "uvicorn",
)
"""Libraries of the extra serve, which `make test` does without."""


def load_package() -> None:
    """Import every module of the package, but those of the service if its libraries are missing."""
    for module in pkgutil.walk_packages(leadapron.__path__, "leadapron."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as missing:
            if missing.name not in OF_SERVE:
                raise


def benchmarks(*names: str) -> list[ModuleType]:
    """Return benchmarks: scripts that import one another from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(BENCHMARKS))
