"""A process that runs a model which is a program: TorchScript, ONNX or Keras.

It communicates as in `leadapron.workers`. It is confined (`leadapron.confinement`): it may read the
model and installed code, but not write files or use the network. Its memory and time are limited,
and its environment has only the variables that Python needs.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import StoreError, UsageError
from leadapron.models.parsing.external import External
from leadapron.models.parsing.formats import are_sides
from leadapron.text import clean
from leadapron.workers import BROKEN, TOO_LATE, Worker, environment

__all__ = ["SECONDS", "AnswerError", "Layer", "Limits", "ModelProcess", "ProgramKind"]

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-B", "-m", "leadapron.models.foreign.worker")
SECONDS = 300.0
"""Most seconds for the start, and for one batch."""
MOST_OUTPUTS = 10_000
MOST_WEIGHTS = 1 << 28
"""Most weights of a Keras model that are read (1 GiB)."""
LONGEST_WORDS = 500
CONFUSES = "confuses the process that runs it"

Floats = NDArray[np.float32]
ProgramKind = Literal["torchscript", "onnx", "keras"]


class AnswerError(StoreError):
    """A program that accepted its input but didn't return floats of shape (n, findings)."""


@dataclass(frozen=True)
class Limits:
    """Input properties that a program's header fixes; None if free.

    Args:
        batch: films per batch.
        channels: 1 or 3.
        size: side in pixels.
        last: whether the channels come last.
        half: whether its weights are 16-bit.
        activation: its last layer's, "sigmoid" or "softmax", so that it gives probabilities; None
            if unknown.
        metadata: other facts that it states.
    """

    batch: int | None = None
    channels: int | None = None
    size: int | None = None
    last: bool | None = None
    half: bool = False
    activation: Literal["sigmoid", "softmax"] | None = None
    metadata: Mapping[str, str] | None = None


