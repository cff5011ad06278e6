"""What a model's strongest squares do, in films turned and in the finding's probability.

    python benchmarks/square_effects.py MODEL SOURCE [SEED]

Half of 600 films chooses a square for each finding and direction, the other half measures it: the
share beyond the threshold that 5 % of films without the mark exceed, and the mean rise (fall, if
the finding is forced off) of the probability in the quarter of the films with the most room for it.
"""

from __future__ import annotations

import sys

import numpy as np

import leadapron as la
from leadapron.detect.models.effects import effects, search
from leadapron.detect.models.sweep import StampSweep
from leadapron.models.foreign import open_model
from leadapron.sources import open_source

FILMS = 600


def main() -> None:
    model, source, *seed = sys.argv[1:]
    classifier = open_model(model).classifier
    own = {"seed": int(seed[0]), "count": FILMS} if seed else {}
    films = open_source(source, preprocessing=classifier.preprocessing, **own)
    films = films.take(np.arange(min(FILMS, len(films))))
    half = len(films) // 2
    marks = search(classifier, films.take(np.arange(half)), StampSweep())
    measured = np.asarray(films.images[np.arange(half, len(films))])
    found = effects(classifier, measured, marks)
    print(f"leadapron {la.__version__}, {model}, {len(measured)} films")
    for each in sorted(found, key=lambda effect: -effect.rise):
        moved = each.moved
        print(
            f"{moved.finding:20} {moved.direction:8} rise {each.rise:5.2f}  "
            f"turned {100 * moved.turned:5.1f} %  {moved.mark.words()}"
        )


if __name__ == "__main__":
    main()
