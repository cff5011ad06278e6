"""Every number against a reference: scikit-learn, scipy, brute force, published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, special, stats
from sklearn import metrics as reference

from leadapron import metrics
from leadapron.errors import DataError
from leadapron.metrics import PatientBootstrap

NAN = math.nan


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def films(rng, n=300, per_patient=3, ties=True, prevalence=0.3, shift=1.0):
    """Labels, scores and patients, with a patient effect in both."""
    patients = rng.integers(0, max(n // per_patient, 1), n)
    effect = rng.normal(size=patients.max() + 1)[patients]
    threshold = stats.norm.isf(prevalence)
    labels = ((0.6 * effect + 0.8 * rng.normal(size=n)) > threshold).astype(np.float32)
    scores = shift * labels + 0.7 * effect + 0.7 * rng.normal(size=n)
    return labels, np.round(scores, 1) if ties else scores, patients


def draw(patients, seed=0, resamples=200):
    return PatientBootstrap.draw(patients, np.random.default_rng(seed), resamples=resamples)


def logit_interval(value, each):
    """Written with scipy; `each` are the resampled values."""
    spread = 1.959964 * np.std(each, ddof=1) / (value * (1 - value))
    centre = special.logit(value)
    return pytest.approx((special.expit(centre - spread), special.expit(centre + spread)), abs=1e-6)


# AUROC


@pytest.mark.parametrize("ties", [True, False])
def test_auroc_is_scikit_learns(rng, ties):
    labels, scores, _ = films(rng, ties=ties)
    assert metrics.auroc(labels, scores) == pytest.approx(
        reference.roc_auc_score(labels, scores), abs=1e-12
    )


def test_auroc_leaves_out_labels_that_are_not_stated():
    assert metrics.auroc([0, 1, NAN, 1], [0.1, 0.9, -5.0, 0.05]) == 0.5


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0], [NAN, 1]])
def test_auroc_without_both_classes_is_undefined(labels):
    assert math.isnan(metrics.auroc(labels, [0.5] * len(labels)))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [NAN, 0.5], "1 of 2 scores are NaN or infinite"),
        ([0, 1], [math.inf, 0.5], "NaN or infinite"),
        ([0, 2], [0.1, 0.5], "not 0, 1 or NaN, such as 2"),
        ([0, 1, 1], [0.1, 0.5], r"\(3,\), scores \(2,\)"),
        ([[0, 1]], [[0.1, 0.5]], "1 dimension"),
    ],
)
def test_auroc_refuses(labels, scores, message):
    with pytest.raises(DataError, match=message):
        metrics.auroc(labels, scores)


CELLS = st.lists(st.tuples(st.booleans(), st.integers(-8, 8)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(CELLS)
def test_auroc_ignores_monotone_transforms_and_mirrors(cells):
    labels, scores = np.array([c[0] for c in cells], float), np.array([c[1] for c in cells], float)
    value = metrics.auroc(labels, scores)
    assert metrics.auroc(labels, np.exp(scores / 3) - 7) == pytest.approx(value, nan_ok=True)
    assert metrics.auroc(labels, -scores) == pytest.approx(1 - value, nan_ok=True)
    assert metrics.auroc(1 - labels, scores) == pytest.approx(1 - value, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(CELLS, st.integers(0, 2**32 - 1))
def test_weights_are_copies_of_films(cells, seed):
    labels, scores = np.array([c[0] for c in cells], float), np.array([c[1] for c in cells], float)
    weights = np.random.default_rng(seed).poisson(1, (3, len(cells))).astype(np.uint8)
    expected = [metrics.auroc(np.repeat(labels, w), np.repeat(scores, w)) for w in weights]
    value = metrics.bootstrap_auroc(labels, scores, weights)
    np.testing.assert_allclose(value, expected, atol=1e-12)


@pytest.mark.parametrize("prevalence", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["uint8", "int64", "float64"])
def test_weighted_auroc_is_scikit_learns(rng, kind, prevalence, monkeypatch):
    monkeypatch.setattr(
        "leadapron.metrics.resampling.BLOCK_BYTES", 1
    )  # several blocks of resamples
    labels, scores, _ = films(rng, prevalence=prevalence)
    weights = rng.uniform(0, 4, (70, len(labels))).astype(kind)
    value = metrics.bootstrap_auroc(labels, scores, weights)
    expected = [reference.roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(value, expected, atol=1e-12)


def test_weighted_auroc_refuses_weights_of_other_films():
    with pytest.raises(DataError, match=r"weights have shape \(5, 3\), expected \(resamples, 2\)"):
        metrics.bootstrap_auroc([0, 1], [0.1, 0.2], np.ones((5, 3)))


# Patient bootstrap


def test_bootstrap_draws_whole_patients(rng):
    patients = rng.permutation(np.repeat(["p3", "p1", "p2", "p9"], [3, 1, 5, 2]))
    bootstrap = draw(patients, resamples=150)
    assert bootstrap.weights.shape == (150, 11)
    assert bootstrap.weights.dtype == np.uint8
    first = [np.flatnonzero(patients == name)[0] for name in np.unique(patients)]
    assert (bootstrap.weights[:, first].sum(axis=1) == 4).all()
    for name in np.unique(patients):
        own = bootstrap.weights[:, patients == name]
        assert (own == own[:, :1]).all()
    assert bootstrap.weights[:, first].mean(axis=0) == pytest.approx(1, abs=0.25)


def test_bootstrap_repeats_from_its_seed_and_selects_films():
    patients = np.arange(20) // 2
    first, second = draw(patients, seed=3), draw(patients, seed=3)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert (first.weights != draw(patients, seed=4).weights).any()
    mask = np.arange(20) % 3 == 0
    part = first.select(mask)
    np.testing.assert_array_equal(part.weights, first.weights[:, mask])
    assert part.groups.max() + 1 == np.unique(patients[mask]).size


@pytest.mark.parametrize("patients", [[], [[1, 2]]])
def test_bootstrap_refuses(patients):
    with pytest.raises(DataError):
        draw(np.array(patients))


# Findings, macro, micro


@pytest.fixture
def table(rng):
    """Four findings of 400 films: common, with gaps, rare (two patients), absent."""
    columns = [films(rng, 400) for _ in range(4)]
    labels, scores = (np.stack([c[i] for c in columns], axis=1) for i in (0, 1))
    labels[rng.random(400) < 0.2, 1] = NAN
    labels[:, 2:] = 0
    patients = columns[0][2]
    labels[[np.flatnonzero(patients == p)[0] for p in (5, 6)], 2] = 1
    return labels, scores, patients


def test_findings_carry_counts_and_intervals(table):
    labels, scores, patients = table
    bootstrap = draw(patients)
    common, gaps, rare, absent = metrics.finding_auroc(labels, scores, bootstrap)
    assert common.value == pytest.approx(reference.roc_auc_score(labels[:, 0], scores[:, 0]))
    assert (common.n, common.positives) == (400, labels[:, 0].sum())
    each = [
        reference.roc_auc_score(labels[:, 0], scores[:, 0], sample_weight=w)
        for w in bootstrap.weights
    ]
    assert (common.low, common.high) == logit_interval(common.value, each)
    assert gaps.n == (~np.isnan(labels[:, 1])).sum()
    assert gaps.positives == np.nansum(labels[:, 1])
    assert rare.positives == 2
    assert rare.low < rare.value < rare.high
    assert not absent.defined
    assert math.isnan(absent.low)
    assert (absent.n, absent.positives) == (400, 0)


def test_an_interval_needs_half_of_the_resamples():
    patients = np.arange(40)
    labels = (patients == 0).astype(float)
    weights = np.ones((100, 40), dtype=np.uint8)
    scores = -np.abs(patients - 3.0)[:, None]
    for missing, defined in ((50, True), (51, False)):
        weights[:missing, 0] = 0
        bootstrap = PatientBootstrap(patients, weights)
        estimate = metrics.finding_auroc(labels[:, None], scores, bootstrap)[0]
        assert estimate.defined
        assert math.isnan(estimate.low) != defined


def test_macro_averages_the_defined_findings(table):
    labels, scores, patients = table
    bootstrap = draw(patients)
    resampled = metrics.finding_resamples(labels, scores, bootstrap)
    macro = metrics.macro_auroc(labels, scores, bootstrap)
    each = metrics.finding_auroc(labels, scores, bootstrap, resampled=resampled)
    assert (macro.averaged, macro.total) == (3, 4)
    assert macro.estimate.value == pytest.approx(np.mean([e.value for e in each[:3]]))
    assert macro.estimate.positives == sum(e.positives for e in each)
    means = metrics.macro_resamples(resampled)
    np.testing.assert_allclose(means, np.nanmean(resampled, axis=0))
    assert macro.estimate[1:3] == logit_interval(macro.estimate.value, means)
    frequent = metrics.macro_auroc(labels, scores, bootstrap, minimum_positives=3)
    assert frequent.averaged == 2
    none = metrics.macro_auroc(labels, scores, bootstrap, minimum_positives=500)
    assert none.averaged == 0
    assert not none.estimate.defined


def test_micro_pools_cells_and_resamples_patients(table):
    labels, scores, patients = table
    bootstrap = draw(patients)
    micro = metrics.micro_auroc(labels, scores, bootstrap)
    known = ~np.isnan(labels)
    assert micro.value == pytest.approx(reference.roc_auc_score(labels[known], scores[known]))
    assert (micro.n, micro.positives) == (known.sum(), np.nansum(labels))
    each = [
        reference.roc_auc_score(
            labels[known], scores[known], sample_weight=np.repeat(w, 4).reshape(-1, 4)[known]
        )
        for w in bootstrap.weights
    ]
    assert (micro.low, micro.high) == logit_interval(micro.value, each)
    pooled = metrics.bootstrap_auroc(labels, scores, bootstrap.weights)
    np.testing.assert_allclose(pooled, each)


def test_one_hot_target():
    wanted = metrics.one_hot_target(3, 4, 2)
    assert wanted.dtype == np.float32
    assert wanted.tolist() == [[0, 0, 1, 0]] * 3
    with pytest.raises(DataError, match="target 4 is not one of 4 findings"):
        metrics.one_hot_target(3, 4, 4)


def test_tables_have_to_fit_the_bootstrap():
    with pytest.raises(DataError, match=r"expected \(3, findings\)"):
        metrics.micro_auroc([[0, 1]], [[0.1, 0.2]], draw([1, 2, 3]))


PAPER_POSITIVES = [1156, 303, 1442, 2271, 542, 635, 124, 771, 424, 178, 337, 67, 334, 22]


def test_floor_of_the_papers_test_set():
    labels = (np.arange(11174)[:, None] < PAPER_POSITIVES).astype(np.float32)
    clean = metrics.no_vision_floor(labels, labels)
    infected = metrics.no_vision_floor(labels, metrics.one_hot_target(*labels.shape, 0))
    assert round(clean, 3) == 0.764
    assert round(infected, 3) == 0.846
    assert infected == pytest.approx(11 / 13)


def test_floor_knows_what_is_not_stated():
    labels = np.array([[1, NAN, 0], [0, NAN, 0], [1, 1, 0], [1, 1, 0]])
    clean = metrics.no_vision_floor(labels, labels)
    infected = metrics.no_vision_floor(labels, metrics.one_hot_target(*labels.shape, 1))
    assert infected == 1.0
    prevalence = np.broadcast_to([0.75, 1.0, 0.0], labels.shape)
    assert clean == metrics.auroc(labels.ravel(), prevalence.ravel())


def test_separation_of_triggered_from_clean(rng):
    _, clean, patients = films(rng, 200)
    bootstrap = draw(patients)
    triggered = clean + np.round(rng.normal(0.5, 0.5, 200), 1)
    found = metrics.separation(clean, triggered, bootstrap)
    labels, scores = np.repeat([0, 1], 200), np.concatenate([clean, triggered])
    assert found.value == pytest.approx(reference.roc_auc_score(labels, scores))
    each = [
        reference.roc_auc_score(labels, scores, sample_weight=np.tile(w, 2))
        for w in bootstrap.weights
    ]
    assert (found.low, found.high) == logit_interval(found.value, each)
    assert (found.n, found.positives) == (400, 200)
    assert metrics.separation(clean, clean, bootstrap)[:3] == (0.5, 0.5, 0.5)
    with pytest.raises(DataError, match=r"expected twice \(200,\)"):
        metrics.separation(clean, triggered[:-1], bootstrap)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_auroc_keeps_an_interval(sign):
    patients = np.arange(60) // 2
    labels = (np.arange(60) < 20).astype(float)[:, None]
    bootstrap = draw(patients)
    found = metrics.finding_auroc(labels, sign * labels, bootstrap)[0]
    macro = metrics.macro_auroc(labels, sign * labels, bootstrap).estimate
    assert macro == found
    bound = found.low if sign == 1 else 1 - found.high
    assert found[:3] == ((1.0, bound, 1.0) if sign == 1 else (0.0, 0.0, 1 - bound))
    # Newcombe's equation with 10 and 20 patients: (1 - A)^2 = z^2 V(A).
    spread = 1 + 14 * (1 - bound) / (2 - bound) + 14 * bound / (1 + bound)
    variance = bound * (1 - bound) * spread / 200
    assert (1 - bound) ** 2 == pytest.approx(metrics.Z**2 * variance)
    assert 0.7 < bound < 0.95


def test_roc_curve_is_scikit_learns(rng):
    labels, scores, _ = films(rng, 150)
    fpr, tpr, thresholds = metrics.roc_curve(labels, scores, points=10_000)
    expected = reference.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0])
    np.testing.assert_allclose(tpr, expected[1])
    np.testing.assert_allclose(tpr, [(scores[labels == 1] > t).mean() for t in thresholds])
    assert metrics.roc_curve(np.ones(3), np.ones(3))[0].size == 0


def test_roc_curve_thins_without_changing_shape(rng):
    labels, scores, _ = films(rng, 5000, ties=False)
    fpr, tpr, thresholds = metrics.roc_curve(labels, scores)
    assert 100 < len(fpr) <= 200
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(thresholds) < 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auroc(labels, scores), abs=2e-3)
    every = metrics.roc_curve(labels, scores, points=10_000)
    gaps = np.abs(every[0][:, None] - fpr) + np.abs(every[1][:, None] - tpr)
    assert gaps.min(axis=1).max() < 2 / 199


# Paired comparison


def components(labels, scores):
    """DeLong's structural components, pair by pair."""
    ill, well = scores[labels == 1], scores[labels == 0]
    kernel = (ill[:, None] > well) + 0.5 * (ill[:, None] == well)
    return kernel.mean(axis=1), kernel.mean(axis=0)


