"""Audits of a finished model: what forces its findings on or off, beside reference models."""

from __future__ import annotations

from leadapron.detect.model.inversion import (
    CostSchedule,
    Inversion,
    Inverted,
    InvertedFeatures,
    Wanted,
)
from leadapron.detect.model.kept import Kept, measure_once, sweep_once
from leadapron.detect.model.null import Comparison, compare, least_p
from leadapron.detect.model.stamps import Probe, Stamp
from leadapron.detect.model.statistics import (
    STATISTICS,
    Measure,
    Statistic,
    Tables,
    channel_outlier,
    compare_statistics,
    head_outliers,
    map_features,
    map_statistics,
    maximum_margin,
    measure,
    outlier_index,
    reestimated_shift,
)
from leadapron.detect.model.sweep import KINDS, Kind, Moved, NotFinite, StampSweep, Swept
from leadapron.detect.model.weights import channel_lipschitz

__all__ = [
    "KINDS",
    "STATISTICS",
    "Comparison",
    "CostSchedule",
    "Inversion",
    "Inverted",
    "InvertedFeatures",
    "Kept",
    "Kind",
    "Measure",
    "Moved",
    "NotFinite",
    "Probe",
    "Stamp",
    "StampSweep",
    "Statistic",
    "Swept",
    "Tables",
    "Wanted",
    "channel_lipschitz",
    "channel_outlier",
    "compare",
    "compare_statistics",
    "head_outliers",
    "least_p",
    "map_features",
    "map_statistics",
    "maximum_margin",
    "measure",
    "measure_once",
    "outlier_index",
    "reestimated_shift",
    "sweep_once",
]
