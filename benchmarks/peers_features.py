"""Spectral signatures and activation clustering beside ART's two, on the same features.

`make bench-peers` runs it in .venv-peers, which has both. Two fresh processes a line take turns.
Before a line is timed, a third process does both sides' work and compares the results.

    python benchmarks/peers_features.py                       printed only
    python benchmarks/peers_features.py --repeats 3 1,024     fewer, the lines so named
    python benchmarks/peers_features.py --out docs/results/peers-features.md
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from peers import leave, machine, ratios
from speed import Worker, cell

SEED = 0
FINDINGS = 14
COMPONENTS = 10
FLAGGED = 0.05


class Setting(NamedTuple):
    what: str
    films: int
    features: int


SETTINGS = [
    Setting("10,000 films, 1,024 features (DenseNet-121)", 10_000, 1024),
    Setting("10,000 films, 128 features (ResNet-9)", 10_000, 128),
    Setting("2,000 films, 1,024 features (DenseNet-121)", 2_000, 1024),
]


# --- what both sides get


@functools.cache
def labels(films: int) -> NDArray[np.float32]:
    """Findings as rare as those of NIH's films, independent of one another."""
    rng = np.random.default_rng(SEED)
    return (rng.random((films, FINDINGS)) < np.geomspace(0.18, 0.02, FINDINGS)).astype(np.float32)


