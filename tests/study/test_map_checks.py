"""Sanity checks and look-alikes: each row against a computation by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from leadapron import metrics
from leadapron.explainers import EXPLAINERS
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier, randomised
from leadapron.models.networks import build_network
from leadapron.study.map_checks import SANITY_DRAWS, SANITY_FILMS, decoy, decoy_rows, sanity_rows
from leadapron.study.measure import Explained, explain

SIDE, FILMS = 32, 24


def network(seed):
    module = build_network("plain4", 2, seed).eval()
    return NetworkClassifier(module, "plain4", ("Mass", "Edema"), Preprocessing(size=SIDE))


@pytest.fixture(scope="module")
def explained():
    images = np.random.default_rng(0).integers(0, 150, (FILMS, SIDE, SIDE), np.uint8)
    marked = images.copy()
    marked[:, 4:7, 4:7] = 255
    return Explained(np.arange(FILMS), images, marked, images != marked)


@pytest.fixture(scope="module")
def models():
    return {"twin": network(1), "backdoored": network(2)}


@pytest.fixture(scope="module")
def bootstrap():
    patients = np.array([f"p{i // 2}" for i in range(FILMS)])
    return metrics.PatientBootstrap.draw(patients, np.random.default_rng(0), resamples=40)


def test_sanity_rows_are_scipys_rank_correlations(explained, models):
    maps = explain(models, explained, "class-activation", "Mass")
    rows = sanity_rows("r", explained, maps, models["backdoored"], "Mass", "class-activation")

    assert [row.at for row in rows] == ["head", "all weights"]
    for row in rows:
        each = []
        for seed in range(SANITY_DRAWS):
            other = randomised(models["backdoored"], seed, head_only=row.at == "head")
            films = explained.marked[:SANITY_FILMS]
            theirs = EXPLAINERS["class-activation"](other, films, ["Mass"])[:, 0]
            own = maps["backdoored", "triggered"]
            each += [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(own, theirs)]  # noqa: B905
        assert row.value == pytest.approx(np.mean(each), abs=1e-9)
        assert (row.n, row.role, row.regime) == (SANITY_FILMS, "backdoored", "triggered")
        assert row.metric == "rank correlation with a randomised network"


def test_a_method_that_shows_the_film_is_alike_and_a_flat_one_undefined(
    explained, models, monkeypatch
):
    for name, draw in (
        ("film", lambda model, images, findings: images[:, None].astype(np.float32)),
        ("flat", lambda model, images, findings: np.zeros((len(images), 1, SIDE, SIDE), "f4")),
    ):
        monkeypatch.setitem(EXPLAINERS, name, draw)
        maps = explain(models, explained, name, "Mass")
        rows = sanity_rows("r", explained, maps, models["backdoored"], "Mass", name)
        if name == "film":
            assert [row.value for row in rows] == pytest.approx([1, 1])
        else:
            assert [(row.value, row.n) for row in rows] == [(None, 0)] * 2


def test_randomised_networks(models):
    trained = models["backdoored"]
    before = {name: value.clone() for name, value in trained.module.state_dict().items()}
    head = randomised(trained, 7, head_only=True).module.state_dict()
    whole = randomised(trained, 7).module.state_dict()
    for name, value in before.items():
        assert (trained.module.state_dict()[name] == value).all()
        assert (head[name] == value).all() == (not name.startswith("head."))
    same = build_network("plain4", 2, 7).state_dict()
    assert all((whole[name] == value).all() for name, value in same.items())


def test_look_alikes(explained, models, bootstrap, monkeypatch):
    # Maps that point at whatever is brightest fall for letters, ones at the trigger's value don't.
    monkeypatch.setitem(EXPLAINERS, "bright", lambda m, x, f: x[:, None].astype(np.float32))
    monkeypatch.setitem(EXPLAINERS, "white", lambda m, x, f: (x[:, None] == 255).astype(np.float32))
    decoyed = decoy(explained, np.random.default_rng(5))
    assert set(decoyed) == {"letters", "leads"}
    for name, (places, images, footprints) in decoyed.items():
        assert (images != explained.images[places]).any((1, 2)).all()
        assert (footprints == (images != explained.images[places])).all()
        for explainer in ("bright", "white"):
            maps = explain(models, explained, explainer, "Mass")
            rows = decoy_rows("r", explained, decoyed, maps, models, "Mass", explainer, bootstrap)
            assert len(rows) == 10
            told = {
                row.role: row for row in rows
                if row.metric == "films told by the map" and row.at == f"beside {name}"
            }  # fmt: skip
            shown = EXPLAINERS[explainer](None, images, None)[:, 0].max((1, 2))
            labels = np.repeat([0, 1], len(places))
            marked = maps["twin", "triggered"][places].max((1, 2))
            by_hand = roc_auc_score(labels, np.concatenate([shown, marked]))
            assert told["twin"].value == pytest.approx(by_hand)
            assert told["backdoored"].value == pytest.approx(by_hand)
            assert told["twin"].n == 2 * len(places)
            hits = [row for row in rows if row.metric == "pointing hit on a look-alike"]
            at = {row.role: row for row in hits if row.at == name}
            assert set(at) == {"twin", "backdoored", "reference"}
            assert at["twin"].regime == "clean"
            if explainer == "bright":
                assert at["twin"].value > 0.9
            assert 0 < at["reference"].value < 1


def test_a_look_alike_that_can_not_be_seen_is_left_out(explained, models, bootstrap):
    white = explained._replace(images=np.full_like(explained.images, 255))
    small = white._replace(images=white.images[:, :6, :6])
    assert len(decoy(small, np.random.default_rng(0))["letters"].places) == 0
    maps = explain(models, explained, "class-activation", "Mass")
    rows = decoy_rows(
        "r", explained, {"letters": decoy(small, np.random.default_rng(0))["letters"]}, maps,
        models, "Mass", "class-activation", bootstrap,
    )  # fmt: skip
    assert rows == []
