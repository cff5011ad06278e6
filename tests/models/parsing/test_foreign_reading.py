"""A file and the process that parses it: what comes over, and what becomes of hostile ones."""

import hashlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from leadapron.errors import LeadapronError, StoreError
from leadapron.models.parsing import formats, reading
from leadapron.models.parsing.reading import open_file, open_weights

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the process forks")


def read(path, key=""):
    with open_file(path) as file, open_weights(file) as weights:
        return weights.take(weights.groups[key])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0, 3)}, path)
    return path


def archive(path, pickled, **more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", pickled)
        for name, content in more.items():
            file.writestr(f"m/{name}", content)
    return path


def test_tensors_come_over(path):
    with open_file(path) as file, open_weights(file) as weights:
        assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        one = weights.groups[""]["a"]
        assert (one.dtype, one.shape, one.strides, one.span) == ("float32", (2, 3), (3, 1), 6)
        for _ in range(2):  # as often as they are asked for, in any order
            taken = weights.take({"x": one, "b": weights.groups[""]["b"]})
            assert torch.equal(taken["x"], torch.arange(6.0).reshape(2, 3))
            assert taken["b"].shape == (0, 3)
            taken["x"].add_(1)  # it is the caller's own


def test_large_tensors_come_over_whole(tmp_path):
    large = {"a": torch.randn(1000, 1000).T, "b": torch.randn(300_000)}
    save_file({name: value.contiguous() for name, value in large.items()}, tmp_path / "a")
    torch.save(large, tmp_path / "b")
    for name in ("a", "b"):
        taken = read(tmp_path / name)
        assert all(torch.equal(taken[key], value) for key, value in large.items())
        assert all(value.is_contiguous() for value in taken.values())


def test_one_process_serves_many_files(path, monkeypatch):
    read(path)
    monkeypatch.setattr(reading, "_Server", None)  # none is started
    for _ in range(3):
        read(path)
    with pytest.raises(StoreError, match="broken or truncated"):
        read(archive(path.with_name("b.pt"), b"\x80\x02}"))
    read(path)


def test_files_may_be_open_at_once(path):
    with open_file(path) as file, open_weights(file) as weights:
        assert torch.equal(read(path)["a"], weights.take(weights.groups[""])["a"])
    found = []
    threads = [threading.Thread(target=lambda: found.append(read(path)["a"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4


def test_a_fork_has_a_process_of_its_own(path):
    read(path)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if read(path)["a"].shape == (2, 3) and len(reading._idle) == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    read(path)


BOMBS = {
    "hashes": (
        b"\x80\x02}X\x01\0\0\0a\x85" + b"q\x01h\x01\x86" * 60 + b"K\x01s.",
        "a key that is a tuple",
        10,
    ),
    "a tuple as deep as the sea": (
        b"\x80\x02})" + b"\x85" * 500_000 + b"K\x01s.", "a key that is a tuple", 30
    ),
    "a memo without end": (
        b"\x80\x04N" + b"\x94" * (1 << 20) + b".", "more than 1,000,000 steps|needs more than", 30
    ),
    "a text that swells": (  # in memory each letter takes 4 bytes, because of the last
        b"\x80\x02X" + struct.pack("<I", 15_000_004) + b"a" * 15_000_000
        + "\U0001f980".encode() + b".",
        "needs more than 64 MB",
        30,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_harm_their_reader_alone(tmp_path, monkeypatch, case):
    pickled, words, seconds = BOMBS[case]
    monkeypatch.setattr(reading, "SECONDS", seconds)
    monkeypatch.setattr(reading, "MEMORY", 64 << 20)
    bomb = archive(tmp_path / "bomb.pt", pickled)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(StoreError, match=words):
        read(bomb)
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_what_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SECONDS", 1)
    path = tmp_path / "slow.pth"
    long = b"\x80\x02" + b"N0" * 490_000 + b"N."
    path.write_bytes(pickle.dumps(formats.MAGIC, 2) + long * 4)
    with pytest.raises(StoreError, match="took more than 1 s to read"):
        read(path)


def test_a_header_without_end(tmp_path):
    path = tmp_path / "many.safetensors"
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"tensor {i}": one for i in range(200_000)}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(StoreError, match=r"200,000 tensors|a header of [\d,]+ bytes"):
        read(path)


def test_absurd_shapes_take_no_room(tmp_path):
    path = tmp_path / "wide.pt"
    torch.save({"a": torch.zeros(1).expand(1 << 40), "b": torch.zeros(2)}, path)
    with open_file(path) as file, open_weights(file) as weights:
        assert weights.groups[""]["a"].shape == (1 << 40,)
        assert weights.groups[""]["a"].span == 1
        assert weights.take({"b": weights.groups[""]["b"]})["b"].shape == (2,)


def test_names_are_cleaned_where_they_enter(tmp_path):
    path = tmp_path / "a\x1b[31m.pt"
    torch.save({"x\x1b]0;y\x07": {"a\nCLEAN": torch.zeros(1)}, "classes": ["A\u202e", "B"]}, path)
    with open_file(path) as file, open_weights(file) as weights:
        assert weights.name == "a\\x1b[31m.pt"
        assert list(weights.groups) == ["x\\x1b]0;y\\x07"]
        assert list(weights.groups["x\\x1b]0;y\\x07"]) == ["a\\nCLEAN"]
        assert weights.findings == ("A\\u202e", "B")
    torch.save({"a": torch.zeros(1), "classes": ["A\u202e", "A\\u202e"]}, path)
    with pytest.raises(StoreError, match="two different names are both shown as"):
        read(path)


def test_a_file_that_changes_is_refused(path):
    with open_file(path) as file:
        with path.open("ab") as more:
            more.write(b"more")
        with pytest.raises(StoreError, match="was changed while it was read"), open_weights(file):
            pass
    torch.save(torch.zeros(100_000), path)
    with open_file(path) as file:
        os.truncate(path, 200_000)
        with pytest.raises(StoreError, match="was changed while it was read"), open_weights(file):
            pass


def test_another_file_put_in_its_place_is_not_read(path, tmp_path):
    torch.save({"a": torch.ones(9)}, tmp_path / "other.pt")
    with open_file(path) as file:
        expected = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "other.pt").rename(path)
        with open_weights(file) as weights:
            assert weights.sha256 == expected
            assert weights.groups[""]["a"].shape == (2, 3)


def test_what_is_said_is_checked(path, monkeypatch):
    """A process that a file has taken over can state other weights, and no more."""
    outline = ["a", "float32", [2], [1]]
    sound = {"program": False, "findings": [], "tasks": False, "metadata": {}, "modules": [],
             "groups": [["", [outline]]]}  # fmt: skip

    def answering(*lines):
        class Lying:
            alive = False

            def converse(self):
                ours, theirs = socket.socketpair()

                def talk():
                    with theirs, theirs.makefile("rb") as asked, suppress(OSError):
                        asked.read(json.loads(asked.readline())["size"])
                        theirs.sendall(b"".join(lines))
                        asked.readline()

                threading.Thread(target=talk).start()
                return ours

            def ended(self):
                return 0

            def kill(self):
                pass

        monkeypatch.setattr(reading, "_Server", Lying)
        monkeypatch.setattr(reading, "_idle", [])

    answering(json.dumps(sound).encode() + b"\n", struct.pack("<2f", 1, 2))
    assert read(path)["a"].tolist() == [1, 2]
    lies = [
        b"no JSON\n",
        b"[" * 100_000 + b"\n",
        b"[]\n",
        b'{"groups": 3}\n',
        *(
            json.dumps({**sound, **lie}).encode() + b"\n"
            for lie in (
                {"groups": [["", [["a", "float32", [1 << 47], [1]]]]]},
                {"groups": [["", [["a", "float32", [2], [1 << 60]]]]]},
                {"groups": [["", [["a", "float32", [2], [-1]]]]]},
                {"groups": [["", [["a", "float32", [2], []]]]]},
                {"groups": [["", [["a", "load", [2], [1]]]]]},
                {"groups": [["", [[3, "float32", [2], [1]]]]]},
                {"groups": [["", [[str(i), "float32", [2], [1]] for i in range(20_001)]]]},
                {"findings": [3]},
                {"metadata": {"a": 3}},
                {"metadata": [1]},
                {"modules": [["", [[3, "a.B", {}, False]]]]},
                {"modules": [["", [["", 3, {}, False]]]]},
                {"modules": [["", [["", "a.B", {"stride": [[2]]}, False]]]]},
                {"modules": [["", [["", "a.B", {"stride": None}, False]]]]},
                {"modules": [["", [["", "a.B", [], False]]]]},
            )
        ),
    ]
    for lie in lies:
        answering(lie)
        with pytest.raises(StoreError, match="confuses the process that reads it"):
            read(path)
    answering(json.dumps(sound).encode() + b"\n", b"1234")  # half of the numbers
    with pytest.raises(StoreError, match="crashes the process that reads it"):
        read(path)
    answering(b"a" * (33 << 20))
    with pytest.raises(StoreError, match="confuses the process that reads it"):
        read(path)


def test_a_server_that_hangs_is_ended(path, monkeypatch):
    read(path)
    server = reading._idle[-1]
    monkeypatch.setattr(reading, "SECONDS", 0)
    monkeypatch.setattr(reading, "GRACE", 0.3)
    os.kill(server._process.pid, signal.SIGSTOP)
    with pytest.raises(StoreError, match="took more than 0 s to read"):
        read(path)
    assert server not in reading._idle
    assert server._process.returncode == -signal.SIGKILL


def test_a_server_that_died_is_started_again(path):
    read(path)
    server = reading._idle[-1]
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    read(path)


def test_a_server_that_does_not_start(path, monkeypatch):
    monkeypatch.setattr(reading, "_idle", [])
    monkeypatch.setattr(reading, "COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(LeadapronError, match="doesn't start; to see the cause, run -c"):
        read(path)
    monkeypatch.setattr(reading, "COMMAND", ("/nowhere/python",))
    with pytest.raises(LeadapronError, match="can't start a process that reads model files: No"):
        read(path)


def test_no_process_is_left(path):
    program = (
        "from pathlib import Path; import sys; from leadapron.models.parsing import reading\n"
        "with reading.open_file(Path(sys.argv[1])) as f, reading.open_weights(f) as w: pass\n"
        "print(reading._idle[0]._process.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    assert "torch" not in done.stderr


def test_the_server_needs_no_torch():
    program = "import leadapron.models.parsing.server, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
def test_what_parses_is_confined(path):
    """Seen from outside: the fork that has a file runs under a filter and without new rights."""
    with open_file(path) as file, open_weights(file) as weights:
        server = weights._conversation._server._process.pid
        (child,) = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        lines = Path(f"/proc/{child}/status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert facts["Seccomp"] == "2"
    assert facts["NoNewPrivs"] == "1"
