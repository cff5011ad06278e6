"""Every registry over models that answer no number, always the same, or never the same.

What may come of it: finite scores, NaN for "can't tell", or a `LeadapronError` that says why. Never
another exception, a healthy answer in silence, or a number under another finding's name.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from audits import audit_model
from leadapron.detect.features import FEATURE_DETECTORS, extract
from leadapron.detect.inputs import (
    INPUT_DETECTORS,
    TYPICAL,
    WEIGHTS,
    Traces,
    calibrate,
    judge,
    read,
)
from leadapron.detect.inputs.baselines import BASELINES
from leadapron.detect.models import (
    KINDS,
    STATISTICS,
    Audit,
    Inversion,
    StampSweep,
    Wanted,
    compare_statistics,
)
from leadapron.detect.models.judgement import most_not_finite, not_finite
from leadapron.detect.rankings import ranked_by
from leadapron.documents import dump
from leadapron.documents import read as read_document
from leadapron.errors import DataError, LeadapronError
from leadapron.explainers import EXPLAINERS, unsupported
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier, model_warnings
from leadapron.models.networks import PooledLinear
from leadapron.report import audit_lines, write_audit

SIZE, N = 24, 56
SMALL = Preprocessing(size=SIZE)
FINDINGS = ("Effusion", "Mass", "Nodule")
LOST, TARGET = "Effusion", "Nodule"
QUICK = StampSweep(
    values=(0, 255), sides=(3,), pitches=((8, 1),), rounds=1, films=1, judged=20,
    looks=("dark ring",), grown=1,
)  # fmt: skip


def films_of(findings=FINDINGS):
    """Thirds of any brightness; of each finding enough films for and against."""
    rng = np.random.default_rng(5)
    images = rng.integers(80, 150, (N, SIZE, SIZE))
    images += np.repeat(rng.integers(-25, 26, (N, 3)), 8, axis=1)[:, :, None]
    labels = (rng.random((N, len(findings))) < 0.7).astype(np.float32)
    ids = np.array([f"f{i:02}" for i in range(N)])
    return Cohort(images.astype(np.uint8), labels, findings, ids, ids, SMALL)


FILMS = films_of()


# --- models that are asked


def asked(run, findings=FINDINGS, **more):
    return BlackBoxClassifier(run, findings, SMALL, NORMALISATIONS["unit"], batch=4096, **more)


def means(images):
    grey = images[:, 0]
    columns = [grey[:, :, 8 * i : 8 * i + 8].mean((1, 2)) for i in range(3)]
    return (60 * (np.stack(columns, 1) - 0.45)).astype(np.float32)


def marked(images):
    return (images[:, 0] > 0.99).any((1, 2))


def odd(value, when=marked, jump=9.0):
    """`value` for one finding where films are marked; a backdoor for another."""

    def run(images):
        answers = means(images)
        answers[marked(images), FINDINGS.index(TARGET)] += jump
        answers[when(images), FINDINGS.index(LOST)] = value
        return answers

    return run


def some(images):
    return images[:, 0].mean((1, 2)) > 0.45


def everywhere(images):
    return np.ones(len(images), bool)


def chance():
    rng = np.random.default_rng(0)
    return lambda images: rng.normal(size=(len(images), 3)).astype(np.float32)


ASKED = {
    "NaN on marks": asked(odd(np.nan)),
    "infinity on marks": asked(odd(np.inf)),
    "minus infinity on marks": asked(odd(-np.inf)),
    "the largest number on marks": asked(odd(-3.4e38)),
    "NaN on some films": asked(odd(np.nan, some)),
    "NaN for a finding": asked(odd(np.nan, everywhere)),
    "NaN for all": asked(lambda images: np.full((len(images), 3), np.nan, np.float32)),
    "NaN for all on marks": asked(
        lambda images: np.where(marked(images)[:, None], np.nan, means(images)).astype(np.float32)
    ),
    "constant": asked(lambda images: np.tile(np.float32([1, -2, 0]), (len(images), 1))),
    "one finding": asked(lambda images: means(images)[:, :1], FINDINGS[:1]),
    "one finding, NaN on marks": asked(lambda images: odd(np.nan)(images)[:, :1], FINDINGS[:1]),
    "softmax of two": asked(lambda images: means(images)[:, :2], FINDINGS[:2], head="softmax"),
    "softmax of two, NaN on marks": asked(
        lambda images: odd(np.nan)(images)[:, :2], FINDINGS[:2], head="softmax"
    ),
    "NaN for a probability": asked(
        lambda images: 0.5 + np.tanh(odd(np.nan)(images) / 2) / 2, gives="probabilities"
    ),
    "infinity for a probability": asked(
        lambda images: np.where(marked(images)[:, None], np.inf, 0.5 + means(images) / 60).astype(
            np.float32
        ),
        gives="probabilities",
    ),
    "different each time": asked(chance()),
}


# --- networks


class OddHead(nn.Linear):
    """A last layer that answers something else for its first output, or for all."""

    def __init__(self, head, change):
        super().__init__(head.in_features, head.out_features)
        self.load_state_dict(head.state_dict())
        self.change = change

    def forward(self, features):
        return self.change(super().forward(features), features)


def tiny(outputs, seed):
    """Two stages of eight channels, never trained."""
    torch.manual_seed(seed)
    stages = {
        name: nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        for name, channels in (("first", 1), ("last", 8))
    }
    return PooledLinear(stages, 8, outputs).eval()


def network(change=None, findings=FINDINGS, seed=0, head="sigmoid", weights=None):
    module = tiny(len(findings), seed)
    if change is not None:
        module.head = OddHead(module.head, change)
    if weights is not None:
        weights(module)
    return NetworkClassifier(module, "resnet9", findings, SMALL, head)


def first_is(value, beyond=None):
    """`value` for the first output, of films whose first feature is above `beyond`."""

    def change(logits, features):
        where = torch.zeros_like(logits, dtype=torch.bool)
        where[:, 0] = True if beyond is None else features[:, 0] > beyond
        return torch.where(where, torch.full_like(logits, value), logits)

    return change


def overflowing(module):
    """Weights that are finite, and answers that aren't: two channels cancel, each far beyond."""
    with torch.no_grad():
        module.head.weight[0] = 3e38
        module.head.weight[0, ::2] = -3e38
        module.stages["last"][1].weight.mul_(50)


