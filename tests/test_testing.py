"""The contract checks: every built-in method keeps them, and broken ones are told what is wrong."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from leadapron import testing
from leadapron.attacks.triggers import TRIGGERS, Patch
from leadapron.detect.features import FEATURE_DETECTORS, SpectralSignatures
from leadapron.detect.films import METHODS, Found
from leadapron.detect.films.shift import Group, Labelled
from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL
from leadapron.detect.models import STATISTICS, Measure, Stamp
from leadapron.errors import DataError
from leadapron.explainers import EXPLAINERS, unsupported
from leadapron.films.cache import Cache
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import ARCHITECTURES, Instrumented, Look, build_network
from leadapron.plugins import KINDS
from leadapron.repairs import REPAIRS, FineTuning, Optimisation
from leadapron.sources import SOURCES
from leadapron.specs import parameters
from leadapron.testing import (
    check_explainer,
    check_feature_detector,
    check_film_method,
    check_input_detector,
    check_network,
    check_repair,
    check_source,
    check_statistic,
    check_trigger,
)

SLOW = pytest.mark.slow
QUICK = {"maximum margin": {"steps": 2, "starts": 1}}


# A learnt trigger needs a file: tests/attacks/test_learned.py.
@pytest.mark.parametrize("name", [name for name in TRIGGERS if name != "learned"])
def test_triggers(name):
    check_trigger(TRIGGERS[name](), changes=name != "none")


@pytest.mark.parametrize("name", [*INPUT_DETECTORS, "typical"])
def test_input_detectors(name):
    check_input_detector({**INPUT_DETECTORS, "typical": TYPICAL}[name])


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics(name):
    check_statistic(STATISTICS[name], **QUICK.get(name, {}))


@pytest.mark.parametrize("name", FEATURE_DETECTORS)
def test_feature_detectors(name):
    check_feature_detector(FEATURE_DETECTORS[name])


@pytest.mark.parametrize("name", REPAIRS)
def test_repairs(name):
    settings = parameters(REPAIRS[name])
    marks = {"marks": (Stamp(side=2, value=255, row=0, column=0),)} if "marks" in settings else {}
    repair = REPAIRS[name](**marks)
    if "optimisation" in settings:
        quick = replace(repair.optimisation, epochs=2, batch_size=8, most_films=100)
        repair = replace(repair, optimisation=quick)
    check_repair(repair)


@pytest.mark.parametrize("name", METHODS)
def test_film_methods(name):
    check_film_method(METHODS[name])


@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers(name):
    if not unsupported(name, "resnet9"):
        check_explainer(EXPLAINERS[name], by_itself=name != "integrated-gradients-mean")


@pytest.mark.slow
def test_the_shortcut_of_the_papers_authors():
    network = build_network("densenet121", 3, 0).eval()
    small, findings = Preprocessing(size=32), ("Mass", "Effusion", "Edema")
    check_explainer(
        EXPLAINERS["authors-shortcut"],
        classifier=NetworkClassifier(network, "densenet121", findings, small),
    )


@pytest.mark.parametrize(
    "name",
    [
        # The others take seconds to make.
        name if name in ("resnet9", "resnet18") else pytest.param(name, marks=SLOW)
        for name in ARCHITECTURES
    ],
)
def test_networks(name):
    check_network(ARCHITECTURES[name], sides=[32])


def test_a_network_with_hooks():
    def make(outputs):
        parts = {"maps": nn.Conv2d(1, 4, 3), "act": nn.GELU(), "pool": nn.AdaptiveAvgPool2d(1)}
        whole = nn.Sequential()
        for name, part in {**parts, "flat": nn.Flatten(), "head": nn.Linear(4, outputs)}.items():
            whole.add_module(name, part)
        return Instrumented(whole, layer="maps")

    check_network(make)


def test_phantoms():  # the other sources: tests/sources/test_subsample.py
    check_source(SOURCES["phantom"], "32", count=12)


# --- one broken method for each thing that is checked


def marker(change):
    """A trigger of one function."""

    class Mark:
        def __call__(self, images, rng, /):
            return change(images, rng)

    return Mark()


def stamped(images, value=0):
    marked = images.copy()
    marked[:, :3, :3] = value
    return marked


def in_place(images, rng):
    images[:, 0, 0] = 0
    return images.copy()


def at_one_place(images, rng):
    """One place for all films of a call."""
    marked = images.copy()
    marked[:, rng.integers(20), rng.integers(20)] = 0
    return marked


@dataclass(frozen=True, kw_only=True)
class Undescribed(Patch):
    """A patch.

    Args:
        side: of it.
    """


@dataclass
class Thawed:
    def __call__(self, images, rng, /):
        return stamped(images)


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (marker(in_place), "the trigger changes its input images"),
        (marker(lambda x, rng: stamped(x)[:, 1:]), r"returns \(6, 39, 48\) uint8; expected"),
        (marker(lambda x, rng: stamped(x).astype(float)), "returns .* float64; expected .* uint8"),
        (marker(lambda x, rng: stamped(x).tolist()), "the trigger returns list; expected"),
        (marker(lambda x, rng: x), "the trigger returns no copy"),
        (marker(lambda x, rng: x.copy()), r"the trigger leaves film \[0\] unchanged"),
        (
            marker(lambda x, _: stamped(x, np.random.default_rng().integers(0, 255, (3, 3)))),
            "different pixels for equal images and an equal generator",
        ),
        (
            marker(at_one_place),
            "marks a film differently when it comes alone: draw random numbers film by",
        ),
        (Undescribed(), "the setting value has no line under Args: for --help"),
        (Thawed(), "Thawed isn't a frozen dataclass"),
    ],
)
def test_broken_triggers(trigger, words):
    with pytest.raises(AssertionError, match=words):
        check_trigger(trigger)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Brightness of films.

    Args:
        level: subtracted.
    """

    level: float = 0.0
    unit = "grey levels"
    needs = "outputs"
    passes = 0

    def fit(self, classifier, clean):
        return {"mean": np.array(clean.images.mean())}

    def score(self, classifier, suspect, state):
        return suspect.images.mean((1, 2), dtype=np.float64) - state["mean"] - self.level


