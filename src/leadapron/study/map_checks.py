"""Sanity checks of maps: against untrained networks, and on natural look-alikes of the trigger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.attacks.decoys import DECOYS
from leadapron.explainers import EXPLAINERS
from leadapron.films.cohort import Rows
from leadapron.models.classifier import NetworkClassifier, randomised
from leadapron.results.names import (
    ALL_WEIGHTS,
    CHANCE,
    HEAD,
    LOOK_ALIKE_HIT,
    MAP_DETECTION,
    RANDOMISED,
    ROLES,
    against,
)
from leadapron.results.rows import Row
from leadapron.study.measure import Explained, Maps, Models, row_of

__all__ = ["Decoyed", "decoy", "decoy_rows", "sanity_rows"]

SANITY_FILMS, SANITY_DRAWS = 20, 3
"""Films and untrained networks of each kind in a sanity check; some methods are slow."""


def sanity_rows(
    run: str,
    explained: Explained,
    maps: Maps,
    classifier: NetworkClassifier,
    target: str,
    explainer: str,
) -> list[Row]:
    """Return the similarity of the backdoored model's maps to those of untrained networks.

    A method whose maps stay similar shows the film, not what the model learned.

    Args:
        run: the run's key.
        explained: the films.
        maps: what `measure.explain` returned for them.
        classifier: the backdoored model.
        target: the explained finding.
        explainer: the maps' name.

    Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, model parameter
    randomisation: the last layer alone ("head"), and all of them ("all weights"), each the mean
    over several draws, since one random head may resemble the trained one by luck. They go through
    all layers one after another, and also correlate the maps' magnitudes.
    """
    films = explained.marked[:SANITY_FILMS]
    own = maps["backdoored", "triggered"][:SANITY_FILMS]
    rows = []
    for name, head_only in ((HEAD, True), (ALL_WEIGHTS, False)):
        alike = np.stack(
            [
                metrics.rank_correlation(
                    own, EXPLAINERS[explainer](untrained, films, [target])[:, 0]
                )
                for untrained in (
                    randomised(classifier, seed, head_only=head_only)
                    for seed in range(SANITY_DRAWS)
                )
            ]
        )
        known = ~np.isnan(alike)
        rows.append(
            Row(
                run=run,
                role="backdoored",
                regime="triggered",
                stage="explanation",
                method=explainer,
                metric=RANDOMISED,
                target=target,
                finding=target,
                at=name,
                value=float(alike[known].mean()) if known.any() else None,
                n=int(known.any(0).sum()),
            )
        )
    return rows


class Decoyed(NamedTuple):
    """Explained films with a visible natural look-alike in place of the trigger, m of them.

    Args:
        places: (m,) among the explained films, ascending.
        images: (m, h, w).
        footprints: (m, h, w), where they differ from the films without it.
    """

    places: Rows
    images: NDArray[Any]
    footprints: NDArray[np.bool_]


def decoy(explained: Explained, rng: np.random.Generator) -> dict[str, Decoyed]:
    """Return the explained films, without the trigger, with each kind of look-alike."""
    found = {}
    for (name, draw), chance in zip(DECOYS.items(), rng.spawn(len(DECOYS)), strict=True):
        images = draw(explained.images, chance)
        footprints = images != explained.images
        shown = np.flatnonzero(footprints.any((1, 2)))
        found[name] = Decoyed(shown, images[shown], footprints[shown])
    return found


def decoy_rows(
    run: str,
    explained: Explained,
    decoyed: Mapping[str, Decoyed],
    maps: Maps,
    models: Models,
    target: str,
    explainer: str,
    bootstrap: metrics.PatientBootstrap,
) -> list[Row]:
    """Return whether the maps mistake a natural look-alike for the trigger.

    "films told by the map" compares, for each kind, triggered films with the same films with the
    look-alike instead. "pointing hit on a look-alike": how often the map's highest point lies on
    it, or within one eighth of the side.

    Args:
        run: the run's key.
        explained: the films.
        decoyed: what `decoy` returned for them.
        maps: what `measure.explain` returned for them.
        models: twin and backdoored model.
        target: the explained finding.
        explainer: the maps' name.
        bootstrap: resamples of all test films' patients.
    """
    common: dict[str, Any] = {
        "run": run,
        "stage": "explanation",
        "target": target,
        "finding": target,
    }
    hit: dict[str, Any] = {**common, "metric": LOOK_ALIKE_HIT, "regime": "clean"}
    rows = []
    for name, (places, images, footprints) in decoyed.items():
        if not len(places):
            continue
        chosen = bootstrap.select(explained.rows[places])
        tolerance = footprints.shape[-1] / 8
        for role in ROLES:
            beside = EXPLAINERS[explainer](models[role], images, [target])[:, 0]
            marked = maps[role, "triggered"][places]
            told = metrics.separation(beside.max((1, 2)), marked.max((1, 2)), chosen)
            rows.append(
                row_of(
                    told,
                    **common,
                    metric=MAP_DETECTION,
                    role=role,
                    regime="triggered",
                    method=explainer,
                    at=against(name),
                )
            )
            hits = metrics.rate(metrics.pointing_hits(beside, footprints, tolerance), chosen.groups)
            rows.append(row_of(hits, **hit, role=role, method=explainer, at=name))
        chance = float(metrics.chance_hit(footprints, tolerance).mean())
        rows.append(
            Row(**hit, role="reference", method=CHANCE, at=name, value=chance, n=len(places))
        )
    return rows
