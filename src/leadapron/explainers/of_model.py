"""Explainers' maps of any model on films of any source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import UsageError
from leadapron.explainers import EXPLAINERS, NEEDS, explained_layer
from leadapron.explainers.cams import SHORTCUT_ARCHITECTURE
from leadapron.explainers.document import Method
from leadapron.films.cohort import Cohort
from leadapron.models.protocols import BlackBox, Differentiable, columns_of, lacking
from leadapron.seeds import stream
from leadapron.sources.synonyms import canonical
from leadapron.types import Progress

__all__ = ["Looked", "chosen_films", "fitting", "look"]


class Looked(NamedTuple):
    """Maps of one finding.

    Args:
        images: (n, h, w) the films.
        said: (n,) float32 probability of the finding.
        maps: (n, h, w) float32 by method.
        layers: the explained layer by method.
    """

    images: NDArray[Any]
    said: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]
    layers: dict[str, str]

    @property
    def methods(self) -> tuple[Method, ...]:
        """What each method's maps show."""
        return tuple(
            Method(
                name=name,
                layer=self.layers[name],
                highest=max(0.0, float(maps.max())),
                peaks=tuple(
                    (int(place) // maps.shape[2], int(place) % maps.shape[2])
                    for place in maps.reshape(len(maps), -1).argmax(1)
                ),
            )
            for name, maps in self.maps.items()
        )


def chosen_films(cohort: Cohort, finding: str, count: int, seed: int) -> tuple[Cohort, list[Any]]:
    """Return films with the finding, or if there are too few, others as well; and their labels.

    Args:
        cohort: the films.
        finding: the model's finding; the source may use another name for it.
        count: number of films, at most.
        seed: seed of the choice.

    Returns:
        The films, and for each of them whether it has the finding; None where nobody says.
    """
    names = [canonical(name) for name in cohort.findings]
    there = canonical(finding) in names
    labels = cohort.labels[:, names.index(canonical(finding))] if there else None
    order = stream(seed, "explained films").permutation(len(cohort))
    if labels is not None:
        order = order[np.argsort(labels[order] != 1, kind="stable")]
    rows = order[:count]
    if labels is None:
        return cohort.take(rows), [None] * len(rows)
    return cohort.take(rows), [None if np.isnan(v) else bool(v) for v in labels[rows]]


def fitting(methods: Sequence[str], classifier: BlackBox) -> tuple[list[str], dict[str, str]]:
    """Return the methods that fit a model, and the reasons why the others don't.

    Args:
        methods: names in `EXPLAINERS`; all if empty.
        classifier: the model.

    Raises:
        UsageError: none fits.
    """
    wanted = list(dict.fromkeys(methods or EXPLAINERS))
    skipped = {name: reason for name in wanted if (reason := _unfit(name, classifier))}
    chosen = [name for name in wanted if name not in skipped]
    if not chosen:
        name, reason = next(iter(skipped.items()))
        raise UsageError(f"`methods`: {name} {reason}")
    return chosen, skipped


def _unfit(name: str, classifier: BlackBox) -> str:
    """Why a method can't explain a model, as words that follow its name; "" if it can."""
    EXPLAINERS.find(name)
    if reason := lacking(classifier, NEEDS.get(name, "gradients")):
        return reason
    architecture = getattr(classifier, "architecture", "")
    if name == "authors-shortcut" and architecture != SHORTCUT_ARCHITECTURE:
        return f"needs {SHORTCUT_ARCHITECTURE}; this is {architecture}"
    return ""


def look(
    classifier: Differentiable,
    images: NDArray[Any],
    finding: str,
    methods: Sequence[str],
    progress: Progress | None = None,
) -> Looked:
    """Return each method's maps of a finding.

    Args:
        classifier: the model.
        images: (n, h, w) uint8 or uint16 with its preprocessing.
        finding: one of the model's.
        methods: names in `EXPLAINERS` that fit the model.
        progress: called with "methods", the number done, and the total.

    Raises:
        UnknownNameError: no such finding.
    """
    (column,) = columns_of(classifier, [finding])
    maps: dict[str, NDArray[np.float32]] = {}
    for done, name in enumerate(methods):
        if progress is not None:
            progress("methods", done, len(methods))
        maps[name] = EXPLAINERS[name](classifier, images, [finding])[:, 0]
    if progress is not None:
        progress("methods", len(methods), len(methods))
    said = classifier.probabilities(images)[:, column]
    return Looked(images, said, maps, {name: explained_layer(name, classifier) for name in methods})
