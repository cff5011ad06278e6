"""What the repository says of itself agrees with the package, and the wheel holds what it needs."""

from __future__ import annotations

import ast
import datetime
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

import leadapron
from leadapron import store

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = sorted(
    {*(GITHUB / "ISSUE_TEMPLATE").glob("*.yml")} - {GITHUB / "ISSUE_TEMPLATE/config.yml"}
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


release = tool("release")


def test_changelog_and_citation_say_the_version_of_the_package_and_one_date():
    assert release.dated(ROOT) == release.cited(ROOT)
    assert release.dated(ROOT)[0] == release.version(ROOT) == leadapron.__version__


def test_the_changelog_keeps_its_form_and_names_the_results_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions, results = text.split("\n## Results versions\n")
    for heading in re.findall(r"^## (.*)", versions, re.MULTILINE):
        dated = r"\[\d+\.\d+\.\d+\] - (unreleased|\d{4}-\d\d-\d\d)"
        assert heading == "Unreleased" or re.fullmatch(dated, heading), heading
    assert set(re.findall(r"^### (.*)", versions, re.MULTILINE)) <= {
        *("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"),
    }
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", results, re.MULTILINE)]
    assert numbers == list(range(1, store.RESULTS_VERSION + 1))
    newest = re.search(r"^Results version (\d+)\.$", versions, re.MULTILINE)
    assert int(newest[1]) == store.RESULTS_VERSION


def test_the_citation_says_what_the_package_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["keywords"] == PROJECT["project"]["keywords"]
    assert [each["name"] for each in citation["authors"]] == [
        each["name"] for each in PROJECT["project"]["authors"]
    ]
    assert citation["references"][0]["url"] == PROJECT["project"]["urls"]["Paper"]


def workflow():
    tree = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())
    return tree["jobs"], [step for job in tree["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    _, steps = workflow()
    runs = [step["run"] for step in steps if "run" in step]
    assert runs
    for line in runs:
        wanted = re.fullmatch(r"(?:[A-Z]+=\S+ )*make ([a-z-]+)", line)
        assert wanted, line
        assert wanted[1] in targets
    assert {"make check", "make test", "make release"} <= set(runs)


def test_the_workflow_covers_the_versions_of_python_that_the_package_names():
    jobs, _ = workflow()
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert jobs["test"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def test_actions_of_others_are_pinned_by_commit():
    _, steps = workflow()
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert all(re.search(r"@[0-9a-f]{40}$", each) for each in used)


def test_phony_targets_and_the_list_of_targets_are_the_same():
    described = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
    assert set(re.search(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[1].split()) == described


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_every_issue_form_forbids_patients_data(form):
    tree = yaml.safe_load(form.read_text())
    assert tree["name"]
    assert tree["description"]
    names = [part["id"] for part in tree["body"] if part["type"] != "markdown"]
    assert len(names) == len(set(names))
    (asked,) = [part for part in tree["body"] if part.get("id") == "patients"]
    (option,) = asked["attributes"]["options"]
    assert option["required"]
    assert "patient" in option["label"]


def hooks():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"  # nothing is downloaded
    return {hook["id"]: hook for hook in local["hooks"]}


def test_hooks_run_the_tools_that_check_runs():
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]
    for hook in hooks().values():
        if hook["language"] == "system":
            words = hook["entry"].removeprefix(".venv/bin/").split(" --force")[0]
            assert f"$(BIN)/{words}" in check


@pytest.mark.parametrize("name", ["films/a.dcm", "A.DCM", "b.nii.gz", "DICOMDIR", "runs/gate.json"])
def test_the_hooks_refuse_films_models_and_gates(name):
    assert re.search(hooks()["no-films"]["files"], name)


def test_the_hooks_refuse_nothing_that_is_here():
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    hook = hooks()["no-films"]
    assert tracked
    refused = [name for name in tracked if re.search(hook["files"], name)]
    assert [name for name in refused if not re.search(hook["exclude"], name)] == []
    assert len(refused) == 1  # weights that learned from phantoms


def test_the_wheel_holds_the_package_its_types_and_templates_and_no_tests(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    assert {name for name in names if name.startswith("leadapron/")} == {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "leadapron/py.typed" in names
    assert "leadapron/report/templates/report.html.j2" in names
    assert {name.split("/")[0] for name in names} == {
        *("leadapron", f"leadapron-{leadapron.__version__}.dist-info"),
    }
    assert Path(wheel).name == f"leadapron-{leadapron.__version__}-py3-none-any.whl"


@pytest.fixture
def repository(tmp_path):
    """A repository that could be released as 1.2.3."""
    package = tmp_path / "src" / "leadapron"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-12-01\n")
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\ndate-released: 2026-12-01\n")
    release.git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def commit(folder):
    release.git(folder, "add", "--all")
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    release.git(folder, *who, "commit", "--quiet", "--allow-empty", "--message", "A change")


def tag(folder, name):
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "tag.gpgsign=false")
    release.git(folder, *who, "tag", "--annotate", name, "--message", name)


def test_a_clean_tree_with_one_version_and_date_can_be_tagged(repository):
    facts = release.state(repository)
    assert facts.dated == ("1.2.3", datetime.date(2026, 12, 1))
    assert release.obstacles(facts) == []
    tag(repository, "v1.2.3")
    facts = release.state(repository)
    assert facts.tagged == ["v1.2.3"]
    assert release.obstacles(facts) == []


def test_a_release_needs_a_clean_tree(repository):
    (repository / "new.txt").write_text("new")
    with pytest.raises(release.ReleaseError, match=r"1 changed or new files, such as new\.txt"):
        release.state(repository)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("CHANGELOG.md", "## [1.2.3] - unreleased\n", "CHANGELOG.md gives version 1.2.3 no date"),
        ("CHANGELOG.md", "## [1.2.2] - 2026-12-01\n", "CHANGELOG.md says version 1.2.2"),
        ("CHANGELOG.md", "## [1.2.3] - 2026-12-02\n", "says 2026-12-02, CITATION.cff 2026-12-01"),
        ("CITATION.cff", "version: 1.2.3\n", "CITATION.cff gives version 1.2.3 no date"),
        ("src/leadapron/__init__.py", '__version__ = "1.3.0"\n', "the package is 1.3.0"),
    ],
)
def test_what_stands_against_a_tag_is_said(repository, file, text, said):
    (repository / file).write_text(text)
    commit(repository)
    assert said in "; ".join(release.obstacles(release.state(repository)))


def test_the_tag_must_be_of_this_version_and_this_commit(repository):
    tag(repository, "v1.2.2")
    assert release.obstacles(release.state(repository)) == [
        "the commit has the tag v1.2.2; the package is 1.2.3"
    ]
    tag(repository, "v1.2.3")
    commit(repository)
    assert release.obstacles(release.state(repository)) == [
        "v1.2.3 is the tag of another commit: raise __version__"
    ]


def test_checksums_are_those_of_the_files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "SHA256SUMS").write_text("of an earlier build")
    assert release.write_checksums(tmp_path).read_text() == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n"
    )


