"""What the triggers' classes say of themselves."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leadapron.attacks.triggers import TRIGGERS
from leadapron.specs import REQUIRED, parameters

__all__ = ["TriggerFacts", "described_triggers"]


@dataclass(frozen=True, kw_only=True)
class TriggerFacts:
    """A trigger that can be asked for.

    Args:
        name: as in `--trigger NAME`.
        what: its first sentence.
        source: where it comes from, and where we differ.
        settings: their defaults by name, "required" where there is none.
    """

    name: str
    what: str
    source: str
    settings: Mapping[str, Any]


def described_triggers() -> list[TriggerFacts]:
    """Return all triggers, from what their classes say of themselves."""
    facts = []
    for name, kind in TRIGGERS.items():
        text = inspect.getdoc(kind) or ""
        _, _, source = text.partition("Source: ")
        settings = {
            p.name: "required" if p.default is REQUIRED else p.default
            for p in parameters(kind).values()
        }
        what = " ".join(text.split("\n\n")[0].split())
        facts.append(
            TriggerFacts(name=name, what=what, source=" ".join(source.split()), settings=settings)
        )
    return facts
