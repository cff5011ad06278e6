"""The reader's page without a browser: who gets in, what is listed, what is kept."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import stat
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest

from dicom_files import SECRETS, header, with_pixels, write
from leadapron.documents import read
from leadapron.errors import StoreError, UsageError
from leadapron.service.answers import RESEARCH, FilmAnswer
from leadapron.service.reviews import Review, ReviewExport, Reviews, Tally, tallies
from leadapron.service.tokens import Tokens, read_tokens

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def place(opened, tmp_path_factory):
    from page_scenes import desk, some_films

    with desk(opened, tmp_path_factory.mktemp("spool")) as made:
        yield made, some_films(made)


@pytest.fixture
def visitor(place):
    from page_scenes import Browser

    return Browser(place[0].web)


@pytest.fixture
def reader(visitor):
    from page_scenes import MEIER

    assert visitor.sign_in(MEIER).status_code == 200
    return visitor


# --- who gets in


def test_a_reader_signs_in_and_out(visitor, place):
    from page_scenes import MEIER

    assert visitor.get("/ui/session").json()["reader"] is None
    answer = visitor.sign_in(MEIER)
    (cookie,) = answer.headers.get_list("set-cookie")
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
        "httponly", "samesite=strict", "path=/ui",
    }  # fmt: skip
    assert (answer.json()["reader"], answer.json()["seconds"]) == ("meier", 1800)
    assert visitor.get("/ui/session").json()["csrf"] == visitor.csrf
    kept = dict(visitor.cookies)
    assert visitor.ask("DELETE", "/ui/session").status_code == 200
    assert not dict(visitor.cookies)
    visitor.cookies.update(kept)  # the cookie of a session that ended opens nothing
    assert visitor.get("/ui/films").status_code == 401


def test_https_alone_carries_the_cookie_of_a_service_with_tls(place):
    from page_scenes import MEIER, Browser

    from leadapron.service.page import Page

    made, _ = place
    tokens = made.web._page._tokens
    page = Page(made.engine, tokens, made.web._page._reviews, secure=True)
    visitor = Browser(page)
    assert "Secure" in visitor.sign_in(MEIER).headers["set-cookie"]


@pytest.mark.parametrize("token", ["", "x" * 32, "p" * 32, None, 7, ["m" * 32]])
def test_what_is_no_readers_token_opens_nothing(visitor, token):
    answer = visitor.ask("POST", "/ui/session", json={"token": token})
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert answer.json()["error"] == "This isn't the token of a reader."


def test_a_readers_token_sends_no_films_and_a_session_opens_no_api(reader):
    from page_scenes import MEIER

    headers = {"Authorization": f"Bearer {MEIER}"}
    assert reader.get("/metrics", headers=headers).status_code == 401
    assert reader.get("/metrics").status_code == 401


def test_every_path_but_the_static_files_needs_a_session(visitor, place):
    _, (film, *_) = place
    one = f"films/{film}"
    for path in ("films", one, f"{one}/pixels", f"{one}/alike", "reviews.csv", "reviews.json"):
        answer = visitor.get(f"/ui/{path}")
        assert answer.status_code == 401, path
        assert answer.json()["use"] == RESEARCH
    assert visitor.ask("DELETE", "/ui/session").status_code == 401
    assert visitor.ask("POST", f"/ui/films/{film}/reviews", json={"call": "trigger"}
                       ).status_code == 401  # fmt: skip


def test_a_foreign_page_changes_and_reads_nothing(reader, place):
    made, (film, *_) = place
    path = f"/ui/films/{film}/reviews"
    before = len(made.web._page._reviews.all())
    for headers in ({"X-CSRF-Token": ""}, {"X-CSRF-Token": "x" * 43}, {"X-CSRF-Token": b"\xe9"},
                    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        answer = reader.ask("POST", path, json={"call": "trigger"}, headers=headers)
        assert answer.status_code == 403, headers
        assert reader.ask("DELETE", "/ui/session", headers=headers).status_code == 403
    form = {"Content-Type": "text/plain"}  # what a form of another site can send
    body = json.dumps({"token": "m" * 32})
    assert reader.ask("POST", "/ui/session", content=body, headers=form).status_code == 415
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert reader.get("/ui/films", headers=foreign).status_code == 403
    assert reader.get("/ui/session", headers=foreign).status_code == 403
    assert reader.ask("POST", "/ui/session", json={"token": "m" * 32}, headers=foreign
                      ).status_code == 403  # fmt: skip
    assert len(made.web._page._reviews.all()) == before
    assert reader.get("/ui/films").status_code == 200  # the session still stands


def test_a_session_ends_when_idle_and_after_a_shift(reader, monkeypatch):
    from leadapron.service import sessions

    now = sessions.time.monotonic()
    clock = type("Clock", (), {"monotonic": staticmethod(lambda: now)})
    monkeypatch.setattr(sessions, "time", clock)
    now += 29 * 60
    assert reader.get("/ui/films").status_code == 200
    now += 29 * 60
    assert reader.get("/ui/films").status_code == 200  # use keeps it
    now += 31 * 60
    assert reader.get("/ui/films").status_code == 401
    reader.sign_in("m" * 32)
    for _ in range(21):
        assert reader.get("/ui/films").status_code == 200
        now += 29 * 60
    assert reader.get("/ui/films").status_code == 401  # after ten hours


def test_sessions_are_bounded():
    from leadapron.service.sessions import MOST, Sessions

    sessions = Sessions()
    first, *_, last = [sessions.begin("meier")[0] for _ in range(MOST + 1)]
    assert sessions.find(first) is None
    assert sessions.find(last).reader == "meier"


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"[]", 400), (b"[" * 4000, 400), (b'"' + b"a" * 5000 + b'"', 413)],
)
def test_requests_that_are_no_sign_in_are_refused(visitor, content, status):
    headers = {"Content-Type": "application/json"}
    answer = visitor.ask("POST", "/ui/session", content=content, headers=headers)
    assert answer.status_code == status


def test_the_page_forbids_inline_scripts_and_everything_foreign(visitor):
    answer = visitor.get("/ui/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert visitor.get("/ui").headers["location"] == visitor.get("/").headers["location"] == "/ui/"
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css"),
                       ("icon.svg", "image/svg+xml")):  # fmt: skip
        assert visitor.get(f"/ui/{name}").headers["content-type"].startswith(kind)
    for name in ("page.py", "..%2fpage.py", "%2e%2e/tokens.py", "index.html", "x" * 500):
        assert visitor.get(f"/ui/{name}").status_code == 404, name
    assert visitor.ask("PUT", "/ui/films").status_code == 405


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_static_files_name_no_other_place_and_hold_no_inline_script():
    folder = resources.files("leadapron.service") / "ui"
    for file in folder.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), file.name
    tags = Tags()
    tags.feed((folder / "index.html").read_text())
    ids = [facts["id"] for _, facts in tags.found if "id" in facts]
    assert len(ids) == len(set(ids))
    for tag, facts in tags.found:
        assert not [name for name in facts if name == "style" or name.startswith("on")], tag
        assert tag != "script" or facts.get("src") == "page.js"
    script = (folder / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert set(re.findall(r'at\("([\w-]+)"\)', script)) <= set(ids)


def test_without_the_option_there_is_no_page(place):
    from page_scenes import Browser

    from leadapron.service.web import Web

    made, _ = place
    web = Web(made.engine, made.web._meters, Tokens([b"p" * 32]), 1 << 20)
    for path in ("/", "/ui/", "/ui/session"):
        assert Browser(web).get(path).status_code == 401


# --- what is shown


def test_films_are_listed_by_suspicion(reader, place):
    _, films = place
    found = reader.get("/ui/films").json()
    assert found["counts"] == {"suspicious": 2, "can't tell": 1, "pass": 2}
    assert (found["waiting"], found["alarm"]) == (0, "")
    listed = found["films"]
    assert [film["verdict"] for film in listed] == [
        *("suspicious", "suspicious", "can't tell", "pass", "pass"),
    ]
    assert {film["id"] for film in listed[:2]} == set(films[:2])
    assert listed[0]["p"] <= listed[1]["p"]
    assert listed[3]["p"] <= listed[4]["p"]
    assert listed[0]["finding"] == "Mass"
    assert set(listed[0]) == {"id", "verdict", "p", "finding", "judged", "mine"}


def test_a_film_comes_with_evidence_and_the_pixels_that_the_model_saw(reader, place):
    made, (film, *_, bad) = place
    found = reader.get(f"/ui/films/{film}").json()
    assert found["image"] == {"height": 32, "width": 32, "white": 255}
    assert found["answer"]["decision"]["finding"] == "Mass"
    assert found["reviews"] == []
    pixels = reader.get(f"/ui/films/{film}/pixels").content
    assert np.array_equal(np.frombuffer(pixels, np.uint8).reshape(32, 32), made.engine.image(film))
    assert reader.get(f"/ui/films/{bad}").json()["image"] is None
    assert reader.get(f"/ui/films/{bad}/pixels").status_code == 404
    for name in ("x", "0" * 32, "%2e%2e%2fsalt"):
        assert reader.get(f"/ui/films/{name}").status_code == 404
        assert reader.get(f"/ui/films/{name}/pixels").status_code == 404


def test_the_most_alike_calibration_film_comes_beside_a_film(reader, place, opened, tmp_path):
    from page_scenes import MEIER, Browser, desk, some_films

    from leadapron.detect.inputs.decision import decide_image

    made, (film, *_, bad) = place
    assert reader.get(f"/ui/films/{film}").json()["alike"] is True
    content = reader.get(f"/ui/films/{film}/alike").content
    gate = opened.stored.gate
    decision = decide_image(gate, opened.classifier, made.engine.image(film))
    expected = gate.clinics[0].pictures[gate.clinics[0].references.index(decision.nearest[0])]
    assert np.array_equal(np.frombuffer(content, np.uint8).reshape(32, 32), expected)
    assert reader.get(f"/ui/films/{bad}").json()["alike"] is False
    assert reader.get(f"/ui/films/{bad}/alike").status_code == 404
    answer = read(FilmAnswer, made.engine.answer(film).content)
    assert made.engine.most_alike(answer) is not None
    assert made.engine.most_alike(replace(answer, gate="0" * 64)) is None  # of an earlier gate
    (clinic,) = gate.clinics
    without = replace(gate, clinics=(replace(clinic, pictures=None),))
    stored = replace(opened.stored, gate=without)
    with desk(replace(opened, stored=stored), tmp_path / "spool") as other:
        (name, *_) = some_films(other)
        visitor = Browser(other.web)
        visitor.sign_in(MEIER)
        assert visitor.get(f"/ui/films/{name}").json()["alike"] is False
        assert visitor.get(f"/ui/films/{name}/alike").status_code == 404


def test_films_of_16_bits_are_sent_with_the_lower_byte_first(reader, place, monkeypatch):
    made, (film, *_) = place
    image = np.array([[1, 258], [65535, 0]], ">u2")
    monkeypatch.setattr(made.engine, "image", lambda _: image)
    assert reader.get(f"/ui/films/{film}").json()["image"]["white"] == 65535
    pixels = reader.get(f"/ui/films/{film}/pixels").content
    assert pixels == bytes([1, 0, 2, 1, 255, 255, 0, 0])


def test_an_answer_is_read_once_and_what_is_gone_or_strange_is_not_listed(tmp_path, place):
    from leadapron.service.shelf import Shelf

    made, (film, *others) = place
    content = {each: made.engine.answer(each).content for each in (film, *others)}
    reads = []

    class Kept:
        def __init__(self):
            self.films = dict.fromkeys(content, 1)

        def answered_films(self):
            return self.films

        def answer(self, name):
            reads.append(name)
            return None if name == "gone" else type(
                "Told", (), {"content": content.get(name, b"{}"), "waits": False}
            )  # fmt: skip

    kept = Kept()
    shelf = Shelf(kept)
    assert sum(shelf.listing().counts.values()) == 5
    kept.films = {**kept.films, "gone": 1, "strange": 1, film: 2}
    del kept.films[others[0]]
    reads.clear()
    found = shelf.listing()
    assert sorted(reads) == sorted(["gone", "strange", film])
    assert others[0] not in {each.id for each in found.films}
    assert sum(found.counts.values()) == 4


def test_nothing_of_a_films_header_or_name_is_shown(reader, place, tmp_path):
    made, _ = place
    grey = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    uid = header().SOPInstanceUID
    said = []
    for number, dataset in enumerate(
        (
            with_pixels(grey),
            with_pixels(grey, Modality="CT"),
            with_pixels(grey, Modality="DOE^JOHN"),
        )
    ):
        dataset.SOPInstanceUID = uid
        film = made.send(write(tmp_path / str(number), dataset).read_bytes())
        reader.ask("POST", f"/ui/films/{film}/reviews", json={"call": "can't tell"})
        said.append(reader.get(f"/ui/films/{film}").text)
        (made.folder / "done" / f"{film}.json").unlink()
    said += [reader.get(f"/ui/{path}").text for path in ("films", "reviews.csv", "reviews.json")]
    said.append((made.folder / "reviews.jsonl").read_text())
    for secret in (*SECRETS, "DOE", uid):
        assert not any(secret in text for text in said), secret
    (made.folder / "reviews.jsonl").unlink()
    made.web._page._reviews = Reviews(made.folder / "reviews.jsonl")


# --- what is kept


def test_a_readers_calls_are_kept_and_exported(reader, place):
    from page_scenes import OKAFOR, Browser

    made, (film, *_) = place
    path = f"/ui/films/{film}"
    for call in ("can't tell", "trigger"):
        answer = reader.ask("POST", f"{path}/reviews", json={"call": call})
        assert (answer.status_code, answer.json()["call"]) == (201, call)
    for call in ("maybe", None, 3, ["trigger"]):
        assert reader.ask("POST", f"{path}/reviews", json={"call": call}).status_code == 400
    unknown = f"/ui/films/{'0' * 32}/reviews"
    assert reader.ask("POST", unknown, json={"call": "trigger"}).status_code == 404
    other = Browser(made.web)
    other.sign_in(OKAFOR)
    assert other.get(path).json()["reviews"] == []  # readers judge independently
    other.ask("POST", f"{path}/reviews", json={"call": "no trigger"})
    seen = [
        (each["reader"], each["call"], each["mine"]) for each in other.get(path).json()["reviews"]
    ]
    assert seen == [("meier", "trigger", False), ("okafor", "no trigger", True)]
    mine = {each["id"]: each["mine"] for each in reader.get("/ui/films").json()["films"]}
    assert mine.pop(film) == "trigger"
    assert set(mine.values()) == {None}

    table = list(csv.DictReader(io.StringIO(reader.get("/ui/reviews.csv").text)))
    assert [(line["reader"], line["call"]) for line in table] == [
        ("meier", "can't tell"), ("meier", "trigger"), ("okafor", "no trigger"),
    ]  # fmt: skip
    assert {(line["film"], line["verdict"]) for line in table} == {(film, "suspicious")}
    answer = reader.get("/ui/reviews.json")
    assert answer.headers["content-disposition"] == 'attachment; filename="reviews.json"'
    export = read(ReviewExport, answer.content)
    assert (len(export.reviews), export.use) == (3, RESEARCH)
    (month,) = export.months
    assert (month.verdict, month.films, month.divided) == ("suspicious", 1, 1)
    assert reader.get("/ui/reviews.xml").status_code == 404
    file = made.folder / "reviews.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [review.call for review in Reviews(file).all()] == [
        "can't tell",
        "trigger",
        "no trigger",
    ]


def test_a_full_disk_keeps_no_half_of_a_review(reader, place, tmp_path):
    made, (_, film, *_) = place
    file = made.folder / "reviews.jsonl"
    before = file.read_bytes() if file.exists() else b""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        answer = reader.ask("POST", f"/ui/films/{film}/reviews", json={"call": "trigger"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert answer.status_code == 503
    assert answer.json()["error"] == "Your verdict isn't kept: the disk is full."
    assert file.read_bytes() == before
    assert reader.get(f"/ui/films/{film}").json()["reviews"] == []
    assert reader.ask("POST", f"/ui/films/{film}/reviews", json={"call": "trigger"}
                      ).status_code == 201  # fmt: skip


REVIEW = Review(
    film="a" * 32, reader="meier", call="trigger", at="2026-11-30T12:00:00.000Z",
    verdict="suspicious", p=0.01, judged="2026-11-29T12:00:00.000Z", gate="b" * 64, model="c" * 64,
)  # fmt: skip


def test_reviews_survive_a_kill_in_the_middle_of_one(tmp_path, caplog):
    file = tmp_path / "reviews.jsonl"
    reviews = Reviews(file)
    reviews.add(REVIEW)
    reviews.add(replace(REVIEW, reader="okafor", p=None))
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"schema": 1, "fi')
    again = Reviews(file)
    assert again.all() == reviews.all()
    assert "cut short by a kill" in caplog.text
    again.add(replace(REVIEW, film="d" * 32))
    assert [each.film[0] for each in Reviews(file).all()] == ["a", "a", "d"]


def test_damaged_reviews_are_said_with_their_line(tmp_path):
    file = tmp_path / "reviews.jsonl"
    Reviews(file).add(REVIEW)
    file.write_bytes(file.read_bytes() + b'{"schema": 1}\n')
    with pytest.raises(StoreError, match=r"reviews\.jsonl, line 2, film: Field required"):
        Reviews(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match="a pipe"):
        Reviews(file)


def test_a_film_counts_once_a_month_by_the_last_call_of_each_reader():
    def said(film, reader, call, **more):
        return replace(REVIEW, film=film, reader=reader, call=call, **more)

    found = tallies([
        said("a", "meier", "no trigger"), said("a", "meier", "trigger"),
        said("a", "okafor", "trigger"),
        said("b", "meier", "trigger"), said("b", "okafor", "can't tell"),
        said("c", "meier", "can't tell"),
        said("d", "meier", "no trigger", verdict="pass"),
        said("e", "meier", "no trigger", judged="2026-10-31T23:59:59.999Z"),
    ])  # fmt: skip
    assert found == (
        Tally(month="2026-10", gate="b" * 64, verdict="suspicious", films=1, trigger=0,
              no_trigger=1, cant_tell=0, divided=0),
        Tally(month="2026-11", gate="b" * 64, verdict="pass", films=1, trigger=0,
              no_trigger=1, cant_tell=0, divided=0),
        Tally(month="2026-11", gate="b" * 64, verdict="suspicious", films=3, trigger=1,
              no_trigger=0, cant_tell=1, divided=1),
    )  # fmt: skip
    assert tallies([]) == ()


# --- tokens of readers


def written(path, *lines):
    path.touch(0o600)
    path.write_text("\n".join(lines))
    return path


def test_a_name_before_a_token_makes_it_a_readers(tmp_path):
    tokens = read_tokens(
        written(tmp_path / "token", "p" * 32, "", "meier  " + "m" * 32, "özil " + "o" * 32 + " ")
    )
    assert tokens.has_readers
    assert tokens.reader(b"m" * 32) == "meier"
    assert tokens.reader(b"o" * 32) == "özil"
    assert tokens.reader(b"p" * 32) is None
    assert tokens.admit(b"Bearer " + b"p" * 32)
    assert not tokens.admit(b"Bearer " + b"m" * 32)


@pytest.mark.parametrize(
    "line", ["m" * 23, "meier " + "m" * 23, "a b " + "m" * 32, "=1+1 " + "m" * 32, "\xff"]
)
def test_lines_that_are_no_tokens_are_refused(tmp_path, line):
    with pytest.raises(UsageError, match="for a reader with a name before it"):
        read_tokens(written(tmp_path / "token", "p" * 32, line))


def test_a_page_that_nobody_can_sign_in_to_is_refused(tmp_path):
    from leadapron.service.serving import serve
    from leadapron.service.settings import Listening

    token = written(tmp_path / "token", "p" * 32)
    with pytest.raises(UsageError, match="no reader's token; add one with a name before it"):
        serve(tmp_path / "gate.json", listening=Listening(ui=True, token_file=token))
