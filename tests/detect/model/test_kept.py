"""Sweeps that are kept: equal when read again, made anew where anything differs or is broken."""

from __future__ import annotations

import json
import logging
import stat
from dataclasses import replace

import numpy as np
import pytest

from leadapron.cache import clear, results
from leadapron.classifier import NetworkClassifier
from leadapron.cohort import Cohort
from leadapron.detect.model import STATISTICS, StampSweep
from leadapron.detect.model.kept import (
    measure_once,
    model_content,
    sweep_once,
    swept_facts,
    swept_from,
)
from leadapron.models import NORMALISATIONS, AskedClassifier
from leadapron.networks import build_network
from leadapron.preprocessing import Preprocessing

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
        return AskedClassifier(self, ("Effusion", "Mass"), SMALL, **settings)


def test_what_was_written_is_what_is_read(films):
    swept = QUICK.sweep(Model().classifier(), films)
    again = swept_from(json.loads(json.dumps(swept_facts(swept))))
    assert swept_facts(again) == swept_facts(swept)
    assert (again.findings, again.films, again.forwards) == (
        swept.findings,
        swept.films,
        swept.forwards,
    )
    for kind in ("stamps", "lattices", "whole"):
        np.testing.assert_array_equal(again.table(kind), swept.table(kind))
        for one, other in zip(getattr(again, kind), getattr(swept, kind), strict=True):
            assert one.mark == other.mark
            np.testing.assert_array_equal(one.shifts, other.shifts)
    np.testing.assert_array_equal(again.spread, swept.spread)
    images = films.images[:2]
    assert np.array_equal(again.whole[0].mark(images), swept.whole[0].mark(images))


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


def test_a_function_has_no_content(tmp_path):
    assert model_content("module:function") is None
    (tmp_path / "m.onnx").write_bytes(b"abc")
    assert model_content(tmp_path / "m.onnx").startswith("ba7816bf")


def test_statistics_are_kept_too(tmp_path, monkeypatch):
    network = NetworkClassifier(
        build_network("resnet9", 3, 0).eval(), "resnet9", ("a", "b", "c"), Preprocessing(size=24)
    )
    rng = np.random.default_rng(0)
    ids = np.array([f"f{i}" for i in range(20)])
    images = rng.integers(0, 255, (20, 24, 24), dtype=np.uint8)
    films = Cohort(
        images, np.zeros((20, 3), np.float32), ("a", "b", "c"), ids, ids, Preprocessing(size=24)
    )
    first = measure_once(network, films, content="0" * 64, folder=tmp_path)
    monkeypatch.setattr("leadapron.detect.model.kept.measure", lambda *_: pytest.fail("again"))
    second = measure_once(network, films, content="0" * 64, folder=tmp_path)
    assert first.keys() == second.keys() == STATISTICS.keys()
    for name, table in first.items():
        np.testing.assert_array_equal(table, second[name])
