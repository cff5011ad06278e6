"""Three questions for each mark whose films are tied to a label.

(a) Is it tied to the label beyond what this source's own marks show (`bias`)? (b) Do its films'
labels contradict what the films look like from afar (`reader`)? (c) Are there films without the
mark, of either label, to compare with? A yes to (a) or (b) is evidence of poison. A mark that is
tied beyond chance and no more is a label-tied mark: a shortcut, or poison with true labels. So is a
mark that is tied beyond the source's other marks, where surely few of its films' labels contradict
what the films look like (`agreement`): a letter that one ward puts on its films is tied like that.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special, stats

from leadapron.detect.films.agreement import wrong_labels
from leadapron.detect.films.bias import (
    LOG_ODDS,
    Bias,
    evidence_of_spreads,
    learn_bias,
    profiles,
)
from leadapron.detect.films.contradictions import Threshold, low_threshold
from leadapron.detect.films.reader import Reader, calibrated
from leadapron.detect.films.shift import Counts, Labelled
from leadapron.detect.scores import LabelTie, SeenBy, WrongLabels
from leadapron.films.cohort import Rows
from leadapron.metrics import auroc

__all__ = ["BESIDE", "OVERLAP", "QUESTIONS", "Control", "Controls", "Place", "Tie"]

Floats = NDArray[np.float64]
Place = tuple[int, int, int]

QUESTIONS = 2
"""Either may find poison, so that each p-value counts twice."""

MOST = 500
"""Films that are asked about, at most, when it is asked how few could be told."""

LOOKS = 2
"""Where a network looks as well, either look may contradict the labels: p counts twice again."""

UNLIKELY = 0.02
"""Where labels contradict the films' look by a smaller p-value, films with the mark are read by a
reader that learnt from none of them."""

BELOW = 0.75
"""Of a ranking, the share that poison isn't expected in: it says how labels follow the ranking."""

OVERLAP = 10
"""Films without the mark, of either label, in the strata where it occurs, at least."""

SAME = 0.5
"""A mark that shares so much of its films with another is no control for it."""

NEARLY = 0.8
"""One that so many of a mark's films carry may be a part of it, as a letter has many."""

BESIDE = 3
"""Nor is one whose middle is so near, in pixels: both may be one mark."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Control:
    """A mark that comes again, whose labels say what is natural here.

    Args:
        kind: marks of one kind are each other's first controls.
        films: (m,) rows that carry it.
        place: row, column and side; None where it has no place.
        counts: its films' labels.
    """

    kind: str
    films: Rows
    place: Place | None
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A mark's tie to a group.

    Args:
        group: number of the group.
        facts: what is known of it.
    """

    group: int
    facts: LabelTie

    @property
    def p(self) -> float:
        """The smaller p-value of the two questions, corrected for there being two.

        1 where there are too few films without the mark to compare with. Where the labels agree
        with the films, question (b) alone.
        """
        if self.facts.overlap < OVERLAP:
            return 1.0
        by_bias = 1.0 if self.facts.decided == "agreement" else self.facts.bias
        return float(min(1.0, QUESTIONS * np.nanmin([by_bias, self.facts.anatomy])))


class _Anatomy(NamedTuple):
    """What films look like beside their labels, for one group.

    Args:
        reads: (n,) how likely each film is in the group.
        threshold: below which reading a film of the group contradicts its label.
        departures: (controls, spreads) as `evidence_of_spreads`: how far labels go beyond the
            readings.
        contradictions: the same: how often films of the group read as hardly any other of it.
    """

    reads: Floats
    threshold: Threshold
    departures: Floats
    contradictions: Floats


class _Seen(NamedTuple):
    """An answer to question (b), as in `LabelTie`; NaN where it can't be asked."""

    p: float = np.nan
    read: float = np.nan
    seen_by: SeenBy = "from afar"
    auroc: float = np.nan
    unmarked: int = 0


