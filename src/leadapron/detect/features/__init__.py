"""Feature detectors: they analyse a trained network's features of its training films.

All share one pass of the network, `extract`, and compare films within groups: one for each finding,
and one of films without findings. A film with several findings is in several groups and keeps its
highest score. docs/methods/scan-features.md describes what each method detects and misses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from leadapron.detect.features.clusters import ActivationClustering, SCAn
from leadapron.detect.features.extraction import Features, extract
from leadapron.detect.features.gram import Beatrix
from leadapron.detect.features.losses import LossDynamics
from leadapron.detect.features.spectral import SpectralSignatures, Spectre
from leadapron.detect.scores import Scores
from leadapron.films.cohort import Cohort
from leadapron.plugins import Registry

__all__ = [
    "FEATURE_DETECTORS",
    "ActivationClustering",
    "Beatrix",
    "FeatureDetector",
    "Features",
    "LossDynamics",
    "SCAn",
    "SpectralSignatures",
    "Spectre",
    "extract",
]


class FeatureDetector(Protocol):
    """A detector of poisoned films from features."""

    def score(self, cohort: Cohort, features: Features) -> Scores:
        """Return a suspicion score for each film."""
        ...


FEATURE_DETECTORS: Registry[Callable[..., FeatureDetector]] = Registry(
    "feature_detector",
    {
        "spectral-signatures": SpectralSignatures,
        "spectre": Spectre,
        "activation-clustering": ActivationClustering,
        "beatrix": Beatrix,
        "scan": SCAn,
        "loss-dynamics": LossDynamics,
    },
)
"""Detectors by name."""
