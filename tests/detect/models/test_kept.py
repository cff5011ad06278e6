"""Sweeps that are kept: equal when read again, made anew where anything differs or is broken."""

from __future__ import annotations

import json
import logging
import stat
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest

from leadapron.detect.models import KINDS, STATISTICS, Measure, StampSweep
from leadapron.detect.models.kept import (
    measure_once,
    sweep_once,
    swept_facts,
    swept_from,
)
from leadapron.detect.models.stamps import probes
from leadapron.detect.models.statistics import compare_statistics
from leadapron.errors import DataError
from leadapron.films.cache import clear
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.networks import build_network
from leadapron.result_cache import results

SIZE, N = 16, 24
SMALL = Preprocessing(size=SIZE)
QUICK = StampSweep(
    values=(255,), sides=(2,), pitches=((8, 1),), rounds=1, places=2, films=1, judged=12
)


@pytest.fixture(scope="module")
def films():
    images = np.random.default_rng(5).integers(80, 160, (N, SIZE, SIZE), dtype=np.uint8)
    ids = np.array([f"f{i}" for i in range(N)])
    return Cohort(images, np.zeros((N, 2), np.float32), ("Effusion", "Mass"), ids, ids, SMALL)


class Model:
    """Two means of a film; counts the images that it is asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, images):
        self.asked += len(images)
        halves = images[:, 0].reshape(len(images), 2, -1).mean(2)
        return (60 * halves - 28).astype(np.float32)

    def classifier(self, **more):
        settings = {"normalisation": NORMALISATIONS["unit"], "batch": 4096, **more}
        return BlackBoxClassifier(self, ("Effusion", "Mass"), SMALL, **settings)


def test_what_was_written_is_what_is_read(films):
    swept = QUICK.sweep(Model().classifier(), films)
    again = swept_from(json.loads(json.dumps(swept_facts(swept))))
    assert swept_facts(again) == swept_facts(swept)
    assert (again.findings, again.films, again.forwards) == (
        swept.findings,
        swept.films,
        swept.forwards,
    )
    for kind in KINDS:
        np.testing.assert_array_equal(again.table(kind), swept.table(kind))
        assert list(again.marks[kind]) == list(swept.marks[kind])
        for aim, one in again.marks[kind].items():
            assert one.mark == swept.marks[kind][aim].mark
            np.testing.assert_array_equal(one.shifts, swept.marks[kind][aim].shifts)
    np.testing.assert_array_equal(again.spread, swept.spread)
    images = films.images[:2]
    one, other = (each.marks["whole image"]["Mass", "added"].mark for each in (again, swept))
    assert np.array_equal(one(images), other(images))


def test_it_is_swept_anew_where_anything_differs(films, tmp_path):
    model = Model()

    def asked(how=QUICK, content="one", clean=films, folder=tmp_path / "cache", **more):
        before = model.asked
        kept = sweep_once(how, model.classifier(**more), clean, content=content, folder=folder)
        assert kept.seconds > 0
        return model.asked - before, swept_facts(kept.swept)

    first = asked()
    assert first[0] == first[1]["forwards"] > 0
    assert asked() == (0, first[1])
    names = np.array([f"g{i}" for i in range(N)])
    assert asked(clean=replace(films, ids=names, patients=names))[0] == 0  # the same pixels
    brighter = replace(films, images=films.images[:] + np.uint8(1))
    for changed in (
        {"how": replace(QUICK, seed=1)},
        {"content": "two"},
        {"clean": brighter},
        {"head": "softmax"},
        {"normalisation": NORMALISATIONS["imagenet"], "channels": 3},
        {"content": None},
        {"folder": None},
    ):
        assert asked(**changed)[0] > 0, changed
    assert asked() == (0, first[1])
    assert len(results(tmp_path / "cache")) == 6


def test_a_broken_one_is_replaced(films, tmp_path):
    def swept():
        model = Model()
        kept = sweep_once(QUICK, model.classifier(), films, content="one", folder=tmp_path / "c")
        return model.asked, swept_facts(kept.swept)

    asked, first = swept()
    (file,) = (tmp_path / "c" / "results").iterdir()
    whole = file.read_bytes()
    for broken in (b"", whole[:-9], b"[]", whole.replace(b"added", b"addde"), b"{}"):
        file.write_bytes(broken)
        assert swept() == (asked, first)
        assert swept() == (0, first)
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_written_costs_no_sweep(films, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        kept = sweep_once(
            QUICK, Model().classifier(), films, content="one", folder=tmp_path / "file"
        )
    assert kept.swept.forwards > 0
    assert "isn't kept" in caplog.text


def test_they_are_listed_and_cleared_as_films_are(films, tmp_path):
    model = Model().classifier()
    for content in ("one", "two"):
        sweep_once(QUICK, model, films, content=content, folder=tmp_path, name=f"{content}.onnx")
    found = results(tmp_path)
    assert {result.about for result in found} == {"sweep of one.onnx", "sweep of two.onnx"}
    assert all(result.size > 500 for result in found)
    assert clear(tmp_path, [found[0].key]) == [found[0].key]
    (tmp_path / "results" / "notes.json").write_text("mine")
    assert results(tmp_path) == found[1:]
    assert clear(tmp_path) == [found[1].key]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["notes.json"]


@pytest.fixture
def network_and_films():
    small = Preprocessing(size=24)
    network = NetworkClassifier(
        build_network("resnet9", 3, 0).eval(), "resnet9", ("a", "b", "c"), small
    )
    ids = np.array([f"f{i}" for i in range(20)])
    images = np.random.default_rng(0).integers(0, 255, (20, 24, 24), dtype=np.uint8)
    films = Cohort(images, np.zeros((20, 3), np.float32), ("a", "b", "c"), ids, ids, small)
    return network, films


def counting(monkeypatch, changed=None):
    """`STATISTICS`, some of them changed, that note which of them are taken."""
    taken = []

    def noted(name, how):
        @wraps(how.take)
        def take(*given):
            taken.append(name)
            return how.take(*given)

        return Measure(take=take, unit=how.unit)

    known = {**STATISTICS, **(changed or {})}
    counted = {name: noted(name, how) for name, how in known.items()}
    for module in ("kept", "statistics"):
        monkeypatch.setattr(f"leadapron.detect.models.{module}.STATISTICS", counted)
    return taken


def test_each_statistic_is_kept_by_its_name_and_settings(network_and_films, tmp_path, monkeypatch):
    network, films = network_and_films

    def measured():
        return measure_once(network, films, content="0" * 64, folder=tmp_path)

    first = measured()
    assert first.keys() == STATISTICS.keys()
    taken = counting(monkeypatch)
    second = measured()
    assert taken == []
    for name, table in first.items():
        np.testing.assert_array_equal(table, second[name])

    # A new one is taken, and stands beside those that were kept.
    def constant(classifier, clean, *, level=1.0):
        return np.full((3, 1), level)

    new = Measure(take=constant, unit="")
    taken = counting(monkeypatch, {"constant": new})
    assert (measured()["constant"] == 1).all()
    assert taken == ["constant"]
    assert [each.name for each in compare_statistics(network.findings, measured())] == [
        *STATISTICS,
        "constant",
    ]

    # A default that changed gives no old numbers.
    def other(classifier, clean, *, level=2.0):
        return np.full((3, 1), level)

    taken = counting(monkeypatch, {"constant": Measure(take=other, unit="")})
    assert (measured()["constant"] == 2).all()
    assert taken == ["constant"]


def test_statistics_that_a_reference_lacks_are_an_error():
    own = {name: np.zeros((3, 1)) for name in STATISTICS}
    fewer = {name: own[name] for name in list(STATISTICS)[:-1]}
    with pytest.raises(DataError, match=list(STATISTICS)[-1]):
        compare_statistics(("a", "b", "c"), own, [(("a", "b", "c"), fewer)] * 2)
    assert len(compare_statistics(("a", "b", "c"), fewer)) == len(fewer)


def test_a_sweep_that_tries_other_changes_is_another(films, tmp_path, monkeypatch):
    def asked():
        model = Model()
        sweep_once(QUICK, model.classifier(), films, content="one", folder=tmp_path / "c")
        return model.asked

    assert asked() > 0
    assert asked() == 0
    fewer = probes()[1:]
    for module in ("sweep", "kept"):
        monkeypatch.setattr(f"leadapron.detect.models.{module}.probes", lambda: fewer)
    assert asked() > 0


def test_what_is_no_number_is_kept_as_such(films):
    class Broken(Model):
        def __call__(self, images):
            answers = super().__call__(images)
            answers[(images[:, 0] > 0.99).any((1, 2)), 0] = np.nan
            return answers

    swept = QUICK.sweep(Broken().classifier(), films)
    assert swept.not_finite
    again = swept_from(json.loads(json.dumps(swept_facts(swept), allow_nan=False)))
    assert again.not_finite == swept.not_finite
    for kind in KINDS:
        np.testing.assert_array_equal(again.table(kind), swept.table(kind))
