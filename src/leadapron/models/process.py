"""A process that runs a model which is a program: TorchScript or ONNX.

It is asked by a line of JSON and raw numbers and answers with the same; nothing that comes back is
unpickled. It has bounded memory and time, can't make a file grow, and sees none of the
environment but what Python needs. It is no sandbox: it may read what its user may read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import LeadapronError, StoreError

__all__ = ["SECONDS", "ModelProcess"]

COMMAND = (sys.executable, "-P", "-B", "-m", "leadapron.models.worker")
SECONDS = 300.0
"""Most time for the start, and for one batch."""
LONGEST_ANSWER = 1_000_000
MOST_OUTPUTS = 10_000
PASSED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT", "VIRTUAL_ENV")

Floats = NDArray[np.float32]


class ModelProcess:
    """One model in a process of its own, which ends with this object.

    Args:
        path: the file; it was checked before.
        kind: "torchscript" or "onnx".

    Raises:
        StoreError: it can't be loaded.
        LeadapronError: the process can't be started.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.name = path.name
        self._lock = threading.Lock()
        # An empty folder: nothing that a model names by a relative path is there.
        self._folder = tempfile.TemporaryDirectory(prefix="leadapron-")
        kept = {name: os.environ[name] for name in PASSED if name in os.environ}
        few = {"OMP_NUM_THREADS": str(os.environ.get("OMP_NUM_THREADS", 2)), "HOME": "/nonexistent"}
        try:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, **few, "PYTHONPATH": _absolute(kept.get("PYTHONPATH", ""))},
                cwd=self._folder.name,
                start_new_session=True,
            )
        except OSError as error:
            self._folder.cleanup()
            raise LeadapronError(f"can't start a process for {path.name}: {error}") from None
        self._end = weakref.finalize(self, _close, self._process, self._folder)
        self.facts = self._ask({"path": str(path.resolve()), "kind": kind}, b"")[0]

    def __call__(self, images: Floats) -> Floats:
        """Return the model's (n, k) float32 answers to (n, c, h, w) float32.

        Raises:
            StoreError: it failed, took too long, or answered something else.
        """
        facts, raw = self._ask({"shape": images.shape}, images.tobytes())
        n, k = facts["shape"]
        return np.frombuffer(raw, np.float32).reshape(n, k).copy()

    def close(self) -> None:
        """End the process."""
        self._end()

    def _ask(self, question: Mapping[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(SECONDS, kill)
        timer.daemon = True
        with self._lock:
            timer.start()
            try:
                facts, answer = self._exchange(question, raw)
            except (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError):
                self.close()
                what = (
                    f"took more than {SECONDS:g} s" if late.is_set() else "crashed, or took more "
                )
                what += "" if late.is_set() else "memory than it may"
                raise StoreError(f"{self.name} {what}; the model was ended") from None
            except BaseException:  # Ctrl-C: the next question must not get this answer
                self.close()
                raise
            finally:
                timer.cancel()
        if "error" in facts:
            raise StoreError(f"{self.name}: {str(facts['error'])[:300]}")
        return facts, answer

    def _exchange(self, question: Mapping[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
        questions = cast("BinaryIO", self._process.stdin)
        answers = cast("BinaryIO", self._process.stdout)
        questions.write(json.dumps(question).encode() + b"\n" + raw)
        questions.flush()
        line = answers.readline(LONGEST_ANSWER)
        if not line.endswith(b"\n"):
            raise EOFError
        facts = json.loads(line)
        if not isinstance(facts, dict):
            raise TypeError
        if "shape" not in facts:
            return facts, b""
        n, k = facts["shape"]
        if n != question["shape"][0] or not (type(k) is int and 0 < k <= MOST_OUTPUTS):
            raise ValueError
        length = 4 * math.prod((n, k))
        answer = answers.read(length)
        if len(answer) != length:
            raise EOFError
        return facts, answer


def _absolute(paths: str) -> str:
    """Search paths that mean the same from another folder."""
    return os.pathsep.join(str(Path(part).resolve()) for part in paths.split(os.pathsep) if part)


def _close(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            cast("BinaryIO", pipe).close()
    folder.cleanup()
