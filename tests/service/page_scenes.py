"""A service with the reader's page in this process, on films that its engine judged."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import uvicorn
from input_scenes import black_square, films
from service_scenes import png

from leadapron.documents import dump, read
from leadapron.service.answers import FilmAnswer
from leadapron.service.engine import Engine, running
from leadapron.service.metering import Meters
from leadapron.service.page import Page
from leadapron.service.reviews import Reviews
from leadapron.service.settings import Keeping
from leadapron.service.tokens import ReaderToken, Tokens
from leadapron.service.web import Web
from leadapron.store import sha256_of

PROGRAM, MEIER, OKAFOR = "p" * 32, "m" * 32, "o" * 32


@dataclass(frozen=True)
class Desk:
    """A running engine, the application, and the films that it judged, the most suspicious first.

    Args:
        engine: the engine.
        web: the application.
        folder: the spool.
    """

    engine: Engine
    web: Web
    folder: Path

    def send(self, content: bytes) -> str:
        """Judge a film and return its id."""
        with closing(self.engine.arrive()) as film:
            film.write(content)
            name = self.engine.accept(film)
        self.engine.when_answered(name).result(60)
        return name

    def multiply(self, film: str, times: int) -> None:
        """Put copies of a film's answer and picture on the shelf, as of so many films."""
        answer, image = (self.folder / "done" / f"{film}.{end}" for end in ("json", "npy"))
        judged = read(FilmAnswer, answer.read_bytes())
        for number in range(times):
            name = f"{number:032x}"
            p = (number + 1) / (times + 1)
            decision = replace(judged.decision, p=p)
            copy = replace(judged, id=name, decision=decision)
            answer.with_name(f"{name}.json").write_text(json.dumps(dump(copy)))
            answer.with_name(f"{name}.npy").write_bytes(image.read_bytes())


@contextmanager
def desk(opened, folder: Path):
    """Run a service with the page, as `leadapron serve --ui` composes it."""
    meters = Meters(opened, sha256_of(opened.file))
    tokens = Tokens(
        [PROGRAM.encode()],
        [ReaderToken("meier", MEIER.encode()), ReaderToken("okafor", OKAFOR.encode())],
    )
    with running(opened, Keeping(spool=folder), meters) as engine:
        page = Page(engine, tokens, Reviews(folder / "reviews.jsonl"), secure=False)
        yield Desk(engine, Web(engine, meters, tokens, 1 << 20, page), folder)


def some_films(place: Desk) -> list[str]:
    """Judge two films with the trigger, two without, and a file that is no film."""
    marked, clean = black_square(films(2, 5)), films(2, 6)
    sent = [place.send(png(film)) for film in (*marked, *clean)]
    return [*sent, place.send(png(clean[0])[:60])]


@contextmanager
def served(web: Web):
    """Serve an application on a free port of this machine, and yield its address."""
    door = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(web, log_config=None, log_level="error", lifespan="off",
                                           ws="none", http="h11", loop="asyncio"))  # fmt: skip
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        door.close()


class Browser:
    """What a browser does, without one: it keeps cookies and the session's token.

    Args:
        web: the application.
    """

    def __init__(self, web: Web) -> None:
        self._web = web
        self.cookies = httpx.Cookies()
        self.csrf = ""

    def ask(self, method: str, path: str, **more) -> httpx.Response:
        """Send a request and return the answer."""
        headers = {"X-CSRF-Token": self.csrf, **more.pop("headers", {})}

        async def asking():
            transport = httpx.ASGITransport(self._web)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://gate", cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, headers=headers, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(asking())

    def get(self, path: str, **more) -> httpx.Response:
        """Get a path."""
        return self.ask("GET", path, **more)

    def sign_in(self, token: str) -> httpx.Response:
        """Sign in."""
        answer = self.ask("POST", "/ui/session", json={"token": token})
        if answer.status_code == 200:
            self.csrf = answer.json()["csrf"]
        return answer
