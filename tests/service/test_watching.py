"""A folder as a door: films are judged as they come, once, and a restart forgets none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time

import pytest
from click.testing import CliRunner
from input_scenes import black_square, films
from service_scenes import png

from dicom_files import with_pixels, write
from leadapron.cli import cli
from leadapron.cli import models as commands
from leadapron.errors import DataError, UsageError
from leadapron.jobs import screen as screen_job
from leadapron.service import watching
from leadapron.service.settings import Keeping


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "POLL", 0.05)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    return tmp_path / "in"


def watched(opened, folder, wanted, keeping=None, meanwhile=lambda told: None):
    """What is told until so many answers have come."""
    told, stop = [], threading.Event()

    def tell(name, answer):
        told.append((name, answer))
        if len(told) == wanted:
            stop.set()

    helper = threading.Timer(60, stop.set)
    helper.start()
    other = threading.Thread(target=meanwhile, args=(told,))
    other.start()
    keeping = keeping or Keeping(spool=folder.parent / "spool")
    watching.watch(opened, folder, keeping, tell, stop)
    other.join()
    helper.cancel()
    return told


def test_films_are_judged_as_they_come_and_a_restart_judges_none_again(opened, folder):
    marked, plain = black_square(films(1, 5))[0], films(1, 6)[0]
    (folder / "deep" / "marked.png").write_bytes(png(marked))
    (folder / "notes.txt").write_text("no film")
    (folder / ".hidden.png").write_bytes(png(plain))
    write(folder / "no-ending", with_pixels(plain, Modality="CT"))

    def later(told):
        end = time.monotonic() + 30
        while len(told) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        content = png(plain)
        with (folder / "slow.png").open("wb") as file:  # it grows while it is looked at
            for place in range(0, len(content), 200):
                file.write(content[place : place + 200])
                file.flush()
                time.sleep(0.06)

    told = dict(watched(opened, folder, 3, meanwhile=later))
    assert {name: answer.verdict.word for name, answer in told.items()} == {
        "deep/marked.png": "suspicious", "no-ending": "can't tell", "slow.png": "pass",
    }  # fmt: skip
    assert "of modality CT" in told["no-ending"].decision.reason
    assert sorted(path.name for path in folder.iterdir()) == [
        ".hidden.png", "deep", "no-ending", "notes.txt", "slow.png",
    ]  # fmt: skip
    again = dict(watched(opened, folder, 3))
    assert {name: answer.judged for name, answer in again.items()} == {
        name: answer.judged for name, answer in told.items()
    }


def test_a_changed_film_and_a_copy_are_told_too(opened, folder):
    first, second = films(2, 7)
    (folder / "a.png").write_bytes(png(first))
    (folder / "copy.png").write_bytes(png(first))

    def later(told):
        end = time.monotonic() + 30
        while len(told) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        (folder / "a.png").write_bytes(png(second))

    told = watched(opened, folder, 3, meanwhile=later)
    ids = [answer.id for _, answer in told]
    assert [name for name, _ in told[2:]] == ["a.png"]
    assert ids[0] == ids[1] != ids[2]


def test_more_films_than_may_wait_are_all_judged(opened, folder):
    for number, film in enumerate(films(5, 8)):
        (folder / f"{number}.png").write_bytes(png(film))
    keeping = Keeping(spool=folder.parent / "spool", queue=1)
    assert len({answer.id for _, answer in watched(opened, folder, 5, keeping)}) == 5


def test_a_folder_that_goes_is_waited_for(opened, folder, caplog):
    def later(told):
        shutil.rmtree(folder)
        time.sleep(0.3)
        folder.mkdir()
        (folder / "a.png").write_bytes(png(films(1, 9)[0]))

    assert len(watched(opened, folder, 1, meanwhile=later)) == 1
    assert caplog.text.count("the folder can't be read; it is tried again") == 1
    with pytest.raises(DataError, match="expected one that films come into"):
        watched(opened, folder / "none", 1)


def test_by_the_command_line(opened, folder, monkeypatch):
    monkeypatch.setattr(screen_job, "open_gate", lambda *_, **__: opened)
    (folder / "a.png").write_bytes(png(black_square(films(1, 5))[0]))

    def run(*words):
        call = ["screen", str(opened.file), "--watch", str(folder), "--spool",
                str(folder.parent / "spool"), *map(str, words)]  # fmt: skip
        result = CliRunner().invoke(cli, call, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result

    line = commands.click.echo

    def stopping(text, **more):
        line(text, **more)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(commands.click, "echo", stopping)
    result = run()
    head, found = result.stdout.splitlines()
    assert head.startswith("verdict")
    assert found.startswith("suspicious")
    assert found.endswith("a.png")
    assert result.return_value == 0
    facts = json.loads(run("--json").stdout)
    assert (facts["file"], facts["schema"], facts["verdict"]["level"]) == ("a.png", 1, "found")
    for words in ((folder / "a.png",), ("--out", folder.parent / "out")):
        with pytest.raises(UsageError, match="takes no files"):
            run(*words)
