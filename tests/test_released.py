"""Documents that releases wrote are read back."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from leadapron.cli.schema import DOCUMENTS
from leadapron.documents import dump, parsed

WRITTEN = sorted((Path(__file__).parent / "fixtures" / "documents").glob("*.json"))


def test_there_is_one_of_each_kind():
    assert {path.stem.rpartition("-")[0] for path in WRITTEN} == set(DOCUMENTS)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_a_released_document_is_read_back(path):
    kind, _, version = path.stem.rpartition("-")
    facts = json.loads(path.read_text())
    assert facts["schema"] == int(version)
    module, name = DOCUMENTS[kind]
    document = parsed(getattr(import_module(module), name), path.read_text())
    assert dump(document) == facts
