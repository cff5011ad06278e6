"""Orthanc as the door in this process: what is taken, what is left out, and bad answers."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hospital import USER, certificate, film
from input_scenes import films

from dicom_files import SECRETS
from leadapron.errors import UsageError
from leadapron.service.engine import Engine, Watch
from leadapron.service.outbox import RefusedError, UnreachableError
from leadapron.service.settings import Keeping
from leadapron.service.spool import Spool
from leadapron.store import sha256_of

pytestmark = pytest.mark.service

LARGEST = 1 << 16


def name_of(number):
    return f"{number:08x}-00000000-00000000-00000000-00000000"


class Answers(BaseHTTPRequestHandler):
    """Answers as Orthanc does; `server.odd` has other answers by path, called with the handler."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, content, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.server.asked.append(self.path)
        for part, odd in self.server.odd.items():
            if part in self.path:
                return odd(self)
        if self.path.startswith("/changes"):
            return self.say(json.dumps(self.changes()).encode())
        number = int(self.path.split("/")[2][:8], 16)
        if number not in self.server.films:
            return self.say(b"{}", 404)
        content, modality = self.server.films[number]
        if self.path.endswith("/series"):
            return self.say(json.dumps({"MainDicomTags": {"Modality": modality}}).encode())
        return self.say(content)

    def changes(self):
        number = self.path.partition("since=")[2].partition("&")[0]
        since = int(number or max(0, self.server.last - 1))
        page = [
            {"ChangeType": kind, "ID": name_of(each), "Seq": each}
            for each in range(since + 1, self.server.last + 1)
            for kind in ("NewInstance", "NewSeries")
        ][:4]
        last = page[-1]["Seq"] if page else since
        return {"Changes": page, "Done": last == self.server.last, "Last": last}

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.say(b"{}", self.server.status)


@contextmanager
def orthanc(*contents, secure=None):
    """A server that stands for Orthanc, over HTTPS with a certificate; and the gate's client."""
    from leadapron.service.orthanc import Orthanc

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    server.films = {number: (content, "DX") for number, content in enumerate(contents, 1)}
    server.last, server.odd, server.asked, server.status = len(contents), {}, [], 200
    if secure is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*secure)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    server.url = f"http{'s' * bool(secure)}://127.0.0.1:{server.server_address[1]}"
    client = Orthanc(server.url, USER)
    try:
        yield server, client
    finally:
        client.close()
        server.shutdown()
        server.server_close()
        thread.join()


class Counts(Watch):
    def __init__(self):
        self.taken, self.out = 0, 0

    def accepted(self):
        self.taken += 1

    def left_out(self):
        self.out += 1


@pytest.fixture
def watch():
    return Counts()


