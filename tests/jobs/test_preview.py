"""Triggers are listed and shown before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leadapron.attacks.triggers import TRIGGERS
from leadapron.attacks.triggers.described import described_triggers
from leadapron.errors import UsageError
from leadapron.jobs.preview import preview
from leadapron.types import Machine

SOURCE = {"source": {"name": "phantom:64", "count": 12}, "preprocessing": {"size": 64}}
MACHINE = Machine(cache="none")


def test_every_trigger_says_what_it_is_and_where_it_comes_from():
    found = described_triggers()
    assert [each.name for each in found] == list(TRIGGERS)
    assert all(each.what.endswith(".") for each in found)
    cited = {each.name for each in found if each.source}
    # Marks that films carry by themselves have a common source.
    assert set(TRIGGERS) - cited <= {
        "marker", "text", "electrode", "device", "collimator", "fold",
    }  # fmt: skip
    assert next(f for f in found if f.name == "warp").settings["strength"] == 0.5


@pytest.mark.parametrize("name", [name for name in TRIGGERS if name not in ("none", "learned")])
def test_a_preview_shows_what_changes(tmp_path, name):
    found = preview({**SOURCE, "trigger": name}, tmp_path / "a.png", count=2, machine=MACHINE)
    assert found.films == len(found.psnr_db) == 2
    assert min(found.visible_pixels) >= 1
    assert np.isfinite(found.psnr_db).all()
    assert max(found.ssim) < 1
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width > 600


def test_on_the_film_a_trigger_may_be_gone(tmp_path):
    tree = {
        "source": {"name": "phantom:128", "count": 4},
        "preprocessing": {"size": 32, "interpolation": "nearest"},
        "trigger": {"side": 1, "place": "fixed", "row": 0, "column": 0},
        "poisoning": {"stage": "film"},
    }
    found = preview(tree, tmp_path / "a.png", machine=MACHINE)
    assert list(found.visible_pixels) == [0] * 4
    assert list(found.ssim) == pytest.approx([1] * 4)


def test_what_can_not_be_shown(tmp_path):
    with pytest.raises(UsageError, match=r"ending in \.png"):
        preview(SOURCE, tmp_path / "a.jpg", machine=MACHINE)
    with pytest.raises(UsageError, match="2 combinations of settings; a preview shows one"):
        preview({**SOURCE, "trigger": {"side": [1, 3]}}, tmp_path / "a.png", machine=MACHINE)
    nothing = {"trigger": "none", "poisoning": {"where": "view=AP"}}
    with pytest.raises(UsageError, match="makes no mark"):
        preview({**SOURCE, **nothing}, tmp_path / "a.png", machine=MACHINE)
    assert not list(tmp_path.iterdir())
