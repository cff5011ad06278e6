"""A gate on disk whose model is a real file, and films that come to it."""

from __future__ import annotations

import http.client
import io
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from input_scenes import FINDINGS, cohort
from PIL import Image

import leadapron as la
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import build_network

SIZE = 32


def gate_of_files(folder: Path) -> Path:
    """Write a network that learnt nothing, and its gate; return the gate's file."""
    network = NetworkClassifier(
        build_network("resnet9", 3, 4).eval(), "resnet9", FINDINGS, la.Preprocessing(size=SIZE)
    )
    la.save_classifier(network, folder / "model.safetensors")
    la.calibrate(
        folder / "model.safetensors", cohort(seed=1), folder / "gate.json", false_alarm=0.05,
        machine=la.Machine(cache="none"),
    )  # fmt: skip
    return folder / "gate.json"


def png(image: np.ndarray) -> bytes:
    """Return a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


NURSERY = """
import json, os, sys
import fastapi, uvicorn
import leadapron.models.foreign, leadapron.service.metering
import leadapron.service.doors, leadapron.service.serving, leadapron.service.web
from leadapron.cli import main
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    os.setsid()
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, there in ((0, nothing), (1, log), (2, log)):
        os.dup2(there, number)
    sys.argv[1:] = asked["words"]
    main()
"""


class Nursery:
    """A process that has loaded what a service loads, and forks services: they start at once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, **question: object) -> int:
        """Return the id of a process that was started, or the exit code of one that ended."""
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class Server:
    """A service in a process of its own, with the words of the command line.

    Args:
        nursery: where it is born.
        gate: the gate's file; token, log and spool lie beside it.
        words: further options.
        certificate: the file that the client trusts, for HTTPS.
        http: whether it listens for HTTP.
    """

    def __init__(
        self, nursery: Nursery, gate: Path, *words: str, certificate: Path | None = None,
        http: bool = True,
    ) -> None:  # fmt: skip
        folder = gate.parent
        self.log, self.spool, self.certificate = folder / "log", folder / "spool", certificate
        token = folder / "token"
        if not token.exists():
            token.touch(0o600)
            token.write_text(secrets.token_hex(32))
        self.token = token.read_text()
        self._said = self.log.stat().st_size if self.log.exists() else 0
        web = ("--http", "127.0.0.1:0", "--token-file", str(token)) if http else ()
        command = ["serve", str(gate), *web, "--spool", str(self.spool), *words]
        self._nursery = nursery
        self.pid = nursery.ask(words=command, log=str(self.log))
        self.code: int | None = None
        self.port = 0

    def says(self, words: str, seconds: float = 120) -> str:
        """Wait until it says these words, and return the rest of the line; "" if it doesn't."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            said = self.log.read_text()[self._said :] if self.log.exists() else ""
            _, found, rest = said.partition(words)
            if found and "\n" in rest:
                return rest.splitlines()[0] or words
            time.sleep(0.02)
        return ""

    def listens(self) -> bool:
        """Wait until it listens for HTTP; False if it doesn't."""
        rest = self.says("listening on ")
        if rest:
            self.port = int(rest.rpartition(":")[2])
        return bool(rest)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        """Return status, headers and body of an answer; OSError if it doesn't answer."""
        if self.certificate is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        else:
            trust = ssl.create_default_context(cafile=str(self.certificate))
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=120, context=trust
            )
        try:
            admitted = {"Authorization": f"Bearer {self.token}", **headers}
            connection.request(method, path, body, admitted)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def send(self, film: bytes, wait: float = 60):
        """Post a film; return the status and the answer."""
        status, _, body = self.ask("POST", f"/v1/films?wait={wait}", film)
        return status, json.loads(body)

    def end(self, number: signal.Signals) -> int:
        """Send a signal unless it has ended, and return its exit code; negative for a signal."""
        if self.code is None:
            os.kill(self.pid, number)
            self.code = self._nursery.ask(wait=self.pid)
        return self.code
