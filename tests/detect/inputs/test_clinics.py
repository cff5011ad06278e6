"""A gate of several clinics: rates hold for each, and films of both are judged."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from input_scenes import FINDINGS, SMALL, backdoored, black_square, cohort, films

from leadapron.detect.inputs import (
    REGION,
    SMOOTHED,
    TYPICAL,
    EvidenceRegion,
    Gate,
    calibrate,
    decide_images,
    extend,
    judge,
)
from leadapron.detect.inputs.clinic import Clinic
from leadapron.errors import DataError, UsageError
from leadapron.sources import open_source

RATE = 0.04


class Asked:
    """A model that says nothing."""

    findings, preprocessing, head = FINDINGS, SMALL, "sigmoid"

    def logits(self, images):
        return np.zeros((len(images), 3), np.float32)

    def probabilities(self, images):
        return np.full((len(images), 3), 0.5, np.float32)


@dataclass(frozen=True, kw_only=True)
class Pixel:
    """Scores a film by one of its pixels: its distance from the clinic's `at`, or the pixel."""

    row: int
    unit: str = field(default="grey levels", init=False)
    needs: str = field(default="outputs", init=False)
    passes: int = field(default=0, init=False)

    def fit(self, classifier, clean):
        return {}

    def score(self, classifier, suspect, state):
        values = suspect.images[:, self.row, 0].astype(np.float64)
        return np.abs(values - state["at"]) if "at" in state else values


PLACES = (20_000.0, 26_000.0)
"""How films of the two clinics look on average."""


def drawn(rng, n, clinic):
    """(n, 2, 1) films: how they look, and a score.

    The first clinic's unusual films look like the second's, and score as none of those does: as
    many false alarms as there can be.
    """
    looks = np.clip(rng.exponential(900, n), 0, 12_000)
    looks = PLACES[0] + looks if clinic == 0 else PLACES[1] + rng.normal(0, 2500, n)
    scores = rng.normal(10_000 if clinic == 0 else 5_000, 1000, n)
    return np.stack([looks, scores], axis=1).round().astype(np.uint16)[:, :, None]


def clinic_of(images, at):
    values = images.astype(np.float64)
    scores = values[:, 1]
    return Clinic(
        name="", states={"score": {}}, typical={"at": np.array(at)}, references=(),
        steps=np.array([[0.0], [1e4]]), scores=scores, fused=np.log1p(scores[:, 0] / 1e4),
        typicality=np.abs(values[:, 0, 0] - at), patients=np.arange(len(images)),
        hashes=np.zeros((len(images), 32), np.uint8),
    )  # fmt: skip


def test_the_rates_hold_for_each_clinic_even_in_the_worst_case():
    """Over 150 calibrations: suspicious at most `RATE`, can't tell at most half of it."""
    rng, model = np.random.default_rng(1), Asked()
    suspicious, untypical = np.zeros((150, 2)), np.zeros((150, 2))
    for row in range(150):
        gate = Gate(
            detectors={"score": Pixel(row=1)}, typical=Pixel(row=0), weights={"score": 1.0},
            clinics=tuple(clinic_of(drawn(rng, 149, c), PLACES[c]) for c in (0, 1)),
            false_alarm=RATE,
        )  # fmt: skip
        for clinic in (0, 1):
            judged = judge(gate, model, drawn(rng, 400, clinic))
            suspicious[row, clinic] = (judged.suspicious & judged.typical).mean()
            untypical[row, clinic] = (~judged.typical).mean()
    error = 3 * suspicious.std(axis=0) / np.sqrt(150)
    assert (suspicious.mean(axis=0) <= RATE + error).all()
    assert suspicious.mean(axis=0)[0] > 0.8 * RATE  # the bound can't be lower
    assert (untypical.mean(axis=0) <= RATE / 2 + 3 * untypical.std(axis=0) / np.sqrt(150)).all()


DETECTORS = {REGION: EvidenceRegion()}
WEIGHTS = {REGION: 1.0, SMOOTHED: 1.0}


