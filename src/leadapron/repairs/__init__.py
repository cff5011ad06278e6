"""Repairs: methods that remove a backdoor from a model.

Each is a frozen dataclass of parameters with `repair(classifier, clean, rng)`. The given model
isn't changed. No repair has access to an answer key, a trigger or a test film: epochs, thresholds
and numbers of channels are chosen on held-out films of other patients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leadapron.later import later
from leadapron.plugins import At, Registry

if TYPE_CHECKING:
    from leadapron.repairs.activation_bounds import ActivationBounds
    from leadapron.repairs.attention import AttentionDistillation
    from leadapron.repairs.channel_pruning import ChannelPruning
    from leadapron.repairs.feature_shift import FeatureShift
    from leadapron.repairs.fine_pruning import FinePruning
    from leadapron.repairs.fine_tuning import FineTuning
    from leadapron.repairs.formats import returned, unwritable
    from leadapron.repairs.fresh_student import FreshStudent
    from leadapron.repairs.guard import HARM, Guard
    from leadapron.repairs.neuron_pruning import NeuronPruning
    from leadapron.repairs.noise_tuning import NoiseTuning
    from leadapron.repairs.path_aware import PathAware
    from leadapron.repairs.reconstruction import ReconstructivePruning
    from leadapron.repairs.reinitialisation import Reinitialisation
    from leadapron.repairs.retraining import Retraining
    from leadapron.repairs.session import MOST_FILMS, Optimisation, Repair
    from leadapron.repairs.shared import SharedUnlearning
    from leadapron.repairs.sharpness import SharpnessAware
    from leadapron.repairs.stamp_distillation import StampDistillation
    from leadapron.repairs.stamp_unlearning import StampUnlearning, marks_of
    from leadapron.repairs.statistics import Restatistics
    from leadapron.repairs.universal import UniversalUnlearning

__all__ = [
    "HARM",
    "MOST_FILMS",
    "REPAIRS",
    "ActivationBounds",
    "AttentionDistillation",
    "ChannelPruning",
    "FeatureShift",
    "FinePruning",
    "FineTuning",
    "FreshStudent",
    "Guard",
    "NeuronPruning",
    "NoiseTuning",
    "Optimisation",
    "PathAware",
    "ReconstructivePruning",
    "Reinitialisation",
    "Repair",
    "Restatistics",
    "Retraining",
    "SharedUnlearning",
    "SharpnessAware",
    "StampDistillation",
    "StampUnlearning",
    "UniversalUnlearning",
    "marks_of",
    "returned",
    "unwritable",
]

REPAIRS: Registry[Callable[..., Repair]] = Registry(
    "repair",
    {
        name: At(f"leadapron.repairs.{place}")
        for name, place in {
            "stamp-unlearning": "stamp_unlearning:StampUnlearning",
            "stamp-distillation": "stamp_distillation:StampDistillation",
            "fine-tuning": "fine_tuning:FineTuning",
            "feature-shift": "feature_shift:FeatureShift",
            "fine-pruning": "fine_pruning:FinePruning",
            "neuron-pruning": "neuron_pruning:NeuronPruning",
            "noise-tuning": "noise_tuning:NoiseTuning",
            "activation-bounds": "activation_bounds:ActivationBounds",
            "path-aware": "path_aware:PathAware",
            "reinitialisation": "reinitialisation:Reinitialisation",
            "fresh-student": "fresh_student:FreshStudent",
            "retraining": "retraining:Retraining",
            "batch-statistics": "statistics:Restatistics",
            "channel-pruning": "channel_pruning:ChannelPruning",
            "sharpness-aware": "sharpness:SharpnessAware",
            "attention-distillation": "attention:AttentionDistillation",
            "reconstructive-pruning": "reconstruction:ReconstructivePruning",
            "universal-unlearning": "universal:UniversalUnlearning",
            "shared-unlearning": "shared:SharedUnlearning",
        }.items()
    },
)
"""All repairs by name, none loaded before it is wanted; those with a field `marks` need the marks
that an audit found."""

__getattr__ = later(__name__)