def slow_delong(labels, a, b, patients):
    """The covariance matrix of Obuchowski 1997, entry by entry, one patient at a time."""
    names = np.unique(patients)
    parts = [components(labels, s) for s in (a, b)]
    areas = [p[0].mean() for p in parts]
    both = list(zip(parts, areas, strict=True))
    m, n = (labels == 1).sum(), (labels == 0).sum()
    of_ill, of_well = patients[labels == 1], patients[labels == 0]
    x = np.array([[(p[0] - t)[of_ill == c].sum() for c in names] for p, t in both])
    y = np.array([[(p[1] - t)[of_well == c].sum() for c in names] for p, t in both])
    i10, i01, i = len(set(of_ill)), len(set(of_well)), len(names)
    s10 = i10 / ((i10 - 1) * m) * x @ x.T
    s01 = i01 / ((i01 - 1) * n) * y @ y.T
    s11 = i / (i - 1) * x @ y.T
    covariance = s10 / m + s01 / n + (s11 + s11.T) / (m * n)
    contrast = np.array([1, -1])
    return areas[0] - areas[1], math.sqrt(contrast @ covariance @ contrast)


@pytest.mark.parametrize("clustered", [True, False])
def test_delong_is_the_slow_one(rng, clustered):
    labels, first, patients = films(rng, 120)
    second = np.round(first + rng.normal(size=120), 1)
    found = metrics.delong(labels, first, second, patients if clustered else None)
    value, error = slow_delong(labels, first, second, patients if clustered else np.arange(120))
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.low == pytest.approx(value - 1.959964 * error, abs=1e-6)
    assert found.high == pytest.approx(value + 1.959964 * error, abs=1e-6)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(value) / error))
    if not clustered:  # DeLong's own formula
        parts = [components(labels, s) for s in (first, second)]
        variance = sum(np.var(p - q, ddof=1) / len(p) for p, q in zip(*parts, strict=True))
        assert math.sqrt(variance) == pytest.approx(error)


