"""A process of one's own that answers questions about files of others, and both its ends.

A question is a line of JSON, with the file's open descriptor where there is one, and raw bytes; an
answer is the same without descriptor. Nothing is unpickled or run, so even a worker that a file has
taken over can only send numbers. The file is the one that was opened, whatever its path has become.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from leadapron.errors import LeadapronError

__all__ = [
    "BROKEN",
    "NO_MEMORY",
    "TOO_LATE",
    "Asked",
    "Worker",
    "environment",
    "how_it_ended",
]

LONGEST_ANSWER = 1_000_000
"""Bytes of the line before the raw ones."""

BROKEN = (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What comes of asking a worker that ended, or that doesn't answer as it should."""

TOO_LATE = "took too much time"
NO_MEMORY = "was ended by the system, probably since memory ran out"
OF_TIME = ("SIGALRM", "SIGXCPU")
"""Signals by name, since Windows has none of them."""

PASSED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL")


def environment(**more: str) -> dict[str, str]:
    """Return what a worker needs of the environment, and more; secrets stay here."""
    kept = {name: os.environ[name] for name in PASSED if name in os.environ}
    paths = kept.get("PYTHONPATH", "").split(os.pathsep)
    # Search paths that mean the same from another folder.
    absolute = os.pathsep.join(str(Path(part).resolve()) for part in paths if part)
    # Or numpy would start threads, which would stay free when the worker is confined.
    alone = {"OPENBLAS_NUM_THREADS": "1", "HOME": "/nonexistent"}
    return {**kept, **alone, "PYTHONPATH": absolute, **more}


def how_it_ended(code: int | None) -> str:
    """Return how a process ended, to be read behind its name; "" where nothing is to be said.

    Args:
        code: its exit code, as `subprocess` has it; None while it runs.
    """
    if code is None or code >= 0:
        return ""
    known = {each.value: each.name for each in signal.Signals}  # not all of the real-time ones
    name = known.get(-code, f"signal {-code}")
    if name in OF_TIME:
        return TOO_LATE
    return NO_MEMORY if name == "SIGKILL" else f"crashed ({name})"


class Worker:
    """The end of who asks.

    Args:
        command: what to start.
        does: to be read behind "a process that".
        env: its environment.
        folder: where it starts.

    Raises:
        LeadapronError: it can't be started.
    """

    def __init__(
        self, command: Sequence[str], does: str, env: Mapping[str, str], folder: str | None = None
    ) -> None:
        self._questions, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=env,
                    cwd=folder,
                    # Ctrl-C is for us; the worker goes when we close its socket.
                    start_new_session=True,
                )
            except OSError as error:
                self._questions.close()
                raise LeadapronError(
                    f"can't start a process that {does}: {error.strerror}"
                ) from None
        self._answers = cast("BinaryIO", self.process.stdout)

    def say(
        self, question: Mapping[str, Any], raw: bytes = b"", descriptor: int | None = None
    ) -> None:
        """Ask; one of `BROKEN` is raised where it has ended."""
        socket.send_fds(self._questions, [b"?"], [] if descriptor is None else [descriptor])
        self._questions.sendall(json.dumps(question).encode() + b"\n")
        self._questions.sendall(raw)

    def hear(self) -> dict[str, Any]:
        """Return the line of an answer; one of `BROKEN` is raised where there is none."""
        line = self._answers.readline(LONGEST_ANSWER)
        if not line.endswith(b"\n"):
            raise EOFError
        facts = json.loads(line)
        if not isinstance(facts, dict):
            raise TypeError
        return facts

    def fill(self, view: memoryview) -> None:
        """Take as many raw bytes as there is room for; EOFError where there are fewer."""
        filled = 0
        while filled < len(view):
            got = self._answers.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError
            filled += got

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def ended(self) -> str:
        """Return how it ended, to be read behind its name; "" where nothing is to be said."""
        # What crashes closes its pipes a moment before it can be waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.1)
        return how_it_ended(self.process.poll())

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._questions.close()
        self._answers.close()

    def forget(self) -> None:
        """After a fork: it is the parent's."""
        self.process.returncode = 0  # not ours to wait for
        self._questions.close()
        self._answers.close()


class Asked:
    """The end of who answers; to be made before confinement. What is printed goes nowhere."""

    def __init__(self) -> None:
        # Both for the same socket: a descriptor comes with the byte before the question.
        self._socket = socket.socket(fileno=os.dup(0))
        self._questions = os.fdopen(os.dup(0), "rb")
        self._answers = os.fdopen(os.dup(1), "wb")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield what is asked, and the file's descriptor; -1 where there is none."""
        while True:
            word, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
            if not word:
                return
            yield json.loads(self._questions.readline()), next(iter(descriptors), -1)

    def read(self, length: int) -> bytes:
        """Return raw bytes of the question."""
        return self._questions.read(length)

    def say(self, facts: Mapping[str, Any], raw: bytes = b"") -> None:
        """Answer."""
        self._answers.write(json.dumps(facts).encode() + b"\n" + raw)
        self._answers.flush()
