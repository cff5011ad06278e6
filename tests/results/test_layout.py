"""Where files lie, and what a run was made with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import leadapron
from leadapron.documents import dump
from leadapron.errors import StoreError
from leadapron.results import names
from leadapron.results.layout import RunFacts, RunFolder, StudyFolder, ZooFolder
from leadapron.results.zoo import read_truth
from leadapron.store import write_json

FACTS = RunFacts(
    role="backdoored",
    twin="0" * 12,
    spec={"seed": 3, "trigger": {"name": "patch"}},
    cohort="ab" * 32,
    outside={"trigger mine": "cd" * 32},
)
SOURCE = Path(leadapron.__file__).parent


def test_facts_of_a_run_come_back(tmp_path):
    folder = StudyFolder(tmp_path).run("backdoored-123456789abc")
    folder.write_facts(FACTS)
    assert folder.facts() == FACTS
    assert (folder.role, folder.key) == ("backdoored", "123456789abc")
    assert folder.sibling("twin", "0" * 12) == StudyFolder(tmp_path).run(f"twin-{'0' * 12}")


@pytest.mark.parametrize(
    "change", [{"role": "spy"}, {"twin": 3}, {"spec": []}, {"cohort": None}, {"outside": "none"}]
)
def test_facts_of_another_kind_are_refused(tmp_path, change):
    folder = RunFolder(tmp_path)
    write_json(folder.spec, {**dump(FACTS), **change})
    (name,) = change
    with pytest.raises(StoreError, match=rf"spec\.json, {name}[.\w]*: "):
        folder.facts()
    for other in ([], {**dump(FACTS), "schema": 2}):
        write_json(folder.spec, other)
        with pytest.raises(StoreError, match=r"spec\.json isn't a run facts of schema 1"):
            folder.facts()


def test_started_runs_are_listed_backdoored_ones_first(tmp_path):
    for name in ("twin-b", "backdoored-z", "backdoored-a", "other-c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "twin-file").write_text("")
    found = StudyFolder(tmp_path).runs()
    assert [run.name for run in found] == ["backdoored-a", "backdoored-z", "twin-b"]
    found[1].rows.write_text("")
    assert [run.finished for run in found] == [False, True, False]
    assert StudyFolder(tmp_path / "none").runs() == []


def test_a_zoo_is_finished_when_its_truth_is_there(tmp_path):
    zoo = ZooFolder(tmp_path)
    assert not zoo.finished
    with pytest.raises(StoreError, match="isn't a finished zoo"):
        read_truth(tmp_path)
    zoo.truth.write_text("{}")
    assert zoo.finished
    with pytest.raises(StoreError, match="doesn't describe a zoo's models"):
        read_truth(tmp_path)


def test_no_other_module_spells_the_layout():
    """A path is joined from a file's name in `results` alone."""
    files = r"study\.yaml|spec\.json|answer_key\.npz|truth\.json|gallery\.npz|history\.jsonl"
    spelt = re.compile(rf"/ f?[\"'](runs|{files}|classifier\.safetensors|checkpoint\.pt)[\"']")
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if spelt.search(path.read_text())
    }
    assert found == {"results/layout.py"}


def test_words_of_rows_differ():
    """Two names for one word would be read as the same measurement."""
    words = [getattr(names, name) for name in names.__all__ if name.isupper() and name != "ROLES"]
    assert len(set(words)) == len(words)
    assert names.mixed(0.01) == "epsilon 0.01"
    assert names.against("letters") == "beside letters"
