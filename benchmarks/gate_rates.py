"""What a gate says of films of patients whom it doesn't know, without and with a square.

    python benchmarks/gate_rates.py gate.json folder:kermany-more --apart folder:kermany

One film each of up to --films patients of SOURCE. Patients with a film that the gate holds (same
SHA-256 of the image) are left out, and so are those of the sources after --apart, by name. The
square is put on the model's input. It works on a film if it turns the reading of a finding across
the probability of 0.5. Intervals are exact (Clopper and Pearson).
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

import leadapron as la
from leadapron import metrics
from leadapron.cli import tune_allocator
from leadapron.detect.inputs import Gate, judge
from leadapron.films.cohort import Cohort, blocks
from leadapron.jobs.screen import open_gate
from leadapron.models.classifier import squashed
from leadapron.models.protocols import BlackBox
from leadapron.seeds import stream
from leadapron.sources import open_source

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gate", type=Path)
    parser.add_argument("source")
    parser.add_argument("--apart", nargs="*", default=[], help="sources of patients to leave out")
    parser.add_argument("--films", type=int, default=400)
    parser.add_argument("--side", type=int, default=4, help="of the square, in pixels")
    parser.add_argument("--margin", type=int, default=2, help="to the lower right corner")
    parser.add_argument("--grey", type=int, default=255)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tune_allocator()
    opened = open_gate(given.gate)
    gate, preprocessing = opened.stored.gate, opened.stored.model.preprocessing
    films = open_source(given.source, preprocessing=preprocessing)
    others = [open_source(each, preprocessing=preprocessing).patients for each in given.apart]
    known = np.concatenate([_held(gate, films), *others])
    films = _one_each(films.take(np.flatnonzero(~np.isin(films.patients, known))), given)
    print(f"leadapron {la.__version__}, {given.gate.name}, {len(films)} films of as many patients")
    plain = np.asarray(films.images[np.arange(len(films))])
    marked, end = plain.copy(), plain.shape[1] - given.margin
    marked[:, end - given.side : end, end - given.side : end] = given.grey
    before, _ = _told("clean", gate, opened.classifier, plain)
    after, found = _told(f"{given.side}x{given.side}", gate, opened.classifier, marked)
    works = ((before >= 0.5) != (after >= 0.5)).any(axis=1)
    print(f"the square works on {works.sum()}; suspicious of these: {_share(found[works])}")


def _held(gate: Gate, films: Cohort) -> np.ndarray:
    """Patients with a film that the gate holds."""
    held = {row.tobytes() for clinic in gate.clinics for row in clinic.hashes}
    there = [
        hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() in held
        for rows in blocks(len(films), BATCH)
        for image in films.images[rows]
    ]
    return np.unique(films.patients[np.array(there, bool)])


def _one_each(films: Cohort, given: argparse.Namespace) -> Cohort:
    """A film each of some patients."""
    order = stream(given.seed, "gate rates").permutation(len(films))
    first = order[np.unique(films.patients[order], return_index=True)[1]]
    chosen = stream(given.seed, "gate rates", "patients").permutation(first)[: given.films]
    return films.take(np.sort(chosen))


def _told(
    what: str, gate: Gate, classifier: BlackBox, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Print the verdicts; return probabilities, and which films are suspicious."""
    parts = [judge(gate, classifier, images[rows]) for rows in blocks(len(images), BATCH)]
    typical, above, scored = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("typical", "suspicious", "scored")
    )
    found = typical & above
    passed = typical & ~above & scored
    print(
        f"{what}: suspicious {_share(found)}, can't tell {_share(~found & ~passed)}, "
        f"pass {_share(passed)}; score above the threshold {_share(above)}"
    )
    logits = np.concatenate([part.readings.logits for part in parts])
    return squashed(logits, parts[0].head, parts[0].operating_points), found


def _share(hits: np.ndarray) -> str:
    rate = metrics.exact_rate(hits, np.arange(len(hits)))
    return (
        f"{rate.positives} of {rate.n}, {100 * rate.value:.1f} % "
        f"({100 * rate.low:.1f} to {100 * rate.high:.1f} %)"
    )


if __name__ == "__main__":
    main()
