"""What passes through the house as types: notes, films, the machine."""

import json
import math

import pytest

from leadapron.types import Estimate, Form, Note, said

FORM = Form(
    height=3, width=4, bits=12, kind="DICOM", photometric="MONOCHROME1", syntax="RLE Lossless",
    window="2/1", odd=("looks inverted", "not square"),
)  # fmt: skip


def test_doubts_are_said_first_and_marked():
    notes = [Note("files", "Some left out."), Note("pixels", "Nearly black.", doubt=True)]
    assert said([*notes, Note("labels", "DOUBT is a word.")]) == (
        "DOUBT: Nearly black.", "Some left out.", "DOUBT is a word.",
    )  # fmt: skip
    assert said([]) == ()


@pytest.mark.parametrize("form", [FORM, Form(height=1, width=2)])
def test_a_form_comes_back_from_plain_values(form):
    assert Form.parsed(json.loads(json.dumps(form.plain()))) == form


@pytest.mark.parametrize(
    "facts",
    [
        [], None, "height", {}, {"height": 3}, {"height": 3, "width": 4, "more": 1},
        {"height": True, "width": 4}, {"height": 3.0, "width": 4}, {"height": -1, "width": 4},
        {"height": 10**30, "width": 4}, {"height": 3, "width": 4, "kind": 5},
        {"height": 3, "width": 4, "window": "\x1b[2J"},
        {"height": 3, "width": 4, "kind": "x" * 101},
        {"height": 3, "width": 4, "odd": ["black"]}, {"height": 3, "width": 4, "odd": "colour"},
        {"height": 3, "width": 4, "odd": [["colour"]]}, {"height": 3, "width": 4, "odd": 5},
    ],
)  # fmt: skip
def test_anything_else_is_no_form(facts):
    with pytest.raises(ValueError, match="not a form of a film"):
        Form.parsed(facts)


def test_an_estimate_comes_back_and_undefined_is_null():
    whole, part = Estimate(0.5, 0.4, 0.6, 10, 3), Estimate(math.nan, math.nan, math.nan, 2, 0)
    assert Estimate.parsed(json.loads(json.dumps(whole.plain()))) == whole
    assert part.plain() == {"value": None, "low": None, "high": None, "n": 2, "positives": 0}
    assert not Estimate.parsed(part.plain()).defined