class ModelProcess:
    """One model in a separate process, which ends with this object.

    Args:
        file: the program, open and already checked.
        name: of the file, for messages.
        kind: "torchscript", "onnx" or "keras".
        sha256: SHA-256, in hex, of the checked bytes; the process runs nothing else.
        others: files that the program needs, open and checked.
        trusted: whether to run it even if the system can't confine it.

    Raises:
        StoreError: it can't be loaded, or changed after the check.
        UsageError: this system can't confine it, and it isn't trusted.
        LeadapronError: the process can't be started.
    """

    def __init__(
        self,
        file: IO[bytes],
        name: str,
        kind: ProgramKind,
        sha256: str,
        *,
        others: Sequence[External] = (),
        trusted: bool = False,
    ) -> None:
        self.name = name
        self.outputs: int | None = None
        """Number of findings if known, which decides between several outputs."""
        self.taken = ""
        """Which of several outputs is returned, in a sentence; "" until it was asked, or of one."""
        self._lock = threading.Lock()
        # An empty folder, so that no relative path in a model exists.
        folder = tempfile.TemporaryDirectory(prefix="leadapron-")
        try:
            threads = os.environ.get("OMP_NUM_THREADS", "2")
            given = environment(OMP_NUM_THREADS=threads, KERAS_BACKEND="torch")
            self._worker = Worker(COMMAND, "runs models", given, folder.name)
        except BaseException:
            folder.cleanup()
            raise
        self._end = weakref.finalize(self, _close, self._worker, folder)
        size = os.fstat(file.fileno()).st_size + sum(one.size for one in others)
        question = {
            "kind": kind, "sha256": sha256, "size": size, "others": len(others),
            "trusted": trusted,
        }  # fmt: skip
        facts = self._ask(question, descriptor=file.fileno(), others=others)[0]
        if "unconfined" in facts:
            self._refuse_unless(trusted, str(facts["unconfined"]))
        try:
            self.limits = _limits(name, facts)
        except StoreError:
            self.close()
            raise

    def __call__(self, images: Floats) -> Floats:
        """Return the model's (n, k) float32 outputs for (n, c, h, w) float32.

        Raises:
            AnswerError: an output of another type or shape.
            StoreError: it failed or took too long.
        """
        facts, answer = self._ask(
            {"shape": images.shape, "outputs": self.outputs}, images.tobytes()
        )
        self.taken = self.taken or clean(str(facts.get("taken", "")))[:LONGEST_WORDS]
        return answer

    def layers(self) -> tuple[Layer, ...]:
        """Return a Keras model's layers and their weights, in its order.

        Raises:
            StoreError: it failed or took too long.
        """
        facts, numbers = self._ask({"layers": True})
        found, start = [], 0
        for name, kind, epsilon, settings, tensors in facts["layers"]:
            held = {}
            for tensor, shape in tensors:
                end = start + math.prod(shape)
                held[clean(tensor)] = numbers[0, start:end].reshape(shape)
                start = end
            known = {str(key): float(value) for key, value in settings.items()}
            found.append(Layer(clean(name), clean(kind), float(epsilon), known, held))
        return tuple(found)

    def close(self) -> None:
        """End the process."""
        self._end()

    def _refuse_unless(self, trusted: bool, lacking: str) -> None:
        if not trusted:
            self.close()
            raise UsageError(
                f"{self.name} is a program, and this system can't protect your files and network "
                "from it "
                f"(it lacks {lacking}); if you trust it like software that you install, "
                "give `trust_programs`, else export its weights as "
                ".safetensors"
            )
        logger.warning(
            "%s runs unconfined and could read your files: this system lacks %s",
            self.name,
            lacking,
        )

    def _ask(
        self,
        question: Mapping[str, Any],
        raw: bytes = b"",
        descriptor: int | None = None,
        others: Sequence[External] = (),
    ) -> tuple[dict[str, Any], Floats]:
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._worker.process.kill()

        timer = threading.Timer(SECONDS, kill)
        timer.daemon = True
        with self._lock:
            timer.start()
            try:
                self._worker.say({**question, "seconds": SECONDS}, raw, descriptor)
                for one in others:
                    self._worker.hear()
                    named = {"name": one.name, "sha256": one.sha256}
                    self._worker.say(named, descriptor=one.stream.fileno())
                facts = self._worker.hear()
                answer = self._numbers(facts, question)
            except BROKEN:
                ended = self._worker.ended()
                self.close()
                if late.is_set() or ended == TOO_LATE:
                    ended = f"took more than {SECONDS:g} s"
                raise StoreError(
                    f"{self.name} {ended or CONFUSES}; the model was stopped"
                ) from None
            except BaseException:  # Ctrl-C: the next question must not get this answer
                self.close()
                raise
            finally:
                timer.cancel()
        for key, kind in (("error", StoreError), ("gives", AnswerError)):
            if key in facts:
                raise kind(f"{self.name} {str(facts[key])[:LONGEST_WORDS]}")
        return facts, answer

    def _weights(self, facts: dict[str, Any]) -> Floats:
        """All weights of a model's layers in a row, after checks of what is said of them."""
        if "error" in facts:
            return np.empty((1, 0), np.float32)
        shapes = []
        for name, kind, epsilon, settings, tensors in facts["layers"]:
            if not (isinstance(name, str) and isinstance(kind, str) and isinstance(settings, dict)):
                raise ValueError
            if not all(type(n) in (int, float) for n in (epsilon, *settings.values())):
                raise ValueError
            for tensor, shape in tensors:
                if not isinstance(tensor, str) or not are_sides(tuple(shape)):
                    raise ValueError
                shapes.append(shape)
        count = sum(math.prod(shape) for shape in shapes)
        if count > MOST_WEIGHTS:
            raise ValueError
        numbers = np.empty((1, count), np.float32)
        self._worker.fill(numbers.data.cast("B"))
        return numbers

    def _numbers(self, facts: dict[str, Any], question: Mapping[str, Any]) -> Floats:
        if "layers" in question:
            return self._weights(facts)
        if "shape" not in facts:
            if "shape" in question and not facts.keys() & {"error", "gives"}:
                raise KeyError
            return np.empty((0, 0), np.float32)
        n, k = facts["shape"]
        if n != question["shape"][0] or not (type(k) is int and 0 < k <= MOST_OUTPUTS):
            raise ValueError
        answer = np.empty((n, k), np.float32)
        self._worker.fill(answer.data.cast("B"))
        return answer


class Layer(NamedTuple):
    """A layer of a Keras model.

    Args:
        name: its name.
        kind: its class.
        epsilon: of batch normalisation; 0 of others.
        settings: scale and offset of a rescaling, if they are one number; empty of others.
        tensors: its weights by their names.
    """

    name: str
    kind: str
    epsilon: float
    settings: Mapping[str, float]
    tensors: Mapping[str, Floats]


def _limits(name: str, facts: Mapping[str, Any]) -> Limits:
    """The limits that the process reports, after checks."""
    sides, last = [facts.get(side) for side in ("batch", "channels", "size")], facts.get("last")
    metadata = facts.get("metadata", {})
    texts = [*metadata, *metadata.values()] if isinstance(metadata, dict) else [None]
    if (
        not all(side is None or type(side) is int for side in sides)
        or not all(isinstance(text, str) for text in texts)
        or not (last is None or type(last) is bool)
    ):
        raise StoreError(f"{name} {CONFUSES}")
    batch, channels, size = sides
    if channels not in (None, 1, 3):
        raise StoreError(f"{name} takes {channels} channels; expected 1 or 3")
    if any(side is not None and side < 1 for side in sides):
        raise StoreError(f"{name} takes inputs of sides {sides}; expected 1 or more")
    activation = facts.get("activation")
    if activation not in (None, "sigmoid", "softmax"):
        raise StoreError(f"{name} {CONFUSES}")
    return Limits(batch, channels, size, last, facts.get("half") is True, activation, metadata)


def _close(worker: Worker, folder: tempfile.TemporaryDirectory[str]) -> None:
    worker.close()
    folder.cleanup()
