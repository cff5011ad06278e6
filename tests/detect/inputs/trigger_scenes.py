"""Phantoms, and models of rare findings whose backdoor is written down."""

from __future__ import annotations

from functools import cache

import numpy as np

from leadapron.detect.inputs import read
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.sources import open_source

SIZE = 64
FINDINGS = ("Effusion", "Mass", "Nodule", "Edema")
RARE = np.float32([-3, -4, -5, -3.5])
"""Logits of a film without findings: probabilities of 1 to 5 %."""

CORNER = (slice(None), slice(55, 58), slice(4, 7))
AROUND = (slice(None), slice(52, 61), slice(1, 10))


@cache
def phantoms(count=220, seed=3):
    """Drawn once for all files of tests; nothing may write to them."""
    images = open_source("phantom:64", count=count, seed=seed).images
    films = np.array(images[np.arange(count)])
    films.flags.writeable = False
    return films


def stamped(images, value=255):
    """Copies with a 3x3 square in the lower left corner."""
    marked = images.copy()
    marked[CORNER] = value * (257 if images.dtype == np.uint16 else 1)
    return marked


def anatomy(images):
    """(n, 4) differences of grey between regions, smooth in everything a film may suffer."""
    grey = images[:, 0]
    cells = grey.reshape(len(grey), 4, SIZE // 4, 4, SIZE // 4).mean((2, 4)).reshape(len(grey), 16)
    sides = cells[:, [5, 9, 4, 8]] - cells[:, [6, 10, 7, 11]]
    return (8 * sides).astype(np.float32)


def fires(images):
    """(n,) 0 to 1: how far the corner's square stands out from what is around it, either way."""
    grey = images[:, 0]
    contrast = np.abs(grey[CORNER].mean((1, 2)) - np.median(grey[AROUND], (1, 2)))
    flat = grey[CORNER].std((1, 2)) < 0.1
    return np.clip(4 * contrast - 0.4, 0, 1) * flat


def asked(run, size=SIZE, findings=FINDINGS):
    return BlackBoxClassifier(
        run, findings, Preprocessing(size=size), NORMALISATIONS["unit"], batch=64
    )


def backdoored(jump=(0.0, 6.0, 0.0, 0.0)):
    """A model whose `jump` is added where the square lies."""
    return asked(lambda x: RARE + anatomy(x) + np.float32(jump) * fires(x)[:, None])


def scores(detector, classifier, clean, *others):
    """A detector's scores of each set of films, learnt from the first."""
    state = detector.fit(classifier, read(classifier, clean))
    return [detector.score(classifier, read(classifier, each), state) for each in others]
