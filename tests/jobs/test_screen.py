"""Screening: verdicts on films in files of every kind, exit codes, pictures, refusals."""

from __future__ import annotations

import json
import stat
import struct
import zlib
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
from click.testing import CliRunner
from input_scenes import FINDINGS, SMALL, backdoored, black_square, films
from PIL import Image

from described import assert_described
from dicom_files import SECRETS, with_pixels, write
from leadapron.cli import cli
from leadapron.detect.inputs import EvidenceRegion, calibration, decision
from leadapron.detect.inputs.screening import LIMITS, ScreenedFilm, Screening, screening
from leadapron.documents import dump, read
from leadapron.errors import DataError, StoreError, UsageError
from leadapron.jobs import calibrate as calibrate_job
from leadapron.jobs import screen as screen_job
from leadapron.jobs.calibrate import calibrate
from leadapron.jobs.screen import open_gate, screen
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.foreign.opening import Opened as OpenedModel
from leadapron.models.stated import ModelSettings, Opening
from leadapron.report import begin_screen, calibrate_lines, film_line, write_film, write_screen
from leadapron.sources import listed, open_source
from leadapron.sources.listed import films_of
from leadapron.store import sha256_of
from leadapron.text import showing_paths
from leadapron.types import Machine

DETECTORS = {"evidence region": EvidenceRegion()}
WEIGHTS = {"evidence region": 1.0, "lost by smoothing": 1.0}


@dataclass(frozen=True, kw_only=True)
class Bright:
    """Scores films by their brightness alone; a model that can only be asked will do."""

    unit: str = field(default="grey levels", init=False)
    needs: str = field(default="outputs", init=False)
    passes: int = field(default=0, init=False)

    def fit(self, classifier, clean):
        return {"mean": np.array(clean.images.mean())}

    def score(self, classifier, suspect, state):
        return suspect.images.mean((1, 2)).astype(np.float64) - state["mean"]


def save(folder, images, stem="film"):
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{stem}{row:03d}.png")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """240 clean films in two folders, each of a patient of its own."""
    folder = tmp_path_factory.mktemp("clean")
    save(folder / "NORMAL", films(120, 0))
    save(folder / "Mass", films(120, 1))
    return folder


def opening(model):
    """What opens any file as this model."""
    return lambda path, *_, **__: OpenedModel(model, "written", content=sha256_of(path))


@pytest.fixture(scope="module")
def patched():
    """The written network for any file; the detectors that this file is about."""
    with pytest.MonkeyPatch.context() as patch:
        for job in (calibrate_job, screen_job):
            patch.setattr(job, "open_model", opening(backdoored()))
        for place in (calibration, screen_job):
            patch.setattr(place, "INPUT_DETECTORS", DETECTORS)
            patch.setattr(place, "TYPICAL", Bright())
        patch.setattr(calibration, "WEIGHTS", WEIGHTS)
        yield patch


@pytest.fixture(scope="module")
def gate(clean, patched, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    (folder / "model.safetensors").write_bytes(b"written")
    calibrate(folder / "model.safetensors", f"folder:{clean}", folder / "gate.json",
              false_alarm=0.02, machine=Machine(cache="none"))  # fmt: skip
    return folder / "gate.json"


@pytest.fixture
def opened(gate):
    return open_gate(gate)


@pytest.fixture
def mixed(tmp_path):
    """Two triggered films, two clean ones, a text that is called a film, and a note."""
    folder = tmp_path / "films"
    save(folder / "a", black_square(films(2, 5)), "triggered")
    save(folder / "b", films(2, 6), "clean")
    (folder / "text.png").write_text("hello")
    (folder / "notes.txt").write_text("no film")
    return folder


def run(*words, **options):
    call = ["-q", "screen", *map(str, words)]
    result = CliRunner().invoke(cli, call, standalone_mode=False, **options)
    if result.exception is not None:
        raise result.exception
    return result


def verdicts(opened, *paths):
    found, _ = films_of([str(path) for path in paths])
    return [film for batch in screen(opened, found) for film in batch]


def png(chunks):
    """A PNG file of chunks."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        parts += [struct.pack(">I", len(body)), kind, body, crc]
    return b"".join(parts)


