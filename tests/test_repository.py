"""What the repository says of itself agrees with the package, and the wheel holds what it needs."""

from __future__ import annotations

import datetime
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

import leadapron
from leadapron import store

ROOT = Path(__file__).parents[1]
FORMS = sorted(set((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


release = tool("release")


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def test_changelog_and_citation_say_the_packages_version_and_the_same_date():
    changelog, citation = release.dated(ROOT), release.cited(ROOT)
    assert changelog == citation
    assert release.version(ROOT) == changelog[0] == leadapron.__version__


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions, (_, results) = text.split("\n## Results versions\n")[0], text.split(
        "\n## Results versions\n"
    )
    assert re.findall(r"^## (?!\[\d+\.\d+\.\d+\] - (?:unreleased|\d{4}-\d\d-\d\d)$).*", versions, re.M) == []
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)", versions, re.M)) <= kinds
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", results, re.M)]
    assert numbers == [*range(1, store.RESULTS_VERSION + 1)]
    newest = re.search(r"^Results version (\d+)\.$", versions, re.M)
    assert int(newest[1]) == store.RESULTS_VERSION
