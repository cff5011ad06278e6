"""The reader's page: films by suspicion, their evidence, and people's reviews of them.

Static files that need no build and request nothing elsewhere, and the requests that they make. A
person signs in with a token and gets a cookie that no script can read; each change also carries a
token of the session, which a foreign page can't know. It needs the extra `serve`.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import fields
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from leadapron.documents import dump, read
from leadapron.errors import StoreError
from leadapron.service.answers import FilmAnswer, moment
from leadapron.service.engine import Engine
from leadapron.service.replies import RequestRefusedError, error_reply, json_reply
from leadapron.service.reviews import CALLS, Review, ReviewExport, Reviews, latest, tallies
from leadapron.service.sessions import Session, Sessions
from leadapron.service.shelf import Shelf
from leadapron.service.tokens import Tokens

__all__ = ["Page"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Endpoint = Callable[[Request], Awaitable[Response]]

ROOT = "/ui"

COOKIE = "leadapron_session"

LARGEST_BODY = 4096
"""Most bytes of a sign-in or a review."""

SENT_SECONDS = 10.0
"""Most seconds that a sign-in or a review takes to arrive."""

FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Static files by path: name and kind."""

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]


class _Judged(NamedTuple):
    """A film that was judged: its answer as JSON and as a document."""

    content: bytes
    answer: FilmAnswer


