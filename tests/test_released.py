"""Documents that releases wrote are read back, or refused where their schema is an older one."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from leadapron.cli.schema import DOCUMENTS
from leadapron.documents import dump, parsed, read
from leadapron.errors import StoreError

WRITTEN = sorted((Path(__file__).parent / "fixtures" / "documents").glob("*.json"))


def test_there_is_one_of_each_kind():
    assert {path.stem.rpartition("-")[0] for path in WRITTEN} == set(DOCUMENTS)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_a_released_document_is_read_back_or_refused(path):
    kind, _, version = path.stem.rpartition("-")
    facts = json.loads(path.read_text())
    assert facts["schema"] == int(version)
    module, name = DOCUMENTS[kind]
    document = getattr(import_module(module), name)
    if facts["schema"] < document.SCHEMA:
        with pytest.raises(StoreError, match=rf"of schema {document.SCHEMA}: it states {version}"):
            read(document, path.read_text())
        return
    assert dump(parsed(document, path.read_text())) == facts
