"""What every repair keeps to, on networks small enough to take no time."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from repair_scenes import FINDINGS, MARKS, SIDE, classifier, cohort

from leadapron.errors import DataError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.bounds import BOUNDED
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.protocols import lacking
from leadapron.repairs import REPAIRS, Optimisation, StampUnlearning
from leadapron.repairs.session import begin
from leadapron.testing import check_repair


def repair_of(name, **more):
    kind = REPAIRS[name]
    names = {each.name for each in fields(kind)}
    if "optimisation" in names:
        usual = kind(marks=MARKS) if "marks" in names else kind()
        more.setdefault("optimisation", replace(usual.optimisation, epochs=2, batch_size=16))
    return kind(**({"marks": MARKS} if "marks" in names else {}), **more)


def repaired(repair, model, films, seed=0, progress=None):
    return repair.repair(model, films, np.random.default_rng(seed), progress)


@pytest.mark.parametrize("name", REPAIRS)
def test_a_network_of_ones_own_is_repaired(name):
    model = classifier("own")
    model.module.requires_grad_(False)  # as files' networks may be
    check_repair(repair_of(name), classifier=model, clean=cohort())


@pytest.mark.parametrize("name", REPAIRS)
def test_progress_is_counted_and_no_gradient_stays(name):
    model, told = classifier(), []
    after = repaired(repair_of(name), model, cohort(), progress=lambda *step: told.append(step))
    assert after.architecture == model.architecture + BOUNDED * (name == "activation-bounds")
    assert all(value.grad is None for value in after.module.parameters())
    for phase in {what for what, _, _ in told}:
        steps = [(done, total) for what, done, total in told if what == phase]
        ended = name == "reconstructive-pruning" and phase.startswith("unlearning")
        last = steps[-1][0] if ended else steps[0][1]  # unlearning ends where it has succeeded
        assert steps == [(done, steps[0][1]) for done in range(1, last + 1)]


@pytest.mark.parametrize("name", REPAIRS)
def test_what_a_model_lacks_is_said_before_anything_is_done(name):
    repair = repair_of(name)
    asked = BlackBoxClassifier(
        lambda x: x[:, 0, :4, 0],
        FINDINGS,
        Preprocessing(size=SIDE),
        NORMALISATIONS["unit"],
        batch=64,
    )
    with pytest.raises(UsageError, match="the model only gives outputs"):
        repaired(repair, asked, cohort())
    plain = classifier("plain")
    if lacking(plain, repair.needs):
        with pytest.raises(UsageError, match="needs batch normalisation"):
            repaired(repair, plain, cohort())
    else:
        assert repaired(repair, plain, cohort()).findings == FINDINGS


LEARNS_ALL = {
    "fine-pruning", "fresh-student", "reinitialisation", "retraining", "stamp-distillation",
}  # fmt: skip
"""Repairs that change a finding's weights whether or not films state it."""


@pytest.mark.parametrize("name", sorted(set(REPAIRS) - LEARNS_ALL))
def test_a_finding_that_no_film_states_keeps_its_row(name):
    model = classifier()
    after = repaired(repair_of(name), model, cohort())
    assert torch.equal(after.module.head.weight[3], model.module.head.weight[3])
    assert torch.equal(after.module.head.bias[3], model.module.head.bias[3])


def test_a_finding_that_no_film_has_learns_and_is_not_drawn_anew():
    model = classifier()
    after = repaired(repair_of("feature-shift"), model, cohort())
    rows, before = (each.module.head.weight[:3].detach() for each in (after, model))
    apart = torch.nn.functional.cosine_similarity(rows, before)
    assert float(apart[2]) > 0.9
    assert float(apart[:2].max()) < 0.9


@pytest.mark.parametrize("name", REPAIRS)
def test_a_softmax_and_sixteen_bits(name):
    model = classifier(head="softmax")
    films = cohort(dtype=np.uint16)
    one_hot = np.eye(4, dtype=np.float32)[np.arange(len(films)) % 3]
    after = repaired(repair_of(name), model, replace(films, labels=one_hot))
    assert after.head == "softmax"
    assert np.isfinite(after.logits(films.images)).all()


def test_findings_are_matched_by_name():
    model, films = classifier(), cohort()
    order = [2, 0, 1]
    other = replace(films, labels=films.labels[:, order], findings=("never", "bright", "left"))
    session = begin("x", "gradients", model, other, np.random.default_rng(0), None)
    same = begin("x", "gradients", model, films, np.random.default_rng(0), None)
    assert session.learn.findings == FINDINGS
    assert np.array_equal(session.learn.labels, same.learn.labels, equal_nan=True)
    strange = replace(films, labels=films.labels[:, :1], findings=("Hernia",))
    with pytest.raises(DataError, match="none of the model's 4 findings"):
        repaired(repair_of("fine-tuning"), model, strange)


def test_the_watched_films_are_of_other_patients():
    session = begin("x", "gradients", classifier(), cohort(), np.random.default_rng(0), None)
    learnt, watched = set(session.learn.patients), set(session.guard.films.patients)
    assert not learnt & watched
    assert len(learnt) == 28
    assert len(watched) == 12


