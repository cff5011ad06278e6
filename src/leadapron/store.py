"""What lies on disk: atomic writes, keys of runs, the manifest.

All that is written is for its owner alone, files 0600 in folders 0700: nearly all of it holds
patients' films, or paths that may name them. Folders that are there already stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import platform
import secrets
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from leadapron.errors import StoreError
from leadapron.reading import open_regular, other_than_file, read_regular

__all__ = [
    "RESULTS_VERSION",
    "SCHEMA",
    "canonical_json",
    "lock",
    "make_folder",
    "manifest",
    "parse_yaml",
    "read_arrays",
    "read_json",
    "read_lines",
    "read_yaml",
    "reason",
    "refuse_odd",
    "remove_parts",
    "run_key",
    "sha256_of",
    "with_characters",
    "write_arrays",
    "write_atomically",
    "write_json",
    "write_lines",
]

logger = logging.getLogger(__name__)

RESULTS_VERSION = 4
"""Raised when equal specs would give other numbers; it is part of every run's key."""

SCHEMA = 1
"""Version of the layout of rows."""

LOCK = ".lock"
"""The file that is locked to hold a folder."""

LARGEST_TEXT = 1 << 30
"""Bytes of a file of JSON that is read."""

LARGEST_YAML, MOST_NODES, DEEPEST = 1_000_000, 100_000, 32
"""Bytes, values (each counted as often as an alias repeats it) and levels of a YAML file."""


