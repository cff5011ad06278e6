"""Detectors that screen single films in service: does this one carry a trigger?"""

from __future__ import annotations

from leadapron.detect.inputs.corruptions import CORRUPTIONS, CorruptionConsistency
from leadapron.detect.inputs.readings import (
    FALSE_POSITIVES,
    InputDetector,
    Readings,
    State,
    operating_logits,
    read,
)
from leadapron.detect.inputs.scaling import ScaleUp
from leadapron.detect.inputs.strip import Strip

__all__ = [
    "CORRUPTIONS",
    "FALSE_POSITIVES",
    "CorruptionConsistency",
    "InputDetector",
    "Readings",
    "ScaleUp",
    "State",
    "Strip",
    "operating_logits",
    "read",
]
