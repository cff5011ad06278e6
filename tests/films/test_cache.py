"""The cache of decoded films: never stale, resumable, checked, safe for two."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time

import numpy as np
import pytest

from leadapron import result_cache, store
from leadapron.errors import DataError, StoreError, UnknownNameError
from leadapron.films import cache
from leadapron.films.cache import Cache, clear, decode, default_folder, entries
from leadapron.films.preprocessing import Preprocessing
from leadapron.types import Form

N, SIDE = 50, 12
SMALL = Preprocessing(size=8)
EVEN = Form(height=SIDE, width=SIDE, bits=8)
ODD = Form(height=SIDE, width=SIDE, bits=8, kind="PNG", window="7/2", odd=("colour",))


class Films:
    """Files of raw pixels; counts what is read, and stops where it is told to."""

    decoder = "raw 1"

    def __init__(self, folder, n=N, seconds=0.0):
        rng = np.random.default_rng(0)
        self.paths = []
        for i in range(n):
            path = folder / f"{i}.raw"
            if not path.exists():
                path.write_bytes(rng.integers(0, 255, (SIDE, SIDE), np.uint8).tobytes())
            self.paths.append(path)
        self.reads, self.stop_at, self.seconds = [], None, seconds

    def __len__(self):
        return len(self.paths)

    def image(self, row, preprocessing):
        film, form = self.read(row)
        return preprocessing(film), form

    def read(self, row):
        if row == self.stop_at:
            raise DataError(f"film {row}: bad")
        time.sleep(self.seconds)
        self.reads.append(row)
        film = np.frombuffer(self.paths[row].read_bytes(), np.uint8).reshape(SIDE, SIDE)
        return film, ODD if row % 2 else EVEN


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    return Films(folder)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK_FILMS", 8)
    return Cache(folder=tmp_path / "kept" / "here")


def only_entry(kept):
    (entry,) = entries(kept.folder)
    return entry


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_same_images_from_memory_from_the_decoder_and_from_the_cache(films, kept, dtype):
    preprocessing = Preprocessing(size=8, dtype=dtype)
    expected = np.stack([preprocessing(films.read(i)[0]) for i in range(N)])
    in_memory = decode(films, preprocessing, Cache(), "films")
    first = decode(films, preprocessing, kept, "films")
    films.reads.clear()
    again = decode(films, preprocessing, kept, "films")
    for images in (in_memory.images, first.images, again.images):
        assert images.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(images, expected)
    assert in_memory.forms == first.forms == again.forms == {EVEN: 25, ODD: 25}
    assert films.reads == []
    again = again.images
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    batch = again[np.array([3, 1])]
    assert type(batch) is not np.memmap or batch.base is None
    assert batch.flags.writeable


def test_a_changed_preprocessing_film_or_decoder_is_never_read_stale(films, kept, monkeypatch):
    decode(films, SMALL, kept, "films")
    films.reads.clear()

    def read_anew():
        count = len(films.reads)
        films.reads.clear()
        return count

    for other in (Preprocessing(size=9), Preprocessing(size=8, interpolation="area")):
        images = decode(films, other, kept, "films").images
        assert read_anew() == N
        np.testing.assert_array_equal(images[0], other(films.read(0)[0]))
        films.reads.clear()
    # A film replaced by another of the same size, with the old date.
    before = films.paths[3].stat()
    time.sleep(0.02)
    films.paths[3].write_bytes(bytes(SIDE * SIDE))
    os.utime(films.paths[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    images = decode(films, SMALL, kept, "films").images
    assert read_anew() == N
    assert not images[3].any()
    films.paths[0], films.paths[1] = films.paths[1], films.paths[0]
    decode(films, SMALL, kept, "films")
    assert read_anew() == N
    films.decoder = "raw 2"
    decode(films, SMALL, kept, "films")
    assert read_anew() == N
    monkeypatch.setattr(store, "RESULTS_VERSION", 999)
    decode(films, SMALL, kept, "films")
    assert read_anew() == N
    decode(films, SMALL, kept, "films")
    assert read_anew() == 0


def test_a_missing_film_is_named(films, kept):
    films.paths[4].unlink()
    with pytest.raises(DataError, match=r"^4\.raw: No such file"):
        decode(films, SMALL, kept, "films")


def test_broken_off_it_goes_on_at_the_first_missing_block(films, kept):
    films.stop_at = 37
    with pytest.raises(DataError, match="film 37"):
        decode(films, SMALL, kept, "films")
    entry = only_entry(kept)
    assert not entry.complete
    assert entry.done == 32  # four blocks of eight
    films.stop_at = None
    films.reads.clear()
    found = decode(films, SMALL, kept, "films")
    assert sorted(films.reads) == list(range(32, N))
    np.testing.assert_array_equal(found.images, decode(films, SMALL, Cache(), "films").images)
    assert found.forms.total() == N
    assert only_entry(kept).complete


def test_what_was_written_in_part_is_written_again(films, kept):
    films.stop_at = 37
    with pytest.raises(DataError):
        decode(films, SMALL, kept, "films")
    folder = only_entry(kept).folder
    with (folder / "images.npy").open("r+b") as file:  # block 2 was lost with the power
        file.seek(128 + 2 * 8 * 64)
        file.write(bytes(100))
    log = folder / "blocks.jsonl"
    log.write_text(log.read_text() + '{"start": 32, "sha')
    films.stop_at = None
    films.reads.clear()
    images = decode(films, SMALL, kept, "films").images
    assert sorted(films.reads) == [*range(16, 24), *range(32, N)]
    np.testing.assert_array_equal(images, decode(films, SMALL, Cache(), "films").images)
    assert only_entry(kept).damaged() == 0


def test_damage_is_found(films, kept):
    decode(films, SMALL, kept, "films")
    entry = only_entry(kept)
    assert entry.damaged() == 0
    with (entry.folder / "images.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert entry.damaged() == 1
    os.truncate(entry.folder / "images.npy", 500)
    films.reads.clear()
    images = decode(films, SMALL, kept, "films").images
    assert len(films.reads) == N
    np.testing.assert_array_equal(images, decode(films, SMALL, Cache(), "films").images)


def test_two_at_once_decode_once(films, kept, caplog):
    caplog.set_level("INFO", logger="leadapron")
    films.seconds = 0.005
    results = []

    def ask():
        results.append(decode(films, SMALL, kept, "films").images)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(films.reads) == N
    np.testing.assert_array_equal(*results)
    assert "waiting for it" in caplog.text


def test_only_the_owner_may_look(films, kept):
    decode(films, SMALL, kept, "films")
    for folder in (kept.folder, only_entry(kept).folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in only_entry(kept).folder.iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_progress_counts_every_film(films, kept):
    seen = []
    progress = Cache(folder=kept.folder, progress=lambda *facts: seen.append(facts))
    decode(films, SMALL, progress, "films")
    assert seen[-1] == ("decoding", N, N)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_full_disk_is_one_line(films, kept, monkeypatch):
    usage = cache.shutil.disk_usage(films.paths[0])
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(StoreError, match=r"need \d+ kB and .* has 10 bytes free; .* `cache`"):
        decode(films, SMALL, kept, "films")
    monkeypatch.undo()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        decode(films, SMALL, kept, "films")
    monkeypatch.undo()
    images = decode(films, SMALL, kept, "films").images
    np.testing.assert_array_equal(images, decode(films, SMALL, Cache(), "films").images)


def test_a_place_that_cannot_be_written(films, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="`cache` none"):
        decode(films, SMALL, Cache(folder=tmp_path / "file"), "films")


def test_entries_are_listed_and_cleared(films, kept):
    assert entries(kept.folder) == []
    assert clear(kept.folder) == []
    decode(films, SMALL, kept, "films")
    decode(films, Preprocessing(size=9), kept, "films")
    (kept.folder / "notes.txt").write_text("mine")
    (kept.folder / "0123456789abcdef").mkdir()  # made by nobody: nothing in it
    found = entries(kept.folder)
    assert [entry.facts["size"] for entry in found] == [9, 8]  # the last used first
    assert all(entry.complete and entry.facts["films"] == N for entry in found)
    assert found[1].size >= N * 64
    decode(films, SMALL, kept, "films")
    assert [entry.facts["size"] for entry in entries(kept.folder)] == [8, 9]
    key = found[0].folder.name
    with pytest.raises(UnknownNameError, match="unknown cache entry"):
        clear(kept.folder, [key[:-1]])
    with pytest.raises(UnknownNameError):
        clear(kept.folder, ["../here"])
    with store.lock(found[0].folder), pytest.raises(StoreError, match="in use"):
        clear(kept.folder, [key])
    assert clear(kept.folder, [key]) == [key]
    assert len(entries(kept.folder)) == 1
    assert len(clear(kept.folder)) == 2
    assert [path.name for path in kept.folder.iterdir()] == ["notes.txt"]


def test_a_lock_on_a_folder_that_was_removed_is_not_a_lock(tmp_path):
    """Who waited for a folder that its holder removed must lock the new one."""
    folder = tmp_path / "entry"
    inside, order = threading.Event(), []

    def second():
        with store.lock(folder, wait="waiting"):
            order.append("second")
            inside.set()
            time.sleep(0.2)
            order.append("second leaves")

    with store.lock(folder):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first leaves")
    assert inside.wait(5)
    with store.lock(folder, wait="waiting"):
        order.append("third")
    thread.join()
    assert order == ["first leaves", "second", "second leaves", "third"]


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("LEADAPRON_CACHE", str(tmp_path / "a"))
    assert default_folder() == tmp_path / "a"
    assert default_folder(tmp_path / "b") == tmp_path / "b"
    assert default_folder("none") is None
    monkeypatch.setenv("LEADAPRON_CACHE", "none")
    assert default_folder() is None
    monkeypatch.delenv("LEADAPRON_CACHE")
    assert default_folder().name == "leadapron"


def test_facts_name_what_is_there(films, kept):
    decode(films, SMALL, kept, "films of mine")
    facts = json.loads((only_entry(kept).folder / "facts.json").read_text())
    assert facts["source"] == "films of mine"
    assert (facts["films"], facts["size"], facts["dtype"]) == (N, 8, "uint8")
    assert facts["decoder"] == "raw 1"


# ---------------------------------------------------------------- odd files


def change(path, place=-1):
    """Change one byte."""
    with path.open("r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        file.write(bytes([byte ^ 1]))


def settled_entry(films, kept, monkeypatch):
    """An entry whose images were found to be what was written, and whose times tell a change."""
    monkeypatch.setattr(cache, "SETTLED", -1)
    images = np.array(decode(films, SMALL, kept, "films").images)
    films.reads.clear()
    entry = only_entry(kept)
    assert (entry.folder / "checked.json").is_file()
    return entry.folder, images


@pytest.mark.parametrize("dated_back", [False, True])
def test_pixels_that_changed_are_decoded_again(films, kept, monkeypatch, caplog, dated_back):
    folder, images = settled_entry(films, kept, monkeypatch)
    monkeypatch.setattr(cache, "SAMPLED_FILMS", 1)  # the times tell it, not luck
    before = (folder / "images.npy").stat()
    time.sleep(0.02)
    change(folder / "images.npy", 128 + 20 * 64)  # film 20
    if dated_back:
        os.utime(folder / "images.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(decode(films, SMALL, kept, "films").images, images)
    assert sorted(films.reads) == list(range(16, 24))
    assert "1 of 7 blocks of films in " in caplog.text
    assert only_entry(kept).damaged() == 0


def test_a_disk_that_forgets_is_found_by_samples(films, kept, monkeypatch):
    folder, images = settled_entry(films, kept, monkeypatch)
    change(folder / "images.npy")
    at = (folder / "images.npy").stat()  # as if nothing had touched it
    stamp = [at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino]
    (folder / "checked.json").write_text(json.dumps(stamp))
    compared = []
    real = cache._digest_of
    monkeypatch.setattr(cache, "_digest_of", lambda image: compared.append(1) or real(image))
    monkeypatch.setattr(cache, "SAMPLED_FILMS", 10)
    openings = 0
    while not films.reads:
        decode(films, SMALL, kept, "films")
        openings += 1
        assert films.reads or len(compared) == 10 * openings
        assert openings < 200  # each time with a chance of 10 in 50
    np.testing.assert_array_equal(decode(films, SMALL, kept, "films").images, images)


def test_a_time_that_cannot_tell_a_later_change_is_not_trusted(films, kept, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED", 1000)
    decode(films, SMALL, kept, "films")
    assert not (only_entry(kept).folder / "checked.json").exists()


ODD_CONTENTS = {
    "nothing": b"",
    "binary": bytes(range(256)) * 9,
    "nested": b"[" * 100_000,
    "a list": b"[1, 2]\n",
    "no numbers": b'{"start": [], "sha256": 3, "forms": {}, "bad": 7}\n',
    "endless": b'{"start": 1e999, "films": 1e999, "size": 1, "block": 0}\n',
    "huge": b'{"films": 99999999999999, "size": 1, "block": 1, "source": "a", "dtype": "uint8"}',
    "an archive": b"PK\x03\x04" + bytes(300),
    "another array": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (50, 8, 8)}" + bytes(9000),
}


@pytest.mark.parametrize(
    "name", ["facts.json", "blocks.jsonl", "images.npy", "digests.bin", "checked.json"]
)
def test_odd_files_of_an_entry_are_made_anew(films, kept, monkeypatch, name):
    folder, images = settled_entry(films, kept, monkeypatch)
    path = folder / name

    def odd():
        for content in ODD_CONTENTS.values():
            path.write_bytes(content)
            yield
        path.unlink(missing_ok=True)
        yield
        path.mkdir()
        (path / "more").write_text("")
        yield
        os.mkfifo(path)
        yield
        path.symlink_to("/dev/zero")
        yield
        os.mkfifo(folder / "pipe")
        path.symlink_to("pipe")
        yield

    for _ in odd():
        entries(kept.folder)
        films.reads.clear()
        found = decode(films, SMALL, kept, "films")
        np.testing.assert_array_equal(found.images, images)
        assert found.forms == {EVEN: 25, ODD: 25}
        assert len(films.reads) == (0 if name in ("facts.json", "checked.json") else N)
        if path.is_dir():
            cache._clear_way(path)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "line",
    [
        {"start": 8},
        {"forms": []},
        {"forms": [[{"height": 12, "width": 12}, -8]]},
        {"forms": [[{"height": 12, "width": 12}, 8.0]]},
        {"forms": [[{"height": 12, "width": 12, "kind": "A\nCLEAN"}, 8]]},
        {"bad": {"0": "a"}},
        {"bad": {"40": "a"}, "forms": [[{"height": 12, "width": 12}, 7]]},
        {"bad": {"0": "a\nCLEAN: nothing"}, "forms": [[{"height": 12, "width": 12}, 7]]},
        {"sha256": None},
    ],
)
def test_lines_that_claim_something_else_count_for_nothing(films, kept, monkeypatch, line):
    folder, _ = settled_entry(films, kept, monkeypatch)
    log = folder / "blocks.jsonl"
    first, *others = map(json.loads, log.read_text().splitlines())
    log.write_text("\n".join(map(json.dumps, [{**first, **line}, *others])))
    found = decode(films, SMALL, kept, "films")
    assert sorted(films.reads) == list(range(8))
    assert found.forms == {EVEN: 25, ODD: 25}
    assert found.bad == {}


def test_an_entry_that_is_a_file_or_a_pipe(films, kept, tmp_path):
    decode(films, SMALL, kept, "films")
    folder = only_entry(kept).folder
    for make in (lambda: folder.write_text("film"), lambda: os.mkfifo(folder)):
        cache._clear_way(folder) if folder.is_dir() else folder.unlink()
        make()
        assert entries(kept.folder) == []
        with pytest.raises(StoreError, match="can't write the cache"):
            decode(films, SMALL, kept, "films")
    assert clear(kept.folder) == [folder.name]
    decode(films, SMALL, kept, "films")
    (folder / ".lock").unlink()
    os.mkfifo(folder / ".lock")
    (folder / "images.npy").unlink()
    with pytest.raises(StoreError, match="can't write"):
        decode(films, SMALL, kept, "films")


def test_a_cache_that_is_no_folder(films, tmp_path):
    (tmp_path / "file").write_text("")
    for call in (entries, clear):
        with pytest.raises(StoreError, match=r"can't read the cache .*file: Not a directory"):
            call(tmp_path / "file")
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(StoreError, match="can't write the cache"):
            decode(films, SMALL, Cache(folder=tmp_path / name), "films")


def test_a_film_that_is_away_is_left_out_where_bad_ones_are(films, kept):
    films.paths[4].unlink()

    def read(row):
        if row == 4:
            raise DataError("film 4: is not there\nCLEAN")
        return Films.read(films, row)

    films.read = read
    found = decode(films, SMALL, Cache(folder=kept.folder, on_bad="skip"), "films")
    assert found.bad == {4: r"film 4: is not there\nCLEAN"}
    with pytest.raises(DataError, match=r"4\.raw: No such file"):
        decode(films, SMALL, kept, "films")


def test_films_that_the_memory_does_not_hold(films, monkeypatch):
    monkeypatch.setattr(cache, "_free_memory", lambda: 1000)
    with pytest.raises(
        StoreError, match=r"need 3 kB of memory and 1 kB is free; .* `cache` FOLDER"
    ):
        decode(films, SMALL, Cache(), "films")
    monkeypatch.setattr(cache, "_free_memory", lambda: None)

    def too_much(*_):
        raise MemoryError

    monkeypatch.setattr(cache.np, "zeros", too_much)
    with pytest.raises(StoreError, match="of memory and less is free"):
        decode(films, SMALL, Cache(), "films")


def test_equal_images_have_equal_digests(films, kept):
    films.paths[7] = films.paths[3]
    found = decode(films, SMALL, kept, "films")
    again = decode(films, SMALL, Cache(), "films")
    np.testing.assert_array_equal(found.digests, again.digests)
    assert found.digests[7] == found.digests[3]
    assert len(np.unique(found.digests)) == N - 1


def test_results_that_are_odd_are_as_if_they_were_not_there(tmp_path):
    facts = {"a": 1}
    result_cache.keep(tmp_path, facts, [1, 2], "two\nCLEAN")
    (result,) = result_cache.results(tmp_path)
    assert result.about == r"two\nCLEAN"
    assert result_cache.recall(tmp_path, facts) == [1, 2]
    file = tmp_path / "results" / f"{result.key}.json"
    for content in (*ODD_CONTENTS.values(), b'{"value": 1, "sha256": 1, "about": {}}'):
        file.write_bytes(content)
        assert result_cache.recall(tmp_path, facts) is None
        result_cache.results(tmp_path)
    for make in (file.mkdir, lambda: os.mkfifo(file)):
        cache._clear_way(file) if file.is_dir() else file.unlink()
        make()
        assert result_cache.recall(tmp_path, facts) is None
        assert result_cache.results(tmp_path) == []
