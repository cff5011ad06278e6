"""The DICOM door in this process: who may send, what is taken, and what it withstands."""

from __future__ import annotations

import io
import logging
import os
import random
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hospital import (
    ARCHIVE,
    GATE,
    SR,
    XRAY,
    certificate,
    film,
    free_ports,
    part10,
    result_uid,
    short_results,
)
from input_scenes import films
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from dicom_files import SECRETS, with_pixels
from leadapron.service.engine import Engine, Watch, running
from leadapron.service.outbox import Outbox, RefusedError, UnreachableError
from leadapron.service.settings import Keeping, Node
from leadapron.service.spool import Spool
from leadapron.store import sha256_of

pytestmark = pytest.mark.service

CT = "1.2.840.10008.5.1.4.1.1.2"
CR = "1.2.840.10008.5.1.4.1.1.1"
LARGEST = 1 << 20

MUTATED = int(os.environ.get("LEADAPRON_MUTATED_PDUS", "2000"))
"""Number of PDUs that are changed before they are sent."""


class Counts(Watch):
    def __init__(self):
        self.statuses, self.sent = [], 0

    def refused(self, status):
        self.statuses.append(status)

    def delivered(self):
        self.sent += 1


@contextmanager
def door(engine, watch=None, admitted=(XRAY,), trusted=None):
    """A door of an engine; yields its port."""
    from leadapron.service.dicom import receiving

    with (
        closing(socket.create_server(("127.0.0.1", 0))) as bound,
        receiving(engine, bound, GATE, admitted, LARGEST, watch or Watch(), trusted),
    ):
        yield bound.getsockname()[1]


@pytest.fixture(scope="module")
def running_engine(opened, tmp_path_factory):
    keeping = Keeping(spool=tmp_path_factory.mktemp("spool"))
    with running(opened, keeping) as engine:
        yield engine


@pytest.fixture(scope="module")
def port(running_engine):
    with door(running_engine) as port:
        yield port


OPENED = []


@pytest.fixture(autouse=True)
def all_closed():
    """Close the sockets of `associate`: pynetdicom forgets to where the peer was faster."""
    yield
    while OPENED:
        OPENED.pop().close()


def associate(port, caller=XRAY, called=GATE, classes=None, syntaxes=None, **more):
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import Verification

    entity = AE(ae_title=caller)
    entity.connection_timeout = entity.acse_timeout = 10
    entity.dimse_timeout = entity.network_timeout = 30
    for each in classes or (Verification,):
        entity.add_requested_context(each, syntaxes) if syntaxes else (
            entity.add_requested_context(each)
        )
    handlers = [
        (evt.EVT_CONN_OPEN, lambda event: OPENED.append(event.assoc.dul.socket.socket)),
        *more.pop("evt_handlers", ()),
    ]
    return entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=handlers, **more)


def send(port, content, caller=XRAY, **more):
    """Return the status and the comment on a film."""
    dataset = dcmread(io.BytesIO(content))
    association = associate(
        port, caller, classes=[dataset.SOPClassUID],
        syntaxes=[dataset.file_meta.TransferSyntaxUID], **more,
    )  # fmt: skip
    assert association.is_established
    try:
        answer = association.send_c_store(dataset)
        return answer.Status, answer.get("ErrorComment", "")
    finally:
        association.release()


def test_it_echoes(port):
    association = associate(port)
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.parametrize("titles", [(XRAY, "GATE2"), ("STRANGER", GATE)])
def test_other_ae_titles_get_no_association(port, titles):
    association = associate(port, *titles)
    assert association.is_rejected


def test_it_is_no_archive(port):
    """Storage commitment and queries aren't negotiated."""
    from pynetdicom.sop_class import (
        PatientRootQueryRetrieveInformationModelFind,
        StorageCommitmentPushModel,
    )

    association = associate(
        port,
        classes=[StorageCommitmentPushModel, PatientRootQueryRetrieveInformationModelFind],
    )
    assert not association.is_established or not association.accepted_contexts
    association.abort()


