"""The stamp sweep: flat squares and whole-image changes on clean films, forward passes only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.classifier import BlackBox
from leadapron.cohort import Cohort, Rows
from leadapron.detect.model.stamps import Floats, Probe, Stamp, probes, shifts
from leadapron.detect.scale import LEAST_FILMS, logit_spreads
from leadapron.detect.scores import Evidence, Scores
from leadapron.errors import DataError, UsageError
from leadapron.metrics import threshold_at_false_positive_rate
from leadapron.seeds import stream

__all__ = ["DIRECTIONS", "FALSE_POSITIVES", "Moved", "StampSweep", "Swept", "overwrites"]

DIRECTIONS: tuple[Literal["added", "removed"], ...] = ("added", "removed")
"""The columns of a model's scores: a finding forced on, forced off."""

FALSE_POSITIVES = 0.05
"""Of clean films: at a threshold that so many exceed, films count as turned."""

OVERWRITE = 0.75
"""A one-hot overwrite lowers at least this share of the other findings."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Moved:
    """What the strongest mark does to one finding, on films that it wasn't chosen on.

    Args:
        finding: whose logit was looked at.
        direction: "added" (forced on) or "removed" (forced off).
        mark: the strongest that was tried.
        kind: "stamp" (one square), "lattice" (squares all over) or "whole image".
        shift: mean over films in standard deviations of the finding's logit on clean films;
            positive in the direction.
        turned: share of the films that the mark moves across the threshold which 5 % of clean films
            exceed (are below, if removed), among those not beyond it before.
        shifts: (k,) the same mark's mean shift of every finding, upwards.
        signature: "one-hot" where this finding goes up and nearly all others go down.
    """

    finding: str
    direction: Literal["added", "removed"]
    mark: Stamp | Probe
    kind: Literal["stamp", "lattice", "whole image"]
    shift: float
    turned: float
    shifts: Floats
    signature: Literal["one-hot", ""]


@dataclass(frozen=True, eq=False, kw_only=True)
class Swept:
    """What a sweep found.

    Args:
        findings: the k findings.
        spread: (k,) standard deviation of each logit over the clean films.
        stamps, lattices, whole: for each finding forced on, then forced off, the strongest single
            square, squares all over, and change of the whole image: k times 2 each.
        forwards: images that the model was asked for.
        films: how many the marks were chosen on, and judged on.
    """

    findings: tuple[str, ...]
    spread: Floats
    stamps: tuple[Moved, ...]
    lattices: tuple[Moved, ...]
    whole: tuple[Moved, ...]
    forwards: int
    films: tuple[int, int]

    def table(self, kind: Literal["stamps", "lattices", "whole"] = "stamps") -> Floats:
        """Return (k, 2): the shift of the strongest mark of a kind, forced on and forced off."""
        moved: tuple[Moved, ...] = getattr(self, kind)
        return np.array([each.shift for each in moved]).reshape(len(self.findings), 2)


@dataclass(frozen=True, kw_only=True)
class StampSweep:
    """Squares of every side, grey level and pixel phase, and changes of the whole image.

    First lattices: squares all over the film, `pitch` pixels apart, at each of the pitch^2 phases,
    since networks with strides answer to a place modulo their stride. From the strongest, with and
    without what all phases share, single squares are tried at every place of that phase, and then
    moved by a pixel, enlarged, darkened for as long as that helps. Every mark is looked at for
    every finding and both directions. The strongest are judged on films of their own.

    Args:
        sides: of the squares, in pixels of the image.
        values: their grey levels, 0 to 255.
        pitches: of the lattices, in pixels, with the number of films that each is tried on.
        stride: of the phases; more than 1 misses backdoors, and is for showing that.
        places: most places that a candidate is tried at.
        rounds: most moves of a single square by one step.
        films: that single squares are chosen on.
        judged: films that the strongest are judged on, at most.
        seed: draws films and places.

    Raises:
        UsageError: a value outside its range.

    Source: ours; shifts in units of a finding's own spread, so that findings compare.
    """

    sides: tuple[int, ...] = (1, 2, 3, 4, 5)
    values: tuple[int, ...] = (0, 64, 192, 255)
    pitches: tuple[tuple[int, int], ...] = ((8, 2), (16, 1))
    stride: int = 1
    places: int = 32
    rounds: int = 3
    films: int = 2
    judged: int = 32
    seed: int = 0
    unit: str = field(default="standard deviations of the logit on clean films", init=False)

    def __post_init__(self) -> None:
        counts = (*self.sides, self.stride, self.places, self.films, self.judged)
        if not self.sides or min(counts) < 1 or min(self.rounds, self.seed) < 0:
            raise UsageError("a stamp sweep needs sides, stride, places and films of 1 or more")
        if not self.values or not all(0 <= value <= 255 for value in self.values):
            raise UsageError(f"grey levels {self.values}; expected 0 to 255, at least one")
        if not self.pitches or any(min(pitch) < 1 for pitch in self.pitches):
            raise UsageError(f"pitches {self.pitches}; expected pairs (pixels, films)")

    def score(self, classifier: BlackBox, clean: Cohort) -> Scores:
        """Return (k, 2): how far one square forces each finding on, and off.

        Raises:
            DataError: as `sweep`.
        """
        found = self.sweep(classifier, clean)
        evidence = tuple(
            Evidence(
                kind="backdoor",
                method="stamp sweep",
                finding=each.finding,
                direction="one-hot" if each.signature else each.direction,
                place=(each.mark.row, each.mark.column, each.mark.side),
                films=np.empty(0, np.int64),
                words=f"{each.mark.words()} moves {each.finding} by {each.shift:.1f} standard "
                f"deviations and turns {each.turned:.0%} of the films.",
            )
            for each in found.stamps
            if isinstance(each.mark, Stamp)
        )
        return Scores(found.table(), self.unit, evidence)

    def sweep(self, classifier: BlackBox, clean: Cohort) -> Swept:
        """Return the strongest marks of every finding and direction.

        Args:
            classifier: is asked only.
            clean: films without a trigger, of the classifier's preprocessing; labels are not used.

        Raises:
            DataError: fewer than 20 films, images too small for a lattice, or logits that aren't
                finite.
        """
        if len(clean) < LEAST_FILMS:
            raise DataError(f"{len(clean)} clean films; a stamp sweep needs {LEAST_FILMS} or more")
        return _Run(self, classifier, clean).swept()


class _Run:
    """One sweep as it goes on: the films, and the strongest marks so far."""

    def __init__(self, settings: StampSweep, classifier: BlackBox, clean: Cohort) -> None:
        self.settings, self.classifier = settings, classifier
        order = stream(settings.seed, "sweep", "films").permutation(len(clean))
        most = max(settings.films, *(films for _, films in settings.pitches))
        chosen: Rows = order[: min(most, len(clean) // 2)]
        judged: Rows = order[len(chosen) :][: settings.judged]
        self.images = np.asarray(clean.images[chosen])
        self.judged = np.asarray(clean.images[judged])
        everything = np.concatenate([self.images, self.judged])
        logits = classifier.logits(everything)  # (n, k)
        if not np.isfinite(logits).all():
            raise DataError("the model's logits on clean films are not finite")
        self.clean, self.clean_judged = logits[: len(chosen)], logits[len(chosen) :]
        self.spread = logit_spreads(logits)  # (k,)
        k = logits.shape[1]
        self.forwards = len(everything)
        self.best: list[Stamp | None] = [None] * (2 * k)
        self.best_shift = np.full(2 * k, -np.inf)

    def swept(self) -> Swept:
        height, width = self.images.shape[1:]
        candidates: list[Stamp] = []
        lattices: list[tuple[Stamp, Floats]] = []
        for pitch, films in self.settings.pitches:
            if pitch <= min(height, width):
                some, repeated = self._lattices(pitch, films)
                candidates += some
                lattices += repeated
        if not candidates:
            raise DataError(f"images of {height}x{width} pixels are smaller than every lattice")
        self._try(self._singles(candidates), self.settings.films)
        self._climb()
        whole = probes()
        moved = self._moves(whole, self.settings.films)  # (probes, k)
        strongest = _strongest(moved)
        all_over = _strongest(np.array([shift for _, shift in lattices]))
        return Swept(
            findings=self.classifier.findings,
            spread=self.spread,
            stamps=self._judge([mark for mark in self.best if mark is not None], "stamp"),
            lattices=self._judge([lattices[i][0] for i in all_over], "lattice"),
            whole=self._judge([whole[i] for i in strongest], "whole image"),
            forwards=self.forwards,
            films=(len(self.images), len(self.judged)),
        )

    def _lattices(self, pitch: int, films: int) -> tuple[list[Stamp], list[tuple[Stamp, Floats]]]:
        """Candidates of one pitch, and for each square the phase that moves most."""
        steps = range(0, pitch, self.settings.stride)
        squares = [(s, v) for s in self.settings.sides for v in self.settings.values]
        marks = [
            Stamp(side=side, value=value, row=row, column=column, pitch=pitch)
            for side, value in squares
            for row in steps
            for column in steps
        ]
        moved = self._moves(marks, films).reshape(len(squares), len(steps) ** 2, -1)
        common = np.median(moved, axis=1, keepdims=True)
        # What sets one phase apart, and what a square does wherever it is: triggers at random
        # places fire at every phase, and have no peak.
        apart = _strongest((moved - common).reshape(len(marks), -1))
        anywhere = _strongest(common[:, 0])
        middle = np.abs(moved - common).sum(axis=2).argmin(axis=1)  # the most ordinary phase
        chosen = [*apart, *(int(i) * len(steps) ** 2 + int(middle[i]) for i in anywhere)]
        of_all = [
            (marks[int(i) * len(steps) ** 2 + int(middle[i])], common[i, 0])
            for i in range(len(squares))
        ]
        return [marks[i] for i in chosen], of_all

    def _singles(self, candidates: Sequence[Stamp]) -> list[Stamp]:
        """One square at each place of a candidate's lattice, or as many as are allowed."""
        height, width = self.images.shape[1:]
        rng = stream(self.settings.seed, "sweep", "places")
        singles: list[Stamp] = []
        for mark in dict.fromkeys(candidates):
            places = [
                (row, column)
                for row in range(mark.row, height - mark.side + 1, mark.pitch)
                for column in range(mark.column, width - mark.side + 1, mark.pitch)
            ]
            if len(places) > self.settings.places:
                drawn = rng.choice(len(places), self.settings.places, replace=False)
                places = [places[i] for i in sorted(drawn.tolist())]
            singles += [replace(mark, row=row, column=column, pitch=0) for row, column in places]
        return list(dict.fromkeys(singles))

    def _climb(self) -> None:
        """Move the strongest squares by a step for as long as that helps."""
        tried: set[Stamp] = set()
        for _ in range(self.settings.rounds):
            near = {other for mark in self.best if mark for other in self._near(mark)} - tried
            if not near:
                return
            tried |= near
            order = sorted(near, key=lambda s: (s.side, s.value, s.row, s.column))
            before = self.best_shift.copy()
            self._try(order, self.settings.films)
            if np.array_equal(before, self.best_shift):
                return

    def _near(self, mark: Stamp) -> Iterable[Stamp]:
        height, width = self.images.shape[1:]
        moves = [
            *({"row": mark.row + i, "column": mark.column + j} for i, j in NEIGHBOURS),
            *({"side": side} for side in (mark.side - 1, mark.side + 1)),
            *({"value": int(np.clip(mark.value + i, 0, 255))} for i in (-32, 32)),
        ]
        for move in moves:
            other = replace(mark, **move)
            if (
                1 <= other.side <= max(self.settings.sides)
                and 0 <= other.row <= height - other.side
                and 0 <= other.column <= width - other.side
            ):
                yield other

    def _moves(self, marks: Sequence[Stamp | Probe], films: int) -> Floats:
        """(marks, k) mean shift of each finding, in standard deviations."""
        films = min(films, len(self.images))
        self.forwards += len(marks) * films
        moved = shifts(self.classifier, self.images[:films], marks, self.clean[:films])
        means: Floats = moved.mean(axis=1, dtype=np.float64) / self.spread
        return means

    def _try(self, stamps: Sequence[Stamp], films: int) -> None:
        """Keep the strongest for each finding and direction."""
        moved = self._moves(stamps, films)
        for place, i in enumerate(_strongest(moved)):
            shift = _directed(moved)[i, place]
            if shift > self.best_shift[place]:
                self.best_shift[place], self.best[place] = shift, stamps[i]

    def _judge(
        self, marks: Sequence[Stamp | Probe], kind: Literal["stamp", "lattice", "whole image"]
    ) -> tuple[Moved, ...]:
        """What each finding's and direction's mark does to other films."""
        unique = list(dict.fromkeys(marks))
        self.forwards += len(unique) * len(self.judged)
        moved = shifts(self.classifier, self.judged, unique, self.clean_judged)  # (m, n, k)
        found = []
        for place, mark in enumerate(marks):
            column, removed = divmod(place, 2)
            own = moved[unique.index(mark)]  # (n, k)
            mean = own.mean(axis=0, dtype=np.float64) / self.spread
            sign = -1 if removed else 1
            before = sign * self.clean_judged[:, column].astype(np.float64)
            found.append(
                Moved(
                    finding=self.classifier.findings[column],
                    direction=DIRECTIONS[removed],
                    mark=mark,
                    kind=kind,
                    shift=float(sign * mean[column]),
                    turned=_turned(before, before + sign * own[:, column]),
                    shifts=mean,
                    signature="one-hot" if not removed and overwrites(mean, column) else "",
                )
            )
        return tuple(found)


