"""A repaired model in the format of the file that the model came from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from leadapron.errors import StoreError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import Opened
from leadapron.models.foreign.returning import read_back, write_as_given
from leadapron.models.protocols import Differentiable, differentiable

__all__ = ["Returned", "returned", "unwritable"]


COMPARED = 32
"""Films on which the file that was written is compared with the repaired model."""


class Returned(NamedTuple):
    """A repaired model in the format of the input.

    Args:
        file: that was written; None where the input's format is this package's, or can't hold the
            model.
        notes: what was written, or why nothing was; a sentence each.
    """

    file: Path | None
    notes: tuple[str, ...]


def returned(
    opened: Opened, source: Path, repaired: NetworkClassifier, films: Cohort, file: Path
) -> Returned:
    """Write a repaired model as the state dict of another library that the model was opened from.

    The file is opened again, and its answers are compared with the repaired model's.

    Args:
        opened: the model before the repair.
        source: its file.
        repaired: the repaired model.
        films: clean, of which the first 32 are compared.
        file: without an ending; see `write_as_given`.

    Raises:
        StoreError: a file that can't be read or written.
    """
    if opened.given is None or opened.content is None:
        return Returned(None, ())
    alone = "so the repaired model is in this package's format alone."
    if words := unwritable(differentiable(opened.classifier, "a repair"), repaired):
        return Returned(None, (f"The format of {source.name} {words}, {alone}",))
    try:
        written = write_as_given(opened.given, opened.content, source, repaired.module, file)
    except StoreError as error:
        return Returned(None, (f"It can't be written as {source.name} was: {error}, {alone}",))
    try:
        again = read_back(opened.given, written, repaired.findings).to(repaired.device)
    except StoreError as error:  # the input's type has no room for a value
        written.unlink()
        return Returned(None, (f"It can't be written as {source.name} was: {error}, {alone}",))
    images = films.images[np.arange(min(COMPARED, len(films)))]
    with torch.no_grad():
        shown = repaired.normalise(torch.from_numpy(images))
        apart = float((again(shown) - repaired.module(shown)).abs().max())
    notes = [
        f"{written.name} holds the repaired weights with the names, shapes and types of "
        f"{source.name}; opened again, its logits of {len(images)} clean films differ from the "
        f"repaired model's by at most {apart:.1g}."
    ]
    if opened.given.colours:
        notes.append(
            "Its first convolution takes three channels as before; with its own library it differs "
            "from the repaired model in the outermost three pixels."
        )
    return Returned(written, tuple(notes))


def unwritable(original: Differentiable, repaired: Differentiable) -> str:
    """Return why a file with the original's layers can't hold the repaired model; "" if it can.

    This package's own format holds both.

    Args:
        original: the model before its repair.
        repaired: the model after its repair.

    Returns:
        Words that follow the name of a format: "has no place for ...".
    """
    before, after = (each.module.state_dict() for each in (original, repaired))
    odd = [name for name in after if name not in before or before[name].shape != after[name].shape]
    odd += [name for name in before if name not in after]
    if not odd:
        return ""
    return (
        f"has no place for the layers of a {repaired.architecture}: {len(odd)} tensors, first "
        f"{odd[0]}, aren't those of a {original.architecture}"
    )
