"""Evidence from the methods of a scan: each poison once, with a sentence that describes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from leadapron.detect.films.marks import carriers, size_of
from leadapron.detect.films.method import Films, Found
from leadapron.detect.films.shift import Group, Labelled, Shift
from leadapron.detect.films.ties import BESIDE, OVERLAP
from leadapron.detect.scores import Evidence, LabelTie
from leadapron.films.cohort import Cohort, Rows
from leadapron.text import count

__all__ = ["label_tied_marks", "poison", "repeated_marks", "shortcuts"]

LISTED = 3
"""Repeated marks and shortcuts listed at most, for each size and method."""

SAME = 0.5
"""Evidence that shares this much of its films with stronger evidence is the same poison."""

CAUSES = ("site", "scanner", "view", "native_size", "split", "sex")
"""Columns of a source that may explain a mark's origin."""

CERTAIN, TELLING = 1e-4, 0.3
"""A value is named if films with a mark have it more often: largest p-value, smallest difference of
the shares."""

BORDER = 0.05
"""Share of a film's side that is its border."""

MARK = 0.001
"""Largest p-value of its repetition at which a mark is listed as repeated."""

Results = Mapping[str, Sequence[Found]]
"""Findings of each method, by its name."""


@dataclass(eq=False)
class _Poison:
    """One poison, collected from several pieces of evidence.

    Args:
        evidence: the strongest, with all suspected films.
        scattered: whether that is a single pixel of a mark.
        methods: the methods that found it.
        pixels: films of each single pixel that belongs to it.
    """

    evidence: Evidence
    scattered: bool
    methods: set[str] = field(default_factory=set)
    pixels: list[Rows] = field(default_factory=list)

    def add(self, name: str, each: Found, films: Rows) -> None:
        """Add findings of another method, or of the same method at another place."""
        self.methods.add(name)
        if each.scattered:
            self.pixels.append(films)
            return
        one = self.evidence
        # A mark's own place is exact; single outliers lie somewhere on it.
        knows = each.mark is not None and each.place is not None
        moved = knows and (one.place is None or self.scattered)
        self.evidence = replace(
            one,
            films=np.union1d(one.films, films),
            place=each.place if moved else one.place,
        )

    def whole(self) -> Evidence:
        """Return the evidence, with films that enough pixels name, and the other methods' names."""
        one = self.evidence
        if self.pixels:
            # Nature has an outlier here and there; a film with the mark has one at most of its
            # pixels.
            films, pixels = np.unique(np.concatenate(self.pixels), return_counts=True)
            more = films[pixels > max(1, len(self.pixels) / 3)]
            one = replace(one, films=np.union1d(one.films, more))
        if others := sorted(self.methods - {one.method}):
            one = replace(one, words=f"{one.words}; also by {', '.join(others)}")
        return one


def poison(found: Results, films: Films) -> list[Evidence]:
    """Return evidence that is significant after correction, each poison once, strongest first.

    Args:
        found: findings of all methods.
        films: all films.
    """
    strong = sorted(
        (
            (p, name, each, each.group)
            for name, some in found.items()
            for each in some
            if (p := films.corrected(each.p)) <= films.suspicious and each.group is not None
        ),
        key=lambda item: item[0],
    )
    kept: list[_Poison] = []
    for p, name, each, group in strong:
        named = each.films if each.mark is None else carriers(films, each.mark.repeat, group)
        same = next((one for one in kept if _same(one.evidence, each, named)), None)
        if same is not None:
            same.add(name, each, named)
            continue
        others = (
            "more than at the places around it"
            if np.isnan(each.expected)
            else f"of other films {each.expected:.1%}"
        )
        tie = _with_acquisition(each, group, films)
        evidence = Evidence(
            kind="poison",
            method=name,
            p=p,
            finding=group.finding,
            direction=group.direction,
            place=each.place,
            films=named,
            tie=tie,
            words=f"{each.what}: {each.share:.0%} are labelled {group.words}, {others}"
            + _why(tie, group)
            + _sensitivity(tie),
        )
        kept.append(_Poison(evidence, each.scattered))
    return [one.whole() for one in kept]


