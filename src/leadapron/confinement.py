"""Confinement of a process that parses hostile files: it keeps only its open descriptors.

On Linux, Landlock removes access to the file system, and seccomp blocks every system call but those
in `CALLS`: no file can be opened for writing, created, renamed or given other permissions, and
there are no sockets, other processes, signals to them, or tracing. Open descriptors stay usable.
Only installed code can still be opened for reading, since libraries load modules lazily.

On other systems only the limits of `resource` apply, and `missing` reports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import resource
import signal
import stat
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from leadapron.errors import LeadapronError

__all__ = ["confine", "limited_time", "missing"]

ANY = -1
"""Number of a system call that a machine lacks."""


class Machine(NamedTuple):
    """The kernel's identifier of a processor, and its numbers of `prctl` and other calls."""

    column: int
    audit: int
    seccomp: int
    capset: int


MACHINES = {
    "x86_64": Machine(0, 0xC000003E, 317, 126),
    "aarch64": Machine(1, 0xC00000B7, 277, 91),
}

CALLS: dict[str, tuple[int, int]] = {
    # Descriptors; Landlock and OPENINGS restrict opening.
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "close": (3, 57), "lseek": (8, 62), "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, ANY),
    "lstat": (6, ANY), "statx": (332, 291), "access": (21, ANY), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, ANY), "readlinkat": (267, 78), "getcwd": (79, 17),
    "getdents64": (217, 61), "dup": (32, 23), "dup2": (33, ANY), "dup3": (292, 24),
    "poll": (7, ANY), "ppoll": (271, 73), "select": (23, ANY), "pselect6": (270, 72),
    "fadvise64": (221, 223), "recvmsg": (47, 212),
    # Memory and threads.
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233), "membarrier": (324, 283), "futex": (202, 98),
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    # Information about the process itself, and time.
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getrusage": (98, 165),
    "getrlimit": (97, 163), "sysinfo": (99, 179), "uname": (63, 160), "times": (100, 153),
    "time": (201, ANY), "gettimeofday": (96, 169), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "getrandom": (318, 278),
    # The process's own signals, and its exit.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "alarm": (37, ANY),
    "setitimer": (38, 103), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
"""System calls allowed with any arguments: their numbers on x86_64 and aarch64."""

READ_ONLY = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000 | 0o10000000
"""Forbidden flags of opening: writing, O_CREAT, O_TRUNC, O_APPEND, O_TMPFILE, O_PATH."""
NEW_THREAD, NEW_NAMESPACES = 0x00010000, 0x7E020000

OPENINGS = {"open": (2, ANY, 1), "openat": (257, 56, 2)}
"""Numbers, and the index of the flags' argument."""
OF_ITSELF = {"tgkill": (234, 131), "prlimit64": (302, 261)}
"""Calls whose first argument must be this process's id or 0."""
CHOSEN: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "fcntl": (72, 25, 1, (0, 1, 2, 3, 4, 1030)),  # duplicates and flags; not F_SETOWN: it signals
    "ioctl": (16, 29, 1, (0x5401, 0x5421, 0x5450, 0x5451)),  # is it a terminal; close on exec
    "prctl": (157, 167, 0, (15, 16, 0x53564D41)),  # names of threads and of memory
}
"""Numbers, the index of the command's argument, and the allowed commands."""
CLONE = (56, 220)

ENOSYS = 38
"""Error of every other call, after which libraries try an older call."""
KILL, FAIL, ALLOW = 0x80000000, 0x00050000 | ENOSYS, 0x7FFF0000
LOAD, IF_EQUAL, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets of these fields in a filter's input; the low halves come first and suffice here."""

FILTER, ALL_THREADS, KNOWS = 1, 1, 2
NO_NEW_PRIVILEGES = 38
CAPABILITIES = 0x20080522
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
BENEATH, READ_FILE, READ_FOLDER = 1, 1 << 2, 1 << 3
FILE_RIGHTS = (0, 13, 14, 15, 15, 16)
"""Number of kinds of file access that Landlock handles, by version; the last for all later ones."""

SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
)
"""Shared libraries, and the files that they read to detect the processor."""

FILES = 64
"""Most descriptors of a confined process."""

Instruction = tuple[int, int, int, int]


def missing() -> tuple[str, ...]:
    """Return the mechanisms that this system lacks for confinement; empty if none.

    Returns:
        Names: "Landlock", "seccomp".
    """
    machine = _machine()
    if machine is None:
        return ("Landlock", "seccomp")
    action = ctypes.c_uint32(KILL)
    lacks = {
        "Landlock": _landlock_version() < 1,
        "seccomp": _call(machine.seccomp, KNOWS, 0, ctypes.byref(action)) != 0,
    }
    return tuple(name for name, lacking in lacks.items() if lacking)


def confine(memory: int, *, code: Iterable[str] = (), threads: bool = False) -> tuple[str, ...]:
    """Irreversibly remove all rights of this process that reading its open files doesn't need.

    The process must have one thread. Afterwards installed code can be imported, and nothing else
    can be read.

    Args:
        memory: most bytes of address space.
        code: folders of importable code that pip didn't install.
        threads: whether it may start threads.

    Returns:
        The missing mechanisms, as in `missing`; empty if complete.

    Raises:
        LeadapronError: there are other threads, which would stay unconfined.
    """
    machine = _machine()
    if machine is not None and len(list(Path("/proc/self/task").iterdir())) > 1:
        raise LeadapronError("a process started threads before its confinement")
    _limit(memory, threads)
    if machine is None:
        return missing()
    _libc().prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    steps: dict[str, Callable[[], bool]] = {
        "Landlock": lambda: _take_files({*_installed(), *code}),
        "seccomp": lambda: _take_privileges(machine) and _take_calls(machine, threads),
    }
    return tuple(name for name, done in steps.items() if not done())