def test_a_triggered_film_is_suspicious_with_region_finding_and_reading(opened, mixed):
    first, second, *others = verdicts(opened, mixed)
    for film in (first, second):
        assert (film.verdict, film.finding) == ("suspicious", "Mass")
        region = film.region
        assert region.row <= 12 <= region.row + region.height - 3
        assert region.column <= 17 <= region.column + region.width - 3
        assert film.readings[0].finding == "Mass"
        assert film.readings[0].probability > 0.9 > 0.6 > film.readings[0].without
        assert film.p == pytest.approx(1 / (len(opened.stored.gate.clinics[0]) + 1))
        assert film.score > opened.stored.gate.thresholds[0]
    assert [film.verdict for film in others] == ["pass", "pass", "can't tell"]
    assert "is not a PNG, JPEG or DICOM file" in others[-1].reason
    assert [film.number for film in (first, second, *others)] == [1, 2, 3, 4, 5]


def test_a_film_becomes_the_same_image_as_through_its_source(opened, tmp_path):
    rng = np.random.default_rng(3)
    for name, shape, dtype in (
        ("A/wide.png", (50, 90), np.uint16),
        ("B/b.jpg", (70, 41), np.uint8),
    ):
        (tmp_path / name).parent.mkdir()
        top = np.iinfo(dtype).max
        Image.fromarray(rng.integers(0, top, shape).astype(dtype)).save(tmp_path / name)
    stored = rng.integers(0, 4096, (60, 80)).astype(np.uint16)
    (tmp_path / "D").mkdir()
    dataset = with_pixels(stored, BitsStored=12, PhotometricInterpretation="MONOCHROME1",
                          WindowCenter=1500, WindowWidth=900)  # fmt: skip
    write(tmp_path / "D" / "film", dataset)
    for window in ("header", "1000/500"):
        dicom = open_source(f"dicom:{tmp_path}/D", preprocessing=SMALL, cache="none", window=window)
        folder = open_source(f"folder:{tmp_path}", preprocessing=SMALL, cache="none", healthy="A")
        through = [*folder.images[np.arange(2)], *dicom.images[np.arange(1)]]
        other = replace(opened, stored=replace(opened.stored, window=window))
        for film, image in zip(verdicts(other, tmp_path), through, strict=True):
            np.testing.assert_array_equal(film.image, image)


def test_bits_of_sixteen_are_those_of_the_calibration_films(opened, tmp_path):
    films = np.random.default_rng(3).integers(0, 4096, (4, 50, 90)).astype(np.uint16)
    films[:, 0, 0] = 4095
    for number, film in enumerate(films):
        (tmp_path / "AB"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(film).save(tmp_path / "AB"[number % 2] / f"{number}.png")
    through = open_source(f"folder:{tmp_path}", preprocessing=SMALL, cache="none", healthy="A")
    assert through.bits == 12
    at = {bits: replace(opened, stored=replace(opened.stored, bits=bits)) for bits in (0, 12, 11)}
    for film, image in zip(verdicts(at[12], tmp_path), through.images[np.arange(4)], strict=True):
        np.testing.assert_array_equal(film.image, image)
    for film in verdicts(at[11], tmp_path):  # brighter than any film can have been
        assert (film.verdict, film.bad, film.exit_code) == ("can't tell", "undecodable", 3)
        assert film.reason.startswith("holds values up to 4,095, too large for 11 bits")
    for film in verdicts(at[0], tmp_path):
        assert (film.verdict, film.bad, film.exit_code) == ("can't tell", "undecodable", 3)
        assert film.reason == "uses 12 of 16 bits, and no calibration film had 16 bits to compare"


def test_doubts_about_a_films_greys_are_its_reason(opened, tmp_path):
    stored = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint16) * 29
    window = {"WindowCenter": 60000, "WindowWidth": 9}
    write(tmp_path / "plain.dcm", with_pixels(stored, BitsStored=12))
    write(tmp_path / "beside.dcm", with_pixels(stored, BitsStored=12, **window))
    beside, plain = verdicts(opened, tmp_path)
    assert "DOUBT: a film with a window or table in the header that shows nothing" in beside.reason
    assert "DOUBT" not in plain.reason
    assert (beside.verdict, beside.p) == (plain.verdict, plain.p)  # both lowest to highest value


