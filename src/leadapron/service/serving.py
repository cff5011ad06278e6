"""The command serve: open a gate, listen, and run until a signal stops it."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from leadapron.errors import UsageError
from leadapron.jobs.screen import OpenGate, open_gate
from leadapron.service.engine import running
from leadapron.service.reviews import Reviews
from leadapron.service.settings import KEEPING, LISTENING, Keeping, Listening
from leadapron.service.tokens import Tokens, read_tokens, refuse_readable
from leadapron.store import reason, sha256_of
from leadapron.types import AUTO, Machine

__all__ = ["serve"]

logger = logging.getLogger(__name__)

NEEDED = {
    "fastapi": "fastapi",
    "prometheus_client": "prometheus-client",
    "uvicorn": "uvicorn",
}
"""Modules of the extra `serve`, and their packages."""

BACKLOG, CONNECTIONS = 256, 512
"""Most connections that wait to be taken, and that are open."""

REVIEWS = "reviews.jsonl"
"""Name of the file of people's reviews in the spool."""

GRACE = 15
"""Seconds that a stop waits for requests."""


def serve(
    gate: Path,
    *,
    listening: Listening = LISTENING,
    keeping: Keeping = KEEPING,
    model: Path | None = None,
    trust_programs: bool = False,
    machine: Machine = AUTO,
) -> int:
    """Run a gate as a service: films come in over HTTP, verdicts and evidence go back.

    Args:
        gate: the file that calibrate wrote.
        listening: who reaches it.
        keeping: where films and answers are kept.
        model: path of the model, if it was moved.
        trust_programs: run TorchScript and ONNX even if the system can't isolate them from your
            files.
        machine: device of the model.

    Returns:
        0 after a signal stopped it.

    Raises:
        UsageError: packages, tokens or a certificate are missing, or the port is in use.
        StoreError: a gate that can't be read, or whose model is gone; a spool that is in use.
        LeadapronError: as `open_model`.
    """
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise UsageError(f'serving needs {package}: pip install "leadapron[serve]"')
    tokens = read_tokens(listening.token_file)
    if listening.ui and not tokens.has_readers:
        raise UsageError(
            f"{listening.token_file} has no reader's token; add one with a name before it: "
            f'echo "meier $(openssl rand -hex 32)" >> {listening.token_file}'
        )
    _refuse_certificate(listening)
    with _bound(listening) as door:
        opened = open_gate(gate, model=model, trust_programs=trust_programs, machine=machine)
        _run(opened, listening, keeping, tokens, door)
    return 0


def _run(
    opened: OpenGate, listening: Listening, keeping: Keeping, tokens: Tokens, door: socket.socket
) -> None:
    import uvicorn

    from leadapron.service.metering import Meters
    from leadapron.service.page import Page
    from leadapron.service.web import Web

    assert opened.file is not None
    meters = Meters(opened, sha256_of(opened.file))
    # uvicorn raises the signal again once it has stopped, and the films must be put away first.
    before = {each: signal.signal(each, _ignore) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running(opened, keeping, meters) as engine:
            page = None
            if listening.ui:
                secure = listening.tls_cert is not None or listening.no_tls
                reviews = Reviews(keeping.spool / REVIEWS)
                page = Page(engine, tokens, reviews, secure=secure)
            server = uvicorn.Server(
                uvicorn.Config(
                    Web(engine, meters, tokens, listening.largest << 20, page),
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
            if page is not None:
                logger.info("the reader's page is at /ui/ of this address")
            server.run(sockets=[door])
            logger.info("stopping; films that wait stay in the spool")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(*_: Any) -> None:
    """Let a signal pass: the server notes it itself."""


def _bound(listening: Listening) -> socket.socket:
    """A socket that listens; UsageError if the port is taken."""
    host, port = listening.address
    try:
        (family, kind, protocol, _, place), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        door = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"can't listen on {listening.http}: {reason(error)}") from error
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(place)
        door.listen(BACKLOG)
    except OSError as error:
        door.close()
        raise UsageError(
            f"can't listen on {listening.http}: {reason(error).lower()}; give another address or "
            "port as `http`"
        ) from error
    return door


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