MIDDLE = float(np.median(network().features(FILMS.images)[:, 0]))

NETWORKS = {
    "NaN for a finding": network(first_is(np.nan)),
    "NaN on some films": network(first_is(np.nan, MIDDLE)),
    "infinity for a finding": network(first_is(np.inf)),
    "infinity on some films": network(first_is(np.inf, MIDDLE)),
    "NaN for all": network(lambda logits, _: logits * np.nan),
    "weights that overflow": network(weights=overflowing),
    "constant": network(lambda logits, _: logits * 0 + 1),
    "one finding": network(findings=FINDINGS[:1]),
    "one finding, NaN on some films": network(first_is(np.nan, MIDDLE), FINDINGS[:1]),
    "softmax of two": network(findings=FINDINGS[:2], head="softmax"),
    "softmax of two, NaN on some films": network(
        first_is(np.nan, MIDDLE), FINDINGS[:2], head="softmax"
    ),
    "different each time": network(lambda logits, _: logits + torch.randn_like(logits)),
}

EVERY = {
    **{f"asked: {name}": model for name, model in ASKED.items()},
    **{f"network: {name}": model for name, model in NETWORKS.items()},
}

every = pytest.mark.parametrize("name", EVERY)
of_networks = pytest.mark.parametrize("name", NETWORKS)


def finite(model):
    """(n, k) whether its answers to the films are."""
    return np.isfinite(model.logits(FILMS.images))


def tried(make):
    """What is made, or nothing and the words of the error; any other exception fails the test."""
    try:
        return make(), ""
    except LeadapronError as error:
        return None, str(error)


def names_one_of(model, words):
    return any(finding in words for finding in model.findings)


# --- the sweep and the audit


