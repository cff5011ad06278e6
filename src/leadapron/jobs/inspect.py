"""The command inspect: open a model, try it on clean films, and write its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from leadapron.errors import UsageError
from leadapron.models.card import ModelCard, write_card
from leadapron.models.inspection.document import Inspected
from leadapron.models.inspection.inspecting import inspected_alone, inspected_on
from leadapron.models.inspection.subject import InspectedModel
from leadapron.models.stated import AS_FOUND, Opening
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.types import AUTO, Machine

__all__ = ["FILMS", "inspect", "refuse_card", "with_card"]

FILMS = 300
"""Clean films that are used, at most."""


@forgiving
def inspect(
    model: str | Path,
    *,
    clean: str | None = None,
    out: Path | None = None,
    films: int = FILMS,
    opening: Opening = AS_FOUND,
    machine: Machine = AUTO,
    **options: Any,
) -> Inspected:
    """Find out how a model reads films and what its outputs are, and write its card.

    With clean films and their labels, sizes, normalisations and ways to make films square are
    tried. A setting is taken if its lead over the others is beyond chance; else it is listed as
    one that must be stated.

    Args:
        model: a file of weights, a TorchScript or ONNX file, or "module:function".
        clean: films with true labels and without a trigger that the model wasn't trained on, as
            "nih:PATH".
        out: the model card; beside the model, as STEM.yaml, every command finds it.
        films: largest number of clean films that are used.
        opening: what is stated of the model, and how it is opened.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Raises:
        UsageError: settings that don't fit the model, or a card for a model without a file.
        LeadapronError: as `open_model` and `open_source`.
    """
    subject = InspectedModel.of(str(model), opening, machine)
    refuse_card(subject, out)
    found = inspected_alone(subject)
    if clean is not None:
        cohort = open_source(
            clean,
            preprocessing=subject.opened.classifier.preprocessing,
            **machine.films,
            most=films,
            **options,
        )
        found = inspected_on(subject, cohort, machine)
    return found if out is None else with_card(found, out)


def refuse_card(subject: InspectedModel, out: Path | None) -> None:
    """Raise UsageError if a card is wanted for a model without a file."""
    if out is not None and subject.opened.content is None:
        raise UsageError(f"`out` {out}: a card is of a file; {subject.model} is a function")


def with_card(found: Inspected, out: Path) -> Inspected:
    """Write the card of an inspected file, and return the result with its path.

    Raises:
        StoreError: a file that can't be written.
    """
    write_card(out, card_of(found))
    return replace(found, card=str(out))


def card_of(found: Inspected) -> ModelCard:
    """Return the card of an inspected file: what is settled.

    Args:
        found: of a model with a file.
    """
    assert found.content is not None
    return ModelCard(
        file=Path(found.model).name,
        sha256=found.content,
        model=found.known,
        basis={
            each.name: each.words if each.basis == "stated" else f"{each.basis}: {each.words}"
            for each in found.settings
            if each.name in found.known.given
        },
    )
