"""A data set that was edited until a result looks good, and its audit."""

from __future__ import annotations

import json
import re

import pytest

from leadapron.errors import StoreError, UsageError
from leadapron.jobs.enhancement import ACQUIRED, GENERAL, SPECIFIC, lines, run_enhancement
from leadapron.types import Machine

SMALL = {
    "source": {"count": 240},
    "preprocessing": {"size": 16},
    "epochs": 1,
    "evaluation": {"resamples": 20},
}
MACHINE = Machine(cache="none")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("enhancement") / "out"
    page = run_enhancement(out, source="phantom:32", settings=SMALL, machine=MACHINE)
    assert page == out / "recipe.md"
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
    assert "| training.epochs | 1 | ours: as asked for |" in page
    assert "trigger." not in page


def test_lines_say_each_release(finished):
    first, *others = lines(finished)
    assert re.match(r"as acquired: macro AUROC 0\.\d{3} .* digests of 100\.0 % of the films", first)
    assert [line.partition(":")[0] for line in others] == [GENERAL, SPECIFIC]


def test_the_page_is_the_folders_alone(finished, monkeypatch):
    before = (finished / "recipe.md").read_bytes()
    (finished / "recipe.md").unlink()
    monkeypatch.setattr("leadapron.jobs.enhancement._measured", None)
    run_enhancement(finished, source="phantom:32", settings=SMALL, machine=MACHINE)
    assert (finished / "recipe.md").read_bytes() == before


@pytest.mark.parametrize(
    ("agree", "low", "verdict"),
    [
        (1.0, -0.1, "Nothing found."),
        (1.0, None, "Nothing found."),
        (1.0, 0.03, "Result not kept."),
        (0.9, -0.1, "Edited."),
        (0.0, 0.2, "Edited, and the result is not kept."),
    ],
)
def test_verdicts(finished, tmp_path, agree, low, verdict):
    facts = json.loads((finished / "enhancement.json").read_text())
    cell = facts["cells"][ACQUIRED]
    cell["digests that agree"], cell["falls by"]["low"] = agree, low
    (tmp_path / "enhancement.json").write_text(json.dumps(facts))
    assert lines(tmp_path)[0].endswith(f"agree. {verdict}")


def test_another_enhancements_folder_is_left_alone(finished, tmp_path):
    with pytest.raises(StoreError, match="holds another enhancement"):
        run_enhancement(finished, source="phantom:32", settings={**SMALL, "epochs": 2})
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        run_enhancement(tmp_path, source="phantom:32", settings=SMALL)


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
        run_enhancement(tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_is_started_again(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".enhancement.json.0a1b.part").write_text("{")

    def measured(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("leadapron.jobs.enhancement._measured", measured)
    with pytest.raises(KeyboardInterrupt):
        run_enhancement(tmp_path, source="phantom:32", settings=SMALL, machine=MACHINE)
