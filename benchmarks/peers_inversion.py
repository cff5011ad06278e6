"""Trigger inversion beside BackdoorBench's Neural Cleanse, on the same network and films.

`make bench-peers` runs it in .venv-backdoorbench on a clone of BackdoorBench, which it calls and
doesn't copy (CC BY-NC 4.0). Two fresh processes a line take turns, each with one thread.

    python benchmarks/peers_inversion.py FOLDER                                 printed only
    python benchmarks/peers_inversion.py FOLDER --repeats 3 resnet9             fewer lines
    python benchmarks/peers_inversion.py FOLDER --out docs/results/peers-inversion.md
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from peers import leave, machine, ratios
from speed import Worker, cell

SEED = 0
SIZE, FINDINGS = 64, 14
FILMS = 16
STEPS = 20
MEAN, STD = 0.449, 0.226


class Contest(NamedTuple):
    network: str
    together: int  # findings that are inverted


CONTESTS = [Contest(name, count) for name in ("resnet9", "densenet121") for count in (1, 4)]


# --- what both sides get


@functools.cache
def classifier(name: str) -> Any:
    """An untrained network: a step takes as long whatever it has learned."""
    from leadapron.films.preprocessing import Preprocessing
    from leadapron.models.classifier import NetworkClassifier
    from leadapron.models.networks import build_network

    findings = tuple(f"finding {i}" for i in range(FINDINGS))
    network = build_network(name, FINDINGS, SEED).eval()
    return NetworkClassifier(network, name, findings, Preprocessing(size=SIZE), mean=MEAN, std=STD)


@functools.cache
def films() -> Any:
    from leadapron.films.cohort import Cohort

    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (2 * FILMS, SIZE, SIZE), np.uint8)
    ids = np.char.mod("%d", np.arange(len(images)))
    of = classifier(CONTESTS[0].network)
    labels = np.zeros((len(images), FINDINGS), np.float32)
    return Cohort(images, labels, of.findings, ids, ids, of.preprocessing)


# --- the contests: each returns the number of steps taken for all findings


def ours(contest: Contest, folder: str) -> int:  # noqa: ARG001
    from leadapron.detect.models import Inversion, Wanted

    network = classifier(contest.network)
    wanted = [Wanted(finding=f, direction="added") for f in network.findings[: contest.together]]
    how = Inversion(films=FILMS, steps=STEPS, together=contest.together)
    return sum(found.steps for found in how.invert(network, films(), wanted))


class Scaled(torch.nn.Module):
    """Grey levels of 0 to 1 as the network wants them: BackdoorBench's "gtsrb" scales none."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - MEAN) / STD)


@functools.cache
def cleanse(folder: str) -> Any:
    sys.path.insert(0, folder)
    import defense.nc as module

    # Pictures of each better mask, written within the loop, are not part of the step.
    module.Recorder.save_result_to_dir = lambda self, settings: None
    return module


def theirs(contest: Contest, folder: str) -> int:
    module = cleanse(folder)
    network = Scaled(classifier(contest.network).module)
    images = torch.from_numpy(films().images[np.arange(FILMS)] / np.float32(255))[:, None]
    batches = [(images, torch.zeros(FILMS, dtype=torch.int64))]  # one step an epoch
    settings = SimpleNamespace(
        device="cpu", dataset="gtsrb", model="as given", num_classes=FINDINGS, target_label=0,
        input_channel=1, input_height=SIZE, input_width=SIZE, nc_epoch=STEPS, EPSILON=1e-7,
        mask_lr=0.1, init_cost=1e-3, cost_multiplier=2.0, atk_succ_threshold=98.0, patience=5,
        use_norm=1, early_stop=False, log="", to_file=False,
    )  # fmt: skip
    module.args = settings
    module.generate_cls_model = lambda name, classes: network
    start = np.zeros((1, SIZE, SIZE), np.float32)
    for label in range(contest.together):
        settings.target_label = label
        with contextlib.redirect_stdout(io.StringIO()):
            module.train_mask(settings, {"model": network.state_dict()}, batches, start, start)
    return STEPS * contest.together


# --- timing


class Took(NamedTuple):
    elapsed: float  # seconds for a finding's step
    worked: float  # the processor's


def seconds(do: Callable[[Contest, str], int], contest: Contest, folder: str) -> Took:
    torch.set_num_threads(1)
    began, started = time.perf_counter(), time.process_time()
    steps = do(contest, folder)
    return Took((time.perf_counter() - began) / steps, (time.process_time() - started) / steps)


class Line(NamedTuple):
    contest: Contest
    ours: list[Took]
    theirs: list[Took]


def hold(contest: Contest, folder: str, repeats: int) -> Line:
    sides = [(Worker(False, ""), do) for do in (ours, theirs)]
    for worker, do in sides:
        worker(seconds, do, contest, folder)  # imports, inputs, warms up
    times: tuple[list[Took], list[Took]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            worker, do = sides[side]
            times[side].append(worker(seconds, do, contest, folder))
    for worker, _ in sides:
        leave(worker)
    line = Line(contest, *times)
    print(row(line), flush=True)
    return line


# --- the page

HEAD = """| network | findings | ours, s | BackdoorBench, s | times faster | times less work |
|-|-|-|-|-|-|"""

INTRO = """# Trigger inversion beside BackdoorBench

`make bench-peers` writes this page: seconds for a step of one finding's mask and pattern, {films}
films of {size} px, by leadapron's `Inversion` and by Neural Cleanse of BackdoorBench (f02e353).
Median and range of {repeats} repeats of {steps} steps; two fresh processes a line take turns, each
with one thread. *Times less work* is the ratio of the processor's seconds.

Both freeze the weights, and neither stops early. Ours folds batch normalisation into convolutions
and takes findings in one batch, and its time includes thresholds and the check on {films} other
films; BackdoorBench loads the weights for each label anew and takes labels one by one. The losses
differ: ours is the cross-entropy of one sigmoid, theirs of a softmax over all labels. So masks
can't be compared.
"""


def row(line: Line) -> str:
    turns = list(zip(line.ours, line.theirs, strict=True))
    cells = [
        line.contest.network,
        str(line.contest.together),
        cell([took.elapsed for took in line.ours]),
        cell([took.elapsed for took in line.theirs]),
        ratios([them.elapsed / us.elapsed for us, them in turns]),
        ratios([them.worked / us.worked for us, them in turns]),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="a clone of BackdoorBench")
    parser.add_argument("parts", nargs="*", help="lines whose network has one of these names")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="markdown file to write the page to")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = [c for c in CONTESTS if not given.parts or c.network in given.parts]
    about = machine("torch")
    print(f"{about}\n{HEAD}", flush=True)
    lines = [hold(contest, given.folder, given.repeats) for contest in chosen]
    if given.out:
        intro = INTRO.format(films=FILMS, size=SIZE, repeats=given.repeats, steps=STEPS)
        table = "\n".join([HEAD, *map(row, lines)])
        given.out.write_text(f"{intro}\n{about}.\n\n{table}\n")


if __name__ == "__main__":
    main()
