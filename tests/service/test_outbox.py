"""Results on their way: written before a film is wiped, delivered once the archive takes them."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest
from hospital import film, part10, result_uid, short_results
from input_scenes import films
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian
from service_scenes import png

from dicom_files import SECRETS, with_pixels
from leadapron.errors import FilmError, StoreError
from leadapron.service import headers
from leadapron.service import outbox as outbox_module
from leadapron.service import spool as spool_module
from leadapron.service.engine import Engine, Watch, _Read, running
from leadapron.service.headers import FRAMES, read_header
from leadapron.service.outbox import Outbox, RefusedError, UnreachableError
from leadapron.service.settings import Keeping
from leadapron.service.spool import Spool
from leadapron.store import sha256_of


class Pacs:
    """An archive that takes objects, or raises what comes first in `troubles`."""

    def __init__(self, *troubles):
        self.troubles, self.taken, self.connections = list(troubles), [], 0

    @contextmanager
    def connected(self):
        self.connections += 1
        yield self.send

    def send(self, content):
        if self.troubles:
            trouble = self.troubles.pop(0)
            if trouble is not None:
                raise trouble
        self.taken.append(dcmread(io.BytesIO(content)).SOPInstanceUID)


class Counts(Watch):
    def __init__(self):
        self.sent, self.given_up, self.bad = 0, 0, 0

    def delivered(self):
        self.sent += 1

    def undelivered(self):
        self.given_up += 1

    def unmade(self):
        self.bad += 1


@pytest.fixture
def keeping(tmp_path):
    return Keeping(spool=tmp_path / "spool")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Attempts follow without a pause."""
    monkeypatch.setattr(outbox_module, "PAUSE", 0.01)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(outbox_module, "REFUSED_PAUSE", 0.05)


def service(opened, keeping, pacs, watch=None, make=short_results):
    """A running engine whose results go to an archive."""
    watch = watch or Counts()
    return running(
        opened, keeping, watch, lambda spool: Outbox(spool.folder, make, pacs, watch, 3600.0)
    )


def send(engine, content):
    with closing(engine.arrive()) as arriving:
        arriving.write(content)
        return engine.accept(arriving)


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def names(keeping, folder):
    return sorted(path.name for path in (keeping.spool / folder).iterdir())


def uid_of(content):
    return result_uid(dcmread(io.BytesIO(content)).SOPInstanceUID)


def test_results_of_dicom_films_are_delivered_and_leave_the_outbox(opened, keeping):
    pacs, watch = Pacs(), Counts()
    contents = [film(image) for image in films(2, 5)]
    with service(opened, keeping, pacs, watch) as engine:
        for content in (*contents, png(films(1, 6)[0])):
            engine.when_answered(send(engine, content)).result(60)
        until(lambda: watch.sent == 2)
        assert engine.undelivered == 0
        assert sorted(pacs.taken) == sorted(map(uid_of, contents))
        send(engine, contents[0])  # someone misses its results
        until(lambda: watch.sent == 3)
    assert pacs.taken[2] == uid_of(contents[0])
    assert names(keeping, "outbox") == names(keeping, "waiting") == []
    assert watch.bad == 0


def test_an_archive_that_is_down_gets_results_once_it_is_back(opened, keeping, caplog):
    caplog.set_level(logging.INFO)
    pacs = Pacs(*[UnreachableError("it sleeps")] * 3)
    content = film(films(1, 7)[0])
    watch = Counts()
    with service(opened, keeping, pacs, watch) as engine:
        send(engine, content)
        until(lambda: watch.sent == 1)
    assert (pacs.taken, pacs.connections) == ([uid_of(content)], 4)
    assert caplog.text.count("results can't be delivered: it sleeps") == 1
    assert "results are delivered again" in caplog.text


def test_a_refused_object_does_not_hold_up_the_others(opened, keeping, caplog):
    watch, pacs = Counts(), Pacs(RefusedError("status 0xA900"))
    with service(opened, keeping, pacs, watch) as engine:
        for image in films(3, 8):
            send(engine, film(image))
        until(lambda: watch.sent == 3)  # the refused one too, in the end
    assert caplog.text.count("was refused: status 0xA900") == 1
    assert not any(secret in caplog.text for secret in SECRETS)


def test_what_nobody_takes_is_given_up_kept_and_wiped(opened, keeping, monkeypatch):
    monkeypatch.setattr(outbox_module, "GIVE_UP", 60.0)
    watch, pacs = Counts(), Pacs(*[RefusedError("no")] * 10_000)
    with service(opened, keeping, pacs, watch) as engine:
        name = send(engine, film(films(1, 9)[0])) + "-sr"
        until(lambda: pacs.connections > 1)
        place = keeping.spool / "outbox" / name
        os.utime(place, (time.time() - 61, time.time() - 61))
        until(lambda: watch.given_up == 1)
        assert (names(keeping, "outbox"), names(keeping, "undelivered")) == ([], [name])
        place = keeping.spool / "undelivered" / name
        os.utime(place, (time.time() - 3700, time.time() - 3700))
        until(lambda: not place.exists())


class Killed(BaseException):
    """The process ends here."""