class Unknowing(Detector):
    needs = "insight"


class Wordy(Detector):
    def fit(self, classifier, clean):
        return {"about": np.array(["films"])}


class Single(Detector):
    def score(self, classifier, suspect, state):
        return super().score(classifier, suspect, state).astype(np.float32)


class Boundless(Detector):
    def score(self, classifier, suspect, state):
        return np.full(len(suspect), np.inf)


class Costly(Detector):
    def score(self, classifier, suspect, state):
        return classifier.logits(suspect.images).sum(axis=1).astype(np.float64)


class Ranking(Detector):
    def score(self, classifier, suspect, state):
        return super().score(classifier, suspect, state).argsort().argsort().astype(np.float64)


class Touching(Detector):
    def score(self, classifier, suspect, state):
        scores = super().score(classifier, suspect, state)
        suspect.images[:] = 0
        return scores


class Chancy(Detector):
    def score(self, classifier, suspect, state):
        return np.random.default_rng().random(len(suspect))


class Greedy(Detector):
    def fit(self, classifier, clean):
        return {"features": classifier.features(clean.images)}


def test_input_detectors_that_are_broken():
    check_input_detector(Detector())
    for broken, words in {
        Unknowing: "needs is 'insight'; expected one of",
        Wordy: "fit returns about of <U5; expected finite numbers of bool, ",
        Single: r"score returns \(4,\) float32; expected \(4,\) float64",
        Boundless: "score returns infinite numbers; NaN is not scored",
        Costly: "score takes 1 passes a film; passes says 0",
        Ranking: "a film's score depends on which others are screened with it",
        Touching: "a film's score|the detector changes the films' readings|get different scores",
        Chancy: "equal films get different scores the second time",
    }.items():
        with pytest.raises(AssertionError, match=words):
            check_input_detector(broken())
    with pytest.raises(AttributeError, match="features"):  # it said that answers will do
        check_input_detector(Greedy())
    with pytest.raises(AssertionError, match="the detector isn't a dataclass of its parameters"):
        check_input_detector(object())


