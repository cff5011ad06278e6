"""Where the gate's weights come from: a logistic regression on the films of models of known truth.

Measures the gates of a zoo's models (its sealed families are left out) or a study's, and fits the
weights of the fused score to what was found. Prints them as a dictionary, for
`detect.inputs.WEIGHTS`. The same command continues where it was stopped.

    python benchmarks/screening_weights.py runs/whole-image runs/zoo --limit 9 \
        --without STRIP SCALE-UP "corruption consistency"
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from leadapron.cli import tune_allocator
from leadapron.evaluate.screen import evaluate_screen
from leadapron.evaluate.settings import Setting
from leadapron.evaluate.weights import fit_weights
from leadapron.study.shards import Running
from leadapron.types import Machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", type=Path, nargs="+", help="zoos, and studies' folders")
    parser.add_argument("--out", type=Path, default=Path("runs/screening-weights"))
    parser.add_argument("--without", nargs="*", default=[], help="scores that get no weight")
    parser.add_argument("--limit", type=int, help="models at most, for a short try")
    parser.add_argument("--jobs", type=int)
    given = parser.parse_args()
    tune_allocator()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    machine = Machine(
        progress=lambda what, done, total: logging.info("%s: %d/%d", what, done, total)
    )
    folders = [given.out / place.name for place in given.places]
    for place, folder in zip(given.places, folders, strict=True):
        evaluate_screen(
            place,
            folder,
            limit=given.limit,
            setting=Setting(every=True, calibration=300, test=200, triggered=100),
            machine=machine,
            running=Running(jobs=given.jobs),
        )
    print(fit_weights(folders, without=given.without))


if __name__ == "__main__":
    main()
