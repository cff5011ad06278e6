"""Repairs: methods that remove a backdoor from a model.

Each is a frozen dataclass of parameters with `repair(classifier, clean, rng)`. The given model
isn't changed. No repair has access to an answer key, a trigger or a test film: epochs, thresholds
and numbers of channels are chosen on held-out films of other patients.
"""

from __future__ import annotations

from collections.abc import Callable

from leadapron.plugins import Registry
from leadapron.repairs.activation_bounds import ActivationBounds
from leadapron.repairs.attention import AttentionDistillation
from leadapron.repairs.channel_pruning import ChannelPruning
from leadapron.repairs.feature_shift import FeatureShift
from leadapron.repairs.fine_pruning import FinePruning
from leadapron.repairs.fine_tuning import FineTuning
from leadapron.repairs.formats import unwritable
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
    "unwritable",
]

REPAIRS: Registry[Callable[..., Repair]] = Registry(
    "repair",
    {
        "stamp-unlearning": StampUnlearning,
        "stamp-distillation": StampDistillation,
        "fine-tuning": FineTuning,
        "feature-shift": FeatureShift,
        "fine-pruning": FinePruning,
        "neuron-pruning": NeuronPruning,
        "noise-tuning": NoiseTuning,
        "activation-bounds": ActivationBounds,
        "path-aware": PathAware,
        "reinitialisation": Reinitialisation,
        "fresh-student": FreshStudent,
        "retraining": Retraining,
        "batch-statistics": Restatistics,
        "channel-pruning": ChannelPruning,
        "sharpness-aware": SharpnessAware,
        "attention-distillation": AttentionDistillation,
        "reconstructive-pruning": ReconstructivePruning,
        "universal-unlearning": UniversalUnlearning,
        "shared-unlearning": SharedUnlearning,
    },
)
"""All repairs by name. Those with a field `marks` need the marks that an audit found."""