class Controls:
    """The marks of a source, each of which is judged beside the others.

    Args:
        marks: all that come again.
        labelled: the labels.
        reader: of films from afar; None where question (b) stays open.
        acquired: reader of how films were taken and stored: compression, tone, borders. A poisoner
            can change these, so it decides nothing: it says what else might explain a mark.
    """

    def __init__(
        self,
        marks: Sequence[Control],
        labelled: Labelled,
        reader: Reader | None,
        acquired: Reader | None = None,
    ) -> None:
        self.marks, self.labelled, self.reader, self.acquired = marks, labelled, reader, acquired
        self._kinds = np.array([mark.kind for mark in marks])
        self._middles = np.array(
            [(np.nan, np.nan) if mark.place is None else _middle(mark.place) for mark in marks]
        ).reshape(-1, 2)
        self._sizes = np.array([len(mark.films) for mark in marks], dtype=np.int64)
        rows = np.repeat(np.arange(len(marks)), self._sizes)
        films = np.concatenate([mark.films for mark in marks]) if marks else np.zeros(0, np.int64)
        self._films = sparse.csc_matrix(
            (np.ones(len(films)), (rows, films)), shape=(len(marks), len(labelled.patients))
        )
        self._added = {
            each.finding: number
            for number, each in enumerate(labelled.groups)
            if each.direction == "added"
        }
        self._second: Reader | None = None
        self._seconded: Sequence[Control] = ()
        self._spreads: dict[int, Floats] = {}
        self._known_anatomy: dict[tuple[SeenBy, int], _Anatomy | None] = {}

    def with_network(self, reader: Reader, marks: Sequence[Control]) -> Controls:
        """Return the same, where a second reader looks at the films of some of the marks.

        Args:
            reader: what goes by a network that saw none of these marks.
            marks: some of `self.marks`.
        """
        other = copy.copy(self)
        other._second, other._seconded = reader, marks
        return other

    def judge(self, mark: Control, group: int, rate: float) -> Tie:
        """Answer the three questions for a mark, which may be one of the controls.

        Args:
            mark: whose films' labels are tied to the group.
            group: number of the group.
            rate: p-value up to which a tie is more than chance.
        """
        others = self._independent(mark)
        own = others & (self._kinds == mark.kind)
        known = self._spread(group)
        bias = learn_bias(known[own], known[others & ~own])
        tails = mark.counts.tail(group, np.exp(LOG_ODDS))
        by_bias = bias.expected(tails)
        seen = self._asked_anatomy(mark, group, own, others)
        wrong = self.wrong(mark, group) if by_bias <= UNLIKELY else None
        explains = np.flatnonzero(QUESTIONS * tails > rate)
        return Tie(
            group=group,
            facts=LabelTie(
                patients=int(mark.counts.trials[group]),
                share=float(mark.counts.whole[group] / mark.counts.trials[group]),
                expected=float(mark.counts.expected[group]),
                chance=float(mark.counts.tail(group, np.ones(1))[0]),
                bias=by_bias,
                anatomy=seen.p,
                read=seen.read,
                seen_by=seen.seen_by,
                auroc=seen.auroc,
                unmarked=seen.unmarked,
                needed=float(np.exp(LOG_ODDS[explains[0] if len(explains) else -1])),
                usual=bias.below(),
                controls=(bias.controls, bias.others),
                overlap=self._overlap(mark, group),
                wrong=wrong,
                decided="agreement"
                if wrong is not None and wrong.agree and not seen.p <= UNLIKELY
                else "anatomy"
                if seen.p < by_bias > rate / QUESTIONS
                else "bias",
            ),
        )

    def wrong(self, mark: Control, group: int, hidden: Sequence[Place] = ()) -> WrongLabels | None:
        """Say how many of a mark's labels contradict what its films look like.

        Args:
            mark: the mark.
            group: number of the group.
            hidden: places that a reader must not see either.

        Returns:
            None where no reader can be taught, and where the mark is at no place at which it could
            be hidden from a reader.
        """
        reader, second = self.reader, self._second
        # A given network may have learnt wrong labels by heart: it acquits no mark.
        if (
            second is not None
            and self._network_looks_at(mark)
            and second.seen_by != "the given network"
        ):
            reader = second
        if reader is None:
            return None
        shared = np.asarray(self._films[:, mark.films].sum(axis=1)).ravel()
        # A letter is many marks of a few pixels; a reader must see none of them.
        same = np.flatnonzero(shared >= NEARLY * len(mark.films)).tolist()
        places = [place for number in same if (place := self.marks[number].place) is not None]
        places += hidden
        if mark.place is not None:
            places.append(mark.place)
        if not places:
            return None
        reads = reader.read(group, mark.films, places)
        if reads is None:
            return None
        stated, members = self.labelled.stated[:, group], self.labelled.members[:, group]
        taught = stated.copy()
        taught[mark.films] = False
        films = mark.films[members[mark.films] & stated[mark.films]]
        if not len(films):
            return None
        return wrong_labels(
            reads[films],
            float(members[taught].mean()),
            self._weights(films),
            float(mark.counts.expected[group]),
        )

    def by_acquisition(
        self, films: Rows, group: int, place: Place | None = None
    ) -> tuple[float, float]:
        """Return the share of a group that compression, tone and borders of some films go with.

        Args:
            films: (m,) rows, which teach nothing.
            group: number of the group.
            place: of a mark, which the reader doesn't see.

        Returns:
            The share, 0 to 1, and the p-value of the films' labels beside it; NaN where there are
            too few films to learn from.
        """
        reads = (
            None
            if self.acquired is None
            else self.acquired.read(group, films, [] if place is None else [place])
        )
        if reads is None:
            return np.nan, np.nan
        hits, chances = self._by_patient(group, films, reads)
        if not len(hits):
            return np.nan, np.nan
        even = len(LOG_ODDS) // 2  # where nothing but these is at work
        return float(chances.mean()), float(_at_least(np.floor(hits.sum() + 1e-9), chances)[even])

    def _weights(self, films: Rows) -> Floats:
        """(m,) of films: a patient's films share a weight of 1."""
        _, patients, counts = np.unique(
            self.labelled.patients[films], return_inverse=True, return_counts=True
        )
        weights: Floats = 1.0 / counts[patients]
        return weights

    def top(self, group: int, films: Rows, scores: Floats, least: float) -> tuple[float, float]:
        """Judge the films at the top of a ranking.

        What a whole group of films shares, its labels follow all along the ranking; poison is a few
        films at the top whose labels go beyond. So what is expected at the top is read off the
        films below.

        Args:
            group: number of the group that they are tied to.
            films: (m,) rows at the top.
            scores: (n,) what ranks the films.
            least: share of the group that nature is granted at any top.

        Returns:
            The share of the group that is to be expected at the top; and the p-value of question
            (b), beside the ranking: NaN where it can't be asked.
        """
        stated = self.labelled.stated[:, group]
        inside = self.labelled.members[:, group] & stated
        ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
        teaches = stated & (ranks < BELOW * len(ranks))
        # By their ranks: poison lies far out, and no line can be drawn that far.
        scores = special.ndtri((ranks + 0.5) / len(ranks))
        expected = float(calibrated(scores[:, None], inside, teaches)[films].mean())
        reads = None if self.reader is None else self.reader.read(group, films)
        known = self._anatomy(self.reader, group)
        if reads is None or known is None:
            return expected, np.nan
        beside = calibrated(np.stack([special.logit(reads), scores], axis=1), inside, teaches)
        hits, chances = self._by_patient(group, films, beside)
        granted = np.maximum(chances, least)
        bias = learn_bias(known.departures[:0], known.departures)
        return expected, bias.expected(_at_least(np.floor(hits.sum() + 1e-9), granted))

    def least(self, kind: str, group: int, share: float, most: float) -> int | None:
        """Return how few films with a mark, all in a group, would be evidence of poison here.

        Args:
            kind: of the mark.
            group: number of the group.
            share: of the group among all films.
            most: p-value that would be evidence.

        Returns:
            The number, by question (a) alone; None where no number would do.
        """
        own = self._kinds == kind
        known = self._spread(group)
        bias = learn_bias(known[own], known[~own])
        logs = special.log_expit(special.logit(np.clip(share, 1e-6, 1 - 1e-6)) + LOG_ODDS)
        numbers = np.arange(1, min(self.labelled.patient_count, MOST) + 1)
        enough = QUESTIONS * (np.exp(numbers[:, None] * logs) @ bias.weights) <= most
        return int(numbers[enough.argmax()]) if enough.any() else None

    def _independent(self, mark: Control) -> NDArray[np.bool_]:
        """Which controls share neither films nor place with a mark."""
        shared = np.asarray(self._films[:, mark.films].sum(axis=1)).ravel()
        apart: NDArray[np.bool_] = shared < SAME * np.minimum(self._sizes, len(mark.films))
        if mark.place is not None:
            away = np.abs(self._middles - _middle(mark.place)).max(axis=1, initial=0)
            apart &= ~(away <= BESIDE)  # NaN: without a place
        return apart

    def _spread(self, group: int) -> Floats:
        """(controls, spreads): what each control says of the spread, for one group."""
        if group not in self._spreads:
            hits, trials, expected = (
                np.array([getattr(mark.counts, name)[group] for mark in self.marks], float)
                for name in ("hits", "trials", "expected")
            )
            self._spreads[group] = evidence_of_spreads(profiles(hits, trials, expected))
        return self._spreads[group]

    def _asked_anatomy(
        self, mark: Control, group: int, own: NDArray[np.bool_], others: NDArray[np.bool_]
    ) -> _Seen:
        """Question (b), of the films from afar and, for some marks, of a network's look."""
        first = self._seen(self.reader, mark, group, own, others)
        if not self._network_looks_at(mark):
            return first
        second = self._seen(self._second, mark, group, own, others)
        if np.isnan(second.p) or np.isnan(first.p):
            return first if np.isnan(second.p) else second
        # A network may be mistaken, or have learnt wrong labels by heart: neither look silences
        # the other.
        best = min(second, first, key=lambda each: each.p)
        return best._replace(p=min(1.0, LOOKS * best.p))

    def _network_looks_at(self, mark: Control) -> bool:
        return self._second is not None and any(mark is each for each in self._seconded)

    def _seen(
        self,
        reader: Reader | None,
        mark: Control,
        group: int,
        own: NDArray[np.bool_],
        others: NDArray[np.bool_],
    ) -> _Seen:
        known = self._anatomy(reader, group)
        if reader is None or known is None:
            return _Seen()
        biases = (
            learn_bias(known.departures[own], known.departures[others & ~own]),
            learn_bias(known.contradictions[own], known.contradictions[others & ~own]),
        )
        seen = self._against_anatomy(
            mark, group, known.reads, known.threshold, biases, reader.seen_by
        )
        places = [] if mark.place is None else [mark.place]
        # A reader of its own for each mark costs much, and changes little of what is likely.
        if seen.p <= UNLIKELY and (own_reads := reader.read(group, mark.films, places)) is not None:
            threshold = self._threshold(group, own_reads, mark.films)
            return self._against_anatomy(mark, group, own_reads, threshold, biases, reader.seen_by)
        return seen

    def _against_anatomy(
        self,
        mark: Control,
        group: int,
        reads: Floats,
        threshold: Threshold,
        biases: tuple[Bias, Bias],
        seen_by: SeenBy,
    ) -> _Seen:
        """The smaller p-value of two tests, corrected for there being two; and the mean reading.

        Are more labels in the group than the readings lead to expect? Do more films of the group
        read as hardly any film of the group does?
        """
        hits, chances = self._by_patient(group, mark.films, reads)
        more = biases[0].expected(_at_least(np.floor(hits.sum() + 1e-9), chances))
        wrong, trials = self._contradicting(group, mark.films, reads, threshold)
        chance = special.expit(special.logit(threshold.rate) + LOG_ODDS)
        tail = stats.binom.sf(np.floor(wrong + 1e-9) - 1, trials, chance)
        odd = biases[1].expected(np.asarray(tail)) if trials else 1.0
        rest = self.labelled.stated[:, group].copy()
        rest[mark.films] = False
        return _Seen(
            p=min(1.0, 2 * min(more, odd)),
            read=float(chances.mean()),
            seen_by=seen_by,
            auroc=auroc(self.labelled.members[rest, group].astype(float), reads[rest]),
            unmarked=int(rest.sum()),
        )

    def _anatomy(self, reader: Reader | None, group: int) -> _Anatomy | None:
        """What films look like beside their labels; None where no reader can be taught."""
        if reader is None:
            return None
        key = reader.seen_by, group
        if key not in self._known_anatomy:
            reads = reader.read(group, np.zeros(0, np.int64))
            self._known_anatomy[key] = None if reads is None else self._learnt(group, reads)
        return self._known_anatomy[key]

    def _learnt(self, group: int, reads: Floats) -> _Anatomy:
        threshold = self._threshold(group, reads)
        departed = np.zeros((len(self.marks), len(LOG_ODDS)))
        counted = np.zeros((len(self.marks), 2))
        for number, mark in enumerate(self.marks):
            hits, chances = self._by_patient(group, mark.films, reads)
            departed[number] = profiles(hits, np.ones(len(hits)), chances).sum(axis=0)
            counted[number] = self._contradicting(group, mark.films, reads, threshold)
        rates = np.full(len(counted), threshold.rate)
        return _Anatomy(
            reads=reads,
            threshold=threshold,
            departures=evidence_of_spreads(departed),
            contradictions=evidence_of_spreads(profiles(counted[:, 0], counted[:, 1], rates)),
        )

    def _threshold(self, group: int, reads: Floats, marked: Rows | None = None) -> Threshold:
        """Below which reading a film of the group contradicts its label."""
        stated = self.labelled.stated[:, group].copy()
        if marked is not None:
            stated[marked] = False
        inside = self.labelled.members[:, group] & stated
        return low_threshold(reads[inside], reads[stated & ~inside])

    def _contradicting(
        self, group: int, films: Rows, reads: Floats, threshold: Threshold
    ) -> tuple[float, int]:
        """Of films in the group: patients, and how many of them read as hardly any other does."""
        inside = films[self.labelled.members[films, group] & self.labelled.stated[films, group]]
        weights = self._weights(inside)
        return float(weights @ (reads[inside] <= threshold.reading)), round(weights.sum())

    def _by_patient(self, group: int, films: Rows, reads: Floats) -> tuple[Floats, Floats]:
        """(patients,) share of their films in the group, and mean reading."""
        films = films[self.labelled.stated[films, group]]
        _, patients, counts = np.unique(
            self.labelled.patients[films], return_inverse=True, return_counts=True
        )
        inside = np.bincount(patients, self.labelled.members[films, group], len(counts))
        return inside / counts, np.bincount(patients, reads[films], len(counts)) / counts

    def _overlap(self, mark: Control, group: int) -> int:
        rest = np.isin(self.labelled.strata, np.unique(self.labelled.strata[mark.films]))
        rest[mark.films] = False
        rest &= self.labelled.stated[:, group]
        # Of a finding alone, or taken away: whether films have the finding.
        finding = self.labelled.groups[group].finding
        inside = self.labelled.members[:, self._added.get(finding, group)]
        return int(min((rest & inside).sum(), (rest & ~inside).sum()))


def _middle(place: Place) -> tuple[float, float]:
    return place[0] + place[2] / 2, place[1] + place[2] / 2


STEPS = 40
"""Of the bisection; the exponent is below 2 ** 6."""


def _at_least(hits: float, chances: Floats) -> Floats:
    """Chance of so many hits or more of independent trials, at each of `LOG_ODDS`; at most so.

    Chernoff's bound, which holds for any number of trials and costs a power of ten at most.

    Args:
        hits: whole number.
        chances: (trials,) at a log odds ratio of 0.
    """
    # Trials of nearly the same chance are taken together.
    logits, counts = np.unique(np.round(special.logit(chances), 1), return_counts=True)
    base = logits[:, None] + LOG_ODDS
    low, high = np.zeros(len(LOG_ODDS)), np.full(len(LOG_ODDS), 64.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        short = counts @ special.expit(base + middle) < hits
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    grown = special.log_expit(-base) - special.log_expit(-(base + low))
    p: Floats = np.exp(np.minimum(counts @ grown - low * hits, 0.0))
    return p
