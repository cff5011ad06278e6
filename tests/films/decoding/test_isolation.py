"""Workers that crash, hang, eat memory or lie cost one film and never the job."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leadapron.confinement import missing
from leadapron.errors import DataError, FilmError, LeadapronError
from leadapron.films import cache
from leadapron.films.cache import Cache, decode
from leadapron.films.decoding import FilmFiles, ask, isolation, read_headers
from leadapron.films.preprocessing import Preprocessing

SMALL = Preprocessing(size=8)

WIDTHS = {
    kind: 20 + i
    for i, kind in enumerate(("exit", "segfault", "hang", "memory", "once", "print", "reach"))
}
"""What a hostile codec does, by the film's width."""

HOSTILE = """
import ctypes, os, socket, sys, time
from leadapron.films.decoding import worker

KINDS, folder, seen = KINDS_BY_WIDTH, FOLDER, []
read = worker.read_picture

def reach():
    yield lambda: open(folder + "/left", "xb")
    yield lambda: open(folder + "/a.png", "ab")
    yield lambda: open(folder + "/a.png", "rb")
    yield lambda: os.unlink(folder + "/a.png")
    yield lambda: os.rename(folder + "/a.png", folder + "/b.png")
    yield lambda: os.chmod(folder + "/a.png", 0)
    yield lambda: os.listdir(folder)
    yield lambda: socket.create_connection(("127.0.0.1", 9))
    yield lambda: os.kill(os.getppid(), 0)
    yield os.fork

def hostile(file, bits):
    film = read(file, bits)
    kind = KINDS.get(film[0].shape[1])
    if kind == "exit":
        os._exit(3)
    if kind == "segfault":
        ctypes.string_at(0)
    while kind == "hang":
        time.sleep(0.01)
    if kind == "memory":
        return bytearray(5 << 30), []
    if kind == "once" and seen:
        os._exit(3)
    if kind == "print":
        print("noise on stdout", flush=True)
        os.write(1, b"noise from a codec\\n")
    for attempt in reach() if kind == "reach" else ():
        try:
            attempt()
        except OSError:
            continue
        os._exit(9)
    seen.append(kind)
    return film

worker.read_picture, worker.GRACE = hostile, -57
worker.main()
"""
"""A worker whose codec does what the film asks for."""

LIAR = """
import sys
from leadapron.workers import Asked
asked = Asked()
asked.say({{"lacking": ""}})
next(iter(asked))
asked._answers.write({answer})
asked._answers.flush()
"""


@pytest.fixture(autouse=True)
def own_workers():
    """No worker is left from another test, nor for one."""
    isolation._close_all()
    yield
    isolation._close_all()


def hostile_code(folder: Path) -> str:
    kinds = {width: kind for kind, width in WIDTHS.items()}
    return HOSTILE.replace("KINDS_BY_WIDTH", repr(kinds)).replace("FOLDER", repr(str(folder)))


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    command = (sys.executable, "-P", "-c", hostile_code(tmp_path))
    monkeypatch.setattr(isolation, "COMMAND", command)


