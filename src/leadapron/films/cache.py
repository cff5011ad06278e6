"""Cache of decoded films: images in a memory-mapped file that later runs open at once.

An entry of the cache is a folder:

    FOLDER/KEY/facts.json      source, films, size, type, preprocessing and decoder
               images.npy      (n, size, size), filled block by block
               digests.bin     the first 16 bytes of the SHA-256 of each image
               blocks.jsonl    one line for each block that is on the disk: the SHA-256 of its
                               digests, the films' formats, and which films couldn't be decoded
               checked.json    state of images.npy when it last agreed with its digests

An entry is complete when every block has its line. KEY is a hash of each film's path, size and
times, the preprocessing, the decoder and the version of the results, so a stale entry is never
read.

Opening an entry compares a random sample of images with their digests, or all of them if images.npy
was modified since the last check. Blocks that changed are decoded again. This detects damage by a
disk, a copy or another program. It doesn't protect against someone who can write to the folder,
since they can change the digests too.

The folder also holds results of models; see `result_cache`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import os
import secrets
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from leadapron import store
from leadapron.errors import DataError, StoreError, UnknownNameError
from leadapron.films.decoding import give_up, processors
from leadapron.films.preprocessing import Preprocessing
from leadapron.reading import given_path, open_regular, read_regular, there
from leadapron.result_cache import KEY, LONGEST_WORDS, make_private, result_files
from leadapron.text import bytes_in_words, clean, count
from leadapron.types import Form, OnBad, Progress

__all__ = [
    "Cache",
    "Decodable",
    "Decoded",
    "Entry",
    "clear",
    "decode",
    "default_folder",
    "entries",
]

logger = logging.getLogger(__name__)

LAYOUT = 4
"""Version of an entry's files; part of its key."""

BLOCK_FILMS, BLOCK_BYTES = 1024, 64 << 20
"""Most films, and most bytes of images, in a block. If decoding is killed, one block is lost."""

FILMS_PER_TASK = 4

DIGEST = 16
"""Bytes of an image's digest (the start of its SHA-256)."""

SAMPLED_FILMS, SAMPLED_BYTES = 128, 8 << 20
"""Most films, and most bytes of images, compared with their digests at each opening."""

SETTLED = 0.1
"""Seconds since its last change after which a file's time stamps show any later change."""

LARGEST_LOG = 1 << 30
MOST_BLOCKS = 1_000_000
"""Most bytes of blocks.jsonl, and most blocks, that an entry may declare; more means damage."""
SKIPPABLE = "; remove the file, or use `on_bad` skip"


class Decodable(Protocol):
    """Films that can be decoded."""

    @property
    def paths(self) -> Sequence[str]:
        """The files of the films."""
        ...

    @property
    def decoder(self) -> str:
        """Everything else that the pixels depend on, such as versions of libraries."""
        ...

    def __len__(self) -> int:
        """Return the number of films."""
        ...

    def image(self, row: int, preprocessing: Preprocessing, /) -> tuple[NDArray[Any], Form]:
        """Return a film's image and its form; DataError if it can't be decoded."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Which films are decoded, where images are kept, and what happens to unreadable films.

    Args:
        folder: created if missing, readable by its owner alone; None keeps the images in memory.
        progress: called with the name of the step, the films done, and the total.
        on_bad: "stop" at the first film that can't be decoded, or "skip" and list it.
        choose: takes the number of films n and returns the rows to decode, ascending; all if left
            out.
    """

    folder: Path | None = None
    progress: Progress | None = None
    on_bad: OnBad = "stop"
    choose: Callable[[int], NDArray[np.int64]] | None = None


