"""What a study consists of."""

from __future__ import annotations

import pytest

from leadapron.attacks.triggers import Altered, Patch
from leadapron.errors import LeadapronError, UnknownNameError, UsageError
from leadapron.study.plan import plan
from leadapron.study.settings import complete, sections, settings


def test_an_empty_study_has_every_default_written_out():
    tree = complete({})

    assert tree["source"] == {"name": "phantom", "count": 6000, "seed": 0}
    assert tree["preprocessing"]["size"] == 64
    assert tree["trigger"]["name"] == "patch"
    assert tree["poisoning"]["finding"] == ""  # the first of the source
    assert "trigger" not in tree["poisoning"]
    assert (tree["seed"], tree["seeds"]) == (0, 1)
    assert complete(tree) == tree


def test_shorthands_are_settings():
    tree = complete({"size": 32, "epochs": 2, "finding": "Hernia", "network": "densenet121"})

    assert tree["preprocessing"]["size"] == 32
    assert tree["training"]["epochs"] == 2
    assert tree["poisoning"]["finding"] == "Hernia"
    assert tree["network"] == {"name": "densenet121", "weights": "none"}


def test_a_list_is_an_axis_and_seeds_are_counted():
    tree = complete({"trigger": {"side": [1, 3, 5]}, "seed": 7, "seeds": 2})

    runs = plan(tree)

    assert [(run.poisoning.trigger.side, run.seed) for run in runs] == [
        (1, 7), (1, 8), (3, 7), (3, 8), (5, 7), (5, 8),
    ]  # fmt: skip


def test_runs_that_replace_films_share_a_twin_whatever_the_trigger():
    small, large = plan(complete({"trigger": {"side": [1, 3]}}))

    assert small.twin_tree == large.twin_tree
    assert "trigger" not in small.twin_tree
    assert "poisoning" not in small.twin_tree


def test_a_disguise_has_the_plain_models_twin():
    plain, disguised = plan(complete({"training": {"disguise": [0.0, 3.0]}}))

    assert disguised.training.disguise == 3
    assert plain.twin_tree == disguised.twin_tree
    assert disguised.tree["training"]["disguise"] == 3


def test_a_twin_of_appended_films_depends_on_which_films_are_copied():
    tree = {"poisoning": {"mode": "append", "fraction": [0.1, 0.2]}, "trigger": {"side": [1, 3]}}

    twins = [run.twin_tree for run in plan(complete(tree))]

    appended = [twin["poisoning"] for twin in twins]
    assert appended[0] == {
        "mode": "append", "fraction": 0.1, "selection": "random", "where": "", "cover": 0.0,
        "validation": "clean",
    }  # fmt: skip
    assert sorted(each["fraction"] for each in appended) == [0.1, 0.1, 0.2, 0.2]


def test_cells_are_grids_laid_over_the_rest_and_a_run_that_two_have_comes_once():
    cells = [{"trigger": {"side": [1, 3]}}, {"fraction": 0.1}]
    with pytest.raises(UnknownNameError, match="fraction"):
        complete({"cells": cells})
    cells[1] = {"poisoning": {"fraction": [0.1, 0.2]}, "seeds": 2, "network": "densenet121"}
    tree = complete({"cells": [*cells, {"trigger": {"side": 3}}], "epochs": 2})

    runs = plan(tree)

    assert complete(tree) == tree
    points = [
        (r.network.name, r.poisoning.trigger.side, r.poisoning.fraction, r.seed) for r in runs
    ]
    assert points == [
        ("resnet9", 1, 0.1, 0), ("resnet9", 3, 0.1, 0), ("densenet121", 3, 0.1, 0),
        ("densenet121", 3, 0.1, 1), ("densenet121", 3, 0.2, 0), ("densenet121", 3, 0.2, 1),
    ]  # fmt: skip
    assert all(run.training.epochs == 2 for run in runs)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"trigger": {"sid": 3}}, "did you mean side"),
        ({"trigger": "patsh"}, "did you mean patch"),
        ({"source": "nih128:x"}, "did you mean nih"),
        ({"sizes": 3}, "did you mean"),
        ({"trigger": {"side": "large"}}, "`trigger.side` large"),
        ({"trigger": {"side": 0}}, "1 or more"),
        ({"poisoning": {"fraction": 1.5}}, "0 to 1"),
        ({"poisoning": {"trigger": {"side": 3}}}, "trigger"),
        ({"training": {"loss": "mse"}}, "`training.loss` mse"),
        ({"training": 3}, "expected settings"),
        ({"cells": []}, "expected a list of settings"),
        ({"cells": {"size": 64}}, "expected a list of settings"),
        ({"cells": [{"cells": [{}]}]}, "expected a list of settings"),
        ({"cells": [{"trigger": {"side": 0}}]}, "1 or more"),
        ({"cells": [{"trigger": {"sid": 3}}]}, "did you mean side"),
        ({"seeds": 0}, "1 to 10,000"),
        ({"seeds": 10**9}, "1 to 10,000"),
        ({"seed": 2**31}, "0 to 2,147"),
        ({"seeds": True}, "1 to 10,000"),
        ({"seed": "a"}, "whole number"),
        ({"evaluation": {"explainer": "layercam"}}, "did you mean layer-cam"),
        ({"evaluation": {"explainer": "authors-shortcut"}}, "made for densenet121, not resnet9"),
    ],
)
def test_what_can_not_be_is_said_before_anything_starts(tree, words):
    with pytest.raises(LeadapronError, match=words) as caught:
        plan(complete(tree))

    assert isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


def test_unknown_sections_are_unknown_names():
    with pytest.raises(UnknownNameError, match="poisoning"):
        complete({"poisonin": {}})


def test_every_setting_is_described():
    for section, known in settings().items():
        for name, parameter in known.items():
            assert parameter.description, f"{section}.{name}"


def test_the_source_decides_its_settings():
    assert "split" in sections({"source": "nih:somewhere"})["source"]
    assert "split" not in sections({})["source"]


def test_the_test_films_trigger_may_differ():
    tree = {
        "trigger": {"value": 200, "side": 4},
        "evaluation": {"trigger": "value=100/place=corner", "turned": 3, "recompressed": 40},
    }

    (run,) = plan(complete(tree))

    assert run.poisoning.trigger == Patch(value=200, side=4)
    differs = Patch(value=100, side=4, place="corner")
    assert run.measured.trigger == Altered(trigger=differs, turned=3, recompressed=40)
    (same,) = plan(complete({}))
    assert same.measured == same.poisoning
    assert "trigger" not in run.twin_tree["evaluation"]
    with pytest.raises(UsageError, match="expected settings, as value=200"):
        plan(complete({"evaluation": {"trigger": "value"}}))
    with pytest.raises(UnknownNameError, match="did you mean value"):
        plan(complete({"evaluation": {"trigger": "valu=3"}}))
    with pytest.raises(UsageError, match=r"`evaluation\.trigger\.value` x"):
        plan(complete({"evaluation": {"trigger": "value=x"}}))
