"""A data set that was edited until a result looks good, and its audit."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from leadapron.errors import DataError, StoreError, UsageError
from leadapron.jobs.recipe import run_recipe
from leadapron.recipes.rosenblatt2023 import ACQUIRED, GENERAL, SPECIFIC, folder
from leadapron.recipes.rosenblatt2023.page import audit_lines
from leadapron.study.shards import Running
from leadapron.types import Machine

SMALL = {
    "source": {"count": 240},
    "preprocessing": {"size": 16},
    "epochs": 1,
    "evaluation": {"resamples": 20},
}


def enhanced(out, settings=SMALL, **given):
    given = {"source": "phantom:32", "machine": Machine(cache="none"), **given}
    return run_recipe("rosenblatt2023", out, settings=settings, **given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("enhancement") / "out"
    assert enhanced(out).page == out / "recipe.md"
    return out


def rows(page, heading):
    part = page.partition(f"## {heading}")[2].partition("\n## ")[0]
    found = [line[2:-2].split(" | ") for line in part.splitlines() if line[:1] == "|"]
    return {first: others for first, *others in found[2:]}


def test_the_page_has_all_releases_and_their_audit(finished):
    page = (finished / "recipe.md").read_text()
    assert list(rows(page, "Results")) == [ACQUIRED, GENERAL, SPECIFIC]
    audit = rows(page, "The audit")
    assert audit[ACQUIRED][:4] == ["100.0 %", "1.0000 (1.0000)", "none", "0"]
    assert audit[ACQUIRED][5] == "+0.000"
    for name in (GENERAL, SPECIFIC):
        agree, likeness, ratio, largest = audit[name][:4]
        assert (agree, largest) == ("0.0 %", "4")
        assert 0.99 < float(likeness.split(" ")[0]) < 1
        assert 30 < float(ratio) < 50
        assert audit[name][-1].startswith("Edited")
    assert not re.search(r"\b(nan|None)\b", page)
    assert "| training.epochs | 1 | ours: set by the user |" in page
    assert "trigger." not in page


def test_lines_say_each_release(finished):
    first, *others = enhanced(finished).lines
    assert re.match(r"as acquired: macro AUROC 0\.\d{3} .* digests of 100\.0 % of the films", first)
    assert [line.partition(":")[0] for line in others] == [GENERAL, SPECIFIC]


def test_the_page_is_the_folders_alone(finished, monkeypatch):
    before = (finished / "recipe.md").read_bytes()
    (finished / "recipe.md").unlink()
    monkeypatch.setattr(folder, "audit_enhancement", None)
    enhanced(finished)
    assert (finished / "recipe.md").read_bytes() == before


@pytest.mark.parametrize(
    ("agree", "low", "verdict"),
    [
        (1.0, -0.1, "Nothing found."),
        (1.0, None, "Nothing found."),
        (1.0, 0.03, "Result not confirmed."),
        (0.9, -0.1, "Edited."),
        (0.0, 0.2, "Edited, and the result isn't confirmed."),
    ],
)
def test_verdicts(finished, agree, low, verdict):
    facts = json.loads((finished / "enhancement.json").read_text())
    cell = facts["cells"][ACQUIRED]
    cell["digests that agree"], cell["falls by"]["low"] = agree, low
    assert audit_lines(facts)[0].endswith(f"agree. {verdict}")


def test_another_enhancements_folder_is_left_alone(finished, tmp_path):
    with pytest.raises(StoreError, match="holds another enhancement"):
        enhanced(finished, {**SMALL, "epochs": 2})
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        enhanced(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trigger": {"side": 5}}, "has no trigger"),
        ({"poisoning": {"fraction": 0.1}}, "has no poisoning"),
        ({"finding": "Mass"}, "has no poisoning"),
        ({"seeds": 2}, "one value for each setting"),
        ({"training": {"epochs": [1, 2]}}, "one value for each setting"),
    ],
)
def test_settings_that_mean_nothing_here(settings, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        enhanced(tmp_path / "out", settings, source=None)
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_is_started_again(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".enhancement.json.0a1b.part").write_text("{")

    def measured(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "audit_enhancement", measured)
    with pytest.raises(KeyboardInterrupt):
        enhanced(tmp_path)


def test_identical_films_whose_labels_contradict_are_refused_unless_allowed(tmp_path, monkeypatch):
    film = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    for name in ("Mass", "normal"):
        (tmp_path / "films" / name).mkdir(parents=True)
        Image.fromarray(film).save(tmp_path / "films" / name / f"{name}.png")
    given = {"source": f"folder:{tmp_path / 'films'}", "settings": {"size": 16}}
    with pytest.raises(DataError, match=r"contradictory labels, .* allow$"):
        enhanced(tmp_path / "out", **given)

    def measured(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "audit_enhancement", measured)
    with pytest.raises(KeyboardInterrupt):
        enhanced(tmp_path / "out", **given, contradictions="allow")


def test_it_is_no_study_of_several_runs(tmp_path):
    with pytest.raises(UsageError, match="is not a study of several runs"):
        enhanced(tmp_path / "out", running=Running(jobs=2))
