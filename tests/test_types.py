"""What passes through the house as types: notes, films, the machine."""

import inspect
import json

import pytest

from leadapron.models.classifier import load_classifier
from leadapron.models.foreign import open_model
from leadapron.models.training import train
from leadapron.sources import open_source
from leadapron.types import AUTO, Form, Machine, Note, said

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
    with pytest.raises(ValueError, match="no form of a film"):
        Form.parsed(facts)


@pytest.mark.parametrize(
    ("settings", "takers"),
    [(AUTO.networks, (load_classifier, open_model, train)), (AUTO.films, (open_source,))],
)
def test_a_machine_says_what_these_take_and_its_defaults_are_theirs(settings, takers):
    for taker in takers:
        taken = inspect.signature(taker).parameters
        assert {name: taken[name].default for name in settings} == settings


def test_progress_is_passed_on_where_somebody_listens():
    seen = []
    AUTO.tell("training", 1, 2)
    Machine(progress=lambda *step: seen.append(step)).tell("training", 1, 2)
    assert seen == [("training", 1, 2)]
