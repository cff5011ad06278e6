"""Detectors that screen single films in service: does this one carry a trigger?"""

from __future__ import annotations

from leadapron.detect.inputs.readings import (
    FALSE_POSITIVES,
    InputDetector,
    Readings,
    State,
    operating_logits,
    read,
)

__all__ = ["FALSE_POSITIVES", "InputDetector", "Readings", "State", "operating_logits", "read"]