def _same(one: Evidence, other: Found, films: Rows) -> bool:
    """Whether both are the same poison: the same films, or the same place."""
    if _overlap(one, films):
        return True
    if one.place is None or other.place is None:
        return False
    return all(
        abs(a + one.place[2] / 2 - b - other.place[2] / 2) <= BESIDE
        for a, b in zip(one.place[:2], other.place[:2], strict=True)
    )


def _overlap(one: Evidence, films: Rows) -> bool:
    shared = len(np.intersect1d(one.films, films))
    return shared >= SAME * max(1, min(len(one.films), len(films)))


def label_tied_marks(found: Results, films: Films, known: Sequence[Evidence]) -> Iterator[Evidence]:
    """Return marks whose association with a label exceeds chance, but not natural associations.

    Args:
        found: findings of all methods.
        films: all films.
        known: evidence whose films aren't listed again.
    """
    given = list(known)
    for name, some in found.items():
        listed = 0
        for each in sorted(some, key=lambda each: each.chance):
            group, tie = each.group, each.tie
            p = films.corrected(each.chance)
            if group is None or tie is None or p > films.false_alarm:
                continue
            if listed == LISTED or any(_overlap(one, each.films) for one in given):
                continue
            listed += 1
            tie = _with_acquisition(each, group, films) or tie
            one = Evidence(
                kind="label-tied mark",
                method=name,
                p=p,
                finding=group.finding,
                direction=group.direction,
                place=each.place,
                films=each.films,
                tie=tie,
                words=f"{each.what}: {each.share:.0%} are labelled {group.words}, of other films "
                f"{each.expected:.1%}; {_no_more(tie, group)}{_sensitivity(tie)}"
                f"{_cause(each, films.cohort)}",
            )
            given.append(one)
            yield one


def repeated_marks(
    found: Results, labelled: Labelled, known: Sequence[Evidence]
) -> Iterator[Evidence]:
    """Return marks at a place without a shift of labels, those with the smallest p of each size.

    Args:
        found: findings of all methods.
        labelled: the labels.
        known: evidence whose films aren't listed again.
    """
    for name, some in found.items():
        listed = defaultdict[int, int](int)
        for each in some:
            if each.mark is None or each.place is None:
                continue
            repeat = each.mark.repeat
            if repeat.p > MARK or any(_overlap(one, each.films) for one in known):
                continue
            size = size_of(repeat.side)
            if listed[size] < LISTED:
                listed[size] += 1
                shift = labelled.lopsided(each.films)
                usual = "" if np.isnan(repeat.usual) else f" (expected: {repeat.usual:.1f})"
                yield Evidence(
                    kind="repeated mark",
                    method=name,
                    p=repeat.p,
                    place=each.place,
                    films=each.films,
                    tested=shift is not None and shift.group in each.tested,
                    words=f"{each.what} of {repeat.patients} patients{usual}; "
                    + _label_words(each, shift, labelled),
                )


def shortcuts(found: Results, known: Sequence[Evidence], false_alarm: float) -> Iterator[Evidence]:
    """Return groups of films that share an appearance and a label, by more than chance.

    Args:
        found: findings of all methods.
        known: evidence whose films aren't listed again.
        false_alarm: largest p-value that is listed.
    """
    seen = set[str]()
    untied = [(each, name) for name, some in found.items() for each in some if each.tie is None]
    for each, name in sorted(untied, key=lambda item: item[0].chance):
        group = each.group
        if group is None or each.chance > false_alarm:
            continue
        if group.words in seen or len(seen) == LISTED:
            continue
        if any(_overlap(one, each.films) for one in known):
            continue
        seen.add(group.words)
        yield Evidence(
            kind="shortcut",
            method=name,
            p=each.chance,
            finding=group.finding,
            direction=group.direction,
            films=each.films,
            words=f"{each.what}: {each.share:.0%} are labelled {group.words}, of other films "
            f"{each.expected:.1%}; a natural association may be as strong",
        )


# --- words


def _label_words(each: Found, shift: Shift | None, labelled: Labelled) -> str:
    """Labels of a mark's films compared with the others', and whether they were tested."""
    if shift is None:
        return "these films state no labels, so nothing was tested"
    words = labelled.groups[shift.group].words
    shares = f"{shift.share:.0%} are labelled {words}, of other films {shift.expected:.1%}"
    if shift.group in each.tested:
        return f"{shares}; tested, not significant"
    return f"{shares}; not tested: too few films for a significant result"