def films(folder: Path, *names: str) -> FilmFiles:
    paths = []
    for i, name in enumerate(names):
        paths.append(str(folder / f"{name}.png"))
        width = WIDTHS.get(name.rstrip("0123456789"), 9)
        Image.fromarray(np.full((9, width), 10 + i, np.uint8)).save(paths[-1])
    return FilmFiles(paths)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone(pid: int, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


linux = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")


@pytest.mark.parametrize("kind", ["exit", "segfault"])
def test_a_crash_costs_one_film(tmp_path, hostile, kind):
    some = films(tmp_path, "a", kind, "b", "c")
    with pytest.raises(DataError, match=rf"^{kind}\.png crashes its decoder; remove the file, or "):
        decode(some, SMALL, Cache(), "films")
    decoded = decode(some, SMALL, Cache(on_bad="skip"), "films")
    assert decoded.bad == {1: f"{kind}.png crashes its decoder"}
    assert decoded.images[[0, 2, 3], 0, 0].tolist() == [10, 12, 13]


def test_a_crash_that_may_be_an_earlier_films_fault_is_tried_again(tmp_path, hostile):
    some = films(tmp_path, "a", "once")
    some[0]
    np.testing.assert_array_equal(some[1], np.full((9, WIDTHS["once"]), 11))


@linux
def test_a_worker_that_is_killed_between_films(tmp_path):
    some = films(tmp_path, "a", "b")
    some[0]
    (worker,) = isolation._idle
    os.kill(worker.process.pid, signal.SIGKILL)
    assert (some[1] == 11).all()
    time.sleep(0.05)
    assert (some[0] == 10).all()
    assert len(isolation._idle) == 1


def test_a_film_that_takes_too_long(tmp_path, hostile, monkeypatch):
    some = films(tmp_path, "a", "hang", "b")
    some[0]  # the start takes longer than the film may
    monkeypatch.setattr(isolation, "SECONDS", 0.6)
    with pytest.raises(DataError, match=r"^hang\.png took more than 0\.6 s to decode$"):
        some[1]
    monkeypatch.setattr(isolation, "SECONDS", 60)
    assert (some[2] == 12).all()


def test_a_film_that_takes_too_much_memory(tmp_path, hostile):
    some = films(tmp_path, "memory", "a")
    with pytest.raises(DataError, match=r"^memory\.png needs more than 4 GB of memory$"):
        some[0]
    assert (some[1] == 11).all()
    assert len(isolation._idle) == 1  # the same worker


def test_an_image_that_takes_too_much_memory(tmp_path):
    Image.fromarray(np.zeros((1, 70_000), np.uint8)).save(tmp_path / "a.png")
    padded = Preprocessing(size=8, aspect="pad")
    with pytest.raises(DataError, match=r"^a\.png needs more than 4 GB of memory$"):
        FilmFiles([str(tmp_path / "a.png")]).image(0, padded)


def test_what_codecs_print_is_not_taken_for_an_answer(tmp_path, hostile):
    some = films(tmp_path, "print", "a")
    assert (some[0] == 10).all()
    assert (some[1] == 11).all()


@pytest.mark.skipif(bool(missing()), reason=f"needs {' and '.join(missing())}")
def test_a_codec_that_a_film_took_over_reaches_nothing(tmp_path, hostile):
    some = films(tmp_path, "a", "reach")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert (some[1] == 11).all()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_missing_is_said_once(tmp_path, monkeypatch, caplog):
    code = """
    from leadapron import confinement
    confinement.confine = lambda memory: ("Landlock", "seccomp")
    from leadapron.films.decoding import worker
    worker.main()
    """
    isolation._say_what_is_missing.cache_clear()
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", textwrap.dedent(code)))
    some = films(tmp_path, "a", "b")
    assert some[0][0, 0] == 10
    isolation._close_all()
    assert some[1][0, 0] == 11
    assert [each.message for each in caplog.records] == [
        "decoders are limited in time and memory only: this system lacks Landlock and "
        "seccomp, which would keep a compromised decoder from files and network"
    ]
    isolation._say_what_is_missing.cache_clear()


def test_a_film_that_is_swapped_is_the_one_that_was_opened(tmp_path, monkeypatch):
    some = films(tmp_path, "a", "b")
    ask = isolation._Worker.ask

    def swapped(self, question, film):
        Path(some.paths[1]).replace(some.paths[0])
        return ask(self, question, film)

    monkeypatch.setattr(isolation._Worker, "ask", swapped)
    assert (some[0] == 10).all()


def test_little_memory_is_an_error(tmp_path, monkeypatch):
    code = "from leadapron.films.decoding import worker; worker.MEMORY = 220 << 20; worker.main()"
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-P", "-c", code))
    Image.fromarray(np.zeros((5500, 5500, 3), np.uint8)).save(tmp_path / "large.png")
    some = FilmFiles([str(tmp_path / "large.png"), *films(tmp_path, "a").paths])
    with pytest.raises(DataError, match=r"^large\.png needs more than 0 GB of memory$"):
        some[0]
    assert (some[1] == 10).all()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (r"b''", "crashes its decoder"),
        (r"b'no json\n'", "crashes its decoder"),
        (r"b'[1]\n'", "crashes its decoder"),
        (r"b'[' * 100_000 + b'\n'", "crashes its decoder"),
        (r"b' ' * 1_100_000 + b'{}\n'", "crashes its decoder"),
        (r"""b'{"shape": 3, "dtype": "uint8"}\n'""", "crashes its decoder"),
        (r"""b'{"shape": [1e999, 1], "dtype": "uint8"}\n'""", "crashes its decoder"),
        (r"""b'{"shape": [-1, -1], "dtype": "uint8"}\n'""", "crashes its decoder"),
        (r"""b'{"shape": [100000, 100000], "dtype": "uint8"}\n'""", "crashes its decoder"),
        (r"""b'{"shape": [2, 2], "dtype": "object"}\nABCD'""", "crashes its decoder"),
        (r"""b'{"shape": [2, 2], "dtype": []}\nABCD'""", "crashes its decoder"),
        (r"""b'{"shape": [2, 2]}\nABCD'""", "crashes its decoder"),
        (r"""b'{"form": []}\n'""", "crashes its decoder"),
        (r"""b'{"shape": [1, 2], "dtype": "uint8"}\nAB'""", "crashes its decoder"),
        (
            r"""b'{"shape": [1, 2], "dtype": "uint8", "form": {"height": 1e999}}\nAB'""",
            "crashes its decoder",
        ),
        (
            r"""b'{"shape": [1, 2], "dtype": "uint8", "form": ["height", "width"]}\nAB'""",
            "crashes its decoder",
        ),
        (r"""b'{"error": "a\\u001b[2Jb"}\n'""", r"a\\x1b\[2Jb"),
        (r"""b'{"error": ["x", {}]}\n'""", r"\['x', \{\}\]"),
    ],
)
def test_a_worker_that_lies(tmp_path, monkeypatch, answer, words):
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", LIAR.format(answer=answer)))
    some = films(tmp_path, "a")
    with pytest.raises(DataError, match=words):
        some[0]