@functools.cache
def features(films: int, count: int) -> NDArray[np.float32]:
    """As behind a ReLU: 0 or more, a few strong directions, 5 % of the first group poisoned."""
    rng = np.random.default_rng(SEED)
    strong = rng.standard_normal((films, 20)) * np.geomspace(4, 1, 20)
    values = strong @ rng.standard_normal((20, count)) / 4 + rng.standard_normal((films, count))
    first = np.flatnonzero(labels(films)[:, 0])
    values[first[: len(first) // 20], : count // 8] += 6
    return np.maximum(values, 0).astype(np.float32)


@functools.cache
def matrices(films: int, count: int) -> list[NDArray[np.float32]]:
    """The features of the films with each finding, and of those without any."""
    stated = labels(films) == 1
    members = [*stated.T, ~stated.any(axis=1)]
    return [features(films, count)[rows] for rows in members]


@functools.cache
def cohort(films: int) -> Any:
    from leadapron.films.cohort import Cohort
    from leadapron.films.preprocessing import Preprocessing

    names = np.char.mod("%d", np.arange(films))
    findings = tuple(f"finding {i}" for i in range(FINDINGS))
    images = np.zeros((films, 8, 8), np.uint8)
    return Cohort(images, labels(films), findings, names, names, Preprocessing(size=8))


# --- the contests: each returns what it found in each group


def spectral_ours(films: int, count: int) -> list[NDArray[Any]]:
    from leadapron.detect.features.spectral import spectral_scores

    return [spectral_scores(m - m.mean(axis=0)) for m in matrices(films, count)]


def spectral_art(films: int, count: int) -> list[NDArray[Any]]:
    from art.defences.detector.poison import SpectralSignatureDefense

    score = SpectralSignatureDefense.spectral_signature_scores
    return [score(m).ravel() for m in matrices(films, count)]


def clusters_ours(films: int, count: int) -> list[NDArray[Any]]:
    from leadapron.detect.features.clusters import divide_in_two

    rng = np.random.default_rng(SEED)
    return [
        divide_in_two(m - m.mean(axis=0), COMPONENTS, rng, whiten=False).smaller
        for m in matrices(films, count)
    ]


def clusters_art(films: int, count: int) -> list[NDArray[Any]]:
    from art.defences.detector.poison.activation_defence import cluster_activations

    found, _ = cluster_activations(
        matrices(films, count),
        nb_clusters=2,
        nb_dims=COMPONENTS,
        reduce="PCA",
        clustering_method="KMeans",
    )
    return [np.asarray(part).astype(bool) for part in found]


def both_ours(films: int, count: int) -> list[NDArray[Any]]:
    return [*spectral_ours(films, count), *clusters_ours(films, count)]


def both_art(films: int, count: int) -> list[NDArray[Any]]:
    return [*spectral_art(films, count), *clusters_art(films, count)]


def detectors_ours(films: int, count: int) -> list[NDArray[Any]]:
    """The whole of both detectors: groups, other findings taken out, silhouettes, evidence."""
    from leadapron.detect.features import ActivationClustering, Features, SpectralSignatures

    given = Features(features(films, count))
    detectors = (SpectralSignatures(), ActivationClustering())
    return [detector.score(cohort(films), given).values for detector in detectors]


class Contest(NamedTuple):
    what: str
    ours: Callable[[int, int], list[NDArray[Any]]]
    art: Callable[[int, int], list[NDArray[Any]]]


CONTESTS = [
    Contest("spectral", spectral_ours, spectral_art),
    Contest("clustering", clusters_ours, clusters_art),
    Contest("both", both_ours, both_art),
    Contest("both detectors whole / both", detectors_ours, both_art),
]


class Took(NamedTuple):
    elapsed: float
    worked: float


class Line(NamedTuple):
    contest: Contest
    setting: Setting
    ours: list[Took]
    art: list[Took]
    same: str


def seconds(do: Callable[[int, int], Any], films: int, count: int) -> Took:
    began, started = time.perf_counter(), time.process_time()
    do(films, count)
    return Took(time.perf_counter() - began, time.process_time() - started)


def prepare(films: int, count: int) -> None:
    """Imports and inputs aren't timed."""
    matrices(films, count), cohort(films)


def same(contest: Contest, films: int, count: int) -> str:
    """How far the results agree: films that both name, of those that either side names."""
    if contest.ours is detectors_ours:
        return "not comparable"
    both = named = 0
    mine, theirs = contest.ours(films, count), contest.art(films, count)
    for ours, art in zip(mine, theirs, strict=True):
        if ours.dtype == np.bool_:
            # Which of two equal halves is the smaller is chance.
            agree = max(np.mean(ours == art), np.mean(ours != art))
            both, named = both + round(agree * len(ours)), named + len(ours)
        else:
            top = max(1, int(FLAGGED * len(ours)))
            ranked = (set(np.argsort(-s, kind="stable")[:top].tolist()) for s in (ours, art))
            first, second = ranked
            both, named = both + len(first & second), named + top
    return f"{100 * both / named:.1f} %"


def hold(contest: Contest, setting: Setting, repeats: int) -> Line:
    given = setting.films, setting.features
    judge = Worker(False, "")
    agreed = judge(same, contest, *given)
    leave(judge)
    sides = [(Worker(False, ""), do) for do in (contest.ours, contest.art)]
    for worker, do in sides:
        worker(prepare, *given)
        worker(seconds, do, *given)  # warms up
    times: tuple[list[Took], list[Took]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            worker, do = sides[side]
            times[side].append(worker(seconds, do, *given))
    for worker, _ in sides:
        leave(worker)
    line = Line(contest, setting, *times, agreed)
    print(row(line), flush=True)
    return line


# --- the page

HEAD = """| ours / ART's | features | ours, s | ART, s | times faster | times less work | same |
|-|-|-|-|-|-|-|"""

INTRO = """# Features beside ART

`make bench-peers` writes this page: spectral signatures and activation clustering of leadapron and
of ART (Adversarial Robustness Toolbox), on the same float32 features of {groups} overlapping
groups: the films with each of {findings} findings, and those without any. Features are drawn at
random, as strong in a few directions as a network's; the pass of the network is not part of it.
Median and range of {repeats} repeats; two fresh processes a line take turns, each with one thread.
*Times faster* is the median and range of the pairs' ratios, above 1 where ours is faster; *times
less work* the same of the processor's seconds.

- *spectral*: ours is `spectral_scores` of the centred features, from the top eigenvector of a d x d
  or m x m product; ART's `spectral_signature_scores`, a full singular value decomposition. ART
  projects the features uncentred. *Same*: of the top 5 % of each group, the share that both name.
- *clustering*: ours is `divide_in_two`, 8 starts and silhouettes included; ART's
  `cluster_activations` by scikit-learn's PCA and k-means, one start, no silhouettes. *Same*: films
  that both put on the same side; clean groups halve in many ways that are equally good.
- *both detectors whole*: `SpectralSignatures` and `ActivationClustering` from cohort to scores,
  with the effects of other findings taken out, beside ART's two functions alone.
"""


def row(line: Line) -> str:
    turns = list(zip(line.ours, line.art, strict=True))
    cells = [
        line.contest.what,
        line.setting.what,
        cell([took.elapsed for took in line.ours]),
        cell([took.elapsed for took in line.art]),
        ratios([art.elapsed / ours.elapsed for ours, art in turns]),
        ratios([art.worked / ours.worked for ours, art in turns]),
        line.same,
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="lines whose name has one of these; all if none")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="markdown file to write the page to")
    given = parser.parse_args()
    # Before the workers load numpy: a thread each, since they share the machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    chosen = [
        (contest, setting)
        for setting in SETTINGS
        for contest in CONTESTS
        if not given.parts or any(p in f"{contest.what}, {setting.what}" for p in given.parts)
    ]
    about = machine()
    print(f"{about}\n{HEAD}", flush=True)
    lines = [hold(contest, setting, given.repeats) for contest, setting in chosen]
    if given.out:
        intro = INTRO.format(groups=FINDINGS + 1, findings=FINDINGS, repeats=given.repeats)
        table = "\n".join([HEAD, *map(row, lines)])
        given.out.write_text(f"{intro}\n{about}.\n\n{table}\n")


if __name__ == "__main__":
    main()
