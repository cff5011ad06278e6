"""The command serve: open a gate, listen, and run until a signal stops it."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from leadapron.errors import UsageError
from leadapron.jobs.screen import OpenGate, open_gate
from leadapron.service.engine import Engine, running
from leadapron.service.outbox import Make
from leadapron.service.reviews import REVIEWS, Reviews
from leadapron.service.settings import (
    KEEPING,
    LISTENING,
    NODES,
    Keeping,
    Listening,
    Nodes,
    is_local,
)
from leadapron.service.spool import Spool
from leadapron.service.tokens import Tokens, read_tokens, refuse_readable
from leadapron.service.watching import until_stopped
from leadapron.store import reason, sha256_of
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from leadapron.service.doors import Doors
    from leadapron.service.metering import Meters
    from leadapron.service.web import Web

__all__ = ["serve"]

logger = logging.getLogger(__name__)

NEEDED = {
    "fastapi": "fastapi",
    "highdicom": "highdicom",
    "httpx": "httpx",
    "prometheus_client": "prometheus-client",
    "pynetdicom": "pynetdicom",
    "uvicorn": "uvicorn",
}
"""Modules of the extra `serve`, and their packages."""

BACKLOG, CONNECTIONS = 256, 512
"""Most connections that wait to be taken, and that are open."""

GRACE = 15
"""Seconds that a stop waits for requests."""


def serve(
    gate: Path,
    *,
    listening: Listening = LISTENING,
    nodes: Nodes = NODES,
    keeping: Keeping = KEEPING,
    model: Path | None = None,
    trust_programs: bool = False,
    machine: Machine = AUTO,
) -> int:
    """Run a gate as a service: films come in over HTTP, by DICOM or from Orthanc; verdicts go back.

    Args:
        gate: the file that calibrate wrote.
        listening: who reaches it over HTTP.
        nodes: DICOM nodes and the Orthanc that films come from and results go to.
        keeping: where films and answers are kept.
        model: path of the model, if it was moved.
        trust_programs: run TorchScript and ONNX even if the system can't isolate them from your
            files.
        machine: device and backend of the model.

    Returns:
        0 after a signal stopped it.

    Raises:
        UsageError: packages, tokens or a certificate are missing, or a port is in use.
        StoreError: a gate that can't be read, or whose model is gone; a spool that is in use.
        LeadapronError: as `open_model`.
    """
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise UsageError(f'serving needs {package}: pip install "leadapron[serve]"')
    web = listening.http is not None or listening.ui or not nodes.given
    tokens = read_tokens(listening.token_file) if web else None
    if listening.ui and tokens is not None and not tokens.has_readers:
        raise UsageError(
            f"{listening.token_file} has no reader's token; add one with a name before it: "
            f'echo "meier $(openssl rand -hex 32)" >> {listening.token_file}'
        )
    _refuse_certificate(listening)
    _refuse_plain(listening, nodes)
    from leadapron.service.doors import Doors

    doors = Doors(listening, nodes)
    with ExitStack() as stack:
        http = stack.enter_context(_bound("http", *listening.address)) if web else None
        node = nodes.door
        dicom = None if node is None else stack.enter_context(_bound("dicom", node.host, node.port))
        opened = open_gate(gate, model=model, trust_programs=trust_programs, machine=machine)
        _run(opened, listening, keeping, doors, _Listeners(http, tokens, dicom))
    return 0


@dataclass(frozen=True)
class _Listeners:
    """Sockets that listen.

    Args:
        http: for HTTP, if it is wanted.
        tokens: that HTTP lets in.
        dicom: for DICOM, if it is wanted.
    """

    http: socket.socket | None
    tokens: Tokens | None
    dicom: socket.socket | None


def _run(
    opened: OpenGate, listening: Listening, keeping: Keeping, doors: Doors, listeners: _Listeners
) -> None:
    from leadapron.service.metering import Meters

    assert opened.file is not None
    gate = sha256_of(opened.file)
    meters = Meters(opened, gate)
    outgoing = doors.outgoing(partial(_maker, opened, gate, doors.kinds), keeping, meters)
    with (
        until_stopped() as stop,
        running(opened, keeping, meters, outgoing) as engine,
        doors.open(engine, listeners.dicom, keeping, meters),
    ):
        if listeners.http is None:
            stop.wait()
        elif not stop.is_set():
            assert listeners.tokens is not None
            web = _web(engine, meters, listeners.tokens, listening, keeping)
            _serve_http(web, listening, listeners.http)
        logger.info("stopping; films that wait stay in the spool")


def _maker(opened: OpenGate, gate: str, kinds: Sequence[str], spool: Spool) -> Make:
    """What makes the result objects of a gate."""
    from leadapron.service.objects import result_objects
    from leadapron.service.results import Installation

    about = Installation.of(opened, gate, spool.device)
    return lambda film, answer, image: result_objects(film, answer, about, kinds, image=image)


def _web(
    engine: Engine, meters: Meters, tokens: Tokens, listening: Listening, keeping: Keeping
) -> Web:
    """The application, with the reader's page if it is wanted."""
    from leadapron.service.page import Page
    from leadapron.service.web import Web

    page = None
    if listening.ui:
        secure = listening.tls_cert is not None or listening.no_tls
        page = Page(engine, tokens, Reviews(keeping.spool / REVIEWS), secure=secure)
        logger.info("the reader's page is at /ui/")
    return Web(engine, meters, tokens, listening.largest << 20, page)


def _serve_http(web: Web, listening: Listening, door: socket.socket) -> None:
    """Answer requests until a signal comes."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            web,
            log_config=None,
            log_level="warning",
            access_log=False,  # a path may hold anything
            server_header=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            http="h11",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GRACE,
            ssl_certfile=listening.tls_cert,
            ssl_keyfile=listening.tls_key,
        )
    )
    scheme = "http" if listening.tls_cert is None else "https"
    host, port = door.getsockname()[:2]
    logger.info("listening on %s://%s:%d", scheme, _bracketed(host), port)
    # uvicorn raises the signal again once it has stopped; `until_stopped` takes it.
    server.run(sockets=[door])


def _bound(option: str, host: str, port: int) -> socket.socket:
    """A socket that listens; UsageError if the port is taken."""
    place = f"{_bracketed(host)}:{port}"
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        door = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"can't listen on {place}: {reason(error)}") from error
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(BACKLOG)
    except OSError as error:
        door.close()
        raise UsageError(
            f"can't listen on {place}: {reason(error).lower()}; give another address or port as "
            f"`{option}`"
        ) from error
    return door


def _refuse_plain(listening: Listening, nodes: Nodes) -> None:
    """Raise UsageError if films would travel in the clear and nobody said that they may."""
    door = nodes.door
    if door is None or nodes.dicom_ca is not None or listening.no_tls or is_local(door.host):
        return
    raise UsageError(
        f"{nodes.dicom} is reached by other machines, and films would travel in the clear; give "
        "`dicom_ca` with `tls_cert` and `tls_key`, or `no_tls` on a network of its own"
    )


def _refuse_certificate(listening: Listening) -> None:
    """Raise UsageError if the certificate or its key can't be used."""
    if listening.tls_cert is None or listening.tls_key is None:
        return
    refuse_readable(listening.tls_key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            listening.tls_cert, listening.tls_key
        )
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{listening.tls_cert} and {listening.tls_key} aren't a certificate with its key in "
            f"PEM ({reason(error)})"
        ) from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
