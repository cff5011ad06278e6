"""Films decoded once: images in a memory-mapped file that later runs open in no time.

An entry of the cache is a folder:

    FOLDER/KEY/facts.json      what it holds
               images.npy      (n, size, size), filled block by block
               blocks.jsonl    one line for each block that is on the disk: its SHA-256, what its
                               films are, and which of them couldn't be decoded

It is complete when every block has its line. KEY stands for each film's path, size and times, the
preprocessing, the decoder and the version of the results, so nothing stale is ever read.

Results that take long, such as a model's sweep, are kept beside the films:

    FOLDER/results/KEY.json    what decides it, the result, and the SHA-256 of both

One that can't be read, or isn't what was written, is as if it weren't there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from leadapron import store
from leadapron.decoding import give_up, processors
from leadapron.errors import DataError, StoreError, UnknownNameError
from leadapron.preprocessing import Preprocessing
from leadapron.types import Form

__all__ = [
    "Cache",
    "Decodable",
    "Decoded",
    "Entry",
    "OnBad",
    "Result",
    "clear",
    "decode",
    "default_folder",
    "entries",
    "keep",
    "make_private",
    "recall",
    "results",
]

logger = logging.getLogger(__name__)

LAYOUT = 3
"""Version of an entry's files; part of its key."""

BLOCK_FILMS, BLOCK_BYTES = 1024, 64 << 20
"""Most films, and bytes of images, in a block: what is lost when decoding is killed."""

FILMS_PER_TASK = 4
SKIPPABLE = "; take it away, or --on-bad skip"
KEY = re.compile(r"[0-9a-f]{16}")
RESULTS = "results"

Progress = Callable[[str, int, int], None]
OnBad = Literal["stop", "skip"]


class Decodable(Protocol):
    """Films that can be decoded."""

    @property
    def paths(self) -> Sequence[str]:
        """The files that they lie in."""
        ...

    @property
    def decoder(self) -> str:
        """What else their pixels depend on, versions among it."""
        ...

    def __len__(self) -> int:
        """Return the number of films."""
        ...

    def image(self, row: int, preprocessing: Preprocessing, /) -> tuple[NDArray[Any], Form]:
        """Return a film's image and what the film is; DataError for a bad one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where decoded films are kept, and what becomes of bad ones.

    Args:
        folder: made where it is missing, readable by its owner alone; None keeps them in memory.
        progress: called with what is being done, the films done and in all.
        on_bad: "stop" at the first film that can't be decoded, or "skip" and list it.
    """

    folder: Path | None = None
    progress: Progress | None = None
    on_bad: OnBad = "stop"


@dataclass(frozen=True)
class Decoded:
    """Images of films.

    Args:
        images: (n, size, size), memory-mapped and read-only if they are in the cache; rows of bad
            films are black.
        forms: how many films are of each form; bad ones have none.
        bad: what is wrong with the films that couldn't be decoded, by row.
    """

    images: NDArray[Any]
    forms: Counter[Form]
    bad: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One decoded data set.

    Args:
        folder: where it lies; its name is the entry's key.
        facts: what it holds: source, films, size, dtype, preprocessing, decoder.
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
        lines = _lines(self.folder)
        return len(lines) - len(_sound(self.folder, self.facts, lines))


@dataclass(frozen=True, kw_only=True)
class Result:
    """A result that is kept beside the films.

    Args:
        key: its file's name, without the ending.
        about: what it is, in words.
        size: bytes.
        used: seconds since 1970 when it was last read.
    """

    key: str
    about: str
    size: int
    used: float


