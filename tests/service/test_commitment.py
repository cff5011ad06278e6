"""Storage commitment: a result is kept until the PACS says that it keeps it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import closing, contextmanager

import pytest
from hospital import ARCHIVE, GATE, SR, XRAY, film, part10, result_uid, short_results
from input_scenes import films
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_files import SECRETS
from leadapron.service import commitment as commitment_module
from leadapron.service import outbox as outbox_module
from leadapron.service.commitment import Commitment, NotOfferedError, Report
from leadapron.service.engine import Watch, running
from leadapron.service.outbox import Outbox, UnreachableError
from leadapron.service.settings import Keeping, Node

PUSH = "1.2.840.10008.1.20.1"
NO_SUCH_INSTANCE = 0x0112


class Counts(Watch):
    def __init__(self):
        self.sent, self.kept, self.given_up = 0, 0, 0

    def delivered(self):
        self.sent += 1

    def committed(self):
        self.kept += 1

    def undelivered(self):
        self.given_up += 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Attempts follow without a pause."""
    for module in (outbox_module, commitment_module):
        monkeypatch.setattr(module, "PAUSE", 0.01)
        monkeypatch.setattr(module, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(outbox_module, "REFUSED_PAUSE", 0.05)


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def names(spool, folder):
    return sorted(path.name for path in (spool / folder).iterdir())


# --- without a network


class Pacs:
    """What is asked to commit: `says` answers the first requests, by number; then it commits."""

    def __init__(self, *says):
        self.says, self.asked = list(says), []

    def __call__(self, transaction, objects, take):
        self.asked.append((transaction, dict(objects)))
        answer = self.says.pop(0) if self.says else committing
        if isinstance(answer, Exception):
            raise answer
        answer(transaction, objects, take)


def committing(transaction, objects, take):
    take(Report(transaction=transaction, committed=list(objects), failed={}))


def failing(transaction, objects, take):
    failed = dict.fromkeys(objects, NO_SUCH_INSTANCE)
    take(Report(transaction=transaction, committed=[], failed=failed))


def silent(*_):
    pass


@contextmanager
def held(tmp_path, pacs, number=2, again=None):
    """A commitment that holds some results; yields it, its counts, and the results' UIDs."""
    (tmp_path / "outbox").mkdir(exist_ok=True)
    watch = Counts()
    commitment = Commitment(tmp_path, pacs, watch)
    commitment.start(again or (lambda path: path.replace(tmp_path / "outbox" / path.name)))
    uids = []
    try:
        for each in range(number):
            uids.append(f"1.2.3.{each}")
            path = tmp_path / "outbox" / f"{each:032x}-sr"
            path.write_bytes(result(uids[-1]))
            commitment.hold(path)
        yield commitment, watch, uids
    finally:
        commitment.stop()


def result(uid):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = SR, uid, "SR"
    return part10(dataset)


def test_what_the_pacs_keeps_is_wiped_and_what_it_says_of_others_changes_nothing(tmp_path):
    pacs = Pacs(*[silent] * 9)
    with held(tmp_path, pacs, 0) as (commitment, watch, _):
        path = tmp_path / "outbox" / "a-sr"
        path.write_bytes(result("1.2.3"))
        commitment.hold(path)
        until(lambda: pacs.asked)
        ((transaction, objects),) = pacs.asked
        assert (objects, names(tmp_path, "stored")) == ({"1.2.3": SR}, ["a-sr"])
        for other in (("1.2.999", ["1.2.3"]), (transaction, ["1.2.4"])):
            commitment.report(Report(transaction=other[0], committed=other[1], failed={"1.9": 1}))
        time.sleep(0.1)
        assert (commitment.waiting, watch.kept) == (1, 0)
        commitment.report(Report(transaction=transaction, committed=["1.2.3"], failed={}))
        until(lambda: watch.kept == 1)
        assert names(tmp_path, "stored") == names(tmp_path, "outbox") == []
    assert len(pacs.asked) == 1


def test_a_pacs_that_is_down_or_forgets_is_asked_again(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    pacs = Pacs(UnreachableError("it sleeps"), UnreachableError("it sleeps"), silent)
    monkeypatch.setattr(commitment_module, "ASK_AGAIN", 0.1)
    with held(tmp_path, pacs, 1) as (_, watch, _):
        until(lambda: watch.kept == 1)
    assert caplog.text.count("results aren't committed to: it sleeps") == 1
    assert len({transaction for transaction, _ in pacs.asked}) == len(pacs.asked) == 4


def test_after_a_restart_it_is_asked_again(tmp_path):
    with held(tmp_path, Pacs(*[silent] * 9)) as (commitment, _, _):
        until(lambda: commitment.waiting == 2)
    pacs = Pacs()
    with held(tmp_path, pacs, 0) as (commitment, watch, _):
        until(lambda: watch.kept == 2)
    assert {"1.2.3.0", "1.2.3.1"} == set(pacs.asked[0][1])


def test_a_pacs_that_commits_to_nothing_is_named_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pacs = Pacs(*[NotOfferedError("it offers none")] * 9)
    with held(tmp_path, pacs, 3) as (commitment, watch, _):
        until(lambda: commitment.waiting == 0)
        assert (watch.kept, commitment.part.is_alive()) == (0, True)
    assert len(pacs.asked) == 1
    assert caplog.text.count("count as delivered once they are stored: it offers none") == 1


# --- the PACS by DICOM


class Archive:
    """A PACS that stores results, and commits as `reports` says: "same" or "new" association."""

    def __init__(self, offered=True, status=0x0000, reports="same", failures=0):
        from pynetdicom import AE, evt

        self.status, self.reports, self.failures = status, reports, failures
        self.stored, self.answers, self.asked = [], [], 0
        self.door = 0  # port of the gate
        self._threads = []
        entity = AE(ae_title=ARCHIVE)
        entity.add_supported_context(SR)
        if offered:
            entity.add_supported_context(PUSH)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._asked)]
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.node = Node(title=ARCHIVE, host="127.0.0.1", port=self._server.server_address[1])

    def close(self):
        for thread in self._threads:
            thread.join(30)
        self._server.shutdown()

    def _store(self, event):
        self.stored.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def _asked(self, event):
        self.asked += 1
        if self.status == 0:
            way = {"same": self._same, "new": self._new}.get(self.reports)
            if way is not None:
                information = self._information(event.action_information)
                thread = threading.Thread(target=way, args=(event.assoc, information))
                self._threads.append(thread)
                thread.start()
        return self.status, None

    def _information(self, request):
        said = Dataset()
        said.TransactionUID = request.TransactionUID
        if not self.failures:
            said.ReferencedSOPSequence = list(request.ReferencedSOPSequence)
            return said
        self.failures -= 1
        for each in request.ReferencedSOPSequence:
            each.FailureReason = NO_SUCH_INSTANCE
        said.FailedSOPSequence = list(request.ReferencedSOPSequence)
        return said

    def _same(self, association, said):
        time.sleep(0.05)  # after the answer to the request
        self.answers.append(reported(association, said))

    def _new(self, _, said):
        with associated(self.door, ARCHIVE) as association:
            self.answers.append(reported(association, said))