def test_in_which_way_a_film_is_bad(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "folder.png").mkdir()
    kinds = {"torn": "undecodable", "folder": "unreadable", "gone": "missing"}
    for name, kind in kinds.items():
        with pytest.raises(FilmError) as caught:
            FilmFiles([str(tmp_path / f"{name}.png")])[0]
        for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
            assert (type(error), error.kind) == (FilmError, kind)
            assert str(error).startswith(f"{name}.png ")


def test_a_worker_does_not_name_a_kind_of_its_own(tmp_path, monkeypatch):
    answer = r"""b'{"error": "can\'t be read", "kind": ["missing"]}\n'"""
    code = LIAR.format(answer=answer)
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", code))
    with pytest.raises(FilmError, match="can't be read") as caught:
        films(tmp_path, "a")[0]
    assert caught.value.kind == "undecodable"


def test_an_answer_that_never_ends(tmp_path, monkeypatch):
    answer = r"""b'{"shape": [2, 2], "dtype": "uint8"}\nABC'"""
    code = LIAR.format(answer=answer) + "sys.stdin.buffer.readline()"
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(isolation, "SECONDS", 0.5)
    with pytest.raises(DataError, match="took more than"):
        films(tmp_path, "a")[0]


def test_a_worker_that_does_not_start_is_no_bad_film(tmp_path, monkeypatch):
    some = films(tmp_path, "a")
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", "import nothing_like_that"))
    for on_bad in ("stop", "skip"):
        with pytest.raises(
            LeadapronError, match="doesn't start; to see the cause, run python"
        ) as caught:
            decode(some, SMALL, Cache(on_bad=on_bad), "films")
        assert not isinstance(caught.value, DataError)
    monkeypatch.setattr(isolation, "COMMAND", (str(tmp_path / "python"),))
    with pytest.raises(LeadapronError, match="can't start a process that decodes"):
        some[0]