@dataclass(frozen=True)
class Decoded:
    """Images of films.

    Args:
        images: (n, size, size), memory-mapped and read-only if they are in the cache; images of
            unreadable films are black.
        forms: number of films of each form; unreadable films aren't counted.
        bad: the reason why a film couldn't be decoded, by row.
        digests: (n,) of 16 bytes, equal only for equal images.
    """

    images: NDArray[Any]
    forms: Counter[Form]
    bad: Mapping[int, str]
    digests: NDArray[np.bytes_]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One decoded data set.

    Args:
        folder: the entry's folder; its name is the key.
        facts: source, films, size, dtype, preprocessing and decoder.
        done: films decoded so far.
        size: bytes on the disk.
        used: seconds since 1970 when it was last opened.
    """

    folder: Path
    facts: Mapping[str, Any]
    done: int
    size: int
    used: float

    @property
    def complete(self) -> bool:
        """Whether all films are there."""
        return self.done == int(self.facts["films"])

    def damaged(self) -> int:
        """Read every block; return how many changed since they were written."""
        written = _written(self.folder, self.facts)
        return len(written) - len(_sound(self.folder, self.facts, written))


def default_folder(given: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the cache's folder: `given`, else LEADAPRON_CACHE, else the platform's.

    Args:
        given: a folder, or "none" for no cache.
    """
    words = os.fspath(given) if given is not None else os.environ.get("LEADAPRON_CACHE", "")
    if words.lower() == "none":
        return None
    if words:
        return given_path(words)
    from platformdirs import user_cache_path

    return user_cache_path("leadapron", appauthor=False)


