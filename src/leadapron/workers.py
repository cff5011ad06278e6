"""Worker processes for untrusted files: both ends of the connection.

A question is a line of JSON, optionally with an open file descriptor, and raw bytes; an answer is
the same without a descriptor. Nothing is unpickled or run, so a worker that a file has compromised
can only send numbers. The descriptor guarantees that the worker reads the file that was opened,
even if its path was replaced.
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
"""Most bytes of the line before the raw bytes."""

BROKEN = (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""Errors from a worker that has ended, or gives an invalid answer."""

TOO_LATE = "took too much time"
NO_MEMORY = "was killed by the system, probably because memory ran out"
OF_TIME = ("SIGALRM", "SIGXCPU")
"""Names of signals, since Windows lacks them."""

PASSED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL")


def environment(**more: str) -> dict[str, str]:
    """Return the environment variables that a worker needs, plus `more`, without secrets."""
    kept = {name: os.environ[name] for name in PASSED if name in os.environ}
    paths = kept.get("PYTHONPATH", "").split(os.pathsep)
    # Absolute search paths, valid from any folder.
    absolute = os.pathsep.join(str(Path(part).resolve()) for part in paths if part)
    # Otherwise numpy would start threads, which escape the confinement.
    alone = {"OPENBLAS_NUM_THREADS": "1", "HOME": "/nonexistent"}
    return {**kept, **alone, "PYTHONPATH": absolute, **more}


def how_it_ended(code: int | None) -> str:
    """Return how a process ended, worded to follow its name; "" if normally.

    Args:
        code: its exit code, as in `subprocess`; None while it runs.
    """
    if code is None or code >= 0:
        return ""
    known = {each.value: each.name for each in signal.Signals}  # some real-time ones are missing
    name = known.get(-code, f"signal {-code}")
    if name in OF_TIME:
        return TOO_LATE
    return NO_MEMORY if name == "SIGKILL" else f"crashed ({name})"


class Worker:
    """The parent's end of a worker.

    Args:
        command: the command to start.
        does: description that follows "a process that", for messages.
        env: its environment.
        folder: its working directory.

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
                    # Ctrl-C should reach only the parent; the worker ends when its socket is
                    # closed.
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
        """Send a question; one of `BROKEN` is raised if the worker has ended."""
        socket.send_fds(self._questions, [b"?"], [] if descriptor is None else [descriptor])
        self._questions.sendall(json.dumps(question).encode() + b"\n")
        self._questions.sendall(raw)

    def hear(self) -> dict[str, Any]:
        """Return the line of an answer; one of `BROKEN` is raised if there is none."""
        line = self._answers.readline(LONGEST_ANSWER)
        if not line.endswith(b"\n"):
            raise EOFError
        facts = json.loads(line)
        if not isinstance(facts, dict):
            raise TypeError
        return facts

    def fill(self, view: memoryview) -> None:
        """Receive raw bytes until the view is full; EOFError if there are fewer."""
        filled = 0
        while filled < len(view):
            got = self._answers.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError
            filled += got

    @property
    def alive(self) -> bool:
        """Return whether it is running."""
        return self.process.poll() is None

    def ended(self) -> str:
        """Return how it ended, worded to follow its name; "" if normally."""
        # A crashed process closes its pipes shortly before it can be waited for.
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
        """After a fork, leave the worker to the parent."""
        self.process.returncode = 0  # the parent waits for it
        self._questions.close()
        self._answers.close()


class Asked:
    """The worker's end; create it before confinement. Printed output is discarded."""

    def __init__(self) -> None:
        # Both use the same socket: a descriptor comes with the byte before the question.
        self._socket = socket.socket(fileno=os.dup(0))
        self._questions = os.fdopen(os.dup(0), "rb")
        self._answers = os.fdopen(os.dup(1), "wb")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield questions, each with the file's descriptor or -1."""
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
