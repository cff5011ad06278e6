"""What a model file would do, read from its bytes; nothing in it is run or unpickled here.

Three scans: of pickles (which names they import), of zip archives (what they would unpack to) and
of TorchScript's source (which operators it calls). Each either answers or raises; a file that a
scan doesn't understand is refused, never passed.
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
from typing import IO, Any

from leadapron.errors import StoreError
from leadapron.text import count

__all__ = [
    "Archive",
    "PickleScan",
    "first_line",
    "read_archive",
    "read_entry",
    "refuse_operators",
    "scan_pickle",
]

STORAGES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
HARMLESS = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch.nn.parameter Parameter",
        *(f"torch {name}Storage" for name in STORAGES),
    }
)
"""What a state dict needs. torch's own list is longer: it lets a pickle ask for a bytearray of any
length, and for tensors of types that no network here has."""

IMPORTING = ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
CALLING = ("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD")
MOST_IMPORTS = 6
"""Names that a message lists."""

LARGEST_UNPACKED = 8 << 30
LARGEST_PICKLE = 64 << 20
LARGEST_SOURCE = 64 << 20
MOST_ENTRIES = 20_000
RATIO, ALLOWANCE = 20, 16 << 20
"""An archive may unpack to so many times its own size, plus so many bytes. Weights don't shrink."""
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
"""What torch.jit.save writes. Of what else is in an archive torch may read something, as it did
once: model.json, tensors/..."""