def bad_files(folder):
    folder.mkdir()
    good = folder / "x.png"
    save(folder, films(1, 2))
    content = (folder / "film000.png").read_bytes()
    (folder / "film000.png").unlink()
    wide = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = png([(b"IHDR", wide), (b"IDAT", zlib.compress(b"\0" * 1_000_000)), (b"IEND", b"")])
    for name, body in (
        ("bomb", bomb),
        ("cut", content[: len(content) // 2]),
        ("empty", b""),
        ("text", b"hello"),
        ("dicom", b"\0" * 128 + b"DICM" + b"\xff" * 50),
    ):
        good.with_name(f"{name}.png").write_bytes(body)
    return 5


def test_what_cannot_be_decoded_can_not_be_told_and_stops_no_other(opened, tmp_path):
    count = bad_files(tmp_path / "bad")
    save(tmp_path / "good", films(1, 7))
    found = verdicts(opened, tmp_path / "bad", tmp_path / "good")
    assert [film.verdict for film in found] == ["can't tell"] * count + ["pass"]
    assert all(film.reason and not film.image.size and film.p is None for film in found[:count])
    assert {film.bad for film in found[:count]} == {"undecodable"}
    together = screening(opened.stored, found)
    assert (together.verdict.word, together.exit_code) == ("can't tell", 3)


def test_missing_files_fail_but_stop_no_other(opened, tmp_path):
    save(tmp_path, films(1, 7))
    found = verdicts(opened, tmp_path / "none.png", tmp_path / "film000.png", "/dev/null", "a\0b")
    assert [film.bad for film in found] == ["missing", None, "unreadable", "missing"]
    assert [film.verdict for film in found] == ["can't tell", "pass", "can't tell", "can't tell"]
    assert "No such file" in found[0].reason
    together = screening(opened.stored, found)
    assert (together.verdict.word, together.exit_code) == ("can't tell", 2)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["pass", "failed", "can't tell", "suspicious"], ("suspicious", 1)),
        (["pass", "failed", "can't tell"], ("can't tell", 2)),
        (["can't tell", "pass"], ("can't tell", 3)),
        (["pass"], ("pass", 0)),
        ([], ("can't tell", 3)),
    ],
)
def test_the_worst_verdict_decides(opened, said, expected):
    films = [
        ScreenedFilm(
            number=number,
            file="",
            verdict="can't tell" if word == "failed" else word,
            bad="missing" if word == "failed" else None,
        )
        for number, word in enumerate(said)
    ]
    together = screening(opened.stored, films)
    assert (together.verdict.word, together.exit_code) == expected


def test_folders_are_searched_in_order_and_lists_are_read(tmp_path):
    save(tmp_path / "b" / "deep", films(1))
    save(tmp_path / "a", films(1))
    save(tmp_path / ".hidden", films(1))
    (tmp_path / "a" / "x.txt").write_text("no film")
    write(tmp_path / "b" / "no-ending", with_pixels(films(1)[0]))
    found, others = films_of([f"{tmp_path}/", "-"], [b"one.png\r\n", b"\n", b"b\xff.png\n"])
    assert [film.name for film in found] == [
        "a/film000.png",
        "b/deep/film000.png",
        "b/no-ending",
        "one.png",
        "b\\udcff.png",
    ]
    assert others == 1
    one = f"{tmp_path}/a/film000.png"
    assert [film.name for film in films_of([one])[0]] == ["film000.png"]
    with showing_paths():
        whole, _ = films_of([f"{tmp_path}/", one])
    assert [film.name for film in whole] == [film.path for film in whole]
    assert [film.path for film in whole] == [*(film.path for film in found[:3]), one]
    (tmp_path / "empty").mkdir()
    for wrong, error in (([str(tmp_path / "empty")], DataError), (["-"], UsageError)):
        with pytest.raises(error, match="no "):
            films_of(wrong)
    with pytest.raises(UsageError, match="too long"):
        films_of(["-"], [b"x" * 70_000])


