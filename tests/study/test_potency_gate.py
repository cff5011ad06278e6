"""What surely takes, takes: the gate of issue 6 on the triggers."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
import yaml

from leadapron.results.folder import read_study
from leadapron.results.measured import Measured
from leadapron.study.run import run_study

SPEC = Path(__file__).parents[2] / "examples" / "potency.yaml"


@pytest.mark.slow
def test_a_dark_square_and_a_blend_take_and_leave_clean_films_alone(tmp_path):
    run_study(yaml.safe_load(SPEC.read_text()), tmp_path)

    by_trigger: dict[str, list[Measured]] = {}
    for pair in read_study(tmp_path).pairs:
        name = pair.backdoored.spec["trigger"]["name"]
        by_trigger.setdefault(name, []).append(Measured(pair))
    assert {name: len(found) for name, found in by_trigger.items()} == {"patch": 3, "blend": 3}
    for found in by_trigger.values():
        assert fmean(each.success("backdoored").value for each in found) >= 0.90
        assert abs(fmean(each.macro("difference").value for each in found)) <= 0.01
