"""Whether a file format of the original's layers can hold a repaired model."""

from __future__ import annotations

from leadapron.models.protocols import Differentiable

__all__ = ["unwritable"]


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
