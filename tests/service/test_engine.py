"""The engine: each accepted film is judged and answered once, whatever happens in between."""

from __future__ import annotations

import logging
import stat
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from input_scenes import black_square, films
from pydicom.dataset import Dataset
from service_scenes import png

from described import assert_described
from dicom_files import SECRETS, header, with_pixels, write
from leadapron.detect.inputs.decision import Decision
from leadapron.detect.inputs.groups import Group
from leadapron.detect.inputs.shared_marks import SharedMark
from leadapron.documents import dump, read
from leadapron.errors import StoreError, UsageError
from leadapron.service import engine as engine_module
from leadapron.service import spool as spool_module
from leadapron.service.answers import RESEARCH, FilmAnswer
from leadapron.service.engine import Engine, FullError, Watch, running
from leadapron.service.figures import lines_of, months_of, place_of
from leadapron.service.outbox import Outbox
from leadapron.service.settings import Keeping, Listening
from leadapron.service.spool import Spool, SpooledFilm
from leadapron.service.tokens import read_tokens
from leadapron.sources.listed import Decoded
from leadapron.store import sha256_of


@pytest.fixture
def keeping(tmp_path):
    return Keeping(spool=tmp_path / "spool")


@pytest.fixture
def at_once(monkeypatch):
    """Second attempts come without a pause."""
    monkeypatch.setattr(engine_module, "PAUSE", 0.01)


def test_a_gates_doubts_are_logged_without_names_of_films(opened, keeping, caplog):
    mark = SharedMark(
        finding="Mass", direction="added", row=1, column=2, side=9, films=3,
        named=("meier-7.png",), of=90, p=1e-5,
    )  # fmt: skip
    gate = opened.stored.gate
    clinics = (replace(gate.clinics[0], shared=(mark,)),)
    doubted = replace(opened, stored=replace(opened.stored, gate=replace(gate, clinics=clinics)))
    with caplog.at_level(logging.WARNING), running(doubted, keeping):
        pass
    assert "3 of 90 films that were given as clean share a mark that adds Mass" in caplog.text
    assert "meier" not in caplog.text


class Counts(Watch):
    def __init__(self):
        self.words, self.taken, self.tries, self.dead = [], 0, 0, 0

    def accepted(self):
        self.taken += 1

    def judged(self, word, *, bad, seconds):
        assert 0 <= seconds < 60
        self.words.append(word)

    def retried(self):
        self.tries += 1

    def failed(self):
        self.dead += 1


def stopped(opened, keeping, watch=None):
    """An engine whose threads don't run: films wait, as behind a long queue or a kill."""
    gate = sha256_of(opened.file)
    return Engine(opened, Spool(keeping.spool, gate), gate, keeping, watch or Watch())


def send(engine, content):
    with closing(engine.arrive()) as film:
        film.write(content)
        return engine.accept(film)


def answered(engine, film):
    engine.when_answered(film).result(60)
    return read(FilmAnswer, engine.answer(film).content)


def names(keeping, folder):
    return sorted(path.name for path in (keeping.spool / folder).iterdir())


def test_films_are_judged_and_answered_and_leave_the_spool(opened, keeping):
    watch = Counts()
    with running(opened, keeping, watch) as engine:
        marked, plain = (send(engine, png(film)) for film in
                         (black_square(films(1, 5))[0], films(1, 6)[0]))  # fmt: skip
        first, second = answered(engine, marked), answered(engine, plain)
        np.testing.assert_array_equal(engine.image(marked), black_square(films(1, 5))[0])
        assert engine.trouble == ""
    assert (first.verdict.level, first.verdict.word) == ("found", "suspicious")
    assert (first.decision.finding, first.state, first.attempts) == ("Mass", "judged", 1)
    assert first.decision.clinic == 1
    assert first.decision.nearest == ()  # names of calibration films stay with the gate
    assert first.decision.region.row <= 12
    assert "At most 2 % of clean films" in first.verdict.statement
    assert (second.verdict.level, first.use) == ("nothing found", RESEARCH)
    assert (first.gate, len(first.id)) == (sha256_of(opened.file), 32)
    assert first.received <= first.judged
    assert_described(FilmAnswer, dump(first))
    assert first.decision.clinic == 1
    assert first.decision.nearest == ()  # the names of other patients' films stay here
    assert names(keeping, "done") == sorted(
        f"{film}.{kind}" for film in (marked, plain) for kind in ("json", "npy")
    )
    assert names(keeping, "waiting") == names(keeping, "dead") == names(keeping, "arriving") == []
    assert (watch.taken, sorted(watch.words)) == (2, ["pass", "suspicious"])
    for path in keeping.spool.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_the_same_film_has_one_answer_and_another_gate_another_id(opened, keeping, tmp_path):
    watch, content = Counts(), png(films(1, 6)[0])
    engine = stopped(opened, keeping, watch)
    assert send(engine, content) == send(engine, content)
    assert names(keeping, "waiting") == [f"{send(engine, content)}-0"]
    with running(opened, keeping, watch) as engine:
        film = send(engine, content)
        before = answered(engine, film)
        assert send(engine, content) == film
        assert engine.waiting == 0
        assert answered(engine, film).judged == before.judged
    assert watch.taken == 1
    assert film not in sha256_of(keeping.spool / "done" / f"{film}.npy")
    (tmp_path / "other.json").write_text("{ }")
    other = stopped(replace(opened, file=tmp_path / "other.json"), keeping)
    assert send(other, content) != film