def test_no_module_is_taken_from_the_folder_of_films(tmp_path, monkeypatch):
    some = films(tmp_path, "a")
    for name in ("numpy", "PIL", "json", "leadapron", "pydicom"):
        (tmp_path / f"{name}.py").write_text("open('taken', 'w'); raise SystemExit")
    package = str(Path(isolation.__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", package)
    monkeypatch.chdir(tmp_path)
    assert (some[0] == 10).all()
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize("name", ["folder", "missing", "pipe"])
def test_what_is_no_file(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    with pytest.raises(DataError, match=r"can't be read \((it is a|No such file)") as caught:
        FilmFiles([str(path)])[0]
    assert str(tmp_path) not in str(caught.value)


def test_names_that_are_not_utf8(tmp_path):
    some = films(tmp_path, os.fsdecode(b"f\xfflm"))
    assert (some[0] == 10).all()
    Path(some.paths[0]).write_bytes(b"")
    with pytest.raises(DataError, match="is not a PNG") as caught:
        some[0]
    str(caught.value).encode()  # can be printed


def test_a_question_that_makes_no_sense_is_one_line(tmp_path):
    path = films(tmp_path, "a").paths[0]
    with pytest.raises(DataError, match=r"can't be decoded \(KeyError\)"):
        ask({"do": "header", "path": path})
    with pytest.raises(DataError, match=r"can't be read \(invalid file name"):
        ask({"do": "film", "path": "\0"})


def test_headers_of_what_is_no_dicom(tmp_path):
    some = films(tmp_path, "a", "b")
    headers = list(read_headers([*some.paths, str(tmp_path / "none")], {"salt": "00"}))
    assert [str(header) for header in headers] == [
        "is not a PNG, JPEG or DICOM file", "is not a PNG, JPEG or DICOM file",
        "can't be read (No such file or directory)",
    ]  # fmt: skip


def test_many_threads_get_their_own_films(tmp_path):
    some = films(tmp_path, *(f"f{i}" for i in range(40)))
    found: dict[int, int] = {}

    def read(rows):
        for row in rows:
            found[row] = int(some[row][0, 0])

    threads = [threading.Thread(target=read, args=(range(i, 40, 4),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: 10 + i for i in range(40)}
    assert len(isolation._idle) <= 4


# ---------------------------------------------------------------- parents that end


def start(tmp_path: Path, code: str, *, hostile: bool = False) -> subprocess.Popen:
    """Run code that has `films`, `decode`, `Cache`, `SMALL`, `isolation` at hand."""
    preamble = f"""
    import os, signal, sys, time
    from pathlib import Path
    from leadapron.films.cache import Cache, decode
    from leadapron.films.decoding import FilmFiles, isolation
    from leadapron.films.preprocessing import Preprocessing
    SMALL = Preprocessing(size=8)
    films = FilmFiles([str(p) for p in sorted(Path({str(tmp_path)!r}).glob("*.png"))])
    if {hostile}:
        isolation.COMMAND = (sys.executable, "-P", "-c", {hostile_code(tmp_path)!r})
    def workers():
        return [w.process.pid for w in (*isolation._idle, *isolation._busy)]
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(preamble) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen) -> tuple[str, str]:
    try:
        return process.communicate(timeout=200)
    finally:
        process.kill()  # or what hangs would outlive a test that failed
        process.wait()


@linux
def test_workers_end_with_their_parent(tmp_path):
    films(tmp_path, "a")
    for end in ("", "os.kill(os.getpid(), signal.SIGKILL)"):
        out, err = finished(start(tmp_path, f"films[0]; print(*workers(), flush=True)\n{end}"))
        assert err == ""
        (pid,) = map(int, out.split())
        assert gone(pid)


HANG = """
import threading
threading.Thread(target=films.__getitem__, args=(0,), daemon=True).start()
while not any(w.answered is not None for w in isolation._busy):
    time.sleep(0.01)
time.sleep(0.2)
print(*workers(), flush=True)
"""


@linux
def test_a_film_that_hangs_does_not_outlive_its_parent_for_long(tmp_path):
    films(tmp_path, "hang")
    # Its own alarm rings, here after 3 s; the parent would have waited for 60.
    process = start(tmp_path, f"{HANG}\nos._exit(0)", hostile=True)
    (pid,) = map(int, finished(process)[0].split())
    assert gone(pid, 30)


@linux
def test_ctrl_c_does_not_wait_for_a_film_that_hangs(tmp_path):
    films(tmp_path, "a", "hang", "hang2")
    code = """
    import signal, threading
    # What runs in the background of a shell ignores Ctrl-C, unless it is told otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    def interrupt():
        while sum(w.answered is not None for w in isolation._busy) < 1:
            time.sleep(0.01)
        time.sleep(0.5)
        print(*workers(), flush=True)
        global begin
        begin = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        decode(films, SMALL, Cache(on_bad="skip"), "films")
    except KeyboardInterrupt:
        print(time.monotonic() - begin)
    """
    out, err = finished(start(tmp_path, code, hostile=True))
    assert err == ""
    *pids, seconds = out.split()
    assert float(seconds) < 20
    assert all(gone(int(pid)) for pid in pids)


@linux
def test_after_a_fork_both_decode(tmp_path):
    films(tmp_path, "a", "b")
    code = """
    import warnings
    warnings.simplefilter("error")
    films[0]
    mine = workers()
    child = os.fork()
    if not child:
        assert workers() == []
        ok = films[1][0, 0] == 11 and workers() != mine
        sys.stdout.flush()
        isolation._close_all()
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    assert films[1][0, 0] == 11 and workers() == mine
    print("status", status)
    """
    out, err = finished(start(tmp_path, code))
    assert err == ""
    assert out == "status 0\n"


def test_a_killed_job_goes_on_where_it_was(tmp_path, monkeypatch):
    """Cached blocks survive; what hung is asked for again."""
    monkeypatch.setattr(cache, "BLOCK_FILMS", 2)
    some = films(tmp_path, "a", "b", "c", "d")
    kept = Cache(folder=tmp_path / "kept")
    bad = Path(some.paths[3])
    good = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"d\.png"):
        decode(some, SMALL, kept, "films")
    skipped = decode(some, SMALL, Cache(folder=tmp_path / "kept", on_bad="skip"), "films")
    assert list(skipped.bad) == [3]
    with pytest.raises(DataError, match=r"d\.png"):  # skipped before, and it still stops
        decode(some, SMALL, kept, "films")
    lines = (cache.entries(kept.folder)[0].folder / "blocks.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["bad"] == {"3": "d.png is not a PNG, JPEG or DICOM file"}
    bad.write_bytes(good)
    assert decode(some, SMALL, kept, "films").bad == {}


def test_a_codec_that_is_installed_later_changes_the_key(monkeypatch):
    from leadapron.films.decoding import films as module

    before = FilmFiles(["a.dcm"]).decoder
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert FilmFiles(["a.dcm"]).decoder != before
    assert "pylibjpeg" not in FilmFiles(["a.PNG", "b.jpeg"]).decoder
