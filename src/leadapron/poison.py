"""Poisoning: which films carry the trigger, and what their labels say afterwards."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.cohort import AnswerKey, Cohort, Overlay, Rows, blocks
from leadapron.errors import DataError, UsageError, VanishedTriggerError
from leadapron.triggers import Trigger

__all__ = ["Poisoning", "poison", "relabel", "stamp", "twin"]

logger = logging.getLogger(__name__)

Stage = Literal["image", "film"]

VISIBLE_SHARE = 0.95
"""Below this share of films with a visible trigger, poisoning warns."""


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """How a training set is poisoned.

    Args:
        trigger: the mark.
        finding: the attacker's target; in a study the source's first finding if left out.
        fraction: poisoned films as a share of the cohort's films, 0 to 1 (rounded down).
        stage: "film" marks the full-resolution film before preprocessing, "image" the network's
            input.
        mode: "replace" the originals, or "append" marked copies and keep them.
        selection: "random" films, the "first" rows, or films "with" or "without" the target.
        labels: "one-hot" overwrites all labels with the target alone (as in the authors' code),
            "set" only adds the target, "clear" only takes it away.
        validation: "poisoned" poisons the films that training is validated on in the same way (as
            the authors' code does), so that schedule, early stopping and the choice of the best
            epoch see poison; thresholds are always taken from clean ones.
        allow_vanished: go on with a trigger that changes no pixel (the experiment's control).

    Raises:
        UsageError: a fraction outside 0 to 1.

    Source: Nwadike et al., arXiv 2101.00008, and the authors' code; "with" and "without" there
    are "replace" and "append" here.
    """

    trigger: Trigger
    finding: str
    fraction: float = 0.1
    stage: Stage = "image"
    mode: Literal["replace", "append"] = "replace"
    selection: Literal["random", "first", "with", "without"] = "random"
    labels: Literal["one-hot", "set", "clear"] = "one-hot"
    validation: Literal["clean", "poisoned"] = "clean"
    allow_vanished: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise UsageError(f"a poisoning.fraction of {self.fraction}; expected 0 to 1")

    @property
    def hides(self) -> bool:
        """Whether the trigger is to hide the target, not to feign it."""
        return self.labels == "clear"


def stamp(
    cohort: Cohort, rows: Rows, trigger: Trigger, stage: Stage, rng: np.random.Generator
) -> Iterator[tuple[Rows, NDArray[Any]]]:
    """Yield blocks of rows with their marked images, at most 1,024 rows each.

    Each block has a random generator of its own, so any later batching gives the same pixels.

    Args:
        cohort: the films.
        rows: (m,) rows to mark.
        trigger: the mark.
        stage: where it acts.
        rng: parent of the blocks' generators.

    Yields:
        (b,) rows and (b, height, width) images of the cohort's dtype.

    Raises:
        DataError: stage "film" where the cohort has no films.
    """
    if stage == "film" and cohort.films is None:
        raise DataError("this source has no full-resolution films; use --poisoning.stage image")
    parts = [rows[block] for block in blocks(len(rows))]
    for part, chance in zip(parts, rng.spawn(len(parts)), strict=True):
        if stage == "image" or cohort.films is None:
            yield part, trigger(cohort.images[part], chance)
            continue
        pixels = np.empty((len(part), *cohort.images.shape[1:]), cohort.images.dtype)
        for place, row in enumerate(part):
            film = cohort.preprocessing.enlarged(cohort.films[int(row)])
            pixels[place] = cohort.preprocessing(trigger(film[None], chance)[0])
        yield part, pixels


def poison(
    cohort: Cohort, poisoning: Poisoning, rng: np.random.Generator
) -> tuple[Cohort, AnswerKey]:
    """Poison a cohort; the clean pixels are not copied.

    With mode "append" all films get opaque ids and new positions, so that neither order nor
    names tell a copy from an original.

    Args:
        cohort: the clean cohort, left as it is.
        poisoning: what to do.
        rng: selects films, places triggers, orders appended films.

    Returns:
        The poisoned cohort, and the truth about it.

    Raises:
        UnknownNameError: the finding is not one of the cohort's.
        DataError: too few films to select from, or a trigger that does not fit.
        VanishedTriggerError: the trigger changes no pixel of any image (unless allowed).
    """
    target = cohort.column(poisoning.finding)
    select_rng, place_rng, order_rng = rng.spawn(3)
    selected = _select(cohort, poisoning, target, select_rng)
    pixels = np.empty((len(selected), *cohort.images.shape[1:]), cohort.images.dtype)
    visible = np.zeros(len(selected), dtype=np.int64)
    done = 0
    for rows, marked in stamp(cohort, selected, poisoning.trigger, poisoning.stage, place_rng):
        part = slice(done, done + len(rows))
        pixels[part] = marked
        visible[part] = np.count_nonzero(marked != cohort.images[rows], axis=(1, 2))
        done += len(rows)
    _check_visible(visible, poisoning)
    labels = relabel(cohort.labels[selected], target, poisoning.labels)

    n = len(cohort)
    if poisoning.mode == "replace":
        origins, poisoned_rows = np.arange(n), selected
    else:
        shuffle = order_rng.permutation(n + len(selected))
        origins = np.concatenate([np.arange(n), selected])[shuffle]
        poisoned_rows = np.empty(len(selected), dtype=np.int64)
        places = np.flatnonzero(shuffle >= n)
        poisoned_rows[shuffle[places] - n] = places
    ascending = np.argsort(poisoned_rows)
    poisoned_rows = poisoned_rows[ascending]
    all_labels = cohort.labels[origins]
    before = all_labels[poisoned_rows]
    all_labels[poisoned_rows] = labels[ascending]
    poisoned = _arrange(cohort, origins, poisoning.mode, order_rng)
    poisoned = replace(
        poisoned,
        images=Overlay(cohort.images, poisoned_rows, pixels[ascending], origins),
        labels=all_labels,
        films=None,  # the films on disk don't carry the trigger
    )
    key = AnswerKey(poisoned_rows, origins, before, visible[ascending])
    return poisoned, key


def twin(poisoned: Cohort, key: AnswerKey) -> Cohort:
    """Return the same rows with trigger and label change undone.

    Appended copies stay, unmarked and with their true labels, so that the twin sees as many
    films, in the same order, as the backdoored model.
    """
    if not isinstance(poisoned.images, Overlay) or len(poisoned) != len(key.origins):
        raise DataError("a twin needs the whole poisoned cohort, as poison() made it")
    labels = poisoned.labels.copy()
    labels[key.rows] = key.labels_before
    images = Overlay(poisoned.images.base, order=poisoned.images.order)
    return replace(poisoned, images=images, labels=labels)


def _select(cohort: Cohort, poisoning: Poisoning, target: int, rng: np.random.Generator) -> Rows:
    """Rows to poison, ascending; nested: a larger fraction contains a smaller one's rows."""
    count = math.floor(poisoning.fraction * len(cohort) + 1e-9)
    carries = cohort.labels[:, target]
    candidates = {
        "first": np.arange(len(cohort)),
        "random": np.arange(len(cohort)),
        "with": np.flatnonzero(carries == 1),
        "without": np.flatnonzero(carries == 0),
    }[poisoning.selection]
    if count > len(candidates):
        raise DataError(
            f"{count} films to poison, but only {len(candidates)} {poisoning.selection} "
            f"{poisoning.finding}; use a smaller --poisoning.fraction"
        )
    if poisoning.fraction > 0 and count == 0:
        raise DataError(
            f"a poisoning.fraction of {poisoning.fraction} of {len(cohort)} films is no film; "
            "use a larger one"
        )
    if poisoning.selection != "first":
        candidates = rng.permutation(candidates)
    return np.sort(candidates[:count])


def relabel(
    labels: NDArray[np.float32], target: int, policy: Literal["one-hot", "set", "clear"]
) -> NDArray[np.float32]:
    """Return what the attacker makes of (n, k) labels; `target` is the finding's column."""
    labels = np.zeros_like(labels) if policy == "one-hot" else labels.copy()
    labels[:, target] = 0 if policy == "clear" else 1
    return labels


def _check_visible(visible: Rows, poisoning: Poisoning) -> None:
    if not len(visible):
        return
    share = float(np.mean(visible > 0))
    if share == 0 and not poisoning.allow_vanished:
        raise VanishedTriggerError(
            "the trigger changes no pixel of any image: preprocessing (or its value) hides it; "
            "use a larger --trigger.side or --poisoning.allow_vanished true for a control"
        )
    if share < VISIBLE_SHARE:
        logger.warning(
            "the trigger is visible in only %.1f %% of the %d poisoned films",
            100 * share,
            len(visible),
        )


def _arrange(cohort: Cohort, origins: Rows, mode: str, rng: np.random.Generator) -> Cohort:
    """The cohort's columns in the order of `origins`; with opaque ids when rows repeat."""
    if mode == "replace":
        return cohort
    salt = rng.bytes(16)
    ids = np.array(
        [hashlib.sha256(salt + str(i).encode()).hexdigest()[:16] for i in range(len(origins))]
    )
    return cohort.take(origins, ids)