def test_an_answer_that_comes_while_it_is_fetched_is_not_called_waiting(opened, keeping):
    engine = stopped(opened, keeping)
    film = send(engine, png(films(1, 21)[0]))
    told = engine.answer(film)
    assert (told.waits, read(FilmAnswer, told.content).state) == (True, "waiting")
    engine._spool.finish(engine._pending[film], told.content, None)
    assert engine.answer(film).waits  # the engine hasn't noted the answer yet
    engine._answered(engine._pending[film], "pass", bad=False)
    assert engine.answer(film) == (told.content, False)


def test_what_waited_when_the_service_was_killed_is_judged_by_the_next(opened, keeping, caplog):
    caplog.set_level(logging.INFO)
    engine = stopped(opened, keeping)
    waiting = [send(engine, png(film)) for film in films(3, 7)]
    assert read(FilmAnswer, engine.answer(waiting[0]).content).state == "waiting"
    assert engine.answer(waiting[0]).waits
    half = keeping.spool / "arriving" / "half"
    half.write_bytes(b"\x89PNG")
    with running(opened, keeping) as engine:
        assert {answered(engine, film).state for film in waiting} == {"judged"}
    assert not half.exists()
    assert "the spool holds 3 films of an earlier run" in caplog.text


def test_a_kill_between_answer_and_removal_leaves_one_answer(opened, keeping):
    with running(opened, keeping) as engine:
        film = send(engine, png(films(1, 8)[0]))
        before = answered(engine, film)
    (keeping.spool / "waiting" / f"{film}-1").write_bytes(b"as if it had not been removed")
    (keeping.spool / "done" / ".x.part").write_bytes(b"half an answer")
    watch = Counts()
    with running(opened, keeping, watch) as engine:
        assert engine.waiting == 0
        assert read(FilmAnswer, engine.answer(film).content).judged == before.judged
    assert names(keeping, "waiting") == []
    assert ".x.part" not in names(keeping, "done")
    assert watch.words == []


def test_a_film_that_fails_is_tried_again_and_ends_in_the_dead_letters(
    opened, keeping, monkeypatch, at_once, caplog
):
    decide, calls = engine_module.decide_images, []

    def deciding(gate, classifier, images):
        calls.append(len(images))
        if (images == 255).all((1, 2)).any():
            raise RuntimeError("DOE^JOHN can't be judged")
        return decide(gate, classifier, images)

    monkeypatch.setattr(engine_module, "decide_images", deciding)
    watch, white = Counts(), np.full((32, 32), 255, np.uint8)
    engine = stopped(opened, keeping)
    good = [send(engine, png(film)) for film in films(3, 9)]
    with running(opened, keeping, watch) as engine:
        bad = send(engine, png(white))
        found = answered(engine, bad)
        assert [answered(engine, film).state for film in good] == ["judged"] * 3
    assert (found.state, found.verdict.word, found.attempts) == ("failed", "can't tell", 5)
    assert "failed to judge it in 5 attempts" in found.decision.reason
    assert (watch.dead, calls.count(1) >= 4) == (1, True)
    assert names(keeping, "dead") == [bad]
    assert "RuntimeError" in caplog.text
    assert "DOE" not in caplog.text
    monkeypatch.setattr(engine_module, "decide_images", decide)
    with running(opened, keeping) as engine:  # sent again once the cause is gone
        assert send(engine, png(white)) == bad
        assert answered(engine, bad).state == "judged"
    assert names(keeping, "dead") == []


