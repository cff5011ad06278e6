"""What lies on disk."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from leadapron import store
from leadapron.errors import StoreError
from leadapron.seeds import stream


def fail_halfway(path, error):
    with store.write_atomically(path) as file:
        file.write(b"half")
        raise error


def test_a_file_changes_only_when_all_is_written(tmp_path):
    path = tmp_path / "a" / "file.txt"
    with store.write_atomically(path) as file:
        file.write(b"old")
    with pytest.raises(ValueError, match="halfway"):
        fail_halfway(path, ValueError("halfway"))
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.txt"
    with pytest.raises(StoreError, match="the disk is full"):
        fail_halfway(path, OSError(errno.ENOSPC, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_for_its_owner_alone(tmp_path):
    (tmp_path / "there").mkdir(mode=0o755)
    path = tmp_path / "there" / "new" / "newer" / "a.json"
    before = os.umask(0)
    try:
        store.write_json(path, 1)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, *list(path.parents)[:3])]
    assert modes == [0o600, 0o700, 0o700, 0o755]


def odd_files(folder):
    """A pipe, a socket, a link to a device, a folder, by what they are called."""
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
    (folder / "device").symlink_to("/dev/null")
    (folder / "folder").mkdir()
    return [folder / name for name in ("pipe", "socket", "device", "folder")]


def test_what_is_no_file_is_neither_replaced_nor_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    for path in odd_files(Path()):
        for write in (store.write_json, lambda p, _: store.write_arrays(p, x=np.zeros(1))):
            with pytest.raises(StoreError, match=f"^{path} is a {path.name}, which isn't"):
                write(path, 1)
        assert not path.is_file()
        readers = (store.read_json, store.read_lines, store.read_arrays, store.read_yaml)
        for read in (*readers, store.sha256_of):
            with pytest.raises(
                StoreError, match=f"can't read {path}: it is a {path.name}; expected a file"
            ):
                read(path)


def laughs(levels):
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]", *lines])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (laughs(9), "more than 100,000 values, including aliases"),
        ("a: " + "[" * 200_000, "nested more than 32 deep"),
        ("a0: &a0 [1]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 50)), "32 deep"),
        ("a: &a [*a]", "a value that contains itself"),
        ("#" * 1_000_001, "larger than 1,000,000 bytes"),
        ("a: 2001-13-45", "month must be in 1..12"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("? {a: 1}\n: 2", "unhashable"),
        ("a: \x00", "not YAML"),
        ("[1, 2]", "holds no settings; expected lines such as `seed: 1`"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_a_spec_ends_whatever_it_holds(tmp_path, text, words):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    began = time.perf_counter()
    with pytest.raises(StoreError, match=re.escape(words)) as caught:
        store.read_yaml(path)
    assert time.perf_counter() - began < 2
    assert str(path) in str(caught.value)


def test_a_spec_may_repeat_itself(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("base: &base {side: 3, value: [0, 255]}\ncells: [*base, {<<: *base, side: 4}]")
    base = {"side": 3, "value": [0, 255]}
    assert store.read_yaml(path) == {"base": base, "cells": [base, {**base, "side": 4}]}
    path.write_text("")
    assert store.read_yaml(path) == {}


def test_json_ends_whatever_it_holds(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[" * 200_000)
    for read in (store.read_json, store.read_lines):
        with pytest.raises(StoreError, match="is not"):
            read(path)
    monkeypatch.setattr(store, "LARGEST_TEXT", 10)
    with pytest.raises(StoreError, match="larger than 10 bytes"):
        store.read_json(path)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't write"):
        store.write_json(tmp_path / "file" / "a.json", 1)


def test_what_killed_writers_left_is_removed(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".rows.jsonl.abcd.part").write_text("{")
    (tmp_path / "keep.part").write_text("")
    store.remove_parts(tmp_path)
    assert {p.name for p in tmp_path.rglob("*")} == {"runs", "keep.part"}


@pytest.mark.parametrize(
    ("read", "content"),
    [(store.read_json, "{"), (store.read_lines, "{}\nx"), (store.read_arrays, "no zip")],
)
def test_files_that_can_not_be_read(tmp_path, read, content):
    path = tmp_path / "file"
    with pytest.raises(StoreError, match="file"):
        read(path)
    path.write_text(content)
    with pytest.raises(StoreError, match="file"):
        read(path)


def test_arrays_come_back_and_pickles_are_refused(tmp_path):
    store.write_arrays(tmp_path / "a.npz", x=np.arange(3), names=np.array(["a", "b"]))
    arrays = store.read_arrays(tmp_path / "a.npz")
    assert arrays["x"].tolist() == [0, 1, 2]
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object))
    with pytest.raises(StoreError, match=r"b\.npz"):
        store.read_arrays(tmp_path / "b.npz")


def test_a_runs_key_is_its_settings_and_films():
    key = store.run_key({"b": 1, "a": {"c": 0.1}}, "f" * 64)
    assert key == "150eaae3a8f7"  # changes with RESULTS_VERSION alone
    assert store.run_key({"a": {"c": 0.1}, "b": 1}, "f" * 64) == key
    assert store.run_key({"a": {"c": 0.2}, "b": 1}, "f" * 64) != key
    assert store.run_key({"a": {"c": 0.1}, "b": 1}, "e" * 64) != key


def test_a_locked_folder_is_refused_to_others_and_left_without_trace(tmp_path):
    folder = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from leadapron import store\n"
        "try:\n    with store.lock(Path(sys.argv[1])): print('in')\n"
        "except store.StoreError as error: print(error)"
    )
    call = [sys.executable, "-c", code, str(folder)]
    with store.lock(folder):
        said = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        assert "in use by another" in said
    assert not folder.exists()
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "in\n"


def test_locking_writes_over_nothing_and_is_for_its_owner_alone(tmp_path):
    folder, mine = tmp_path / "a_strangers", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("precious")
    (folder / ".lock").symlink_to(mine)
    with pytest.raises(StoreError, match="can't write"), store.lock(folder):
        raise AssertionError
    assert mine.read_text() == "precious"
    (folder / ".lock").unlink()
    (folder / ".lock").hardlink_to(mine)
    with store.lock(folder):
        pass
    assert mine.read_text() == "precious"
    with store.lock(tmp_path / "new"):
        assert stat.S_IMODE((tmp_path / "new" / ".lock").stat().st_mode) == 0o600


def test_the_manifest_says_versions_and_no_path():
    facts = store.manifest()
    assert facts["versions"]["numpy"] == np.__version__
    assert "/" not in str(facts["system"])


def test_streams_are_named_and_independent():
    def draw(*names):
        return stream(*names).integers(0, 2**32, 4).tolist()

    assert draw(0, "split") == draw(0, "split")
    drawn = [draw(0, "split"), draw(1, "split"), draw(0, "poison"), draw(0, "order", 1)]
    assert len({tuple(each) for each in drawn}) == 4


def test_text_that_no_character_stands_for_is_refused(tmp_path):
    odd = np.array([0x41, 0x110000], np.uint32).view("U1")
    np.savez(tmp_path / "a.npz", names=odd)
    with pytest.raises(StoreError, match="text with invalid characters"):
        store.read_arrays(tmp_path / "a.npz")


def test_a_pipe_in_a_files_place_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a")
    for read in (store.read_json, store.read_lines, store.read_arrays, store.sha256_of):
        with pytest.raises(StoreError, match="it is a pipe; expected a file"):
            read(tmp_path / "a")


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    (tmp_path / "a").write_text("[" * 200_000)
    for read in (store.read_json, store.read_lines):
        with pytest.raises(StoreError, match="is not"):
            read(tmp_path / "a")