REACHING = {
    **dict.fromkeys(("save", "from_file"), "which opens files"),
    **dict.fromkeys(("rpc_async", "rpc_remote", "rpc_sync"), "which asks other machines"),
    **dict.fromkeys(("PythonOp", "IgnoredPythonOp"), "which runs Python"),
}
"""Operators of torch 2.13's TorchScript that reach beyond arithmetic."""
NAMESPACES = frozenset({"aten", "prim"})
TOKEN = re.compile(
    rb"""(?P<text>"(?:[ !#-\[\]-~]|\\[ -~])*+"|'(?:[ -&(-\[\]-~]|\\[ -~])*+')"""
    rb"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    rb"|(?P<number>(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?j?(?![A-Za-z0-9_]))"
    rb"|(?P<space>[ \n]+)"
    rb"|(?P<sign>[-+*/%@&|^~<>=!()\[\]{},:.;])"
)
"""What torch prints source with: no comments, continued lines, other spaces or other letters, which
two readers may read in two ways."""


@dataclass(frozen=True)
class PickleScan:
    """What the opcodes of a pickle say.

    Args:
        imports: names that it would import, "os.system", in order; harmless ones left out.
        calls: how many times it calls or builds something.
        end: offset of the byte after it.
    """

    imports: tuple[str, ...]
    calls: int
    end: int

    def words(self) -> str:
        """Return what is needed in words: "it imports os.system and makes 1 call"."""
        shown = ", ".join(name[:80] for name in self.imports[:MOST_IMPORTS])
        more = len(self.imports) - MOST_IMPORTS
        more_words = f" and {more} more" if more > 0 else ""
        return f"it imports {shown}{more_words} and makes {count(self.calls, 'call')}"


def scan_pickle(file: IO[bytes], name: str) -> PickleScan:
    """Return what the pickle at the file's position would import; the file is left behind it.

    Args:
        file: seekable.
        name: the file's name, for messages.

    Raises:
        StoreError: no pickle, or one that is cut off.
    """
    imports: dict[str, None] = {}
    calls = 0
    strings: list[str] = []  # the last two are what STACK_GLOBAL takes, in honest pickles
    memo: dict[Any, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in IMPORTING:
                found = str(argument) if opcode.name in ("GLOBAL", "INST") else _taken(strings)
                if opcode.name.startswith("EXT"):
                    found = f"copyreg.extension_{argument}"
                if found not in HARMLESS:
                    imports[found.replace(" ", ".")] = None
            calls += opcode.name in CALLING
            if opcode.name == "MEMOIZE":
                memo[len(memo)] = strings[-1] if strings else "?"
            elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = strings[-1] if strings else "?"
            elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                strings = [*strings[-1:], memo.get(argument, "?")]
            elif isinstance(argument, str):
                strings = [*strings[-1:], argument]
    except (ValueError, EOFError, OverflowError, IndexError, KeyError) as error:
        raise StoreError(
            f"{name}: its pickle is broken or cut off ({first_line(error)}); get the file again"
        ) from None
    return PickleScan(tuple(imports), calls, file.tell())


def _taken(strings: list[str]) -> str:
    return " ".join(strings[-2:]) or "?"


@dataclass(frozen=True)
class Archive:
    """A zip archive whose sizes and names are as they should be.

    Args:
        top: the folder that torch puts everything into, with its slash; "" where there is none.
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
    """Return what a zip archive holds, after its checks.

    Args:
        file: at any position; it is read whole once, for the checksums.
        size: its bytes.
        name: its name, for messages.

    Raises:
        StoreError: no archive, a damaged one, or one that isn't what its directory says: bombs,
            entries that overlap, lead out of the folder, come twice, are links or are encrypted.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            for problem in (*_frame(file, size), *_problems(entries, archive.start_dir, size)):
                raise StoreError(f"{name} is no sound archive: {problem}; get the file again")
            damaged = archive.testzip()
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError,
        NotImplementedError, RuntimeError, OverflowError,
    ) as error:  # fmt: skip
        raise StoreError(
            f"{name} is a damaged or cut off archive ({first_line(error)}); get the file again"
        ) from None
    if damaged is not None:
        raise StoreError(f"{name}: {damaged[:80]} is damaged; get the file again")
    tops = {entry.filename.partition("/")[0] for entry in entries}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return Archive(top, frozenset(entry.filename.removeprefix(top) for entry in entries))


def _frame(file: IO[bytes], size: int) -> Iterator[str]:
    """What is wrong with the end of an archive: torch must find the directory where Python does.

    Python looks for it before the end, torch where the end says that it is; so it has to be both,
    with nothing behind.
    """
    file.seek(max(size - END64_LENGTH - LOCATOR64_LENGTH - END_LENGTH, 0))
    tail = file.read()
    end, tail = tail[-END_LENGTH:], tail[:-END_LENGTH]
    mark, *_, length, place, comment = struct.unpack("<4s4H2LH", end)
    if mark != END or comment:
        yield "something lies behind its directory"
        return
    behind, places = size - END_LENGTH, [(length, place, 0xFFFFFFFF)]
    locator = tail[-LOCATOR64_LENGTH:]
    if locator.startswith(LOCATOR64):
        behind -= LOCATOR64_LENGTH + END64_LENGTH
        (pointed,) = struct.unpack("<Q", locator[8:16])
        mark, said, *_, length, place = struct.unpack("<4sQ2H2L4Q", tail[:END64_LENGTH])
        if mark != END64 or pointed != behind or said != END64_LENGTH - 12:
            yield "its directory is not where it says"
        places.append((length, place, -1))
    for length, place, elsewhere in places:
        if place + length != behind and elsewhere not in (length, place):
            yield "its directory is not where it says"


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
            yield f"{entry.filename[:80]!r} comes twice"
        seen.add(entry.filename.lower())  # torch looks entries up without regard to case
    if min((entry.header_offset for entry in entries), default=0):
        yield "something lies before its first entry"
    reached = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < reached:
            yield f"{entry.filename[:80]!r} lies over another entry"
        reached = entry.header_offset + LOCAL_HEADER + entry.compress_size
    if reached > end:
        yield "entries reach beyond its directory"


def _faults(entry: zipfile.ZipInfo) -> dict[str, bool]:
    """What can be wrong with an entry, and whether it is."""
    stored = entry.compress_type == zipfile.ZIP_STORED
    outside = entry.filename.startswith("/") or ".." in PurePosixPath(entry.filename).parts
    return {
        "leads out of its folder": outside or bool(re.search(r"[\\:\0]", entry.orig_filename)),
        "is a link": stat.S_ISLNK(entry.external_attr >> 16),
        "is encrypted": bool(entry.flag_bits & 0x1),
        f"is compressed by method {entry.compress_type}": not stored
        and entry.compress_type != zipfile.ZIP_DEFLATED,
        "has two sizes": stored and entry.compress_size != entry.file_size,
    }


def read_entry(file: IO[bytes], archive: Archive, entry: str, most: int, name: str) -> bytes:
    """Return the bytes of one entry; StoreError where there are more than `most`, or none."""
    if entry not in archive.names:
        raise StoreError(f"{name} has no {entry}; expected what torch.save writes")
    with zipfile.ZipFile(file) as opened:
        return _read(opened, archive.top, entry, most, name)


def _read(opened: zipfile.ZipFile, top: str, entry: str, most: int, name: str) -> bytes:
    if opened.getinfo(top + entry).file_size > most:
        raise StoreError(f"{name}: {entry} is larger than {most:,} bytes")
    return opened.read(top + entry)


def refuse_operators(file: IO[bytes], archive: Archive, name: str) -> None:
    """Raise StoreError where TorchScript's source names what reaches beyond arithmetic.

    Files (`save`, `from_file`), operators outside `aten` and `prim` (networks, custom ones) and
    C++ classes. Names are looked for wherever they stand, in texts too, since an attribute can be
    had by its name. So are entries that torch.jit.save doesn't write, and source that it doesn't
    print: what isn't understood here may be something to torch, which looks entries up without
    regard to case.
    """
    for entry in sorted(archive.names):
        if not EXPECTED_ENTRIES.fullmatch(entry):
            raise StoreError(
                f"{name} is TorchScript with an entry {entry[:80]!r}, which torch.jit.save doesn't "
                "write; it isn't run. Export it again, or as .safetensors"
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
    """Refuse a pickle that names a C++ class, in a text or in the two parts of a global's name."""
    try:
        texts = [str(text) for _, text, _ in pickletools.genops(pickled) if text is not None]
    except (ValueError, EOFError, OverflowError, MemoryError, IndexError, KeyError) as error:
        raise StoreError(
            f"{name}: its pickle is broken or cut off ({first_line(error)}); get the file again"
        ) from None
    if any("torch.classes" in text.replace(" ", ".") for text in texts):
        raise StoreError(
            f"{name} is TorchScript that holds objects of C++ classes; it isn't run. Export it "
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
                yield "puts a text together from pieces"
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
    """Ways out of `aten` and `prim`; their roots may not be put into a variable either."""
    for i, word in enumerate(words):
        if word not in ("ops", "torch"):
            continue
        before, behind = words[max(i - 2, 0) : i], words[i + 1 : i + 3]
        dotted = len(behind) == 2 and behind[0] == "."
        if word == "ops" and before[-1:] != ["."]:
            if not dotted:
                yield "gives operators a name of its own"
            elif behind[1] not in NAMESPACES:
                yield f"calls an operator of {behind[1]}"
        elif word == "torch":
            if dotted and behind[1] == "classes":
                yield "uses C++ classes"
            if before == ["__torch__", "."] and not dotted:
                yield "gives torch's classes a name of its own"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
