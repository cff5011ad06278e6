"""How the fused score's weights are fitted."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron import store
from leadapron.errors import DataError
from leadapron.evaluate.weights import fit_weights


def written(folder, runs):
    """An evaluation whose first score tells the films apart, whose second tells nothing."""
    rng, rows = np.random.default_rng(0), []
    for run, facts in runs.items():
        scores = {kind: rng.normal(size=(200, 3)) for kind in ("reference", "clean", "triggered")}
        scores["triggered"][:, facts.pop("telling", 0)] += 6
        rows.append({"run": run, "kind": "fused", "family": run, "takes": True, **facts})
        store.write_arrays(
            folder / "scores" / f"{run}.npz",
            backdoored_names=np.array(["first", "second", "largest logit"]),
            **{f"backdoored_{kind}": values for kind, values in scores.items()},
        )
    store.write_lines(folder / "rows.jsonl", rows)
    return folder


def test_the_score_that_tells_gets_the_weight(tmp_path):
    folder = written(
        tmp_path,
        {
            "one": {"sealed": False},
            "sealed": {"sealed": True, "telling": 1},
            "failed": {"sealed": False, "takes": False, "telling": 1},
        },
    )
    fitted = fit_weights([folder])
    assert list(fitted) == ["first", "second"]
    assert fitted["first"] == 1.0
    assert 0 <= fitted["second"] <= 0.1
    assert list(fit_weights([folder], without=["second"])) == ["first"]


def test_families_weigh_the_same(tmp_path):
    """One family is found by the first score, one by the second: both are needed as much."""
    runs = {"a": {"sealed": False}, "b": {"sealed": False, "telling": 1}}
    runs |= {f"a{i}": {"sealed": False, "family": "a"} for i in range(5)}
    fitted = fit_weights([written(tmp_path, runs)])
    assert min(fitted.values()) >= 0.8


def test_nothing_to_fit_to(tmp_path):
    with pytest.raises(DataError, match="nothing to fit"):
        fit_weights([written(tmp_path, {"one": {"sealed": True}})])