def test_a_kill_between_results_answer_and_wiping_loses_and_doubles_nothing(
    opened, keeping, monkeypatch
):
    """The service ends before the results, before the answer, and before the film is wiped."""
    gate, watch = sha256_of(opened.file), Counts()

    def kill(*_, **__):
        raise Killed

    for number, step in enumerate(("put", "_write_answer", "wipe")):
        content = film(films(1, 40 + number)[0])
        spool = Spool(keeping.spool, gate)
        outbox = Outbox(spool.folder, short_results, Pacs(UnreachableError("down")), watch, 3600.0)
        (keeping.spool / "outbox").mkdir(exist_ok=True)
        engine = Engine(opened, spool, gate, keeping, Watch(), outbox)
        send(engine, content)
        waiting = engine._next()
        with monkeypatch.context() as patch:
            owner = {"put": outbox, "_write_answer": spool}.get(step, spool_module)
            patch.setattr(owner, step, kill)
            with pytest.raises(Killed), ThreadPoolExecutor(1) as writers:
                engine._judge([_Read(waiting, engine._decoded(waiting))], writers)
        assert len(names(keeping, "waiting")) == 1
        assert len(names(keeping, "outbox")) == (0 if step == "put" else 1)
        again = Pacs()
        with service(opened, keeping, again, watch):
            until(lambda again=again: again.taken)
            until(lambda: names(keeping, "waiting") == names(keeping, "outbox") == [])
        assert set(again.taken) == {uid_of(content)}
        assert len(names(keeping, "done")) == 2 * (number + 1)


def test_a_full_disk_keeps_the_film_until_its_results_are_written(opened, keeping, monkeypatch):
    full = threading.Event()
    full.set()
    original = outbox_module.write_atomically

    def writing(path):
        if full.is_set():
            raise StoreError("the disk is full")
        return original(path)

    monkeypatch.setattr(outbox_module, "write_atomically", writing)
    watch, pacs = Counts(), Pacs()
    with service(opened, keeping, pacs, watch) as engine:
        name = send(engine, film(films(1, 10)[0]))
        until(lambda: engine.trouble == "the disk is full")
        assert engine.answer(name).waits
        full.clear()
        until(lambda: watch.sent == 1)
        until(lambda: not engine.answer(name).waits)


def test_a_film_without_possible_results_is_answered_and_counted(opened, keeping, caplog):
    def failing(*_):
        raise FilmError(f"lacks what results need; {SECRETS[0]}")

    watch = Counts()
    with service(opened, keeping, Pacs(), watch, failing) as engine:
        engine.when_answered(send(engine, film(films(1, 11)[0]))).result(60)
    assert watch.bad == 1
    assert "no results were made (FilmError)" in caplog.text
    assert SECRETS[0] not in caplog.text


# --- headers


def test_a_header_ends_where_it_is_told_to_and_has_its_meta_header():
    content = film(np.zeros((40, 30), np.uint8), NumberOfFrames=3)
    header = read_header(io.BytesIO(content))
    assert (header.Rows, "PixelData" in header) == (40, False)
    assert header.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    short = read_header(io.BytesIO(content), FRAMES)
    assert (short.NumberOfFrames, "Rows" in short) == (3, False)


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99",
               "1.2.840.10008.1.2.2"],
)  # fmt: skip
def test_headers_of_all_encodings(syntax):
    dataset = with_pixels(np.zeros((40, 30), np.uint8))
    if syntax == "1.2.840.10008.1.2.2":
        dataset["PixelData"].VR = "OW"
    assert read_header(io.BytesIO(part10(dataset, syntax))).Modality == "DX"


def test_a_bomb_of_zeros_is_inflated_no_further_than_a_header_may_be():
    content = part10(with_pixels(np.zeros((4, 4), np.uint8)), DeflatedExplicitVRLittleEndian)
    start = content[: 144 + int.from_bytes(content[140:144], "little")]
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    private = b"\x09\0\x10\x10UN\0\0" + (1 << 27).to_bytes(4, "little")
    body = packer.compress(private) + packer.compress(bytes(1 << 27)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(FilmError):
            read_header(io.BytesIO(start + body))
        assert tracemalloc.get_traced_memory()[1] < 4 * headers.LARGEST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", [0, 131, 150, 300, 421, 501])
def test_a_cut_header_is_damaged(place):
    names = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    uids = {name: f"1.2.826.0.1.{number}" for number, name in enumerate(names)}
    content = film(np.zeros((4, 4), np.uint8), **uids)  # drawn UIDs vary in length
    with pytest.raises(FilmError, match="damaged DICOM file"):
        read_header(io.BytesIO(content[:place]))


def test_a_header_that_is_too_long_or_too_deep(monkeypatch):
    monkeypatch.setattr(headers, "LARGEST", 1 << 12)
    long = film(np.zeros((4, 4), np.uint8), ImageComments="x" * 9000)
    with pytest.raises(FilmError, match="damaged"):
        read_header(io.BytesIO(long))
    monkeypatch.undo()
    content = film(np.zeros((4, 4), np.uint8))
    start = content[: 144 + int.from_bytes(content[140:144], "little")]
    level = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    with pytest.raises(FilmError, match="RecursionError"):
        read_header(io.BytesIO(start + 2000 * level))
    with pytest.raises(FilmError, match="too many elements"):
        read_header(io.BytesIO(start + 100_000 * b"\x09\0\x10\x10CS\0\0"))