def test_no_repair_can_be_given_a_truth():
    """Neither signature nor fields have room for a key, a trigger or films to be tested on."""
    for kind in REPAIRS.values():
        assert is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
        assert list(inspect.signature(kind.repair).parameters) == [
            *("self", "classifier", "clean", "rng", "progress")
        ]
        assert not {each.name for each in fields(kind)} & {"key", "trigger", "test", "target"}


def test_the_budget_ends_it():
    told = []
    optimisation = Optimisation(epochs=50, batch_size=8, most_films=100)
    repair = StampUnlearning(marks=MARKS, optimisation=optimisation)
    repaired(repair, classifier(), cohort(), progress=lambda *step: told.append(step))
    assert told[-1][1:] == (12, 12)  # 100 films, 8 a step
    told.clear()
    noisy = repair_of("noise-tuning", optimisation=optimisation)  # three passes a film
    repaired(noisy, classifier(), cohort(), progress=lambda *step: told.append(step))
    assert told[-1][1:] == (4, 4)


def test_few_films_keep_the_statistics():
    model = classifier()
    for statistics, changes in (("auto", False), ("kept", False), ("learned", True)):
        optimisation = Optimisation(epochs=1, batch_size=8, statistics=statistics)
        after = repaired(repair_of("fine-tuning", optimisation=optimisation), model, cohort())
        moved = after.module.stages["all"][1].running_mean
        assert torch.equal(moved, model.module.stages["all"][1].running_mean) != changes


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "`optimisation.epochs` 0: expected 1 or more"),
        ({"batch_size": 1}, "`optimisation.batch_size` 1: expected 2 or more"),
        ({"learning_rate": 0.0}, "`optimisation.learning_rate` 0.0: expected above 0"),
        ({"momentum": 1.0}, "`optimisation.momentum` 1.0"),
        ({"weight_decay": -1.0}, "`optimisation.weight_decay` -1.0"),
    ],
)
def test_settings_that_make_no_sense(values, words):
    with pytest.raises(UsageError, match=words):
        Optimisation(**values)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("stamp-unlearning", {"share": 0.0}),
        ("stamp-unlearning", {"jitter": -1}),
        ("stamp-unlearning", {"elsewhere": -0.1}),
        ("stamp-distillation", {"restart": 1.5}),
        ("stamp-distillation", {"mixed": -0.1}),
        ("stamp-distillation", {"teaching": 1.5}),
        ("stamp-distillation", {"temperature": 0.0}),
        ("stamp-distillation", {"learned": 1.0}),
        ("stamp-unlearning", {"elsewhere": 0.6, "others": 0.5}),
        ("stamp-unlearning", {"marks": ()}),
        ("path-aware", {"rho": -1.0}),
        ("path-aware", {"marks": ()}),
        ("feature-shift", {"alpha": -0.1}),
        ("fine-pruning", {"steps": 0}),
        ("neuron-pruning", {"epsilon": 0.0}),
        ("neuron-pruning", {"alpha": 2.0}),
        ("neuron-pruning", {"noise_steps": 0}),
        ("noise-tuning", {"epsilon": 0.0}),
        ("noise-tuning", {"weight": -1.0}),
        ("noise-tuning", {"noise_steps": 0}),
        ("activation-bounds", {"price": 0.0}),
        ("reinitialisation", {"share": 0.0}),
        ("reinitialisation", {"teaching": 2.0}),
        ("reinitialisation", {"temperature": 0.0}),
        ("fresh-student", {"shift": -1}),
        ("stamp-distillation", {"shift": -1}),
        ("fresh-student", {"temperature": 0.0}),
        ("batch-statistics", {"batch_size": 1}),
        ("channel-pruning", {"spreads": 0.0}),
        ("sharpness-aware", {"rho": -1.0}),
        ("attention-distillation", {"weights": ()}),
        ("attention-distillation", {"weights": (1.0, -1.0)}),
        ("reconstructive-pruning", {"floor": 1.0}),
        ("universal-unlearning", {"radius": 0.0}),
        ("universal-unlearning", {"share": 1.5}),
        ("universal-unlearning", {"terms": 0}),
        ("shared-unlearning", {"epsilon": 0.0}),
        ("shared-unlearning", {"inner_steps": 0}),
        ("shared-unlearning", {"agreement": -1.0}),
    ],
)
def test_parameters_that_make_no_sense(name, values):
    kind = REPAIRS[name]
    marks = {"marks": MARKS} if "marks" in {each.name for each in fields(kind)} else {}
    with pytest.raises(UsageError, match="expected"):
        kind(**{**marks, **values})


def test_too_few_films():
    films = cohort(n=4)
    with pytest.raises(DataError, match="add clean films"):
        repaired(repair_of("fine-tuning"), classifier(), films)
    with pytest.raises(DataError, match="are too few to divide"):
        repaired(repair_of("fine-tuning"), classifier(), cohort(n=2))


def test_a_rate_that_breaks_the_network():
    optimisation = Optimisation(optimiser="sgd", learning_rate=1e30, epochs=5, batch_size=8)
    with pytest.raises(DataError, match=r"fine-tuning: the loss isn't finite"):
        repaired(repair_of("fine-tuning", optimisation=optimisation), classifier(), cohort())