def test_films_of_all_kinds_are_judged_and_their_results_delivered(opened, tmp_path):
    """An archive of pynetdicom stands for the PACS; `test_orthanc` has a real one."""
    from pynetdicom import AE, evt

    from leadapron.service.archive import Archive

    taken, statuses = {}, iter([0xA700, 0xB000, 0x0111])

    def stored(event):
        taken[event.request.AffectedSOPInstanceUID] = event.dataset
        assert event.assoc.requestor.ae_title == GATE
        return next(statuses, 0x0000)

    entity = AE(ae_title=ARCHIVE)
    entity.require_called_aet = True
    entity.add_supported_context(SR)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, stored)]
    )
    node = Node(title=ARCHIVE, host="127.0.0.1", port=server.server_address[1])
    watch, keeping = Counts(), Keeping(spool=tmp_path / "spool")
    images = films(6, seed=4)
    sent = [
        film(images[0]),
        film(images[1], SOPClassUID=CR, Modality="CR"),
        film(images[2], PhotometricInterpretation="MONOCHROME1"),
        part10(with_pixels(images[3]), DeflatedExplicitVRLittleEndian),
        film(images[5], SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"),
    ]
    for syntax in (JPEGLSLossless, RLELossless):
        dataset = dcmread(io.BytesIO(film(images[4])))
        dataset.compress(syntax)
        sent.append(part10(dataset))
    try:
        with running(
            opened, keeping, watch,
            lambda spool: Outbox(spool.folder, short_results, Archive(node, GATE), watch, 1),
        ) as engine, door(engine, watch) as port:  # fmt: skip
            for content in sent:
                assert send(port, content) == (0, "")
            end = time.monotonic() + 60
            while watch.sent < len(sent) and time.monotonic() < end:
                time.sleep(0.02)
            assert engine.undelivered == 0
            before = len(taken)
            assert send(port, sent[0]) == (0, "")  # again: its result is sent again
            while watch.sent <= len(sent) and time.monotonic() < end:
                time.sleep(0.02)
        expected = {result_uid(dcmread(io.BytesIO(each)).SOPInstanceUID) for each in sent}
        assert set(taken) == expected
        assert (before, watch.sent, watch.statuses) == (len(sent), len(sent) + 1, [])
        assert {each.SeriesDescription for each in taken.values()} <= {
            "pass", "suspicious", "can't tell",
        }  # fmt: skip
    finally:
        server.shutdown()
    for folder in ("waiting", "outbox", "undelivered", "arriving"):
        assert list((keeping.spool / folder).iterdir()) == []


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"SOPClassUID": CT, "Modality": "CT"}, 0x0122, "only CR and DX films"),
        ({"Modality": "CT"}, 0xA900, "the modality isn't CR, DX, RG"),
        ({"Modality": ""}, 0xA900, "the modality isn't"),
        ({"NumberOfFrames": 2}, 0xC000, "more than one frame"),
        ({"NumberOfFrames": [1, 2]}, 0xC000, "the header is damaged"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1", "Modality": "DOC"}, 0x0122, "only CR"),
    ],
)
def test_what_is_no_film_is_refused_with_a_status_that_says_why(
    opened, tmp_path, change, status, words
):
    watch = Counts()
    engine = stopped(opened, Keeping(spool=tmp_path / "spool"), watch)
    with door(engine, watch) as port:
        found, comment = send(port, film(films(1)[0], **change))
    assert (found, watch.statuses) == (status, [f"{status:04X}"])
    assert comment.startswith(words)
    assert len(comment) <= 64
    assert engine.waiting == 0


def stopped(opened, keeping, watch=None):
    """An engine that accepts films and judges none."""
    gate = sha256_of(opened.file)
    return Engine(opened, Spool(keeping.spool, gate), gate, keeping, watch or Watch())


def test_a_full_queue_and_a_full_disk_are_out_of_resources(opened, tmp_path, monkeypatch):
    engine = stopped(opened, Keeping(spool=tmp_path / "spool", queue=1))
    first, second, third = map(film, films(3))
    with door(engine) as port:
        assert send(port, first) == (0, "")
        assert [each.name[32:] for each in (tmp_path / "spool/waiting").iterdir()] == ["-0"]
        assert send(port, second) == (0xA700, "1 film wait already; send it again later")
        monkeypatch.setattr(engine, "_refuse_when_full", broken)
        assert send(port, third) == (0xA700, "the disk is full; send it again later")


def broken(*_):
    raise OSError(28, "No space left on device")


def test_a_film_that_is_too_large_ends_the_association(port, running_engine):
    """Before all of it has come; nothing of it is kept."""
    dataset = dcmread(io.BytesIO(film(np.zeros((1500, 1500), np.uint8))))
    association = associate(port, classes=[dataset.SOPClassUID])
    answer = association.send_c_store(dataset)
    assert "Status" not in answer
    association.abort()
    assert send(port, film(films(1, seed=9)[0])) == (0, "")


