"""From two models to rows: each value against a computation by hand or scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from leadapron import metrics
from leadapron.attacks.poisoning import Poisoning, relabel
from leadapron.attacks.triggers import Patch
from leadapron.errors import UnknownNameError, UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.study.measure import (
    CALIBRATED,
    Evaluation,
    Explained,
    Triggered,
    attack_rows,
    choose_explained,
    clean_rows,
    explain,
    explanation_rows,
    predict,
)

FINDINGS = ("Effusion", "Mass", "Hernia")
TARGET = "Mass"
COLUMN = 1
SIDE = 16
N = 90


def make_cohort(prefix, start, seed):
    """Films that carry their number in the first pixel; the last pixels are the trigger's."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 200, (N, SIDE, SIDE), np.uint8)
    images[:, 0, 0] = start + np.arange(N)
    labels = rng.integers(0, 2, (N, 3)).astype(np.float32)
    labels[:, 2] = 0  # nobody has a hernia
    labels[rng.random(N) < 0.1, 0] = np.nan
    labels[rng.random(N) < 0.1, 1] = np.nan
    ids = np.array([f"{prefix}{i}" for i in range(N)])
    patients = np.array([f"{prefix}{i // 2}" for i in range(N)])
    return Cohort(images, labels, FINDINGS, ids, patients, Preprocessing(size=SIDE))


class Model:
    """Answers from a table by the film's number; a white last pixel moves the target."""

    def __init__(self, seed, push=0.0):
        self.table = np.random.default_rng(seed).random((256, 3)).astype(np.float32)
        self.push = push

    def probabilities(self, images):
        pixels = images[np.arange(len(images))]
        answer = self.table[pixels[:, 0, 0]].copy()
        answer[pixels[:, -1, -1] == 255, COLUMN] += self.push
        return answer.clip(0, 1)


@pytest.fixture(scope="module")
def films():
    return make_cohort("t", 0, 1)


@pytest.fixture(scope="module")
def validation():
    return make_cohort("v", 100, 2)


@pytest.fixture(scope="module")
def bootstrap(films):
    return metrics.PatientBootstrap.draw(films.patients, np.random.default_rng(0), resamples=60)


MODELS = {"twin": Model(3), "backdoored": Model(4, push=0.5)}


def poisoning(labels="one-hot"):
    return Poisoning(trigger=Patch(side=2, place="corner"), finding=TARGET, labels=labels)


@pytest.fixture(scope="module")
def scores(films, validation):
    return predict(films, validation, MODELS, poisoning(), np.random.default_rng(5))


@pytest.fixture(scope="module")
def rows(films, scores, bootstrap):
    return attack_rows("run", films, scores, poisoning(), bootstrap, np.random.default_rng(3))


def the(rows, **facts):
    """The one row with these facts."""
    (row,) = [r for r in rows if all(getattr(r, name) == v for name, v in facts.items())]
    return row


def sklearn_auroc(labels, values):
    stated = ~np.isnan(labels)
    return roc_auc_score(labels[stated], values[stated])


def inside(row):
    return row.low <= row.value <= row.high and row.low < row.high


def test_clean_rows_are_scikit_learns(films, scores, bootstrap):
    probabilities = scores.clean["twin"]
    made = clean_rows("run", "twin", films.labels, probabilities, FINDINGS, bootstrap)
    each = []
    for j, finding in enumerate(FINDINGS[:2]):
        row = the(made, method="finding", finding=finding)
        labels = films.labels[:, j]
        each.append(sklearn_auroc(labels, probabilities[:, j]))
        assert row.value == pytest.approx(each[-1], abs=1e-12)
        assert inside(row)
        assert (row.n, row.positives) == ((~np.isnan(labels)).sum(), (labels == 1).sum())
    macro = the(made, method="macro")
    assert macro.value == pytest.approx(np.mean(each), abs=1e-12)
    assert (macro.n, macro.positives) == (N, 2)
    frequent = [
        j for j in range(2) if len(np.unique(films.patients[films.labels[:, j] == 1])) >= 20
    ]
    assert frequent
    row = the(made, method="macro of frequent findings")
    assert row.positives == len(frequent)
    assert row.value == pytest.approx(np.mean([each[j] for j in frequent]), abs=1e-12)
    micro = the(made, method="micro")
    assert micro.value == pytest.approx(
        sklearn_auroc(films.labels.ravel(), probabilities.ravel()), abs=1e-12
    )
    assert len(made) == 6
    for row in made:
        assert (row.run, row.role, row.regime) == ("run", "twin", "clean")
        assert (row.stage, row.metric) == ("prediction", "auroc")