def table(value=1.0, columns=2, kind=np.float64):
    return lambda classifier, clean: np.full((3, columns), value, kind)


def retrain(classifier, clean):
    classifier.module.train()
    return np.ones((3, 2))


def rewrite(classifier, clean):
    with torch.no_grad():
        classifier.module.head.bias += 1
    return np.ones((3, 2))


@pytest.mark.parametrize(
    ("statistic", "words"),
    [
        (Measure(take=table(), unit=""), "unit is ''; expected the unit of the numbers"),
        (Measure(take=table(), unit="logits", needs="luck"), "needs is 'luck'; expected one of"),
        (Measure(take=table(columns=4), unit="logits"), r"the statistic is \(3, 4\) for 3 findi"),
        (Measure(take=table(kind=np.float32), unit="logits"), "float32; expected .* float64"),
        (Measure(take=table(np.inf), unit="logits"), "the statistic is infinite; use NaN"),
        (Measure(take=lambda c, x, *, films: 1, unit="logits"), r"setting \['films'\] has no def"),
        (Measure(take=retrain, unit="logits"), "leaves the network in training mode"),
        (Measure(take=rewrite, unit="logits"), "the method changes the network's weights"),
        (
            Measure(take=lambda c, x: np.random.default_rng().random((3, 1)), unit="logits"),
            "the statistic differs the second time",
        ),
    ],
)
def test_broken_statistics(statistic, words):
    with pytest.raises(AssertionError, match=words):
        check_statistic(statistic)


