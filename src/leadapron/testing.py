"""Contract checks of every kind of method, for plugin authors too.

Each check runs a method on phantoms or noise, and raises AssertionError with one line that
describes the violation. No test library is needed:

    from leadapron.testing import check_trigger
    check_trigger(Ring())
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Codec, Patch, Trigger
from leadapron.detect.features import FeatureDetector, Features
from leadapron.detect.films import (
    METHODS,
    FilmMethod,
    Films,
    Found,
    MarkMethod,
    Observed,
)
from leadapron.detect.films.observe import limits, observe
from leadapron.detect.films.preparation import Prepared, prepare
from leadapron.detect.inputs import InputDetector, Readings, read
from leadapron.detect.inputs.gate_file import DTYPES
from leadapron.detect.models import Measure
from leadapron.detect.scores import Evidence, Scores
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.explainers import Explainer
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort, ImageArray, subsample
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.architectures import ARCHITECTURES
from leadapron.models.classifier import NetworkClassifier, load_classifier, save_classifier
from leadapron.models.networks import Network, build_network
from leadapron.models.protocols import BlackBox, Capability, Differentiable, Floats
from leadapron.repairs import MOST_FILMS, Optimisation, Repair
from leadapron.seeds import stream
from leadapron.sources import open_source
from leadapron.specs import REQUIRED, build, parameters

__all__ = [
    "check_explainer",
    "check_feature_detector",
    "check_film_method",
    "check_input_detector",
    "check_network",
    "check_repair",
    "check_source",
    "check_statistic",
    "check_trigger",
]

FINDINGS = ("Mass", "Effusion", "Edema")
SIDE = 32
"""Side in pixels of the images that methods are tried on."""


def check_trigger(trigger: Trigger, *, changes: bool = True) -> None:
    """Check a trigger on 8-bit and 16-bit images.

    Args:
        trigger: (n, height, width) images and a generator to marked copies.
        changes: whether it changes every film.

    Raises:
        AssertionError: it changes its input; returns another shape or type; leaves a film
            unchanged; depends on more than images and generator; or a film's mark depends on other
            films.
    """
    _check_settings(type(trigger))
    for kind in (np.uint8, np.uint16):
        rng = np.random.default_rng(0)
        images = rng.integers(1, np.iinfo(kind).max, (6, 40, 48), dtype=kind)
        before = images.copy()

        def marked(films: NDArray[Any], rng: np.random.Generator | None = None) -> NDArray[Any]:
            return trigger(films, np.random.default_rng(3) if rng is None else rng)

        found = marked(images)
        _require(np.array_equal(images, before), "the trigger changes its input images")
        _check_array(found, "the trigger returns", images.shape, images.dtype)
        _require(not np.shares_memory(found, images), "the trigger returns no copy")
        same = [row for row in range(len(images)) if np.array_equal(found[row], images[row])]
        _require(not changes or not same, f"the trigger leaves film {same[:1]} unchanged")
        _require(
            np.array_equal(marked(images), found),
            "the trigger gives different pixels for equal images and an equal generator",
        )
        one_by_one = np.random.default_rng(3)
        alone = np.concatenate([marked(film[None], one_by_one) for film in images])
        _require(
            np.array_equal(alone, found),
            "the trigger marks a film differently when it comes alone: draw random numbers film "
            "by film",
        )


def check_input_detector(
    detector: InputDetector, *, classifier: NetworkClassifier | None = None
) -> None:
    """Check a detector of triggered films on phantoms and a small network.

    A detector that needs only outputs gets a black box.

    Args:
        detector: a frozen dataclass of its parameters.
        classifier: the network, for images of its preprocessing; one with random weights if left
            out.

    Raises:
        AssertionError: parameters that a gate can't store; a state that isn't made of finite
            numbers; scores of another shape or type, or infinite ones; scores that depend on other
            films or on chance; more passes than stated; or changed films.
    """
    _require(
        dataclasses.is_dataclass(type(detector)),
        "the detector isn't a dataclass of its parameters, from which a gate rebuilds it",
    )
    _check_settings(type(detector))
    _check_facts(detector)
    fields: Sequence[dataclasses.Field[Any]] = dataclasses.fields(detector)  # type: ignore[arg-type]
    values = {each.name: getattr(detector, each.name) for each in fields if each.init}
    _require(
        build(type(detector), json.loads(json.dumps(values)), "detector") == detector,
        "the detector that is rebuilt from its parameters differs",
    )
    _require(
        isinstance(detector.passes, int) and detector.passes >= 0,
        f"passes is {detector.passes!r}; expected 0 or more",
    )
    network = classifier or _network()
    model: BlackBox = _Answers(network) if detector.needs == "outputs" else network
    films = _phantoms(network.preprocessing).images[np.arange(36)]
    clean, suspect = read(model, films[:32]), read(model, films[32:])
    with _untouched(clean, suspect), _same_network(network):
        state = detector.fit(model, clean)
        _check_state(state)
        with _passes_of(network) as passed:
            scores = detector.score(model, suspect, state)
        _check_array(scores, "score returns", (len(suspect),), np.dtype(np.float64))
        _require(not np.isinf(scores).any(), "score returns infinite numbers; NaN is not scored")
        _require(
            sum(passed) <= detector.passes * len(suspect),
            f"score takes {sum(passed) / len(suspect):g} passes a film; passes says "
            f"{detector.passes}",
        )
        again = detector.score(model, suspect, detector.fit(model, clean))
        _require(_close(again, scores), "equal films get different scores the second time")
        alone = [
            detector.score(model, suspect.take(np.array([row])), state)
            for row in range(len(suspect))
        ]
        _require(
            _close(np.concatenate(alone), scores),
            "a film's score depends on which others are screened with it",
        )


def check_statistic(statistic: Measure, **settings: Any) -> None:
    """Check a statistic of a model on a small network of three findings.

    Args:
        statistic: its definition.
        **settings: settings of `take`, for speed.

    Raises:
        AssertionError: a setting without a default; numbers of another shape or type, or infinite
            ones; numbers that depend on chance; or a changed network or changed films.
    """
    _check_facts(statistic)
    lacking = [name for name, value in statistic.settings.items() if value is REQUIRED]
    _require(not lacking, f"the statistic's setting {lacking[:1]} has no default")
    network, clean = _network(), _phantoms(Preprocessing(size=SIDE)).take(np.arange(24))
    images = np.array(clean.images)
    with _same_network(network):
        table = statistic.take(network, clean, **settings)
        again = statistic.take(network, clean, **settings)
    k = len(network.findings)
    shape = getattr(table, "shape", None)
    _require(
        shape in ((k, 2), (k, 1), (1, 1)),
        f"the statistic is {shape} for {k} findings; expected ({k}, 2), ({k}, 1) or (1, 1)",
    )
    _check_array(table, "the statistic is", table.shape, np.dtype(np.float64))
    _require(not np.isinf(table).any(), "the statistic is infinite; use NaN for undefined values")
    _require(_close(again, table), "the statistic differs the second time")
    _require(np.array_equal(np.array(clean.images), images), "the statistic changes the films")


def check_feature_detector(make: Callable[..., FeatureDetector]) -> None:
    """Check a detector that ranks films by a network's features, on features of noise.

    Args:
        make: its class; without arguments it has its defaults.

    Raises:
        AssertionError: scores of another shape or type, or infinite ones; evidence without films or
            with an invalid one; scores that depend on chance; or changed features or labels.
    """
    _check_settings(make)
    cohort, features = _features()
    kept = [np.array(each) for each in _arrays(features)], cohort.labels.copy()
    scores, again = (make().score(cohort, features) for _ in range(2))
    _require(isinstance(scores, Scores), f"score returns {type(scores).__name__}; expected Scores")
    _check_array(scores.values, "values is", (len(cohort),), np.dtype(np.float64))
    _require(not np.isinf(scores.values).any(), "values has infinite numbers; NaN is not scored")
    _require(bool(scores.unit), "unit is empty; expected the unit of the scores")
    for each in scores.evidence:
        good = isinstance(each, Evidence) and len(each.films) > 0
        _require(
            good and each.films.min() >= 0 and each.films.max() < len(cohort),
            "evidence names no film, or an invalid one",
        )
    _require(_close(again.values, scores.values), "values differ the second time")
    same = all(map(partial(np.array_equal, equal_nan=True), _arrays(features), kept[0]))
    _require(same, "the detector changes the features")
    _require(
        np.array_equal(cohort.labels, kept[1], equal_nan=True), "the detector changes the labels"
    )


def check_film_method(method: FilmMethod, *, poisoned: Cohort | None = None) -> None:
    """Check a method of the scan on poisoned films, and on the same with other labels.

    Args:
        method: as it stands in `METHODS`.
        poisoned: films in which it must find poison at p 0.01; phantoms with marks, in which it
            need not, if left out. About 300 small ones are quick.

    Raises:
        AssertionError: p-values that are smaller than chance makes them where labels are shuffled;
            evidence of films whose labels aren't stated, or of ten films; evidence that names no
            film, one that isn't there, or a label that wasn't tested; answers that depend on
            chance; films that it changes; or poison that it doesn't find.
    """
    sample = _marked_films() if poisoned is None else _sample(poisoned)
    prepared = _prepared(sample, method, 0)
    films = _for(prepared, method)
    before = _looked_at(films)
    found, again = (list(method.find(films)) for _ in range(2))
    if _looked_at(films) != before:
        _marked_films.cache_clear()
        raise AssertionError("the method changes the films that it is given")
    for each in found:
        _check_found(each, films)
    same = len(found) == len(again) and all(map(_alike, found, again))
    _require(same, "the method finds something else the second time")
    best = min(found, key=lambda each: each.p, default=None)
    if poisoned is not None:
        p = 1.0 if best is None else best.p
        _require(p <= EVIDENT, f"the method finds no poison: p {p:.2g}; expected {EVIDENT} or less")
    _check_chance(method, sample)
    named = np.zeros(len(sample.cohort), dtype=np.bool_)
    for each in found:
        named[each.films] |= each.p <= EVIDENT
    _check_not_stated(method, sample, named)
    _check_few(method, sample, named)


def _check_chance(method: FilmMethod, sample: _Sample) -> None:
    """Labels that chance gave are evidence as rarely as the p-values say."""
    from scipy import stats

    smallest = []
    for number in range(SHUFFLED):
        films = _for(_prepared(sample, method, number + 1), method)
        smallest.append(min((each.p for each in method.find(films)), default=1.0))
    for level in (0.05, 0.2, 0.5):
        alarms = int((np.array(smallest) <= level).sum())
        most = int(stats.binom.isf(1e-3, SHUFFLED, level))
        _require(
            alarms <= most,
            f"of {SHUFFLED} sets with shuffled labels {alarms} have a p-value of {level} or less; "
            f"expected {most} at most: correct p for all that the method tries",
        )


def _check_not_stated(method: FilmMethod, sample: _Sample, named: NDArray[np.bool_]) -> None:
    """Labels that aren't stated are neither findings nor their absence."""
    labels = np.where(stream(0, "stated").random(len(named)) < 0.5, 1, 0).astype(np.float32)
    marked = named if named.any() else sample.marked
    for part, unknown in (("the films that it names", marked), ("all films", np.ones_like(named))):
        column = np.where(unknown, np.nan, labels).astype(np.float32)[:, None]
        cohort = dataclasses.replace(
            sample.cohort, labels=column, findings=sample.cohort.findings[:1]
        )
        films = _for(_ready(cohort, sample.seen, method), method)
        p = min((each.p for each in method.find(films)), default=1.0)
        _require(
            p > EVIDENT,
            f"the method finds poison (p {p:.2g}) where the labels of {part} aren't stated; NaN is "
            "no label",
        )


