"""The HTTP door: films in, answers out. It needs the extra `serve`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from leadapron import __version__
from leadapron.documents import read, schema
from leadapron.report.screen import overlay_png
from leadapron.service.answers import RESEARCH, FilmAnswer
from leadapron.service.engine import Engine, FullError
from leadapron.service.metering import CONTENT_TYPE_LATEST, Meters
from leadapron.service.page import Page
from leadapron.service.replies import (
    RETRY_SECONDS,
    RequestRefusedError,
    error_reply,
    json_reply,
    reply,
)
from leadapron.service.spool import Arriving
from leadapron.service.tokens import Tokens

__all__ = ["Web"]

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/v2/health/live", "/v2/health/ready", "/openapi.json")
"""Paths that need no token."""

UPLOADS = 64
"""Most films that are received at a time."""

UPLOAD_SECONDS = 120.0
"""Most seconds for receiving a film."""

LONGEST_WAIT = 60.0

PREAMBLE = 132
"""Bytes that a film's kind is known by."""

HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-research-use-only", b"it does not diagnose; a pass never means healthy"),
]

FILM = "application/dicom", "image/png", "image/jpeg"

STATUSES = {
    202: "Accepted, and not judged yet: ask again at Location.",
    400: "The request can't be read.",
    401: "No valid bearer token.",
    404: "No such film, or its answer has expired.",
    408: "The film took too long to arrive.",
    413: "The film is too large.",
    415: "Not a DICOM file with preamble, a PNG or a JPEG.",
    422: "Judged: the file can't be used as a chest radiograph. The verdict is \"can't tell\".",
    429: "Too many films arrive at once; see Retry-After.",
    503: "The queue or the disk is full, or the service stops; see Retry-After.",
}


