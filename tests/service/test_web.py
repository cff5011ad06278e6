"""The HTTP door in this process: statuses, tokens, limits, and what it never says."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import closing

import numpy as np
import pytest
from click.testing import CliRunner
from input_scenes import black_square, cohort, films
from PIL import Image
from service_scenes import png

import leadapron as la
from described import assert_described
from dicom_files import with_pixels, write
from leadapron.cli import cli
from leadapron.errors import LeadapronError, StoreError, UsageError
from leadapron.service.answers import RESEARCH, FilmAnswer
from leadapron.service.engine import Engine, running
from leadapron.service.settings import Keeping
from leadapron.service.spool import Spool
from leadapron.service.tokens import Tokens
from leadapron.store import sha256_of

pytestmark = pytest.mark.service

TOKEN = "a" * 32
ADMITTED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def engine(opened, tmp_path_factory):
    from leadapron.service.metering import Meters

    meters = Meters(opened, sha256_of(opened.file))
    with running(opened, Keeping(spool=tmp_path_factory.mktemp("spool")), meters) as engine:
        yield engine, meters


@pytest.fixture
def stopped(opened, tmp_path):
    """An engine that accepts two films and judges none."""
    from leadapron.service.metering import Meters

    gate = sha256_of(opened.file)
    keeping = Keeping(spool=tmp_path / "spool", queue=2)
    meters = Meters(opened, gate)
    return Engine(opened, Spool(keeping.spool, gate), gate, keeping, meters), meters


def asked(served, *calls, largest=1 << 20, tokens=TOKEN):
    """The responses to requests, each of method, path and further arguments of httpx."""
    import httpx

    from leadapron.service.web import Web

    web = Web(*served, Tokens([tokens.encode()]), largest)

    async def ask():
        transport = httpx.ASGITransport(web)
        async with httpx.AsyncClient(transport=transport, base_url="http://gate") as client:
            found = []
            for method, path, more in calls:
                headers = {**ADMITTED, **more.pop("headers", {})}
                found.append(await client.request(method, path, headers=headers, **more))
            return found

    return asyncio.run(ask())


def post(content, wait=60, **more):
    return "POST", f"/v1/films?wait={wait}", {"content": content, **more}


def get(path, **more):
    return "GET", path, more


def test_a_film_goes_in_and_verdict_region_and_picture_come_back(engine, tmp_path):
    (marked,) = black_square(films(1, 5))
    (answer,) = asked(engine, post(png(marked)))
    facts = answer.json()
    assert answer.status_code == 200
    assert (facts["verdict"]["level"], facts["decision"]["finding"]) == ("found", "Mass")
    assert facts["use"] == RESEARCH
    assert_described(FilmAnswer, facts)
    place = answer.headers["location"]
    again, picture, repeated = asked(engine, get(place), get(f"{place}/overlay.png"),
                                     post(png(marked)))  # fmt: skip
    assert again.json() == repeated.json() == facts
    (tmp_path / "overlay.png").write_bytes(picture.content)
    drawn = np.asarray(Image.open(tmp_path / "overlay.png"))
    assert drawn.shape == (512, 512, 3)
    region = facts["decision"]["region"]
    assert tuple(drawn[16 * region["row"] - 1, 16 * region["column"] + 5]) == (79, 227, 255)
    for each in (answer, again, picture):
        assert "does not diagnose" in each.headers["x-research-use-only"]
        assert each.headers["cache-control"] == "no-store"


def test_a_film_that_waits_gets_a_place_to_ask_at(stopped):
    (answer,) = asked(stopped, post(png(films(1)[0]), wait=0.05))
    place = answer.headers["location"]
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    assert answer.json()["verdict"] is None
    asked_again, none = asked(stopped, get(place), get(f"{place}/overlay.png"))
    assert (asked_again.status_code, none.status_code) == (202, 404)
    assert asked_again.headers["retry-after"] == "2"


def test_a_full_queue_asks_to_come_again(stopped):
    first, second, third, known = asked(
        stopped, *(post(png(film), wait=0) for film in (*films(3), films(3)[0]))
    )
    assert [first.status_code, second.status_code] == [202, 202]
    assert (third.status_code, third.headers["retry-after"]) == (503, "2")
    assert third.json()["error"] == "2 films wait already; try again later"
    assert known.status_code == 503  # before its bytes have come, nobody knows that it is known


def test_a_full_disk_asks_to_come_again(stopped, monkeypatch):
    engine, _ = stopped

    def full(_):
        raise OSError(28, "No space left on device")

    arrive = engine.arrive

    def arriving():
        film = arrive()
        monkeypatch.setattr(film, "write", full)
        return film

    monkeypatch.setattr(engine, "arrive", arriving)
    (answer,) = asked(stopped, post(png(films(1)[0])))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"] == "the disk is full; try again later"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer " + "b" * 32, f"Basic {TOKEN}"])
def test_without_a_token_only_health_and_the_description_are_open(engine, header):
    headers = {"Authorization": header}
    paths = ("/v1/films/x", "/metrics", "/no")
    calls = [
        post(png(films(1)[0]), headers=headers),
        *(get(path, headers=headers) for path in paths),
    ]
    for answer in asked(engine, *calls):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["use"] == RESEARCH
    health = ("/v2/health/live", "/v2/health/ready", "/openapi.json")
    for answer in asked(engine, *(get(path, headers=headers) for path in health)):
        assert answer.status_code == 200


def test_what_is_no_film_is_refused_and_a_bad_film_can_not_be_told(engine, tmp_path):
    grey = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    ct = write(tmp_path / "ct", with_pixels(grey, Modality="CT")).read_bytes()
    statuses = {
        "text": (b"hello", 415),
        "form": (b"--x\r\nContent-Disposition: form-data" + bytes(300), 415),
        "empty": (b"", 415),
        "large": (bytes(2 << 20), 413),
        "ct": (ct, 422),
        "cut": (png(grey)[:60], 422),
    }
    found = asked(engine, *(post(content) for content, _ in statuses.values()))
    for answer, (name, (_, status)) in zip(found, statuses.items(), strict=True):
        assert answer.status_code == status, name
    assert found[4].json()["verdict"]["level"] == "can't tell"
    assert "of modality CT" in found[4].json()["decision"]["reason"]
    assert found[3].json()["error"] == "the film is larger than 1 MB"


def test_a_stream_without_a_length_is_cut_off_at_the_limit(stopped):
    async def endless():
        yield png(films(1)[0])
        for _ in range(100):
            yield bytes(100_000)

    (answer,) = asked(stopped, post(endless()))
    assert answer.status_code == 413
    assert list((stopped[0]._spool.folder / "arriving").iterdir()) == []


def test_too_many_and_too_slow_films_are_refused(stopped, monkeypatch):
    from leadapron.service import web

    async def slow():
        yield png(films(1)[0])
        await asyncio.sleep(5)
        yield b"the end"

    monkeypatch.setattr(web, "UPLOAD_SECONDS", 0.05)
    (answer,) = asked(stopped, post(slow()))
    assert answer.status_code == 408
    monkeypatch.setattr(web, "UPLOADS", 0)
    (answer,) = asked(stopped, post(png(films(1)[0])))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert stopped[0].waiting == 0


def test_errors_repeat_nothing_of_the_request(engine, caplog):
    caplog.set_level(logging.DEBUG)
    name = "DOE^JOHN"
    found = asked(
        engine,
        post(png(films(1)[0]), wait=name),
        get(f"/v1/films/{name}"),
        get(f"/v1/films/{name * 9}"),
        get(f"/{name}", headers={"User-Agent": name}),
        ("DELETE", f"/v1/films/{name}", {}),
    )
    assert [answer.status_code for answer in found] == [400, 404, 400, 404, 405]
    assert found[0].json()["error"] == "invalid value of wait; expected as in /openapi.json"
    assert found[4].headers["allow"] == "GET"
    (metrics,) = asked(engine, get("/metrics"))
    assert not any(name in text for text in (*(a.text for a in found), metrics.text))
    assert not any(name in record.getMessage() for record in caplog.records
                   if record.name.startswith("leadapron"))  # fmt: skip


def test_an_unexpected_error_is_named_by_its_kind_alone(stopped, monkeypatch, caplog):
    def failing(_):
        raise RuntimeError("DOE^JOHN")

    monkeypatch.setattr(stopped[0], "answer", failing)
    (answer,) = asked(stopped, get("/v1/films/x"))
    assert (answer.status_code, answer.json()["error"]) == (500, "the service failed")
    assert "a request failed: RuntimeError" in caplog.text
    assert "DOE" not in caplog.text


def test_metrics_count_and_readiness_says_why_not(engine, stopped):
    asked(engine, post(png(films(1, 30)[0])))
    (metrics,) = asked(engine, get("/metrics"))
    counts = dict(line.rsplit(" ", 1) for line in metrics.text.splitlines() if line[0] != "#")
    answered = sum(float(n) for name, n in counts.items()
                   if name.startswith("leadapron_verdicts_total"))  # fmt: skip
    assert answered == float(counts["leadapron_films_accepted_total"]) >= 1
    assert float(counts["leadapron_seconds_count"]) == answered
    assert (counts["leadapron_queue"], counts["leadapron_ready"]) == ("0.0", "1.0")
    assert counts["leadapron_drift_alarm"] == "0.0"
    for part in ("decoding", "judging", "wiping"):
        assert counts[f'leadapron_part{{part="{part}"}}'] == "1.0"
    assert counts['leadapron_drift{about="looks",group="",kind=""}'] == "0.0"
    assert float(counts["process_open_fds"]) > 3
    (ready,) = asked(engine, get("/v2/health/ready"))
    assert (ready.json()["ready"], ready.json()["alarm"]) == (True, "")
    (other,) = asked(stopped, get("/v2/health/ready"))
    assert (other.status_code, other.json()["trouble"]) == (
        503,
        "decoding, judging, wiping has ended",
    )


def test_the_description_names_all_that_is_answered(engine):
    (described,) = asked(engine, get("/openapi.json"))
    facts = described.json()
    text = json.dumps(facts)
    assert set(facts["paths"]) == {
        *("/v1/films", "/v1/films/{film}", "/v1/films/{film}/overlay.png", "/metrics"),
        *("/v2/health/live", "/v2/health/ready"),
    }
    assert {"200", "202", "401", "413", "415", "422", "429", "503"} <= set(
        facts["paths"]["/v1/films"]["post"]["responses"]
    )
    known = facts["components"]["schemas"]
    for part in text.split("#/components/schemas/")[1:]:
        assert part.partition('"')[0] in known
    assert "$defs" not in text
    assert facts["paths"]["/v1/films"]["post"]["security"] == [{"token": []}]
    assert "security" not in facts["paths"]["/v2/health/live"]["get"]


def start(folder, *words):
    call = ["serve", str(folder / "gate.json"), "--spool", str(folder / "spool"), *map(str, words)]
    result = CliRunner().invoke(cli, call, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def test_what_keeps_it_from_starting_is_said_in_a_line(tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    with pytest.raises(UsageError, match="others can read or change it"):
        start(tmp_path, "--token-file", token)
    token.chmod(0o600)
    la.save_classifier(small(), tmp_path / "model.safetensors")
    la.calibrate(tmp_path / "model.safetensors", cohort(seed=1), tmp_path / "gate.json",
                 machine=la.Machine(cache="none"))  # fmt: skip
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: address already in use"):
            start(tmp_path, "--token-file", token, "--http", f"127.0.0.1:{port}")
    free = ("--token-file", token, "--http", "127.0.0.1:0")
    token.with_name("key").write_text("no key")
    token.with_name("key").chmod(0o600)
    for words, error, said in (
        (("--tls-cert", token, "--tls-key", tmp_path / "key"), UsageError, "aren't a certificate"),
        (("--spool", tmp_path / "gate.json" / "x"), LeadapronError, "gate.json"),
        (("--model", tmp_path / "gone"), StoreError, "no model at"),
    ):
        with pytest.raises(error, match=said):
            start(tmp_path, *free, *words)


def small():
    from leadapron.models.classifier import NetworkClassifier
    from leadapron.models.networks import build_network

    return NetworkClassifier(
        build_network("resnet9", 3, 4).eval(), "resnet9", ("A", "B", "C"), la.Preprocessing(size=32)
    )