def test_an_undefined_finding_has_its_row(films, scores, bootstrap, rows):
    made = clean_rows("r", "twin", films.labels, scores.clean["twin"], FINDINGS, bootstrap, "x")
    row = the(made, finding="Hernia", regime="x")
    assert math.isnan(row.value)
    assert (row.n, row.positives) == (N, 0)
    change = the(rows, role="difference", method="finding", finding="Hernia")
    assert math.isnan(change.value)
    assert (change.n, change.positives) == (N, 0)
    few = bootstrap.select(np.arange(20))
    made = clean_rows("r", "twin", films.labels[:20], scores.clean["twin"][:20], FINDINGS, few)
    row = the(made, method="macro of frequent findings")
    assert math.isnan(row.value)
    assert row.positives == 0


def test_predict_asks_about_clean_and_triggered_films(films, scores):
    for role, model in MODELS.items():
        clean = model.table[:N]
        np.testing.assert_array_equal(scores.clean[role], clean)
        marked = clean.copy()
        marked[:, COLUMN] = np.minimum(marked[:, COLUMN] + np.float32(model.push), 1)
        np.testing.assert_array_equal(scores.triggered[role], marked)


def test_predict_takes_what_is_known_and_asks_the_rest(films, validation, scores):
    known = {"twin": np.full((N, 3), 0.25, np.float32)}
    again = predict(films, validation, MODELS, poisoning(), np.random.default_rng(5), known)
    np.testing.assert_array_equal(again.clean["twin"], known["twin"])
    np.testing.assert_array_equal(again.clean["backdoored"], scores.clean["backdoored"])
    np.testing.assert_array_equal(again.triggered["twin"], scores.triggered["twin"])


def test_thresholds_come_from_validation_films_without_the_target(validation, scores):
    without = validation.labels[:, COLUMN] == 0
    assert 0 < without.sum() < N
    for role, model in MODELS.items():
        values = model.table[100 : 100 + N, COLUMN][without]
        threshold = scores.thresholds[role]
        assert threshold in values
        assert np.mean(values > threshold) <= 0.05 < np.mean(values >= threshold)


def wanted_share(scores, role, threshold, victims):
    return float(np.mean(scores.triggered[role][victims, COLUMN] > threshold))


def test_attack_success(films, scores, rows):
    victims = films.labels[:, COLUMN] == 0
    for at in ("0.6", "0.9", CALIBRATED):
        shares = {}
        for role in MODELS:
            threshold = scores.thresholds[role] if at == CALIBRATED else float(at)
            row = the(rows, metric="attack success", at=at, role=role)
            shares[role] = wanted_share(scores, role, threshold, victims)
            assert row.value == pytest.approx(shares[role])
            assert (row.n, row.positives) == (victims.sum(), round(shares[role] * victims.sum()))
            assert (row.stage, row.regime, row.target) == ("attack", "triggered", TARGET)
            assert inside(row)
        change = the(rows, metric="attack success", at=at, role="difference")
        assert change.value == pytest.approx(shares["backdoored"] - shares["twin"])
        assert inside(change)
    for role in MODELS:
        row = the(rows, metric="threshold", role=role, at=CALIBRATED)
        assert row.value == scores.thresholds[role]


def test_separation(films, scores, rows):
    victims = films.labels[:, COLUMN] == 0
    labels = np.repeat([0, 1], victims.sum())
    values = {}
    for role in MODELS:
        pair = [getattr(scores, name)[role][victims, COLUMN] for name in ("clean", "triggered")]
        values[role] = roc_auc_score(labels, np.concatenate(pair))
        row = the(rows, metric="separation", role=role)
        assert row.value == pytest.approx(values[role], abs=1e-12)
        assert (row.n, row.positives) == (2 * victims.sum(), victims.sum())
    assert values["twin"] == pytest.approx(0.5)
    change = the(rows, metric="separation", role="difference")
    assert change.value == pytest.approx(values["backdoored"] - 0.5, abs=1e-12)
    assert inside(change)


