"""Weights that an ONNX file keeps in other files of its folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from leadapron.errors import StoreError
from leadapron.models.parsing.reading import LARGEST_FILE, File
from leadapron.reading import open_regular
from leadapron.store import sha256_of
from leadapron.text import clean

__all__ = ["External", "content_of", "external_files", "scanned", "together"]

MARK = b"\x0a\x08location\x12"
"""The start of an entry "location" in ONNX's protobuf; a file's name follows its length."""
MOST_FILES = 32
LONGEST_NAME = 1_000
BLOCK = 1 << 20


@dataclass(frozen=True)
class External:
    """One open file of weights.

    Args:
        name: as the ONNX file names it.
        stream: its only descriptor, at the start.
        size: in bytes.
        sha256: SHA-256 of its bytes, in hex.
    """

    name: str
    stream: BufferedReader
    size: int
    sha256: str


def content_of(path: Path) -> str:
    """Return what `Opened.content` is for a model's file: a SHA-256 in hex.

    It is the file's own; of an ONNX file with weights in other files, one of all of them.

    Raises:
        StoreError: a file that can't be read.
    """
    if path.suffix != ".onnx":
        return sha256_of(path)
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            file = File(path, clean(path.name), "onnx", size, stream)
            own, names = scanned(file)
            with external_files(file, names) as others:
                return together(own, others)
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}") from None


def together(own: str, others: list[External]) -> str:
    """Return one SHA-256 in hex for an ONNX file's own and its other files; the own without any."""
    if not others:
        return own
    lines = [own, *(f"{one.sha256} {one.name}" for one in others)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def scanned(file: File) -> tuple[str, tuple[str, ...]]:
    """Return an ONNX file's SHA-256 in hex, and the names of other files that it mentions, sorted.

    Only marks are looked for. ONNX Runtime gets nothing but the files that were found.

    Raises:
        StoreError: a name that can't be one.
    """
    digest, names, text = hashlib.sha256(), set(), b""
    block = b"."
    while block:
        block = file.stream.read(BLOCK)
        digest.update(block)
        text += block
        start = 0
        while (place := text.find(MARK, start)) >= 0:
            begin = place + len(MARK)
            if block and len(text) < begin + 2 + LONGEST_NAME:
                break
            names.add(_name(text[begin : begin + 2 + LONGEST_NAME], file.name))
            start = begin
        text = text[place if place >= 0 else max(start, len(text) - len(MARK) + 1) :]
    if len(names) > MOST_FILES:
        raise StoreError(
            f"{file.name} keeps weights in {len(names)} other files; expected {MOST_FILES} at most"
        )
    return digest.hexdigest(), tuple(sorted(names))


def _name(text: bytes, model: str) -> str:
    """The name that follows a mark, after its length in one or two bytes."""
    length, begin = (text[0], 1) if text and text[0] < 128 else (0, 0)
    if not begin and len(text) > 1 and 0 < text[1] < 128:
        length, begin = (text[0] & 127) | text[1] << 7, 2
    raw = text[begin : begin + length]
    with contextlib.suppress(UnicodeDecodeError):
        name = raw.decode()
        if 0 < length <= LONGEST_NAME and len(raw) == length and "\0" not in name:
            return name
    raise StoreError(f"{model} names another file in a way that can't be read; it is broken")


@contextlib.contextmanager
def external_files(file: File, names: tuple[str, ...]) -> Iterator[list[External]]:
    """Open the other files of an ONNX file; each must lie in its folder, or below.

    Args:
        file: the ONNX file.
        names: as it names them.

    Raises:
        StoreError: a name that leads elsewhere, a missing file, or files that are too large
            together.
    """
    folder = file.path.parent
    with contextlib.ExitStack() as stack:
        opened, size = [], file.size
        for name in names:
            shown, path = clean(name), folder / name
            parts = PurePosixPath(name)
            inside = not parts.is_absolute() and ".." not in parts.parts and "\\" not in name
            if not inside or not path.resolve().is_relative_to(folder.resolve()):
                raise StoreError(
                    f"{file.name} keeps weights in {shown!r}, outside its folder; expected a file "
                    "in the same folder. Save the model as one file"
                )
            try:
                stream = stack.enter_context(open_regular(path))
            except OSError as error:
                raise StoreError(
                    f"{file.name} keeps weights in {shown!r}, which can't be read "
                    f"({error.strerror}); put that file into the same folder"
                ) from None
            size += os.fstat(stream.fileno()).st_size
            if size > LARGEST_FILE:
                raise StoreError(
                    f"{file.name} has more than {LARGEST_FILE:,} bytes with its other files"
                )
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            opened.append(External(name, stream, os.fstat(stream.fileno()).st_size, digest))
        yield opened
