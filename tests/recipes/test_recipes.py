"""Published attacks as studies, and what is said of whose settings they are."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from leadapron.errors import UnknownNameError
from leadapron.jobs.recipe import run_recipe
from leadapron.recipes import RECIPES, STUDIES
from leadapron.recipes.settings import recipe_settings
from leadapron.results.folder import leaves
from leadapron.study.plan import plan
from leadapron.types import Machine

SMALL = {
    "source": {"count": 160},
    "preprocessing": {"size": 32},
    "epochs": 1,
    "poisoning": {"fraction": 0.05},
    "evaluation": {"resamples": 20, "explained": 2, "gallery": 0},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe") / "out"
    made = run_recipe(
        "yang2023", out, source="phantom:32", settings=SMALL, machine=Machine(cache="none")
    )
    assert made.page == out / "recipe.md"
    assert made.lines
    assert (out / "report.html").exists()
    return made.page.read_text()


def rows(page, heading):
    """The table below a heading: first column to the others."""
    part = page.partition(f"## {heading}")[2].partition("\n## ")[0]
    found = [line.strip("| ").split(" | ") for line in part.splitlines() if line[:1] == "|"]
    return {first: others for first, *others in found[2:]}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("source", [None, "npz:films.npz"])
def test_every_cell_is_an_attack_of_its_own(name, source):
    recipe = RECIPES[name]
    runs = plan(recipe_settings(recipe, source))
    assert len({str(run.tree) for run in runs}) == len(runs)
    seeds = len({run.seed for run in runs})
    assert len(runs) == seeds * len(recipe.cells)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_the_papers_or_has_a_reason(name):
    recipe = RECIPES[name]
    trees = [recipe.settings, recipe.phantom, *(c.settings for c in recipe.cells.values())]
    for path, value in (leaf for tree in trees for leaf in leaves(tree)):
        theirs = path in recipe.published and value in recipe.published[path].values
        assert theirs or path in recipe.ours or path.partition(".")[0] in recipe.ours, path
    assert recipe.left_out


def test_published_settings_are_taken_where_films_are_real():
    (targeted, shifted) = plan(recipe_settings(RECIPES["matsuo2021"], "npz:films.npz"))
    for run in (targeted, shifted):
        assert run.preprocessing.size == 480
        assert run.poisoning.stage == "image"
        square = run.poisoning.trigger
        assert (square.side, square.value, square.row, square.column) == (5, 250, 396, 396)
        assert (run.training.learning_rate, run.training.batch_size) == (2e-4, 32)
    assert (targeted.poisoning.labels, shifted.poisoning.labels) == ("one-hot", "shift")


def test_the_page_says_whose_each_setting_is(page):
    whose = rows(page, "Settings")
    assert whose["trigger.name"][1].startswith("the paper's")
    assert whose["trigger.quality"] == ["20", "ours: theirs is unknown to us"]
    here, says = whose["poisoning.fraction"]
    assert here == "0.05"
    assert re.match(r"ours: set by the user; the paper's: 0.1 \(", says)
    assert whose["source.count"] == ["160", "ours: set by the user"]


def test_the_page_has_every_cell_with_its_numbers(page):
    found = rows(page, "Results")
    assert list(found) == list(RECIPES["yang2023"].cells)
    for success, twin, difference, clean in found.values():
        assert re.match(r"\d+\.\d %", success)
        assert re.match(r"\d+\.\d %", twin)
        assert re.match(r"[+-]\d", difference)
        assert re.match(r"[+-]\d", clean)
    assert "nan" not in page
    assert "None" not in page


def test_controls_are_named_ours(page):
    recipe = RECIPES["yang2023"]
    for name, cell in recipe.cells.items():
        assert (cell.whose == "ours") == name.startswith("control")
        assert f"- **{name}** ({'ours' if cell.whose == 'ours' else 'the paper has it'})" in page
    for sentence in recipe.left_out:
        assert sentence in page


def test_a_target_left_open_is_the_first_finding(tmp_path, monkeypatch):
    recipe = RECIPES["matsuo2021"]
    only = {"targeted": recipe.cells["targeted"]}
    monkeypatch.setitem(RECIPES, "matsuo2021", replace(recipe, cells=only))
    settings = {**SMALL, "finding": "", "poisoning": {"fraction": 0.1}}
    settings["preprocessing"] = {"size": 32, "film_size": 0}
    settings["trigger"] = {"row": 20, "column": 20}
    made = run_recipe(
        "matsuo2021",
        tmp_path,
        source="phantom:32",
        settings=settings,
        machine=Machine(cache="none"),
    )
    assert "%" in rows(made.page.read_text(), "Results")["targeted"][0]


def test_an_unknown_recipe_is_answered_with_the_names(tmp_path):
    with pytest.raises(UnknownNameError, match="matsuo2021"):
        run_recipe("matsuo", tmp_path / "out")
    assert not (tmp_path / "out").exists()
