"""Printing of results of the public API, in a terminal and a notebook."""

from __future__ import annotations

import html
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

__all__ = ["Shown"]


class Shown(ABC):
    """A result that prints itself in one line and shows itself in a notebook."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as --json prints it: "schema", then its fields."""

    @abstractmethod
    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line; the first line is the summary."""

    def to_json(self) -> str:
        """Return it as JSON, as --json prints it."""
        return json.dumps(self.facts(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        return self.lines()[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def _repr_html_(self) -> str:
        first, *others = map(html.escape, self.lines())
        below = "\n".join(others).strip("\n")
        return f"<p><strong>{first}</strong></p>" + (f"<pre>{below}</pre>" if below else "")