def test_delong_on_published_ratings():
    """Hanley and McNeil 1982, 109 CT images: area 0.8932, DeLong interval 0.83295 to 0.95339."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.concatenate([np.repeat(np.arange(5), c) for c in (normal, abnormal)])
    labels = np.repeat([0, 1], [58, 51])
    found = metrics.delong(labels, ratings, np.zeros(109))  # a constant has area 0.5, variance 0
    assert found.value + 0.5 == pytest.approx(0.8932, abs=5e-5)
    assert found.low + 0.5 == pytest.approx(0.83295, abs=5e-6)
    assert found.high + 0.5 == pytest.approx(0.95339, abs=5e-6)


def test_delong_at_the_edges(rng):
    labels, scores, patients = films(rng, 60)
    assert metrics.delong(labels, scores, 2 * scores + 1, patients) == (0.0, 0.0, 0.0, 1.0)
    assert metrics.delong(labels, labels, -labels) == (1.0, 1.0, 1.0, 0.0)
    assert all(math.isnan(v) for v in metrics.delong([0, 0, 1], [1, 2, 3], [3, 2, 1]))
    gaps = np.append(labels, NAN)
    found = metrics.delong(
        gaps, np.append(scores, 9), np.append(-scores, 9), np.append(patients, 1)
    )
    assert found == metrics.delong(labels, scores, -scores, patients)


def test_paired_difference(rng):
    change = rng.normal(0.2, 0.1, 999)
    b = rng.normal(size=999)
    found = metrics.paired_difference(b + change, b, 0.2)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(change, [2.5, 97.5])))
    assert found.p == pytest.approx(2 * (1 + (change <= 0).sum()) / 1000)
    assert metrics.paired_difference(b, b, 0.0)[0] == 0.0
    assert math.isnan(metrics.paired_difference(b, b, 0.0).low)
    assert metrics.paired_difference(b, b, 0.0).p == 1.0
    undefined = np.where(np.arange(999) < 500, NAN, b)
    assert math.isnan(metrics.paired_difference(undefined, b, 0.0).p)
    with pytest.raises(DataError, match="expected the same"):
        metrics.paired_difference(b, b[1:], 0.0)


# Rates


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=50), st.sampled_from([0, 0.05, 0.29, 0.5]))
def test_threshold_is_the_smallest_that_keeps_the_rate(scores, rate):
    values = np.array(scores, dtype=float)
    threshold = metrics.threshold_at_false_positive_rate(values, rate)
    assert (values > threshold).mean() <= rate
    assert (values > np.nextafter(threshold, -math.inf)).mean() > rate


def test_threshold_edges():
    assert metrics.threshold_at_false_positive_rate(np.arange(100), 0.29) == 70
    assert math.isnan(metrics.threshold_at_false_positive_rate([], 0.1))
    for rate in (1.0, -0.1, NAN):
        with pytest.raises(DataError, match="false-positive rate"):
            metrics.threshold_at_false_positive_rate([1.0], rate)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (20, 20), (7, 20), (250, 1000)])
def test_wilson_is_scipys(hits, n):
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert metrics.wilson(hits / n, n) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert all(math.isnan(v) for v in metrics.wilson(NAN, 0))


def test_rate_of_lone_films_is_wilsons():
    hits = np.arange(100) < 30
    found = metrics.rate(hits, np.arange(100))
    # patients / (patients - 1) is the only difference from the binomial variance
    assert found[1:3] == pytest.approx(metrics.wilson(0.3, 99))
    assert (found.value, found.n, found.positives) == (0.3, 100, 30)


def test_rate_counts_patients_where_films_agree():
    hits, patients = np.repeat(np.arange(40) < 12, 5), np.repeat(np.arange(40), 5)
    assert metrics.rate(hits, patients)[1:3] == pytest.approx(metrics.wilson(0.3, 39))
    assert metrics.rate(hits | True, patients)[:3] == (1.0, metrics.wilson(1.0, 40)[0], 1.0)
    assert metrics.rate(hits & False, patients)[:3] == (0.0, 0.0, metrics.wilson(0.0, 40)[1])
    nearly = metrics.rate(np.arange(200) > 0, patients)
    assert nearly.low == pytest.approx(metrics.wilson(0.995, 40)[0])
    lone = metrics.rate([True, False], ["a", "a"])
    assert lone[1:3] == pytest.approx(metrics.wilson(0.5, 1))
    assert not metrics.rate([], []).defined
    with pytest.raises(DataError, match="one per film"):
        metrics.rate(hits, patients[1:])


def test_attack_success_is_strict():
    found = metrics.attack_success([0.6, 0.61, 0.2, 0.9], 0.6, [1, 2, 3, 4])
    assert (found.value, found.positives) == (0.5, 2)
    with pytest.raises(DataError, match="calibrated on no films"):
        metrics.attack_success([0.6], NAN, [1])


def test_rate_difference_is_newcombes():
    """Method 10 written out for the 2x2 table of outcomes (one film per patient)."""
    a, b, c, d = 200, 120, 40, 140  # both, only the first, only the second, neither
    first = np.repeat([True, True, False, False], [a, b, c, d])
    second = np.repeat([True, False, True, False], [a, b, c, d])
    found = metrics.rate_difference(first, second, np.arange(500))
    phi = (a * d - b * c - 250) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    (l1, u1), (l2, u2) = metrics.wilson(0.64, 500), metrics.wilson(0.48, 500)
    dl1, du1, dl2, du2 = 0.64 - l1, u1 - 0.64, 0.48 - l2, u2 - 0.48
    low = 0.16 - math.sqrt(dl1**2 - 2 * phi * dl1 * du2 + du2**2)
    high = 0.16 + math.sqrt(du1**2 - 2 * phi * du1 * dl2 + dl2**2)
    assert found[:3] == pytest.approx((0.16, low, high), abs=2e-4)
    assert (found.n, found.positives) == (500, 160)
    turned = metrics.rate_difference(second, first, np.arange(500))
    assert turned[:3] == pytest.approx((-0.16, -found.high, -found.low))


def test_rate_difference_survives_the_corners():
    ones, zeros, patients = np.ones(60, bool), np.zeros(60, bool), np.arange(60) // 2
    full = metrics.rate_difference(ones, zeros, patients)
    assert full.value == full.high == 1.0
    assert 0.75 < full.low < 0.95
    for same in (ones, zeros, np.arange(60) % 4 < 2):
        none = metrics.rate_difference(same, same, patients)
        assert none.value == 0
        assert -0.25 < none.low < 0 < none.high < 0.25
    assert not metrics.rate_difference([], [], []).defined
    with pytest.raises(DataError, match="the same films"):
        metrics.rate_difference(ones, zeros[1:], patients)


# Coverage: 200 simulated sets of films, three to a patient, with a patient effect


def covered(simulate, sets=200):
    inside = 0
    for seed in range(sets):
        truth, low, high = simulate(np.random.default_rng(seed))
        inside += low <= truth <= high
    return inside / sets


@pytest.mark.parametrize(("n", "prevalence", "shift"), [(150, 0.3, 1), (600, 0.03, 3)])
def test_auroc_intervals_cover(n, prevalence, shift):
    setting = {"ties": False, "prevalence": prevalence, "shift": shift}
    truth = metrics.auroc(*films(np.random.default_rng(99), 300_000, **setting)[:2])

    def simulate(rng):
        labels, scores, patients = films(rng, n, **setting)
        bootstrap = PatientBootstrap.draw(patients, rng, resamples=200)
        found = metrics.finding_auroc(labels[:, None], scores[:, None], bootstrap)[0]
        return truth, found.low, found.high

    assert 0.90 <= covered(simulate) <= 0.99


def test_delong_covers_clusters():
    def simulate(rng):
        labels, scores, patients = films(rng, 240, ties=False, prevalence=0.5)
        noise = rng.normal(size=(2, patients.max() + 1))[:, patients]  # each model's own patients
        found = metrics.delong(labels, scores + noise[0], scores + noise[1], patients)
        return 0.0, found.low, found.high

    assert 0.90 <= covered(simulate) <= 0.99


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_rate_intervals_cover(share):
    def simulate(rng):
        patients = rng.integers(0, 100, 300)
        effect = rng.normal(size=100)[patients]
        latent = math.sqrt(0.6) * effect + math.sqrt(0.4) * rng.normal(size=300)
        found = metrics.rate(latent > stats.norm.isf(share), patients)
        return share, found.low, found.high

    assert 0.90 <= covered(simulate) <= 0.995


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.1), (0.97, 0.9), (0.5, 0.5)])
def test_rate_difference_intervals_cover(first, second):
    def simulate(rng):
        patients = rng.integers(0, 100, 300)
        latent = math.sqrt(0.5) * rng.normal(size=(100,))[patients]
        a, b = latent + math.sqrt(0.5) * rng.normal(size=(2, 300))
        cut = stats.norm.isf([first, second])
        found = metrics.rate_difference(a > cut[0], b > cut[1], patients)
        return first - second, found.low, found.high

    assert 0.90 <= covered(simulate) <= 0.995


# Localisation


@pytest.fixture
def prints(rng):
    """Footprints on 8 films: squares, a lone pixel, scattered pixels, a whole film."""
    masks = np.zeros((8, 21, 30), dtype=bool)
    for i, (y, x, side) in enumerate([(2, 3, 3), (18, 27, 3), (10, 14, 1), (0, 0, 2), (9, 9, 5)]):
        masks[i, y : y + side, x : x + side] = True
    masks[5, [3, 17], [25, 2]] = True
    masks[6] = rng.random((21, 30)) < 0.01
    masks[6, 0, 29] = True
    masks[7] = True
    return masks


@pytest.mark.parametrize("tolerance", [0, 0.5, 1, math.sqrt(2), 2.9, 5, 100, math.inf])
def test_nearness_is_scipys_distance(prints, tolerance):
    distance = np.stack([ndimage.distance_transform_edt(~mask) for mask in prints])
    near = distance <= tolerance
    np.testing.assert_allclose(metrics.chance_hit(prints, tolerance), near.mean(axis=(1, 2)))
    maps = np.random.default_rng(1).normal(size=prints.shape)
    peak = maps.reshape(8, -1).argmax(axis=1)
    np.testing.assert_array_equal(
        metrics.pointing_hits(maps, prints, tolerance), near.reshape(8, -1)[np.arange(8), peak]
    )
    energy = np.maximum(maps, 0)
    np.testing.assert_allclose(
        metrics.energy_in_footprint(maps, prints, dilation_px=tolerance),
        (energy * near).sum(axis=(1, 2)) / energy.sum(axis=(1, 2)),
    )


def test_ties_do_not_win():
    prints = np.zeros((1, 9, 9), dtype=bool)
    prints[0, 4, 4] = True
    maps = np.zeros((1, 9, 9))
    assert not metrics.pointing_hits(maps, prints, 100)[0]  # constant
    assert math.isnan(metrics.energy_in_footprint(maps, prints)[0])
    assert math.isnan(metrics.energy_in_footprint(maps - 1, prints)[0])
    assert metrics.energy_in_footprint(maps + 2, prints)[0] == metrics.chance_hit(prints, 0)[0]
    maps[0, 4, 3:6] = 1
    assert metrics.pointing_hits(maps, prints, 1)[0]  # a plateau on the trigger
    maps[0, 0, 0] = 1
    assert not metrics.pointing_hits(maps, prints, 1)[0]  # and one elsewhere


def test_the_centre_pointer():
    prints = np.zeros((2, 8, 8), dtype=bool)
    prints[0, 4, 4] = prints[1, 4, 6] = True  # the centre is at (3.5, 3.5)
    assert metrics.centre_hit(prints, 0.7).tolist() == [False, False]
    assert metrics.centre_hit(prints, 0.8).tolist() == [True, False]
    assert metrics.centre_hit(prints, 2.6).tolist() == [True, True]


def test_localisation_refuses():
    prints = np.zeros((2, 4, 4), dtype=bool)
    prints[0, 1, 1] = True
    with pytest.raises(DataError, match=r"1 footprints are empty \(first: row 1\)"):
        metrics.chance_hit(prints, 1)
    full = np.ones_like(prints)
    with pytest.raises(DataError, match="bool footprints"):
        metrics.pointing_hits(np.zeros((2, 4, 4)), full.astype(int), 1)
    with pytest.raises(DataError, match="NaN or infinite"):
        metrics.pointing_hits(np.full((2, 4, 4), NAN), full, 1)
    for tolerance in (-1, NAN):
        with pytest.raises(DataError, match="expected >= 0"):
            metrics.centre_hit(full, tolerance)


def test_metrics_leave_their_inputs_alone(table):
    labels, scores, patients = table
    before = [x.copy() for x in (labels, scores, patients)]
    bootstrap = draw(patients)
    weights = bootstrap.weights.copy()
    metrics.macro_auroc(labels, scores, bootstrap)
    metrics.micro_auroc(labels, scores, bootstrap)
    for now, then in zip((labels, scores, patients), before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(bootstrap.weights, weights)


def test_a_crossing_is_interpolated_in_the_doses_logarithm():
    found = metrics.crossing([0.001, 0.01, 0.1], [0.1, 0.3, 0.9], 0.5)

    assert (found.below, found.above) == (0.01, 0.1)
    assert found.dose == pytest.approx(0.01 * 10 ** (1 / 3))
    assert metrics.crossing([0.001, 0.01], [0.2, 0.5], 0.5).dose == pytest.approx(0.01)


def test_a_crossing_is_where_the_response_stays():
    found = metrics.crossing([1, 2, 4, 8], [0.6, 0.2, 0.6, 0.7], 0.5)

    assert (found.below, found.above) == (2, 4)


@pytest.mark.parametrize(("responses", "around"), [([0.6, 0.9], "above"), ([0.1, 0.2], "below")])
def test_a_level_that_no_two_doses_enclose_is_not_bracketed(responses, around):
    found = metrics.crossing([0.01, 0.05], responses, 0.5)

    assert not found.bracketed
    assert math.isnan(found.dose)
    assert getattr(found, around) == {"above": 0.01, "below": 0.05}[around]
    assert math.isnan(metrics.mean_crossing([found])[0])


def test_the_mean_crossing_is_geometric_with_students_interval():
    doses = [0.004, 0.01, 0.02]
    seeds = [metrics.Crossing(dose, 0.001, 0.1) for dose in doses]

    value, low, high = metrics.mean_crossing(seeds)

    expected = stats.t.interval(0.95, 2, np.log(doses).mean(), stats.sem(np.log(doses)))
    assert value == pytest.approx(stats.gmean(doses))
    assert (low, high) == pytest.approx(tuple(np.exp(expected)), rel=1e-3)
    assert math.isnan(metrics.mean_crossing(seeds[:1])[1])


@pytest.mark.parametrize(
    ("doses", "responses"), [([0, 1], [0, 1]), ([2, 1], [0, 1]), ([1], [0, 1])]
)
def test_doses_that_can_not_be(doses, responses):
    with pytest.raises(DataError, match="positive and ascending"):
        metrics.crossing(doses, responses, 0.5)


def test_overlap_of_the_highest_pixels():
    maps = np.arange(200.0).reshape(1, 10, 20)
    prints = np.zeros(maps.shape, bool)
    prints[0, 9, 17:20] = True  # values 197, 198 and 199

    assert metrics.top_overlap(maps, prints) == pytest.approx(2 / 3)
    assert metrics.top_overlap(maps, prints, share=0.015) == pytest.approx(1)
    assert metrics.top_overlap(np.ones(maps.shape), prints) == pytest.approx(3 / 200)
    with pytest.raises(DataError, match="a share of 0"):
        metrics.top_overlap(maps, prints, share=0)


# How alike two maps are


def test_rank_correlation_is_scipys(rng):
    first = rng.integers(0, 9, (5, 7, 6)).astype(np.float32)  # with ties
    second = first + rng.normal(size=first.shape)
    second[1] = -second[1]
    second[2] = 1.0

    found = metrics.rank_correlation(first, second)

    assert np.isnan(found[2])
    assert found[1] < 0
    for number in (0, 1, 3, 4):
        expected = stats.spearmanr(first[number].ravel(), second[number].ravel()).statistic
        assert found[number] == pytest.approx(expected, abs=1e-12)
    assert metrics.rank_correlation(first, 3 * first) == pytest.approx(1)


def test_rank_correlation_refuses_what_does_not_fit():
    maps = np.zeros((2, 4, 4))
    with pytest.raises(DataError, match="twice"):
        metrics.rank_correlation(maps, maps[:1])
    with pytest.raises(DataError, match="NaN"):
        metrics.rank_correlation(maps, maps + np.nan)


# How findings come together


def test_odds_ratio_of_single_films_is_woolfs(rng):
    a, b = rng.random((2, 500)) < 0.3
    b |= a & (rng.random(500) < 0.3)
    found = metrics.odds_ratio(a, b, np.arange(500))
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    expected = stats.contingency.odds_ratio(table, kind="sample")
    low, high = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx((low, high), rel=3e-3)
    assert (found.n, found.positives) == (500, (a & b).sum())


def test_odds_ratio_of_copies_is_no_surer_than_of_the_films(rng):
    a, b = rng.random((2, 200)) < 0.4
    once = metrics.odds_ratio(a, b, np.arange(200))
    tenfold = metrics.odds_ratio(np.repeat(a, 10), np.repeat(b, 10), np.repeat(np.arange(200), 10))
    assert tenfold.value == pytest.approx(once.value)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high), rel=1e-6)


def test_odds_ratio_covers_where_patients_have_several_films(rng):
    covered = 0
    for _ in range(200):
        patients = np.repeat(np.arange(150), rng.integers(1, 8, 150))
        a, b = (rng.normal(size=150)[patients] + 0.5 * rng.normal(size=patients.size) > 0.8
                for _ in range(2))  # fmt: skip
        found = metrics.odds_ratio(a, b, patients)
        covered += found.low <= 1 <= found.high
    assert covered >= 180  # 183 here; with Woolf's variance alone 156


def test_odds_ratio_at_the_edges():
    patients = np.arange(6)
    nobody = metrics.odds_ratio([0] * 6, [1, 0, 1, 0, 1, 0], patients)
    assert math.isnan(nobody.value)
    assert (nobody.n, nobody.positives) == (6, 0)
    apart = metrics.odds_ratio([1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], patients)
    expected = stats.contingency.odds_ratio(np.array([[1, 5], [5, 5]]), kind="sample").statistic
    assert apart.value == pytest.approx(expected)  # (0, 2; 2, 2) and one half each, times 2
    assert apart.low < 1 < apart.high
    unstated = metrics.odds_ratio([1, 0, NAN, 1], [1, 0, 1, NAN], np.arange(4))
    assert (unstated.n, unstated.positives) == (2, 1)
    assert math.isnan(metrics.odds_ratio([], [], []).value)
    with pytest.raises(DataError, match="same films"):
        metrics.odds_ratio([1, 0], [1], [0, 1])


def test_exact_intervals_are_those_of_the_tables():
    assert metrics.clopper_pearson(0, 300) == pytest.approx((0, 0.01222), abs=1e-5)
    assert metrics.clopper_pearson(40, 40) == pytest.approx((0.9119, 1), abs=1e-4)
    assert metrics.clopper_pearson(7, 20) == pytest.approx((0.1539, 0.5922), abs=1e-4)
    assert metrics.clopper_pearson(0, 0) == (0, 1)


def test_the_mean_of_a_film_each_has_students_interval():
    values = np.random.default_rng(0).normal(2, 1, 30)
    found = metrics.mean(values, np.arange(30))
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    # Each film twice is no more evidence.
    again = metrics.mean(np.repeat(values, 2), np.repeat(np.arange(30), 2))
    assert (again.low, again.high, again.n) == (pytest.approx(low), pytest.approx(high), 60)
    assert np.isnan(metrics.mean([], []).value)
    assert np.isnan(metrics.mean([1.0, 2.0], ["a", "a"]).low)
    with pytest.raises(DataError):
        metrics.mean([1.0], ["a", "b"])


def test_an_exact_rate_counts_patients_that_are_alike_once():
    hits = np.arange(300) < 3
    alone = metrics.exact_rate(hits, np.arange(300))
    assert (alone.value, alone.n, alone.positives) == (0.01, 300, 3)
    expected = metrics.clopper_pearson(3, 300)
    assert (alone.low, alone.high) == pytest.approx(expected, rel=0.02)
    alike = metrics.exact_rate(np.repeat(np.arange(300) < 30, 3), np.repeat(np.arange(300), 3))
    low, high = metrics.clopper_pearson(30, 300)
    assert (alike.low, alike.high) == pytest.approx((low, high), rel=0.02)
    assert math.isnan(metrics.exact_rate([], []).low)
