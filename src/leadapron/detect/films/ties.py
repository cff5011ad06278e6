"""Three questions for each mark that is associated with a label.

(a) Is the association stronger than that of this source's other marks, its negative controls
(`bias`)? (b) Do the films' labels contradict the films' appearance at low resolution (`reader`)?
(c) Are there enough films without the mark, with and without the label, for a comparison? A yes to
(a) or (b) is evidence of poison. A mark whose association only exceeds chance is a label-tied mark:
a shortcut, or clean-label poison. A mark whose association exceeds that of the negative controls is
also a label-tied mark if few of its films' labels contradict the films' appearance (`agreement`).
A letter that one ward puts on its films has such an association.
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
"""Number of questions that may find poison, (a) and (b): the Bonferroni factor of each p-value."""

MOST = 500
"""Largest number of films that `Controls.least` tries."""

LOOKS = 2
"""Number of readers if a network reads the films too: the Bonferroni factor of question (b)."""

UNLIKELY = 0.02
"""Largest p-value of (a) or (b) at which a mark is read by a reader trained without its films.
Such a reader for every mark would take too long."""

BELOW = 0.75
"""Share of a ranking, from its lower end, that is assumed to be free of poison. The natural
association between ranking and labels is learnt there."""

OVERLAP = 10
"""Fewest films without the mark, with the label and without it, in the strata with the mark."""

SAME = 0.5
"""Share of films in common from which on a mark is no negative control for another mark."""

NEARLY = 0.8
"""Share of a mark's films from which on a second mark on them may be a part of the first, as a
letter consists of many marks."""

BESIDE = 3
"""Distance of two marks' middles in pixels up to which both may be one mark. Such a mark is no
negative control."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Control:
    """A repeated mark, used as a negative control: its labels show the source's natural bias.

    Args:
        kind: marks of one kind are the preferred controls for each other.
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
    """A mark's association with a group.

    Args:
        group: number of the group.
        facts: the tests and estimates of the association.
    """

    group: int
    facts: LabelTie

    @property
    def p(self) -> float:
        """The smaller p-value of questions (a) and (b), corrected for two tests.

        It is 1 if there are too few films without the mark. If the labels agree with the films'
        appearance, only question (b) counts.
        """
        if self.facts.overlap < OVERLAP:
            return 1.0
        by_bias = 1.0 if self.facts.decided == "agreement" else self.facts.bias
        return float(min(1.0, QUESTIONS * np.nanmin([by_bias, self.facts.anatomy])))


class _Anatomy(NamedTuple):
    """A reader's predictions compared with the labels, for one group.

    Args:
        reads: (n,) predicted probability that each film is in the group.
        threshold: the reading below which a film of the group contradicts its label.
        departures: (controls, spreads) as `evidence_of_spreads`: the controls' excess of labels
            over the readings.
        contradictions: the same for the number of contradicted labels.
    """

    reads: Floats
    threshold: Threshold
    departures: Floats
    contradictions: Floats


class _Seen(NamedTuple):
    """Result of question (b), as in `LabelTie`; NaN if no reader can be trained."""

    p: float = np.nan
    read: float = np.nan
    seen_by: SeenBy = "from afar"
    auroc: float = np.nan
    unmarked: int = 0


class Controls:
    """The repeated marks of a source; each is judged with the others as negative controls.

    Args:
        marks: all repeated marks.
        labelled: the labels.
        reader: of films at low resolution; None leaves question (b) open.
        acquired: reader of the acquisition: compression, tone and borders. An attacker can change
            these, so this reader never decides; it only serves the sensitivity analysis.
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
        """Return a copy with a second reader for the films of some of the marks.

        Args:
            reader: one that uses a network from which these marks were hidden.
            marks: some of `self.marks`.
        """
        other = copy.copy(self)
        other._second, other._seconded = reader, marks
        return other

    def judge(self, mark: Control, group: int, rate: float) -> Tie:
        """Answer the three questions for a mark, which may be one of the controls.

        Args:
            mark: the mark; its films' labels are associated with the group.
            group: number of the group.
            rate: significance level of the association, 0 to 1.
        """
        others = self._independent(mark)
        own = others & (self._kinds == mark.kind)
        known = self._spread(group)
        bias = learn_bias(known[own], known[others & ~own])
        tails = mark.counts.tail(group, np.exp(LOG_ODDS))
        by_bias = bias.expected(tails)
        seen = self._test_anatomy(mark, group, own, others)
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
        """Estimate how many of a mark's labels contradict its films' appearance.

        Args:
            mark: the mark.
            group: number of the group.
            hidden: further places that are hidden from the reader.

        Returns:
            The estimate. None if no reader can be trained, or if the mark has no place that could
            be hidden from a reader.
        """
        reader, second = self.reader, self._second
        # A given network may have memorised wrong labels, so it can't clear a mark.
        if (
            second is not None
            and self._uses_network(mark)
            and second.seen_by != "the given network"
        ):
            reader = second
        if reader is None:
            return None
        shared = np.asarray(self._films[:, mark.films].sum(axis=1)).ravel()
        # A letter consists of many marks of a few pixels; all of them are hidden from the reader.
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
        """Return the share of a group that is expected from compression, tone and borders alone.

        Args:
            films: (m,) rows, left out of the training.
            group: number of the group.
            place: of a mark, hidden from the reader.

        Returns:
            The expected share, 0 to 1, and the p-value of the films' labels given it; NaN if there
            are too few films to learn from.
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
        even = len(LOG_ODDS) // 2  # log odds ratio 0: no association beyond the acquisition
        return float(chances.mean()), float(_at_least(np.floor(hits.sum() + 1e-9), chances)[even])

    def _weights(self, films: Rows) -> Floats:
        """(m,) weights of films; those of one patient add up to 1."""
        _, patients, counts = np.unique(
            self.labelled.patients[films], return_inverse=True, return_counts=True
        )
        weights: Floats = 1.0 / counts[patients]
        return weights

    def top(self, group: int, films: Rows, scores: Floats, least: float) -> tuple[float, float]:
        """Judge the films at the top of a ranking.

        A natural property of a group raises the group's share along the whole ranking. Poison is a
        few films at the top with a higher share than that. So the share expected at the top is
        extrapolated from the films below.

        Args:
            group: number of the group that the films at the top are associated with.
            films: (m,) rows at the top.
            scores: (n,) by which the films are ranked.
            least: share of the group at the top that always counts as natural, 0 to 1.

        Returns:
            The expected share of the group at the top, and the p-value of question (b) given the
            ranking; NaN if no reader can be trained.
        """
        stated = self.labelled.stated[:, group]
        inside = self.labelled.members[:, group] & stated
        ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
        teaches = stated & (ranks < BELOW * len(ranks))
        # Ranks instead of scores: poison is an outlier, where no extrapolation holds.
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
        """Return the fewest films with a mark, all in a group, that would be evidence of poison.

        Args:
            kind: of the mark.
            group: number of the group.
            share: of the group among all films, 0 to 1.
            most: largest p-value that is evidence.

        Returns:
            The number, by question (a) alone; None if even 500 films aren't enough.
        """
        own = self._kinds == kind
        known = self._spread(group)
        bias = learn_bias(known[own], known[~own])
        logs = special.log_expit(special.logit(np.clip(share, 1e-6, 1 - 1e-6)) + LOG_ODDS)
        numbers = np.arange(1, min(self.labelled.patient_count, MOST) + 1)
        enough = QUESTIONS * (np.exp(numbers[:, None] * logs) @ bias.weights) <= most
        return int(numbers[enough.argmax()]) if enough.any() else None

    def _independent(self, mark: Control) -> NDArray[np.bool_]:
        """(controls,): whether a control shares neither its films nor its place with a mark."""
        shared = np.asarray(self._films[:, mark.films].sum(axis=1)).ravel()
        apart: NDArray[np.bool_] = shared < SAME * np.minimum(self._sizes, len(mark.films))
        if mark.place is not None:
            away = np.abs(self._middles - _middle(mark.place)).max(axis=1, initial=0)
            apart &= ~(away <= BESIDE)  # NaN: a control without a place
        return apart

    def _spread(self, group: int) -> Floats:
        """(controls, spreads): log likelihood of each spread given each control, for one group."""
        if group not in self._spreads:
            hits, trials, expected = (
                np.array([getattr(mark.counts, name)[group] for mark in self.marks], float)
                for name in ("hits", "trials", "expected")
            )
            self._spreads[group] = evidence_of_spreads(profiles(hits, trials, expected))
        return self._spreads[group]

    def _test_anatomy(
        self, mark: Control, group: int, own: NDArray[np.bool_], others: NDArray[np.bool_]
    ) -> _Seen:
        """Answer question (b) with the linear reader and, for some marks, with a network too."""
        first = self._seen(self.reader, mark, group, own, others)
        if not self._uses_network(mark):
            return first
        second = self._seen(self._second, mark, group, own, others)
        if np.isnan(second.p) or np.isnan(first.p):
            return first if np.isnan(second.p) else second
        # A network may be wrong, or may have memorised wrong labels. So neither reader overrules
        # the other.
        best = min(second, first, key=lambda each: each.p)
        return best._replace(p=min(1.0, LOOKS * best.p))

    def _uses_network(self, mark: Control) -> bool:
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
        # A separate reader for every mark would be slow and would hardly change large p-values.
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
        """The smaller p-value of two tests, corrected for two tests, and the mean reading.

        The first test: do more labels state the group than the readings predict? The second: do
        more films of the group lie below the threshold than expected?
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
        """The reader's predictions compared with the labels; None if no reader can be trained."""
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
        """The reading below which a film of the group contradicts its label."""
        stated = self.labelled.stated[:, group].copy()
        if marked is not None:
            stated[marked] = False
        inside = self.labelled.members[:, group] & stated
        return low_threshold(reads[inside], reads[stated & ~inside])

    def _contradicting(
        self, group: int, films: Rows, reads: Floats, threshold: Threshold
    ) -> tuple[float, int]:
        """Patients of the group, weighted: those whose films contradict their label, and all."""
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
        # For the directions "one-hot" and "removed": whether films have the finding.
        finding = self.labelled.groups[group].finding
        inside = self.labelled.members[:, self._added.get(finding, group)]
        return int(min((rest & inside).sum(), (rest & ~inside).sum()))


def _middle(place: Place) -> tuple[float, float]:
    return place[0] + place[2] / 2, place[1] + place[2] / 2


STEPS = 40
"""Steps of the bisection; the exponent is below 2 ** 6."""


def _at_least(hits: float, chances: Floats) -> Floats:
    """Upper bound of the probability of at least `hits` hits, at each of `LOG_ODDS`.

    The trials are independent. Chernoff's bound holds for any number of trials; it exceeds the
    exact probability by a factor of ten at most.

    Args:
        hits: a whole number.
        chances: (trials,) probability of each hit at a log odds ratio of 0.
    """
    # Trials of nearly the same probability are grouped.
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