def test_a_film_that_ends_the_process_goes_to_the_dead_letters_unjudged(
    opened, keeping, monkeypatch
):
    engine = stopped(opened, keeping)
    film = send(engine, png(films(1, 10)[0]))
    waiting = keeping.spool / "waiting"
    (waiting / f"{film}-0").rename(waiting / f"{film}-5")
    monkeypatch.setattr(engine_module, "decide_images", lambda *_: 1 / 0)
    with running(opened, keeping) as engine:
        assert answered(engine, film).state == "failed"
    (keeping.spool / "done" / f"{film}.json").unlink()  # killed before the answer was written
    assert stopped(opened, keeping).answer(film).waits


def test_a_batch_has_16_films_at_most_and_a_film_that_was_tried_before_comes_alone(opened, keeping):
    engine = stopped(opened, keeping)
    found = Decoded(films(1)[0], ())
    tries = [0] * 20 + [1] + [0] * 2
    waiting = [SpooledFilm(id=str(n), path=keeping.spool, received=0, attempts=attempts)
               for n, attempts in enumerate(tries)]  # fmt: skip
    for film in waiting:
        engine._read.put(engine_module._Read(film, found))
    assert [len(engine._batch()) for _ in range(5)] == [16, 4, 1, 2, 0]


def dicom(path, dataset):
    return write(path, dataset).read_bytes()


def bad_films(folder):
    """What a film's file may be, with a part of the reason."""
    grey = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    large = with_pixels(grey, Rows=20_000, Columns=20_000)
    frames = with_pixels(np.tile(grey, (3, 1)), NumberOfFrames=3, Rows=40)
    document: Dataset = header(Modality="DOC", EncapsulatedDocument=b"%PDF-1.7",
                               MIMETypeOfEncapsulatedDocument="application/pdf")  # fmt: skip
    hidden = with_pixels(grey, Modality="DOE^JOHN")
    return [
        (dicom(folder / "ct", with_pixels(grey, Modality="CT")), "of modality CT; expected CR or"),
        (dicom(folder / "frames", frames), "has 3 frames; expected one"),
        (dicom(folder / "pdf", document), "of modality DOC"),
        (dicom(folder / "large", large), "has 20000x20000 pixels; expected at most 100 megapixels"),
        (dicom(folder / "hidden", hidden), "of modality another one"),
        (png(grey)[:60], "is not a readable PNG file"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 50, "the film "),
        (b"", "is not a PNG, JPEG or DICOM file"),
    ]


def test_files_that_are_no_film_can_not_be_told_and_say_nothing_of_the_header(
    opened, keeping, tmp_path, caplog
):
    caplog.set_level(logging.DEBUG)
    bad = bad_films(tmp_path)
    grey = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    good = [dicom(tmp_path / "dx", with_pixels(grey)),
            dicom(tmp_path / "none", with_pixels(grey, Modality=None))]  # fmt: skip
    with running(opened, keeping) as engine:
        for content, words in bad:
            found = answered(engine, send(engine, content))
            assert (found.verdict.level, found.bad) == ("can't tell", "undecodable"), words
            assert words in found.decision.reason
            assert engine.image(found.id) is None
        for content in good:
            assert answered(engine, send(engine, content)).decision.p is not None
    said = [caplog.text, *(str(path) for path in keeping.spool.rglob("*"))]
    said += [path.read_text("latin-1") for path in keeping.spool.rglob("*") if path.is_file()]
    uid = header().SOPInstanceUID[:20]
    for secret in (*SECRETS, uid):
        assert not any(secret in text for text in said)


def test_a_full_queue_refuses_new_films_only(opened, keeping):
    engine = stopped(opened, replace(keeping, queue=2))
    first, _ = (send(engine, png(film)) for film in films(2, 12))
    with pytest.raises(FullError, match="2 films wait already"):
        engine.arrive()
    assert names(keeping, "arriving") == []
    engine = stopped(opened, replace(keeping, queue=3))
    late = engine.arrive()
    late.write(png(films(1, 13)[0]))
    send(engine, png(films(1, 14)[0]))
    with pytest.raises(FullError):  # it was full by the time that the film was complete
        engine.accept(late)
    assert names(keeping, "arriving") == []
    assert engine.answer(first).waits


