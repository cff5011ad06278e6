"""What the docs show is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from leadapron.cli import cli
from leadapron.detect.inputs import INPUT_DETECTORS
from leadapron.detect.models import StampSweep
from leadapron.models.stated import ModelSettings
from leadapron.repairs import REPAIRS
from leadapron.repairs.proof import Relearning
from leadapron.specs import parameters
from leadapron.study.plan import plan
from leadapron.study.settings import complete, settings

ROOT = Path(__file__).parents[1]
MANUAL = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if "_build" not in page.relative_to(ROOT).parts
]
PAGES = [*(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")), *MANUAL]
EXAMPLES = ("README.md", "docs/how-to/interop.md", "docs/reference/python.md")


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_run_and_print_what_they_say(page, capsys):
    """A page's blocks are one program: a later one uses the names of those before it."""
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        if "import torchxrayvision" in example:  # those run in tests/interop
            continue
        exec(compile(example, page, "exec"), names)
        said = capsys.readouterr().out.splitlines()
        assert said == re.findall(r"print\(.*\)  # (.*)", example)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_options_that_the_docs_name_exist():
    known = {f"{section}.{name}" for section, names in settings().items() for name in names}
    known |= {f"sweep.{name}" for name in parameters(StampSweep)}
    known |= {f"relearning.{name}" for name in parameters(Relearning)}
    known |= {f"model.{name.replace('_', '-')}" for name in parameters(ModelSettings)}
    for page in PAGES:
        for option in re.findall(r"--((?!section)[a-z]+\.[a-z_]+(?:-[a-z]+)*)", page.read_text()):
            assert option in known, f"{page.name}: --{option}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_the_readme_names_every_command():
    commands = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    assert set(cli.list_commands(click.Context(cli))) == set(re.findall(r"`([a-z-]+)`", commands))


def test_defaults_that_the_manual_states_are_the_defaults():
    tree = complete({})
    text = (ROOT / "docs" / "how-to" / "study.md").read_text()
    for line in (
        f"`--trigger.side {tree['trigger']['side']}`",
        f"`--trigger.value {tree['trigger']['value']}`",
        f"| `--epochs` | {tree['training']['epochs']};",
        f"| `--size` | {tree['preprocessing']['size']} pixels",
        f"{tree['source']['count']:,} films (`--source.count`)",
        f"| `--poisoning.fraction` | {tree['poisoning']['fraction']} of",
    ):
        assert line in text


def test_every_input_detector_is_described_with_its_passes():
    text = (ROOT / "docs" / "methods" / "screen-methods.md").read_text()
    rows = re.findall(r"^\| .* \| `([^`]+)`.* \| .* \| (\d+) \| .* \|$", text, re.MULTILINE)
    assert {name: int(passes) for name, passes in rows} == {
        name: detector.passes for name, detector in INPUT_DETECTORS.items()
    }


def test_every_repair_is_described_with_what_it_needs():
    text = (ROOT / "docs" / "methods" / "repairs.md").read_text()
    rows = re.findall(r"^\| .* \| `([^`]+)` \| (.*) \| \d[^|]* \| .* \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(REPAIRS)
    words = {"batch normalisation", "linear last layer", "gradients", "ReLU layers"}
    for name, needs in rows:
        need = REPAIRS[name].__dataclass_fields__["needs"].default
        assert need in words
        assert need.split()[-1].rstrip("s") in needs
    assert len(rows) == len(re.findall(r"\*Source\*:", text))


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("attacks", 23),
        ("grid", 6),
        ("potency", 6),
        ("nwadike2020-longer", 3),
        ("screening", 3),
        ("whole-image", 5),
    ],
)
def test_example_specs_are_so_many_pairs(name, pairs):
    tree = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    assert len(plan(complete(tree))) == pairs


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted((ROOT / "examples").glob("*.yaml")), *sorted((ROOT / "zoo").glob("*.yaml"))],
    ids=lambda page: page.name,
)
def test_no_folder_beside_the_project_is_named(page):
    assert not re.search(r"\w:\.\./", page.read_text())


def versions(name):
    lines = re.findall(r"^([A-Za-z][\w.-]*)==([^\s;]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def test_the_lock_has_hashes_of_all_that_is_needed_but_torch():
    pinned, locked = versions("constraints.txt"), versions("requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    needed = {re.match(r"[\w.-]+", each)[0].lower() for each in asked}
    assert needed - {"torch"} <= set(locked)
    assert "torch" not in locked
    assert locked.items() <= pinned.items()
    blocks = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert len(blocks) - 1 == len(locked)
    assert all("--hash=sha256:" in block for block in blocks[1:])


def test_extras_have_code_behind_them():
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for packages in project["optional-dependencies"].values():
        for package in packages:
            assert re.match(r"[\w-]+", package)[0] in code
    assert (ROOT / "src" / "leadapron" / "py.typed").exists()
