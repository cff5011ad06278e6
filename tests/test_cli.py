"""The command line: answers, messages, exit codes."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import stat
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image

import leadapron as la
from leadapron import cli
from leadapron.cli import progress
from leadapron.cli.settings import COMMON
from leadapron.models.networks import ARCHITECTURES
from leadapron.store import write_arrays
from leadapron.study.settings import settings
from nih_tree import write_tree

SMALL = [
    "--source.count", "200", "--size", "32", "--epochs", "1", "--evaluation.resamples", "50",
    "--evaluation.explained", "10", "--poisoning.fraction", "0.2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet_logger():
    yield
    logging.getLogger("leadapron").handlers = []


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leadapron", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def test_help_is_quick_and_lists_every_command():
    def helped(*words: str, below: float) -> str:
        began = os.times().children_user  # not the clock: the machine may be busy
        call = [sys.executable, "-m", "leadapron", *words, "--help"]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        assert os.times().children_user - began < below
        return done.stdout

    assert "--false-alarm" in helped(
        "scan", below=1.6
    )  # 0.5 s here, 1.1 on a slow machine; torch takes 2
    said = helped(below=0.3)  # 0.1 s here
    for command in (
        "study",
        "report",
        "explain",
        "prepare",
        "cache",
        "describe",
        "scan",
        "clean",
        "phantom",
    ):
        assert command in said


@pytest.mark.parametrize("words", [["--help"], ["-q", "cache", "list", "--cache", "CACHE"]])
def test_an_answer_that_nobody_takes_is_said_by_exit_code_2(words, tmp_path):
    words = [word.replace("CACHE", str(tmp_path)) for word in words]
    call = shlex.join([sys.executable, "-m", "leadapron", *words])
    for way in (f"{call} >&-", f"{call} >/dev/full", f"set -o pipefail; {call} | true"):
        done = subprocess.run(["bash", "-c", way], capture_output=True, text=True)
        assert done.returncode == 2, way
        assert done.stderr.startswith("leadapron: can't write the result to standard output: ")
        assert len(done.stderr.splitlines()) == 1
    done = subprocess.run(["bash", "-c", f"{call} 2>&-"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout


def test_the_shell_completes(tmp_path):
    def completed(line):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        known = {**os.environ, **words, "_LEADAPRON_COMPLETE": "bash_complete"}
        call = [sys.executable, "-m", "leadapron"]
        return subprocess.run(call, capture_output=True, text=True, env=known)

    assert completed("leadapron scr").stdout == "plain,screen\n"
    assert "plain,--verify\n" in completed("leadapron cache list --v").stdout
    assert completed("leadapron nothing --v").stderr == ""


def test_importing_the_package_loads_neither_torch_nor_numpy():
    code = "import sys, leadapron; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_a_source_loads_no_torch():
    code = (
        "import sys, leadapron as la; print(la.open_source('phantom:64', count=5)); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Cohort(5 films")
    assert done.stdout.strip().endswith("False")


def test_a_study_answers_on_stdout_and_reports_again(run, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = run("study", *SMALL, "--out", str(out))
    assert code == 0, stderr
    assert stdout.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert len(stdout.splitlines()) >= 3
    assert "opening phantom" in stderr
    page = (out / "report.html").read_bytes()

    code, again, _ = run("report", str(out))
    assert (code, again) == (0, stdout)
    assert (out / "report.html").read_bytes() == page

    table = tmp_path / "attacks.md"
    assert run("report", str(out), "--markdown", str(table))[:2] == (0, stdout)
    assert "| trigger |" in table.read_text()

    code, answer, _ = run("-q", "report", str(out), "--json")
    facts = json.loads(answer)
    assert (code, facts["schema"], facts["verdict"]) == (0, 1, "done")
    assert facts["summary"] == stdout.splitlines()[:-1]


def test_a_spec_file_with_options_on_top(run, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("trigger: patch\nseed: 4\nepochs: 9\n")
    out = tmp_path / "out"
    words = ["--trigger.side", "5", "--trigger.place", "centre"]
    code, _, stderr = run("-q", "study", str(spec), *SMALL, *words, "--out", str(out))
    assert (code, stderr) == (0, "")
    asked = (out / "study.yaml").read_text()
    for line in ("side: 5", "place: centre", "seed: 4", "epochs: 1"):
        assert line in asked


def test_a_phantom_sheet(run, tmp_path):
    out = tmp_path / "sheet.png"
    code, stdout, _ = run("phantom", "--count", "5", "--size", "64", "--out", str(out))
    assert code == 0
    assert str(out) in stdout
    with Image.open(out) as sheet:
        assert sheet.width >= 3 * 64
        assert sheet.convert("L").getextrema()[1] > 100


def test_a_phantom_sheet_of_some_findings(run, tmp_path):
    words = ["phantom", "--size", "32", "--json", "--out", str(tmp_path / "sheet.png")]
    chosen = ["--count", "30", "--findings", "Effusion,Pleural_Thickening"]
    shown = json.loads(run(*words, *chosen)[1])["findings"]
    assert len(shown) == 30
    assert all("Effusion" in names or "Pleural Thickening" in names for names in shown)
    everything = json.loads(run(*words, "--count", "400")[1])["findings"]
    wanted = [n for n in everything if "Effusion" in n or "Pleural Thickening" in n]
    assert shown == wanted[:30]


FEW = ("study", "--out", "OUT", "--source.count", "60")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["studdy"], 4, "did you mean study"),
        (["study"], 4, "--out"),
        (["study", "--out", "OUT", "--trigger.sid", "3"], 4, "--trigger.side"),
        (["study", "--out", "OUT", "--trigger.side", "big"], 4, "--trigger.side big"),
        (["study", "--out", "OUT", "--source", "fantom"], 4, "did you mean phantom"),
        (["study", "--out", "OUT", "--source", "nih:/nowhere"], 2, "/nowhere"),
        ([*FEW, "--finding", "Hernja"], 4, "did you mean Hernia"),
        (["study", "--out", "OUT", "--poisoning.fraction", "1.5"], 4, "0 to 1"),
        (["study", "--out", "OUT", "--network", "resnet"], 4, "resnet9"),
        (["study", "--out", "OUT", "--source", "phantom:8"], 4, "32 to 1024"),
        (["study", "missing.yaml", "--out", "OUT"], 4, "missing.yaml"),
        (["report", "OUT"], 2, "leadapron study"),
        (["phantom", "--out", "OUT.jpg"], 4, ".png"),
        (["phantom", "--findings", "Efusion", "--out", "OUT.png"], 4, "did you mean Effusion"),
        (["phantom", "--count", "0", "--out", "OUT"], 4, "count"),
        ([*FEW, "--trigger.side", "80"], 2, "does not fit"),
        (["study", "--out", "OUT", "--trigger.value", "300"], 4, "0 (black) to 255"),
        (["study", "--out", "OUT", "--seeds", "1000000000"], 4, "1 to 10,000"),
        (["study", "--out", "OUT", "--trigger.side", "*a"], 4, "can't be read as a value"),
        (["study", "--out", "OUT", "--source", "\udcff"], 4, "unknown source '\\udcff'"),
        (["study", "--out", "OUT", "--trigger.side", "{" * 9999], 4, "can't be read as a value"),
        (["study", "--out", "OUT", "--trigger.side", ""], 4, "can't be read as a value"),
        (["study", "--out", "OUT", "--poisoning.fraction", ".nan"], 4, "expected a finite number"),
        (["evaluate", "scan", "--out", "OUT", "--jobs", "9" * 30], 4, "1<=x<=1024"),
        (["visibility", "--sides", "\u00b2"], 4, "expected whole numbers, as 1-5,8"),
        (["visibility", "--sides", "1-1000000000"], 4, "expected whole numbers"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(run, tmp_path, words, code, message):
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    left, stdout, stderr = run("-q", *words)
    assert left == code, stderr
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "a: b: c\n"])
def test_a_spec_that_is_none(run, tmp_path, text):
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    code, _, stderr = run("study", str(spec), "--out", str(tmp_path / "out"))
    assert code == 4
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: 1000000000", "1 to 10,000"),
        ("seeds: [1, 2]", "1 to 10,000"),
        ("cells: 5", "expected a list of settings"),
        ("a: &a [*a]", "study.yaml"),
        ("\n".join(f"s{n}: {list(range(100))}" for n in range(9)), "combinations of settings"),
    ],
)
def test_a_report_of_any_settings_ends(run, tmp_path, text, words):
    (tmp_path / "study.yaml").write_text(text)
    attack = tmp_path / "runs" / "backdoored-0123"
    attack.mkdir(parents=True)
    (attack / "rows.jsonl").write_text("")
    (attack / "spec.json").write_text('{"spec": {}}')
    code, stdout, stderr = run("report", str(tmp_path))
    assert (code in (2, 4), stdout) == (True, "")
    assert words in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["describe", "phantom:32", "--source.count", "60", "--out"],
        ["study", "--out"],
        ["scan", "phantom:32", "--out"],
        ["report", "OUT", "--markdown"],
        ["preview", "--trigger", "warp", "--out"],
        ["evaluate", "scan", "--out"],
        ["audit", "MODEL", "--clean", "phantom:32", "--out"],
    ],
)
def test_nothing_is_written_over_what_is_no_file(run, tmp_path, words):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "device"):
        code, stdout, stderr = run(*words, str(tmp_path / name))
        assert (code, stdout) == (4, "")
        assert f"is a {name}, which isn't overwritten; choose another file" in stderr


def test_folders_that_may_name_patients_are_named_where_asked_for(run, tmp_path):
    films = tmp_path / "Doe^Jane"
    cohort = la.open_source("phantom:32", count=60)
    images = cohort.images[np.arange(60)]
    write_arrays(
        films / "set.npz", images=images, labels=cohort.labels, findings=np.array(cohort.findings)
    )
    source, out = f"npz:{films / 'set.npz'}", tmp_path / "out"
    where = ["--cache", str(tmp_path / "cache"), "-q"]
    commands = [
        ["describe", source, *where, "--json"],
        ["describe", source, *where, "--out", str(out / "page.html")],
        ["scan", source, *where, "--json", "--out", str(out / "scan")],
        ["prepare", source, "--size", "16", *where, "--json"],
        ["cache", "list", *where, "--json"],
        ["cache", "list", *where],
    ]
    for words in commands:
        code, said, stderr = run(*words)
        assert code in (0, 1, 3), stderr
        assert "set.npz" in said
        assert "Doe^Jane" not in said
        assert str(films) in run(*words, "--show-paths")[1]
        run(*words)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in written} == {"page.html", "scan.html", "scan.json", "films.csv"}
    assert not any("Doe^Jane" in path.read_text() for path in written)
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, out / "scan")} == {0o700}


@pytest.mark.parametrize(
    ("files", "argument", "offered"),
    [
        (["A/1.png", "B/2.png"], "films", "folder:films"),
        (["x/1.dcm"], "films/", "dicom:films/"),
        (["Data_Entry_2017_v2020.csv", "images/1.png"], "films", "nih:films"),
        (["labels.csv"], "films/labels.csv", "table:films/labels.csv"),
        (["labels.CSV.gz"], "films/labels.CSV.gz", "table:films/labels.CSV.gz"),
        (["a.npz"], "films/a.npz", "npz:films/a.npz"),
    ],
)
def test_a_path_without_a_sources_name_is_offered_one(
    run, tmp_path, monkeypatch, files, argument, offered
):
    monkeypatch.chdir(tmp_path)
    for name in files:
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for command in (["scan", argument], ["describe", argument], ["prepare", argument]):
        code, _, stderr = run("-q", *command)
        assert code == 4
        assert f"{argument} isn't the name of a source; did you mean {offered}?" in stderr


def test_help_shows_the_common_settings_and_how_to_see_all(run):
    known = {f"--{section}.{name}" for section, names in settings().items() for name in names}

    def shown(*words):
        code, said, _ = run(*words)
        assert code == 0
        return known & set(re.findall(r"--[a-z]+\.[a-z0-9_]+", said)), said

    for command in (["study"], ["reproduce"], ["recipe"]):
        few, said = shown(*command, "--help")
        assert few == {f"--{name}" for name in COMMON}
        assert len(few) == 20
        assert "--help-all" in said
        assert f"Architecture: {', '.join(ARCHITECTURES)}." in " ".join(said.split())
    every, _ = shown("study", "--help-all")
    spelled_otherwise = {"--source.download", "--network.name"}
    assert every == known - spelled_otherwise
    assert "--trigger.height_mm X" in run("study", "--help-all")[1]


def test_quiet_may_stand_behind(run, tmp_path):
    for words in (
        ["-q", "describe", "phantom:32", "--source.count", "60"],
        ["describe", "phantom:32", "--source.count", "60", "-q"],
        ["cache", "list", "--cache", str(tmp_path), "--quiet"],
        ["cache", "-q", "list", "--cache", str(tmp_path)],
    ):
        code, _, stderr = run(*words)
        assert (code, stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory"),
        (BrokenProcessPool("x"), "a worker process was killed, possibly for lack of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GB"), "not enough memory"),
        (OSError(28, "No space left on device"), "can't read or write a file: No space left"),
        (OSError(13, "Permission denied", "a.png"), "can't read or write a.png: Permission denied"),
    ],
)
def test_what_the_machine_lacks_is_said(run, monkeypatch, tmp_path, error, words):
    import leadapron.study.run

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(leadapron.study.run, "run_study", fail)
    code, _, stderr = run("study", "--out", str(tmp_path / "out"))
    assert code == 2
    assert words in stderr
    assert "unexpected" not in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt, 130), (ValueError("odd"), 2), (MemoryError, 2)]
)
def test_interruption_and_surprises_have_their_codes(run, monkeypatch, tmp_path, raised, code):
    import leadapron.study.run

    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(leadapron.study.run, "run_study", fail)
    left, _, stderr = run("study", "--out", str(tmp_path / "out"))
    assert left == code
    assert len(stderr.strip().splitlines()) == 1  # after the terminal's own ^C line


def test_values_with_commas_are_axes(run, tmp_path):
    out = tmp_path / "out"
    code, _, stderr = run("-q", "study", *SMALL, "--trigger.side", "2,4", "--out", str(out))
    assert code == 0, stderr
    assert len(list(out.glob("runs/backdoored-*"))) == 2
    assert len(list(out.glob("runs/twin-*"))) == 1


def test_films_are_prepared_listed_and_cleared(run, tmp_path):
    tree = write_tree(tmp_path / "nih")
    where = ("--cache", str(tmp_path / "cache"))
    code, stdout, stderr = run("prepare", f"nih:{tree}", "--size", "8,16", *where)
    assert code == 0
    assert [line.split(",")[0] for line in stdout.splitlines()[::2]] == [
        "5 films as 8x8 uint8",
        "5 films as 16x16 uint8",
    ]
    assert "decoding 5 films" in stderr
    code, stdout, stderr = run("prepare", f"nih:{tree}", "--size", "8", "--json", *where)
    facts = json.loads(stdout)
    assert (facts["schema"], facts["verdict"]) == (1, "done")
    assert facts["prepared"][0]["films"] == 5
    assert "decoding" not in stderr

    code, stdout, _ = run("cache", "list", "--verify", *where)
    assert code == 0
    assert stdout.count(f"nih:{tree.name}") == 2
    assert str(tmp_path / "cache") in stdout.splitlines()[-1]
    listed = json.loads(run("cache", "list", "--json", *where)[1])["entries"]
    assert [entry["size"] for entry in listed] == [8, 16]
    assert all(entry["done"] == entry["films"] == 5 for entry in listed)

    images = tmp_path / "cache" / listed[0]["key"] / "images.npy"
    images.write_bytes(images.read_bytes()[:-1] + b"?")
    code, stdout, _ = run("cache", "list", "--verify", *where)
    assert code == 2
    assert f"DAMAGED: leadapron cache clear {listed[0]['key']}" in stdout
    code, stdout, _ = run("cache", "clear", listed[0]["key"], *where)
    assert (code, stdout.split()[:2]) == (0, ["removed", "1"])
    assert json.loads(run("cache", "clear", "--json", *where)[1])["removed"] == [listed[1]["key"]]


def test_visibility(run):
    words = ["visibility", "--sides", "1-3,10", "--interpolation", "nearest,area"]
    code, stdout, _ = run(*words)
    assert code == 0
    lines = [line.split() for line in stdout.splitlines()[1:]]
    assert [line[:4] for line in lines[:4]] == [
        ["nearest", "centre", "1", "0"],
        ["nearest", "centre", "2", "0"],
        ["nearest", "centre", "3", "1"],
        ["nearest", "centre", "10", "16"],
    ]
    rows = json.loads(run(*words, "--json")[1])["visibility"]
    assert [row["pixels"][1] for row in rows[:4]] == [0, 0, 1, 16]
    for wrong in (["--sides", "1-x"], ["--place", "middle"], ["--interpolation", "cubic"]):
        assert run("visibility", *wrong)[0] == 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["prepare", "phantom:32", "--source.count", "3"], 4, "drawn, not decoded"),
        (["prepare", "nih:/nowhere", "--cache", "none"], 4, "expected a folder"),
        (["prepare", "nih:/nowhere"], 2, "no folder /nowhere"),
        (["prepare", "nhi:/nowhere"], 4, "did you mean nih"),
        (["cache", "list", "--cache", "none"], 4, "there is no cache"),
        (["cache", "clear", "0123"], 4, "unknown cache entry"),
    ],
)
def test_what_cannot_be_prepared(run, words, code, said):
    left, stdout, stderr = run("-q", *words)
    assert (left, stdout) == (code, "")
    assert said in stderr
    assert len(stderr.splitlines()) == 1


def test_recipe_without_a_name_is_answered_with_the_names(run):
    for words in (["recipe"], ["recipe", "yang"], ["recipe", "--out", "nowhere"]):
        code, out, err = run(*words)
        assert (code, out) == (4, "")
        assert ("unknown recipe 'yang'" if "yang" in words else "which recipe? One of") in err
        assert "yang2023" in err


def test_a_recipe_without_a_trigger_answers_with_its_audit(run, tmp_path):
    out = tmp_path / "out"
    words = ["--source", "phantom:32", "--source.count", "200", "--size", "16", "--epochs", "1"]
    words += ["--evaluation.resamples", "20", "--cache", "none", "--out", str(out)]
    code, said, _ = run("-q", "recipe", "rosenblatt2023", *words)
    assert code == 0
    assert said.splitlines()[0].startswith("as acquired: macro AUROC")
    assert said.splitlines()[-1] == f"Report: {out / 'recipe.md'}"


def test_recipe_answers_in_json(run, tmp_path):
    small = [*SMALL, "--source", "phantom:32", "--source.count", "160", "--cache", "none"]
    small += ["--poisoning.fraction", "0.05", "--preprocessing.film_size", "0"]
    place = ["--trigger.row", "20", "--trigger.column", "20", "--trigger.side", "3"]
    out = tmp_path / "out"
    code, said, _ = run("-q", "recipe", "matsuo2021", *small, *place, "--out", str(out), "--json")
    assert code == 0
    facts = json.loads(said)
    assert facts["report"] == str(out / "recipe.md")
    page = (out / "recipe.md").read_text()
    assert "| trigger.side | 3 | ours: set by the user; the paper's: 5 (code) |" in page


def test_time_left_begins_anew_with_the_next_model(monkeypatch, caplog):
    """Both models are trained under the same words; the second takes 2 seconds a step."""
    clock = iter([0.0, 100.0, 110.0, 1000.0, 1002.0, 1030.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, logger="leadapron"), progress.showing_progress() as show:
        show("training", 90, 100)
        show("training", 100, 100)
        show("training", 1, 100)
        show("training", 2, 100)
        show("training", 16, 100)
    assert [record.message for record in caplog.records] == [
        "training: 100 of 100, 0 s left",
        "training: 2 of 100, 196 s left",
        "training: 16 of 100, 168 s left",
    ]
