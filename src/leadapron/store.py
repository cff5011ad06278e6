"""Files on disk: atomic writes, keys of runs, the manifest.

Only the owner can read what is written (files 0600 in folders 0700), since nearly all of it holds
patients' films, or paths that may name them. Permissions of existing folders aren't changed.
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
"""Version of results, part of every run's key: raise it when equal specs give other numbers."""

SCHEMA = 1
"""Version of the layout of rows."""

LOCK = ".lock"
"""Name of the file that is locked to reserve a folder."""

LARGEST_TEXT = 1 << 30
"""Most bytes of a JSON file."""

LARGEST_YAML, MOST_NODES, DEEPEST = 1_000_000, 100_000, 32
"""Most bytes, values (counted as often as aliases repeat them) and levels of a YAML file."""


def canonical_json(value: Any) -> str:
    """Return canonical JSON, equal for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_key(spec: Mapping[str, Any], fingerprint: str) -> str:
    """Return a run's key, 12 hex digits of its spec, films and the results' version."""
    facts = {"spec": spec, "cohort": fingerprint, "results_version": RESULTS_VERSION}
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:12]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content; StoreError if it can't be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error


def make_folder(path: Path) -> None:
    """Create a folder and missing parents, readable by the owner alone.

    Raises:
        OSError: they can't be made.
    """
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def refuse_odd(path: Path) -> None:
    """Raise StoreError if `path` can't be replaced by a file: a pipe, a device, ..."""
    with contextlib.suppress(OSError):  # missing; writing reports other errors
        if kind := other_than_file(path.stat().st_mode):
            raise StoreError(f"{path} is a {kind}, which isn't overwritten; choose another file")


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[io.BufferedWriter]:
    """Yield a file that replaces `path` once it is completely written.

    Args:
        path: the file; its folder is created if missing.

    Raises:
        StoreError: it exists and isn't a file, the folder can't be written, or the disk is full;
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
    """Remove leftovers of killed writers; only under `lock`."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with write_atomically(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Return the value that `write_json` wrote; StoreError if that fails."""
    try:
        return json.loads(read_regular(path, LARGEST_TEXT))
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise StoreError(f"{path} is not JSON ({error})") from error


class _Bounded(yaml.SafeLoader):
    """A loader of YAML with limits on the number of values, including aliases, and on depth."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self.level = 0
        self.extents: dict[int, tuple[int, int]] = {}  # by node: values in it, levels of it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; YAMLError if it is too large."""
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
            raise yaml.YAMLError(f"more than {MOST_NODES:,} values, including aliases")
        if levels > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text; ValueError if it is invalid, too large or too deep."""
    try:
        loader = _Bounded(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # a date in month 13
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path, most: int = LARGEST_YAML) -> dict[str, Any]:
    """Return the settings in a YAML file; empty for an empty file.

    Args:
        path: the file.
        most: most bytes of it.

    Raises:
        StoreError: it can't be read, is too large or too deep, or doesn't hold names and values.
    """
    try:
        tree = parse_yaml(read_regular(path, most))
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    except ValueError as error:
        raise StoreError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict | None):
        raise StoreError(f"{path} holds no settings; expected lines such as `seed: 1`")
    return tree or {}


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    with write_atomically(path) as file:
        for record in records:
            file.write((json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects that `write_lines` wrote; StoreError if that fails."""
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
    """Return the arrays of an .npz; StoreError if it can't be read without pickles."""
    try:
        # numpy doesn't close a file that it opened itself if the archive is damaged.
        with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
            return {name: with_characters(archive[name]) for name in archive.files}
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}") from error
    except (ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise StoreError(f"can't read {path}: {error}") from error


def with_characters(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array after checking its text; ValueError for invalid characters.

    Text in a file has 32 bits per character, and Python raises its own error for values outside
    Unicode.
    """
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
        if codes.max() > sys.maxunicode:
            raise ValueError("it holds text with invalid characters")
    return array


@contextlib.contextmanager
def lock(folder: Path, *, name: str = LOCK, shared: bool = False, wait: str = "") -> Iterator[None]:
    """Lock `folder` against other processes.

    Args:
        folder: created if missing.
        name: name of the locked file, ending in ".lock". Locks with different names are
            independent.
        shared: whether other shared locks are allowed at the same time.
        wait: message to log before waiting for the process that has the lock; if left out, a locked
            folder is an error.

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
                # Remove a folder that stayed empty.
                empty = all(entry.name == name for entry in folder.iterdir())
                if not shared and (empty or name != LOCK):
                    (folder / name).unlink()
                if not shared and empty:
                    folder.rmdir()


def _locked(folder: Path, name: str, shared: bool, wait: str) -> IO[str]:
    try:
        import fcntl
    except ImportError:  # Windows: no locking there
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
                        f"{folder} is in use by another leadapron process; wait, or choose "
                        "another folder"
                    ) from error
                logger.info("%s", wait)
                fcntl.flock(file, kind)
            # The previous owner may have removed the file; then this lock has no effect.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), (folder / name).stat()):
                    stack.pop_all()
                    return file


def _to_be_locked(path: str, flags: int) -> int:
    """Open or create the file to lock; nothing is written into it.

    A folder may be untrusted: a link in the file's place isn't followed, and a pipe is an error
    instead of blocking.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def manifest() -> dict[str, Any]:
    """Return the provenance of results: versions, commit, machine; no names of people or paths."""
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
    """Commit and dirty flag if the package runs from its own checkout."""
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
    """Return the system's message about an error, without a path."""
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space and start again"
    return error.strerror or str(error)