def canonical_json(value: Any) -> str:
    """Return the JSON text that equal values share: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_key(spec: Mapping[str, Any], fingerprint: str) -> str:
    """Return the 12 hex digits that name a run: its spec, its films, the results' version."""
    facts = {"spec": spec, "cohort": fingerprint, "results_version": RESULTS_VERSION}
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:12]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content; StoreError where it can't be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, for their owner alone.

    Raises:
        OSError: they can't be made.
    """
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def refuse_odd(path: Path) -> None:
    """Raise StoreError where a file can't be written in place of `path`: a pipe, a device, ..."""
    with contextlib.suppress(OSError):  # missing; what else is wrong the writing says
        if kind := other_than_file(path.stat().st_mode):
            raise StoreError(f"{path} is a {kind}, which is not written over; name another file")


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[io.BufferedWriter]:
    """Give a file to write in place of `path`, which changes only when all is written.

    Args:
        path: its folder is made where it is missing.

    Raises:
        StoreError: it is there and is no file, the folder can't be written, or the disk is full;
            nothing is left behind.
    """
    refuse_odd(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        make_folder(path.parent)
        part.touch(mode=0o600, exist_ok=False)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise StoreError(f"can't write {path}: {reason(error)}") from error
        raise


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left behind; only under `lock`."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with write_atomically(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Return what `write_json` wrote; StoreError where that can't be."""
    try:
        return json.loads(read_regular(path, LARGEST_TEXT))
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise StoreError(f"{path} is not JSON ({error})") from error


class _Bounded(yaml.SafeLoader):
    """A loader of YAML whose values, with aliases written out, are few and not deep."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self.level = 0
        self.extents: dict[int, tuple[int, int]] = {}  # by node: values in it, levels of it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; YAMLError where it is too large."""
        self.level += 1
        self._refuse(0, self.level)
        repeated = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self.level -= 1
        if node is None:
            return None
        if not repeated:
            extents = [self.extents[id(child)] for child in _children(node)]
            levels = 1 + max((level for _, level in extents), default=0)
            self.extents[id(node)] = 1 + sum(values for values, _ in extents), levels
        elif id(node) not in self.extents:  # it is still being read
            raise yaml.YAMLError("a value that contains itself")
        self._refuse(*self.extents[id(node)])
        return node

    def _refuse(self, values: int, levels: int) -> None:
        if values > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES:,} values, with aliases written out")
        if levels > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text; ValueError where it is none, too large or too deep."""
    try:
        loader = _Bounded(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # a date in month 13
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML file, none of an empty one.

    Raises:
        StoreError: it can't be read, is too large or too deep, or holds no names and values.
    """
    try:
        tree = parse_yaml(read_regular(path, LARGEST_YAML))
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    except ValueError as error:
        raise StoreError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict | None):
        raise StoreError(f"{path} holds no settings; expected lines as `seed: 1`")
    return tree or {}


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with write_atomically(path) as file:
        for record in records:
            file.write((json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what `write_lines` wrote; StoreError where that can't be."""
    try:
        records = [json.loads(line) for line in read_regular(path, LARGEST_TEXT).splitlines()]
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise StoreError(f"{path} is not lines of JSON ({error})") from error
    if not all(isinstance(record, dict) for record in records):
        raise StoreError(f"{path} is not lines of JSON objects")
    return records


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as a compressed .npz without pickles."""
    with write_atomically(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz; StoreError where it can't be read without pickles."""
    try:
        # numpy leaves a file that it opened itself open where the archive is damaged.
        with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
            return {name: with_characters(archive[name]) for name in archive.files}
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    except (ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise StoreError(f"can't read {path}: {error}") from error


def with_characters(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array, of text only where all of it is text; ValueError for other numbers.

    A file's text is 32 bits a character, and Python ends in an error of its own where it meets a
    number that Unicode doesn't have.
    """
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
        if codes.max() > sys.maxunicode:
            raise ValueError("it holds text that no character stands for")
    return array


@contextlib.contextmanager
def lock(folder: Path, *, name: str = LOCK, shared: bool = False, wait: str = "") -> Iterator[None]:
    """Hold `folder` against a second process.

    Args:
        folder: made where it is missing.
        name: of the file that is locked; it ends in ".lock". Locks of different names don't
            exclude each other.
        shared: whether others may hold it at the same time, shared as well.
        wait: what to log before waiting for the process that holds it; if left out, that is an
            error.

    Raises:
        StoreError: another process has it, or it can't be written.
    """
    try:
        file = _locked(folder, name, shared, wait)
    except OSError as error:
        raise StoreError(f"can't write {folder}: {reason(error)}") from error
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                # A folder in which nothing came to be is not left behind.
                empty = all(entry.name == name for entry in folder.iterdir())
                if not shared and (empty or name != LOCK):
                    (folder / name).unlink()
                if not shared and empty:
                    folder.rmdir()


def _locked(folder: Path, name: str, shared: bool, wait: str) -> IO[str]:
    try:
        import fcntl
    except ImportError:  # Windows: two processes in one folder are not told apart there
        make_folder(folder)
        return (folder / name).open("a")
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        make_folder(folder)
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(folder / name, "a", opener=_to_be_locked))
            except FileNotFoundError:  # the folder was removed meanwhile
                continue
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if not wait:
                    raise StoreError(
                        f"{folder} is in use by another leadapron process; wait, or name another"
                    ) from error
                logger.info("%s", wait)
                fcntl.flock(file, kind)
            # Who held it may have removed the file: then this lock is nobody's.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), (folder / name).stat()):
                    stack.pop_all()
                    return file


def _to_be_locked(path: str, flags: int) -> int:
    """Open or make the file that is locked; nothing is written into it.

    A folder may come from a stranger: a link in the file's place is not followed, and a pipe is an
    error, not something to wait at.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def manifest() -> dict[str, Any]:
    """Return what made the results: versions, commit, machine; no names of people or paths."""
    packages = ("leadapron", "numpy", "torch", "monai", "pillow", "scipy")
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "results_version": RESULTS_VERSION,
        "versions": versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        **_commit(),
    }


def _commit() -> dict[str, Any]:
    """Commit and dirty flag where the package runs from its own checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        call = ["git", "-C", str(here), *words]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def reason(error: OSError) -> str:
    """Return what the system says about an error, without a path."""
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space and start again"
    return error.strerror or str(error)