class Web:
    """The ASGI application.

    Args:
        engine: judges films.
        meters: counts.
        tokens: who is let in.
        largest: most bytes of a film.
        page: the reader's page, which admits people itself; None if it isn't served.
    """

    def __init__(
        self,
        engine: Engine,
        meters: Meters,
        tokens: Tokens,
        largest: int,
        page: Page | None = None,
    ) -> None:
        self._engine, self._meters = engine, meters
        self._tokens, self._largest, self._page = tokens, largest, page
        self._uploads = 0
        self._app = self._routes()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request; an unexpected error is logged by its kind alone."""
        if scope["type"] != "http":
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
                if message["status"] >= 400:
                    self._meters.turned_away(message["status"])
            await send(message)

        try:
            if self._page is not None and self._page.owns(scope["path"]):
                await self._page(scope, receive, sending)
            elif scope["path"] not in OPEN and not self._tokens.admit(_header(scope)):
                refused = error_reply(401, STATUSES[401])
                refused.headers["WWW-Authenticate"] = "Bearer"
                await refused(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except Exception as error:  # after the handler below has answered
            logger.error("a request failed: %s", type(error).__name__)

    # --- endpoints

    async def submit(
        self,
        request: Request,
        wait: Annotated[
            float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for the verdict.")
        ] = 10.0,
    ) -> Response:
        """Screen a film; the body is the file."""
        film = await self._received(request)
        await _patiently(self._engine.when_answered(film), wait)
        told = self._engine.answer(film)
        place = {"Location": f"/v1/films/{film}"}
        if told is None:  # wiped already: `keep` is shorter than the wait
            return error_reply(404, STATUSES[404])
        if told.waits:
            return reply(202, told.content, {**place, "Retry-After": RETRY_SECONDS})
        bad = read(FilmAnswer, told.content).bad is not None
        return reply(422 if bad else 200, told.content, place)

    async def fetch(self, film: Annotated[str, Path(max_length=32)]) -> Response:
        """Return a film's answer: verdict, evidence region, readings, scores."""
        told = self._engine.answer(film)
        if told is None:
            return error_reply(404, STATUSES[404])
        if told.waits:
            return reply(202, told.content, {"Retry-After": RETRY_SECONDS})
        return reply(200, told.content)

    async def overlay(self, film: Annotated[str, Path(max_length=32)]) -> Response:
        """Return the model's input as PNG, enlarged, with the evidence region framed."""
        told, image = self._engine.answer(film), self._engine.image(film)
        decision = None if told is None else read(FilmAnswer, told.content).decision
        if image is None or decision is None:
            return error_reply(404, "no such film, or a film without a picture")
        picture = await asyncio.to_thread(overlay_png, image, decision.region)
        return Response(picture, media_type="image/png")

    async def live(self) -> Response:
        """Return 200 while the process answers."""
        return json_reply(200, {"live": True})

    async def ready(self) -> Response:
        """Return 200 if films are accepted and judged, else 503; an alarm doesn't stop it."""
        trouble, alarm = self._engine.trouble, self._engine.alarm
        facts = {"ready": not trouble, "trouble": trouble, "alarm": alarm}
        return json_reply(503 if trouble else 200, facts)

    async def metrics(self) -> Response:
        """Return counts for Prometheus."""
        return Response(self._meters.text(self._engine), media_type=CONTENT_TYPE_LATEST)

    # --- receiving

    async def _received(self, request: Request) -> str:
        stated = request.headers.get("content-length", "0")
        if stated.isascii() and stated.isdigit() and int(stated) > self._largest:
            raise RequestRefusedError(413, self._too_large())
        if self._uploads >= UPLOADS:
            raise RequestRefusedError(429, STATUSES[429])
        self._uploads += 1
        try:
            arriving = await asyncio.to_thread(self._engine.arrive)
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    await self._fill(arriving, request)
                return await asyncio.to_thread(self._engine.accept, arriving)
            finally:
                await asyncio.to_thread(arriving.close)  # it may overwrite megabytes
        except FullError as error:
            raise RequestRefusedError(503, f"{error}; try again later") from error
        except TimeoutError as error:
            raise RequestRefusedError(408, STATUSES[408]) from error
        except ClientDisconnect as error:
            raise RequestRefusedError(400, "the film wasn't complete") from error
        finally:
            self._uploads -= 1

    async def _fill(self, arriving: Arriving, request: Request) -> None:
        start = b""
        async for chunk in request.stream():
            if arriving.size + len(chunk) > self._largest:
                raise RequestRefusedError(413, self._too_large())
            if len(start) < PREAMBLE:
                start += chunk[:PREAMBLE]
                if len(start) >= PREAMBLE and not _is_film(start):
                    raise RequestRefusedError(415, STATUSES[415])
            try:
                arriving.write(chunk)
            except OSError as error:
                raise FullError("the disk is full") from error
        if not _is_film(start):
            raise RequestRefusedError(415, STATUSES[415])

    def _too_large(self) -> str:
        return f"the film is larger than {self._largest >> 20} MB"

    # --- the application

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="leadapron", version=__version__, summary=RESEARCH, docs_url=None, redoc_url=None
        )
        body = {"required": True, "content": {kind: {"schema": BINARY} for kind in FILM}}
        places: Iterable[tuple[str, str, Callable[..., Any], Iterable[int], dict[str, Any]]] = (
            ("POST", "/v1/films", self.submit, (202, 400, 401, 408, 413, 415, 422, 429, 503),
             {"requestBody": body}),
            ("GET", "/v1/films/{film}", self.fetch, (202, 401, 404), {}),
            ("GET", "/v1/films/{film}/overlay.png", self.overlay, (401, 404), {}),
            ("GET", "/v2/health/live", self.live, (), {}),
            ("GET", "/v2/health/ready", self.ready, (503,), {}),
            ("GET", "/metrics", self.metrics, (401,), {}),
        )  # fmt: skip
        for method, path, endpoint, statuses, more in places:
            answers: dict[int | str, dict[str, Any]] = {
                status: {"description": STATUSES[status]} for status in statuses
            }
            if endpoint in (self.submit, self.fetch):
                answers[200] = {"content": {"application/json": {"schema": ANSWER}}}
            app.add_api_route(
                path, endpoint, methods=[method], responses=answers, openapi_extra=more,
                response_class=Response,
            )  # fmt: skip
        app.add_exception_handler(RequestRefusedError, _refused)
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(RequestValidationError, _invalid)
        app.add_exception_handler(Exception, _unexpected)
        described = app.openapi()
        described.setdefault("components", {}).setdefault("schemas", {}).update(_schemas())
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in described["paths"].items():
            if path not in OPEN:
                for method in methods.values():
                    method["security"] = [{"token": []}]
        return app


BINARY = {"type": "string", "format": "binary"}
ANSWER = {"$ref": "#/components/schemas/FilmAnswer"}


def _schemas() -> dict[str, Any]:
    """The answer's JSON schema and those that it refers to, as OpenAPI places them."""
    text = json.dumps(schema(FilmAnswer)).replace("#/$defs/", "#/components/schemas/")
    whole = json.loads(text)
    parts: dict[str, Any] = whole.pop("$defs")
    del whole["$schema"]
    return {**parts, "FilmAnswer": whole}


def _is_film(start: bytes) -> bool:
    return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or start[128:132] == b"DICM"


def _header(scope: Message) -> bytes:
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    return bytes(found[0]) if len(found) == 1 else b""


async def _patiently(future: Future[None], seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.wrap_future(future), seconds)


async def _unexpected(_: Request, __: Exception) -> Response:
    return error_reply(500, "the service failed")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefusedError)
    return error_reply(error.status, error.words)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = error_reply(error.status_code, "no such page or method; /openapi.json lists them")
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    names = sorted({str(each["loc"][-1]) for each in error.errors()})
    return error_reply(400, f"invalid value of {', '.join(names)}; expected as in /openapi.json")
