"""Input detectors: they screen single films in service for a trigger."""

from __future__ import annotations

from leadapron.detect.inputs.batchnorm import ScaledBatchNorm
from leadapron.detect.inputs.clinic import Clinic
from leadapron.detect.inputs.corruptions import CORRUPTIONS, CorruptionConsistency
from leadapron.detect.inputs.decision import (
    Decision,
    Reading,
    decide,
    decide_image,
    decide_images,
)
from leadapron.detect.inputs.distance import Mahalanobis, NearestNeighbours
from leadapron.detect.inputs.fitting import calibrate, extend
from leadapron.detect.inputs.gate import (
    REGION,
    SMOOTHED,
    Gate,
    Judged,
    judge,
    rate_words,
    score_names,
    untypical_films,
    usable,
)
from leadapron.detect.inputs.readings import (
    InputDetector,
    Readings,
    State,
    operating_logits,
    read,
)
from leadapron.detect.inputs.region import EvidenceRegion, Examined
from leadapron.detect.inputs.scaling import ScaleUp
from leadapron.detect.inputs.strip import Strip
from leadapron.detect.inputs.traces import Traces
from leadapron.detect.inputs.typical import Typicality
from leadapron.plugins import Registry

__all__ = [
    "CORRUPTIONS",
    "INPUT_DETECTORS",
    "REGION",
    "SMOOTHED",
    "TYPICAL",
    "WEIGHTS",
    "Clinic",
    "CorruptionConsistency",
    "Decision",
    "EvidenceRegion",
    "Examined",
    "Gate",
    "InputDetector",
    "Judged",
    "Mahalanobis",
    "NearestNeighbours",
    "Reading",
    "Readings",
    "ScaleUp",
    "ScaledBatchNorm",
    "State",
    "Strip",
    "Traces",
    "Typicality",
    "calibrate",
    "decide",
    "decide_image",
    "decide_images",
    "extend",
    "judge",
    "operating_logits",
    "rate_words",
    "read",
    "score_names",
    "untypical_films",
    "usable",
]

INPUT_DETECTORS: Registry[InputDetector] = Registry(
    "input_detector",
    {
        REGION: EvidenceRegion(),
        "STRIP": Strip(),
        "SCALE-UP": ScaleUp(),
        "corruption consistency": CorruptionConsistency(),
        "scaled batch normalisation": ScaledBatchNorm(),
        "Mahalanobis": Mahalanobis(),
        "nearest neighbours": NearestNeighbours(),
        "traces": Traces(),
    },
)
"""All detectors of triggered films by name; a gate asks those with a weight."""

WEIGHTS: dict[str, float] = {
    REGION: 0.7,
    SMOOTHED: 0.7,
    "scaled batch normalisation": 0.4,
    "Mahalanobis": 1.0,
    "nearest neighbours": 0.4,
    "traces": 0.6,
}
"""Of each score in the fused one; detectors without one aren't asked.

Fitted on phantoms by benchmarks/screening_weights.py. STRIP, SCALE-UP and corruption consistency
have none: they take as many passes again, and with them the same 1,199 of 1,200 films were found.
"""

TYPICAL: InputDetector = Typicality()
"""Says whether a film is of the kind that a gate was calibrated on."""