# --- malformed and slow senders

REQUEST = (
    b"\1\0" + struct.pack(">I", 68 + 25 + 0) + b"\0\1\0\0" + GATE.ljust(16).encode()
    + XRAY.ljust(16).encode() + bytes(32)
    + b"\x10\0\0\x15" + b"1.2.840.10008.3.1.1.1"
)  # fmt: skip
"""An association request that asks for no context."""

MALFORMED = {
    "half an association request": REQUEST[:40],
    "a PDU that claims 4 GiB": b"\1\0\xff\xff\xff\xff" + REQUEST[6:],
    "garbage": bytes(range(255, 155, -1)),
    "P-DATA first": b"\4\0" + struct.pack(">I", 6) + struct.pack(">I", 2) + b"\1\3",
}


def ends(port, content, seconds):
    """Whether the door ends a connection by itself within some seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        line.sendall(content)
        try:
            while line.recv(4096):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@pytest.fixture
def hasty(monkeypatch):
    """Deadlines of a second or less."""
    from leadapron.service import dicom

    monkeypatch.setattr(dicom, "PDU_SECONDS", 0.5)
    monkeypatch.setattr(dicom, "IDLE_SECONDS", 1.0)
    monkeypatch.setattr(dicom, "MESSAGE_SECONDS", 1.5)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_associations_are_ended(hasty, running_engine, name):
    with door(running_engine) as port:
        assert ends(port, MALFORMED[name], 4)
        assert send(port, film(films(1, seed=9)[0])) == (0, "")


def goes_through(line, content):
    """Whether the peer still takes bytes."""
    try:
        line.sendall(content)
    except OSError:
        return False
    return True


def test_silent_and_slow_senders_are_cut(hasty, running_engine):
    """One that says nothing, and one byte after the other within a PDU and within a message."""
    with door(running_engine) as port:
        assert ends(port, b"", 4)
        for piece in (REQUEST[:1], b"\7\0\0\0"):
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as line:
                while goes_through(line, piece) and time.monotonic() < began + 4:
                    time.sleep(0.1)
            assert time.monotonic() < began + 3.5


def mutated(rng, content):
    """Bytes of an association with a film, changed at a few places, cut or repeated."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.choice((rng.randrange(min(300, len(changed))), rng.randrange(len(changed))))
        changed[place] = rng.choice((0, 1, 2, 4, 127, 255, rng.randrange(256)))
    end = rng.choice((len(changed), len(changed), rng.randrange(1, len(changed))))
    return bytes(changed[:end])


def conversation(port):
    """What a sender says when it stores a film."""
    from pynetdicom import evt

    said = []
    dataset = dcmread(io.BytesIO(film(films(1, seed=9)[0])))
    association = associate(
        port, classes=[dataset.SOPClassUID],
        evt_handlers=[(evt.EVT_DATA_SENT, lambda event: said.append(event.data))],
    )  # fmt: skip
    assert association.send_c_store(dataset).Status == 0
    association.release()
    return said


def test_mutated_pdus_harm_no_other(running_engine, port, caplog):
    """Up to 32 conversations at a time; afterwards no thread or connection is left."""
    caplog.set_level(logging.INFO)
    rng, said = random.Random(5), conversation(port)
    before, left = threading.active_count(), MUTATED
    while left > 0:
        with ExitStack() as stack:
            for _ in range(32):
                line = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for pdu in said:
                    changed = rng.random() < 0.5
                    left -= changed
                    if not goes_through(line, mutated(rng, pdu) if changed else pdu):
                        break
    end = time.monotonic() + 20
    while not (association := associate(port)).is_established and time.monotonic() < end:
        time.sleep(0.1)
    association.release()
    assert send(port, film(films(1, seed=9)[0])) == (0, "")
    while threading.active_count() > before + 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert threading.active_count() <= before + 2
    assert not any(secret in caplog.text for secret in (*SECRETS, XRAY))


