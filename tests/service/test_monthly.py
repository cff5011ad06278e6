"""The month's figures: counted, with intervals and drift, on a page without single films."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from click.testing import CliRunner
from service_scenes import gate_of_files

from described import assert_described
from leadapron.cli import cli
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL
from leadapron.detect.inputs.decision import Decision
from leadapron.detect.inputs.gate_file import read_gate
from leadapron.errors import StoreError
from leadapron.service.figures import Figures
from leadapron.service.monthly import Month, month_lines, monthly, write_month
from leadapron.service.reviews import REVIEWS, Review, Reviews, Tally
from leadapron.store import sha256_of

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    return gate_of_files(tmp_path_factory.mktemp("gate"))


def served(gate, spool, month, films, shift=0.0):
    """Count films whose scores are those of the calibration films, or higher."""
    stored = read_gate(gate, INPUT_DETECTORS, TYPICAL).gate
    figures = Figures(spool, stored, sha256_of(gate))
    (clinic,) = stored.clinics
    rng = np.random.default_rng(month)
    spread = clinic.fused.std()
    for at in range(films):
        score = float(rng.choice(clinic.fused) + spread * (shift + rng.normal() / 100))
        unlike = float(rng.random())
        word = "suspicious" if at % 20 == 0 else "can't tell" if at % 10 == 5 else "pass"
        made = Decision(verdict=word, p=float(rng.random()), score=score, unlike=unlike)
        day = datetime(2026, month, 1 + at % 28, 12, tzinfo=UTC)
        figures.add(made, bad=False, view="", scanner="", seconds=day.timestamp())
    bad = Decision(verdict="can't tell", reason="the film isn't one")
    day = datetime(2026, month, 28, tzinfo=UTC)
    figures.add(bad, bad=True, view="", scanner="", seconds=day.timestamp())


def test_a_quiet_month_and_one_with_drift(gate, tmp_path):
    served(gate, tmp_path, 10, 100)
    quiet = monthly(gate, spool=tmp_path)
    whole = quiet.rates[0]
    assert (quiet.month, quiet.films, quiet.bad, whole.films) == ("2026-10", 101, 1, 100)
    assert (whole.suspicious.value, whole.cant_tell.value) == (0.05, 0.1)
    assert whole.suspicious.low < 0.05 < whole.suspicious.high
    assert (sum(quiet.p), sum(quiet.days.values())) == (100, 101)
    assert (quiet.promised, quiet.false_alarm, quiet.alarms) == (0.05, 0.01, ())
    assert all(0 <= test.evidence < 1 and not test.alarmed for test in quiet.tests)

    served(gate, tmp_path, 11, 100, shift=3)
    loud = monthly(gate, spool=tmp_path)
    (alarm,) = loud.alarms
    assert (loud.month, alarm.month, alarm.about) == ("2026-11", "2026-11", "scores")
    assert [test.alarmed for test in loud.tests] == [test.about == "scores" for test in loud.tests]
    first, *_ = month_lines(loud)
    assert first.startswith("ALARM: 2026-11: the scores of all films are no longer like")
    assert monthly(gate, spool=tmp_path, month="2026-10").tests == quiet.tests
    with pytest.raises(StoreError, match="no figures of 2026-09; there are 2026-10, 2026-11"):
        monthly(gate, spool=tmp_path, month="2026-09")
    with pytest.raises(StoreError, match="holds no figures"):
        monthly(gate, spool=tmp_path / "other")


def test_the_command_prints_and_draws_it(gate, tmp_path):
    served(gate, tmp_path, 11, 60, shift=4)
    words = ["monthly", str(gate), "--spool", str(tmp_path), "--out", str(tmp_path / "page.html")]
    told = CliRunner().invoke(cli, words)
    assert told.exit_code == 0, told.output
    assert "2026-11: 61 films, 1 of them no usable film" in told.stdout
    assert "promised for clean films: at most 5 %" in told.stdout
    page = (tmp_path / "page.html").read_text()
    for word in ("<strong>ALARM</strong>", "2026-11-28", "0.9 to 1", "Can&#39;t tell"):
        assert word in page
    facts = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert facts.pop("page").endswith("page.html")
    assert_described(Month, facts)


def test_a_month_without_a_usable_film(gate, tmp_path):
    served(gate, tmp_path, 11, 0)
    made = monthly(gate, spool=tmp_path)
    assert not made.rates[0].suspicious.defined
    assert "Suspicious: undefined" in "\n".join(month_lines(made))
    assert "none" in write_month(tmp_path / "page.html", made).read_text()


def test_what_readers_said_of_the_months_films_is_counted_and_shown(gate, tmp_path):
    served(gate, tmp_path, 10, 40)
    reviews = Reviews(tmp_path / REVIEWS)
    digest = sha256_of(gate)
    for film, call, judged, by in (
        ("a", "trigger", "2026-10-03T12:00:00.000Z", digest),
        ("b", "no trigger", "2026-10-04T12:00:00.000Z", digest),
        ("c", "trigger", "2026-09-30T12:00:00.000Z", digest),
        ("d", "trigger", "2026-10-05T12:00:00.000Z", "0" * 64),
    ):
        reviews.add(
            Review(film=film, reader="meier", call=call, at="2026-11-02T08:00:00.000Z",
                   verdict="suspicious", p=0.01, judged=judged, gate=by, model="")
        )  # fmt: skip
    made = monthly(gate, spool=tmp_path)
    assert made.reviewed == (
        Tally(month="2026-10", gate=digest, verdict="suspicious", films=2, trigger=1,
              no_trigger=1, cant_tell=0, divided=0),
    )  # fmt: skip
    (line,) = [line for line in month_lines(made) if line.startswith("Readers")]
    assert line.startswith("Readers, 2 films that the gate calls suspicious: 1 with a trigger, 1 w")
    text = write_month(tmp_path / "month.html", made).read_text()
    assert "readers differ" in text
    assert "meier" not in text
    assert "meier" not in str(month_lines(made))
