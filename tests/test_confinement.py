"""A confined process tries everything; a free one shows that it would have worked."""

from __future__ import annotations

import errno
import json
import platform
import signal
import subprocess
import sys

import pytest

from leadapron import confinement

pytestmark = pytest.mark.skipif(
    bool(confinement.missing()), reason=f"needs {' and '.join(confinement.missing())}"
)

ATTEMPTS = """
import ctypes, fcntl, json, mmap, os, resource, signal, socket, sys, threading, time
from leadapron import confinement
from leadapron.errors import LeadapronError

how, number_of = sys.argv[1], json.loads(sys.argv[2])
given = os.open("given", os.O_RDONLY)
at_hand = os.open(".", os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)

def call(*arguments):
    if libc.syscall(*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")

def forked():
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)

def mapped(path):
    with open(path, "r+b") as file:
        mmap.mmap(file.fileno(), 0)[:4] = b"gone"

def started():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()

def shared():
    os.close(os.open(f"/dev/shm/leadapron-{os.getpid()}", os.O_CREAT | os.O_RDWR))
    os.unlink(f"/dev/shm/leadapron-{os.getpid()}")

def library():
    if libc.dlopen(b"libutil.so.1", 2) == 0:
        raise OSError(13, "")

TRIES = {
    "read a file": lambda: open("a").read(),
    "read at a folder that is open": lambda: os.open("a", os.O_RDONLY, dir_fd=at_hand),
    "read the environment": lambda: open("/proc/self/environ").read(),
    "read the parent's memory": lambda: open(f"/proc/{os.getppid()}/maps").read(),
    "read users": lambda: open("/etc/passwd").read(),
    "list a folder": lambda: os.listdir("."),
    "hold a path": lambda: os.open("a", os.O_PATH),
    "create": lambda: open("new", "x"),
    "create without a name": lambda: os.open(".", os.O_TMPFILE | os.O_RDWR),
    "create in shared memory": shared,
    "create in memory": lambda: os.memfd_create("m"),
    "truncate": lambda: open("truncated", "w"),
    "truncate by name": lambda: os.truncate("truncated", 1),
    "truncate what is open": lambda: call(number_of["ftruncate"], given, 0),
    "append": lambda: open("a", "a"),
    "map": lambda: mapped("mapped"),
    "open again for writing": lambda: os.open(f"/proc/self/fd/{given}", os.O_RDWR),
    "open again": lambda: os.open(f"/proc/self/fd/{given}", os.O_RDONLY),
    "rename": lambda: os.rename("renamed", "renamed2"),
    "remove": lambda: os.unlink("removed"),
    "link": lambda: os.link("a", "linked"),
    "link by symbol": lambda: os.symlink("a", "symbol"),
    "make a folder": lambda: os.mkdir("folder"),
    "remove a folder": lambda: os.rmdir("empty"),
    "make a pipe by name": lambda: os.mkfifo("fifo"),
    "change rights": lambda: os.chmod("a", 0o777),
    "change rights of what is open": lambda: os.fchmod(given, 0o777),
    "change the owner": lambda: os.chown("a", os.getuid(), os.getgid()),
    "change times": lambda: os.utime("a", (1, 1)),
    "set an attribute": lambda: os.setxattr("a", "user.x", b"1"),
    "lock": lambda: fcntl.flock(given, fcntl.LOCK_EX),
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "socket for packets": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "socket of this machine": lambda: socket.socket(socket.AF_UNIX),
    "socket of the kernel": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "pair of sockets": lambda: socket.socketpair(),
    "fork": forked,
    "spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "clone of now": lambda: call(435, 0, 0),
    "other program": lambda: os.execve("none", ["none"], {}),
    "signal to the parent": lambda: os.kill(os.getppid(), 0),
    "signal to all": lambda: os.killpg(os.getpgid(os.getppid()), 0),
    "signal by a descriptor": lambda: fcntl.fcntl(at_hand, fcntl.F_SETOWN, os.getppid()),
    "signal to a thread of the parent": lambda: call(
        number_of["tgkill"], os.getppid(), os.getppid(), 0),
    "handle of the parent": lambda: os.pidfd_open(os.getppid()),
    "trace": lambda: call(number_of["ptrace"], 99, 0),
    "memory of another": lambda: call(number_of["process_vm_readv"], 0, 0, 0, 0, 0, 0),
    "limits of the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 1),
    "processors of the parent": lambda: os.sched_setaffinity(
        os.getppid(), os.sched_getaffinity(os.getppid())),
    "ring of calls": lambda: call(425, 1, 0),
    "keys": lambda: call(number_of["keyctl"], 99, 0),
    "name space": lambda: call(number_of["unshare"], 0),
    "own program": lambda: call(number_of["bpf"], 99, 0, 0),
    "faults": lambda: call(number_of["userfaultfd"], -1),
    "other root": lambda: os.chroot("none"),
    "control of a process": lambda: call(number_of["prctl"], 23, 0),
    "module that isn't imported": lambda: __import__("wave"),
    "library that isn't loaded": library,
    "limits again": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20,) * 2),
    "more memory than it may": lambda: mmap.mmap(-1, 1 << 31),
    "write to a library": lambda: open(os.__file__, "ab"),
    # What has to work.
    "its own file": lambda: os.pread(given, 4, 0) == b"here" or 1 / 0,
    "its own map": lambda: mmap.mmap(given, 0, prot=mmap.PROT_READ)[:4] == b"here" or 1 / 0,
    "memory": lambda: bytearray(50 << 20),
    "time": lambda: time.sleep(0.001),
    "chance": lambda: os.urandom(4),
    "alarm": lambda: signal.alarm(60),
    "thread": started,
}
waiting = threading.Event()
thread = threading.Thread(target=waiting.wait)
thread.start()
try:
    confinement.confine(1 << 30)
except LeadapronError as error:
    late = str(error)
waiting.set()
thread.join()
while len(os.listdir("/proc/self/task")) > 1:  # the system ends it a moment later
    time.sleep(0.001)
if how == "without Landlock":
    confinement._take_files = lambda readable: False
left = None if how == "free" else confinement.confine(1 << 30, threads=how == "threads")
out = {"late": late, "left": left}
for name, attempt in TRIES.items():
    try:
        attempt()
        out[name] = "done"
    except OSError as error:
        out[name] = error.errno
    except Exception as error:
        out[name] = type(error).__name__
print(json.dumps(out), flush=True)
if how == "alone":
    with confinement.limited_time(0.5):
        while True:
            pass
if how == "threads" and os.uname().machine == "x86_64":
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b814000000 cd80 c3"))  # getpid, called as 32-bit programs do
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    print("32-bit calls pass")
"""