def test_a_full_disk_loses_no_film_and_blames_none(opened, keeping, monkeypatch, at_once, caplog):
    written, full = spool_module.write_atomically, threading.Event()

    def writing(path):
        if full.is_set():
            raise StoreError(f"can't write {path}: the disk is full")
        return written(path)

    monkeypatch.setattr(spool_module, "write_atomically", writing)
    with running(opened, keeping) as engine:
        full.set()
        film = send(engine, png(films(1, 15)[0]))
        end = time.monotonic() + 20
        while engine.trouble != "the disk is full" and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.2)  # more attempts than a film has
        assert engine.trouble == "the disk is full"
        assert engine.answer(film).waits
        full.clear()
        found = answered(engine, film)
        assert engine.trouble == ""
    assert (found.state, found.attempts) == ("judged", 1)
    assert caplog.text.count("answers can't be written") == 1
    assert film not in caplog.text


def test_a_disk_that_takes_no_film_refuses_it(opened, keeping, monkeypatch):
    engine = stopped(opened, keeping)

    def failing(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool_module.os, "fsync", failing)
    with pytest.raises(FullError, match="the disk is full"):
        send(engine, png(films(1, 16)[0]))
    assert engine.waiting == 0
    assert names(keeping, "waiting") == names(keeping, "arriving") == []


def test_answers_and_dead_letters_expire(opened, keeping):
    with running(opened, keeping) as engine:
        film = send(engine, png(films(1, 17)[0]))
        answered(engine, film)
        assert engine._spool.expire(60) == 0
        (keeping.spool / "dead" / film).write_bytes(b"old")
        time.sleep(0.05)
        assert engine._spool.expire(0.01) == 3
        assert engine.answer(film) is None
        assert send(engine, png(films(1, 17)[0])) == film  # judged again
        assert answered(engine, film).state == "judged"


def test_a_wiped_file_is_overwritten(tmp_path):
    file, same = tmp_path / "film", tmp_path / "link"
    file.write_bytes(b"a patient" * 200_000)
    same.hardlink_to(file)
    spool_module.wipe(file)
    assert not file.exists()
    assert same.read_bytes() == bytes(9 * 200_000)


def test_a_stop_leaves_what_waits_and_counts_no_attempt(opened, keeping, monkeypatch):
    begun = threading.Event()

    def hanging(*_):
        begun.set()
        time.sleep(0.3)
        raise FullError  # any error: the stop came first

    with running(opened, keeping) as engine:
        monkeypatch.setattr(engine_module, "decoded", hanging)
        film = send(engine, png(films(1, 18)[0]))
        future = engine.when_answered(film)
        assert begun.wait(20)
    assert future.done()
    assert names(keeping, "waiting") == [f"{film}-0"]
    assert engine.trouble == "it stops"
    with pytest.raises(FullError, match="the service stops"):
        engine.arrive()


def test_a_spool_has_one_service(opened, keeping):
    with (
        running(opened, keeping),
        pytest.raises(StoreError, match="in use by another"),
        running(opened, keeping),
    ):
        pass
    (keeping.spool / "salt").write_bytes(b"short")
    with pytest.raises(StoreError, match="salt is damaged"), running(opened, keeping):
        pass


@pytest.mark.parametrize("film", ["", "../salt", "0" * 31, "x" * 32, "0" * 32])
def test_unknown_ids_have_no_answer(opened, keeping, film):
    engine = stopped(opened, keeping)
    assert engine.answer(film) is None
    assert engine.image(film) is None
    assert engine.when_answered(film).done()


@pytest.mark.parametrize(
    ("part", "what"), [("_batch", "judging"), ("_next", "decoding"), ("put", "the outbox")]
)
def test_a_part_that_ends_ends_readiness(opened, keeping, monkeypatch, caplog, part, what):
    """The log names the error's kind and place, and nothing that the error says."""

    def broken(*_):
        raise TypeError(SECRETS[0])

    class Destination:
        connected = broken

    def make(spool):
        outbox = Outbox(spool.folder, lambda *_: [], Destination(), Watch(), 60.0)
        if part == "put":
            monkeypatch.setattr(outbox, "_put_away", broken)
        return outbox

    if part != "put":
        monkeypatch.setattr(Engine, part, broken)
    with running(opened, keeping, outgoing=make) as engine:
        end = time.monotonic() + 20
        while not engine.trouble and time.monotonic() < end:
            time.sleep(0.01)
        assert engine.trouble == f"{what} has ended"
        assert [name for name, alive in engine.parts.items() if not alive] == [what]
    assert f"{what} has ended (TypeError in test_engine.py, line " in caplog.text
    assert SECRETS[0] not in caplog.text