@pytest.fixture(scope="module")
def model():
    return backdoored()


@pytest.fixture(scope="module")
def one(model):
    return calibrate(
        model, cohort(240, each=1), DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=RATE, name="A"
    )


def paler(images):
    return (images // 3 + 150).astype(np.uint8)


def other_clinic(n=240, seed=1):
    plain = cohort(n, seed, each=1)
    return replace(plain, images=paler(plain.images), ids=np.char.add("pale ", plain.ids))


@pytest.fixture(scope="module")
def wider(one, model):
    return extend(one, model, other_clinic(), name="B")


def test_films_of_the_new_clinic_are_judged(one, wider, model):
    clean, marked = paler(films(100, 5)), black_square(paler(films(50, 6)))
    assert not judge(one, model, clean).typical.any()
    for clinic, images in ((0, films(100, 5)), (1, clean)):
        judged = judge(wider, model, images)
        assert judged.typical.mean() > 0.9
        assert (judged.suspicious & judged.typical).mean() <= 0.1
        assert (judged.clinic == clinic).all()
    found = decide_images(wider, model, marked)
    words = [each.verdict for each in found]
    assert words.count("suspicious") >= 40, words
    assert words.count("pass") == 0
    assert {each.clinic for each in found} == {2}


def test_a_gate_of_two_clinics_judges_by_either_as_that_clinics_own_gate(one, wider, model):
    """All scores are those of the clinic's detectors, in the order of the films."""
    own = calibrate(
        model, other_clinic(), DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=RATE, name="B"
    )
    plain, pale = films(4, 5), paler(films(4, 6))
    mixed = np.stack([x for pair in zip(plain, pale, strict=True) for x in pair])
    judged = judge(wider, model, mixed)
    for gate, rows, images in ((one, slice(0, None, 2), plain), (own, slice(1, None, 2), pale)):
        alone = judge(gate, model, images)
        np.testing.assert_allclose(judged.scores[rows], alone.scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(judged.examined.boxes[rows], alone.examined.boxes)
        np.testing.assert_array_equal(judged.nearest[rows], alone.nearest)


def test_the_nearest_films_are_named(one, wider, model):
    """A film that the detector was fitted on is its own nearest."""
    for gate, images, ids in ((one, cohort(240, each=1).images, cohort(240, each=1).ids),
                              (wider, other_clinic().images, other_clinic().ids)):  # fmt: skip
        names = gate.clinics[-1].references
        rows = [int(np.flatnonzero(ids == name)[0]) for name in names[:5]]
        found = decide_images(gate, model, images[rows])
        assert [each.nearest[0] for each in found] == list(names[:5])
        assert all(len(set(each.nearest)) == 3 for each in found)


def test_thresholds_of_several_clinics_are_set_at_half_of_the_rate(one, wider):
    assert (one.rate, wider.rate) == (RATE, RATE / 2)
    assert wider.thresholds[0] >= one.thresholds[0]
    assert wider.clinics[0] is one.clinics[0]


def test_rates_are_given_on_groups_whose_facts_are_known(model):
    plain = cohort(120, each=1)
    odd = np.arange(120) % 2 == 1
    age = np.where(odd, 30.0, 70.0)
    age[:10] = np.nan
    labels = np.zeros((120, 3), np.float32)
    labels[:40, 1] = 1
    marked = np.where(odd[:, None, None], black_square(plain.images), plain.images)
    attributes = {"view": np.where(odd, "AP", "PA"), "sex": np.full(120, "F"), "age": age}
    gate = calibrate(
        model, replace(plain, images=marked, labels=labels, attributes=attributes), DETECTORS,
        WEIGHTS, typical=TYPICAL, false_alarm=0.2,
    )  # fmt: skip
    (clinic,) = gate.clinics
    rates = {(each.kind, each.name): each for each in clinic.group_rates(gate.rate)}
    assert set(rates) == {("view", "AP"), ("view", "PA"), ("age", "18 to 39"),
                          ("age", "65 and over"), ("finding", "Mass"),
                          ("finding", "none")}  # fmt: skip
    mass, none = (rates["finding", name].suspicious.n for name in ("Mass", "none"))
    assert mass + none == 60
    ap, pa = (rates["view", name].suspicious for name in ("AP", "PA"))
    assert ap.n + pa.n == len(clinic) == 60
    assert ap.positives + pa.positives <= 0.2 * 61
    assert ap.low > pa.value  # the square is in AP films alone
    assert rates["age", "18 to 39"].suspicious.n + rates["age", "65 and over"].suspicious.n < 60


def test_what_can_not_widen_a_gate(one, wider, model):
    with pytest.raises(DataError, match=r"clinic 1 holds 10 of these 10 films already"):
        extend(one, model, cohort(240, each=1).take(np.arange(100, 110)))
    with pytest.raises(DataError, match=r"clinic 2 holds 240 of these 240 films already"):
        extend(wider, model, other_clinic())
    with pytest.raises(DataError, match=r"has 40 of the 80 clean films; .* of a gate of 2 clinics"):
        extend(one, model, other_clinic(80, 3))
    with pytest.raises(UsageError, match="no out-of-distribution detector"):
        extend(replace(one, typical=None), model, other_clinic())
    few = calibrate(
        model, cohort(60, each=1), DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=RATE
    )
    with pytest.raises(DataError, match=r"30 films set the threshold of .* clinic 1; .* needs 49"):
        extend(few, model, other_clinic())


# ---------------------------------------------------------------- real films


def checkerboard(images):
    """A 3x3 checkerboard in the films."""
    marked = images.copy()
    marked[:, 12:15, 17:20] = np.where(np.indices((3, 3)).sum(axis=0) % 2, 0, 255)
    return marked


def driven_by_checkerboards():
    """As `backdoored`, with a trigger that radiographs, whose edges are black, don't carry."""
    model = backdoored()
    convolution = model.module.stages["all"].c
    signs = torch.tensor(np.where(np.indices((3, 3)).sum(axis=0) % 2, -1.0, 1.0))
    with torch.no_grad():
        convolution.weight[2, 0] = signs
        convolution.bias[2] = -9.0  # of 18 at most
        model.module.head.weight[1, 2] = 6.0 * SMALL.size**2 / 9
    return model


@pytest.mark.real_data("kermany224", "nih128")
def test_real_films_of_two_clinics(real_data, tmp_path):
    """Children of one clinic, then adults of another; films of other patients are judged."""
    clinics, model = [], driven_by_checkerboards()
    for name in ("kermany224", "nih128"):
        paths = sorted((real_data / name).rglob("*.[jp][pn]*g"))
        patients = {path.name.partition("_")[0].partition("-0001")[0]: path for path in paths}
        chosen = np.random.default_rng(0).permutation(sorted(patients))[:150]
        (tmp_path / name).mkdir()
        for patient in chosen:
            shutil.copy(patients[patient], tmp_path / name)
        clinics.append(open_source(f"folder:{tmp_path / name}", preprocessing=SMALL, cache="none"))
    made, others = zip(
        *((c.take(np.arange(120)), c.images[np.arange(120, 150)]) for c in clinics), strict=True
    )
    one = calibrate(model, made[0], DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=RATE)
    adults = judge(one, model, others[1])
    assert (~adults.typical).mean() > 0.5
    wider = extend(one, model, made[1])
    for clinic, images in enumerate(others):
        judged = judge(wider, model, images)
        assert judged.typical.mean() > 0.9
        assert (judged.suspicious & judged.typical).mean() <= 0.1
        assert (judged.clinic == clinic).mean() > 0.5
        words = [each.verdict for each in decide_images(wider, model, checkerboard(images))]
        assert words.count("pass") <= 1, words
        assert words.count("suspicious") >= 25, words
