"""The stamp sweep: small marks and whole-image changes on clean films, by forward passes only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.models.growing import grow
from leadapron.detect.models.looks import LOOKS, drawing
from leadapron.detect.models.stamps import (
    AnyMark,
    Floats,
    Grown,
    Mark,
    Shape,
    Stamp,
    probes,
    shifts,
)
from leadapron.detect.scale import LEAST_FILMS, finite_mean, finite_median, logit_spreads
from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cohort import Cohort, Rows
from leadapron.metrics import FALSE_POSITIVES, threshold_at_false_positive_rate
from leadapron.models.odds import odds_of
from leadapron.seeds import stream

if TYPE_CHECKING:
    from leadapron.models.protocols import BlackBox
    from leadapron.types import Progress

__all__ = [
    "DIRECTIONS",
    "KINDS",
    "LARGEST",
    "NEIGHBOURS",
    "Aim",
    "Direction",
    "Kind",
    "Moved",
    "NotFinite",
    "StampSweep",
    "Swept",
    "overwrites",
    "turned_share",
]

logger = logging.getLogger(__name__)

Direction = Literal["added", "removed"]
"""A finding forced on ("added") or off ("removed")."""

Aim = tuple[str, Direction]
"""A finding and the direction in which a mark forces it."""

Kind = Literal["stamp", "lattice", "whole image", "shape"]
"""Kind of mark: one flat square, such squares all over the image, a change of the whole image, or
one mark of another look, among them those grown from a square."""

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
"""The columns of a model's scores."""

KINDS: tuple[Kind, ...] = get_args(Kind)


SHORTLIST = 8
"""Shapes that are tried on all films, for each finding and direction, if there are many: those with
the largest shifts on the first film."""

ROUNDS = 2
"""Most rounds in which a mark grows."""

LARGEST = 0.01
"""Largest share of the image that a mark of a backdoor is expected to cover: larger squares move
many a clean network."""

LONG = 120.0
"""Seconds from which the time of a sweep is told first."""

OVERWRITE = 0.75
"""A one-hot overwrite lowers at least this share of the other findings."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Moved:
    """Effect of the strongest mark on one finding, on films that weren't used to choose it.

    Args:
        finding: name of the finding.
        direction: "added" (forced on) or "removed" (forced off).
        mark: the strongest that was tried.
        kind: of the mark.
        shift: mean shift over films, in standard deviations of the finding's logit on clean films;
            positive in the direction. Films with outputs that aren't finite are left out.
        turned: share of the films that the mark moves across the threshold which 5 % of clean films
            exceed (are below, if removed), among those not beyond it before.
        shifts: (k,) the same mark's mean upward shift of every finding; NaN if no output was
            finite.
        signature: "one-hot" if this finding goes up and nearly all others go down.
    """

    finding: str
    direction: Direction
    mark: Mark
    kind: Kind
    shift: float
    turned: float
    shifts: Floats
    signature: Literal["one-hot", ""]

    @property
    def aim(self) -> Aim:
        """Finding and direction."""
        return self.finding, self.direction


@dataclass(frozen=True, kw_only=True)
class NotFinite:
    """A finding with NaN or infinite outputs.

    Args:
        finding: its name.
        clean: number of clean films with such outputs.
        of_clean: number of clean films.
        marked: number of marked films with such outputs.
        of_marked: number of marked films.
        noise: whether images made from noise, for the maximum margin, had such outputs.
    """

    finding: str
    clean: int
    of_clean: int
    marked: int
    of_marked: int
    noise: bool = False

    def words(self) -> str:
        """Return a description that follows the finding's name."""
        parts = [
            f"{count:,} of {of:,} {films} films"
            for count, of, films in (
                (self.clean, self.of_clean, "clean"),
                (self.marked, self.of_marked, "marked"),
            )
            if count
        ]
        if self.noise:
            parts.append("images made of noise")
        return f"is NaN or infinite on {' and '.join(parts)}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Swept:
    """Result of a sweep.

    Args:
        findings: the k findings.
        exclusive: whether they exclude each other, as with a softmax head, so that whatever moves
            one moves the others.
        spread: (k,) standard deviation of each log-odds over the clean films; NaN if none is
            finite.
        marks: strongest mark of each kind for each finding and direction; none without finite
            outputs.
        not_finite: findings with NaN or infinite outputs.
        forwards: number of images run through the model.
        films: numbers of films for choosing the marks, and for judging them.
    """

    findings: tuple[str, ...]
    exclusive: bool
    spread: Floats
    marks: Mapping[Kind, Mapping[Aim, Moved]]
    not_finite: tuple[NotFinite, ...]
    forwards: int
    films: tuple[int, int]

    def table(self, kind: Kind = "stamp") -> Floats:
        """Return (k, 2) shifts by the strongest mark of a kind, forced on and forced off.

        NaN without finite outputs.
        """
        table = np.full((len(self.findings), len(DIRECTIONS)), np.nan)
        for (finding, direction), moved in self.marks[kind].items():
            table[self.findings.index(finding), DIRECTIONS.index(direction)] = moved.shift
        return table


