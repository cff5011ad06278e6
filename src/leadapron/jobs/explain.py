"""The command explain: open a finished attack, explain both models, and draw their maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from leadapron import store
from leadapron.errors import UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.report.explanations import draw_explanations
from leadapron.specs import forgiving
from leadapron.study.explained import Explanations, explain_attack, open_attack
from leadapron.types import AUTO, Machine

__all__ = ["explain_sheet"]


@forgiving
def explain_sheet(
    place: Path,
    out: Path,
    *,
    finding: str | None = None,
    methods: Sequence[str] = (),
    count: int = 4,
    seed: int = 0,
    machine: Machine = AUTO,
) -> Explanations:
    """Draw each explainer's maps of a backdoored model on triggered test films.

    It also counts how many maps point at the trigger, for the backdoored model and its clean twin.

    Args:
        place: a study's folder (its first backdoored run is used), a backdoored run's folder, or
            the classifier.safetensors in one.
        out: the file, ending in .png.
        finding: finding to explain; the attacker's target if left out.
        methods: names in `EXPLAINERS`, as layer-cam and occlusion; all if left out.
        count: number of films, one per row, 1 or more: test films without the finding (with it if
            the trigger hides it) on which the trigger is visible.
        seed: seed of the choice of films and of the trigger's places.
        machine: device, precision, cache and progress.

    Returns:
        The drawn maps, with the hits of both models.

    Raises:
        UsageError: another file ending, count below 1, no method that fits the network, or too
            large a sheet.
        UnknownNameError: no such method or finding.
        StoreError: not a study, or its models or films are missing.
        VanishedTriggerError: the trigger is visible on no film.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"`out` {out}: expected a file ending in .png")
    if count < 1:
        raise UsageError(f"`count` {count}: expected 1 or more")
    for name in methods:
        EXPLAINERS.find(name)
    explained = explain_attack(
        open_attack(place, machine),
        finding=finding,
        methods=methods,
        count=count,
        seed=seed,
        machine=machine,
    )
    sheet = draw_explanations(explained)
    with store.write_atomically(out) as file:
        sheet.save(file, "PNG")
    return replace(explained.found, file=str(out))
