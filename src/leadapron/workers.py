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
from typing import Any, BinaryIO, cast

from leadapron.errors import LeadapronError

__all__ = ["BROKEN", "Answers", "Worker", "questions"]

LONGEST_ANSWER = 1_000_000
"""Bytes of the line before the raw ones."""

BROKEN = (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What comes of asking a worker that ended, or that doesn't answer as it should."""

TIME = (signal.SIGALRM, signal.SIGXCPU)


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

    def close(self) -> str:
        """End it.

        Returns:
            How it had ended before, to be read behind its name; "" where it hadn't.
        """
        # What crashes closes its pipes a moment before it can be waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.05)
        code = self.process.poll()
        self.process.kill()
        self.process.wait()
        self._questions.close()
        self._answers.close()
        if code is None or code >= 0:
            return ""
        if -code in TIME:
            return "took too much time"
        if code == -signal.SIGKILL:
            return "was ended by the system, probably since memory ran out"
        return f"crashed ({signal.Signals(-code).name})"

    def forget(self) -> None:
        """After a fork: it is the parent's."""
        self.process.returncode = 0  # not ours to wait for
        self._questions.close()
        self._answers.close()


class Answers:
    """The end of who answers; what is printed meanwhile goes nowhere."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "wb")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def say(self, facts: Mapping[str, Any], raw: bytes = b"") -> None:
        """Answer."""
        self._stream.write(json.dumps(facts).encode() + b"\n" + raw)
        self._stream.flush()


def questions() -> Iterator[tuple[dict[str, Any], int | None, BinaryIO]]:
    """Yield what is asked: the question, the file's descriptor, and where raw bytes are read."""
    # Both for the same socket: a descriptor comes with the byte before the question.
    asked = socket.socket(fileno=os.dup(0))
    with os.fdopen(os.dup(0), "rb") as stream:
        while True:
            word, descriptors, _, _ = socket.recv_fds(asked, 1, 1)
            if not word:
                return
            yield json.loads(stream.readline()), next(iter(descriptors), None), stream
