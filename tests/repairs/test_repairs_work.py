"""What each repair does to a backdoor on phantoms, and to the reading of films."""

from __future__ import annotations

import numpy as np
import pytest
from repair_scenes import TRIGGER, films, macro, success

from leadapron.repairs import (
    ActivationBounds,
    FeatureShift,
    FinePruning,
    FineTuning,
    FreshStudent,
    NeuronPruning,
    NoiseTuning,
    Optimisation,
    PathAware,
    Reinitialisation,
    Restatistics,
    Retraining,
    SharpnessAware,
    StampDistillation,
    StampUnlearning,
)


@pytest.fixture(scope="module")
def scene(reader):
    """A backdoored reader, 300 clean films, 400 films to test on."""
    return reader, films(300, 2), films(400, 3)


def sgd(**more):
    return Optimisation(optimiser="sgd", **more)


def fast(epochs, rate):
    return Optimisation(epochs=epochs, learning_rate=rate)


def fresh(epochs):
    return Optimisation(epochs=epochs, learning_rate=5e-3, statistics="learned")


MARKS = (TRIGGER,)
WORK = {
    # Attack success at most, macro AUROC at least; before they are 1.00 and .81.
    "stamp unlearning": (StampUnlearning(marks=MARKS, optimisation=fast(6, 1e-3)), 0.4, 0.78),
    "stamp distillation": (StampDistillation(marks=MARKS, optimisation=fast(8, 2e-3)), 0.2, 0.78),
    "feature shift": (FeatureShift(optimisation=sgd(learning_rate=0.03)), 0.2, 0.68),
    "fine-pruning": (FinePruning(optimisation=fast(6, 1e-3)), 0.75, 0.76),
    "neuron pruning": (
        NeuronPruning(optimisation=sgd(learning_rate=0.2, epochs=6, statistics="kept")),
        0.95,
        0.68,
    ),
    "noise tuning": (NoiseTuning(optimisation=sgd(learning_rate=0.05, epochs=8)), 0.7, 0.68),
    "activation bounds": (
        ActivationBounds(
            price=0.1, optimisation=Optimisation(learning_rate=0.03, statistics="kept")
        ),
        0.85,
        0.79,
    ),
    "path-aware": (
        PathAware(marks=MARKS, rho=0.1, optimisation=sgd(learning_rate=0.02, epochs=6)),
        0.25,
        0.76,
    ),
    "re-initialisation": (Reinitialisation(optimisation=fast(8, 3e-3)), 0.4, 0.68),
    "fresh student": (FreshStudent(optimisation=fresh(10)), 0.2, 0.7),
    # As much is forgotten as by training anew.
    "sharpness-aware": (SharpnessAware(optimisation=sgd(learning_rate=0.1, epochs=8)), 0.3, 0.57),
    "retraining": (Retraining(optimisation=fresh(10)), 0.2, 0.62),
}


def test_the_backdoor_is_there(scene):
    reader, _, test = scene
    assert success(reader, test) > 0.97
    assert macro(reader, test) > 0.78


@pytest.mark.parametrize("name", WORK)
def test_a_repair_lowers_the_attacks_success(scene, name):
    reader, clean, test = scene
    repair, most, least = WORK[name]
    repaired = repair.repair(reader, clean, np.random.default_rng(0))
    assert success(repaired, test) < most
    assert macro(repaired, test) > least


@pytest.mark.parametrize(
    "repair", [FineTuning(optimisation=fast(6, 1e-3)), Restatistics()], ids=["tuned", "statistics"]
)
def test_clean_films_alone_leave_it(scene, repair):
    reader, clean, test = scene
    repaired = repair.repair(reader, clean, np.random.default_rng(0))
    assert success(repaired, test) > 0.9
    assert macro(repaired, test) > 0.77
