"""The verdict: one vocabulary, and exit codes that follow from levels alone."""

from __future__ import annotations

from typing import get_args

import pytest

from leadapron.detect import verdict
from leadapron.detect.verdict import EXIT_CODES, LEVELS, Level, Verdict, overall_exit_code


def test_every_word_has_a_level_and_every_level_an_exit_code():
    assert set(EXIT_CODES) == set(get_args(Level))
    assert [EXIT_CODES[level] for level in get_args(Level)] == [1, 3, 0, 3]
    kinds = {"scan": "ScanWord", "audit": "AuditWord", "screen": "ScreenWord"}
    kinds |= {"describe": "DescribeWord", "repair": "RepairWord"}
    for command, levels in LEVELS.items():
        words = get_args(getattr(verdict, kinds[command]))
        assert set(levels) == set(words)
        assert set(levels.values()) <= set(EXIT_CODES)


def test_clean_is_no_verdict():
    words = {word for levels in LEVELS.values() for word in levels} | set(EXIT_CODES)
    assert not any("clean" in word or "healthy" in word for word in words)
    with pytest.raises(KeyError):
        Verdict.of("scan", "clean")


@pytest.mark.parametrize(
    ("command", "word", "level", "code"),
    [
        ("scan", "poisoned", "found", 1),
        ("scan", "suspicious", "unusual", 3),
        ("scan", "label-tied mark", "unusual", 3),
        ("screen", "suspicious", "found", 1),
        ("screen", "pass", "nothing found", 0),
        ("audit", "backdoored", "found", 1),
        ("audit", "can't tell", "can't tell", 3),
    ],
)
def test_levels_of_words(command, word, level, code):
    found = Verdict.of(command, word, p=0.01)
    assert (found.level, found.exit_code, str(found)) == (level, code, word)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 2, 3, 1], 1), ([0, 2, 3], 2), ([3, 0], 3), ([0, 0], 0), ([], 3)],
)
def test_of_several_the_worst_decides(codes, expected):
    assert overall_exit_code(codes) == expected
