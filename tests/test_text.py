"""Words of others, made fit to be shown."""

import pytest

from leadapron.errors import StoreError
from leadapron.text import (
    LONGEST_NAME,
    bytes_in_words,
    clean,
    clean_names,
    count,
    plain_cell,
    printable,
    quoted_cell,
    short_path,
    showing_paths,
)

SEEN = [
    ("Effusion", "Effusion"),
    ("Épanchement pleural, 胸水", "Épanchement pleural, 胸水"),
    ("A\nCLEAN: nothing forced", "A\\nCLEAN: nothing forced"),
    ("A\r\x0b\x0c\x85\u2028\u2029B", "A\\r\\x0b\\x0c\\x85\\u2028\\u2029B"),
    ("A\x1b]0;owned\x07B", "A\\x1b]0;owned\\x07B"),
    ("A\x9b31mB\x7f", "A\\x9b31mB\\x7f"),
    ("A\u202etxe.elif\u2066", "A\\u202etxe.elif\\u2066"),
    ("M\u200bass\ufeff\u00ad\u2060", "M\\u200bass\\ufeff\\xad\\u2060"),
    ("M\u034fa\u3164s\ufe0fs\U000e0041", "M\\u034fa\\u3164s\\ufe0fs\\U000e0041"),
    ("film\udce9.png", "film\\udce9.png"),
    ("Pleural\u00a0effusion", "Pleural effusion"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "seen"), SEEN)
def test_all_is_seen_on_one_line(text, seen):
    assert printable(text) == seen
    assert printable(seen) == seen
    assert printable(text).isprintable()
    assert str(StoreError(text)) == seen


def test_names_are_bounded_and_stripped():
    assert clean("  Mass\n") == "Mass"
    assert clean("a" * LONGEST_NAME) == "a" * LONGEST_NAME
    assert clean("a" * 10**7) == "a" * (LONGEST_NAME - 3) + "..."
    assert len(clean("\x1b" * 10**7)) == LONGEST_NAME
    assert clean("abcdef", 5) == "ab..."


def test_names_that_become_the_same_are_refused():
    assert clean_names(["Mass", "Node\x07", "Mass"]) == ("Mass", "Node\\x07", "Mass")
    for pair in (("Mass\x07", "Mass\\x07"), ("Mass", "Mass "), ("a" * 300, "a" * 301)):
        with pytest.raises(ValueError, match="two different names are both shown as"):
            clean_names(pair)


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/data/Jane Doe/films.csv", "films.csv"),
        ("/data/Jane Doe/", "Jane Doe"),
        ("/", "/"),
        ("~/films", "films"),
        ("films/a.png", "films/a.png"),
        ("nih:/data/Jane: Doe/nih", "nih:nih"),
        ("/data/nih:x/films", "films"),
        ("phantom:64", "phantom:64"),
        ("nih:/a/b + table:/c/d.csv + phantom", "nih:b + table:d.csv + phantom"),
        ("", ""),
    ],
)
def test_folders_above_are_left_out_unless_asked_for(path, short):
    assert short_path(path) == short
    with showing_paths():
        assert short_path(path) == path
    assert short_path(path) == short


def test_a_path_that_is_shown_forges_no_line():
    for text in ("folder:a\nCLEAN", "nih:/b/a\nCLEAN + folder:c\x1b[2K", "/x/a\rCLEAN"):
        assert short_path(text).isprintable()
        with showing_paths():
            assert short_path(text) == printable(text)


def test_sizes_in_words():
    sizes = (0, 999, 1_000, 40_960, 1_000_000, 335_900_000, 5_600_000_000)
    words = ["0 bytes", "999 bytes", "1 kB", "41 kB", "1.0 MB", "335.9 MB", "5.6 GB"]
    assert [bytes_in_words(n) for n in sizes] == words
    assert [count(n, "film") for n in (0, 1, 5_142)] == ["0 films", "1 film", "5,142 films"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "'", "'=x", "film", "", "\t=1"])
def test_quoted_cells_are_no_formulas_and_read_back(text):
    quoted = quoted_cell(text)
    assert not quoted.startswith(("=", "+", "-", "@", "\t"))
    assert plain_cell(quoted) == text