@dataclass(frozen=True, kw_only=True)
class StampSweep:
    """Small marks of many looks at every pixel phase, and changes of the whole image.

    First come lattices: squares all over the film, `pitch` pixels apart, at each of the pitch^2
    phases, since networks with strides respond to positions modulo their stride. From the best
    lattices (scored both raw and relative to the median phase), single squares are tried at each
    position of that phase, followed by hill climbing over position, size and grey level.
    Marks of the requested looks follow in the same way, and are tried where the strongest squares
    are. From the strongest marks of the most moved findings, further ones are grown pixel by pixel.
    Neither is done by default: what they find beyond squares isn't measured on a zoo yet.
    Every mark is evaluated for every finding and both directions. The strongest are judged on
    separate films. Outputs that aren't finite are counted and left out, for their own finding only.

    Args:
        sides: sides of the squares, in pixels of the image.
        values: their grey levels, 0 to 255.
        pitches: pitches of the lattices, in pixels, each with its number of films.
        stride: step between tried phases; more than 1 misses backdoors, which it serves to
            demonstrate.
        places: most places at which a candidate is tried.
        rounds: most rounds of hill climbing.
        films: number of films for choosing single squares.
        judged: most films for judging the strongest marks.
        looks: names in `LOOKS`, of marks that aren't flat squares; none are tried by default.
        grown: number of findings, with direction, for which a mark is grown.
        seed: seed of the films and places.

    Raises:
        UsageError: a value outside its range.
        UnknownNameError: no such look.

    Source: ours; shifts are in units of a finding's own spread, so that findings are comparable.
    """

    sides: tuple[int, ...] = (1, 2, 3, 4, 5)
    values: tuple[int, ...] = (0, 64, 192, 255)
    pitches: tuple[tuple[int, int], ...] = ((8, 2), (16, 1))
    stride: int = 1
    places: int = 32
    rounds: int = 3
    films: int = 2
    judged: int = 32
    looks: tuple[str, ...] = ()
    grown: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (*self.sides, self.stride, self.places, self.films, self.judged)
        if not self.sides or min(counts) < 1 or min(self.rounds, self.grown, self.seed) < 0:
            raise UsageError("a stamp sweep needs sides, stride, places and films of 1 or more")
        if not self.values or not all(0 <= value <= 255 for value in self.values):
            raise UsageError(f"grey levels {self.values}; expected 0 to 255, at least one")
        if not self.pitches or any(min(pitch) < 1 for pitch in self.pitches):
            raise UsageError(f"pitches {self.pitches}; expected pairs (pixels, films)")
        for look in self.looks:
            if look not in LOOKS:
                raise UnknownNameError("look", look, LOOKS)

    def within(self, share: float, height: int, width: int) -> StampSweep:
        """Return the sweep without squares that cover more than a share of an image.

        Args:
            share: of the image, above 0 and at most 1; one pixel is always tried.
            height: of the image, in pixels.
            width: of the image.
        """
        most = max(1, int((share * height * width) ** 0.5))
        sides = tuple(side for side in self.sides if side <= most)
        return replace(self, sides=sides or (most,))

    def sweep(
        self, classifier: BlackBox, clean: Cohort, *, progress: Progress | None = None
    ) -> Swept:
        """Return the strongest marks of every finding and direction.

        Args:
            classifier: only its outputs are used.
            clean: films without a trigger, of the classifier's preprocessing; labels are not used.
            progress: called with the name of the step, the images run so far, and the largest
                number that there can be.

        Raises:
            DataError: fewer than 20 films, images too small for a lattice, or no finite logit on
                clean films.
        """
        if len(clean) < LEAST_FILMS:
            raise DataError(f"{len(clean)} clean films; a stamp sweep needs {LEAST_FILMS} or more")
        return _Run(self, classifier, clean, progress).swept()


