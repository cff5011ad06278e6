"""What lines alone need no drawing for loads no library that draws."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from leadapron import report
from leadapron.cli import models

WATCHED = "[name for name in ('matplotlib', 'jinja2') if name in sys.modules]"


def after(code: str) -> str:
    call = [sys.executable, "-c", f"import sys\n{code}\nprint({WATCHED})"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_screening_without_a_page_loads_neither_matplotlib_nor_jinja2():
    tree = ast.parse(Path(models.__file__).read_text())
    (run,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "screen"
    )
    imports = [ast.unparse(n) for n in ast.walk(run) if isinstance(n, ast.ImportFrom)]
    assert any("leadapron.report" in line for line in imports)
    assert after("\n".join(imports)) == "[]"


def test_all_names_are_there_and_no_other():
    for name in report.__all__:
        assert callable(getattr(report, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = report.nothing
