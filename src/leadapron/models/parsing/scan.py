"""Static scans of a model file's bytes; nothing in it is run or unpickled here.

There are two scans: of zip archives (contents and sizes) and of TorchScript's source (operators
that it calls). Each either answers or raises: a file that a scan doesn't understand is refused.
`pickles` walks pickles.
"""

from __future__ import annotations

import ast
import pickletools
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from leadapron.errors import StoreError

__all__ = [
    "Archive",
    "first_line",
    "read_archive",
    "read_entry",
    "refuse_operators",
]

LARGEST_UNPACKED = 8 << 30
LARGEST_PICKLE = 64 << 20
LARGEST_SOURCE = 64 << 20
MOST_ENTRIES = 20_000
RATIO, ALLOWANCE = 20, 16 << 20
"""Largest size of an unpacked archive: this multiple of its size, plus this many bytes. Weights
hardly compress, so more means an archive bomb."""
LOCAL_HEADER = 30

END, END64, LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
END_LENGTH, END64_LENGTH, LOCATOR64_LENGTH = 22, 56, 20

EXPECTED_ENTRIES = re.compile(
    r"version|byteorder|\.format_version|\.storage_alignment|\.data/(serialization_id|version)"
    r"|(data|constants|traced_inputs)(\.pkl|/\d+)"
    r"|code/__torch__(/\w+)*\.py(\.debug_pkl)?"
    r"|extra/[ -~]+",
    re.ASCII,
)
"""Entries that torch.jit.save writes. torch may read others too, as early versions did: model.json,
tensors/..."""