def default_folder(given: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the cache's folder: `given`, else LEADAPRON_CACHE, else the platform's.

    Args:
        given: a folder, or "none" for no cache.
    """
    words = os.fspath(given) if given is not None else os.environ.get("LEADAPRON_CACHE", "")
    if words.lower() == "none":
        return None
    if words:
        return Path(words).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("leadapron", appauthor=False)


def decode(films: Decodable, preprocessing: Preprocessing, cache: Cache, source: str) -> Decoded:
    """Return all films' images, decoded now or earlier.

    Two processes may ask for the same films; the second waits for the first. Broken off, decoding
    goes on at the first block that is missing.

    Args:
        films: the films.
        preprocessing: film to image.
        cache: where the images are kept, and whether a bad film stops.
        source: what to call the films in the cache's list.

    Raises:
        DataError: the first film that can't be decoded, unless they are skipped; or no film can.
        StoreError: a cache that can't be read or written, or a disk that is too full.
    """
    n, side = len(films), preprocessing.size
    bytes_each = side * side * np.dtype(preprocessing.dtype).itemsize
    facts = {
        "source": source,
        "films": n,
        "size": side,
        "dtype": preprocessing.dtype,
        "preprocessing": asdict(preprocessing),
        "decoder": films.decoder,
        "block": max(1, min(BLOCK_FILMS, BLOCK_BYTES // bytes_each)),
    }
    if cache.folder is None:
        return _checked(_in_memory(films, preprocessing, facts, cache), cache)
    folder = cache.folder / _key(films, preprocessing)
    found = _open(folder, facts)
    if found is None:
        make_private(folder)
        with store.lock(folder, wait=f"another process decodes {source}; waiting for it"):
            found = _open(folder, facts)
            if found is None:
                _fill(folder, films, preprocessing, facts, cache)
                found = _open(folder, facts)
    if found is None:
        raise StoreError(f"{folder} changed while it was written; start again")
    with contextlib.suppress(OSError):
        os.utime(folder / "facts.json")  # says when the entry was last used
    return _checked(found, cache)


def _checked(found: Decoded, cache: Cache) -> Decoded:
    """Raise where bad films, skipped now or earlier, stop this run."""
    if found.bad and (cache.on_bad == "stop" or len(found.bad) == len(found.images)):
        first = found.bad[min(found.bad)]
        more = len(found.bad) - 1
        words = f" ({more} more can't be decoded)" if more else ""
        raise DataError(f"{first}{words}{SKIPPABLE if cache.on_bad == 'stop' else ''}")
    return found


def entries(folder: Path) -> list[Entry]:
    """Return what a cache holds, the last used first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if not KEY.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError, StoreError, KeyError, TypeError):
            facts, lines = store.read_json(path / "facts.json"), _lines(path)
            done = sum(len(block) for block in _blocks(facts) if block.start in lines)
            used = (path / "facts.json").stat().st_mtime
            bytes_held = sum(_bytes_held(file) for file in path.iterdir())
            found.append(Entry(folder=path, facts=facts, done=done, size=bytes_held, used=used))
    return sorted(found, key=lambda entry: -entry.used)


def keep(folder: Path, facts: Mapping[str, Any], value: Any, about: str) -> None:
    """Keep a result, in place of an older one.

    Args:
        folder: the cache's.
        facts: all that decides the result, as plain values.
        value: the result, as plain finite values.
        about: what it is, in words, for the cache's list.

    Raises:
        StoreError: a cache that can't be written.
    """
    make_private(folder / RESULTS)
    kept = {"about": about, "facts": facts, "value": value, "sha256": _digest([facts, value])}
    store.write_json(_result_file(folder, facts), kept)