def _with_acquisition(each: Found, group: Group, films: Films) -> LabelTie | None:
    """A mark's tie, with the share expected from compression, tone and borders alone."""
    if each.tie is None:
        return None
    number = films.labelled.groups.index(group)
    share, p = films.controls.by_acquisition(each.films, number, each.place)
    return replace(each.tie, acquired=share, acquired_p=p)


def _sensitivity(tie: LabelTie | None) -> str:
    """Sensitivity analysis: the share expected from the films' compression, tone and borders."""
    if tie is None or np.isnan(tie.acquired):
        return ""
    return (
        f"; expected for films with this compression, tone and borders: {tie.acquired:.0%} "
        f"(p {tie.acquired_p:.2g})"
    )


def _why(tie: LabelTie | None, group: Group) -> str:
    """The reason why a tie is evidence of poison."""
    if tie is None:
        return ""
    if tie.decided == "anatomy":
        return f"; {_look_words(tie, group)}"
    return (
        f"; a hidden confounder would need an odds ratio of {tie.needed:.1f}, and this source's "
        f"other marks reach {tie.usual:.1f}"
    )


def _no_more(tie: LabelTie, group: Group) -> str:
    """The reason why a tie isn't evidence of poison."""
    if tie.overlap < OVERLAP:
        return (
            f"can't tell: of the comparable films without the mark only {tie.overlap} are labelled "
            f"{group.words}, or only {tie.overlap} aren't; {OVERLAP} of each are needed"
        )
    usual = f"other marks of this source reach an odds ratio of {tie.usual:.1f}"
    if tie.decided == "agreement" and tie.wrong is not None:
        return (
            f"{usual}, this one exceeds it; but at most {tie.wrong.high:.0%} of these labels "
            "contradict the films' appearance, and random relabelling would give "
            f"{tie.wrong.random:.0%}: a shortcut, or clean-label poison"
        )
    if np.isnan(tie.read):
        return f"a hidden confounder with an odds ratio of {tie.needed:.1f} explains it; {usual}"
    return (
        f"a hidden confounder with an odds ratio of {tie.needed:.1f} explains it; {usual}; "
        f"{_look_words(tie, group)}: a shortcut, or clean-label poison"
    )


def _look_words(tie: LabelTie, group: Group) -> str:
    """Appearance of the films with a mark: the reader, its prediction and its AUROC."""
    who = "a reader of 16x16 cells" if tie.seen_by == "from afar" else tie.seen_by
    return (
        f"{who} reads {tie.read:.0%} of these films as {group.words} (AUROC {tie.auroc:.2f} on "
        f"{count(tie.unmarked, 'unmarked film')})"
    )


def _cause(each: Found, cohort: Cohort) -> str:
    """Other common properties of films with a mark, which may explain its origin."""
    from scipy import stats

    marked = np.zeros(len(cohort), dtype=np.bool_)
    marked[each.films] = True
    found = list[tuple[float, str]]()
    for name in CAUSES:
        if name not in cohort.attributes:
            continue
        column = cohort.attributes[name].astype(str)
        for value in np.unique(column[marked]):
            has = column == value
            shares = float(has[marked].mean()), float(has[~marked].mean())
            table = np.array(
                [[(has & side).sum(), (~has & side).sum()] for side in (marked, ~marked)]
            )
            p = float(stats.fisher_exact(table, alternative="greater")[1])
            if p <= CERTAIN and shares[0] - shares[1] >= TELLING:
                state = f"{name.replace('_', ' ')} {value}"
                said = f"{shares[0]:.0%} of them have {state}, {shares[1]:.0%} of the others"
                found.append((shares[1] - shares[0], said))
    words = [min(found)[1]] if found else []
    if each.place is not None:
        row, column_, side = each.place
        height, width = cohort.images.shape[1:]
        edge = min(row, column_, height - row - side, width - column_ - side)
        if edge < BORDER * min(height, width):
            words.append(f"it lies {edge} pixels from the border, where films are cropped")
    return f" ({'; '.join(words)})" if words else ""