@pytest.fixture
def engine(opened, tmp_path, watch):
    """An engine that accepts films and judges none."""
    gate = sha256_of(opened.file)
    keeping = Keeping(spool=tmp_path / "spool", queue=5)
    return Engine(opened, Spool(keeping.spool, gate), gate, keeping, watch)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Pauses of hundredths of a second."""
    from leadapron.service import orthanc

    for name, seconds in (("POLL", 0.02), ("PAUSE", 0.02), ("LONGEST_PAUSE", 0.05),
                          ("TIMEOUT", 0.5), ("LONGEST_ANSWER", 1.0)):  # fmt: skip
        monkeypatch.setattr(orthanc, name, seconds)


def polled(engine, client, watch, tmp_path, *, url="http://a", backlog=True):
    from leadapron.service.orthanc import polling

    return polling(
        engine, client, number=tmp_path / "number.json", url=url, largest=LARGEST,
        backlog=backlog, watch=watch,
    )  # fmt: skip


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def number_of(tmp_path, url="http://a"):
    """The number on disk; None if there is none of this Orthanc."""
    path = tmp_path / "number.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    return facts.get("number") if facts.get("url") == url else None


def test_films_are_taken_once_and_others_left(engine, watch, tmp_path):
    contents = [film(image) for image in films(4, seed=50)]
    with orthanc(*contents) as (server, client):
        server.films[2] = (contents[1], "CT")
        server.films[3] = (contents[2], "SR")
        with polled(engine, client, watch, tmp_path):
            until(lambda: number_of(tmp_path) == 4)
        assert (watch.taken, watch.out) == (2, 0)
        server.asked.clear()
        server.films[5], server.films[6] = (contents[1], "DX"), (contents[0], "DX")
        server.last = 7  # the seventh was deleted meanwhile
        with polled(engine, client, watch, tmp_path):  # the next start
            until(lambda: number_of(tmp_path) == 7)
    assert watch.taken == 3  # the first one came again
    assert not any(name_of(1) in path for path in server.asked)


@pytest.mark.parametrize("url", ["http://a", "http://b"])
def test_the_first_start_begins_with_what_comes_from_now(engine, watch, tmp_path, url):
    """Another Orthanc has a first start of its own."""
    if url == "http://b":
        (tmp_path / "number.json").write_text('{"url": "http://a", "number": 1}')
    with (
        orthanc(*[film(image) for image in films(3, seed=51)]) as (server, client),
        polled(engine, client, watch, tmp_path, url=url, backlog=False),
    ):
        until(lambda: number_of(tmp_path, url) == 3)
        assert watch.taken == 0
        server.films[4], server.last = (film(films(1, seed=52)[0]), "CR"), 4
        until(lambda: number_of(tmp_path, url) == 4)
    assert watch.taken == 1


def test_an_orthanc_that_counts_from_the_start_again(engine, watch, tmp_path, caplog):
    (tmp_path / "number.json").write_text('{"url": "http://a", "number": 90}')
    with (
        orthanc(film(films(1, seed=53)[0])) as (_, client),
        polled(engine, client, watch, tmp_path, backlog=False),
    ):
        until(lambda: watch.taken == 1)
    assert "counts its changes from the start again" in caplog.text


def test_a_full_queue_makes_it_wait_and_fetch_nothing_twice(engine, watch, tmp_path):
    contents = [film(image) for image in films(7, seed=54)]
    with orthanc(*contents) as (server, client), polled(engine, client, watch, tmp_path):
        until(lambda: watch.taken == 5)
        time.sleep(0.2)
        engine._pending.clear()  # all were judged
        until(lambda: number_of(tmp_path) == 7)
    fetched = [path for path in server.asked if path.endswith("/file")]
    assert (watch.taken, len(set(fetched))) == (7, 7)
    assert all(fetched.count(f"/instances/{name_of(each)}/file") == 1 for each in range(1, 6))


def test_what_orthanc_can_not_give_is_left_out_in_the_end(engine, watch, tmp_path, caplog):
    contents = [film(image) for image in films(3, seed=55)]
    with orthanc(*contents) as (server, client):
        server.odd[f"{name_of(1)}/file"] = lambda handler: handler.say(b"{}", 500)
        server.odd[f"{name_of(2)}/file"] = lambda handler: handler.say(bytes(LARGEST + 1))
        with polled(engine, client, watch, tmp_path):
            until(lambda: number_of(tmp_path) == 3)
    assert (watch.taken, watch.out) == (1, 2)
    assert list((tmp_path / "spool/arriving").iterdir()) == []
    assert "left out after 5 attempts (HTTP status 500)" in caplog.text
    assert "larger than --largest" in caplog.text
    assert not any(word in caplog.text for word in (*SECRETS, name_of(1), *USER))


def stalled(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.wfile.flush()
    time.sleep(1.2)


def dripping(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(20):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


ODD = {
    "no JSON": (lambda handler: handler.say(b"<html>"), "it doesn't answer as an Orthanc"),
    "a list": (lambda handler: handler.say(b"[]"), "it doesn't answer as an Orthanc"),
    "deep": (lambda handler: handler.say(b"[" * 100_000), "it doesn't answer as an Orthanc"),
    "other facts": (
        lambda handler: handler.say(b'{"Changes": 1, "Last": "x"}'), "changes isn't Orthanc's",
    ),
    "endless": (lambda handler: handler.say(bytes(1 << 21)), "it doesn't answer as an Orthanc"),
    "elsewhere": (lambda handler: handler.say(b"{}", 302), "no list of changes (HTTP status 302)"),
    "nowhere": (lambda handler: handler.say(b"{}", 404), "no list of changes (HTTP status 404)"),
    "a stranger": (lambda handler: handler.say(b"{}", 401), "refuses the user"),
    "starting": (lambda handler: handler.say(b"{}", 503), "HTTP status 503"),
    "half an answer": (stalled, "no answer (ReadTimeout)"),
    "drops": (dripping, "it is too slow"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_bad_answers_are_waited_out(engine, watch, tmp_path, caplog, name):
    caplog.set_level(logging.INFO)
    odd, words = ODD[name]
    with orthanc(film(films(1, seed=56)[0])) as (server, client):
        server.odd["/changes"] = odd
        with polled(engine, client, watch, tmp_path):
            until(lambda: words in caplog.text)
            server.odd.clear()
            until(lambda: watch.taken == 1)
    assert caplog.text.count("can't take films") == 1


def test_names_that_are_no_names_are_not_asked_for(engine, watch, tmp_path):
    page = {"Changes": [{"ChangeType": "NewInstance", "ID": "../../system", "Seq": 1}, 7],
            "Done": True, "Last": 1}  # fmt: skip
    with orthanc() as (server, client):
        server.odd["/changes"] = lambda handler: handler.say(json.dumps(page).encode())
        with polled(engine, client, watch, tmp_path):
            until(lambda: server.asked.count("/changes?since=1&limit=100") > 2)
    assert all(path.startswith("/changes?") for path in server.asked)


def test_over_https_only_a_known_certificate_is_trusted(engine, watch, tmp_path, caplog):
    from leadapron.service.doors import _https
    from leadapron.service.orthanc import Orthanc

    own, other = (certificate(tmp_path, name) for name in ("orthanc", "other"))
    with orthanc(film(films(1, seed=57)[0]), secure=own) as (server, client):
        known = Orthanc(server.url, USER, _https(own[0]))
        wrong_name = Orthanc(server.url.replace("127.0.0.1", "localhost"), USER, _https(own[0]))
        for stranger in (Orthanc(server.url, USER, _https(other[0])), client, wrong_name):
            with pytest.raises(UnreachableError, match=r"certificate isn't trusted.*--orthanc-ca"):
                stranger.last_change()
            stranger.close()
        assert server.asked == []
        with polled(engine, known, watch, tmp_path, url=server.url):
            until(lambda: watch.taken == 1)
        known.close()
    assert "can't take films" not in caplog.text


def test_a_file_without_certificates_is_refused(tmp_path):
    from leadapron.service.doors import Doors
    from leadapron.service.settings import Listening, Nodes

    empty = tmp_path / "ca.pem"
    for content in (None, "no certificate"):
        if content is not None:
            empty.write_text(content)
        with pytest.raises(UsageError, match=r"ca\.pem isn't a file of certificates in PEM"):
            Doors(Listening(), Nodes(orthanc="https://127.0.0.1:1", orthanc_ca=empty))


def test_results_that_orthanc_refuses_or_can_not_take():
    with orthanc() as (server, client), client.connected() as send:
        send(b"result")
        server.status = 400
        with pytest.raises(RefusedError, match="HTTP status 400"):
            send(b"result")
        server.status = 503
        with pytest.raises(UnreachableError, match="HTTP status 503"):
            send(b"result")


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [("user:word", 0o644, "others can read"), ("user", 0o600, "USER:PASSWORD"),
     (":word", 0o600, "USER:PASSWORD"), ("user:a\nb", 0o600, "USER:PASSWORD")],
)  # fmt: skip
def test_the_file_of_the_user(tmp_path, content, mode, words):
    from leadapron.service.orthanc import read_user

    path = tmp_path / "user"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(UsageError, match=words):
        read_user(path)
    path.write_text("user:pass:word\n")
    path.chmod(0o600)
    assert read_user(path) == ("user", "pass:word")
    assert read_user(None) is None
