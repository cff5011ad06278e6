"""STRIP beside ART's, on the same network, films and number of overlays: films per second.

`make bench-peers` runs it in .venv-peers, which has both. Two fresh processes a line take turns.

    python benchmarks/peers_strip.py                        printed only
    python benchmarks/peers_strip.py --repeats 3 resnet9    fewer, the lines so named
    python benchmarks/peers_strip.py --out docs/results/peers-strip.md
"""

from __future__ import annotations

import argparse
import copy
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

SIZE, FINDINGS = 64, 14
OVERLAYS = 20
CLEAN = 40
SEED = 0


class Setting(NamedTuple):
    network: str
    films: int


SETTINGS = [Setting("resnet9", 64), Setting("densenet121", 16)]


@functools.cache
def films(count: int) -> NDArray[np.uint8]:
    from leadapron.sources import open_source

    images = open_source(f"phantom:{SIZE}", count=count, seed=SEED).images
    return np.asarray(images[np.arange(count)])


@functools.cache
def classifier(network: str) -> Any:
    """Weights that were never trained: time doesn't depend on them."""
    import torch

    from leadapron.films.preprocessing import Preprocessing
    from leadapron.models.classifier import NetworkClassifier, prepare
    from leadapron.models.networks import build_network

    torch.set_num_threads(1)
    module = prepare(build_network(network, FINDINGS, SEED).eval(), torch.device("cpu"))
    names = tuple(f"finding {i}" for i in range(FINDINGS))
    return NetworkClassifier(module, network, names, Preprocessing(size=SIZE))


@functools.cache
def ours(network: str) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    from leadapron.detect.inputs import Strip, read

    detector = Strip(overlays=OVERLAYS, weight=0.5)
    state = detector.fit(classifier(network), read(classifier(network), films(CLEAN)))
    return lambda images: detector.score(
        classifier(network), read(classifier(network), images), state
    )


@functools.cache
def art(network: str) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    import torch
    from art.defences.transformer.poisoning import STRIP
    from art.estimators.classification import PyTorchClassifier

    given = classifier(network)

    class Squashed(torch.nn.Module):
        """Probabilities, as ART's entropy wants them, of grey levels from 0 to 1."""

        def __init__(self) -> None:
            super().__init__()
            # As its users have it: torch's default layout, not the one that `prepare` chose.
            plain = torch.contiguous_format
            self.module = copy.deepcopy(given.module).to(memory_format=plain)

        def forward(self, grey: torch.Tensor) -> torch.Tensor:
            return self.module((grey - given.mean) / given.std).sigmoid()

    wrapped = PyTorchClassifier(
        Squashed().eval(),
        torch.nn.BCELoss(),
        (1, SIZE, SIZE),
        FINDINGS,
        clip_values=(0, 1),
        device_type="cpu",
    )
    strip = STRIP(wrapped)(num_samples=OVERLAYS, false_acceptance_rate=0.01)
    strip.mitigate(grey(films(CLEAN)))
    return strip.predict


def grey(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images[:, None] / np.float32(255)


def input_of(do: Callable[[str], Any], count: int) -> NDArray[Any]:
    return films(count) if do is ours else grey(films(count))


class Took(NamedTuple):
    elapsed: float
    worked: float


def prepared(do: Callable[[str], Any], setting: Setting) -> None:
    """Imports, films and what is learnt of clean ones aren't timed."""
    do(setting.network)(input_of(do, 8))
    films(setting.films)


def seconds(do: Callable[[str], Any], setting: Setting) -> Took:
    images = input_of(do, setting.films)
    began, started = time.perf_counter(), time.process_time()
    found = do(setting.network)(images)
    took = Took(time.perf_counter() - began, time.process_time() - started)
    assert len(found) == setting.films
    return took


def differing(network: str) -> float:
    """The largest difference between both sides' probabilities of the same films."""
    asked = art(network).__self__.predict_fn(grey(films(CLEAN)))  # type: ignore[attr-defined]
    return float(np.abs(asked - classifier(network).probabilities(films(CLEAN))).max())


class Line(NamedTuple):
    setting: Setting
    ours: list[Took]
    art: list[Took]
    differing: float


def hold(setting: Setting, repeats: int) -> Line:
    judge = Worker(False, "")
    apart = judge(differing, setting.network)
    leave(judge)
    sides = [(Worker(False, ""), do) for do in (ours, art)]
    for worker, do in sides:
        worker(prepared, do, setting)
    times: tuple[list[Took], list[Took]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            worker, do = sides[side]
            times[side].append(worker(seconds, do, setting))
    for worker, _ in sides:
        leave(worker)
    line = Line(setting, *times, apart)
    print(row(line), flush=True)
    return line


# --- the page

HEAD = """| network | films | ours, films/s | ART, films/s | times faster | times less work | differ |
|-|-|-|-|-|-|-|"""  # noqa: E501

INTRO = """# STRIP beside ART

`make bench-peers` writes this page: phantoms of {size} px under {overlays} overlays each, screened
by `Strip` of leadapron and by `STRIP` of ART (Adversarial Robustness Toolbox) with the same
network, whose weights were never trained. Median and range of {repeats} repeats; two fresh
processes a line take turns, each with one thread. What is learnt of {clean} clean films isn't
timed. *Times faster* is the median and range of the pairs' ratios, above 1 where ours is faster;
*times less work* the same of the processor's seconds. *Differ* is the largest difference between
the two sides' probabilities of the same films.

Both ask for {overlays} blends of every film and for the film as it is. ART asks film by film, ours
in full batches. ART draws other overlays for every film; ours are the same for all, and their
share is set to ART's, a half. The scores aren't compared: ART takes the entropy of each finding
over the overlays, not of each overlay's findings, so that a constant certain prediction gets the
largest entropy, not the smallest.
"""


def row(line: Line) -> str:
    turns = list(zip(line.ours, line.art, strict=True))
    cells = [
        line.setting.network,
        str(line.setting.films),
        cell([line.setting.films / took.elapsed for took in line.ours]),
        cell([line.setting.films / took.elapsed for took in line.art]),
        ratios([art.elapsed / ours.elapsed for ours, art in turns]),
        ratios([art.worked / ours.worked for ours, art in turns]),
        f"{line.differing:.1g}",
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
    chosen = [s for s in SETTINGS if not given.parts or any(p in s.network for p in given.parts)]
    about = machine()
    print(f"{about}\n{HEAD}", flush=True)
    lines = [hold(setting, given.repeats) for setting in chosen]
    if given.out:
        intro = INTRO.format(size=SIZE, overlays=OVERLAYS, repeats=given.repeats, clean=CLEAN)
        table = "\n".join([HEAD, *map(row, lines)])
        given.out.write_text(f"{intro}\n{about}.\n\n{table}\n")


if __name__ == "__main__":
    main()