def test_fifty_associations_at_once(running_engine, port):
    images = films(50, seed=12)
    results, gathered = [], threading.Barrier(50)

    def store(image):
        dataset = dcmread(io.BytesIO(film(image)))
        association = associate(port, classes=[dataset.SOPClassUID])
        gathered.wait(60)
        results.append(association.send_c_store(dataset).Status)
        association.release()

    threads = [threading.Thread(target=store, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == [0] * 50


class Line:
    taken = 0


def test_all_that_is_being_received_has_a_limit(monkeypatch):
    from leadapron.service import dicom

    monkeypatch.setattr(dicom, "MOST_HELD", 0)
    lines = dicom._Lines(LARGEST)  # then all together have the room of one
    first, second, third, fourth = (Line() for _ in range(4))
    lines.hold(first, LARGEST)
    with pytest.raises(OSError, match="too much at once"):
        lines.hold(second, 2 * LARGEST)
    lines.discard(second)
    with pytest.raises(OSError, match="too much at once"):
        lines.hold(third, LARGEST + 1)
    for each in (first, third):
        lines.discard(each)
    lines.hold(fourth, LARGEST)


# --- mutual TLS


def test_a_door_that_ends_ends_readiness(opened, tmp_path, monkeypatch, caplog):
    from leadapron.service import dicom

    def broken(*_):
        raise TypeError(XRAY)

    with running(opened, Keeping(spool=tmp_path / "spool")) as engine:
        with door(engine):
            assert engine.trouble == ""
            assert {"the DICOM door", "the watchdog of the DICOM door"} < set(engine.parts)
        monkeypatch.setattr(dicom._Server, "get_request", broken)
        with door(engine) as port, socket.create_connection(("127.0.0.1", port)):
            end = time.monotonic() + 20
            while not engine.trouble and time.monotonic() < end:
                time.sleep(0.01)
            assert "the DICOM door" in engine.trouble
    assert "the DICOM door has ended (TypeError in test_dicom_door.py" in caplog.text
    assert XRAY not in caplog.text


def test_mutual_tls(hasty, running_engine, tmp_path):
    from leadapron.service.archive import client_tls
    from leadapron.service.dicom import server_tls

    gate, xray, stranger = (certificate(tmp_path, name) for name in ("gate", "xray", "stranger"))
    content = film(films(1, seed=9)[0])
    with door(running_engine, trusted=server_tls(*gate, xray[0])) as port:
        trusted = client_tls(*xray, gate[0]), "127.0.0.1"
        assert send(port, content, tls_args=trusted) == (0, "")
        assert ends(port, REQUEST, 4)  # without TLS
        with socket.create_connection(("127.0.0.1", port), timeout=4) as line:
            unknown = client_tls(*stranger, gate[0])
            with (
                unknown.wrap_socket(line, server_hostname="127.0.0.1") as secure,
                pytest.raises((ssl.SSLError, ConnectionError)),
            ):
                secure.recv(1)
        assert ends(port, b"", 4)  # no handshake
        assert send(port, content, tls_args=trusted) == (0, "")


# --- results


# pynetdicom drops a socket that couldn't connect without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_is_down_refuses_or_is_silent(hasty):
    from pynetdicom import AE, evt

    from leadapron.service.archive import Archive

    answer = SimpleNamespace(verdict=SimpleNamespace(word="pass"))
    result = part10(short_results(dcmread(io.BytesIO(film(films(1)[0]))), answer, None)[0])
    nobody = Node(title=ARCHIVE, host="127.0.0.1", port=free_ports(1)[0])
    with pytest.raises(UnreachableError, match="no association"), Archive(nobody, GATE).connected():
        pass
    answers = iter([0xA900, 0xA702, 0xC001])
    entity = AE(ae_title=ARCHIVE)
    entity.require_calling_aet = [GATE]
    entity.add_supported_context(SR)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False,
        evt_handlers=[(evt.EVT_C_STORE, lambda event: next(answers))],
    )  # fmt: skip
    node = Node(title=ARCHIVE, host="127.0.0.1", port=server.server_address[1])
    try:
        with pytest.raises(UnreachableError, match="AE titles"), Archive(node, "G2").connected():
            pass
        archive = Archive(node, GATE)
        with pytest.raises(RefusedError, match="0xA900"), archive.connected() as send_one:
            send_one(result)
        with pytest.raises(UnreachableError, match="0xA702"), archive.connected() as send_one:
            send_one(result)
        with pytest.raises(RefusedError, match="of this kind"), archive.connected() as send_one:
            send_one(film(films(1)[0]))
    finally:
        server.shutdown()