NUMBERS = {
    "ftruncate": (77, 46), "tgkill": (234, 131), "ptrace": (101, 117), "unshare": (272, 97),
    "process_vm_readv": (310, 270), "keyctl": (250, 219), "bpf": (321, 280), "prctl": (157, 167),
    "userfaultfd": (323, 282),
}  # fmt: skip
WORK = (
    "its own file",
    "its own map",
    "memory",
    "time",
    "chance",
    "alarm",
    "module that isn't imported",
    "library that isn't loaded",
)
READING = (
    "read a file", "read at a folder that is open", "read the environment", "read users",
    "read the parent's memory", "list a folder", "open again",
)  # fmt: skip
ELSEWHERE = (
    "ring of calls", "keys", "own program", "faults", "trace", "memory of another", "name space",
    "handle of the parent", "limits of the parent", "read the parent's memory",
)  # fmt: skip
"""What containers and careful systems refuse to everyone."""
REFUSED = (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOMEM, "ValueError")


def tried(folder, how):
    """What came of each attempt, how the process ended, and what became of the folder."""
    folder.mkdir()
    for name in ("a", "truncated", "mapped", "renamed", "removed", "given"):
        (folder / name).write_text("here it was")
    (folder / "empty").mkdir()
    before = state(folder)
    numbers = {name: pair[platform.machine() == "aarch64"] for name, pair in NUMBERS.items()}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ATTEMPTS, how, json.dumps(numbers)],
        capture_output=True, text=True, timeout=60, check=False, cwd=folder,
    )  # fmt: skip
    assert done.stderr == ""
    return json.loads(done.stdout), done.returncode, state(folder) == before


def state(folder):
    files = sorted(folder.rglob("*"))
    return [
        (f, f.lstat().st_mode, f.lstat().st_mtime, f.is_file() and f.read_text()) for f in files
    ]


@pytest.fixture(scope="module", params=["threads", "alone", "without Landlock"])
def confined(request, tmp_path_factory):
    return request.param, *tried(tmp_path_factory.mktemp("tries") / "f", request.param)


def test_a_free_process_can(tmp_path):
    outcomes, ended, _ = tried(tmp_path / "f", "free")
    assert ended == 0
    assert {name for name, what in outcomes.items() if what in REFUSED} <= {*ELSEWHERE}


def test_a_confined_process_can_not(confined):
    how, outcomes, _, untouched = confined
    assert outcomes.pop("late").startswith("a process started threads before its confinement")
    assert outcomes.pop("left") == (["Landlock"] if how == "without Landlock" else [])
    able = {name for name, what in outcomes.items() if what not in REFUSED}
    assert able - ({*READING} if "Land" in how else set()) - {"thread"} == {*WORK}
    assert untouched


def test_how_a_confined_process_ends(confined):
    how, outcomes, ended, _ = confined
    assert (outcomes["thread"] == "done") == (how == "threads")
    if how == "alone":  # its processor time is over
        assert ended in (-signal.SIGXCPU, -signal.SIGALRM)
    elif how == "threads" and platform.machine() == "x86_64":
        assert ended in (-signal.SIGSYS, -signal.SIGSEGV)
    else:
        assert ended == 0


@pytest.mark.parametrize(
    ("what", "value", "lacking"),
    [
        ("sys.platform", "darwin", ("Landlock", "seccomp")),
        ("platform.machine", lambda: "riscv64", ("Landlock", "seccomp")),
        ("_landlock_version", lambda: -1, ("Landlock",)),
        ("_call", lambda *_: -1, ("Landlock", "seccomp")),
    ],
)
def test_what_is_missing_is_named(monkeypatch, what, value, lacking):
    monkeypatch.setattr(f"leadapron.confinement.{what}", value)
    assert confinement.missing() == lacking