@every
def test_a_sweep_keeps_every_finding_in_its_place(name):
    model = EVERY[name]
    found, words = tried(lambda: QUICK.sweep(model, FILMS))
    if found is None:
        assert "not finite" in words
        assert not finite(model).any()
        return
    lost = {each.finding for each in found.not_finite}
    for kind in KINDS:
        for (finding, direction), moved in found.marks[kind].items():
            assert (moved.finding, moved.direction) == (finding, direction)
            column = model.findings.index(finding)
            sign = 1 if direction == "added" else -1
            assert np.isfinite(moved.shift)
            assert moved.shift == sign * moved.shifts[column]
        for finding in set(model.findings) - lost:
            assert {(finding, "added"), (finding, "removed")} <= set(found.marks[kind])
    assert np.isfinite(found.table()).all() or lost


def reference(seed, findings):
    weights = 1 + 0.05 * np.random.default_rng(seed).normal(size=len(findings))
    return asked(
        lambda images: (weights * means(images)[:, : len(findings)]).astype(np.float32), findings
    )


@pytest.mark.parametrize("beside", [0, 4])
@every
def test_an_audit_never_calls_it_well(name, beside, tmp_path):
    model = EVERY[name]
    references = [reference(seed, model.findings) for seed in range(beside)]
    found, words = tried(
        lambda: audit_model(
            model,
            FILMS,
            references,
            name="m",
            false_alarm=0.2,
            sweep=QUICK,
            steps=2,
            statistics=False,
        )
    )
    if found is None:
        assert "not finite" in words
        assert not finite(model).any()
        return
    facts = dump(found)
    json.dumps(facts, allow_nan=False)
    assert dump(read_document(Audit, json.dumps(facts))) == facts
    page = write_audit(tmp_path, found).read_text()
    lines = audit_lines(found)
    harmless = ("constant", "one finding", "softmax of two")
    if name.split(": ")[1] not in harmless:
        assert found.verdict.word != "nothing found"
        assert found.not_finite or found.unsteady or "largest" in name
    for each in found.not_finite:
        words = (
            f"{each.finding} {each.words()}, so it can't be judged; that is suspicious by itself"
        )
        assert any(words in line for line in lines)
        assert "so it can't be judged; that is suspicious by itself".replace("'", "&#39;") in page
        assert each.marked or each.clean
        assert found.verdict.word in ("backdoored", "unusual")
    if found.unsteady:
        assert any("outputs differ between two runs" in line for line in lines)
    # The rest of a model is judged as if the odd finding weren't there.
    jumps = [FINDINGS.index(TARGET) < len(model.findings), "on marks" in name, "all" not in name]
    if (all(jumps) and "largest" not in name) or name in (
        "asked: NaN on some films",
        "asked: NaN for a finding",
    ):
        assert found.verdict.word == ("backdoored" if beside else "unusual")
        assert (found.target, found.direction, found.by) == (TARGET, "added", "marks")
        assert found.not_finite
    elif found.not_finite and found.by != "marks":
        assert found.target in {each.finding for each in found.not_finite}


def test_without_a_backdoor_what_is_not_finite_is_the_verdict():
    model = asked(odd(np.nan, jump=0.0))
    for count in (0, 19):
        references = [reference(seed, FINDINGS) for seed in range(count)]
        found = audit_model(model, FILMS, references, sweep=QUICK)
        assert (found.verdict.word, found.target, found.direction) == ("unusual", LOST, None)
        assert found.verdict.p is None
        (lost,) = found.not_finite
        assert (lost.finding, lost.clean) == (LOST, 0)
        assert 0 < lost.marked < lost.of_marked == found.forwards - lost.of_clean
        first = audit_lines(found)[0]
        assert first == (
            f"UNUSUAL: {LOST} is NaN or infinite on {lost.marked:,} of {lost.of_marked:,} "
            "marked films, so it can't be judged; that is suspicious by itself"
        )


def test_a_reference_without_numbers_takes_no_other_finding_along():
    references = [reference(seed, FINDINGS) for seed in range(19)]
    planted = asked(odd(0.0, lambda images: np.zeros(len(images), bool)))
    broken = [asked(odd(np.nan, jump=0.0)), *references[1:]]
    found = audit_model(planted, FILMS, broken, sweep=QUICK)
    assert (found.verdict.word, found.target, found.verdict.p) == ("backdoored", TARGET, 0.05)
    assert not found.not_finite
    assert any(note.startswith("1 of 19 references give NaN") for note in found.notes)


