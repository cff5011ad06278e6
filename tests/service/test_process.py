"""The service as a process: killed at random moments, with a full disk, under bad clients."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from input_scenes import films
from service_scenes import Server, png

import leadapron as la
from dicom_files import SECRETS, header, with_pixels, write

pytestmark = pytest.mark.service

KILLS = 10


@pytest.fixture(scope="module")
def server(nursery, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("running") / "service"
    shutil.copytree(model, folder)
    server = Server(nursery, folder / "gate.json", "--largest", "1")
    try:
        assert server.listens(), server.log.read_text()
        yield server
    finally:
        server.end(signal.SIGKILL)


def certificate(folder: Path) -> tuple[str, ...]:
    """The options for HTTPS with a certificate of its own."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    call = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
            "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out",
            cert]  # fmt: skip
    subprocess.run(call, check=True, capture_output=True)
    key.chmod(0o600)
    return "--tls-cert", str(cert), "--tls-key", str(key)


class Sender(threading.Thread):
    """Sends films until it is told to stop, each again until it was accepted.

    Args:
        films: the films; of these the first `due` are sent.
    """

    def __init__(self, films: list[bytes]) -> None:
        super().__init__()
        self.films, self.server, self.over = films, None, threading.Event()
        self.due, self.accepted = 0, dict[int, str]()

    def run(self) -> None:
        for number, film in enumerate(self.films):
            while number not in self.accepted and not self.over.is_set():
                if number >= self.due or self.server is None:
                    time.sleep(0.005)
                    continue
                try:
                    status, answer = self.server.send(film, wait=0)
                except (OSError, ValueError):  # killed before or while it answered
                    time.sleep(0.005)
                    continue
                if status in (200, 202):
                    self.accepted[number] = answer["id"]


def test_a_service_killed_at_random_moments_answers_every_accepted_film_once(nursery, gate):
    """Over HTTPS. Half of the kills come while it starts, the others while films arrive."""
    secure = certificate(gate.parent)
    rng = random.Random(7)
    images = films(48, seed=5)
    sender = Sender([png(image) for image in images])
    server = None
    try:
        sender.start()
        for kill in range(KILLS + 1):
            server = Server(nursery, gate, *secure, certificate=gate.parent / "cert.pem")
            if kill == KILLS:
                break
            if kill % 2:
                time.sleep(rng.uniform(0, 1.0))
            else:
                assert server.listens(), server.log.read_text()
                before, sender.due = len(sender.accepted), sender.due + 8
                sender.server = server
                end = time.monotonic() + 60
                while len(sender.accepted) == before and time.monotonic() < end:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.1))
            server.end(signal.SIGKILL)
        assert server.listens(), server.log.read_text()
        assert "of an earlier run" in server.log.read_text()  # some kill left films behind
        sender.server, sender.due = server, len(images)
        sender.join(120)
        accepted = sender.accepted
        assert len(set(accepted.values())) == len(accepted) == len(images)
        answers = {number: answered(server, film) for number, film in accepted.items()}
        assert server.end(signal.SIGTERM) == 0
    finally:
        sender.over.set()
        sender.join()
        if server is not None:
            server.end(signal.SIGKILL)
    alone = la.Gate.load(gate)
    for number, answer in answers.items():
        expected = alone.screen(images[number])
        assert (answer["state"], answer["verdict"]["word"]) == ("judged", expected.verdict)
        assert answer["decision"]["score"] == pytest.approx(expected.score, rel=1e-3)
    done = sorted(path.stem for path in (server.spool / "done").glob("*.json"))
    assert done == sorted(accepted.values())
    for folder in ("waiting", "arriving", "dead"):
        assert list((server.spool / folder).iterdir()) == []


def answered(server, film):
    """A film's answer, once it has been judged."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        status, _, body = server.ask("GET", f"/v1/films/{film}")
        assert status in (200, 202)
        if status == 200:
            return json.loads(body)
        time.sleep(0.05)
    raise AssertionError("it still waits")


def test_fifty_clients_at_once(server):
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(server.send, map(png, films(50, seed=11))))
    assert [status for status, _ in answers] == [200] * 50
    assert len({answer["id"] for _, answer in answers}) == 50


def raw(server, content, *, wait=2.0):
    """What comes back for these bytes; the sender then stays silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as line:
        line.sendall(content)
        try:
            return line.recv(4096)
        except TimeoutError:
            return b""