def test_many_threads_at_once(opened, keeping):
    contents = [png(film) for film in films(6, 19)]
    ids = [set() for _ in contents]
    with running(opened, keeping) as engine:

        def sending():
            for content, found in zip(contents, ids, strict=True):
                found.add(send(engine, content))

        threads = [threading.Thread(target=sending) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(found) for found in ids] == [1] * 6
        for found in ids:
            assert answered(engine, *found).attempts == 1
    assert len(names(keeping, "done")) == 12


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"http": "8080"}, "expected HOST:PORT"),
        ({"http": "localhost:99999"}, "expected HOST:PORT"),
        ({"http": "0.0.0.0:80"}, "tokens would travel in the clear"),
        ({"largest": 0}, "expected 1 to 2,048 megabytes"),
        ({"tls_key": "key"}, "both `tls_cert` and `tls_key`"),
    ],
)
def test_unsafe_or_wrong_settings_are_refused(wrong, words):
    with pytest.raises(UsageError, match=words):
        Listening(**wrong)
    assert Listening(http="[::1]:0").address == ("::1", 0)
    assert not Listening(http="0.0.0.0:80", no_tls=True).local
    for wrong in ({"keep": 0}, {"queue": 0}):
        with pytest.raises(UsageError, match="expected"):
            Keeping(**wrong)


def test_tokens_are_their_owners_alone(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(UsageError, match="make it: umask 077; openssl rand -hex 32 > token"):
        read_tokens(file)
    file.write_text("a" * 32 + "\n" + "b" * 32 + "\n")
    file.chmod(0o640)
    with pytest.raises(UsageError, match="mode 0640: others can read or change it; chmod 600"):
        read_tokens(file)
    file.chmod(0o600)
    tokens = read_tokens(file)
    assert tokens.admit(b"Bearer " + b"b" * 32)
    assert tokens.admit(b"bearer  " + b"a" * 32)
    for wrong in (b"", b"Bearer", b"Bearer " + b"c" * 32, b"Basic " + b"a" * 32, b"a" * 32):
        assert not tokens.admit(wrong)
    file.write_text("short\n")
    with pytest.raises(UsageError, match="at least 24 characters"):
        read_tokens(file)


def test_films_are_counted_by_view_and_device_and_nothing_else_of_them(opened, keeping, tmp_path):
    half = np.arange(len(opened.stored.gate.clinics[0])) % 2 == 0
    (clinic,) = opened.stored.gate.clinics
    groups = (Group("view", "PA", half), Group("scanner", "Maker One", ~half))
    gate = replace(opened.stored.gate, clinics=(replace(clinic, groups=groups),))
    grouped = replace(opened, stored=replace(opened.stored, gate=gate))
    film, one = tmp_path / "film.dcm", {"Manufacturer": "Maker", "ManufacturerModelName": "One"}
    contents = [
        dicom(film, with_pixels(films(1, 3)[0], **one)),
        dicom(film, with_pixels(films(1, 4)[0], **one, ViewPosition="AP")),
        dicom(film, with_pixels(films(1, 5)[0], Manufacturer=SECRETS[0])),
        dicom(film, with_pixels(films(1, 6)[0], Modality="CT")),
        png(films(1, 7)[0]),
    ]
    with running(grouped, keeping) as engine:
        for content in contents:
            answered(engine, send(engine, content))
        assert (engine.alarm, engine.trouble) == ("", "")
        looked = {key: test.films for key, test in engine.figures.drift.tests.items()}
    place = place_of(keeping.spool, sha256_of(opened.file))
    (month,) = months_of(place)
    lines = list(lines_of(place, month))
    assert [(line.view, line.scanner, line.bad) for line in lines] == [
        ("PA", "Maker One", False), ("another", "Maker One", False), ("PA", "another", False),
        ("PA", "", True), ("", "", False),
    ]  # fmt: skip
    assert looked[("", ""), "scores"] == looked[("", ""), "looks"] == 4
    assert looked[("view", "PA"), "looks"] == looked[("scanner", "Maker One"), "scores"] == 2
    content = (place / f"{month}.jsonl").read_text()
    assert not any(secret in content for secret in SECRETS)
    assert lines[0].p is not None


def test_an_alarm_of_drift_is_told_and_stops_nothing(opened, keeping, caplog):
    with running(opened, keeping) as engine:
        decision = Decision(verdict="can't tell", p=0.5, score=0.0, unlike=1e-3)
        for _ in range(60):
            engine.figures.add(decision, bad=False, view="", scanner="", seconds=time.time())
        assert engine.alarm.endswith("calibrate the gate again")
        assert engine.trouble == ""
    assert "drift: the films are no longer like" in caplog.text
    with running(opened, keeping) as engine:
        assert engine.alarm
