"""The files in deploy/: what they run exists; what they forbid leaves the gate what it needs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from leadapron.cli import cli
from leadapron.service.serving import GRACE

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def unit():
    """The settings of the unit: all values of each name, in order."""
    found = {}
    for line in (DEPLOY / "leadapron.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def instructions():
    """The instructions of the Containerfile's last stage, with their arguments."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]
    return [line.split(maxsplit=1) for line in last.splitlines() if line and line[0] != "#"]


def in_container():
    ((_, command),) = [line for line in instructions() if line[0] == "CMD"]
    return json.loads(command)


def in_compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


COMMANDS = {
    "unit": lambda: shlex.split(unit()["ExecStart"][0])[1:],
    "container": in_container,
    "compose": lambda: in_compose()["gate"]["command"],
}


@pytest.mark.parametrize("where", COMMANDS)
def test_what_is_run_is_a_command_with_its_options(where):
    """The words go through the command's own parser; only the file of the gate is missing."""
    words = COMMANDS[where]()
    name, *rest = words
    command = cli.get_command(click.Context(cli), name)
    given = command.make_context(name, rest).params
    assert str(given["gate"]).endswith("/gate.json")
    assert given["ui"]


def test_the_container_runs_as_nobody_in_a_tree_that_it_cannot_write():
    names = [name for name, _ in instructions()]
    assert dict(instructions())["USER"] == "10001:10001"
    assert names.index("USER") < names.index("ENTRYPOINT")
    gate = in_compose()["gate"]
    assert gate["read_only"]
    assert gate["cap_drop"] == ["ALL"]
    assert gate["security_opt"] == ["no-new-privileges:true"]
    assert gate["user"] == "10001:10001"
    outside = {volume.split(":")[1] for volume in gate["volumes"]}
    assert outside == {"/gate", "/spool"}
    assert gate["volumes"][0].endswith(":ro")


def test_only_dicom_is_published_to_other_machines():
    services = in_compose()
    assert [port for port in services["orthanc"]["ports"] if not port.startswith("127.")] == [
        "4242:4242"
    ]
    assert "ports" not in services["gate"]
    facts = json.loads((DEPLOY / "orthanc.json").read_text())
    assert not facts["RemoteAccessAllowed"]
    assert not facts["DicomAlwaysAllowStore"]
    assert facts["DicomCheckCalledAet"]
    (place,) = [each for each in services["gate"]["command"] if each.startswith("--orthanc=")]
    assert place == f"--orthanc=http://127.0.0.1:{facts['HttpPort']}"


def test_a_stop_leaves_time_to_finish_the_batch():
    assert int(unit()["TimeoutStopSec"][0]) > GRACE + 20
    assert int(in_compose()["gate"]["stop_grace_period"].removesuffix("s")) > GRACE + 20


def allowed_calls(tool):
    """All system calls that the unit's filter lets through."""
    told = subprocess.run([tool, "syscall-filter"], capture_output=True, text=True, check=True)
    groups = {}
    for line in told.stdout.splitlines():
        if line.startswith("@"):
            calls = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            calls.append(line.strip())

    def all_of(name):
        return {name} if name[0] != "@" else {c for each in groups[name] for c in all_of(each)}

    return {call for name in unit()["SystemCallFilter"][0].split() for call in all_of(name)}


@pytest.fixture
def analyze():
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze")
    return tool


def test_the_filter_of_system_calls_leaves_the_decoders_what_they_confine_themselves_with(analyze):
    from leadapron.confinement import CALLS

    calls = allowed_calls(analyze)
    landlock = {f"landlock_{name}" for name in ("create_ruleset", "add_rule", "restrict_self")}
    assert {*landlock, "seccomp", "capset", "prctl"} <= calls
    assert set(CALLS) <= calls
    assert not {"mount", "ptrace", "bpf", "init_module", "reboot", "swapon"} & calls


def test_the_unit_is_valid_and_exposes_little(analyze, tmp_path):
    text = (DEPLOY / "leadapron.service").read_text()
    program = tmp_path / "leadapron"
    program.touch(0o755)
    file = tmp_path / "leadapron.service"
    file.write_text(text.replace("/opt/leadapron/bin/leadapron", str(program)))
    checked = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
    said = [line for line in checked.stderr.splitlines() if "leadapron.service" in line]
    assert said == []
    judged = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged.stdout)
    assert level, judged.stdout + judged.stderr
    assert float(level[1]) < 2.0, judged.stdout


@pytest.mark.slow
def test_the_container_builds_and_runs_as_nobody(tmp_path):
    """Needs buildah and a base image with Python, as docs/how-to/service.md says."""
    base, tool = os.environ.get("LEADAPRON_BASE_IMAGE"), shutil.which("buildah")
    if tool is None or base is None:
        pytest.skip("no buildah, or no image in LEADAPRON_BASE_IMAGE")
    more = shlex.split(os.environ.get("LEADAPRON_BUILD_OPTIONS", ""))
    place = ["--storage-driver", "vfs"]

    def run(*words):
        done = subprocess.run([tool, *place, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip()

    run(
        "bud", "--isolation", "chroot", "--build-arg", f"BASE={base}", *more,
        "--tag", "localhost/leadapron-test", "--file", DEPLOY / "Containerfile", ROOT,
    )  # fmt: skip
    container = run("from", "localhost/leadapron-test")
    try:
        alone = ("run", "--isolation", "chroot", container, "--")
        program = "/opt/leadapron/bin/leadapron"
        assert run(*alone, program, "--version").startswith("leadapron")
        assert run(*alone, "id", "-u") == "10001"
        assert "--ui" in run(*alone, program, "serve", "--help")
        search = "find / -xdev -writable -not -type l -not -path '/proc/*' 2>/dev/null || true"
        writable = run(*alone, "sh", "-c", search)
        tops = {path.split("/")[1] for path in writable.splitlines()}
        assert tops <= {"spool", "tmp", "var", "run", "dev", "sys"}, writable
        confined = "from leadapron.confinement import missing; print(missing())"
        assert run(*alone, "/opt/leadapron/bin/python", "-c", confined) == "()"
    finally:
        run("rm", container)
        run("rmi", "localhost/leadapron-test")