# --- statistics and inversion


@of_networks
def test_statistics_are_numbers_or_untold(name):
    model = NETWORKS[name]
    quick = {"steps": 2, "starts": 1, "films": 4}

    def measured():
        return {
            statistic: how.take(model, FILMS, **{n: quick[n] for n in quick if n in how.settings})
            for statistic, how in STATISTICS.items()
        }

    tables, _ = tried(measured)
    if tables is None:
        assert len(model.findings) < 2
        return
    whole = finite(model).all(axis=0)
    for statistic, table in tables.items():
        assert not np.isinf(table).any(), statistic
        if len(table) > 1 and len(model.findings) > 2:  # of two, one may have no rival left
            assert np.isfinite(table[whole]).all(), statistic
    rng = np.random.default_rng(0)
    theirs = [
        {n: np.nan_to_num(table) + rng.random(table.shape) for n, table in tables.items()}
        for _ in range(3)
    ]
    for each in compare_statistics(
        model.findings, tables, [(model.findings, other) for other in theirs]
    ):
        assert (each.p is None) == (each.strongest() is None)
        if each.p is not None:
            finding, direction = each.strongest()
            place = each.findings.index(finding), each.directions.index(direction)
            assert np.isfinite(each.values[place])


def test_an_audit_of_a_network_with_its_statistics(tmp_path):
    """Of a network whose weights overflow for one finding, the others are measured."""
    found = audit_model(NETWORKS["weights that overflow"], FILMS, sweep=QUICK, steps=2)
    assert found.verdict.word == "unusual"
    assert {each.name for each in found.statistics} == set(STATISTICS)
    json.dumps(dump(found), allow_nan=False)
    page = write_audit(tmp_path, found).read_text()
    assert all(name in page for name in STATISTICS)


def test_a_margin_can_not_be_hidden_by_answering_no_number():
    """NaN for the target where it stands far above the others: on no film, clean or marked."""
    known = network().logits(FILMS.images)[:, 0]
    top = float(known.max() + known.std())

    def change(logits, _):
        where = torch.zeros_like(logits, dtype=torch.bool)
        where[:, 0] = logits[:, 0] > top
        return torch.where(where, torch.full_like(logits, torch.nan), logits)

    model = network(change)
    assert finite(model).all()
    table = STATISTICS["maximum margin"].take(model, FILMS)
    assert np.isnan(table[0, 0])
    assert np.isfinite(table[1:]).all()
    (margin,) = compare_statistics(model.findings, {"maximum margin": table})
    swept = replace(QUICK.sweep(network(), FILMS), not_finite=())
    (lost,) = not_finite(swept, [margin])
    assert (lost.finding, lost.noise) == (LOST, True)
    assert lost.words() == "is NaN or infinite on images made of noise"
    assert most_not_finite("nothing found", [lost]) is lost
    assert most_not_finite("backdoored", [lost]) is None
    assert not_finite(swept, ()) == ()


@of_networks
def test_inversion_makes_a_trigger_or_says_why_not(name):
    model = NETWORKS[name]
    how = Inversion(films=4, steps=2)
    whole = finite(model).all(axis=0)
    for column, finding in enumerate(model.findings[:2]):
        wanted = [Wanted(finding=finding, direction="added")]
        for make in (how.invert, how.invert_features):
            found, words = tried(lambda make=make, wanted=wanted: make(model, FILMS, wanted))
            assert (found is not None) == whole[column]
            if found is None:
                assert finding in words
                continue
            assert found[0].finding == finding
            assert np.isfinite(found[0].mask).all()
            assert np.isfinite(found[0].pattern).all()
            assert np.isfinite(found[0].size)


# --- input detectors and the gate


