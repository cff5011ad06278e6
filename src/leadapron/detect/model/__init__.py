"""Audits of a finished model: what forces its findings on or off, beside reference models."""

from __future__ import annotations

from leadapron.detect.model.inversion import (
    CostSchedule,
    Inversion,
    Inverted,
    InvertedFeatures,
    Wanted,
)
from leadapron.detect.model.null import Comparison, compare, least_p
from leadapron.detect.model.stamps import Probe, Stamp
from leadapron.detect.model.sweep import Moved, StampSweep, Swept
from leadapron.detect.model.weights import channel_lipschitz

__all__ = [
    "Comparison",
    "CostSchedule",
    "Inversion",
    "Inverted",
    "InvertedFeatures",
    "Moved",
    "Probe",
    "Stamp",
    "StampSweep",
    "Swept",
    "Wanted",
    "channel_lipschitz",
    "compare",
    "least_p",
]