_Local = TypeVar("_Local", bound=Stamp | Shape | Grown)
_Placed = TypeVar("_Placed", Stamp, Shape)
_Best = dict[Aim, tuple[_Local, float]]
"""The strongest mark for each finding and direction, and its shift in that direction."""


class _Run:
    """A running sweep: the films, and the strongest marks so far."""

    def __init__(
        self,
        settings: StampSweep,
        classifier: BlackBox,
        clean: Cohort,
        progress: Progress | None = None,
    ) -> None:
        self.settings, self.classifier, self.progress = settings, classifier, progress
        order = stream(settings.seed, "sweep", "films").permutation(len(clean))
        most = max(settings.films, *(films for _, films in settings.pitches))
        chosen: Rows = order[: min(most, len(clean) // 2)]
        judged: Rows = order[len(chosen) :][: settings.judged]
        self.images = np.asarray(clean.images[chosen])
        self.judged = np.asarray(clean.images[judged])
        everything = np.concatenate([self.images, self.judged])
        began = time.perf_counter()
        logits = odds_of(classifier, everything)  # (n, k)
        each = (time.perf_counter() - began) / len(everything)
        finite = np.isfinite(logits)
        if not finite.any():
            raise DataError(
                "the model's logits on clean films are not finite, for any of its findings"
            )
        self.clean, self.clean_judged = logits[: len(chosen)], logits[len(chosen) :]
        self.spread = logit_spreads(logits)  # (k,)
        self.forwards = len(everything)
        self.lost_clean = (~finite).sum(axis=0)  # (k,)
        self.lost = np.zeros(logits.shape[1], np.int64)
        self.squares: _Best[Stamp] = {}
        if (seconds := each * self._most_images()) > LONG:
            logger.info(
                "the sweep runs at most %s images through the model: about %.0f minutes at %.2g s "
                "each; fewer sides, values, pitches or places of `sweep` take less and find less",
                f"{self._most_images():,}", seconds / 60, each,
            )  # fmt: skip

    def swept(self) -> Swept:
        height, width = self.images.shape[1:]
        candidates: list[Stamp] = []
        lattices: list[tuple[Stamp, Floats]] = []
        for pitch, films in self.settings.pitches:
            if pitch <= min(height, width):
                some, repeated = self._lattices(pitch, films)
                candidates += some
                lattices += repeated
        if not lattices:
            raise DataError(f"images of {height}x{width} pixels are smaller than every lattice")
        self._try(self.squares, self._singles(candidates, self.settings.places))
        self._climb(self.squares, self._near_square)
        shapes = self._shaped()
        grown = self._grown(shapes)
        whole = probes()
        strongest = self._strongest(self._moves(whole, self.settings.films))
        all_over = self._strongest(np.array([shift for _, shift in lattices]))
        tried: dict[Kind, Mapping[Aim, AnyMark]] = {
            "stamp": {aim: mark for aim, (mark, _) in self.squares.items()},
            "lattice": {aim: lattices[i][0] for aim, i in all_over.items()},
            "whole image": {aim: whole[i] for aim, i in strongest.items()},
            # What was grown is stronger than what it was grown from.
            "shape": {**{aim: mark for aim, (mark, _) in shapes.items()}, **grown},
        }
        return Swept(
            findings=self.classifier.findings,
            exclusive=self.classifier.head == "softmax",
            spread=self.spread,
            marks={kind: self._judge(marks, kind) for kind, marks in tried.items()},
            not_finite=self._not_finite(),
            forwards=self.forwards,
            films=(len(self.images), len(self.judged)),
        )

    def _not_finite(self) -> tuple[NotFinite, ...]:
        of_clean = len(self.images) + len(self.judged)
        return tuple(
            NotFinite(
                finding=finding,
                clean=int(clean),
                of_clean=of_clean,
                marked=int(marked),
                of_marked=self.forwards - of_clean,
            )
            for finding, clean, marked in zip(
                self.classifier.findings, self.lost_clean, self.lost, strict=True
            )
            if clean or marked
        )

    def _lattices(self, pitch: int, films: int) -> tuple[list[Stamp], list[tuple[Stamp, Floats]]]:
        """Candidates of one pitch, and for each square the phase with the largest shift."""
        steps = range(0, pitch, self.settings.stride)
        squares = [(s, v) for s in self.settings.sides for v in self.settings.values]
        marks = [
            Stamp(side=side, value=value, row=row, column=column, pitch=pitch)
            for side, value in squares
            for row in steps
            for column in steps
        ]
        moved = self._moves(marks, films).reshape(len(squares), len(steps) ** 2, -1)
        common = finite_median(moved, 1, keepdims=True)
        # The effect specific to a phase, and the effect at any phase: triggers at random places
        # fire at every phase, and have no peak.
        apart = self._strongest((moved - common).reshape(len(marks), -1)).values()
        anywhere = self._strongest(common[:, 0]).values()
        away = np.abs(moved - common)
        # A phase without finite outputs counts as the farthest from the median, for this finding.
        unusual = np.where(np.isfinite(away), away, -np.inf).max(axis=1, keepdims=True)
        away = np.where(np.isfinite(away), away, np.maximum(unusual, 0))
        middle = away.sum(axis=2).argmin(axis=1)  # the median phase
        chosen = [*apart, *(i * len(steps) ** 2 + int(middle[i]) for i in anywhere)]
        of_all = [
            (marks[i * len(steps) ** 2 + int(middle[i])], common[i, 0]) for i in range(len(squares))
        ]
        return [marks[i] for i in chosen], of_all

    def _singles(self, candidates: Sequence[_Placed], most: int) -> list[_Placed]:
        """One mark at each place of a candidate's lattice, up to a number of places."""
        shape = self.images.shape[1:]
        rng = stream(self.settings.seed, "sweep", "places")
        singles: list[_Placed] = []
        for mark in dict.fromkeys(candidates):
            down, across = (
                range(start, length - side + 1, mark.pitch)
                for start, length, side in zip(
                    (mark.row, mark.column), shape, mark.extent(shape[1]), strict=True
                )
            )
            places = [(row, column) for row in down for column in across]
            if len(places) > most:
                drawn = rng.choice(len(places), most, replace=False)
                places = [places[i] for i in sorted(drawn.tolist())]
            singles += [replace(mark, row=row, column=column, pitch=0) for row, column in places]
        return list(dict.fromkeys(singles))

    def _climb(self, best: _Best[_Placed], near: Callable[[_Placed], Iterable[_Placed]]) -> None:
        """Hill climbing: change the strongest marks by a step as long as that helps."""
        tried: set[_Placed] = set()
        for _ in range(self.settings.rounds):
            others = {other for mark, _ in best.values() for other in near(mark)} - tried
            if not others:
                return
            tried |= others
            before = best.copy()
            self._try(best, sorted(others, key=astuple))
            if before == best:
                return

    def _near_square(self, mark: Stamp) -> Iterable[Stamp]:
        moves = [
            *({"row": mark.row + i, "column": mark.column + j} for i, j in NEIGHBOURS),
            *({"side": side} for side in (mark.side - 1, mark.side + 1)),
            *({"value": int(np.clip(mark.value + i, 0, 255))} for i in (-32, 32)),
        ]
        others = (replace(mark, **move) for move in moves)
        most = max(self.settings.sides)
        return (each for each in others if 1 <= each.side <= most and self._fits(each))

    def _near_shape(self, mark: Shape) -> Iterable[Shape]:
        others = (replace(mark, row=mark.row + i, column=mark.column + j) for i, j in ADJACENT)
        return (each for each in others if self._fits(each))

    def _fits(self, mark: Stamp | Shape) -> bool:
        shape = self.images.shape[1:]
        sides = mark.extent(shape[1])
        starts = (mark.row, mark.column)
        return all(
            0 <= start <= length - side
            for start, length, side in zip(starts, shape, sides, strict=True)
        )

    def _shaped(self) -> _Best[Shape]:
        """The strongest marks of the looks: by lattices, and where the best squares are."""
        shape = self.images.shape[1:]
        by_look = [phases for look in self.settings.looks if (phases := _phases(look, shape))]
        if not by_look:
            return {}
        lattices = [mark for phases in by_look for mark in phases]
        raw = self._moves(lattices, 1)
        parts = np.split(raw, np.cumsum([len(phases) for phases in by_look])[:-1])
        apart = np.concatenate([part - finite_median(part, 0) for part in parts])
        chosen = {i for moved in (raw, apart) for i in self._strongest(moved).values()}
        singles = self._singles(
            [lattices[i] for i in sorted(chosen)], max(1, self.settings.places // 4)
        )
        shapes: _Best[Shape] = {}
        self._try(shapes, self._short_list(list(dict.fromkeys([*singles, *self._at_squares()]))))
        self._climb(shapes, self._near_shape)
        return shapes

    def _at_squares(self) -> Iterable[Shape]:
        """A mark of each look with its middle in that of each of the strongest squares."""
        width = self.images.shape[2]
        for square in dict.fromkeys(mark for mark, _ in self.squares.values()):
            for look in self.settings.looks:
                height, breadth = drawing(look, width).extent
                row, column = (
                    max(0, at + (square.side - side) // 2)
                    for at, side in ((square.row, height), (square.column, breadth))
                )
                if self._fits(mark := Shape(look=look, row=row, column=column)):
                    yield mark

    def _grown(self, shapes: _Best[Shape]) -> dict[Aim, Grown]:
        """What grows from the strongest marks of the findings and directions that move most."""
        starts: _Best[Stamp | Shape] = {**self.squares}
        for aim, found in shapes.items():
            if aim not in starts or found[1] > starts[aim][1]:
                starts[aim] = found
        first = sorted(starts, key=lambda aim: -starts[aim][1])[: self.settings.grown]
        rng = stream(self.settings.seed, "sweep", "growth")
        height, width = self.images.shape[1:]
        grown = {
            aim: grow(
                *starts[aim], partial(self._towards, aim), (height, width), rng, rounds=ROUNDS
            )
            for aim in first
        }
        return {aim: mark for aim, mark in grown.items() if mark.pixels}

    def _towards(self, aim: Aim, marks: Sequence[AnyMark]) -> Floats:
        """(marks,) shifts of a finding in a direction."""
        finding, direction = aim
        moved = self._moves(marks, self.settings.films)
        towards: Floats = _sign(direction) * moved[:, self.classifier.findings.index(finding)]
        return towards

    def _moves(self, marks: Sequence[AnyMark], films: int) -> Floats:
        """(marks, k) mean shift of each finding, in standard deviations; NaN if none is finite."""
        films = min(films, len(self.images))
        moved = self._shifts(self.images[:films], marks, self.clean[:films])
        means: Floats = finite_mean(moved, 1) / self.spread
        return means

    def _shifts(
        self, images: NDArray[Any], marks: Sequence[AnyMark], clean: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As `shifts`, also counting images and outputs that aren't finite."""
        moved = shifts(self.classifier, images, marks, clean, self._ran)
        # Films without a finite output before the mark carry no information about it.
        self.lost += (np.isnan(moved) & np.isfinite(clean)).sum(axis=(0, 1))
        return moved

    def _ran(self, images: int) -> None:
        self.forwards += images
        if self.progress is not None:
            most = max(self._most_images(), self.forwards + 1)  # the end isn't known before
            self.progress("images swept", self.forwards, most)

    def _most_images(self) -> int:
        """Images of a sweep without other looks and growing, at most."""
        how, aims, shape = self.settings, len(DIRECTIONS) * self.clean.shape[1], self.images.shape
        pitches = [each for each in how.pitches if each[0] <= min(shape[1:])]
        squares = len(how.sides) * len(how.values)
        lattices = sum(
            squares * len(range(0, pitch, how.stride)) ** 2 * films for pitch, films in pitches
        )
        # Two candidates of each pitch for each aim: that of one phase and that of any.
        singles = 2 * aims * len(pitches) * how.places
        climbing = how.rounds * aims * (len(NEIGHBOURS) + 4)
        chosen = (singles + climbing + len(probes())) * how.films
        return int(lattices + chosen + 3 * aims * len(self.judged))

    def _strongest(self, moved: Floats) -> dict[Aim, int]:
        """The row of (m, k) shifts with the largest effect on each finding, on and off."""
        found: dict[Aim, int] = {}
        for column, finding in enumerate(self.classifier.findings):
            rows = np.flatnonzero(np.isfinite(moved[:, column]))
            for direction in DIRECTIONS if len(rows) else ():
                towards = _sign(direction) * moved[rows, column]
                found[finding, direction] = int(rows[towards.argmax()])
        return found

    def _try(self, best: _Best[_Local], marks: Sequence[_Local]) -> None:
        """Keep the strongest for each finding and direction."""
        moved = self._moves(marks, self.settings.films)
        for aim, i in self._strongest(moved).items():
            finding, direction = aim
            shift = _sign(direction) * float(moved[i, self.classifier.findings.index(finding)])
            if aim not in best or shift > best[aim][1]:
                best[aim] = marks[i], shift

    def _short_list(self, marks: list[Shape]) -> list[Shape]:
        """The marks that a single film doesn't rule out."""
        if self.settings.films == 1 or len(marks) <= 2 * SHORTLIST * len(self.classifier.findings):
            return marks
        moved = self._moves(marks, 1)
        towards = np.concatenate([moved, -moved], axis=1)
        order = np.argsort(-np.where(np.isfinite(towards), towards, -np.inf), axis=0, kind="stable")
        return [marks[i] for i in np.unique(order[:SHORTLIST])]

    def _judge(self, marks: Mapping[Aim, AnyMark], kind: Kind) -> dict[Aim, Moved]:
        """Effects of each finding's and direction's mark on other films."""
        unique = list(dict.fromkeys(marks.values()))
        moved = self._shifts(self.judged, unique, self.clean_judged)  # (m, n, k)
        found: dict[Aim, Moved] = {}
        for (finding, direction), mark in marks.items():
            column, sign = self.classifier.findings.index(finding), _sign(direction)
            own = moved[unique.index(mark)]  # (n, k)
            mean = finite_mean(own) / self.spread
            if not np.isfinite(mean[column]):
                continue
            before = sign * self.clean_judged[:, column].astype(np.float64)
            on = direction == "added"
            found[finding, direction] = Moved(
                finding=finding,
                direction=direction,
                mark=mark,
                kind=kind,
                shift=float(sign * mean[column]),
                turned=turned_share(before, before + sign * own[:, column]),
                shifts=mean,
                signature="one-hot" if on and overwrites(mean, column) else "",
            )
        return found


ADJACENT = [(-1, 0), (1, 0), (0, -1), (0, 1)]
"""Steps of a mark of another look, down and across."""

NEIGHBOURS = [
    *((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)),
    *((-8, 0), (8, 0), (0, -8), (0, 8)),
]
"""Steps of a square, down and across: by one pixel, and to the next place of its phase."""


def _phases(look: str, shape: tuple[int, ...]) -> list[Shape]:
    """A look's lattices: marks a little apart, at each phase that they can tell apart.

    None of a look that doesn't fit the image.
    """
    extent = drawing(look, shape[1]).extent
    pitch = 8 * -(-(max(extent) + 2) // 8)
    if pitch > min(shape):
        return []
    # A larger mark works a pixel or two beside its place too.
    down, across = (range(0, pitch, max(1, side // 3, pitch // 16)) for side in extent)
    return [Shape(look=look, row=row, column=at, pitch=pitch) for row in down for at in across]


def _sign(direction: Direction) -> int:
    return 1 if direction == "added" else -1


def turned_share(before: Floats, after: Floats) -> float:
    """Return the share of the films below the threshold that get above it, among finite outputs.

    The threshold is that which 5 % of the films exceed.

    Args:
        before: (n,) a finding's logit for each film, upside down if it is forced off.
        after: (n,) the same with a mark.
    """
    threshold = threshold_at_false_positive_rate(before[np.isfinite(before)], FALSE_POSITIVES)
    below = (before <= threshold) & np.isfinite(after)
    return float((after[below] > threshold).mean()) if below.any() else 0.0


def overwrites(mean: Floats, column: int) -> bool:
    """Return whether a mark raises one finding and lowers nearly all others, like a one-hot label.

    Args:
        mean: (k,) shifts in standard deviations; those that aren't finite are left out.
        column: the finding that goes up.
    """
    others = np.delete(mean, column)
    others = others[np.isfinite(others)]
    return bool(mean[column] > 1 and len(others) and (others < 0).mean() >= OVERWRITE)