# --- the house: what keeps it easy to walk

SOURCE = ROOT / "src" / "leadapron"


@cache
def trees():
    """The package's files, parsed; not while tests are collected, which every worker does."""
    return {path.relative_to(SOURCE): ast.parse(path.read_bytes()) for path in SOURCE.rglob("*.py")}


def functions():
    """Every function with the file that it stands in."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def test_no_function_is_longer_than_80_lines():
    long = {
        f"{path}:{node.name}": lines
        for path, node in functions()
        if (lines := node.end_lineno - node.lineno + 1) > 80
    }
    assert not long


def test_jobs_open_call_and_write():
    lines = {path.name: len((SOURCE / path).read_text().splitlines())
             for path in trees() if path.parts[0] == "jobs"}  # fmt: skip
    assert sum(lines.values()) <= 2500
    assert not {name: n for name, n in lines.items() if n > 150}


@pytest.mark.parametrize("room", ["detect", "results", "study", "evaluate"])
def test_signatures_name_what_they_take(room):
    """A dictionary of anything says nothing of what is in it."""
    vague = []
    for path, node in functions():
        if path.parts[0] == room:
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            notes = [each.annotation for each in given] + [node.returns]
            if any("dict[str, Any]" in ast.unparse(note) for note in notes if note is not None):
                vague.append(f"{path}:{node.name}")
    assert not vague
