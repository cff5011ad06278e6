"""Audits of a finished model: marks that force its findings on or off, compared with references."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leadapron.later import later

if TYPE_CHECKING:
    from leadapron.detect.models.audit import Audit, Subject, audit_subject
    from leadapron.detect.models.harm import Harm
    from leadapron.detect.models.inversion import (
        CostSchedule,
        Inversion,
        Inverted,
        InvertedFeatures,
        Wanted,
    )
    from leadapron.detect.models.judgement import Forced, Judgement, compare_sweeps, judge_model
    from leadapron.detect.models.kept import Kept, measure_once, sweep_once
    from leadapron.detect.models.looks import LOOKS
    from leadapron.detect.models.null import Comparison, compare, least_p
    from leadapron.detect.models.stamps import Grown, Pixel, Probe, Shape, Stamp
    from leadapron.detect.models.statistics import (
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
        not_applicable,
        outlier_index,
        reestimated_shift,
    )
    from leadapron.detect.models.sweep import KINDS, Kind, Moved, NotFinite, StampSweep, Swept
    from leadapron.detect.models.weights import channel_lipschitz

__all__ = [
    "KINDS",
    "LOOKS",
    "STATISTICS",
    "Audit",
    "Comparison",
    "CostSchedule",
    "Forced",
    "Grown",
    "Harm",
    "Inversion",
    "Inverted",
    "InvertedFeatures",
    "Judgement",
    "Kept",
    "Kind",
    "Measure",
    "Moved",
    "NotFinite",
    "Pixel",
    "Probe",
    "Shape",
    "Stamp",
    "StampSweep",
    "Statistic",
    "Subject",
    "Swept",
    "Tables",
    "Wanted",
    "audit_subject",
    "channel_lipschitz",
    "channel_outlier",
    "compare",
    "compare_statistics",
    "compare_sweeps",
    "head_outliers",
    "judge_model",
    "least_p",
    "map_features",
    "map_statistics",
    "maximum_margin",
    "measure",
    "measure_once",
    "not_applicable",
    "outlier_index",
    "reestimated_shift",
    "sweep_once",
]

__getattr__ = later(__name__)
