"""The page and the lines of a scan, on made-up facts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from leadapron.detect.films.document import ScanDocument
from leadapron.detect.verdict import Verdict
from leadapron.documents import read
from leadapron.films.preprocessing import Preprocessing
from leadapron.report import Panel, scan_lines, write_scan

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def found():
    evidence = {
        "kind": "poison",
        "method": "marks at a place",
        "p": 0.0,
        "finding": "Mass",
        "direction": "added",
        "place": [3, 4, 2],
        "films": [EVIL, "b"],
        "words": f"a mark {EVIL}: 100% say so",
        "tested": True,
        "tie": {
            "patients": 40,
            "share": 1.0,
            "expected": 0.26,
            "chance": 1e-9,
            "bias": 0.2,
            "anatomy": 1e-7,
            "read": 0.1,
            "seen_by": "a network trained on these films",
            "auroc": 0.98,
            "unmarked": 1488,
            "needed": 9.0,
            "usual": 60.3,
            "controls": [50, 3],
            "overlap": 900,
            "decided": "anatomy",
        },
        "labels": [
            {"finding": f"Finding {i}", "films": 0.1 * i, "others": 0.0 if i else None}
            for i in range(9)
        ],
    }
    facts = {
        "schema": 1,
        "verdict": asdict(Verdict.of("scan", "poisoned")),
        "source": "nih:/secret/place + folder:/other",
        "films": 100,
        "patients": 1,
        "findings": ["Mass"],
        "image": [16, 16],
        "dtype": "uint8",
        "preprocessing": asdict(Preprocessing(size=16)),
        "p": 0.0,
        "false_alarm": 0.01,
        "seconds": 1.0,
        "methods": [
            {"name": "marks at a place", "tried": 3, "p": 0.0, "adjusted": 0.0, "seconds": 0.1},
            {"name": "signatures", "tried": 0, "p": 1.0, "adjusted": 1.0, "seconds": 0.1},
        ],
        "evidence": [
            evidence,
            *(
                {**evidence, "kind": "shortcut", "p": 0.001, "words": f"kind {i}", "tie": None}
                for i in range(5)
            ),
        ],
        "least": {"Mass": 12, "Edema": None, "Hernia": 4},
        "suspects": [
            {"rank": i + 1, "id": EVIL, "path": "/secret/file", "score": 300.0, "finding": "Mass",
             "row": None if i else 3, "column": None if i else 4, "reasons": [EVIL]}
            for i in range(60)
        ],
        "rankings": [
            {"name": "spectre", "unit": "z", "scored": 2, "evidence": [evidence], "notes": [EVIL],
             "films": [{"id": EVIL, "score": 2.0}, {"id": "other", "score": 1.0}]}
        ],
        "notes": [EVIL],
    }  # fmt: skip
    return read(ScanDocument, json.dumps(facts))


@pytest.fixture
def panel():
    film = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return Panel(
        place=(3, 4, 2),
        window=(0, 0, 8, 8),
        named=film,
        others=film,
        films=film[None, :8, :8],
        ids=(EVIL,),
        other_films=film[None, :8, :8],
    )


def test_the_page_escapes_names_and_keeps_paths_away(found, panel, tmp_path):
    page = write_scan(tmp_path / "scan.html", found, [panel]).read_text()
    assert "<script" not in page
    assert "/secret" not in page
    assert "Is nih:place + folder:other poisoned?" in page
    assert "&lt;script&gt;" in page
    assert '<rect class="frame" x="4" y="3" width="2" height="2"/>' in page
    assert "3 findings that differ less are left out" in page
    assert "And 10 more in films.csv" in page
    assert "<b>&lt;script&gt;" in page  # named by the evidence as well
    assert "<b>other" not in page
    assert "a network trained on these films, AUROC 0.98" in page
    assert "Look at the evidence" in page


def test_the_page_is_the_same_again(found, panel, tmp_path):
    first = write_scan(tmp_path / "a.html", found, [panel]).read_bytes()
    assert first == write_scan(tmp_path / "b.html", found, [panel]).read_bytes()


def test_lines_begin_with_the_verdict_and_cut_long_lists(found):
    lines = scan_lines(found)
    assert lines[0].startswith("POISONED: p below 1e-300")
    assert lines[2].startswith("1. a mark")
    assert sum(line.startswith("Shortcut: ") for line in lines) == 3
    assert "and 2 more of these in the report and --json" in lines
    assert any(line.startswith("Ranked by spectre, no false-alarm rate") for line in lines)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("suspicious", "above the false-alarm rate of 0.01"),
        ("nothing found", "no proof"),
        ("label-tied mark", "a shortcut"),
        ("can't tell", "no finding has films of 10 patients with it"),
    ],
)
def test_verdicts_in_words(found, verdict, said, tmp_path):
    said_so = Verdict.of("scan", verdict)
    other = replace(found, verdict=said_so, evidence=(), suspects=(), rankings=())
    assert said in scan_lines(other)[0]
    page = write_scan(tmp_path / "scan.html", other, []).read_text()
    assert "but no pixels" in page


def test_how_a_mark_was_judged_is_on_the_page(found, tmp_path):
    page = write_scan(tmp_path / "scan.html", found, []).read_text()
    assert "its labels contradict the films' appearance" in page.replace("&#39;", "'")
    assert "60.3" in page
    assert "Hernia 4; Mass 12; no number for Edema" in page
    tied = replace(found, evidence=(replace(found.evidence[0], kind="label-tied mark"),))
    page = write_scan(tmp_path / "scan.html", tied, []).read_text()
    assert "no stronger than natural marks here" in page
