"""A model file, opened once: its bytes are hashed here and parsed in a confined process.

The process answers over a socket with JSON and raw values, all of which are checked, so that a file
that compromises it can only present other weights. Names, types and shapes come first. Values
follow for the requested tensors, so that no memory is allocated before a shape was compared with a
network's.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from leadapron.errors import LeadapronError, StoreError
from leadapron.models.parsing import formats
from leadapron.models.parsing.formats import Module, Setting
from leadapron.models.parsing.scan import ALLOWANCE, RATIO
from leadapron.reading import open_regular
from leadapron.text import clean, clean_names
from leadapron.workers import NO_MEMORY, TOO_LATE, environment, how_it_ended

if TYPE_CHECKING:
    import torch

__all__ = ["EXPECTED", "File", "Group", "Kind", "Outline", "Weights", "open_file", "open_weights"]

Kind = Literal["safetensors", "archive", "pickle", "onnx", "keras"]

EXPECTED = formats.EXPECTED
LARGEST_FILE = 4 << 30
SECONDS = 30
"""Most seconds for parsing a file, and for sending its values."""
MEMORY = 1 << 30
"""Bytes of address space of the parsing process, in addition to three times the file's size."""
GRACE = 5
"""Seconds beyond the limit after which the parent kills a parsing process."""
START = 60
"""Seconds that the process may take to start on a busy machine."""
LONGEST_ANSWER = 32 << 20
LONGEST_WORDS = 1000
BLOCK = 1 << 20

# -P: otherwise Python imports from the working directory, which may be the folder of models.
COMMAND = (sys.executable, "-P", "-m", "leadapron.models.parsing.server")
READY = b"ready\n"

PGP = (b"-----BEGIN PGP", b"\x85\x01\x0c\x03", b"\x85\x02\x0c\x03", b"\x8c\x0d\x04")
"""As text, and as bytes: a key of 2,048 or 4,096 bits, or a password."""

OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (0, b"BZh", "compressed by bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (0, b"7z\xbc\xaf", "compressed by 7-Zip; unpack it first"),
    (0, b"Rar!", "compressed by RAR; unpack it first"),
    (0, b"Salted__", "encrypted by OpenSSL; decrypt it first"),
    *((0, mark, "encrypted by PGP; decrypt it first") for mark in PGP),
    (0, b"age-encryption.org", "encrypted by age; decrypt it first"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
    (0, b"<", "a web page; fetch the file itself"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (257, b"ustar", "a tar archive; unpack it first"),
)
"""Files that are often mistaken for weights: offset of the mark, the mark, and the kind."""


@dataclass(frozen=True)
class File:
    """An open model file.

    Args:
        path: path at which it was opened.
        name: name for messages.
        kind: kind by its first bytes, or else by its ending.
        size: in bytes.
        stream: its only descriptor, at the start.
    """

    path: Path
    name: str
    kind: Kind
    size: int
    stream: IO[bytes]


@dataclass(frozen=True)
class Outline:
    """Type and shape of a tensor in a file, before its values are read.

    Args:
        number: its index among the file's tensors.
        dtype: key of `formats.ITEM_BYTES`; torch has a type of that name.
        shape: its dimensions, not yet checked.
        strides: stride of each dimension, in elements.
    """

    number: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Number of elements from its first to its last, inclusive."""
        return formats.span(self.shape, self.strides)


Group = Mapping[str, Outline]


@dataclass(frozen=True, eq=False)
class Weights:
    """Contents of a file of weights, while the process that parsed it is running.

    Args:
        name: the file's name, for messages.
        sha256: SHA-256 of the parsed bytes.
        program: whether it is TorchScript that passed the scan.
        groups: dictionaries of tensors, by their path of keys joined by dots.
        findings: unique names of the outputs that it states; empty if none.
        tasks: as `formats.Holdings`.
        metadata: metadata of a safetensors file.
        modules: parts of pickled networks, by group and by path, as in `formats.Holdings`.
    """

    name: str
    sha256: str
    program: bool
    groups: Mapping[str, Group]
    findings: tuple[str, ...]
    tasks: bool
    metadata: Mapping[str, str]
    modules: Mapping[str, Mapping[str, Module]]
    _conversation: _Conversation = field(repr=False)

    def take(self, outlines: Mapping[str, Outline]) -> dict[str, torch.Tensor]:
        """Return tensors of this file, dense, on the processor.

        Args:
            outlines: from `groups`, by any names, with shapes that fit in memory.

        Raises:
            StoreError: their values can't be read.
        """
        import torch

        self._conversation.ask([one.number for one in outlines.values()])
        taken = {}
        for name, one in outlines.items():
            dtype = getattr(torch, one.dtype)
            raw = torch.empty(one.span * formats.ITEM_BYTES[one.dtype], dtype=torch.uint8)
            self._conversation.fill(raw.numpy().data)
            if not one.span:
                taken[name] = torch.empty(one.shape, dtype=dtype)
                continue
            taken[name] = raw.view(dtype).as_strided(one.shape, one.strides).contiguous()
        return taken


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[File]:
    """Open a model file and find its kind from its first bytes.

    Raises:
        StoreError: no such file, an empty one, one that is too large, or one of another kind.
    """
    name = clean(path.name)
    try:
        stream = open_regular(path)
    except FileNotFoundError:
        raise StoreError(f"{path} isn't a file; {EXPECTED}") from None
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}") from None
    with stream:
        size = os.fstat(stream.fileno()).st_size
        if not 8 < size <= LARGEST_FILE:
            raise StoreError(f"{name} has {size:,} bytes; expected 9 to {LARGEST_FILE:,}")
        start = stream.read(512)
        stream.seek(0)
        yield File(path, name, _kind(path, start), size, stream)


def _kind(path: Path, start: bytes) -> Kind:
    if path.suffix == ".onnx":
        return "onnx"
    zipped = start.startswith(b"PK\x03\x04")
    if start.startswith(b"\x89HDF\r\n\x1a\n") or (zipped and path.suffix == ".keras"):
        return "keras"
    if zipped:
        return "archive"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return "pickle"
    name = clean(path.name)
    for place, mark, what in OTHERS:
        if start[place:].startswith(mark):
            raise StoreError(f"{name} is {what}; {EXPECTED}")
    raise StoreError(f"{name} isn't a known model file; {EXPECTED}")


@contextlib.contextmanager
def open_weights(file: File) -> Iterator[Weights]:
    """Parse a file of weights in a separate process.

    Args:
        file: a file of any kind but "onnx" and "keras".

    Raises:
        StoreError: it can't be read, only by running its code, or not within the limits of time and
            memory.
        LeadapronError: the process can't be started.
    """
    with _conversing(file.name) as conversation:
        try:
            digest = conversation.send(file)
            facts = conversation.facts()
            if "error" in facts:
                raise StoreError(str(facts["error"])[:LONGEST_WORDS])
            yield _weights(file, digest, facts, conversation)
        except _LieError:
            raise StoreError(
                f"{file.name} confuses the process that reads it; it is broken or hostile"
            ) from None


class _LieError(Exception):
    """An answer that the process doesn't give unless a file has compromised it."""


def _weights(file: File, digest: str, facts: Any, conversation: _Conversation) -> Weights:
    """The process's answer, after checks."""
    most = RATIO * file.size + ALLOWANCE
    numbers = iter(range(formats.MOST_TENSORS))
    try:
        groups = {
            key: {
                tensor: Outline(next(numbers), str(dtype), tuple(shape), tuple(strides))
                for tensor, dtype, shape, strides in tensors
            }
            for key, tensors in facts["groups"]
        }
        outlines = [one for group in groups.values() for one in group.values()]
        names = [*groups, *(tensor for group in groups.values() for tensor in group)]
        sound = all(
            formats.are_sides(one.shape)
            and formats.are_sides(one.strides)
            and one.span * formats.ITEM_BYTES[one.dtype] <= most
            for one in outlines
        )
        findings, metadata = facts["findings"], dict(facts["metadata"])
        modules = {key: dict(map(_told, parts)) for key, parts in facts["modules"]}
        kinds = [one.kind for parts in modules.values() for one in parts.values()]
        names += [*modules, *(path for parts in modules.values() for path in parts), *kinds]
        texts = [*names, *findings, *metadata, *metadata.values()]
        if not sound or not all(isinstance(text, str) for text in texts):
            raise _LieError
        program, tasks = facts["program"] is True, facts["tasks"] is True
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration):
        raise _LieError from None
    try:
        shown = {
            key: dict(zip(clean_names(group), group.values(), strict=True))
            for key, group in zip(clean_names(groups), groups.values(), strict=True)
        }
        return Weights(
            file.name, digest, program, shown, clean_names(findings), tasks, metadata,
            {clean(key): _cleaned(parts) for key, parts in modules.items()}, conversation,
        )  # fmt: skip
    except ValueError as error:
        raise StoreError(f"{file.name}: {error}") from None


def _told(said: Any) -> tuple[str, Module]:
    """A module and its path, after checks."""
    path, kind, settings, changed = said
    plain = {key: tuple(one) if isinstance(one, list) else one for key, one in settings.items()}
    for value in plain.values():
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, bool | int | float | str) for part in parts):
            raise _LieError
    return path, Module(kind, plain, changed is True)


