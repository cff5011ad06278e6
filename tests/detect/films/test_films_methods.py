"""Methods of the scan: what one that is added costs the others, and is held to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from film_scenes import events, labelled_cohort
from scipy import stats

from leadapron.detect.films import METHODS, FilmMethod, Found, MarkMethod, Repeated, scan_films
from leadapron.detect.films.repeats import at_places
from leadapron.errors import DataError
from leadapron.seeds import stream

N = 40


class Lottery:
    """A p-value that chance draws, of the first films and the first finding."""

    def __init__(self, name="", p=None):
        self.name, self.p = name, p

    def find(self, films):
        p = stream(films.seed, self.name).random() if self.p is None else self.p
        yield Found(
            p=p, chance=1.0, films=np.arange(5), what="luck", group=films.labelled.groups[0]
        )


@pytest.fixture
def added():
    """What adds methods, which are gone afterwards."""
    names = []

    def add(**methods):
        for name, method in methods.items():
            METHODS[name] = method
            names.append(name)

    yield add
    for name in names:
        del METHODS[name]


@pytest.fixture(scope="module")
def films():
    """Films on which no built-in method finds anything, and their observations."""
    labels = (np.random.default_rng(0).random((N, 1)) < 0.5).astype(np.float32)
    cohort = labelled_cohort(labels, size=16)
    images = np.random.default_rng(0).integers(100, 106, cohort.images.shape, dtype=np.uint8)
    return replace(cohort, images=images), events(N, (16, 16))


def scanned(films, **settings):
    cohort, seen = films
    return scan_films(cohort, seen=seen, **settings)


@pytest.mark.parametrize(("part", "verdict"), [(0.99, "poisoned"), (1.01, "suspicious")])
def test_each_method_gets_the_same_share_of_the_false_alarm_rate(films, added, part, verdict):
    before = scanned(films)
    added(lucky=Lottery(p=part * before.false_alarm / (len(before.methods) + 1)))
    scan = scanned(films)
    assert (len(scan.methods), scan.methods[-1].name) == (len(before.methods) + 1, "lucky")
    assert scan.p == pytest.approx(part * scan.false_alarm)
    assert scan.verdict == verdict
    (one,) = scan.evidence
    assert (one.method, one.finding, one.films.tolist()) == ("lucky", "Mass", [0, 1, 2, 3, 4])


def test_many_methods_alarm_no_more_often_than_is_granted(films, added):
    """Of methods whose p-values are what chance draws, 44 beside the six."""
    added(**{f"lottery {number}": Lottery(str(number)) for number in range(44)})
    granted, sets = 0.3, 60
    alarms = sum(
        scanned(films, seed=seed, false_alarm=granted).verdict == "poisoned" for seed in range(sets)
    )
    low, high = stats.binom.ppf([0.001, 0.999], sets, 1 - (1 - granted / 50) ** 44)
    assert low <= alarms <= high <= stats.binom.ppf(0.999, sets, granted)


def test_a_method_that_lists_marks_is_judged_as_the_others_are(added):
    """Twice the same listing: the same marks, corrected for one method more."""
    rng = np.random.default_rng(0)
    images = rng.normal(110, 6, (200, 32, 32)).clip(0, 230).astype(np.uint8)
    labels = np.zeros((200, 1), np.float32)
    labels[:80] = 1
    images[:20, 25:28, 25:28] = 255
    cohort = replace(labelled_cohort(labels, size=32), images=images)
    once = scan_films(cohort)
    added(again=Repeated(at_places))
    twice = scan_films(cohort)
    assert once.verdict == twice.verdict == "poisoned"
    assert once.evidence[0].place == twice.evidence[0].place == (25, 25, 3)
    assert "also by again" in twice.evidence[0].words
    first, *_, last = twice.methods
    assert (first.p, first.tried) == (last.p, last.tried)
    assert isinstance(METHODS["again"], MarkMethod)


@pytest.mark.parametrize("p", [float("nan"), -0.1, 1.5])
def test_p_values_that_are_none_stop_the_scan(films, added, p):
    added(lucky=Lottery(p=p))
    with pytest.raises(DataError, match=rf"the film method lucky: luck: p is {p}; expected 0 to 1"):
        scanned(films)


def test_the_code_of_a_listing_decides_what_a_method_does():
    def theirs(seen, patients):
        return at_places(seen, patients)

    assert METHODS.codes(METHODS) == {}
    METHODS["theirs"] = Repeated(theirs)
    try:
        assert METHODS.codes(METHODS).keys() == {"film method theirs"}
    finally:
        del METHODS["theirs"]


def test_built_in_methods_are_of_the_protocol():
    methods: list[FilmMethod] = list(METHODS.values())
    assert [isinstance(each, MarkMethod) for each in methods] == [True] * 4 + [False] * 2
