"""What lies on disk."""

from __future__ import annotations

import errno
import subprocess
import sys

import numpy as np
import pytest

from leadapron import store
from leadapron.errors import StoreError
from leadapron.seeds import stream
from leadapron.store import Row


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


def test_rows_come_back_and_undefined_is_null(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        Row(run="a", role="twin", stage="attack", metric="auroc", value=0.5, low=0.4, high=0.6),
        Row(run="a", role="twin", stage="attack", metric="auroc", value=float("nan")),
    ]
    store.write_rows(path, rows)
    first, second = store.read_rows(path)
    assert first == rows[0]
    assert second.value is None
    assert '"value": null' in path.read_text()


def test_rows_of_another_schema_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"schema": 2}\n')
    with pytest.raises(StoreError, match="schema 1"):
        store.read_rows(path)


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