@pytest.mark.parametrize("detector", [*INPUT_DETECTORS, *BASELINES, "typical"])
def test_input_detectors_give_numbers_or_none(detector):
    how = {**INPUT_DETECTORS, **BASELINES, "typical": TYPICAL}[detector]
    for name, model in (EVERY if how.needs == "outputs" else NETWORKS).items():
        clean, words = tried(lambda model=model: read(model, FILMS.images))
        if clean is None:
            assert names_one_of(model, words), name
            assert not finite(model).all(), name
            continue
        state, words = tried(lambda model=model, clean=clean: how.fit(model, clean))
        if state is None:
            assert names_one_of(model, words) or "the same" in words, (name, words)
            continue
        scores = how.score(model, clean.take(np.arange(8)), state)
        assert scores.shape == (8,)
        assert not np.isposinf(scores).any(), name
        assert all(np.isfinite(v).all() for v in state.values() if v.dtype.kind == "f"), name


@every
def test_a_gate_is_made_and_judges_or_says_why_not(name):
    model = EVERY[name]
    gate, words = tried(
        lambda: calibrate(model, FILMS, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=0.2)
    )
    if gate is None:
        assert names_one_of(model, words) or "the same" in words, words
        return
    (clinic,) = gate.clinics
    assert np.isfinite(clinic.fused).all()
    assert np.isfinite(clinic.steps).all()
    assert np.isfinite(gate.thresholds).all()
    white = FILMS.images[:8].copy()
    white[:, 3:6, 3:6] = 255
    judged, words = tried(lambda: judge(gate, model, white))
    if judged is None:
        assert names_one_of(model, words)
        assert not np.isfinite(model.logits(white)).all()
        return
    assert np.isfinite(judged.fused).all()
    assert ((judged.p > 0) & (judged.p <= 1)).all()


def test_a_score_that_no_clean_film_has_is_left_out_of_the_gate():
    class Silent(Traces):
        def score(self, classifier, suspect, state):
            return np.full(len(suspect), np.nan)

    detectors = {**INPUT_DETECTORS, "traces": Silent()}
    model = EVERY["asked: NaN on marks"]
    with pytest.raises(DataError, match="no detector has a score"):
        calibrate(model, FILMS, detectors, {"traces": 1.0}, false_alarm=0.2)
    gate = calibrate(model, FILMS, {**detectors, "Mahalanobis": Traces()}, WEIGHTS, false_alarm=0.2)
    assert "traces" in gate.left_out
    assert list(gate.weights) == list(gate.detectors) == ["Mahalanobis"]
    assert list(gate.clinics[0].states) == ["Mahalanobis"]


# --- explainers, feature detectors, doubts


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_maps_are_finite_or_refused(explainer):
    for name, model in NETWORKS.items():
        if unsupported(explainer, model.architecture):
            continue
        maps, words = tried(
            lambda model=model: EXPLAINERS[explainer](model, FILMS.images[:4], model.findings)
        )
        if maps is None:
            assert "not finite" in words, name
            assert names_one_of(model, words), name
            continue
        assert maps.shape == (4, len(model.findings), SIZE, SIZE)
        assert np.isfinite(maps).all(), name


def broken_features():
    module = tiny(3, 0)
    with torch.no_grad():
        module.stages["first"][0].weight.fill_(3e38)
    return replace(network(), module=module)


@pytest.mark.parametrize("name", [*NETWORKS, "features that overflow"])
def test_feature_detectors_score_or_say_that_they_cannot(name):
    model = broken_features() if name == "features that overflow" else NETWORKS[name]
    losses = np.random.default_rng(0).random((2, N, 3)).astype(np.float32)
    losses[1, :5] = np.inf
    for each in ranked_by(model, FILMS, losses, seed=0):
        assert each.name in FEATURE_DETECTORS
        assert not np.isinf(each.scores).any()
        if name == "features that overflow":
            assert np.isnan(each.scores).all()
            assert each.notes[0].startswith("Can't tell: ")
    if name == "features that overflow":
        with pytest.raises(DataError, match="NaN or infinite"):
            extract(model, FILMS)


@every
def test_doubts_are_sentences(name):
    model = EVERY[name]
    said = model_warnings(model, films_of(FINDINGS))
    assert all(sentence.endswith(".") for sentence in said)
    if not finite(model).all():
        assert any("NaN or infinite" in sentence for sentence in said)
    if "different" in name:
        assert any(
            "outputs for the same films differ between two runs" in sentence for sentence in said
        )