def _check_few(method: FilmMethod, sample: _Sample, named: NDArray[np.bool_]) -> None:
    """No test of ten films gives a smaller p-value than their number allows."""
    marked = named if named.any() else sample.marked
    sides = [np.flatnonzero(marked == side)[: FEW // 2] for side in (True, False)]
    rows = np.sort(np.concatenate(sides))
    labels = marked[rows].astype(np.float32)[:, None]
    cohort = dataclasses.replace(
        sample.cohort.take(rows), labels=labels, findings=sample.cohort.findings[:1]
    )
    films = _for(_ready(cohort, sample.seen.take(rows), method), method)
    p = min((each.p for each in method.find(films)), default=1.0)
    least = 1 / math.comb(len(rows), len(rows) // 2)
    _require(
        p >= least,
        f"the method finds poison (p {p:.2g}) in {len(rows)} films; chance alone gives {least:.2g}",
    )


def _check_found(each: Found, films: Films) -> None:
    _require(isinstance(each, Found), f"find gives {type(each).__name__}; expected Found")
    _require(bool(each.what), "what is empty; expected what the films have in common")
    _require(
        each.group is None or each.group in films.labelled.groups,
        f"{each.what}: the group isn't of films.labelled.groups",
    )
    evidence = min(each.p, each.chance) < 1
    _require(not evidence or each.group is not None, f"{each.what}: no group, and p is below 1")
    rows, n = each.films, len(films.cohort)
    good = isinstance(rows, np.ndarray) and rows.dtype == np.int64 and rows.ndim == 1
    _require(
        good
        and (len(rows) > 0 or not evidence)
        and bool((np.diff(rows) > 0).all())
        and bool(((rows >= 0) & (rows < n)).all()),
        f"{each.what}: films are no rows from 0 to {n - 1}, int64 and ascending",
    )


def _alike(one: Found, other: Found) -> bool:
    return (one.p, one.chance, one.group, one.what) == (
        other.p,
        other.chance,
        other.group,
        other.what,
    ) and np.array_equal(one.films, other.films)


def check_explainer(
    explainer: Explainer, *, classifier: NetworkClassifier | None = None, by_itself: bool = True
) -> None:
    """Check an explainer on phantoms and a small network.

    Args:
        explainer: (classifier, (n, h, w) images, k findings) to (n, k, h, w) maps.
        classifier: the network, for images of its preprocessing; one with random weights if left
            out.
        by_itself: whether a film's map is independent of other films, unlike with a comparison to
            their mean.

    Raises:
        AssertionError: maps of another shape or type, or infinite ones; maps that don't follow the
            findings' names; maps that depend on chance or on other films; or changed images or a
            changed network.
    """
    network = classifier or _network()
    images = _phantoms(network.preprocessing).images[np.arange(2)]
    before, (first, *_, last) = images.copy(), network.findings
    with _same_network(network):
        maps = explainer(network, images, [first, last])
        shape = (len(images), 2, *images.shape[1:])
        _check_array(maps, "the explainer returns", shape, np.dtype(np.float32))
        _require(bool(np.isfinite(maps).all()), "the explainer returns NaN or infinite numbers")
        some = 1 if by_itself else len(images)
        other = explainer(network, images[:some], [last, first])[:, ::-1]
        if not _close(other, maps[:some]):
            swapped = explainer(network, images, [last, first])[:, ::-1]
            _require(_close(swapped, maps), "a finding's map depends on the order of the findings")
            raise AssertionError("a film's map depends on which others come with it")
        try:
            explainer(network, images, ["no such finding"])
        except UnknownNameError:
            pass
        else:
            raise AssertionError("the explainer explains a finding that the model doesn't have")
    _require(np.array_equal(images, before), "the explainer changes the images")


def check_source(opener: Callable[..., Cohort], argument: str = "", **settings: Any) -> None:
    """Check a source of films.

    Args:
        opener: (argument, preprocessing, cache, *, settings) to a cohort.
        argument: the text after the first colon: your own file or folder with 4 films or more.
        **settings: by keyword.

    Raises:
        AssertionError: a setting that can't come from the command line; images of another
            preprocessing than requested; a different cohort the second time; or more films than
            requested.
    """
    _check_settings(opener)
    small, cache = Preprocessing(size=SIDE), Cache()
    whole = opener(argument, small, cache, **settings)
    _require(isinstance(whole, Cohort), f"the source gives {type(whole).__name__}; expected Cohort")
    _require(len(whole) >= 4, f"the source gives {len(whole)} films; expected 4 or more to check")
    _require(
        whole.preprocessing == small and tuple(whole.images.shape[1:]) == (SIDE, SIDE),
        f"the source gives images of {whole.preprocessing}; expected the requested {small}",
    )
    again = opener(argument, small, cache, **settings)
    _require(again.fingerprint == whole.fingerprint, "the source differs the second time")
    own = opener(argument, None, cache, **settings)
    _require(
        list(own.ids) == list(whole.ids),
        "the source's films depend on preprocessing",
    )
    wanted = dataclasses.replace(cache, choose=partial(subsample, most=3))
    few = opener(argument, small, wanted, **settings)
    _require(
        few.fingerprint == whole.take(subsample(len(whole), 3)).fingerprint,
        f"the source gives {len(few)} films, but cache.choose requests 3",
    )


def check_network(make: Callable[[int], Network], *, sides: Sequence[int] = (32, 64)) -> None:
    """Check a network.

    Args:
        make: from a number of findings to a network with new weights.
        sides: sides in pixels of the images that it must accept.

    Raises:
        AssertionError: not a `networks.Network`; logits of another shape or type; weights that
            don't follow the seed or can't be loaded; a film's logits that depend on other films; or
            layers that can't be read.
    """
    network, again = _made(make), _made(make)
    _require(
        isinstance(network, Network),
        f"a {type(network).__name__} isn't a Network; name its layers: Instrumented(network, "
        "layer=)",
    )
    state = network.state_dict()
    _require(
        all(torch.equal(value, state[name]) for name, value in again.state_dict().items()),
        "two networks with the same seed have different weights",
    )
    other = make(len(FINDINGS)).eval()
    other.load_state_dict(state)
    for side in sides:
        images = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            logits, look, alone = network(images), network.look(images), network(images[:1])
            loaded = other(images)
        _check_tensor(logits, "the network gives", (3, len(FINDINGS)))
        _check_tensor(look.logits, "look gives logits", (3, len(FINDINGS)))
        _require(torch.equal(loaded, logits), "loaded weights give different logits")
        _require(
            torch.allclose(alone, logits[:1], rtol=1e-3, atol=1e-4),
            "a film's logits depend on which others come with it",
        )
        _require(
            torch.allclose(look.logits, logits, rtol=1e-3, atol=1e-4),
            "look and the network give different logits",
        )
        _require(look.features.ndim == 2 and len(look.features) == 3, "features aren't (n, d)")
        _require(look.last.ndim == 4 and len(look.last) == 3, "the last map isn't (n, c, h, w)")
        for layer in (network.map_layer, network.fine_layer(side)):
            leaf, made = network.cut(images, layer)
            (slopes,) = torch.autograd.grad(made.sum(), leaf)
            _require(bool(slopes.any()), f"the logits don't depend on the layer {layer}")
    _require(
        network.last_layer in dict(network.named_modules()),
        f"last_layer is {network.last_layer!r}, which isn't a submodule",
    )


def check_repair(
    repair: Repair, *, classifier: NetworkClassifier | None = None, clean: Cohort | None = None
) -> None:
    """Check a repair on a small network and few films.

    Args:
        repair: a frozen dataclass of its parameters. It may use at most `optimisation.most_films`
            film trainings, or 36,000 without that setting.
        classifier: the network, for films of its preprocessing; one with random weights if left
            out.
        clean: films with its findings, of which the last is never stated; phantoms with random
            labels if left out.

    Raises:
        AssertionError: it changes the model, the films, or the global generators of torch, numpy or
            Python; returns another kind of model or other findings; returns a model that shares
            memory with the input, is in training mode, has logits that aren't finite, or changes
            when saved and read again; depends on more than model, films and generator; uses too
            many film trainings; treats a label that isn't stated as absent; or works on a model
            that lacks a needed capability.
    """
    _require(dataclasses.is_dataclass(type(repair)), "the repair isn't a dataclass")
    _check_settings(type(repair))
    known = get_args(Capability)
    _require(repair.needs in known, f"needs is {repair.needs!r}; expected one of {known}")
    model = classifier or _network("plain4")
    films = clean or _films_to_learn(model)
    labels, pixels = films.labels.copy(), np.array(films.images)

    def repaired(stated: float | None = None) -> NetworkClassifier:
        """The repaired model, with one label for all films' last finding, or none."""
        given = films
        if stated is not None:
            given = dataclasses.replace(films, labels=labels.copy())
            given.labels[:, -1] = stated
        return repair.repair(model, given, np.random.default_rng(5))

    learning = {name: value.requires_grad for name, value in model.module.named_parameters()}
    with _same_network(model), _same_chance(), _passes_of(model, learnt=True) as passed:
        after = repaired()
    _require(
        {name: value.requires_grad for name, value in model.module.named_parameters()} == learning,
        "the repair changes which of the model's weights need gradients",
    )
    _require(
        np.array_equal(np.array(films.images), pixels)
        and np.array_equal(films.labels, labels, equal_nan=True),
        "the repair changes the films",
    )
    settings = getattr(repair, "optimisation", None)
    most = settings.most_films if isinstance(settings, Optimisation) else MOST_FILMS
    _require(
        sum(passed) <= most, f"the repair takes {sum(passed):,} film trainings; at most {most:,}"
    )
    _check_repaired(after, model, films)
    logits = after.logits(films.images)
    again = repaired()
    _require(
        np.array_equal(again.logits(films.images), logits),
        "the repair with an equal generator differs the second time",
    )
    absent = repaired(0.0).logits(films.images)
    _require(
        not np.array_equal(absent, logits)
        or np.array_equal(repaired(1.0).logits(films.images), logits),
        "the repair treats a label that isn't stated as absent",
    )
    if repair.needs != "outputs":
        try:
            repair.repair(_Answers(model), films, np.random.default_rng(5))
        except UsageError:
            pass
        else:
            raise AssertionError(f"the repair works on outputs only, but needs {repair.needs}")


def _check_repaired(after: Any, model: NetworkClassifier, films: Cohort) -> None:
    """Check that the repaired model can replace the original."""
    _require(
        isinstance(after, NetworkClassifier),
        f"the repair returns {type(after).__name__}; expected NetworkClassifier",
    )
    for name in ("findings", "preprocessing", "head", "mean", "std", "precision"):
        there, here = getattr(after, name), getattr(model, name)
        _require(there == here, f"the repaired model's {name} is {there}; expected {here}")
    _require(
        not any(part.training for part in after.module.modules()),
        "the repair leaves the model in training mode",
    )
    numbers = {value.data_ptr() for value in model.module.state_dict().values()}
    shared = [n for n, value in after.module.state_dict().items() if value.data_ptr() in numbers]
    _require(not shared, f"the repaired model shares {shared[:1]} with the original model")
    logits = after.logits(films.images)
    _require(bool(np.isfinite(logits).all()), "the repaired model's logits aren't finite")
    if model.architecture not in ARCHITECTURES:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "written.safetensors"
        save_classifier(after, path)
        try:
            read = load_classifier(path, device=model.device.type, precision=model.precision)
        except StoreError as error:
            raise AssertionError(
                f"the repaired model can't be read from its file: {error}"
            ) from error
    _require(
        _close(read.logits(films.images), logits),
        "the repaired model changes when it is saved and read again",
    )


# --- test inputs


@lru_cache(maxsize=4)
def _phantoms(preprocessing: Preprocessing) -> Cohort:
    source = f"phantom:{preprocessing.size}"
    return open_source(source, count=40, preprocessing=preprocessing, cache="none")


def _films_to_learn(model: NetworkClassifier) -> Cohort:
    """Phantoms, two of a patient, with random labels; one in five, and a finding, isn't stated."""
    rng = np.random.default_rng(0)
    films = _phantoms(model.preprocessing)
    labels = rng.integers(0, 2, (len(films), len(model.findings))).astype(np.float32)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    labels[:, -1] = np.nan
    patients = np.char.mod("patient %d", np.arange(len(films)) // 2)
    # Other checks look at the same phantoms: a repair gets a copy, which it may change by mistake.
    images = films.images[np.arange(len(films))]
    return dataclasses.replace(
        films, images=images, labels=labels, findings=model.findings, patients=patients
    )


EVIDENT = 0.01
"""A p-value up to which films are evidence of poison."""

SHUFFLED = 20
"""Sets with shuffled labels that a method of the scan is tried on."""

FEW = 10
"""Films that show nothing, however they are labelled."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Sample:
    """Films that methods of the scan are tried on.

    Args:
        cohort: some of them marked, and labelled for it.
        seen: what was seen of them.
        marked: (n,) which are.
        shuffled: the cohort ready for `METHODS`, with its own labels and with shuffled ones.
    """

    cohort: Cohort
    seen: Observed
    marked: NDArray[np.bool_]
    shuffled: dict[tuple[tuple[str, ...], int], Prepared] = dataclasses.field(default_factory=dict)


def _sample(cohort: Cohort, marked: NDArray[np.bool_] | None = None) -> _Sample:
    seen = observe(cohort.images, limits(cohort.images, stream(0, "limits")))
    return _Sample(cohort, seen, np.arange(len(cohort)) < 20 if marked is None else marked)


@lru_cache(maxsize=1)
def _marked_films() -> _Sample:
    """Phantoms with marks at a place and anywhere, textures, and a codec's traces."""
    whole = open_source(f"phantom:{SIDE}", count=300, cache="none")
    clean = dataclasses.replace(whole, labels=whole.labels[:, : len(FINDINGS)], findings=FINDINGS)
    marks: dict[Trigger, float] = {
        Patch(side=3, place="fixed", row=4, column=20): 0.06,
        Patch(side=2, value=0): 0.06,
        Patch(side=5, fill="noise"): 0.06,
        Codec(quality=15): 0.1,
    }
    attacks = [
        Poisoning(trigger=trigger, finding=FINDINGS[0], fraction=fraction)
        for trigger, fraction in marks.items()
    ]
    cohort, key = poison(clean, attacks, stream(0, "poison"))
    marked = np.zeros(len(cohort), dtype=np.bool_)
    marked[key.rows] = True
    return _sample(cohort, marked)


def _ready(cohort: Cohort, seen: Observed, method: FilmMethod) -> Prepared:
    """Films, ready for a method beside those of `METHODS`."""
    known = any(each is method for each in METHODS.values())
    return prepare(
        cohort,
        seen,
        dict(METHODS) if known else {**METHODS, OWN: method},
        false_alarm=EVIDENT,
        seed=0,
    )


def _prepared(sample: _Sample, method: FilmMethod, number: int) -> Prepared:
    """The films with their own labels, number 0, or with shuffled ones."""
    shared = not isinstance(method, MarkMethod) or any(each is method for each in METHODS.values())
    key = (tuple(METHODS), number)
    if shared and key in sample.shuffled:
        return sample.shuffled[key]
    cohort = sample.cohort
    if number:
        order = stream(number, "shuffled").permutation(len(cohort))
        cohort = dataclasses.replace(cohort, labels=cohort.labels[order])
    ready = _ready(cohort, sample.seen, method)
    if shared:
        sample.shuffled[key] = ready
    return ready


OWN = "the method"


def _for(prepared: Prepared, method: FilmMethod) -> Films:
    return prepared.of(next((name for name, one in METHODS.items() if one is method), OWN))


def _looked_at(films: Films) -> list[bytes]:
    """All that a method is given."""
    cohort, seen, labelled = films.cohort, films.seen, films.labelled
    return [
        np.ascontiguousarray(each).tobytes()
        for each in (
            cohort.images[np.arange(len(cohort))], cohort.labels, cohort.patients,
            seen.blobs, seen.textures, seen.outliers, seen.starts, seen.afar,
            *seen.traces.values(), labelled.members, labelled.stated, labelled.patients,
        )
    ]  # fmt: skip


def _network(name: str = "resnet9") -> NetworkClassifier:
    return NetworkClassifier(
        module=build_network(name, len(FINDINGS), 0).eval(),
        architecture=name,
        findings=FINDINGS,
        preprocessing=Preprocessing(size=SIDE),
    )


def _made(make: Callable[[int], Network]) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(len(FINDINGS)).eval()


class _Answers:
    """A black-box model."""

    def __init__(self, network: NetworkClassifier) -> None:
        self.findings, self.preprocessing = network.findings, network.preprocessing
        self.head = network.head
        self._network = network

    def logits(self, images: ImageArray) -> Floats:
        return self._network.logits(images)

    def probabilities(self, images: ImageArray) -> Floats:
        return self._network.probabilities(images)


def _features() -> tuple[Cohort, Features]:
    """Features of 400 films, shifted by their findings."""
    rng = np.random.default_rng(0)
    n, k, d = 400, len(FINDINGS), 12
    labels = (rng.random((n, k)) < 0.3).astype(np.float32)
    values = rng.normal(size=(n, d)) + labels @ rng.normal(size=(k, d))
    labels[rng.random((n, k)) < 0.05] = np.nan
    names = np.char.mod("%d", np.arange(n))
    losses = rng.gamma(2, size=(3, n, k))
    losses[:, np.isnan(labels)] = np.nan
    cohort = Cohort(
        np.zeros((n, 8, 8), np.uint8), labels, FINDINGS, names, names, Preprocessing(size=8)
    )
    maps = rng.random((n, 6, 4))
    return cohort, Features(*(each.astype(np.float32) for each in (values, maps, losses)))


# --- requirements


def _require(kept: bool, words: str) -> None:
    if not kept:
        raise AssertionError(words)


def _check_settings(target: Callable[..., Any]) -> None:
    """Settings must be keywords with names and descriptions for the command line."""
    for name, parameter in parameters(target).items():
        _require(
            bool(parameter.description), f"the setting {name} has no line under Args: for --help"
        )
    frozen = getattr(getattr(target, "__dataclass_params__", None), "frozen", True)
    _require(frozen, f"{getattr(target, '__name__', target)} isn't a frozen dataclass")


def _check_facts(method: InputDetector | Measure) -> None:
    _require(
        isinstance(method.unit, str) and bool(method.unit),
        f"unit is {method.unit!r}; expected the unit of the numbers",
    )
    known = get_args(Capability)
    _require(method.needs in known, f"needs is {method.needs!r}; expected one of {known}")


def _check_array(found: Any, words: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    given = f"{getattr(found, 'shape', type(found).__name__)} {getattr(found, 'dtype', '')}".strip()
    good = isinstance(found, np.ndarray) and found.shape == shape and found.dtype == kind
    _require(good, f"{words} {given}; expected {shape} {kind}")


def _check_tensor(found: torch.Tensor, words: str, shape: tuple[int, ...]) -> None:
    given = f"{tuple(found.shape)} {found.dtype}"
    good = tuple(found.shape) == shape and found.dtype == torch.float32
    _require(good, f"{words} {given}; expected {shape} torch.float32")


def _check_state(state: Any) -> None:
    _require(isinstance(state, Mapping), f"fit returns {type(state).__name__}; expected a mapping")
    for name, value in state.items():
        array = np.asarray(value)
        _require(
            str(array.dtype) in DTYPES and bool(np.isfinite(array).all()),
            f"fit returns {name} of {array.dtype}; expected finite numbers of {', '.join(DTYPES)}",
        )


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Equal up to the last digits, which depend on the batch size."""
    scale = float(np.nanmax(np.abs(other), initial=0.0)) if np.isfinite(other).any() else 0.0
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-4 * scale, equal_nan=True))


def _arrays(record: Features | Readings) -> list[NDArray[Any]]:
    values = (getattr(record, each.name) for each in dataclasses.fields(record))
    return [value for value in values if value is not None]


@contextmanager
def _untouched(*readings: Readings) -> Any:
    before = [array.copy() for each in readings for array in _arrays(each)]
    yield
    after = [array for each in readings for array in _arrays(each)]
    _require(all(map(np.array_equal, before, after)), "the detector changes the films' readings")


@contextmanager
def _same_network(classifier: Differentiable) -> Any:
    module = classifier.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    yield
    after = module.state_dict()
    same = all(torch.equal(value, after[name]) for name, value in before.items())
    _require(same, "the method changes the network's weights")
    _require(not module.training, "the method leaves the network in training mode")


@contextmanager
def _same_chance() -> Any:
    def states() -> tuple[Any, ...]:
        numpy = pickle.dumps(np.random.get_state())  # noqa: NPY002 (looked at, not used)
        return torch.random.get_rng_state().tolist(), random.getstate(), numpy

    before = states()
    yield
    _require(states() == before, "the method draws from torch's, numpy's or Python's own generator")


def _passes_of(
    classifier: NetworkClassifier, *, learnt: bool = False
) -> AbstractContextManager[list[int]]:
    """Number of films that reach the network's last layer, per call.

    Args:
        classifier: its network; copies that are made meanwhile count too.
        learnt: whether to count only films with gradients.
    """
    passed: list[int] = []
    last: nn.Module = classifier.module.get_submodule(classifier.module.last_layer)

    def count(_: nn.Module, args: Any, out: torch.Tensor) -> None:
        if out.requires_grad or not learnt:
            passed.append(len(args[0]))

    @contextmanager
    def counting() -> Any:
        hook = last.register_forward_hook(count)
        try:
            yield passed
        finally:
            hook.remove()

    return counting()
