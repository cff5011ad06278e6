"""The mark `real_data` skips by itself."""

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

@pytest.mark.real_data("small", "large")
def test_both(real_data):
    assert (real_data / "small").is_dir()

@pytest.mark.real_data("small")
def test_one(real_data):
    assert (real_data / "small").is_dir()

def test_none():
    pass
"""


@pytest.mark.parametrize(
    ("folders", "passed"), [(None, 1), ((), 1), (("small",), 2), (("small", "large"), 3)]
)
def test_tests_of_real_films_skip_where_those_are_absent(pytester, monkeypatch, folders, passed):
    monkeypatch.delenv("LEADAPRON_REAL_DATA", raising=False)
    if folders is not None:
        data = pytester.mkdir("films")
        for name in folders:
            (data / name).mkdir()
        monkeypatch.setenv("LEADAPRON_REAL_DATA", str(data))
    pytester.makeini("[pytest]\nmarkers =\n    real_data: x\n")
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(TESTS)
    ended = pytester.inline_run("-p", "no:cacheprovider", "-p", "no:xdist")
    ended.assertoutcome(passed=passed, skipped=3 - passed)