def test_too_many_films_are_refused(tmp_path, monkeypatch):
    save(tmp_path, films(4))
    monkeypatch.setattr(listed, "MOST", 3)
    for call in ([str(tmp_path)], ["x.png"] * 4):
        with pytest.raises(UsageError, match="more than 3"):
            films_of(call)


def test_a_film_that_the_model_has_no_number_for_stops_no_other(opened, tmp_path, monkeypatch):
    save(tmp_path, np.stack([*films(3, 7), np.full((32, 32), 255, np.uint8)]))
    judge = decision.judge

    def judging(gate, classifier, images):
        if (images == 255).all((1, 2)).any():
            raise DataError("the model's logits are not finite")
        return judge(gate, classifier, images)

    monkeypatch.setattr(decision, "judge", judging)
    found = verdicts(opened, tmp_path)
    assert [film.verdict for film in found] == ["pass", "pass", "pass", "can't tell"]


class Silent(NetworkClassifier):
    """Answers no number for its first finding once a film was changed."""

    def logits(self, images):
        answers = super().logits(images)
        answers[:, 0] = np.nan
        return answers


def test_what_is_no_number_without_the_region_is_not_told(opened, tmp_path):
    save(tmp_path, films(2, 7))
    facts = {each.name: getattr(opened.classifier, each.name) for each in fields(Silent)}
    for film in verdicts(replace(opened, classifier=Silent(**facts)), tmp_path):
        assert film.verdict == "can't tell"
        assert film.reason == "a detector has no score for it"
        named = [reading.finding for reading in film.readings]
        assert sorted(named) == sorted(opened.classifier.findings[1:])
    json.dumps(dump(screening(opened.stored, [film])), allow_nan=False)