def reported(association, said):
    failed = "FailedSOPSequence" in said
    return association.send_n_event_report(said, 2 if failed else 1, PUSH, f"{PUSH}.1")[0].Status


@contextmanager
def associated(port, caller, scp=True, classes=(PUSH,)):
    from pynetdicom import AE, build_role, evt

    sockets = []
    entity = AE(ae_title=caller)
    for each in classes:
        entity.add_requested_context(each)
    association = entity.associate(
        "127.0.0.1", port, ae_title=GATE,
        ext_neg=[build_role(PUSH, scp_role=True)] if scp else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, lambda e: sockets.append(e.assoc.dul.socket.socket))],
    )  # fmt: skip
    try:
        yield association
    finally:
        association.release() if association.is_established else association.abort()
        for each in sockets:
            each.close()


@contextmanager
def service(opened, spool, pacs, watch, door=True, admitted=(XRAY,)):
    """A running engine with its door, whose results go to a PACS."""
    from leadapron.service.archive import Archive as Destination
    from leadapron.service.dicom import Reports, receiving

    archive = Destination(pacs.node, GATE, door=door)
    commitment = Commitment(spool, archive.ask, watch)
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as bound,
        running(
            opened, Keeping(spool=spool), watch,
            lambda made: Outbox(made.folder, short_results, archive, watch, 3600.0, commitment),
        ) as engine,
        receiving(
            engine, bound, GATE, admitted, 1 << 20, watch,
            reports=Reports(ARCHIVE, commitment.report),
        ),
    ):  # fmt: skip
        pacs.door = bound.getsockname()[1]
        yield engine


def send(engine, content):
    with closing(engine.arrive()) as arriving:
        arriving.write(content)
        return engine.accept(arriving)


@pytest.fixture
def pacs(request, monkeypatch):
    from leadapron.service import archive

    monkeypatch.setattr(archive, "REPORT_SECONDS", 0.2)
    archive = Archive(**getattr(request, "param", {}))
    yield archive
    archive.close()