def _cleaned(modules: Mapping[str, Module]) -> dict[str, Module]:
    """Modules with printable names; ValueError if two become equal: one would hide the other."""
    return {
        path: Module(
            clean(one.kind),
            dict(
                zip(clean_names(one.settings), map(_printable, one.settings.values()), strict=True)
            ),
            one.changed,
        )
        for path, one in zip(clean_names(modules), modules.values(), strict=True)
    }


def _printable(value: Setting) -> Setting:
    if isinstance(value, tuple):
        return tuple(clean(part) if isinstance(part, str) else part for part in value)
    return clean(value) if isinstance(value, str) else value


class _Conversation:
    """The exchange about one file with the process that parses it."""

    def __init__(self, name: str, server: _Server) -> None:
        self.name = name
        self._server = server
        self._socket = server.converse()
        self._heard = bytearray()

    def send(self, file: File) -> str:
        """Send the file; return its SHA-256 in hex."""
        digest = hashlib.sha256()
        first = {
            "kind": file.kind,
            "size": file.size,
            "name": file.name,
            "seconds": SECONDS,
            "memory": MEMORY + 3 * file.size,
        }
        with self._failures():
            self._say(first)
            left = file.size
            while left and (block := file.stream.read(min(BLOCK, left))):
                digest.update(block)
                self._socket.settimeout(SECONDS + GRACE)
                self._socket.sendall(block)
                left -= len(block)
        if left or file.stream.read(1):
            raise StoreError(f"{file.name} was changed while it was read; try again")
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return the process's description of the file."""
        with self._failures():
            deadline = _deadline()
            while b"\n" not in self._heard[-BLOCK:]:
                if len(self._heard) > LONGEST_ANSWER:
                    raise _LieError
                self._heard += self._receive(BLOCK, deadline)
            line, _, rest = self._heard.partition(b"\n")
            self._heard = rest
            facts = json.loads(line)
            if not isinstance(facts, dict):
                raise _LieError
        return facts

    def ask(self, numbers: Sequence[int]) -> None:
        """Request tensors, in this order."""
        with self._failures():
            self._say(numbers)

    def fill(self, view: memoryview) -> None:
        """Receive bytes until the view is full."""
        with self._failures():
            deadline = _deadline()
            early = min(len(self._heard), len(view))
            view[:early] = self._heard[:early]
            del self._heard[:early]
            while early < len(view):
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                got = self._socket.recv_into(view[early:])
                if not got:
                    raise EOFError
                early += got

    def end(self) -> None:
        """Close the connection; the server is then free for another file."""
        self._socket.close()
        self._server.ended()

    def _say(self, value: object) -> None:
        self._socket.settimeout(SECONDS + GRACE)
        self._socket.sendall(json.dumps(value).encode() + b"\n")

    def _receive(self, most: int, deadline: float) -> bytes:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        heard = self._socket.recv(most)
        if not heard:
            raise EOFError
        return heard

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise an error that explains what happened to a process with an unexpected answer."""
        try:
            yield
        except TimeoutError:
            self._server.kill()
            raise StoreError(self._late()) from None
        except (OSError, EOFError):
            self._socket.close()
            ended = how_it_ended(self._server.ended())
            if ended == TOO_LATE:
                raise StoreError(self._late()) from None
            if ended == NO_MEMORY:
                raise StoreError(f"{self.name}: the process that read it {ended}") from None
            raise StoreError(
                f"{self.name} crashes the process that reads it; it is broken or hostile"
            ) from None
        except (ValueError, RecursionError):
            raise _LieError from None

    def _late(self) -> str:
        return f"{self.name} took more than {SECONDS:g} s to read; it is broken or hostile"


def _deadline() -> float:
    return time.monotonic() + SECONDS + GRACE


class _Server:
    """The process that forks a child for each file, one file at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    COMMAND,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment(),
                    # Ctrl-C should reach only this process. Forks belong to the server's session
                    # and end with it.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise LeadapronError(
                    f"can't start a process that reads model files: {error.strerror}"
                ) from None
        self._control = ours
        ours.settimeout(START)
        with contextlib.suppress(OSError):
            if ours.recv(len(READY)) == READY:
                self.conversing = False
                return
        self.kill()
        raise LeadapronError(
            "the process that reads model files doesn't start; to see the cause, run "
            f"{' '.join(COMMAND[1:])}"
        )

    def converse(self) -> socket.socket:
        """Start with a file; return the socket for its messages."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._control.settimeout(START)
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        self.conversing = True
        return ours

    def ended(self) -> int | None:
        """Wait for the child to end; return its exit code, None if it was killed from here."""
        if not self.conversing:
            return None
        self._control.settimeout(GRACE)
        try:
            heard = self._control.recv(4, socket.MSG_WAITALL)
            (code,) = struct.unpack("<i", heard)
        except (OSError, struct.error):
            self.kill()
            return None
        self.conversing = False
        return int(code)

    @property
    def alive(self) -> bool:
        """Return whether the server is running."""
        return not self.conversing and self._process.poll() is None

    def kill(self) -> None:
        """Kill the server and its child."""
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._control.close()
        self.conversing = False

    def disown(self) -> None:
        """In a fork of this process, leave the server to the parent."""
        self._process.returncode = 0
        self._control.close()


_idle: list[_Server] = []
_lock = threading.Lock()


@contextlib.contextmanager
def _conversing(name: str) -> Iterator[_Conversation]:
    """A conversation with an idle server, or with a new one."""
    with _lock:
        server = _idle.pop() if _idle else None
    if server is not None and not server.alive:
        server.kill()
        server = None
    if server is None:
        server = _Server()
    conversation = _Conversation(name, server)
    try:
        yield conversation
    except Exception:
        conversation.end()
        raise
    except BaseException:  # Ctrl-C during the exchange
        server.kill()
        raise
    else:
        conversation.end()
    finally:
        with _lock:
            if server.alive:
                _idle.append(server)


@atexit.register
def _end_all() -> None:
    while _idle:
        _idle.pop().kill()


def _forget() -> None:
    """After a fork the servers are the parent's."""
    global _lock
    for server in _idle:
        server.disown()
    _idle.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
