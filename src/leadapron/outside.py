"""SHA-256 of external code, which identifies its behaviour."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from leadapron.errors import StoreError, UsageError
from leadapron.store import reason

__all__ = ["code_of"]

PACKAGE = __name__.partition(".")[0]


def code_of(component: Any, words: str) -> str:
    """Return the SHA-256 of a component's source; "" for this package's own.

    The source is its module's file and those of its base classes; for a module in a package, all
    Python files of that package. Other imports aren't included.

    Args:
        component: a class, function or object.
        words: description, for messages.

    Raises:
        UsageError: it has no source file, so a change couldn't be detected.
        StoreError: a file that can't be read.
    """
    while isinstance(component, functools.partial):
        component = component.func
    if not inspect.isclass(component) and not inspect.isroutine(component):
        component = type(component)
    own = component.__module__
    if _top(own) == PACKAGE:
        return ""
    files = _files(own)
    if not files:
        raise UsageError(
            f"{words} has no source file (module {own}), so a change couldn't be detected; "
            "define it in a separate file"
        )
    if inspect.isclass(component):
        bases = {base.__module__ for base in inspect.getmro(component)}
        files |= {file for name in bases for file in _file(sys.modules.get(name))}
    try:
        parts = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    except OSError as error:
        raise StoreError(f"can't read the source of {words}: {reason(error)}") from error
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _top(module: str) -> str:
    return module.partition(".")[0]


def _files(module: str) -> set[Path]:
    """The file of a module, or all Python files of its package."""
    found = _file(sys.modules.get(module))
    folders = getattr(sys.modules.get(_top(module)), "__path__", [])
    return found | {path for folder in folders for path in Path(folder).rglob("*.py")}


def _file(module: ModuleType | None) -> set[Path]:
    """The file of a module outside this package and the standard library."""
    if module is None or _top(module.__name__) in {PACKAGE, *sys.stdlib_module_names} - {
        "__main__"
    }:
        return set()
    file = getattr(module, "__file__", None)
    return {Path(file)} if file else set()
