"""Directives that document what the package itself declares public, so that no page lists it."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import leadapron


class PublicNames(SphinxDirective):
    """Every name of `leadapron.__all__`: a table of the functions and classes, then each whole."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        public = {name: getattr(leadapron, name) for name in leadapron.__all__}
        functions = {
            f"leadapron.{n}": each for n, each in public.items() if inspect.isroutine(each)
        }
        classes = {f"leadapron.{n}": each for n, each in public.items() if inspect.isclass(each)}
        lines = ["## Functions", "", *_table(functions), *_whole(functions)]
        lines += ["## Classes", "", *_table(classes), *_whole(classes)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Registry(SphinxDirective):
    """What one of the package's registries holds; the argument is a name of `registries`."""

    required_arguments = 1
    final_argument_whitespace: ClassVar = True

    def run(self) -> list[nodes.Node]:
        """Return a table, and each entry whole."""
        module, _, name = self.config.registries[self.arguments[0]].partition(":")
        registry = getattr(importlib.import_module(module), name)
        entries = {key: _documented(registry.code(entry)) for key, entry in registry.items()}
        by_path = {f"{each.__module__}.{each.__qualname__}": each for each in entries.values()}
        lines = [*_table(entries), *_whole(by_path)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _documented(entry: Any) -> Any:
    """Return the class or function whose docstring describes a registry's entry."""
    while isinstance(entry, functools.partial):
        entry = entry.func
    return entry if inspect.isroutine(entry) or inspect.isclass(entry) else type(entry)


def _table(targets: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table of names with the first paragraph of their docstrings."""
    rows = []
    for name, target in targets.items():
        summary = (inspect.getdoc(target) or "").partition("\n\n")[0]
        rows.append(f"| `{name}` | {' '.join(summary.split()).replace('|', chr(92) + '|')} |")
    return ["| name | what it is |", "|-|-|", *rows, ""]


def _whole(targets: Mapping[str, Any]) -> list[str]:
    """Return the lines by which autodoc documents each target."""
    lines = []
    for path, target in targets.items():
        kind = "autoclass" if inspect.isclass(target) else "autofunction"
        lines += ["```{eval-rst}", f".. {kind}:: {path}"]
        lines += ["   :members:"] if kind == "autoclass" else []
        lines += ["```", ""]
    return lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_config_value("registries", {}, "env", dict, "Name of each registry to its module:NAME.")
    app.add_directive("public-names", PublicNames)
    app.add_directive("registry", Registry)
    return {"parallel_read_safe": True}
