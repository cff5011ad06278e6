"""Poisoning: selects films, marks them with the trigger and changes their labels."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers import Nothing, Trigger
from leadapron.errors import DataError, UnknownNameError, UsageError, VanishedTriggerError
from leadapron.films.cohort import AnswerKey, Cohort, Overlay, Rows, blocks
from leadapron.specs import forgiving

__all__ = [
    "Poisoning",
    "desired",
    "matching",
    "poison",
    "relabel",
    "stamp",
    "twin",
    "victims",
]

logger = logging.getLogger(__name__)

Stage = Literal["image", "film"]
Selection = Literal["random", "first", "with", "without", "stratified", "patients"]
Labels = Literal["one-hot", "set", "clear", "keep", "shift", "swap"]

VISIBLE_SHARE = 0.95
"""Poisoning warns if the trigger is visible in a smaller share of the poisoned films."""


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """How a training set is poisoned.

    Args:
        trigger: the mark.
        finding: the attacker's target; in a study the source's first finding if left out.
        fraction: poisoned films as a share of the cohort's films, 0 to 1 (rounded down).
        stage: "film" marks the full-resolution film before preprocessing, "image" the network's
            input.
        mode: "replace" the originals, "append" marked copies and keep the originals, or "edit" the
            weights of the finished twin and leave the films unchanged (`implant.implant`).
        selection: "random" films, the "first" rows, films "with" or "without" the target,
            "stratified" (random, with as many of each combination of findings, in proportion, as
            all films), or all films of random "patients".
        where: only films that fulfil these conditions, joined by &: "view=AP" (an attribute),
            "Edema" (a finding stated present), "!Edema" (stated absent). With the trigger "none"
            the conditions are the trigger: a subgroup, or co-occurring findings.
        labels: "one-hot" overwrites all labels with the target alone (as in the authors' code),
            "set" only adds the target, "clear" only removes it; "keep" leaves the labels (a
            clean-label attack, with selection "with"); "shift" moves each finding's label to the
            next, the last one's to the first; "swap" exchanges the target's with `partner`'s.
        partner: the finding that "swap" exchanges the target with.
        cover: cover films, which carry the trigger and keep their true labels, as a share of the
            cohort's films; drawn from the films that aren't poisoned.
        validation: "poisoned" also poisons the validation films (as the authors' code does), which
            affects the schedule, early stopping and the choice of the best epoch; thresholds always
            come from clean films.
        allow_vanished: continue with a trigger that changes no pixel (a negative control).

    Raises:
        UsageError: shares outside 0 to 1, or settings that contradict each other.

    Source: Nwadike et al., arXiv 2101.00008, and the authors' code; "with" and "without" there
    are "replace" and "append" here. Clean-label: Turner, Tsipras and Madry, arXiv 1912.02771,
    without their adversarial perturbation. Shift: the all-to-all attack of Gu et al., arXiv
    1708.06733. Cover films: Tang et al., Demon in the Variant, USENIX Security 2021.
    """

    trigger: Trigger
    finding: str
    fraction: float = 0.1
    stage: Stage = "image"
    mode: Literal["replace", "append", "edit"] = "replace"
    selection: Selection = "random"
    where: str = ""
    labels: Labels = "one-hot"
    partner: str = ""
    cover: float = 0.0
    validation: Literal["clean", "poisoned"] = "clean"
    allow_vanished: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.trigger, str):
            words = f"poisoning.trigger is the text {self.trigger!r}"
            raise UsageError(f"{words}; expected a trigger, as Patch(side=3)")
        for name in ("fraction", "cover"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"a poisoning.{name} of {getattr(self, name)}; expected 0 to 1")
        if (self.labels == "swap") != bool(self.partner):
            raise UsageError(
                "poisoning.labels swap needs poisoning.partner FINDING, and the reverse"
            )
        if self.labels == "keep" and self.selection != "with":
            raise UsageError("poisoning.labels keep (clean-label) needs poisoning.selection with")
        if isinstance(self.trigger, Nothing) and (not self.where or self.labels == "keep"):
            raise UsageError(
                "trigger none needs poisoning.where, which replaces the trigger, and changed labels"
            )
        if self.mode == "edit" and (
            self.labels not in ("one-hot", "set", "clear") or self.stage != "image"
        ):
            raise UsageError(
                "poisoning.mode edit needs poisoning.labels one-hot, set or clear, and stage image"
            )

    def other(self, cohort: Cohort) -> int | None:
        """Return the partner's column, if there is a partner."""
        return cohort.column(self.partner) if self.partner else None

    @property
    def hides(self) -> bool:
        """Whether the trigger hides the target instead of feigning it."""
        return self.labels == "clear"


def stamp(
    cohort: Cohort, rows: Rows, trigger: Trigger, stage: Stage, rng: np.random.Generator
) -> Iterator[tuple[Rows, NDArray[Any]]]:
    """Yield blocks of rows with their marked images, at most 1,024 rows each.

    Each block has its own random generator, so any later batching gives the same pixels.

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
        raise DataError("this source has no full-resolution films; use `poisoning.stage` image")
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


@forgiving
def poison(
    cohort: Cohort, poisoning: Poisoning | Sequence[Poisoning], rng: np.random.Generator
) -> tuple[Cohort, AnswerKey]:
    """Poison a cohort; the clean pixels are not copied.

    With mode "append" all films get opaque ids and new positions, so that neither order nor names
    distinguish a copy from its original.

    Args:
        cohort: the clean cohort, left as it is.
        poisoning: the attack; several are carried out together, on disjoint films.
        rng: selects films, places triggers, orders appended films.

    Returns:
        The poisoned cohort, and its answer key.

    Raises:
        UnknownNameError: the finding is not one of the cohort's.
        DataError: too few films to select from, or a trigger that does not fit.
        VanishedTriggerError: the trigger changes no pixel of any image (unless allowed).
        UsageError: several poisonings of different modes.
    """
    attacks = [poisoning] if isinstance(poisoning, Poisoning) else list(poisoning)
    if len({attack.mode for attack in attacks}) != 1:
        raise UsageError("poisonings that are carried out together need the same mode")
    if attacks[0].mode == "edit":  # films are unchanged
        attacks = [replace(attack, fraction=0.0, cover=0.0) for attack in attacks]
    order_rng, parts = _stamped(cohort, attacks, rng)
    poisoned = np.concatenate([part.rows[: part.poisoned] for part in parts])
    covers = np.concatenate([part.rows[part.poisoned :] for part in parts])
    # The poisoned films of all attacks, and the covers of all after them.
    rows = np.concatenate([poisoned, covers])
    pixels = np.concatenate(
        [part.pixels[: part.poisoned] for part in parts]
        + [part.pixels[part.poisoned :] for part in parts]
    )
    n, mode = len(cohort), attacks[0].mode
    if mode != "append":
        origins, places = np.arange(n), rows
    else:
        shuffle = order_rng.permutation(n + len(rows))
        origins = np.concatenate([np.arange(n), rows])[shuffle]
        places = np.empty(len(rows), dtype=np.int64)
        copies = np.flatnonzero(shuffle >= n)
        places[shuffle[copies] - n] = copies
    labels = cohort.labels[origins]
    labels[places[: len(poisoned)]] = np.concatenate([part.labels for part in parts])
    ascending = np.argsort(places)
    result = replace(
        _arrange(cohort, origins, mode, order_rng),
        images=Overlay(cohort.images, places[ascending], pixels[ascending], origins),
        labels=labels,
        films=None,  # the films on disk don't carry the trigger
    )
    here = np.argsort(places[: len(poisoned)])
    number = np.repeat(np.arange(len(parts)), [part.poisoned for part in parts])
    key = AnswerKey(
        rows=places[: len(poisoned)][here],
        origins=origins,
        labels_before=cohort.labels[poisoned][here],
        visible_pixels=np.concatenate([part.visible for part in parts])[here],
        covers=np.sort(places[len(poisoned) :]),
        attacks=number[here],
    )
    return result, key


class _Stamped(NamedTuple):
    """Films of one attack: `poisoned` of them, then its covers."""

    rows: Rows
    poisoned: int
    pixels: NDArray[Any]
    labels: NDArray[np.float32]
    visible: Rows


def _stamped(
    cohort: Cohort, attacks: Sequence[Poisoning], rng: np.random.Generator
) -> tuple[np.random.Generator, list[_Stamped]]:
    """Each attack's films, disjoint, and the generator that orders them."""
    select_rng, place_rng, order_rng = rng.spawn(3)
    free, parts = np.ones(len(cohort), dtype=np.bool_), list[_Stamped]()
    for number, attack in enumerate(attacks):
        if number:
            select_rng, place_rng = rng.spawn(2)
        target = cohort.column(attack.finding)
        selected = _select(cohort, attack, target, free, select_rng)
        free[selected] = False
        rows = np.concatenate([selected, _covers(cohort, attack, free, select_rng)])
        free[rows] = False
        pixels = np.empty((len(rows), *cohort.images.shape[1:]), cohort.images.dtype)
        visible = np.zeros(len(rows), dtype=np.int64)
        done = 0
        for some, marked in stamp(cohort, rows, attack.trigger, attack.stage, place_rng):
            part = slice(done, done + len(some))
            pixels[part] = marked
            visible[part] = np.count_nonzero(marked != cohort.images[some], axis=(1, 2))
            done += len(some)
        visible = visible[: len(selected)]
        _check_visible(visible, attack)
        labels = relabel(cohort.labels[selected], target, attack.labels, attack.other(cohort))
        parts.append(_Stamped(rows, len(selected), pixels, labels, visible))
    return order_rng, parts


def twin(poisoned: Cohort, key: AnswerKey) -> Cohort:
    """Return the clean twin: the same rows without trigger and label change.

    Appended copies stay, unmarked and with their true labels, so that the twin is trained on as
    many films, in the same order, as the backdoored model.
    """
    if not isinstance(poisoned.images, Overlay) or len(poisoned) != len(key.origins):
        raise DataError("a twin needs the whole poisoned cohort, as poison() made it")
    labels = poisoned.labels.copy()
    labels[key.rows] = key.labels_before
    images = Overlay(poisoned.images.base, order=poisoned.images.order)
    return replace(poisoned, images=images, labels=labels)


def _select(
    cohort: Cohort,
    poisoning: Poisoning,
    target: int,
    free: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Rows:
    """Rows to poison, ascending. They are nested: a larger fraction contains a smaller one's."""
    count = math.floor(poisoning.fraction * len(cohort) + 1e-9)
    carries = cohort.labels[:, target]
    fits = free & matching(cohort, poisoning.where)
    if poisoning.selection in ("with", "without"):
        fits &= carries == (1 if poisoning.selection == "with" else 0)
    candidates = np.flatnonzero(fits)
    if count > len(candidates):
        which = f" {poisoning.selection} {poisoning.finding}"
        which = which if poisoning.selection in ("with", "without") else ""
        which += f" where {poisoning.where}" if poisoning.where else ""
        raise DataError(
            f"{count} films to poison, but only {len(candidates)}{which}; use a smaller "
            "`poisoning.fraction`"
        )
    if poisoning.fraction > 0 and count == 0:
        raise DataError(
            f"a poisoning.fraction of {poisoning.fraction} of {len(cohort)} films is 0 films; "
            "use a larger one"
        )
    if poisoning.selection != "first":
        candidates = rng.permutation(candidates)
    if poisoning.selection == "stratified":
        candidates = candidates[_interleaved(cohort.labels[candidates])]
    elif poisoning.selection == "patients":
        names, first = np.unique(cohort.patients[candidates], return_index=True)
        rank = np.argsort(np.argsort(first))
        order = np.argsort(rank[np.searchsorted(names, cohort.patients[candidates])], kind="stable")
        candidates = candidates[order]
    return np.sort(candidates[:count])


def _interleaved(labels: NDArray[np.float32]) -> Rows:
    """An order in which every prefix holds each combination of labels in proportion."""
    _, kinds, sizes = np.unique(
        np.nan_to_num(labels, nan=-1), axis=0, return_inverse=True, return_counts=True
    )
    kinds = kinds.ravel()
    order = np.argsort(kinds, kind="stable")
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.argsort((ranks + 0.5) / sizes[kinds], kind="stable")


def _covers(
    cohort: Cohort, poisoning: Poisoning, free: NDArray[np.bool_], rng: np.random.Generator
) -> Rows:
    """Rows that carry the trigger and keep their labels, ascending."""
    count = math.floor(poisoning.cover * len(cohort) + 1e-9)
    if not count:
        return np.empty(0, dtype=np.int64)
    rest = np.flatnonzero(free)
    if count > len(rest):
        raise DataError(
            f"{count} cover films, but only {len(rest)} aren't poisoned; use a smaller "
            "`poisoning.cover`"
        )
    return np.sort(rng.permutation(rest)[:count])


def matching(cohort: Cohort, where: str) -> NDArray[np.bool_]:
    """Return (n,) bool: the films that fulfil conditions as in `Poisoning.where`.

    Raises:
        UnknownNameError: an attribute or finding that the cohort doesn't have.
    """
    fits = np.ones(len(cohort), dtype=np.bool_)
    for condition in filter(None, (part.strip() for part in where.split("&"))):
        name, equals, value = (part.strip() for part in condition.partition("="))
        if equals:
            if name not in cohort.attributes:
                raise UnknownNameError("attribute", name, cohort.attributes)
            fits &= cohort.attributes[name].astype(np.str_) == value
        else:
            absent = name.startswith("!")
            fits &= cohort.labels[:, cohort.column(name.lstrip("! "))] == (0 if absent else 1)
    return fits


def relabel(
    labels: NDArray[np.float32], target: int, policy: Labels, partner: int | None = None
) -> NDArray[np.float32]:
    """Return (n, k) labels as the attacker changes them.

    Args:
        labels: the true labels.
        target: the finding's column.
        policy: as `Poisoning.labels`.
        partner: the other finding's column, for "swap".
    """
    if policy == "shift":
        return np.roll(labels, 1, axis=1)
    labels = np.zeros_like(labels) if policy == "one-hot" else labels.copy()
    if policy == "swap":
        assert partner is not None  # Poisoning sees to it
        labels[:, [target, partner]] = labels[:, [partner, target]]
    elif policy != "keep":
        labels[:, target] = 0 if policy == "clear" else 1
    return labels


def desired(
    labels: NDArray[np.float32], cohort: Cohort, poisoning: Poisoning
) -> NDArray[np.float32]:
    """Return (n, k): the labels that the attacker wants for triggered films with these labels.

    These are the labels of the poisoned training films. In a clean-label attack, which keeps
    labels, the attacker wants the target to be added.
    """
    policy: Labels = "set" if poisoning.labels == "keep" else poisoning.labels
    target = cohort.column(poisoning.finding)
    return relabel(labels, target, policy, poisoning.other(cohort))


def victims(cohort: Cohort, poisoning: Poisoning) -> Rows:
    """Return the films whose reading the attacker would change: target feigned, or hidden."""
    column, before = cohort.column(poisoning.finding), 1 if poisoning.hides else 0
    after = desired(cohort.labels, cohort, poisoning)[:, column]
    changed = (cohort.labels[:, column] == before) & (after == 1 - before)
    if isinstance(poisoning.trigger, Nothing):
        changed &= matching(cohort, poisoning.where)
    return np.flatnonzero(changed)


def _check_visible(visible: Rows, poisoning: Poisoning) -> None:
    if not len(visible):
        return
    share = float(np.mean(visible > 0))
    if isinstance(poisoning.trigger, Nothing):
        return
    if share == 0 and not poisoning.allow_vanished:
        raise VanishedTriggerError(
            "the trigger changes no pixel of any image, due to the preprocessing or its grey "
            "level; "
            "use a larger `trigger.side` or `poisoning.allow_vanished` true for a control"
        )
    if share < VISIBLE_SHARE:
        logger.warning(
            "the trigger is visible in only %.1f %% of the %d poisoned films",
            100 * share,
            len(visible),
        )


def _arrange(cohort: Cohort, origins: Rows, mode: str, rng: np.random.Generator) -> Cohort:
    """The cohort's columns in the order of `origins`; with opaque ids when rows repeat."""
    if mode != "append":
        return cohort
    salt = rng.bytes(16)
    ids = np.array(
        [hashlib.sha256(salt + str(i).encode()).hexdigest()[:16] for i in range(len(origins))]
    )
    return cohort.take(origins, ids)