@contextlib.contextmanager
def limited_time(seconds: float, processors: int = 1) -> Iterator[None]:
    """Have the system end this process if a piece of work takes longer.

    The parent may have died, so it can't enforce the limit. A limit for the whole process would
    eventually end it during legitimate work.

    Args:
        seconds: wall-clock seconds.
        processors: number of processors in use.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds * processors)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    signal.alarm(math.ceil(seconds))
    try:
        yield
    finally:
        signal.alarm(0)


def _limit(memory: int, threads: bool) -> None:
    """Limit memory, descriptors and processes; forbid growing files and core dumps."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: FILES,
    }
    # On Linux the limit counts all threads of the user; there seccomp forbids processes.
    if not (threads and sys.platform == "linux"):
        limits[resource.RLIMIT_NPROC] = 0
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS has some and enforces fewer
            resource.setrlimit(what, (lower, lower))


def _machine() -> Machine | None:
    """This machine, if its system calls are known."""
    narrow = ctypes.sizeof(ctypes.c_void_p) != 8
    if sys.platform != "linux" or narrow or sys.byteorder != "little":
        return None
    return MACHINES.get(platform.machine())


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    whole = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_libc().syscall(ctypes.c_long(number), *whole))


def _landlock_version() -> int:
    return _call(CREATE_RULESET, None, 0, 1)


def _take_files(readable: Iterable[str]) -> bool:
    """Landlock: only `readable` can be opened; no ports, no signals to other processes."""
    version = _landlock_version()
    if version < 1:
        return False
    kinds = FILE_RIGHTS[min(version, len(FILE_RIGHTS) - 1)]
    ports, scopes = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    rules = struct.pack("=QQQ", (1 << kinds) - 1, ports, scopes)
    held = _call(CREATE_RULESET, rules, len(rules), 0)
    if held < 0:
        return False
    try:
        for path in readable:
            _let_read(held, path)
        return _call(RESTRICT_SELF, held, 0) == 0
    finally:
        os.close(held)


def _installed() -> set[str]:
    """Folders of code: the standard library, what pip installs, this package, the system's."""
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *SYSTEM}
    paths |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    # A Python outside the system has its shared libraries next to the standard library.
    paths |= {str(Path(__file__).parent), str(Path(sysconfig.get_path("stdlib")).parent)}
    return paths


def _let_read(held: int, path: str) -> None:
    with contextlib.suppress(OSError):  # not there
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        folder = stat.S_ISDIR(os.fstat(place).st_mode)
        rule = struct.pack("=Qi", READ_FILE | (READ_FOLDER if folder else 0), place)
        _call(ADD_RULE, held, BENEATH, rule, 0)
        os.close(place)


def _take_privileges(machine: Machine) -> bool:
    """Drop capabilities, so that limits and permissions apply to root too."""
    header = struct.pack("=Ii", CAPABILITIES, 0)
    return _call(machine.capset, header, bytes(24)) == 0


def _take_calls(machine: Machine, threads: bool) -> bool:
    program = b"".join(struct.pack("=HBBI", *each) for each in _filter(machine, threads))
    kept = ctypes.create_string_buffer(program, len(program))
    filtered = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    return _call(machine.seccomp, FILTER, ALL_THREADS, filtered) == 0


def _filter(machine: Machine, threads: bool) -> Iterator[Instruction]:
    """The filter's instructions; those of each call end in a decision."""
    yield LOAD, 0, 0, ARCHITECTURE
    yield IF_EQUAL, 1, 0, machine.audit
    yield RETURN, 0, 0, KILL
    yield LOAD, 0, 0, NUMBER
    own = os.getpid()
    blocks: list[tuple[int, list[Instruction]]] = [
        *((numbers[machine.column], []) for numbers in CALLS.values()),
        *((each[machine.column], _without(each[2], READ_ONLY)) for each in OPENINGS.values()),
        *((each[machine.column], _among(0, (0, own))) for each in OF_ITSELF.values()),
        *((each[:2][machine.column], _among(*each[2:])) for each in CHOSEN.values()),
    ]
    if threads:
        a_thread = [(LOAD, 0, 0, ARGUMENTS), (IF_ANY_BIT, 1, 0, NEW_THREAD), (RETURN, 0, 0, FAIL)]
        blocks.append((CLONE[machine.column], [*a_thread, *_without(0, NEW_NAMESPACES)]))
    for number, conditions in blocks:
        if number != ANY:
            yield IF_EQUAL, 0, len(conditions) + 1, number
            yield from conditions
            yield RETURN, 0, 0, ALLOW
    yield RETURN, 0, 0, FAIL


def _without(argument: int, bits: int) -> list[Instruction]:
    """Deny if the argument has one of the bits."""
    return [
        (LOAD, 0, 0, ARGUMENTS + 8 * argument),
        (IF_ANY_BIT, 0, 1, bits),
        (RETURN, 0, 0, FAIL),
    ]


def _among(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """Deny unless the argument is one of the values."""
    last = len(values) - 1
    tests = [(IF_EQUAL, last - i + 1, 0, value) for i, value in enumerate(values)]
    return [(LOAD, 0, 0, ARGUMENTS + 8 * argument), *tests, (RETURN, 0, 0, FAIL)]
