"""Detectors that screen single films in service: does this one carry a trigger?"""

from __future__ import annotations

from leadapron.detect.inputs.batchnorm import ScaledBatchNorm
from leadapron.detect.inputs.distance import Mahalanobis, NearestNeighbours
from leadapron.detect.inputs.readings import (
    FALSE_POSITIVES,
    InputDetector,
    Readings,
    State,
    operating_logits,
    read,
)
from leadapron.detect.inputs.traces import Traces
from leadapron.detect.inputs.typical import Typicality

__all__ = [
    "FALSE_POSITIVES",
    "InputDetector",
    "Mahalanobis",
    "NearestNeighbours",
    "Readings",
    "ScaledBatchNorm",
    "State",
    "Traces",
    "Typicality",
    "operating_logits",
    "read",
]
