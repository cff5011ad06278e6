"""Build what is published, or what a machine without network needs, and try it before it leaves.

`make release` rehearses: the wheel and the sdist are built twice and compared, the wheel is
installed in an empty environment and scans phantoms there, its SBOM and the checksums are written.
`make release TAG=1` ends with the annotated tag. Nothing is ever pushed. `make wheelhouse` gathers
every package of the lock, torch and leadapron, and installs from that folder alone.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


class ReleaseError(Exception):
    """What stands against a release, in one line."""


@dataclass(frozen=True)
class State:
    """What the repository says of itself.

    Args:
        version: the package's.
        dated: the changelog's newest version and its date; None where it says "unreleased".
        cited: the version and the date of CITATION.cff; None where it has no date.
        head: the commit.
        time: its time, in seconds since 1970.
        tags: the commit of each version tag, by its name.
    """

    version: str
    dated: tuple[str, datetime.date | None]
    cited: tuple[str, datetime.date | None]
    head: str
    time: int
    tags: Mapping[str, str]

    @property
    def tag(self) -> str:
        """The tag of this version."""
        return f"v{self.version}"

    @property
    def tagged(self) -> list[str]:
        """The version tags that the commit has."""
        return [name for name, commit in self.tags.items() if commit == self.head]


def version(root: Path) -> str:
    """Return the package's version, which src/leadapron/__init__.py alone holds."""
    code = (root / "src" / "leadapron" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', code, re.MULTILINE)
    if found is None:
        raise ReleaseError("src/leadapron/__init__.py has no line __version__ = ...")
    return found[1]


def dated(root: Path) -> tuple[str, datetime.date | None]:
    """Return the newest version in CHANGELOG.md and its date, None where it is unreleased."""
    found = re.search(
        r"^## \[(\d[^\]]*)\] - (unreleased|\d{4}-\d\d-\d\d)$",
        (root / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    if found is None:
        raise ReleaseError("CHANGELOG.md has no heading `## [VERSION] - DATE`")
    return found[1], None if found[2] == "unreleased" else datetime.date.fromisoformat(found[2])


def cited(root: Path) -> tuple[str, datetime.date | None]:
    """Return the version and the date of CITATION.cff."""
    facts = yaml.safe_load((root / "CITATION.cff").read_text())
    return facts["version"], facts.get("date-released")


def state(root: Path) -> State:
    """Read the repository; ReleaseError where its tree differs from its commit."""
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        raise ReleaseError(
            f"{len(changed)} changed or new files, such as {changed[0][3:]}: commit them first"
        )
    refs = git(root, "for-each-ref", "--format", "%(refname:short) %(objectname) %(*objectname)")
    words = [line.split() for line in refs.splitlines()]
    return State(
        version=version(root),
        dated=dated(root),
        cited=cited(root),
        head=git(root, "rev-parse", "HEAD"),
        time=int(git(root, "log", "-1", "--format=%ct")),
        tags={name: commits[-1] for name, *commits in words if re.match(r"v\d", name)},
    )


def obstacles(state: State) -> list[str]:
    """Return what stands against tagging the commit, a line each."""
    found = []
    for page, (named, date) in (("CHANGELOG.md", state.dated), ("CITATION.cff", state.cited)):
        if named != state.version:
            found.append(f"{page} says version {named}; the package is {state.version}")
        if date is None:
            found.append(f"{page} gives version {named} no date")
    if state.dated[1] and state.cited[1] and state.dated[1] != state.cited[1]:
        found.append(f"CHANGELOG.md says {state.dated[1]}, CITATION.cff {state.cited[1]}")
    if state.tags.get(state.tag, state.head) != state.head:
        found.append(f"{state.tag} is the tag of another commit: raise __version__")
    found += [
        f"the commit has the tag {name}; the package is {state.version}"
        for name in state.tagged
        if name != state.tag
    ]
    return found


def git(root: Path, *words: str) -> str:
    """Return what git answers."""
    answer = subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True)
    return answer.stdout.rstrip("\n")


def run(
    words: Sequence[str | Path], *, cwd: Path = ROOT, settings: Mapping[str, str] | None = None
) -> str:
    """Return what a command writes to stdout; ReleaseError where it fails.

    `settings` are variables of its environment.
    """
    # PYTHONPATH would let code of this checkout into the environments that are to stand alone.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=cwd, env=inherited | dict(settings or {}), stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise ReleaseError(f"exit code {done.returncode}: {' '.join(map(str, words))}")
    return done.stdout


def build(tree: Path, folder: Path, target: str, time: int) -> Path:
    """Build the "wheel" or the "sdist" of a tree; the file's path.

    No time but the commit's goes into the archive, so that the same commit gives the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder],
        cwd=tree,
        settings={"SOURCE_DATE_EPOCH": str(time)},
    )
    (made,) = set(folder.iterdir()) - before
    return made


def build_twice(root: Path, dist: Path, time: int) -> list[Path]:
    """Build wheel and sdist in `dist`, and again elsewhere; ReleaseError where bytes differ.

    The second sdist comes from a fresh clone, the second wheel from that sdist: neither an ignored
    file of this tree, nor a file that the sdist lacks, goes unseen.
    """
    made = [build(root, dist, target, time) for target in ("sdist", "wheel")]
    with tempfile.TemporaryDirectory() as place:
        elsewhere = Path(place)
        mask = os.umask(0o077)  # other rights than a usual checkout's
        try:
            git(root, "clone", "--quiet", ".", str(elsewhere / "clone"))
            sdist = build(elsewhere / "clone", elsewhere / "dist", "sdist", time)
            with tarfile.open(sdist) as archive:
                archive.extractall(elsewhere / "unpacked", filter="data")
            (tree,) = (elsewhere / "unpacked").iterdir()
            wheel = build(tree, elsewhere / "dist", "wheel", time)
        finally:
            os.umask(mask)
        for first, second in zip(made, (sdist, wheel), strict=True):
            if first.read_bytes() != second.read_bytes():
                raise ReleaseError(f"two builds of {first.name} differ")
    return made


def environment(folder: Path) -> Path:
    """Make an environment that holds nothing, not even pip; its interpreter's path."""
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    return folder / "bin" / "python"


def pip(python: Path, *words: str | Path, settings: Mapping[str, str] | None = None) -> None:
    """Run pip on another environment than its own."""
    run([*PIP, "--python", python, *words], settings=settings)


def try_out(python: Path, state: State, place: Path) -> None:
    """Run the installed command: its version, and a scan of phantoms, which hold no poison."""
    pip(python, "check")
    command = python.with_name("leadapron")
    said = run([command, "--version"], cwd=place).split()[-1]
    if said != state.version:
        raise ReleaseError(f"the installed command says version {said}, not {state.version}")
    run(
        [command, "scan", "phantom:64", "--source.count", "600", "--out", place / "scan"],
        cwd=place,
        settings={"LEADAPRON_CACHE": str(place / "cache")},
    )


def pin(package: str) -> str:
    """Return a package's line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


def write_checksums(folder: Path) -> Path:
    """Write SHA256SUMS of a folder's files, as `sha256sum --check` reads it."""
    path = folder / "SHA256SUMS"
    files = sorted(file for file in folder.iterdir() if file.is_file() and file != path)
    path.write_text(
        "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    )
    return path


def release(state: State, dist: Path, cyclonedx: Path) -> None:
    """Leave wheel, sdist, SBOM and checksums in `dist`.

    The SBOM lists what the wheel runs on: its empty environment, with the pinned versions.
    """
    for path in dist.glob("leadapron-*"):
        path.unlink()
    build_twice(ROOT, dist, state.time)
    print("built twice, with the same bytes")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        python = environment(place / "empty")
        # First the wheel alone, from dist and nowhere else, then what it needs.
        wanted = f"leadapron=={state.version}"
        pip(python, "install", "--no-deps", "--no-index", "--find-links", dist, wanted)
        pip(python, "install", "--constraint", ROOT / "constraints.txt", pin("torch"), wanted)
        try_out(python, state, place)
        print("installed in an empty environment, and run there")
        # cyclonedx-py reads no version that the build makes.
        project = (ROOT / "pyproject.toml").read_text()
        described = place / "pyproject.toml"
        described.write_text(
            project.replace('dynamic = ["version"]', f'version = "{state.version}"')
        )
        run(
            [
                *(cyclonedx, "environment", "--output-reproducible", "--validate"),
                *("--pyproject", described, "--mc-type", "library"),
                *("--output-file", dist / f"leadapron-{state.version}.cdx.json", python),
            ],
            settings={"SOURCE_DATE_EPOCH": str(state.time)},
        )
    write_checksums(dist)
    for path in sorted(dist.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.relative_to(ROOT)}")


def wheelhouse(state: State, folder: Path) -> None:
    """Gather all that an installation needs in a folder, and install from it alone."""
    shutil.rmtree(folder, ignore_errors=True)
    wheels = ("download", "--only-binary", ":all:", "--dest", folder)
    lock, constraints = ROOT / "requirements.lock", ROOT / "constraints.txt"
    run([*PIP, *wheels, "--require-hashes", "--no-deps", "--requirement", lock])
    # The lock leaves torch out, and what torch's CUDA build brings: here pip finds both.
    run([*PIP, *wheels, "--find-links", folder, "--constraint", constraints, pin("torch")])
    build(ROOT, folder, "wheel", state.time)
    write_checksums(folder)
    wanted = "leadapron[dicom]"
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        python = environment(place / "empty")
        # No setting of this machine names another place of packages.
        pip(
            python,
            *("--isolated", "install", "--no-index", "--find-links", folder, wanted),
            settings={"PIP_CONFIG_FILE": os.devnull},
        )
        try_out(python, state, place)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(
        f"{folder.relative_to(ROOT)}: {len(list(folder.glob('*.whl')))} wheels, {size:,.0f} MB, "
        f"for Python {platform.python_version().rpartition('.')[0]} "
        f"on {platform.system()} {platform.machine()}\n"
        "There, in an environment of that Python, without network:\n"
        f"    cd {folder.name} && sha256sum --check --quiet SHA256SUMS && "
        f'python -m pip install --no-index --find-links . "{wanted}"'
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    publishing = commands.add_parser("release")
    publishing.add_argument("--cyclonedx", type=Path, required=True, help="cyclonedx-py")
    publishing.add_argument("--tag", action="store_true", help="make the annotated tag")
    commands.add_parser("wheelhouse")
    asked = parser.parse_args()

    facts = state(ROOT)
    if asked.command == "wheelhouse":
        wheelhouse(facts, ROOT / "dist" / "wheelhouse")
        return
    against = obstacles(facts)
    if against and (asked.tag or facts.tagged):
        raise ReleaseError("; ".join(against))
    release(facts, ROOT / "dist", ROOT / asked.cyclonedx)
    words = ["tag", "--annotate", facts.tag, "--message", f"leadapron {facts.version}"]
    if against:
        print("A rehearsal. Before the tag:", *against, sep="\n    ")
    elif facts.tag in facts.tagged:
        print(f"This is {facts.tag}.")
    elif asked.tag:
        git(ROOT, *words)
        print(f"Tagged {facts.tag}. Publish it: git push origin {facts.tag}")
    else:
        print(f'Next: git {" ".join(words[:-1])} "{words[-1]}"   (or make release TAG=1)')


if __name__ == "__main__":
    try:
        main()
    except ReleaseError as error:
        sys.exit(f"no release: {error}")
