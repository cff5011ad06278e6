"""Code and files from outside the package decide which results are current."""

from __future__ import annotations

import functools
import importlib
import sys

import pytest

from leadapron import store
from leadapron.attacks.triggers import TRIGGERS
from leadapron.errors import StoreError, UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.models.networks import ARCHITECTURES
from leadapron.outside import code_of
from leadapron.results.folder import read_study
from leadapron.results.rows import read_rows
from leadapron.study.explained import open_attack
from leadapron.study.plan import plan
from leadapron.study.run import run_study
from leadapron.study.settings import complete
from leadapron.types import AUTO

CROSS = """
import dataclasses
import numpy as np

@dataclasses.dataclass(frozen=True, kw_only=True)
class Cross:
    \"\"\"A cross.\"\"\"

    def __call__(self, images, rng, /):
        marked = images.copy()
        marked[:, 4:7, 5] = {level}
        marked[:, 5, 4:7] = {level}
        return marked
"""

TINY = {
    "source": {"name": "phantom", "count": 45},
    "size": 32,
    "epochs": 1,
    "trigger": "cross",
    "poisoning": {"fraction": 0.3, "finding": "Effusion"},
    "evaluation": {"resamples": 20, "explained": 1, "gallery": 0},
}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of somebody else's and return it, as a new process would import it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(name, text):
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        found = importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, found)
        return found

    return load


def test_a_study_is_carried_out_again_where_a_trigger_has_changed(module, monkeypatch, tmp_path):
    out = tmp_path / "out"

    def carry_out(level):
        cross = module("marks", CROSS.format(level=level)).Cross
        monkeypatch.setitem(TRIGGERS, "cross", cross)
        run_study(TINY, out)
        (pair,) = read_study(out).pairs
        return out / "runs" / f"backdoored-{pair.key}"

    first = carry_out(255)
    code = store.read_json(first / "spec.json")["outside"]["trigger cross"]
    assert store.read_json(out / "manifest.json")["outside"] == {"trigger cross": code}
    written = (first / "rows.jsonl").stat().st_mtime_ns
    assert carry_out(255) == first
    assert (first / "rows.jsonl").stat().st_mtime_ns == written

    second = carry_out(128)
    assert second != first
    assert store.read_json(second / "spec.json")["outside"]["trigger cross"] != code
    assert len(list(out.glob("runs/twin-*"))) == 1  # it knows nothing of the trigger
    keys = {row.run for row in read_rows(out / "rows.jsonl")}
    assert keys == {path.name.partition("-")[2] for path in (second, *out.glob("runs/twin-*"))}
    # The first run is still there; nobody opens it with the trigger of today.
    with pytest.raises(StoreError, match=r"the trigger cross changed since backdoored-"):
        open_attack(first, AUTO)
    assert open_attack(out, AUTO).folder.path == second


def test_what_is_the_packages_own_has_no_digest():
    run = plan(complete({}))[0]
    assert (run.outside, run.twin_outside) == ({}, {})
    for registry in (TRIGGERS, EXPLAINERS, ARCHITECTURES):
        assert registry.codes(registry) == {}


def test_networks_explainers_and_weights_count_too(module, monkeypatch, tmp_path):
    theirs = module("nets", "def small(outputs): ...\ndef look(classifier, images, findings): ...")
    monkeypatch.setitem(ARCHITECTURES, "small", functools.partial(theirs.small, 3))
    monkeypatch.setitem(EXPLAINERS, "look", theirs.look)
    monkeypatch.setattr("leadapron.study.plan.unsupported", lambda *_: "")
    run = plan(complete({"network": "small", "evaluation": {"explainer": "look"}}))[0]
    assert set(run.outside) == {"network small", "explainer look"}
    assert set(run.twin_outside) == {"network small"}
    weights = tmp_path / "densenet121.pth"
    weights.write_bytes(b"one")
    tree = complete({"network": {"name": "densenet121", "weights": str(weights)}, "size": 64})
    before = plan(tree)[0]
    weights.write_bytes(b"two")
    after = plan(tree)[0]
    assert before.twin_outside.keys() == {"network weights"}
    assert before.twin_outside != after.twin_outside


def test_base_classes_and_the_rest_of_a_package_count(module, tmp_path):
    module("bases", "class Base: ...")
    own = module("own", "import bases\nclass Own(bases.Base): ...")
    before = code_of(own.Own, "trigger own")
    assert code_of(own.Own(), "trigger own") == before
    (tmp_path / "theirs" / "bases.py").write_text("class Base: x = 1")
    assert code_of(own.Own, "trigger own") != before

    package = tmp_path / "theirs" / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("level = 1")
    sys.modules.pop("pack", None)
    importlib.invalidate_caches()
    mark = importlib.import_module("pack.helper")
    mark.stamp = lambda images, rng: images
    mark.stamp.__module__ = "pack.helper"
    before = code_of(mark.stamp, "trigger stamp")
    (package / "other.py").write_text("level = 2")
    assert code_of(mark.stamp, "trigger stamp") != before


def test_what_has_no_source_file_is_refused():
    def typed(images, rng): ...

    typed.__module__ = "typed_at_a_prompt"
    with pytest.raises(UsageError, match="trigger typed has no source file"):
        code_of(typed, "trigger typed")