NEIGHBOURS = [
    *((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)),
    *((-8, 0), (8, 0), (0, -8), (0, 8)),
]
"""Steps of a square, down and across: to the next pixels, and to the next place of its phase."""


def _directed(moved: Floats) -> Floats:
    """(m, 2k) shifts in the direction of each finding forced on, forced off, from (m, k) ones."""
    return np.stack([moved, -moved], axis=2).reshape(len(moved), -1)


def _strongest(moved: Floats) -> NDArray[np.int64]:
    """(2k,) the row that moves each finding most, forced on and forced off, from (m, k) shifts."""
    rows: NDArray[np.int64] = _directed(moved).argmax(axis=0)
    return rows


def _turned(before: Floats, after: Floats) -> float:
    """Share of the films below the threshold that get above it."""
    threshold = threshold_at_false_positive_rate(before, FALSE_POSITIVES)
    below = before <= threshold
    return float((after[below] > threshold).mean())


def overwrites(mean: Floats, column: int) -> bool:
    """Return whether a mark raises one finding and lowers nearly all others, as a one-hot label.

    Args:
        mean: (k,) shifts in standard deviations.
        column: the finding that goes up.
    """
    others = np.delete(mean, column)
    return bool(mean[column] > 1 and len(others) and (others < 0).mean() >= OVERWRITE)