def feature_detector(**changes):
    """Spectral signatures whose scores are changed."""

    class Changed(SpectralSignatures):
        def score(self, cohort, features):
            scores = super().score(cohort, features)
            return replace(scores, **{name: f(scores) for name, f in changes.items()})

    return Changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"values": lambda s: s.values[1:]}, r"values is \(399,\) float64; expected \(400,\)"),
        ({"values": lambda s: s.values / 0 if s.values.size else 0}, "values has infinite numbers"),
        ({"unit": lambda s: ""}, "unit is empty"),
        ({"evidence": lambda s: ("films 1 and 2",)}, "evidence names no film"),
        (
            {"values": lambda s: np.random.default_rng().random(len(s.values))},
            "values differ the second time",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:(divide|invalid):RuntimeWarning")
def test_broken_feature_detectors(changes, words):
    with pytest.raises(AssertionError, match=words):
        check_feature_detector(feature_detector(**changes))


QUICK_REPAIR = Optimisation(epochs=1, batch_size=8)


def broken_repair(*, before=lambda *given: given, after=lambda model, repaired: repaired, most=99):
    """Fine-tuning, something that is done before it, and something after it."""

    class Broken(FineTuning):
        def repair(self, classifier, clean, rng, progress=None):
            model, clean, rng = before(classifier, clean, rng)
            return after(model, super().repair(model, clean, rng, progress))

    return Broken(optimisation=Optimisation(epochs=1, batch_size=8, most_films=most))


def draws(chance):
    """What draws a number, then gives back what it was given."""
    return {"before": lambda *given: (chance() and None) or given}


def changes(change):
    """What is done to the repaired model, which then is given back."""
    return {"after": lambda model, repaired: (change(model, repaired) and None) or repaired}


def blackened(films):
    films.images[:1] = 0
    return films


def twice(classifier, clean, rng):
    return (
        FineTuning(optimisation=Optimisation(epochs=1)).repair(classifier, clean, rng),
        clean,
        rng,
    )


BREAKS = {
    "draws from torch's, numpy's or Python's own generator": (
        draws(random.random),
        draws(lambda: torch.rand(1)),
        draws(lambda: np.random.rand()),  # noqa: NPY002 (what is to be found)
    ),
    "works on outputs only, but needs gradients": (
        {"before": lambda model, *more: (getattr(model, "_network", model), *more)},
    ),
    "treats a label that isn't stated as absent": (
        {"before": lambda m, x, rng: (m, replace(x, labels=np.nan_to_num(x.labels)), rng)},
    ),
    "changes the films": ({"before": lambda model, films, rng: (model, blackened(films), rng)},),
    "changes which of the model's weights need gradients": (
        {"before": lambda model, *more: (model.module.requires_grad_(False) and model, *more)},
    ),
    "differs the second time": (
        {"before": lambda model, films, _: (model, films, np.random.default_rng())},
    ),
    "takes 56 film trainings; at most 30": ({"before": twice, "most": 30},),
    "changes the network's weights": (
        changes(lambda model, _: model.module.head.bias.data.add_(1).any()),
    ),
    "returns PooledLinear; expected NetworkClassifier": (
        {"after": lambda _, repaired: repaired.module},
    ),
    r"findings is \('A', 'B', 'C'\)": (
        {"after": lambda _, repaired: replace(repaired, findings=("A", "B", "C"))},
    ),
    "leaves the model in training mode": (changes(lambda _, repaired: repaired.module.train()),),
    r"shares \['head.weight'\]": (
        changes(lambda a, b: setattr(b.module.head, "weight", a.module.head.weight)),
    ),
    "logits aren't finite": (
        changes(lambda _, repaired: repaired.module.head.bias.data.add_(np.inf).any()),
    ),
    "can't be read from its file": (
        {"after": lambda _, repaired: replace(repaired, architecture="resnet9")},
    ),
}


@pytest.mark.parametrize("words", BREAKS)
def test_broken_repairs(words):
    for broken in BREAKS[words]:
        with pytest.raises(AssertionError, match=words):
            check_repair(broken_repair(**broken))


def bright(images):
    """Which films have a white pixel at one place."""
    return images[np.arange(len(images))][:, 5, 21] == 255


class White:
    """Films with a white pixel at one place, whose labels are shifted; what is changed is broken.

    Args:
        rows: gives the films in place of those.
        p: the p-value in place of the true one.
        labelled: whether labels that aren't stated are none.
        changes: made of `Found`.
        spoils: done to the films.
    """

    def __init__(self, rows=None, p=None, labelled=True, changes=None, spoils=None):
        self.rows, self.p, self.labelled = rows, p, labelled
        self.changes, self.spoils = changes or {}, spoils

    def find(self, films):
        rows = (
            np.flatnonzero(bright(films.cohort.images)) if self.rows is None else self.rows(films)
        )
        if self.spoils is not None:
            self.spoils(films)
        labelled = films.labelled
        if not self.labelled:
            labelled = Labelled(replace(films.cohort, labels=np.nan_to_num(films.cohort.labels)))
        best = labelled.strongest(rows, 1.0)
        if best is not None:
            p = best.p if self.p is None else self.p()
            found = Found(
                p=p, chance=p, films=rows, what="a white pixel", group=labelled.groups[best.group]
            )
            yield replace(found, **self.changes)


def blank(films):
    films.cohort.labels[:] = 0


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (White(p=lambda: 0.001), "of 20 sets with shuffled labels 20 have a p-value of 0.05 or le"),
        (White(p=lambda: np.random.default_rng().random()), "finds something else the second time"),
        (White(labelled=False), r"finds poison .* where the labels of the films that it names ar"),
        (White(changes={"films": np.zeros(0, np.int64)}), "films are no rows from 0 to 299"),
        (White(changes={"films": np.array([3, 300])}), "films are no rows from 0 to 299, int64"),
        (White(changes={"films": [3, 4]}), "films are no rows from 0 to 299, int64 and ascending"),
        (White(changes={"group": None}), "a white pixel: no group, and p is below 1"),
        (
            White(changes={"group": Group(finding="Pox", direction="added", words="")}),
            "the group is",
        ),
        (White(changes={"what": ""}), "what is empty; expected what the films have in common"),
        (White(spoils=blank), "the method changes the films that it is given"),
    ],
)
def test_broken_film_methods(method, words):
    check_film_method(White())
    with pytest.raises(AssertionError, match=words):
        check_film_method(method)