def recall(folder: Path, facts: Mapping[str, Any]) -> Any:
    """Return the result that was kept for these facts; None where there is none, or a broken one.

    Args:
        folder: the cache's.
        facts: as given to `keep`.
    """
    file = _result_file(folder, facts)
    try:
        kept = store.read_json(file)
        value = kept["value"]
        sound = kept["sha256"] == _digest([facts, value])
    except (StoreError, KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # says when it was last used
    return value


def results(folder: Path) -> list[Result]:
    """Return the results that a cache holds, the last used first."""
    found = []
    for path in _result_files(folder):
        with contextlib.suppress(OSError, StoreError, KeyError, TypeError):
            about, facts = str(store.read_json(path)["about"]), path.stat()
            found.append(
                Result(key=path.stem, about=about, size=facts.st_size, used=facts.st_mtime)
            )
    return sorted(found, key=lambda result: -result.used)


def clear(folder: Path, keys: Sequence[str] = ()) -> list[str]:
    """Remove entries and results.

    Args:
        folder: the cache's.
        keys: which; all of them if none is named.

    Returns:
        The keys of those removed.

    Raises:
        UnknownNameError: no such entry.
        StoreError: an entry that is being filled.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    films = {name for name in names if KEY.fullmatch(name)}
    kept = {path.stem: path for path in _result_files(folder)}
    there = films | set(kept)
    for key in keys:
        if key not in there:
            raise UnknownNameError("cache entry", key, there)
    removed = sorted(set(keys) or there)
    for key in removed:
        try:
            if key in kept:
                kept[key].unlink(missing_ok=True)
            if key in films:
                with store.lock(folder / key):
                    shutil.rmtree(folder / key)
        except OSError as error:
            raise StoreError(f"can't remove {folder / key}: {error.strerror}") from error
    return removed


def _digest(value: Any) -> str:
    return hashlib.sha256(store.canonical_json(value).encode()).hexdigest()


def _result_file(folder: Path, facts: Mapping[str, Any]) -> Path:
    return folder / RESULTS / f"{_digest(facts)[:16]}.json"


def _result_files(folder: Path) -> list[Path]:
    """All of them, broken ones too."""
    return [path for path in (folder / RESULTS).glob("*.json") if KEY.fullmatch(path.stem)]


def _key(films: Decodable, preprocessing: Preprocessing) -> str:
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
            raise DataError(f"{Path(path).name}: {error.strerror}") from error
        # The change time too: a file's content can be replaced with its old size and date.
        times = f"{at.st_mtime_ns}\0{at.st_ctime_ns}"
        line = f"{os.path.abspath(path)}\0{at.st_size}\0{times}\n"  # noqa: PTH100
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
    images: NDArray[Any] = np.zeros(shape, preprocessing.dtype)

    def room(block: range) -> NDArray[Any]:
        return images[block.start : block.stop]

    found = _Found(Counter(), {})
    for _, _, part in _decoded(films, preprocessing, _blocks(facts), room, cache):
        found.add(part.forms, part.bad)
    return Decoded(images, found.forms, found.bad)


@dataclass
class _Found:
    """What some films are, and which can't be decoded."""

    forms: Counter[Form]
    bad: dict[int, str]

    def add(self, forms: Iterable[Form] | Mapping[Form, int], bad: Mapping[int, str]) -> None:
        self.forms.update(forms)
        self.bad.update(bad)


def _decoded(
    films: Decodable,
    preprocessing: Preprocessing,
    todo: Sequence[range],
    room: Callable[[range], NDArray[Any]],
    cache: Cache,
) -> Iterator[tuple[range, NDArray[Any], _Found]]:
    """Yield blocks of rows, their images and what was found; the next is decoded meanwhile.

    A worker holds one film at a time. The first film that can't be decoded stops the run unless
    bad ones are skipped, and so does Ctrl-C.
    """
    stop = threading.Event()

    def task(rows: range, images: NDArray[Any]) -> tuple[int, _Found]:
        found = _Found(Counter(), {})
        for place, row in enumerate(rows):
            if stop.is_set():
                break
            try:
                images[place], form = films.image(row, preprocessing)
            except DataError as error:
                if cache.on_bad == "stop":
                    raise DataError(f"{error}{SKIPPABLE}") from None
                images[place] = 0
                found.add((), {row: str(error)})
            else:
                found.add([form], {})
        return len(rows), found

    total, done = sum(map(len, todo)), 0
    logger.info("decoding %d films", total)
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
                found = _Found(Counter(), {})
                for future in futures:  # in order, so that of several bad films the first is named
                    count, part = future.result()
                    found.add(part.forms, part.bad)
                    done += count
                    if cache.progress is not None:
                        cache.progress("decoding", done, total)
                yield ready, images, found


@contextlib.contextmanager
def _threads(stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads to decode with; in the end `stop` is set and they are gone."""
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
    shape, dtype = (facts["films"], facts["size"], facts["size"]), np.dtype(facts["dtype"])
    lines = _lines(folder)
    if lines:
        lines = _sound(folder, facts, lines)
        logger.info("going on: %d of %d blocks are there", len(lines), len(_blocks(facts)))
    missing = [block for block in _blocks(facts) if block.start not in lines]
    each = shape[1] * shape[2] * dtype.itemsize
    _refuse_full_disk(folder, sum(map(len, missing)) * each)
    try:
        store.write_json(folder / "facts.json", facts)
        store.write_lines(folder / "blocks.jsonl", lines.values())
        path = folder / "images.npy"
        # Not through a memory map: where the disk is full that ends the process.
        with path.open("r+b" if path.exists() else "w+b") as images:
            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(images, header)
            start = images.tell()
            images.truncate(start + shape[0] * each)

            def room(block: range) -> NDArray[Any]:
                return np.empty((len(block), *shape[1:]), dtype)

            for block, pixels, found in _decoded(films, preprocessing, missing, room, cache):
                images.seek(start + block.start * each)
                images.write(pixels.data)
                images.flush()
                os.fsync(images.fileno())
                digest = hashlib.sha256(pixels.data).hexdigest()
                bad = {str(row): words for row, words in found.bad.items()}
                forms = [[form.plain(), n] for form, n in found.forms.items()]
                line = {"start": block.start, "sha256": digest, "forms": forms, "bad": bad}
                with (folder / "blocks.jsonl").open("a") as log:
                    log.write(json.dumps(line, sort_keys=True) + "\n")
    except OSError as error:
        raise StoreError(f"can't write {folder}: {store.reason(error)}") from error


def _open(folder: Path, facts: Mapping[str, Any]) -> Decoded | None:
    """Return what an entry holds, or None where it isn't complete."""
    lines = _lines(folder)
    if any(block.start not in lines for block in _blocks(facts)):
        return None
    try:
        images: NDArray[Any] = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    shape = (facts["films"], facts["size"], facts["size"])
    if images.shape != shape or images.dtype != np.dtype(facts["dtype"]):
        return None
    found = _Found(Counter(), {})
    for line in lines.values():
        forms = {Form.parsed(facts): n for facts, n in line["forms"]}
        found.add(forms, {int(row): words for row, words in line["bad"].items()})
    return Decoded(images, found.forms, found.bad)


def _lines(folder: Path) -> dict[int, dict[str, Any]]:
    """Lines of the finished blocks by their first row; one that was broken off is left out."""
    lines = {}
    with contextlib.suppress(OSError), (folder / "blocks.jsonl").open() as log:
        for text in log:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                lines[int(line["start"])] = line
    return lines


def _sound(
    folder: Path, facts: Mapping[str, Any], lines: Mapping[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Return the lines of the blocks that hold what was written to them."""
    try:
        images: NDArray[Any] = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return {}
    return {
        block.start: lines[block.start]
        for block in _blocks(facts)
        if block.start in lines
        and hashlib.sha256(images[block.start : block.stop].data).hexdigest()
        == lines[block.start]["sha256"]
    }


def make_private(folder: Path) -> None:
    """Make the cache's folder and an entry's, for their owner's eyes alone."""
    try:
        for path in (folder.parent, folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"can't write the cache {folder.parent}: {store.reason(error)}; name another by "
            "--cache FOLDER, or --cache none to keep films in memory"
        ) from error


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"decoded films take {needed / 1e9:.1f} GB and the cache's disk has "
            f"{free / 1e9:.1f} GB left; name another by --cache FOLDER, or see leadapron cache list"
        )


def _bytes_held(file: Path) -> int:
    """Bytes on the disk; a file that is being filled says it is longer."""
    facts = file.stat()
    return facts.st_blocks * 512 if hasattr(facts, "st_blocks") else facts.st_size
