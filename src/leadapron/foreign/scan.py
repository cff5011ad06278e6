"""What a model file would do, read from its bytes; nothing in it is run or unpickled here.

Three scans: of pickles (which names they import), of zip archives (what they would unpack to) and
of TorchScript's source (which operators it calls). Each either answers or raises; a file that a
scan doesn't understand is refused, never passed.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from leadapron.errors import StoreError

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

WRITERS = frozenset({"save", "from_file"})
"""The two operators of torch 2.13's TorchScript that open files by name."""
NAMESPACES = frozenset({"aten", "prim"})


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
        calls = f"{self.calls} call{'' if self.calls == 1 else 's'}"
        return f"it imports {shown}{f' and {more} more' if more > 0 else ''} and makes {calls}"


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
            for problem in _problems(entries, archive.start_dir, size):
                raise StoreError(f"{name} is no sound archive: {problem}; get the file again")
            damaged = archive.testzip()
    except (
        zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError,
        RuntimeError, OverflowError,
    ) as error:  # fmt: skip
        raise StoreError(
            f"{name} is a damaged or cut off archive ({first_line(error)}); get the file again"
        ) from None
    if damaged is not None:
        raise StoreError(f"{name}: {damaged[:80]} is damaged; get the file again")
    tops = {entry.filename.partition("/")[0] for entry in entries}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return Archive(top, frozenset(entry.filename.removeprefix(top) for entry in entries))


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
        if entry.filename in seen:
            yield f"{entry.filename[:80]!r} comes twice"
        seen.add(entry.filename)
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
        if opened.getinfo(archive.top + entry).file_size > most:
            raise StoreError(f"{name}: {entry} is larger than {most:,} bytes")
        return opened.read(archive.top + entry)


def refuse_operators(file: IO[bytes], archive: Archive, name: str) -> None:
    """Raise StoreError where TorchScript's source names what reaches beyond arithmetic.

    Files (`save`, `from_file`), operators outside `aten` and `prim` (networks, custom ones) and
    C++ classes. Names are looked for wherever they stand, in texts too, since an attribute can be
    had by its name.
    """
    left = LARGEST_SOURCE
    for entry in sorted(archive.names):
        if entry.startswith("code/") and entry.endswith(".py"):
            source = read_entry(file, archive, entry, left, name)
            left -= len(source)
            for problem in _reaches(source):
                raise StoreError(
                    f"{name} is TorchScript that {problem}; such files are programs and this one "
                    "isn't run. Export it again without, or as .safetensors"
                )
    for entry in ("data.pkl", "constants.pkl"):
        if b"torch.classes" in read_entry(file, archive, entry, LARGEST_PICKLE, name):
            raise StoreError(
                f"{name} is TorchScript that holds objects of C++ classes; it isn't run. Export "
                "it again without, or as .safetensors"
            )


def _reaches(source: bytes) -> Iterator[str]:
    words: list[str] = []
    texts = 0
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            texts = texts + 1 if token.type == tokenize.STRING else 0
            if token.type == tokenize.STRING and ast.literal_eval(token.string) in WRITERS:
                yield f"names {ast.literal_eval(token.string)}, which opens files"
            if texts > 1:
                yield "puts a text together from pieces"
            if token.type in (tokenize.NAME, tokenize.OP, tokenize.STRING, tokenize.NUMBER):
                words.append(token.string)
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError) as error:
        yield f"can't be read ({first_line(error)})"
    for before, dot, word in zip(["", "", *words], ["", *words], words, strict=False):
        if dot == "." and word in WRITERS:
            yield f"calls {word}, which opens files"
        if (before, dot) == ("ops", ".") and word not in NAMESPACES:
            yield f"calls an operator of {word}"
        if (before, dot, word) == ("torch", ".", "classes"):
            yield "uses C++ classes"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