def test_film_methods_that_ten_films_convince_or_nothing_does():
    class Sure:
        def find(self, films):
            if len(films.cohort) == 10:
                yield Found(
                    p=1e-6,
                    chance=1e-6,
                    films=np.arange(5),
                    what="few",
                    group=films.labelled.groups[0],
                )

    with pytest.raises(AssertionError, match=r"finds poison \(p 1e-06\) in 10 films; chance alone"):
        check_film_method(Sure())
    with pytest.raises(AssertionError, match=r"the method finds no poison: p 1; expected 0\.01 or"):
        check_film_method(Sure(), poisoned=phantoms("32", None, Cache(), count=60))
    with pytest.raises(DataError, match="few: p is nan; expected 0 to 1"):
        Found(p=float("nan"), chance=1.0, films=np.arange(5), what="few")


def maps(classifier, images, findings):
    """Maps of the grey levels, times the finding's column."""
    columns = classifier.columns(findings)
    return np.stack([images * np.float32(1 + column) for column in columns], 1).astype(np.float32)


def test_broken_explainers():
    check_explainer(maps)
    for broken, words in {
        lambda c, x, f: maps(c, x, f)[:, :1]: r"returns \(2, 1, 32, 32\) float32; expected \(2, 2,",
        lambda c, x, f: maps(c, x, f) * np.nan: "returns NaN or infinite numbers",
        lambda c, x, f: maps(c, x, c.findings[: len(f)]): "depends on the order of the findings",
        lambda c, x, f: maps(c, x, f) - maps(c, x, f).mean(0): "depends on which others come with",
        lambda c, x, f: maps(c, x, [n if n in c.findings else "Mass" for n in f]): "explains a fin",
    }.items():
        with pytest.raises(AssertionError, match=words):
            check_explainer(broken)


def phantoms(argument, preprocessing, cache, *, count: int = 8):
    """Open phantoms.

    Args:
        count: of them.
    """
    return SOURCES["phantom"](argument, preprocessing, cache, count=count)


def test_broken_sources():
    check_source(phantoms, "32")

    def undescribed(argument, preprocessing, cache, *, count: int = 8): ...

    def few(argument, preprocessing, cache):
        return phantoms(argument, preprocessing, cache, count=2)

    def own_size(argument, preprocessing, cache):
        return phantoms("48", None, cache)

    def greedy(argument, preprocessing, cache):
        return phantoms(argument, preprocessing, dataclasses.replace(cache, choose=None))

    seeds = iter(range(9))

    def others(argument, preprocessing, cache):
        return SOURCES["phantom"](argument, preprocessing, cache, count=8, seed=next(seeds))

    for broken, words in {
        undescribed: "the setting count has no line under Args",
        few: "the source gives 2 films; expected 4 or more to check",
        own_size: "the source gives images of .*size=48.*; expected the requested .*size=32",
        greedy: "the source gives 8 films, but cache.choose requests 3",
        others: "the source differs the second time",
    }.items():
        with pytest.raises(AssertionError, match=words):
            check_source(broken, "32")


def altered(**methods):
    """A small network, some of its methods another's."""

    def make(outputs):
        module = ARCHITECTURES["resnet9"](outputs)
        kind = type("Altered", (type(module),), methods)
        module.__class__ = kind
        return module

    return make


def test_broken_networks():
    generator = torch.Generator().manual_seed(7)

    def lucky(outputs):
        module = ARCHITECTURES["resnet9"](outputs)
        nn.init.normal_(module.head.weight, generator=generator)
        return module

    for make, words in {
        lambda outputs: nn.Linear(2, outputs): "a Linear isn't a Network; name its layers",
        lambda outputs: ARCHITECTURES["resnet9"](outputs + 1): r"gives \(3, 4\) torch.float32; exp",
        lucky: "two networks with the same seed have different weights",
        altered(classify=lambda self, x: self.head(x.mean((2, 3)) + len(x))): "depend on which",
        altered(
            look=lambda self, x: Look(self(x) + 1, x.mean(3)[:, 0], x)
        ): "look and the network give different",
        altered(last_layer="tail"): "last_layer is 'tail', which isn't a submodule",
    }.items():
        with pytest.raises(AssertionError, match=words):
            check_network(make, sides=[32])


def test_every_kind_has_its_check():
    assert set(testing.__all__) == {f"check_{kind}" for kind in KINDS}