def test_malformed_and_slow_requests_harm_no_other(server):
    admitted = f"Authorization: Bearer {server.token}\r\n".encode()
    rng = np.random.default_rng(3)
    bad = {
        "garbage": (rng.bytes(2000) + b"\r\n\r\n", b"HTTP/1.1 400"),
        "half a request": (b"POST /v1/films HTTP/1.1\r\nHost: x\r\n", b""),
        "endless header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000, b"HTTP/1.1 400"),
        "two lengths": (
            b"POST /v1/films HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 400",
        ),
        "4 GiB": (
            b"POST /v1/films HTTP/1.1\r\nHost: x\r\n" + admitted
            + b"Content-Length: 4294967296\r\n\r\n",
            b"HTTP/1.1 413",
        ),
        "half a film": (
            b"POST /v1/films HTTP/1.1\r\nHost: x\r\n" + admitted
            + b"Content-Length: 900000\r\n\r\n\x89PNG\r\n\x1a\n",
            b"",
        ),
        "two tokens": (
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + 2 * admitted + b"\r\n", b"HTTP/1.1 401",
        ),
    }  # fmt: skip
    for name, (content, answer) in bad.items():
        found = raw(server, content)
        assert found.startswith(answer), name
        assert answer or not found, name
    for _ in range(300):
        raw(server, rng.bytes(int(rng.integers(1, 400))) + b"\r\n\r\n", wait=0.02)
    status, _ = server.send(png(films(1, seed=12)[0]))
    assert status == 200
    end = time.monotonic() + 30
    while any((server.spool / "arriving").iterdir()) and time.monotonic() < end:
        time.sleep(0.1)
    assert list((server.spool / "arriving").iterdir()) == []


def test_a_full_disk_refuses_films_and_loses_none(server):
    """Files of this process may have 2,000 bytes: films fit, answers don't."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    small, large = png(films(1, seed=13)[0]), png(np.random.default_rng(1).integers(
        0, 256, (200, 200)).astype(np.uint8))  # fmt: skip
    assert len(small) < 2000 < len(large)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        status, headers, body = server.ask("POST", "/v1/films", large)
        assert (status, headers["retry-after"]) == (503, "2")
        assert b"the disk is full; try again later" in body
        status, waiting = server.send(small, wait=3)
        assert (status, waiting["state"]) == (202, "waiting")
        status, _, body = server.ask("GET", "/v2/health/ready")
        assert (status, json.loads(body)["trouble"]) == (503, "the disk is full")
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
    assert answered(server, waiting["id"])["state"] == "judged"
    assert server.ask("GET", "/v2/health/ready")[0] == 200


def test_nothing_of_headers_and_names_is_in_logs_metrics_errors_and_spool(server, tmp_path):
    grey = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    uid = header().SOPInstanceUID
    said = []
    for number, dataset in enumerate(
        (with_pixels(grey), with_pixels(grey, Modality="CT"), with_pixels(grey, Rows=20_000),
         with_pixels(grey, Modality="DOE^JOHN"), with_pixels(grey, Rows=None))
    ):  # fmt: skip
        dataset.SOPInstanceUID = uid
        content = write(tmp_path / str(number), dataset).read_bytes()
        for body in (content, content[: len(content) // 2], content[:200]):
            planted = {"X-File": "DOE^JOHN-PAT-4711-X.dcm", "User-Agent": "Elm Street"}
            status, headers, answer = server.ask("POST", "/v1/films?wait=60", body, **planted)
            assert status in (200, 422)
            said += [str(headers), answer.decode()]
    for path in (f"/v1/films/{uid}", "/v1/films/DOE%5EJOHN", "/19700413?x=Elm%20Street"):
        status, headers, answer = server.ask("GET", path)
        assert status in (400, 404)  # longer than an id, or unknown
        said += [str(headers), answer.decode()]
    said.append(server.ask("GET", "/metrics")[2].decode())
    said.append(server.log.read_text())
    for path in server.spool.rglob("*"):
        said.append(str(path.relative_to(server.spool)))
        if path.suffix == ".json":
            said.append(path.read_text())
    assert "listening on" in server.log.read_text()
    for secret in (*SECRETS, "DOE", uid, "PAT-4711"):
        assert not any(secret in text for text in said), secret


def test_what_the_command_line_says_when_the_spool_is_in_use(server):
    """The only start that the nursery has no part in."""
    folder = server.spool.parent
    done = subprocess.run(
        [sys.executable, "-m", "leadapron", "serve", folder / "gate.json", "--spool", server.spool,
         "--token-file", folder / "token", "--http", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "is in use by another leadapron process" in done.stderr