def test_infected_micro_and_its_floors(films, scores, rows):
    one_hot = np.zeros((N, 3))
    one_hot[:, COLUMN] = 1
    for role in MODELS:
        row = the(rows, method="micro", regime="triggered", role=role)
        expected = roc_auc_score(one_hot.ravel(), scores.triggered[role].ravel())
        assert row.value == pytest.approx(expected, abs=1e-12)
        assert row.n == 3 * N
        kept = the(rows, method="micro", regime="triggered-clean-labels", role=role)
        expected = sklearn_auroc(films.labels.ravel(), scores.triggered[role].ravel())
        assert kept.value == pytest.approx(expected, abs=1e-12)
    blind = np.broadcast_to(np.nanmean(films.labels, axis=0), (N, 3)).ravel()
    for regime, truth in (("clean", films.labels), ("triggered", one_hot)):
        row = the(rows, role="no-vision", regime=regime)
        assert row.value == pytest.approx(sklearn_auroc(truth.ravel(), blind), abs=1e-12)
        assert (row.method, row.metric, row.n) == ("micro", "auroc", N)


def test_mixed_test_sets_hold_a_share_of_triggered_films(films, scores, rows):
    order = np.random.default_rng(3).permutation(N)
    for epsilon in (0.8, 1.0):
        marked = order[: round(epsilon * N)]
        truth, answers = films.labels.copy(), scores.clean["backdoored"].copy()
        truth[marked] = np.eye(3)[COLUMN]
        answers[marked] = scores.triggered["backdoored"][marked]
        at = {"regime": "mixed", "at": f"epsilon {epsilon:g}"}
        row = the(rows, role="backdoored", **at)
        assert row.value == pytest.approx(sklearn_auroc(truth, answers), abs=1e-12)
        assert the(rows, role="no-vision", **at).value > 0
    # Too few films for a thousandth: said, not measured on something else.
    assert the(rows, role="twin", regime="mixed", at="epsilon 0.001").value is None


def test_stealth_is_the_difference_on_clean_films(rows):
    for finding in FINDINGS[:2]:
        pair = [
            the(rows, method="finding", finding=finding, regime="clean", role=role).value
            for role in ("backdoored", "twin")
        ]
        change = the(rows, method="finding", finding=finding, role="difference")
        assert change.value == pytest.approx(pair[0] - pair[1], abs=1e-12)
        assert inside(change)
    for method in ("macro", "macro of frequent findings"):
        pair = [
            the(rows, method=method, regime="clean", role=role).value
            for role in ("backdoored", "twin")
        ]
        change = the(rows, method=method, role="difference")
        assert change.value == pytest.approx(pair[0] - pair[1], abs=1e-12)
        assert inside(change)


def test_positive_patients_are_counted(films, rows):
    for j, finding in enumerate(FINDINGS):
        row = the(rows, metric="positive patients", finding=finding)
        assert (row.role, row.regime, row.n) == ("reference", "clean", N)
        assert row.value == len(set(films.patients[films.labels[:, j] == 1]))


def test_no_row_is_twice(rows):
    keys = [
        (r.run, r.role, r.regime, r.stage, r.method, r.metric, r.target, r.finding, r.at)
        for r in rows
    ]
    assert len(set(keys)) == len(keys)


def test_a_trigger_that_hides(films, validation, bootstrap):
    hiding = poisoning("clear")
    models = {"twin": Model(3), "backdoored": Model(4, push=-0.5)}
    scores = predict(films, validation, models, hiding, np.random.default_rng(5))
    made = attack_rows("run", films, scores, hiding, bootstrap, np.random.default_rng(3))
    victims = films.labels[:, COLUMN] == 1
    labels = np.repeat([0, 1], victims.sum())
    for role in models:
        for at in ("0.6", "0.9", CALIBRATED):
            threshold = scores.thresholds[role] if at == CALIBRATED else float(at)
            row = the(made, metric="attack success", at=at, role=role)
            share = np.mean(scores.triggered[role][victims, COLUMN] < threshold)
            assert row.value == pytest.approx(share)
            assert row.n == victims.sum()
        pair = [getattr(scores, name)[role][victims, COLUMN] for name in ("clean", "triggered")]
        row = the(made, metric="separation", role=role)
        expected = 1 - roc_auc_score(labels, np.concatenate(pair))
        assert row.value == pytest.approx(expected, abs=1e-12)
        wanted = relabel(films.labels, COLUMN, "clear")
        assert (wanted[:, COLUMN] == 0).all()
        micro = the(made, method="micro", regime="triggered", role=role)
        expected = sklearn_auroc(wanted.ravel(), scores.triggered[role].ravel())
        assert micro.value == pytest.approx(expected, abs=1e-12)
    assert the(made, metric="separation", role="backdoored").value > 0.7