@pytest.mark.service
@pytest.mark.parametrize("pacs", [{"reports": "same"}, {"reports": "new"}], indirect=True)
def test_a_pacs_commits_over_the_same_or_another_association(opened, tmp_path, pacs):
    watch, spool = Counts(), tmp_path / "spool"
    contents = [film(image) for image in films(2, seed=60)]
    with service(opened, spool, pacs, watch) as engine:
        for content in contents:
            send(engine, content)
        until(lambda: watch.kept == 2)
        assert engine.uncommitted == engine.undelivered == 0
    assert (watch.sent, len(pacs.stored)) == (2, 2)
    assert set(pacs.answers) == {0}


@pytest.mark.service
@pytest.mark.parametrize(
    "pacs", [{"reports": "same", "failures": 1}, {"reports": "new", "failures": 1}], indirect=True
)
def test_a_result_that_the_pacs_lost_is_sent_again(opened, tmp_path, pacs, caplog):
    content = film(films(1, seed=61)[0])
    watch, spool = Counts(), tmp_path / "spool"
    with service(opened, spool, pacs, watch) as engine:
        send(engine, content)
        until(lambda: watch.kept == 1)
        assert names(spool, "stored") == names(spool, "outbox") == []
    expected = result_uid(uid_of(content))
    assert (watch.sent, pacs.stored) == (2, [expected, expected])
    assert caplog.text.count("doesn't keep a result") == 1
    assert "(reason 0x0112); it is sent again" in caplog.text
    assert not any(secret in caplog.text for secret in (*SECRETS, expected, ARCHIVE))


def uid_of(content):
    import io

    return dcmread(io.BytesIO(content)).SOPInstanceUID


@pytest.mark.service
@pytest.mark.parametrize(
    ("pacs", "door", "words"),
    [
        ({"offered": False}, True, "the node offers no storage commitment"),
        ({"status": 0x0122}, True, "refuses storage commitment with status 0x0122"),
        ({"reports": "never"}, False, "give `dicom` an address where the node may send it"),
    ],
    indirect=["pacs"],
)
def test_a_pacs_without_commitment_gets_results_as_before(
    opened, tmp_path, pacs, door, words, caplog, monkeypatch
):
    from leadapron.service import archive

    monkeypatch.setattr(archive, "ANSWER_SECONDS", 0.5)
    caplog.set_level(logging.INFO)
    watch, spool = Counts(), tmp_path / "spool"
    with service(opened, spool, pacs, watch, door) as engine:
        send(engine, film(films(1, seed=62)[0]))
        until(lambda: watch.sent == 1 and engine.uncommitted == 0)
        until(lambda: words in caplog.text)
        send(engine, film(films(1, seed=63)[0]))
        until(lambda: watch.sent == 2 and engine.uncommitted == engine.undelivered == 0)
    assert (watch.kept, caplog.text.count(words), pacs.asked <= 1) == (0, 1, True)


@pytest.mark.service
@pytest.mark.parametrize("pacs", [{"reports": "never"}], indirect=True)
def test_what_is_never_committed_to_is_given_up(opened, tmp_path, pacs, monkeypatch):
    monkeypatch.setattr(outbox_module, "GIVE_UP", 60.0)
    watch, spool = Counts(), tmp_path / "spool"
    with service(opened, spool, pacs, watch) as engine:
        name = send(engine, film(films(1, seed=64)[0])) + "-sr"
        until(lambda: pacs.asked == 1 and engine.uncommitted == 1)
        place = spool / "stored" / name
        os.utime(place, (time.time() - 61, time.time() - 61))
        until(lambda: watch.given_up == 1)
        assert (names(spool, "stored"), names(spool, "undelivered")) == ([], [name])


@pytest.mark.service
def test_only_the_archive_may_report_and_nobody_may_ask(opened, tmp_path, pacs):
    """The gate is no archive: only who takes that role itself gets the context."""
    said = Dataset()
    said.TransactionUID, said.ReferencedSOPSequence = "1.2.3", []
    dx = "1.2.840.10008.5.1.4.1.1.1.1"
    with service(opened, tmp_path / "spool", pacs, Counts()):
        for caller, scp in ((XRAY, True), (XRAY, False), (ARCHIVE, False), ("STRANGER", True)):
            with associated(pacs.door, caller, scp) as association:
                assert not association.accepted_contexts, (caller, scp)
        with associated(pacs.door, ARCHIVE, classes=(PUSH, dx)) as association:
            assert [each.abstract_syntax for each in association.accepted_contexts] == [PUSH]
            assert reported(association, said) == 0  # of a transaction that is unknown
            del said.TransactionUID
            assert reported(association, said) == 0x0110
        with associated(pacs.door, XRAY, classes=(dx,), scp=False) as association:
            assert association.is_established