def decode(films: Decodable, preprocessing: Preprocessing, cache: Cache, source: str) -> Decoded:
    """Return all films' images, decoded now or earlier.

    If two processes need the same films, the second waits for the first. Interrupted decoding
    resumes at the first missing block.

    Args:
        films: the films.
        preprocessing: film to image.
        cache: where images are kept, and whether an unreadable film stops the run.
        source: name of the films in the cache's list.

    Raises:
        DataError: the first film that can't be decoded, unless they are skipped; or no film can.
        StoreError: a cache that can't be read or written, or a disk that is too full.
    """
    n, side = len(films), preprocessing.size
    bytes_each = side * side * np.dtype(preprocessing.dtype).itemsize
    facts = {
        "source": clean(source, LONGEST_WORDS),
        "films": n,
        "size": side,
        "dtype": preprocessing.dtype,
        "preprocessing": asdict(preprocessing),
        "decoder": films.decoder,
        "block": max(1, min(BLOCK_FILMS, BLOCK_BYTES // bytes_each)),
    }
    if cache.folder is None:
        return _checked(_in_memory(films, preprocessing, facts, cache), cache)
    folder = cache.folder / _key(films, preprocessing, cache.on_bad)
    found = _open(folder, facts)
    if found is None:
        make_private(folder)
        wait = f"another process is decoding {facts['source']}; waiting for it"
        with store.lock(folder, wait=wait):
            found = _open(folder, facts, all_of_it=True)
            if found is None:
                _fill(folder, films, preprocessing, facts, cache)
                found = _open(folder, facts, all_of_it=True)
    if found is None:
        raise StoreError(f"{folder} was changed by another program during decoding; start again")
    with contextlib.suppress(OSError):
        os.utime(folder / "facts.json")  # says when the entry was last used
    return _checked(found, cache)


def _checked(found: Decoded, cache: Cache) -> Decoded:
    """Raise if unreadable films, including those skipped earlier, stop this run."""
    if found.bad and (cache.on_bad == "stop" or len(found.bad) == len(found.images)):
        first = found.bad[min(found.bad)]
        more = len(found.bad) - 1
        words = f" ({more} more can't be decoded)" if more else ""
        raise DataError(f"{first}{words}{SKIPPABLE if cache.on_bad == 'stop' else ''}")
    return found


def entries(folder: Path) -> list[Entry]:
    """Return what a cache holds, the last used first.

    Raises:
        StoreError: a cache that can't be read.
    """
    found = []
    for path in _inside(folder):
        if not KEY.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError, StoreError):
            facts = _facts_in(path)
            written = _written(path, facts)
            done = sum(len(block) for block in _blocks(facts) if block.start in written)
            used = (path / "facts.json").stat().st_mtime
            bytes_held = sum(_bytes_held(file) for file in path.iterdir())
            found.append(Entry(folder=path, facts=facts, done=done, size=bytes_held, used=used))
    return sorted(found, key=lambda entry: -entry.used)


def _inside(folder: Path) -> list[Path]:
    """Contents of the cache's folder, empty if it doesn't exist."""
    if not there(folder):
        return []
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise StoreError(f"can't read the cache {folder}: {store.reason(error)}") from error


def _facts_in(folder: Path) -> dict[str, Any]:
    """An entry's facts; StoreError unless each has the right type."""
    facts = store.read_json(folder / "facts.json")
    sound = (
        isinstance(facts, dict)
        and all(type(facts.get(n)) is int and facts[n] > 0 for n in ("films", "size", "block"))
        and facts["films"] <= MOST_BLOCKS * min(facts["block"], BLOCK_FILMS)
        and all(isinstance(facts.get(n), str) for n in ("source", "dtype", "decoder"))
        and facts["dtype"] in ("uint8", "uint16")
    )
    if not sound:
        raise StoreError(f"{folder / 'facts.json'} doesn't describe decoded films")
    words = {name: clean(facts[name], LONGEST_WORDS) for name in ("source", "decoder")}
    return {**facts, **words}


def clear(folder: Path, keys: Sequence[str] = ()) -> list[str]:
    """Remove entries and results.

    Args:
        folder: the cache's.
        keys: keys of the entries to remove; all if empty.

    Returns:
        The keys of those removed.

    Raises:
        UnknownNameError: no such entry.
        StoreError: an entry that is being filled.
    """
    names = [path.name for path in _inside(folder)]
    films = {name for name in names if KEY.fullmatch(name)}
    kept = {path.stem: path for path in result_files(folder)}
    known = films | set(kept)
    for key in keys:
        if key not in known:
            raise UnknownNameError("cache entry", key, known)
    removed = sorted(set(keys) or known)
    for key in removed:
        try:
            if key in kept:
                kept[key].unlink(missing_ok=True)
            if key in films:
                _remove(folder / key)
        except OSError as error:
            raise StoreError(f"can't remove {folder / key}: {error.strerror}") from error
    return removed


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        with store.lock(entry):
            shutil.rmtree(entry)
    else:  # nothing that was made here
        entry.unlink(missing_ok=True)


def _key(films: Decodable, preprocessing: Preprocessing, on_bad: OnBad) -> str:
    """Sixteen hex digits that change with anything that the images depend on."""
    facts = {
        "layout": LAYOUT,
        "results": store.RESULTS_VERSION,
        "decoder": films.decoder,
        "preprocessing": asdict(preprocessing),
    }
    digest = hashlib.sha256(store.canonical_json(facts).encode())
    for path in films.paths:
        try:
            at = os.stat(path)  # noqa: PTH116 (called for every film)
        except OSError as error:
            if on_bad == "stop":
                raise DataError(f"{Path(path).name}: {error.strerror}{SKIPPABLE}") from error
            times = "absent"
        else:
            # The change time too: a file's content can be replaced with its old size and date.
            times = f"{at.st_size}\0{at.st_mtime_ns}\0{at.st_ctime_ns}"
        line = f"{os.path.abspath(path)}\0{times}\n"  # noqa: PTH100
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _blocks(facts: Mapping[str, Any]) -> list[range]:
    """Rows in the order in which they are decoded and written."""
    n, size = int(facts["films"]), int(facts["block"])
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def _in_memory(
    films: Decodable, preprocessing: Preprocessing, facts: Mapping[str, Any], cache: Cache
) -> Decoded:
    shape = (len(films), preprocessing.size, preprocessing.size)
    needed = math.prod(shape) * np.dtype(preprocessing.dtype).itemsize
    free = _free_memory()
    if free is not None and needed > free:  # filling it would end this program, or another one
        raise _too_little(needed, bytes_in_words(free))
    try:
        images: NDArray[Any] = np.zeros(shape, preprocessing.dtype)
    except MemoryError:
        raise _too_little(needed, "less") from None

    def room(block: range) -> NDArray[Any]:
        return images[block.start : block.stop]

    found = _Found()
    for _, _, part in _decoded(films, preprocessing, _blocks(facts), room, cache):
        found.add(part)
    return Decoded(images, found.forms, found.bad, _as_digests(found.digests))


def _too_little(needed: int, there_is: str) -> StoreError:
    return StoreError(
        f"decoded films need {bytes_in_words(needed)} of memory and {there_is} is free; keep "
        "them on disk with `cache` FOLDER"
    )


def _free_memory() -> int | None:
    """Free memory in bytes; None if the system doesn't report it."""
    try:
        lines = read_regular("/proc/meminfo", 1 << 16).decode().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


@dataclass
class _Found:
    """Forms of some films, which can't be decoded, and the concatenated digests of their images."""

    forms: Counter[Form] = field(default_factory=Counter)
    bad: dict[int, str] = field(default_factory=dict)
    digests: bytes = b""

    def add(self, other: _Found) -> None:
        self.forms.update(other.forms)
        self.bad.update(other.bad)
        self.digests += other.digests


def _digest_of(image: NDArray[Any]) -> bytes:
    return hashlib.sha256(image.data).digest()[:DIGEST]


def _as_digests(row: bytes) -> NDArray[np.bytes_]:
    return np.frombuffer(row, f"S{DIGEST}")


def _decoded(
    films: Decodable,
    preprocessing: Preprocessing,
    todo: Sequence[range],
    room: Callable[[range], NDArray[Any]],
    cache: Cache,
) -> Iterator[tuple[range, NDArray[Any], _Found]]:
    """Yield blocks of rows, their images and what was found; the next block is decoded meanwhile.

    A worker holds one film at a time. The first unreadable film stops the run unless those are
    skipped; Ctrl-C stops it too.
    """
    stop = threading.Event()

    def task(rows: range, images: NDArray[Any]) -> tuple[int, _Found]:
        found = _Found()
        for place, row in enumerate(rows):
            if stop.is_set():
                break
            try:
                images[place], form = films.image(row, preprocessing)
            except DataError as error:
                if cache.on_bad == "stop":
                    raise DataError(f"{error}{SKIPPABLE}") from None
                images[place] = 0
                found.bad[row] = clean(str(error), LONGEST_WORDS)
            else:
                found.forms[form] += 1
            found.digests += _digest_of(images[place])
        return len(rows), found

    total, done = sum(map(len, todo)), 0
    logger.info("decoding %s", count(total, "film"))
    waiting: deque[tuple[range, NDArray[Any], list[Future[tuple[int, _Found]]]]] = deque()
    with _threads(stop) as executor:
        for block in (*todo, None):
            if block is not None:
                images = room(block)
                starts = range(0, len(block), FILMS_PER_TASK)
                futures = [
                    executor.submit(
                        task, block[i : i + FILMS_PER_TASK], images[i : i + FILMS_PER_TASK]
                    )
                    for i in starts
                ]
                waiting.append((block, images, futures))
            while len(waiting) > (block is not None):
                ready, images, futures = waiting.popleft()
                found = _Found()
                for future in futures:  # in order, so that of several bad films the first is named
                    looked_at, part = future.result()
                    found.add(part)
                    done += looked_at
                    if cache.progress is not None:
                        cache.progress("decoding", done, total)
                yield ready, images, found


@contextlib.contextmanager
def _threads(stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads to decode with; on exit `stop` is set and they have ended."""
    executor = ThreadPoolExecutor(processors(), thread_name_prefix="leadapron-decode")
    try:
        yield executor
    except (KeyboardInterrupt, GeneratorExit):
        stop.set()
        give_up()  # a film may take a minute
        raise
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def _fill(
    folder: Path,
    films: Decodable,
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
    cache: Cache,
) -> None:
    """Decode the blocks that an entry lacks; only under its lock."""
    shape, dtype = _form(facts)
    written = _written(folder, facts)
    if written:
        before = len(written)
        written = _sound(folder, facts, written)
        logger.info("going on: %d of %d blocks are there", len(written), len(_blocks(facts)))
        if len(written) < before:
            logger.warning(
                "%d of %d blocks of films in %s are damaged; decoding them again",
                before - len(written),
                before,
                folder,
            )
    missing = [block for block in _blocks(facts) if block.start not in written]
    each = shape[1] * shape[2] * dtype.itemsize
    _refuse_full_disk(folder, sum(map(len, missing)) * each)
    try:
        for name in ("facts.json", "blocks.jsonl", "images.npy", "digests.bin", "checked.json"):
            _clear_way(folder / name)
        store.write_json(folder / "facts.json", facts)
        store.write_lines(folder / "blocks.jsonl", (line.plain() for line in written.values()))
        # Not through a memory map: a full disk would kill the process.
        with (
            _to_fill(folder / "images.npy") as images,
            _to_fill(folder / "digests.bin") as digests,
        ):
            header = _header(facts)
            images.write(header)
            images.truncate(len(header) + shape[0] * each)
            digests.truncate(shape[0] * DIGEST)

            def room(block: range) -> NDArray[Any]:
                return np.empty((len(block), *shape[1:]), dtype)

            for block, pixels, found in _decoded(films, preprocessing, missing, room, cache):
                images.seek(len(header) + block.start * each)
                images.write(pixels.data)
                digests.seek(block.start * DIGEST)
                digests.write(found.digests)
                for file in (images, digests):
                    file.flush()
                    os.fsync(file.fileno())
                line = _Line(block.start, hashlib.sha256(found.digests).hexdigest(), found)
                with (folder / "blocks.jsonl").open("a") as log:
                    log.write(json.dumps(line.plain(), sort_keys=True) + "\n")
    except OSError as error:
        raise StoreError(f"can't write {folder}: {store.reason(error)}") from error


def _clear_way(path: Path) -> None:
    """Remove whatever isn't a regular file where one is needed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or not path.is_file():
        path.unlink(missing_ok=True)


def _to_fill(path: Path) -> BinaryIO:
    """Open a file for writing in parts; only its owner can read it."""
    path.touch(mode=0o600)
    return path.open("r+b")


# --- an entry's files, which may be damaged


@dataclass(frozen=True)
class _Line:
    """The line of a block in blocks.jsonl.

    Args:
        start: its first row.
        sha256: of its images' digests.
        found: the forms of its films and which are unreadable, without digests.
    """

    start: int
    sha256: str
    found: _Found

    def plain(self) -> dict[str, Any]:
        forms = [[form.plain(), n] for form, n in self.found.forms.items()]
        bad = {str(row): words for row, words in self.found.bad.items()}
        return {"start": self.start, "sha256": self.sha256, "forms": forms, "bad": bad}

    @classmethod
    def parsed(cls, text: bytes, blocks: Mapping[int, range]) -> Self:
        """Return the line; ValueError, KeyError or TypeError unless it is one of a block."""
        line = json.loads(text)
        block = blocks[line["start"]]
        forms = {Form.parsed(facts): n for facts, n in line["forms"]}
        bad = {int(row): words for row, words in line["bad"].items()}
        known = sum(forms.values()) + len(bad) == len(block) and set(bad) <= set(block)
        counted = all(type(n) is int and n > 0 for n in forms.values())
        shown = all(words == clean(words, LONGEST_WORDS) for words in bad.values())
        if not (known and shown and counted):
            raise ValueError("not a line of a block")
        return cls(block.start, str(line["sha256"]), _Found(Counter(forms), bad))


def _written(folder: Path, facts: Mapping[str, Any]) -> dict[int, _Line]:
    """Lines of the finished blocks by their first row; broken ones are left out."""
    blocks = {block.start: block for block in _blocks(facts)}
    lines: dict[int, _Line] = {}
    with contextlib.suppress(OSError):
        for text in read_regular(folder / "blocks.jsonl", LARGEST_LOG).splitlines():
            with contextlib.suppress(
                ValueError, KeyError, TypeError, AttributeError, RecursionError
            ):
                line = _Line.parsed(text, blocks)
                lines[line.start] = line
    return dict(sorted(lines.items()))


def _form(facts: Mapping[str, Any]) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    return (facts["films"], facts["size"], facts["size"]), np.dtype(facts["dtype"])


def _header(facts: Mapping[str, Any]) -> bytes:
    """Header of images.npy."""
    shape, dtype = _form(facts)
    header = io.BytesIO()
    about = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, about)
    return header.getvalue()


@dataclass(frozen=True)
class _Held:
    """An entry's files, of the right sizes.

    Args:
        images: (n, size, size).
        digests: n times 16 bytes, the digests of the images.
        stamp: device, inode, size and times of images.npy.
        settled: whether its last change is old enough that any later change alters the stamp.
    """

    images: NDArray[Any]
    digests: bytes
    stamp: list[int]
    settled: bool

    def digests_of(self, rows: range) -> bytes:
        """Return the concatenated digests of some rows."""
        return self.digests[rows.start * DIGEST : rows.stop * DIGEST]

    def changed(self, rows: Iterable[int]) -> bool:
        """Return whether the images of some rows differ from their digests."""
        images = np.asarray(self.images)
        return any(_digest_of(images[row]) != self.digests_of(range(row, row + 1)) for row in rows)


def _held(folder: Path, facts: Mapping[str, Any]) -> _Held | None:
    shape, dtype = _form(facts)
    header, pixels = _header(facts), math.prod(shape) * dtype.itemsize
    try:
        with open_regular(folder / "images.npy") as file:
            at = os.fstat(file.fileno())
            if at.st_size != len(header) + pixels or file.read(len(header)) != header:
                return None
            images = np.memmap(file, dtype, "r", len(header), shape)
        digests = read_regular(folder / "digests.bin", shape[0] * DIGEST)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise StoreError(f"{folder} can't be opened: there is too little memory") from error
        return None
    if len(digests) != shape[0] * DIGEST:
        return None
    return _Held(
        images=images,
        digests=digests,
        stamp=[at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino],
        settled=time.time_ns() - max(at.st_mtime_ns, at.st_ctime_ns) > SETTLED * 1e9,
    )


def _open(folder: Path, facts: Mapping[str, Any], *, all_of_it: bool = False) -> Decoded | None:
    """Return an entry's images, or None if it is incomplete or was changed.

    Args:
        folder: the entry's.
        facts: the facts it must have.
        all_of_it: compare every image with its digest, even if the file's times are unchanged.
    """
    written = _written(folder, facts)
    if len(written) < len(_blocks(facts)):
        return None
    held = _held(folder, facts)
    if held is None:
        return None
    n, checked = facts["films"], folder / "checked.json"
    try:
        known = not all_of_it and store.read_json(checked) == held.stamp
    except StoreError:
        known = False
    if known:
        most = max(1, min(SAMPLED_FILMS, SAMPLED_BYTES // held.images[0].nbytes))
        # Unseeded on purpose: damage that one opening misses, another finds.
        rows: Iterable[int] = secrets.SystemRandom().sample(range(n), min(n, most))
    else:
        rows = range(n)
    if len(_agreed(held, facts, written)) < len(written) or held.changed(rows):
        return None
    if held.settled and not known:
        with contextlib.suppress(StoreError):
            store.write_json(checked, held.stamp)
    found = _Found()
    for line in written.values():
        found.add(line.found)
    return Decoded(held.images, found.forms, found.bad, _as_digests(held.digests))


def _agreed(
    held: _Held, facts: Mapping[str, Any], written: Mapping[int, _Line]
) -> dict[int, _Line]:
    """Lines of the blocks whose digests agree with their checksum."""
    return {
        block.start: written[block.start]
        for block in _blocks(facts)
        if block.start in written
        and hashlib.sha256(held.digests_of(block)).hexdigest() == written[block.start].sha256
    }


def _sound(
    folder: Path, facts: Mapping[str, Any], written: Mapping[int, _Line]
) -> dict[int, _Line]:
    """Return the lines of the blocks whose images are undamaged."""
    held = _held(folder, facts)
    if held is None:
        return {}
    blocks = {block.start: block for block in _blocks(facts)}
    return {
        start: line
        for start, line in _agreed(held, facts, written).items()
        if not held.changed(blocks[start])
    }


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"decoded films need {bytes_in_words(needed)} and the cache's disk has "
            f"{bytes_in_words(free)} free; name another folder with `cache` FOLDER, or see "
            "leadapron cache list"
        )


def _bytes_held(file: Path) -> int:
    """Bytes used on disk; the nominal size of a file that is being filled is larger."""
    facts = file.stat()
    return facts.st_blocks * 512 if hasattr(facts, "st_blocks") else facts.st_size