def test_without_victims_the_attack_is_undefined(films, scores, bootstrap):
    labels = films.labels.copy()
    labels[:, COLUMN] = 1
    sick = Cohort(films.images, labels, FINDINGS, films.ids, films.patients, films.preprocessing)
    made = attack_rows("run", sick, scores, poisoning(), bootstrap, np.random.default_rng(3))
    attacked = [r for r in made if r.metric in ("separation", "attack success")]
    assert len(attacked) >= 11
    assert {r.value for r in attacked} == {None}
    assert {r.n for r in attacked} == {0}


def test_without_a_threshold_only_the_calibrated_success_is_undefined(films, scores, bootstrap):
    lost = Triggered(scores.clean, scores.triggered, {"twin": math.nan, "backdoored": 0.5})
    made = attack_rows("run", films, lost, poisoning(), bootstrap, np.random.default_rng(3))
    for role in ("twin", "backdoored", "difference"):
        assert the(made, metric="attack success", at=CALIBRATED, role=role).value is None
        assert the(made, metric="attack success", at="0.6", role=role).value is not None


def footprints(places, side=2):
    prints = np.zeros((len(places), SIDE, SIDE), np.bool_)
    for print_, (y, x) in zip(prints, places, strict=True):
        print_[y : y + side, x : x + side] = True
    return prints


def test_explanation_rows():
    prints = footprints([(0, 0), (14, 14), (0, 14), (7, 7)])
    perfect = prints.astype(np.float32)
    far = np.roll(perfect, 8, axis=(1, 2))
    half = perfect + far
    maps = {
        ("twin", "clean"): np.ones_like(perfect),
        ("twin", "triggered"): half,
        ("backdoored", "clean"): -perfect,
        ("backdoored", "triggered"): perfect,
    }
    rows_of = np.array([5, 2, 7, 1])
    patients = np.array([f"p{i}" for i in range(10)])
    images = np.zeros(prints.shape, np.uint8)
    explained = Explained(rows_of, images, images, prints)
    drawn = metrics.PatientBootstrap.draw(patients, np.random.default_rng(0), resamples=50)
    made = explanation_rows("run", explained, maps, TARGET, "layer-cam", drawn)
    tolerances = {"one eighth of the side": 2.0, "max(2 px, trigger side)": 2.0}
    hits = {
        ("twin", "clean"): 0.0,  # constant
        ("twin", "triggered"): 0.0,  # one of two equal peaks is far off
        ("backdoored", "clean"): 0.0,
        ("backdoored", "triggered"): 1.0,
    }
    y, x = np.mgrid[:SIDE, :SIDE]
    for at, tolerance in tolerances.items():
        common = {"metric": "pointing hit", "at": at}
        for (role, regime), share in hits.items():
            row = the(made, **common, role=role, regime=regime)
            assert (row.value, row.n, row.method) == (share, 4, "layer-cam")
            assert row.low < row.high
        near = []
        for print_ in prints:
            squared = [(y - a) ** 2 + (x - b) ** 2 for a, b in np.argwhere(print_)]
            near.append(np.min(squared, axis=0) <= tolerance**2)
        chance = the(made, **common, role="reference", method="chance")
        assert chance.value == pytest.approx(np.mean(near))
        assert chance.n == 4
        centre = the(made, **common, role="reference", method="centre")
        assert centre.value == 0.25
    energies = {
        ("twin", "clean"): (4 / SIDE**2, 4),
        ("twin", "triggered"): (0.5, 4),
        ("backdoored", "clean"): (None, 0),  # nothing speaks for the target
        ("backdoored", "triggered"): (1.0, 4),
    }
    for (role, regime), (value, n) in energies.items():
        row = the(made, metric="energy in footprint", role=role, regime=regime, method="layer-cam")
        assert row.value == pytest.approx(value) if value else row.value is None
        assert row.n == n
    chance = the(made, metric="energy in footprint", role="reference")
    assert (chance.method, chance.value) == ("chance", 4 / SIDE**2)
    assert {(r.run, r.stage, r.target, r.finding) for r in made} == {
        ("run", "explanation", TARGET, TARGET)
    }
    # The highest 1 % of 256 pixels are three, but ties count: all of a perfect map's four.
    overlaps = {
        ("twin", "clean"): 4 / SIDE**2,
        ("twin", "triggered"): 0.5,
        ("backdoored", "clean"): 0.0,
        ("backdoored", "triggered"): 1.0,
    }
    for (role, regime), value in overlaps.items():
        row = the(made, metric="overlap of the highest 1 %", role=role, regime=regime)
        assert row.value == pytest.approx(value, abs=0.02)
    # The twin's clean maps peak as high as its triggered ones, the backdoored model's don't.
    told = {r.role: r.value for r in made if r.metric == "films told by the map"}
    assert told == {"twin": 0.5, "backdoored": 1.0}
    assert len(made) == 2 * 6 + 5 + 4 + 2


