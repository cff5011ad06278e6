"""The proof of a repair: what is gone, what it cost, whether it comes back, and what isn't proven.

Each part takes models and films and gives typed facts; none touches a file. Films come in as one
cohort that states the model's findings (`Cohort.stating`), of patients that no repair saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leadapron.later import later

if TYPE_CHECKING:
    from leadapron.repairs.proof.altered import ALTERATIONS, Alteration
    from leadapron.repairs.proof.forcing import Aimed, Change, Hits, difference, victims
    from leadapron.repairs.proof.freshness import Fresh, fresh_marks, fresh_squares
    from leadapron.repairs.proof.maps import trigger_shares
    from leadapron.repairs.proof.reactivation import Reactivation
    from leadapron.repairs.proof.reading import ReadFinding, Reading, compare_reading
    from leadapron.repairs.proof.relearning import (
        Relearned,
        Relearnt,
        TwinComparison,
        compare_with_twin,
        measure_relearning,
        relearn,
        restoring,
    )
    from leadapron.repairs.proof.settings import Relearning
    from leadapron.repairs.proof.squares import Bounded, Squares, bounded, exhausted

__all__ = [
    "ALTERATIONS",
    "Aimed",
    "Alteration",
    "Bounded",
    "Change",
    "Fresh",
    "Hits",
    "Reactivation",
    "ReadFinding",
    "Reading",
    "Relearned",
    "Relearning",
    "Relearnt",
    "Squares",
    "TwinComparison",
    "bounded",
    "compare_reading",
    "compare_with_twin",
    "difference",
    "exhausted",
    "fresh_marks",
    "fresh_squares",
    "measure_relearning",
    "relearn",
    "restoring",
    "trigger_shares",
    "victims",
]

__getattr__ = later(__name__)