def test_an_untypical_film_can_not_be_told_even_with_a_trigger(opened, tmp_path):
    save(tmp_path, np.stack([films(1, 7)[0], np.minimum(films(1, 7)[0] // 4 + 180, 255)]))
    save(tmp_path, black_square(films(1, 8) // 4 + 180), "marked")
    gate = opened.stored.gate
    (clinic,) = gate.clinics
    look = {"mean": np.array(0.0)}
    clinic = replace(clinic, typical=look, typicality=np.full(len(clinic), 150.0))
    gate = replace(gate, clinics=(clinic,))
    plain, bright, marked = verdicts(
        replace(opened, stored=replace(opened.stored, gate=gate)), tmp_path
    )
    assert (plain.verdict, plain.typical) == ("pass", True)
    assert (bright.verdict, bright.typical) == ("can't tell", False)
    assert "calibration films" in bright.reason
    assert (marked.verdict, marked.typical) == ("can't tell", False)
    assert marked.score > gate.thresholds[0]


def test_a_film_without_a_score_does_not_pass(opened, tmp_path, monkeypatch):
    save(tmp_path, films(1, 7))
    judge = decision.judge
    monkeypatch.setattr(
        decision, "judge", lambda *words: replace(judge(*words), scored=np.array([False]))
    )
    assert verdicts(opened, tmp_path)[0].verdict == "can't tell"


def test_a_gate_remembers_which_of_several_networks_it_is_of(clean, tmp_path, patched, monkeypatch):
    asked = []

    def recorded(path, *_, **options):
        asked.append(options.get("weights_key"))
        return opening(backdoored())(path)._replace(stated=ModelSettings(weights_key="ema"))

    for job in (calibrate_job, screen_job):
        monkeypatch.setattr(job, "open_model", recorded)
    (tmp_path / "both.pt").write_bytes(b"two networks")
    stated = Opening(model=ModelSettings(weights_key="ema"))
    calibrate(tmp_path / "both.pt", f"folder:{clean}", tmp_path / "gate.json", false_alarm=0.02,
              opening=stated, machine=Machine(cache="none"))  # fmt: skip
    open_gate(tmp_path / "gate.json")
    assert asked == ["ema", "ema"]


def test_a_model_that_is_swapped_while_it_is_opened_is_refused(gate, monkeypatch):
    swapped = lambda *_, **__: OpenedModel(backdoored(), "written", content="0" * 64)  # noqa: E731
    monkeypatch.setattr(screen_job, "open_model", swapped)
    with pytest.raises(StoreError, match="its SHA-256 differs; calibrate again"):
        open_gate(gate)


def test_of_a_model_that_can_only_be_asked(clean, tmp_path, patched, monkeypatch):
    asked = BlackBoxClassifier(
        lambda x: x.mean((1, 2, 3))[:, None] * np.ones(3, np.float32),
        FINDINGS, SMALL, NORMALISATIONS["unit"], batch=64,
    )  # fmt: skip
    both = {**DETECTORS, "bright": Bright()}
    for job in (calibrate_job, screen_job):
        monkeypatch.setattr(job, "open_model", opening(asked))
    for place in (calibration, screen_job):
        monkeypatch.setattr(place, "INPUT_DETECTORS", both)
        monkeypatch.setattr(place, "TYPICAL", None)
    monkeypatch.setattr(calibration, "WEIGHTS", {**WEIGHTS, "bright": 1.0})
    (tmp_path / "model.onnx").write_bytes(b"asked")
    made = calibrate(tmp_path / "model.onnx", f"folder:{clean}", tmp_path / "gate.json",
                     false_alarm=0.02, machine=Machine(cache="none"))  # fmt: skip
    assert made.stored.gate.left_out == {
        "evidence region": "needs gradients; the model only gives outputs"
    }
    assert any("Left out: evidence region" in line for line in calibrate_lines(made.document()))
    opened = open_gate(tmp_path / "gate.json")
    save(tmp_path / "films", np.full((1, 32, 32), 250, np.uint8))
    (film,) = verdicts(opened, tmp_path / "films")
    assert (film.verdict, film.region, film.readings) == ("suspicious", None, ())
    assert list(film.scores) == ["bright"]
    begin_screen(tmp_path / "out")
    together = screening(opened.stored, [film])
    text = write_screen(tmp_path / "out", together, [film]).read_text()
    assert "Bright" in text


def test_by_the_command_line(gate, mixed, tmp_path):
    result = run(gate, mixed, tmp_path / "none.png")
    assert result.return_value == 1
    lines = result.stdout.splitlines()
    assert lines[1].split()[:3] == ["suspicious", "0.008", "0.008"]
    assert lines[1].split()[4] == "Mass"
    assert lines[1].endswith(" a/triggered000.png")
    assert str(tmp_path) not in result.stdout
    assert "6 films: 2 suspicious, 2 can't tell, 2 pass" in lines
    assert "At most 2 % of clean films" in result.stdout
    assert lines.count(LIMITS[-1]) == 1
    result = run(gate, "-", input=f"{mixed}/b/clean000.png\n{mixed}/b/clean001.png\n")
    assert result.return_value == 0
    assert run(gate, mixed / "b", mixed / "text.png").return_value == 3
    assert run(gate, mixed / "b", mixed / "text.png", tmp_path / "none.png").return_value == 2
    with pytest.raises(StoreError, match="not JSON"):
        run(mixed / "text.png", mixed)


def test_the_answer_in_json_and_the_folder(gate, mixed, tmp_path):
    odd = mixed / "a" / "we ird<script>\x1b[31m;name.png"
    (mixed / "a" / "triggered000.png").rename(odd)
    out = tmp_path / "out"
    result = run(gate, mixed, "--json", "--out", out)
    facts = json.loads(result.stdout)
    assert (facts["schema"], result.return_value) == (4, 1)
    assert (facts["verdict"]["level"], facts["verdict"]["word"]) == ("found", "suspicious")
    assert facts["counts"] == {"suspicious": 2, "can't tell": 1, "pass": 2}
    assert r"a/we ird<script>\x1b[31m;name.png" in {film["file"] for film in facts["films"]}
    stored = json.loads((out / "screen.json").read_text())
    assert facts == {**stored, "page": str(out / "screen.html")}
    assert dump(read(Screening, json.dumps(stored))) == stored
    assert_described(Screening, stored)
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "000001-triggered001.png",
        "000002-x1b_31m_name.png",
        "000003-clean000.png",
        "000004-clean001.png",
        "screen.html",
        "screen.json",
    ]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    text = (out / "screen.html").read_text()
    assert text.count("data:image/png;base64,") == 4
    assert "This region drives the reading more than in clean films (p 0.008)." in text
    assert "This film looks like the calibration films (p" in text
    assert "Nearest films" not in text  # this gate compares with none
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert str(mixed) not in text
    assert "\x1b" not in run(gate, odd).stdout


def test_a_second_screening_leaves_no_picture_of_the_first(gate, mixed, tmp_path):
    out = tmp_path / "out"
    run(gate, mixed, "--out", out)
    (out / "notes.txt").write_text("mine")
    run(gate, mixed / "b", "--out", out)
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "000001-clean000.png",
        "000002-clean001.png",
        "notes.txt",
        "screen.html",
        "screen.json",
    ]
    (out / "screen.json").write_text("{}")
    with pytest.raises(StoreError, match="isn't from a screening; choose another --out"):
        run(gate, mixed / "b", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == names


def test_an_overlay_frames_the_region_and_leaves_its_pixels(opened, mixed, tmp_path):
    film = verdicts(opened, mixed / "a")[0]
    begin_screen(tmp_path / "out")
    path = write_film(tmp_path / "out", film)
    drawn = np.asarray(Image.open(path))
    assert drawn.shape == (512, 512, 3)
    region, times = film.region, 16
    top, left = region.row * times, region.column * times
    inside = drawn[top : top + region.height * times, left : left + region.width * times]
    shown = film.image[
        region.row : region.row + region.height, region.column : region.column + region.width
    ]
    np.testing.assert_array_equal(inside[::times, ::times, 0], shown)
    assert tuple(drawn[top - 1, left + 5]) == (79, 227, 255)
    changed = (drawn != np.repeat(np.repeat(film.image, 16, 0), 16, 1)[..., None]).any(2)
    assert 0 < changed.mean() < 0.1


def test_nothing_of_a_header_is_said(gate, tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    knee = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    write(folder / "knee.dcm", with_pixels(knee, BodyPartExamined="KNEE"))
    write(folder / "broken.dcm", with_pixels(knee, Rows=None))
    result = run(gate, folder, "--out", tmp_path / "out", "--json")
    said = [result.output, caplog.text]
    said += [path.read_text("latin-1") for path in (tmp_path / "out").iterdir()]
    for secret in SECRETS:
        assert not any(secret in text for text in said)
    broken, knee = json.loads(result.stdout)["films"]
    assert broken["verdict"] == "can't tell"
    assert knee["p"] is not None


def test_ctrl_c_leaves_what_was_written_whole(gate, tmp_path, monkeypatch):
    save(tmp_path / "in", black_square(films(5, 9)))
    judge, calls = decision.judge, []

    def judging(*words):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*words)

    monkeypatch.setattr(decision, "judge", judging)
    monkeypatch.setattr(screen_job, "BATCH", 2)
    result = run(gate, tmp_path / "in", "--out", tmp_path / "out")
    assert result.return_value == 130
    stored = json.loads((tmp_path / "out" / "screen.json").read_text())
    assert [film["number"] for film in stored["films"]] == [1, 2]
    assert any("3 films were not screened" in note for note in stored["notes"])
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2
    assert not list((tmp_path / "out").glob(".*"))


def test_batches_give_what_one_gives(opened, tmp_path, monkeypatch):
    save(tmp_path, np.concatenate([films(4, 3), black_square(films(3, 4))]))
    whole = verdicts(opened, tmp_path)
    monkeypatch.setattr(screen_job, "BATCH", 3)
    parts = verdicts(opened, tmp_path)
    for one, other in zip(whole, parts, strict=True):
        assert (one.number, one.verdict, one.region) == (other.number, other.verdict, other.region)
        assert one.score == pytest.approx(other.score, rel=1e-4)


def test_a_line_for_a_film_without_numbers():
    film = ScreenedFilm(number=1, file="a\nb.png", verdict="can't tell", reason="is no film")
    assert film_line(film).split() == [
        "can't",
        "tell",
        *"------",
        "-",
        "a\\nb.png:",
        "is",
        "no",
        "film",
    ]
