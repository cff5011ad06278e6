"""Names of a package that are loaded when they are first wanted, with what their modules import."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

__all__ = ["later"]


def later(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose imports are written under `if TYPE_CHECKING:`.

    Args:
        package: its `__name__`. No name may be that of a module in it.
    """

    @cache
    def homes() -> Mapping[str, str]:
        found: dict[str, str | None] = {}
        for node in ast.parse(inspect.getsource(sys.modules[package])).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                for each in node.body:
                    if isinstance(each, ast.ImportFrom):
                        found |= dict.fromkeys((name.name for name in each.names), each.module)
        return {name: home for name, home in found.items() if home is not None}

    def __getattr__(name: str) -> Any:  # noqa: N807 (what it becomes)
        if name.startswith("__") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes()[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