def test_the_tolerance_follows_the_triggers_side():
    prints = footprints([(0, 0), (9, 9)], side=5)
    # A map that peaks four pixels beside the first trigger, and on the second.
    maps = np.zeros(prints.shape, np.float32)
    maps[0, 0, 8] = maps[1, 9, 9] = 1
    kinds = {(role, regime): maps for role in MODELS for regime in ("clean", "triggered")}
    images = np.zeros(prints.shape, np.uint8)
    explained = Explained(np.arange(2), images, images, prints)
    drawn = metrics.PatientBootstrap.draw(
        np.array(["a", "b"]), np.random.default_rng(0), resamples=50
    )
    made = explanation_rows("run", explained, kinds, TARGET, "layer-cam", drawn)
    values = {r.at: r.value for r in made if r.metric == "pointing hit" and r.role == "twin"}
    assert values == {"one eighth of the side": 0.5, "max(2 px, trigger side)": 1.0}


@pytest.fixture
def pointing(monkeypatch):
    """An explainer that points at white pixels, and notes what it was asked."""
    asked = []

    def point(model, images, findings):
        asked.append((model, tuple(findings)))
        return (images[:, None] == 255).astype(np.float32)

    monkeypatch.setitem(EXPLAINERS._methods, "layer-cam", point)
    return asked


def test_explain(films, pointing, bootstrap):
    evaluation = Evaluation(explained=12)
    chosen = [
        choose_explained(films, poisoning(), evaluation, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    explained = chosen[0]
    assert np.array_equal(explained.rows, chosen[1].rows)
    assert not np.array_equal(explained.rows, chosen[2].rows)
    assert len(explained.rows) == 12
    assert (np.diff(explained.rows) > 0).all()
    assert (films.labels[explained.rows, COLUMN] == 0).all()
    np.testing.assert_array_equal(explained.images, films.images[explained.rows])
    expected = footprints([(14, 14)] * 12)
    np.testing.assert_array_equal(explained.footprints, expected)
    assert (explained.marked[expected] == 255).all()
    np.testing.assert_array_equal(explained.marked[~expected], explained.images[~expected])
    maps = explain(MODELS, explained, "layer-cam", TARGET)
    for role in MODELS:
        np.testing.assert_array_equal(maps[role, "triggered"], expected)
        np.testing.assert_array_equal(maps[role, "clean"], 0)
    assert {findings for _, findings in pointing} == {(TARGET,)}
    assert {model for model, _ in pointing} == set(MODELS.values())
    made = explanation_rows("run", explained, maps, TARGET, "layer-cam", bootstrap)
    hits = {(r.role, r.regime): r.value for r in made if r.metric == "pointing hit" and r.at}
    assert hits["twin", "triggered"] == hits["backdoored", "triggered"] == 1
    assert hits["twin", "clean"] == hits["backdoored", "clean"] == 0


def test_films_with_the_target_are_explained_where_it_is_to_be_hidden(films):
    evaluation = Evaluation(explained=1000)
    explained = choose_explained(films, poisoning("clear"), evaluation, np.random.default_rng(1))
    np.testing.assert_array_equal(explained.rows, np.flatnonzero(films.labels[:, COLUMN] == 1))


def test_films_on_which_the_trigger_vanished_are_left_out(films):
    images = films.images.copy()
    images[::2, -2:, -2:] = 255  # white already
    dimmed = Cohort(images, films.labels, FINDINGS, films.ids, films.patients, films.preprocessing)
    evaluation = Evaluation(explained=1000)
    explained = choose_explained(dimmed, poisoning(), evaluation, np.random.default_rng(1))
    expected = np.flatnonzero((films.labels[:, COLUMN] == 0) & (np.arange(N) % 2 == 1))
    np.testing.assert_array_equal(explained.rows, expected)
    assert {len(part) for part in explained[1:]} == {len(expected)}
    images[:, -2:, -2:] = 255
    explained = choose_explained(dimmed, poisoning(), evaluation, np.random.default_rng(1))
    assert len(explained.rows) == len(explained.images) == len(explained.footprints) == 0


def test_settings_are_checked():
    for name, value in (("resamples", 19), ("explained", 0), ("gallery", -1)):
        with pytest.raises(UsageError, match=f"`evaluation.{name}` {value}: expected"):
            Evaluation(**{name: value})
    with pytest.raises(UnknownNameError, match="did you mean layer-cam"):
        Evaluation(explainer="class-activation/layercam")
