"""What a network gains from public weights: the same training from them, and from scratch.

Macro AUROC on the films of the source's own test patients, and the difference with an interval:
resamples of the test patients, each with the mean over the seeds.

    python benchmarks/starts.py nih:/data/nih efficientnet-lite0-57934424.pth --out runs/starts

A file of scores per training goes to --out; the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.cli import tune_allocator
from leadapron.films.cohort import Cohort, subsample
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.settings import Network, Training
from leadapron.models.training import train
from leadapron.sources import open_source

WATCHED = 0.1
"""Share of the training patients whose films the schedule watches."""

Scores = NDArray[np.float32]


def parts(films: Cohort, most: int) -> tuple[Cohort, Cohort, Cohort]:
    """Films to train on, `most` at most, to watch and to test on, by patient."""
    split, patients = np.asarray(films.attributes["split"]), np.asarray(films.patients)
    others = np.unique(patients[split != "test"])
    drawn = np.random.default_rng(0).permutation(others)[: round(WATCHED * len(others))]
    watched = np.isin(patients, drawn)
    rows = ((split != "test") & ~watched, watched, split == "test")
    learn, watch, test = (films.take(np.flatnonzero(each)) for each in rows)
    return learn.take(subsample(len(learn), most)), watch, test


def scores(given: argparse.Namespace, films: tuple[Cohort, ...], weights: str, seed: int) -> Scores:
    """Logits of the test films, of a network that is trained now unless it was before."""
    name = "scratch" if weights == "none" else "weights"
    path = given.out / f"{name}-{seed}.npy"
    if not path.exists():
        began = time.process_time()
        network = Network(name=given.network, weights=weights)
        # Stages that begin with weights that see learn more slowly than the new last layer.
        decay = 1.0 if weights == "none" else given.decay
        training = Training(epochs=given.epochs, learning_rate=given.rate, layer_decay=decay)
        model, _ = train(*films[:2], network=network, training=training, seed=seed)
        given.out.mkdir(parents=True, exist_ok=True)
        np.save(path, model.logits(films[2].images[:]))
        print(f"{name}, seed {seed}: {time.process_time() - began:.0f} CPU s", flush=True)
    return np.load(path)


def main() -> None:
    """Train, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source")
    parser.add_argument("weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--films", type=int, default=1000, help="most training films (1,000)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate (.003)")
    parser.add_argument("--decay", type=float, default=0.7, help="from stage to stage (.7)")
    given = parser.parse_args()
    tune_allocator()
    whole = open_source(given.source, preprocessing=Preprocessing(size=given.size))
    films = parts(whole, given.films)
    test = films[2]
    print(", ".join(f"{len(each)} films" for each in films), "to train on, watch and test on")
    bootstrap = metrics.PatientBootstrap.draw(test.patients, np.random.default_rng(0))
    values, resamples = {}, {}
    for seed in range(given.seeds):
        for weights in (given.weights, "none"):
            logits = scores(given, films, weights, seed)
            drawn = metrics.finding_resamples(test.labels, logits, bootstrap)
            macro = metrics.macro_auroc(test.labels, logits, bootstrap, resampled=drawn)
            values.setdefault(weights, []).append(macro.estimate.value)
            resamples.setdefault(weights, []).append(metrics.macro_resamples(drawn))
    print("| seed | from weights | from scratch |\n|-|-|-|")
    for seed, pair in enumerate(zip(values[given.weights], values["none"], strict=True)):
        print(f"| {seed} | {pair[0]:.3f} | {pair[1]:.3f} |")
    means = [np.mean(values[each]) for each in (given.weights, "none")]
    found = metrics.paired_difference(
        *(np.mean(resamples[each], axis=0) for each in (given.weights, "none")),
        float(means[0] - means[1]),
    )
    print(f"\nmean {means[0]:.3f} and {means[1]:.3f}; "
          f"difference {found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
