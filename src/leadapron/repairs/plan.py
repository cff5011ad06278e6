"""The plan of a repair, and requests that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leadapron.detect.models.audit import Audit, Subject
from leadapron.detect.models.defaults import STEPS
from leadapron.detect.models.sweep import StampSweep
from leadapron.errors import UnknownNameError, UsageError
from leadapron.models.foreign import Opened
from leadapron.models.protocols import Differentiable
from leadapron.repairs import REPAIRS
from leadapron.repairs.proof.settings import Relearning

__all__ = ["RepairPlan", "refuse_method", "refuse_model"]


@dataclass(frozen=True, eq=False, kw_only=True)
class RepairPlan:
    """How a model is repaired, and how the repair is proved.

    Args:
        method: "auto", or one of `REPAIRS`.
        audit: of the model; made during the repair if left out.
        references: clean models of its kind.
        relearning: settings of the relearning attack.
        exhaustive: whether every square is tried, not a random sample of 299.
        controls: whether plain fine-tuning and training from scratch are measured too.
        scan: whether the clean films are scanned first.
        sweep: settings of the models' sweeps.
        steps: most steps of trigger inversion; 0 omits it.
        seed: of all that is drawn by chance.
    """

    method: str = "auto"
    audit: Audit | None = None
    references: Sequence[Subject] = ()
    relearning: Relearning
    exhaustive: bool = False
    controls: bool = False
    scan: bool = True
    sweep: StampSweep | None = None
    steps: int = STEPS
    seed: int = 0


def refuse_model(opened: Opened, name: str) -> None:
    """Raise UsageError for a model whose weights can't be changed.

    Args:
        opened: the model.
        name: what to call it.
    """
    if not isinstance(opened.classifier, Differentiable):
        raise UsageError(
            f"{name} is a black box, and a repair changes weights; give a file of weights, or "
            "train a network of your own on its answers to clean films (distil it) and repair that"
        )


def refuse_method(method: str) -> None:
    """Raise UnknownNameError for a name that is no repair's."""
    if method != "auto" and method not in REPAIRS:
        raise UnknownNameError("repair", method, ["auto", *REPAIRS])