REACHING = {
    **dict.fromkeys(("save", "from_file"), "which opens files"),
    **dict.fromkeys(("rpc_async", "rpc_remote", "rpc_sync"), "which contacts other machines"),
    **dict.fromkeys(("PythonOp", "IgnoredPythonOp"), "which runs Python"),
}
"""Operators of torch 2.13's TorchScript with effects beyond arithmetic."""
NAMESPACES = frozenset({"aten", "prim"})
TOKEN = re.compile(
    rb"""(?P<text>"(?:[ !#-\[\]-~]|\\[ -~])*+"|'(?:[ -&(-\[\]-~]|\\[ -~])*+')"""
    rb"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    rb"|(?P<number>(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?j?(?![A-Za-z0-9_]))"
    rb"|(?P<space>[ \n]+)"
    rb"|(?P<sign>[-+*/%@&|^~<>=!()\[\]{},:.;])"
)
"""Tokens of source that torch prints. Comments, continued lines, and other spaces or letters are
left out because two parsers may read them differently."""


@dataclass(frozen=True)
class Archive:
    """A zip archive whose sizes and names were checked.

    Args:
        top: the top folder that torch writes, with a slash; "" without one.
        names: the entries below it.
    """

    top: str
    names: frozenset[str]

    @property
    def scripted(self) -> bool:
        """Whether TorchScript wrote it."""
        code = any(name.startswith("code/") for name in self.names)
        return code and {"constants.pkl", "data.pkl"} <= self.names


def read_archive(file: IO[bytes], size: int, name: str) -> Archive:
    """Return the contents of a zip archive, after checks.

    Args:
        file: at any position; it is read completely once, for the checksums.
        size: its size in bytes.
        name: its name, for messages.

    Raises:
        StoreError: not an archive, a damaged one, or a suspicious one: bombs, and entries that
            overlap, lead out of the folder, are repeated, are links or are encrypted.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.flag_bits & 0x1 for entry in entries):
                raise StoreError(
                    f"{name} is an encrypted archive; unpack it with its password, and name the "
                    "model inside"
                )
            for problem in (*_frame(file, size), *_problems(entries, archive.start_dir, size)):
                raise StoreError(f"{name} isn't a valid archive: {problem}; get the file again")
            damaged = archive.testzip()
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError,
        NotImplementedError, RuntimeError, OverflowError,
    ) as error:  # fmt: skip
        raise StoreError(
            f"{name} is a damaged or truncated archive ({first_line(error)}); get the file again"
        ) from None
    if damaged is not None:
        raise StoreError(f"{name}: {damaged[:80]} is damaged; get the file again")
    tops = {entry.filename.partition("/")[0] for entry in entries}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return Archive(top, frozenset(entry.filename.removeprefix(top) for entry in entries))


def _frame(file: IO[bytes], size: int) -> Iterator[str]:
    """Errors at the end of an archive: torch must find the directory where Python does.

    Python searches for it before the end record, torch at the offset that the end record states. So
    both must agree, with nothing after it.
    """
    file.seek(max(size - END64_LENGTH - LOCATOR64_LENGTH - END_LENGTH, 0))
    tail = file.read()
    end, tail = tail[-END_LENGTH:], tail[:-END_LENGTH]
    mark, *_, length, place, comment = struct.unpack("<4s4H2LH", end)
    if mark != END or comment:
        yield "data follow its directory"
        return
    behind, places = size - END_LENGTH, [(length, place, 0xFFFFFFFF)]
    locator = tail[-LOCATOR64_LENGTH:]
    if locator.startswith(LOCATOR64):
        behind -= LOCATOR64_LENGTH + END64_LENGTH
        (pointed,) = struct.unpack("<Q", locator[8:16])
        mark, said, *_, length, place = struct.unpack("<4sQ2H2L4Q", tail[:END64_LENGTH])
        if mark != END64 or pointed != behind or said != END64_LENGTH - 12:
            yield "its directory isn't at the stated offset"
        places.append((length, place, -1))
    for length, place, elsewhere in places:
        if place + length != behind and elsewhere not in (length, place):
            yield "its directory isn't at the stated offset"


def _problems(entries: list[zipfile.ZipInfo], end: int, size: int) -> Iterator[str]:
    if len(entries) > MOST_ENTRIES:
        yield f"{len(entries):,} entries, expected {MOST_ENTRIES:,} at most"
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > min(RATIO * size + ALLOWANCE, LARGEST_UNPACKED):
        yield f"{size:,} bytes that unpack to {unpacked:,}"
    seen: set[str] = set()
    for entry in entries:
        for wrong, what in _faults(entry).items():
            if what:
                yield f"{entry.filename[:80]!r} {wrong}"
        if entry.filename.lower() in seen:
            yield f"{entry.filename[:80]!r} is repeated"
        seen.add(entry.filename.lower())  # torch ignores case in entries' names
    if min((entry.header_offset for entry in entries), default=0):
        yield "data precede its first entry"
    reached = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < reached:
            yield f"{entry.filename[:80]!r} overlaps another entry"
        reached = entry.header_offset + LOCAL_HEADER + entry.compress_size
    if reached > end:
        yield "entries overlap its directory"


def _faults(entry: zipfile.ZipInfo) -> dict[str, bool]:
    """Possible errors of an entry, and whether it has them."""
    stored = entry.compress_type == zipfile.ZIP_STORED
    outside = entry.filename.startswith("/") or ".." in PurePosixPath(entry.filename).parts
    return {
        "leads out of its folder": outside or bool(re.search(r"[\\:\0]", entry.orig_filename)),
        "is a link": stat.S_ISLNK(entry.external_attr >> 16),
        f"is compressed by method {entry.compress_type}": not stored
        and entry.compress_type != zipfile.ZIP_DEFLATED,
        "has two sizes": stored and entry.compress_size != entry.file_size,
    }


def read_entry(file: IO[bytes], archive: Archive, entry: str, most: int, name: str) -> bytes:
    """Return the bytes of one entry; StoreError if it is missing or has more than `most`."""
    if entry not in archive.names:
        raise StoreError(f"{name} has no {entry}; expected what torch.save writes")
    with zipfile.ZipFile(file) as opened:
        return _read(opened, archive.top, entry, most, name)


def _read(opened: zipfile.ZipFile, top: str, entry: str, most: int, name: str) -> bytes:
    if opened.getinfo(top + entry).file_size > most:
        raise StoreError(f"{name}: {entry} is larger than {most:,} bytes")
    return opened.read(top + entry)


def refuse_operators(file: IO[bytes], archive: Archive, name: str) -> None:
    """Raise StoreError if TorchScript's source names operators with effects beyond arithmetic.

    These are files (`save`, `from_file`), operators outside `aten` and `prim` (network, custom
    ones) and C++ classes. Names are searched everywhere, including strings, since attributes can be
    accessed by name. Entries that torch.jit.save doesn't write, and source that it doesn't print,
    are refused too, since torch may interpret them; it ignores case in entries' names.
    """
    for entry in sorted(archive.names):
        if not EXPECTED_ENTRIES.fullmatch(entry):
            raise StoreError(
                f"{name} is TorchScript with an entry {entry[:80]!r}, which torch.jit.save doesn't "
                "write, so it isn't run. Export it again, or as .safetensors"
            )
    left = LARGEST_SOURCE
    with zipfile.ZipFile(file) as opened:
        for entry in sorted(archive.names):
            if entry.startswith("code/") and entry.endswith(".py"):
                source = _read(opened, archive.top, entry, left, name)
                left -= len(source)
                for problem in _reaches(source):
                    raise StoreError(
                        f"{name} is TorchScript that {problem}; such files are programs and this "
                        "one isn't run. Export it again without that, or its weights as "
                        ".safetensors"
                    )
            elif entry.endswith(".pkl"):
                _refuse_classes(_read(opened, archive.top, entry, LARGEST_PICKLE, name), name)


def _refuse_classes(pickled: bytes, name: str) -> None:
    """Refuse a pickle that names a C++ class, in a string or in a global's module and name."""
    try:
        texts = [str(text) for _, text, _ in pickletools.genops(pickled) if text is not None]
    except (ValueError, EOFError, OverflowError, MemoryError, IndexError, KeyError) as error:
        raise StoreError(
            f"{name}: its pickle is broken or truncated ({first_line(error)}); get the file again"
        ) from None
    if any("torch.classes" in text.replace(" ", ".") for text in texts):
        raise StoreError(
            f"{name} is TorchScript with objects of C++ classes, so it isn't run. Export it "
            "again without them, or its weights as .safetensors"
        )


def _reaches(source: bytes) -> Iterator[str]:
    words: list[str] = []
    before, place = "", 0
    while place < len(source):
        match = TOKEN.match(source, place)
        if match is None:
            line = source.count(b"\n", 0, place) + 1
            yield f"can't be read (byte {source[place]:#04x} in line {line})"
            return
        place, kind, word = match.end(), match.lastgroup or "", match[0].decode("ascii")
        if kind == "text":
            if before in ("text", "name", "number"):
                yield "builds a string from parts"
            try:
                text = ast.literal_eval(word)
            except (SyntaxError, ValueError) as error:
                yield f"can't be read ({first_line(error)})"
                return
            if text in REACHING:
                yield f"names {text}, {REACHING[text]}"
        elif word in REACHING:
            yield f"calls {word}, {REACHING[word]}"
        if kind != "space":
            before = kind
            words.append(word)
    yield from _leaves(words)


def _leaves(words: list[str]) -> Iterator[str]:
    """Calls outside `aten` and `prim`; assigning their namespaces to variables counts too."""
    for i, word in enumerate(words):
        if word not in ("ops", "torch"):
            continue
        before, behind = words[max(i - 2, 0) : i], words[i + 1 : i + 3]
        dotted = len(behind) == 2 and behind[0] == "."
        if word == "ops" and before[-1:] != ["."]:
            if not dotted:
                yield "assigns operators to a variable"
            elif behind[1] not in NAMESPACES:
                yield f"calls an operator of {behind[1]}"
        elif word == "torch":
            if dotted and behind[1] == "classes":
                yield "uses C++ classes"
            if before == ["__torch__", "."] and not dotted:
                yield "assigns torch's classes to a variable"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