class Page:
    """The ASGI application of the page, below `ROOT`.

    Args:
        engine: judges films and keeps the answers.
        tokens: who may sign in.
        reviews: what people said.
        secure: whether people reach it by HTTPS alone, so that the cookie is sent only there.
    """

    def __init__(self, engine: Engine, tokens: Tokens, reviews: Reviews, *, secure: bool) -> None:
        self._engine, self._tokens, self._reviews = engine, tokens, reviews
        self._secure = secure
        self._shelf = Shelf(engine)
        self._sessions = Sessions()
        self._app = self._routes()

    def owns(self, path: str) -> bool:
        """Return whether a path is the page's."""
        return path in ("/", ROOT) or path.startswith(f"{ROOT}/")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self._app(scope, receive, sending)

    # --- open to everybody

    async def enter(self, _: Request) -> Response:
        """Lead to the page."""
        return Response(status_code=307, headers={"Location": f"{ROOT}/"})

    async def file(self, request: Request) -> Response:
        """Return a static file; none holds anything of a film."""
        found = FILES.get(request.path_params.get("name", ""))
        if found is None:
            raise RequestRefusedError(404, "no such file")
        name, kind = found
        content = (resources.files("leadapron.service") / "ui" / name).read_bytes()
        return Response(content, media_type=kind)

    async def sign_in(self, request: Request) -> Response:
        """Begin a session, if the token is a reader's."""
        _refuse_foreign(request)
        token = (await _sent(request)).get("token")
        reader = self._tokens.reader(token.encode()) if isinstance(token, str) else None
        if reader is None:
            raise RequestRefusedError(401, "This isn't the token of a reader.")
        self._sessions.end(request.cookies.get(COOKIE, ""))
        cookie, session = self._sessions.begin(reader)
        answer = _session_reply(session)
        answer.set_cookie(
            COOKIE, cookie, path=ROOT, httponly=True, samesite="strict", secure=self._secure
        )
        return answer

    async def session(self, request: Request) -> Response:
        """Return who is signed in, if anybody is."""
        _refuse_foreign(request)
        return _session_reply(self._sessions.find(request.cookies.get(COOKIE, "")))

    # --- for a session

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        self._changing(request)
        self._sessions.end(request.cookies.get(COOKIE, ""))
        answer = json_reply(200, {"signed_out": True})
        answer.delete_cookie(
            COOKIE, path=ROOT, httponly=True, samesite="strict", secure=self._secure
        )
        return answer

    async def films(self, request: Request) -> Response:
        """Return the list of films with this reader's calls."""
        session = self._session(request)
        listing = await asyncio.to_thread(self._shelf.listing)
        mine = {
            review.film: review.call
            for review in latest(self._reviews.all())
            if review.reader == session.reader
        }
        films = [{**vars(film), "mine": mine.get(film.id)} for film in listing.films]
        waiting, alarm = self._engine.waiting, self._engine.alarm
        facts = {"films": films, "counts": listing.counts, "waiting": waiting, "alarm": alarm}
        return json_reply(200, facts)

    async def film(self, request: Request) -> Response:
        """Return a film's answer, its picture's shape and the reviews.

        Others' reviews come once this reader has given one, so that readers judge independently.
        """
        session = self._session(request)
        judged = await asyncio.to_thread(self._judged, request)
        image = await asyncio.to_thread(self._engine.image, judged.answer.id)
        reviews = self._reviews.of(judged.answer.id)
        mine = any(review.reader == session.reader for review in reviews)
        shape = None
        if image is not None:
            height, width = image.shape
            white = int(np.iinfo(image.dtype).max)
            shape = {"height": height, "width": width, "white": white}
        return json_reply(
            200,
            {
                "answer": json.loads(judged.content),
                "image": shape,
                "alike": shape is not None and self._engine.pictured(judged.answer),
                "reviews": [
                    {"reader": each.reader, "call": each.call, "at": each.at,
                     "mine": each.reader == session.reader}
                    for each in reviews if mine
                ],
            },
        )  # fmt: skip

    async def pixels(self, request: Request) -> Response:
        """Return the model's input, row by row: a byte a pixel, or two with the lower one first."""
        self._session(request)
        image = await asyncio.to_thread(self._engine.image, request.path_params["film"])
        if image is None:
            raise RequestRefusedError(404, "No such film, or a film without a picture.")
        return _pixels(image)

    async def alike(self, request: Request) -> Response:
        """Return the calibration film that looks most like a film, as `pixels`."""
        self._session(request)
        answer = (await asyncio.to_thread(self._judged, request)).answer
        found = await asyncio.to_thread(self._engine.most_alike, answer)
        if found is None:
            raise RequestRefusedError(404, "No such film, or the gate keeps no pictures.")
        return _pixels(found)

    async def review(self, request: Request) -> Response:
        """Keep this reader's verdict on a film."""
        session = self._changing(request)
        call = (await _sent(request)).get("call")
        if call not in CALLS:
            raise RequestRefusedError(400, f"Expected a call of {', '.join(CALLS)}.")
        answer = (await asyncio.to_thread(self._judged, request)).answer
        assert answer.decision is not None
        assert answer.judged is not None
        review = Review(
            film=answer.id,
            reader=session.reader,
            call=call,
            at=moment(time.time()),
            verdict=answer.decision.verdict,
            p=answer.decision.p,
            judged=answer.judged,
            gate=answer.gate,
            model=answer.model,
        )
        try:
            await asyncio.to_thread(self._reviews.add, review)
        except StoreError as error:
            raise RequestRefusedError(503, "Your verdict isn't kept: the disk is full.") from error
        return json_reply(201, {"call": call, "at": review.at})

    async def export(self, request: Request) -> Response:
        """Return all reviews as a file: JSON with the figures of each month, or CSV."""
        self._session(request)
        reviews = self._reviews.all()
        if request.url.path.endswith(".csv"):
            return _download(_csv(reviews).encode(), "text/csv; charset=utf-8", "csv")
        document = ReviewExport(reviews=reviews, months=tallies(reviews))
        content = json.dumps(dump(document), indent=2).encode() + b"\n"
        return _download(content, "application/json", "json")

    # --- who asks, and for what

    def _session(self, request: Request) -> Session:
        _refuse_foreign(request)
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        if session is None:
            raise RequestRefusedError(401, "Nobody is signed in, or the session has ended.")
        return session

    def _changing(self, request: Request) -> Session:
        """The session of a request that changes something."""
        session = self._session(request)
        if not session.proved(request.headers.get("x-csrf-token", "")):
            raise RequestRefusedError(403, "The request doesn't come from this session's page.")
        return session

    def _judged(self, request: Request) -> _Judged:
        told = self._engine.answer(request.path_params["film"])
        if told is None or told.waits:
            raise RequestRefusedError(404, "No such film, or its answer has expired.")
        return _Judged(told.content, read(FilmAnswer, told.content))

    def _routes(self) -> Starlette:
        places: tuple[tuple[Literal["GET", "POST", "DELETE"], str, Endpoint], ...] = (
            ("GET", "/", self.enter),
            ("GET", ROOT, self.enter),
            ("GET", f"{ROOT}/session", self.session),
            ("POST", f"{ROOT}/session", self.sign_in),
            ("DELETE", f"{ROOT}/session", self.sign_out),
            ("GET", f"{ROOT}/films", self.films),
            ("GET", f"{ROOT}/films/{{film}}", self.film),
            ("GET", f"{ROOT}/films/{{film}}/pixels", self.pixels),
            ("GET", f"{ROOT}/films/{{film}}/alike", self.alike),
            ("POST", f"{ROOT}/films/{{film}}/reviews", self.review),
            ("GET", f"{ROOT}/reviews.csv", self.export),
            ("GET", f"{ROOT}/reviews.json", self.export),
            ("GET", f"{ROOT}/", self.file),
            ("GET", f"{ROOT}/{{name}}", self.file),
        )
        return Starlette(
            routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in places],
            exception_handlers={
                RequestRefusedError: _refused,
                ClientDisconnect: _gone,
                HTTPException: _http_error,
                Exception: _unexpected,
            },
        )


