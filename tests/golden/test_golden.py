"""Numbers that equal inputs gave before: a change that should move none is held to them.

`compute.py` says what is computed, with fixed seeds; it alone imports leadapron. `stored.py` says
how far a number may lie from the one in `SUBJECT.json`. To remake the files:

    python tests/golden/remake.py [--same-version] [SUBJECT ...]
"""

from __future__ import annotations

import compute
import pytest
import remake
import stored


@pytest.mark.parametrize("name", compute.SUBJECTS)
def test_numbers_are_as_they_were(name):
    before = stored.read(name)
    assert before is not None, "no file; run tests/golden/remake.py"
    assert before["results_version"] == compute.RESULTS_VERSION, "run tests/golden/remake.py"
    changes = list(stored.differences((name,), before["values"], compute.SUBJECTS[name]()))
    assert not changes, "\n".join(
        [
            f"{len(changes)} values changed at RESULTS_VERSION {compute.RESULTS_VERSION}. Mend it, "
            "or raise store.RESULTS_VERSION and run tests/golden/remake.py.",
            *changes[:20],
        ]
    )


def test_every_file_is_of_a_subject():
    assert {path.stem for path in stored.FOLDER.glob("*.json")} == set(compute.SUBJECTS)


@pytest.mark.parametrize(
    ("path", "before", "after", "differs"),
    [
        (("maps",), [1.0, 100.0], [1.09, 100.0], False),  # rounding goes by the largest of the list
        (("maps",), [1.0, 100.0], [1.2, 100.0], True),
        (("maps",), {"a": 1.0}, {"a": 1.002}, True),
        (("maps",), 1.0, float("nan"), True),
        (("sweep",), 3, 4, True),
        (("sweep",), 1.0, 1, True),
        (("sweep",), None, 0.0, True),
        (("sweep",), "3x3", "2x2", True),
        (("sweep",), [1.0], [1.0, 1.0], True),
        (("triggers",), 100, 106, False),
        (("triggers",), 100, 107, True),
        (("rows", "rows"), [0.5, 40], [0.51, 40], False),
        (("rows", "rows"), [0.5, 40], [0.5, 41], True),
        (("rows", "explanation"), [0.5, 10], [0.55, 11], False),
        (("scans",), {"a": 1}, {"a": 1, "b": 2}, True),
        (("scans",), {"a": 1, "b": 2}, {"a": 1}, True),
        (("scans",), True, False, True),
    ],
)
def test_what_counts_as_a_difference(path, before, after, differs):
    assert bool(list(stored.differences(path, before, after))) == differs


@pytest.fixture
def one_subject(tmp_path, monkeypatch):
    """A subject of one number in a folder of its own."""
    numbers = {"number": 1.0}
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    monkeypatch.setattr(remake, "SUBJECTS", {"sweep": lambda: dict(numbers)})
    assert remake.main([]) == 0
    return numbers


def test_changed_numbers_need_another_version(one_subject, monkeypatch):
    one_subject["number"] = 2.0
    assert remake.main([]) == 1
    assert stored.read("sweep")["values"] == {"number": 1.0}
    monkeypatch.setattr(remake, "RESULTS_VERSION", compute.RESULTS_VERSION + 1)
    assert remake.main(["sweep"]) == 0
    assert stored.read("sweep") == {
        "results_version": compute.RESULTS_VERSION + 1, "values": {"number": 2.0},
    }  # fmt: skip


def test_changed_numbers_at_the_same_version_are_written_on_demand(one_subject):
    one_subject["number"] = 2.0
    assert remake.main(["--same-version"]) == 0
    assert stored.read("sweep")["values"] == {"number": 2.0}


def test_rounding_leaves_a_file_alone_and_a_new_number_is_added(one_subject):
    one_subject["number"] = 1.0001
    assert remake.main([]) == 0
    assert stored.read("sweep")["values"] == {"number": 1.0}
    one_subject |= {"number": 1.0, "other": 3}
    assert remake.main([]) == 0
    assert stored.read("sweep")["values"] == {"number": 1.0, "other": 3}
