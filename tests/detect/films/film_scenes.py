"""Films for scans: phantoms looked at once, poison on some of them, and events made by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.detect.films import Observed, Scan, scan_films
from leadapron.detect.films.blobs import BLOB
from leadapron.detect.films.observe import CELLS, TEXTURE, TRACES, Limits, limits, observe
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.seeds import stream


class Scene(NamedTuple):
    """A clean cohort and its observations."""

    cohort: Cohort
    bounds: Limits
    seen: Observed


def scene_of(cohort):
    bounds = limits(cohort.images, stream(0, "limits"))
    return Scene(cohort, bounds, observe(cohort.images, bounds))


def poisoned(scene, *attacks, seed=0):
    """Poison a scene's films in place, and observe only these films again.

    Returns:
        The poisoned cohort, its key and its observations.
    """
    cohort, key = poison(scene.cohort, attacks, stream(seed, "poison"))
    rows = np.union1d(key.rows, key.covers)
    again = observe(cohort.images[rows], scene.bounds)
    return cohort, key, scene.seen.replaced(rows, again)


def scanned(scene, *attacks, seed=0, **settings) -> tuple[Scan, np.ndarray]:
    """Return the scan of a poisoned scene, and the poisoned rows."""
    cohort, key, seen = poisoned(scene, *attacks, seed=seed)
    return scan_films(cohort, seen=seen, **settings), key.rows


def replacing(trigger, finding="Mass", fraction=0.05, **settings):
    return Poisoning(trigger=trigger, finding=finding, fraction=fraction, **settings)


def labelled_cohort(labels, *, patients=None, findings=None, attributes=None, size=16):
    """Blank films with these labels; one film a patient where none are named."""
    labels = np.asarray(labels, dtype=np.float32)
    n, k = labels.shape
    names = np.char.mod("%04d", np.arange(n))
    return Cohort(
        images=np.zeros((n, size, size), np.uint8),
        labels=labels,
        findings=tuple(findings or ("Mass", "Edema", "Nodule", "Hernia")[:k]),
        ids=names,
        patients=names if patients is None else np.asarray(patients).astype(str),
        preprocessing=Preprocessing(size=size),
        attributes=attributes or {},
    )


def events(n, shape=(32, 32), *, blobs=(), textures=(), outliers=None, traces=None):
    """What might have been seen of n films.

    Args:
        n: films.
        shape: theirs.
        blobs: dictionaries of the fields of `BLOB`; what is left out is a solid bright pixel.
        textures: (film, row, column, nine grey levels) each.
        outliers: by film, lists of numbers as in `Observed.outliers`.
        traces: as in `Observed`; zeros if left out.
    """
    usual = {"scale": 1, "side": 1, "bright": True, "level": 200, "contrast": 50, "spread": 0}
    found = np.zeros(len(blobs), dtype=BLOB)
    for number, blob in enumerate(blobs):
        for name, value in (usual | blob).items():
            found[name][number] = value
    rough = np.array([tuple(spot) for spot in textures], dtype=TEXTURE)
    each = [sorted((outliers or {}).get(film, ())) for film in range(n)]
    return Observed(
        shape=(n, *shape),
        blobs=found,
        textures=rough,
        outliers=np.array([place for some in each for place in some], dtype=np.int32),
        starts=np.concatenate([[0], np.cumsum([len(some) for some in each])]),
        traces=traces or {name: np.zeros((n, 3), np.float32) for name in TRACES},
        afar=np.zeros((n, CELLS * CELLS), np.float32),
    )