def _refuse_foreign(request: Request) -> None:
    """Refuse what the browser says another site's page requested."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RequestRefusedError(403, "The request comes from another page.")


async def _sent(request: Request) -> dict[str, Any]:
    """The object of JSON that a request carries."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RequestRefusedError(415, "Expected JSON.")
    content = b""
    try:
        async with asyncio.timeout(SENT_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > LARGEST_BODY:
                    raise RequestRefusedError(413, "The request is too large.")
    except TimeoutError as error:
        raise RequestRefusedError(408, "The request took too long to arrive.") from error
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RequestRefusedError(400, "Expected JSON.") from error
    if not isinstance(facts, dict):
        raise RequestRefusedError(400, "Expected an object of JSON.")
    return facts


def _pixels(image: NDArray[Any]) -> Response:
    """Grey values row by row: a byte a pixel, or two with the lower one first."""
    order = image.dtype.newbyteorder("<")
    content = image.astype(order, copy=False).tobytes()
    return Response(content, media_type="application/octet-stream")


def _session_reply(session: Session | None) -> Response:
    if session is None:
        return json_reply(200, {"reader": None})
    left = max(0, round(session.seconds_left))
    return json_reply(200, {"reader": session.reader, "csrf": session.csrf, "seconds": left})


def _csv(reviews: tuple[Review, ...]) -> str:
    """A line for each review; no field can begin as a formula: names begin with letters."""
    text = io.StringIO()
    names = [field.name for field in fields(Review)]
    table = csv.writer(text)
    table.writerow(names)
    table.writerows(["" if (v := getattr(each, name)) is None else v for name in names]
                    for each in reviews)  # fmt: skip
    return text.getvalue()


def _download(content: bytes, kind: str, ending: str) -> Response:
    name = f'attachment; filename="reviews.{ending}"'
    return Response(content, media_type=kind, headers={"Content-Disposition": name})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefusedError)
    return error_reply(error.status, error.words)


async def _gone(_: Request, __: Exception) -> Response:
    return error_reply(400, "the request wasn't complete")


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = error_reply(error.status_code, "no such page or method")
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


async def _unexpected(_: Request, __: Exception) -> Response:
    return error_reply(500, "the service failed")
