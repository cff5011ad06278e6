"""The scan of a data set without a model: all methods, one verdict."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.films.association import Association, associations
from leadapron.detect.films.blobs import grey, shrunk
from leadapron.detect.films.observe import CELLS, TRACES, Observed, limits, observe
from leadapron.detect.films.reader import Hidden, Reader, SecondLook
from leadapron.detect.films.repeats import WIDTHS, Repeat, anywhere, at_places, squares, textures
from leadapron.detect.films.shift import Group, Labelled, Shift
from leadapron.detect.films.signatures import signatures
from leadapron.detect.films.ties import OVERLAP, Control, Controls, Place
from leadapron.detect.scores import Evidence, LabelTie
from leadapron.detect.verdict import refuse_rate
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, ImageArray, Rows, blocks
from leadapron.seeds import stream
from leadapron.text import count
from leadapron.types import Progress, said

__all__ = ["METHODS", "Method", "Scan", "scan_films"]

METHODS = (
    "marks at a place",
    "marks anywhere",
    "textures at a place",
    "textures anywhere",
    "signatures",
    "associations",
)
"""What is tried, each on all places and findings at once."""

WORTHWHILE = 0.5
"""What isn't less likely than this where nature ties no mark to any label isn't judged further."""

JUDGED = 4
"""Groups that a mark is judged for, those that its films are tied to most."""

SIGNATURE_ODDS = 10.0
"""Odds ratio between the top of a ranking and a group that nature is granted."""

FEWEST = 10
"""Films that can be scanned, at least."""

SUSPICIOUS = 10
"""A p-value up to so many times the false-alarm rate is suspicious, not more."""

LISTED = 3
"""Repeated marks and shortcuts that are listed, of each size and method."""

SAME = 0.5
"""Evidence that shares so much of its films with stronger evidence is about the same poison."""


Verdict = Literal["nothing found", "label-tied mark", "suspicious", "poisoned"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method's part in the verdict.

    Args:
        name: of `METHODS`.
        tried: marks, tops of rankings or outliers whose labels were tested.
        p: smallest p-value, corrected for all that the method tried; 1 where it tried nothing.
        adjusted: the same, corrected for the number of methods as well (Holm).
        seconds: it took.
    """

    name: str
    tried: int
    p: float
    adjusted: float
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """What a scan says of a data set.

    Args:
        verdict: "poisoned" where the false-alarm rate was met; "suspicious" up to ten times of it;
            else "label-tied mark" where a mark goes with a label by more than chance: a shortcut,
            or poison with true labels; else "nothing found", which is no proof: see the page on
            what a scan can't see.
        p: smallest p-value over all methods, corrected for all that was tried.
        false_alarm: chance that was granted of calling a clean set poisoned.
        methods: what was tried.
        evidence: poison first, the strongest first; then label-tied marks, repeated marks and
            shortcuts.
        scores: (n,) float64: -log10 of the smallest p-value of the evidence that names the film,
            0 for films that none names.
        least: for each finding, on how few patients' films a solid mark, all of them with the
            finding, would be evidence of poison by its labels alone; None where no number would do.
        notes: what couldn't be tested and why.
    """

    verdict: Verdict
    p: float
    false_alarm: float
    methods: tuple[Method, ...]
    evidence: tuple[Evidence, ...]
    scores: NDArray[np.float64]
    least: Mapping[str, int | None]
    notes: tuple[str, ...]


class _Tested(NamedTuple):
    """One thing whose labels were tested; p-values are corrected for all that its method tried."""

    p: float
    chance: float
    group: Group | None
    share: float
    expected: float
    films: Rows
    place: Place | None
    what: str
    repeat: Repeat | None = None
    tie: LabelTie | None = None
    tested: frozenset[int] = frozenset()


def scan_films(
    cohort: Cohort,
    *,
    false_alarm: float = 0.01,
    seed: int = 0,
    seen: Observed | None = None,
    look: SecondLook | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Scan a data set for poison. No model is needed.

    Marks that recur, at one place or anywhere, and textures; descriptions of whole films; and
    outliers of single pixels are found without a look at labels, and then tested for a shift of
    labels: towards a finding, away from it, or to one label vector. Each method corrects for all
    that it tries, and Holm's procedure for the number of methods.

    Args:
        cohort: the films, at least 10, and their labels.
        false_alarm: chance that is granted of calling a clean set poisoned, above 0, below 1.
        seed: of the halves that signatures are learnt on, and of the pixels' limits.
        seen: what was seen of these films before; looked at now if left out.
        look: a network that looks at the films of marks that go with a label by more than chance;
            where there is none such, it isn't called.
        progress: called with what is being done, the films done and in all.

    Raises:
        UsageError: a false-alarm rate out of range.
        DataError: fewer than 10 films, or films of fewer than 16 x 16 pixels.
    """
    refuse_rate(false_alarm)
    if len(cohort) < FEWEST or min(cohort.images.shape[1:]) < 16:
        raise DataError(
            f"{count(len(cohort), 'film')} of {cohort.images.shape[1]} x "
            f"{cohort.images.shape[2]} pixels; "
            f"a scan needs {FEWEST} of 16 x 16 or more"
        )
    if seen is None:
        bounds = limits(cohort.images, stream(seed, "limits"))
        seen = observe(cohort.images, bounds, progress=progress)
    patients, same = _patients(cohort, seen)
    labelled = Labelled(replace(cohort, patients=patients))
    marks = _all_marks(seen, labelled)
    controls = Controls(
        [mark for some in marks.values() for _, mark in some],
        labelled,
        *_readers(seen, labelled, seed),
    )
    notes = _notes(cohort, labelled, same)
    if look is not None and controls.reader is not None:
        controls, more = _looked_again(marks, controls, seen, look, false_alarm, seed)
        notes += more
    results, methods = _by_method(seen, marks, controls, false_alarm, seed, progress)
    methods = _holm(methods)
    p = min(method.adjusted for method in methods)
    poison = _poison(results, cohort.images, controls, false_alarm)
    tied = list(_tied(results, poison, false_alarm, cohort, controls))
    verdict: Verdict = "label-tied mark" if tied else "nothing found"
    if p <= false_alarm:
        verdict = "poisoned"
    elif p <= _suspicious(false_alarm):
        verdict = "suspicious"
    scores = np.zeros(len(cohort))
    for each in poison:
        scores[each.films] = np.maximum(scores[each.films], -np.log10(max(each.p, 1e-300)))
    return Scan(
        verdict=verdict,
        p=p,
        false_alarm=false_alarm,
        methods=tuple(methods),
        evidence=(
            *poison,
            *tied,
            *_marks(results, (*poison, *tied), labelled),
            *_shortcuts(results["signatures"], poison, false_alarm),
        ),
        scores=scores,
        least=_least(controls, cohort.findings, false_alarm),
        notes=notes,
    )


def _by_method(
    seen: Observed,
    marks: Mapping[str, list[tuple[Repeat, Control]]],
    controls: Controls,
    false_alarm: float,
    seed: int,
    progress: Progress | None,
) -> tuple[dict[str, list[_Tested]], list[Method]]:
    """What each method tested; its smallest p-value isn't corrected for the other methods yet."""
    results, methods = dict[str, list[_Tested]](), list[Method]()
    for number, name in enumerate(METHODS):
        if progress is not None:
            progress(f"testing {name}", number + 1, len(METHODS))
        begun = time.perf_counter()
        if name == "signatures":
            results[name] = list(_signed(seen, controls, seed))
        elif name == "associations":
            results[name] = list(_associated(seen, controls, false_alarm))
        else:
            results[name] = list(_repeated(marks[name], controls, false_alarm))
        smallest = min((each.p for each in results[name]), default=1.0)
        methods.append(
            Method(
                name=name,
                tried=len(results[name]),
                p=smallest,
                adjusted=1.0,
                seconds=time.perf_counter() - begun,
            )
        )
    return results, methods


def _patients(cohort: Cohort, seen: Observed) -> tuple[NDArray[np.str_], int]:
    """Each film's patient, and how many films are copies, which count with what they are copies of.

    A copy is no second observation: a source that is joined with itself would prove anything. The
    other films of a copy's patient keep theirs, so that no copies can be planted to make all
    patients one.
    """
    afar = np.ascontiguousarray(seen.afar)
    rows = afar.view(np.dtype((np.void, afar.strides[0]))).ravel()
    _, alike = np.unique(rows, return_inverse=True)
    patients, copies = cohort.patients.copy(), 0
    order = np.argsort(alike, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(alike[order])) + 1):
        if len(some) < 2:
            continue
        first = dict[bytes, int]()
        for row, image in zip(some.tolist(), np.asarray(cohort.images[some]), strict=True):
            original = first.setdefault(image.tobytes(), row)
            copies += original != row
            patients[row] = cohort.patients[original]
    return patients, copies


def _readers(seen: Observed, labelled: Labelled, seed: int) -> tuple[Reader | None, Reader | None]:
    """A reader of films from afar, and one of how they were taken and stored."""
    if not labelled.groups:
        return None, None
    cells = np.arange(CELLS**2)
    rows, columns = np.divmod(cells, CELLS)
    edges = (0, CELLS - 1)
    border = cells[np.isin(rows, edges) | np.isin(columns, edges)]
    traces = [seen.traces[name] for name in TRACES]
    taken = np.concatenate([*traces, seen.afar[:, border]], axis=1)
    whole = np.full(taken.shape[1] - len(border), -1)
    return (
        Reader(seen.afar, cells, seen.shape[1:], labelled, stream(seed, "reader")),
        Reader(
            taken,
            np.concatenate([whole, border]),
            seen.shape[1:],
            labelled,
            stream(seed, "acquisition"),
        ),
    )


def _all_marks(seen: Observed, labelled: Labelled) -> dict[str, list[tuple[Repeat, Control]]]:
    """Marks that come again, by method, each with its films' labels."""
    lists = {
        "marks at a place": at_places(seen, labelled.patients),
        "marks anywhere": anywhere(seen, labelled.patients),
        "textures at a place": textures(seen, labelled.patients, placed=True),
        "textures anywhere": textures(seen, labelled.patients, placed=False),
    }
    return {
        name: [
            (
                repeat,
                Control(
                    kind=_kind(name, repeat),
                    films=repeat.films,
                    place=None
                    if repeat.row is None or repeat.column is None
                    else (repeat.row, repeat.column, repeat.side),
                    counts=labelled.counts(repeat.films),
                ),
            )
            for repeat in repeats
        ]
        for name, repeats in lists.items()
    }


MOST_HIDDEN = 0.25
"""Share of the films that carry marks hidden from a network, at most: it learns from the others."""


def _looked_again(
    marks: Mapping[str, list[tuple[Repeat, Control]]],
    controls: Controls,
    seen: Observed,
    look: SecondLook,
    false_alarm: float,
    seed: int,
) -> tuple[Controls, tuple[str, ...]]:
    """Let a network look at films whose marks go with a label by more than chance.

    Returns:
        What judges marks by that look as well, and notes.
    """
    owners = {repeat: mark for some in marks.values() for repeat, mark in some}
    tied = [
        each
        for some in marks.values()
        for each in _repeated(some, controls, false_alarm)
        if each.chance * len(METHODS) <= false_alarm
        and each.tie is not None
        and each.tie.overlap >= OVERLAP
        and np.isfinite(each.tie.anatomy)
    ]
    if not tied or controls.reader is None:
        return controls, ()
    chosen, hidden = list[Repeat](), np.zeros(seen.shape[0], dtype=np.bool_)
    # What is nearest to being evidence first.
    for each in sorted(tied, key=lambda each: (each.p, each.chance)):
        both = hidden.copy()
        both[each.films] = True
        if each.repeat is not None and both.mean() <= MOST_HIDDEN:
            hidden = both
            chosen.append(each.repeat)
    notes: tuple[str, ...] = ()
    if left := len(tied) - len(chosen):
        notes = (
            f"{count(left, 'label-tied mark')} more would leave a network too few films to learn "
            "from: these were judged by the films from afar alone",
        )
    if not chosen:
        return controls, notes
    given = look(_hidden(chosen, hidden, seen, seed))
    reader = controls.reader.with_network(given)
    return (
        controls.with_network(reader, [owners[repeat] for repeat in chosen]),
        (*notes, *given.notes),
    )


def _hidden(
    repeats: Sequence[Repeat], films: NDArray[np.bool_], seen: Observed, seed: int
) -> Hidden:
    """What a network must not see of some marks.

    A mark anywhere is hidden where it lies; a film without it has squares hidden where they lie on
    a film with it that is drawn by chance.
    """
    places, own = set[Place](), list[NDArray[np.int64]]()
    rng = stream(seed, "hidden")
    for repeat in repeats:
        if repeat.row is not None and repeat.column is not None:
            places.add((repeat.row, repeat.column, repeat.side))
            continue
        at = squares(seen, repeat)
        starts = np.searchsorted(at[:, 0], repeat.films)
        ends = np.searchsorted(at[:, 0], repeat.films, side="right")
        donors = rng.integers(0, len(repeat.films), len(films))
        donors[repeat.films] = np.arange(len(repeat.films))
        lengths = (ends - starts)[donors]
        ahead = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        copied = at[np.repeat(starts[donors], lengths) + ahead]
        copied[:, 0] = np.repeat(np.arange(len(films)), lengths)
        own.append(copied)
    return Hidden(
        films=np.flatnonzero(films),
        places=np.array(sorted(places), dtype=np.int64).reshape(-1, 3),
        own=np.unique(np.concatenate([np.zeros((0, 4), np.int64), *own]), axis=0),
    )


def _suspicious(false_alarm: float) -> float:
    """Up to which p-value a set is suspicious; what is as likely as not never is."""
    return max(false_alarm, min(SUSPICIOUS * false_alarm, 0.5))


def _signed(seen: Observed, controls: Controls, seed: int) -> Iterator[_Tested]:
    """Signatures of whole films."""
    labelled = controls.labelled
    found, tests = signatures(seen, controls, SIGNATURE_ODDS, stream(seed, "signatures"))
    for sign in found:
        yield _Tested(
            p=min(1.0, sign.p * tests),
            chance=min(1.0, sign.shift.p * tests),
            group=labelled.groups[sign.shift.group],
            share=sign.shift.share,
            expected=sign.shift.expected,
            films=np.sort(sign.films),
            place=None,
            what=f"a signature in the films' {sign.trace}",
        )


def _associated(seen: Observed, controls: Controls, false_alarm: float) -> Iterator[_Tested]:
    """Outliers of single pixels; where their films' labels agree with the films, no poison."""
    labelled = controls.labelled
    pixels, tests = associations(seen, labelled)
    tried = tests * len(METHODS)
    rate = false_alarm / max(tried, 1)
    likely = [each for each in pixels if each.p * tried <= _suspicious(false_alarm)]
    ties = dict[Association, LabelTie]()
    for near in _neighbours(likely):
        # A letter is an outlier at another pixel on each film: its films are judged together.
        films = np.unique(np.concatenate([each.films for each in near]))
        places = [(each.row, each.column, 1) for each in near]
        mark = Control(
            kind="associations", films=films, place=places[0], counts=labelled.counts(films)
        )
        wrong = controls.wrong(mark, near[0].group, places)
        if wrong is not None and wrong.agree:
            tie = replace(
                controls.judge(mark, near[0].group, rate).facts, wrong=wrong, decided="agreement"
            )
            ties.update(dict.fromkeys(near, tie))
    for pixel in pixels:
        shade = "bright" if pixel.bright else "dark"
        p, tie_ = min(1.0, pixel.p * tests), ties.get(pixel)
        yield _Tested(
            p=p if tie_ is None else 1.0,
            chance=1.0 if tie_ is None else p,
            group=labelled.groups[pixel.group],
            share=pixel.share,
            expected=float("nan") if tie_ is None else tie_.expected,
            films=pixel.films,
            place=(pixel.row, pixel.column, 1),
            what=f"{shade} outliers at row {pixel.row}, column {pixel.column}",
            tie=tie_,
        )


def _neighbours(pixels: Sequence[Association]) -> list[list[Association]]:
    """Pixels of one group that lie beside each other, or by way of others."""
    from scipy import spatial
    from scipy.sparse import csgraph

    if not pixels:
        return []
    # Groups lie far apart from each other.
    at = np.array([(each.row, each.column, 10 * BESIDE * each.group) for each in pixels])
    near = spatial.distance.cdist(at, at, "chebyshev") <= BESIDE
    count_, part = csgraph.connected_components(near, directed=False)
    return [
        [pixels[number] for number in np.flatnonzero(part == one).tolist()] for one in range(count_)
    ]


def _repeated(
    repeats: Sequence[tuple[Repeat, Control]], controls: Controls, false_alarm: float
) -> Iterator[_Tested]:
    """Marks that come again."""
    labelled = controls.labelled
    for (repeat, mark), weight in _weighted(repeats):
        likely = sorted(labelled.shifts(mark.films, 1.0), key=lambda shift: (shift.p, -shift.share))
        factor = len(likely) * weight
        rate = false_alarm / max(factor * len(METHODS), 1)
        ties = [
            controls.judge(mark, shift.group, rate)
            for shift in likely[:JUDGED]
            if shift.p * factor <= WORTHWHILE
        ]
        # Of several that are evidence the one that chance explains least: a film with one finding
        # alone has that finding too.
        strong = [each for each in ties if each.p <= rate]
        tie = min(
            strong or ties,
            key=lambda each: (0.0 if strong else each.p, each.facts.chance),
            default=None,
        )
        yield _Tested(
            p=1.0 if tie is None else min(1.0, tie.p * factor),
            chance=1.0 if tie is None else min(1.0, tie.facts.chance * factor),
            group=None if tie is None else labelled.groups[tie.group],
            share=0.0 if tie is None else tie.facts.share,
            expected=0.0 if tie is None else tie.facts.expected,
            films=repeat.films,
            place=mark.place,
            what=_mark_words(repeat),
            repeat=repeat,
            tie=None if tie is None else tie.facts,
            tested=frozenset(shift.group for shift in likely),
        )


def _kind(name: str, repeat: Repeat) -> str:
    """Which marks are each other's first controls: of one method, size and regularity."""
    low, high = repeat.levels
    loose = "loose" if high - low > WIDTHS[2] else "even"
    return f"{name}, {int(np.searchsorted(SIZES, repeat.side))}, {loose}"


SIZES = (1, 2, 5)
"""Upper ends of the sizes of marks that are ranked by themselves: single pixels, 2x2, up to 5x5,
and larger."""


def _weighted(
    repeats: Sequence[tuple[Repeat, Control]],
) -> Iterator[tuple[tuple[Repeat, Control], float]]:
    """Each with the factor that corrects its p-value.

    The chance of a false alarm is divided equally among the sizes, and within a size by rank: the
    i-th of m gets a share of 1/i of what is left after the sum of 1/1 to 1/m. The ranking doesn't
    look at labels, so strong repetition may cost less (weighted Bonferroni: Holm, 1979; Genovese,
    Roeder and Wasserman, Biometrika 93 (2006) 509).
    """
    by_size = defaultdict[int, list[tuple[Repeat, Control]]](list)
    for each in repeats:
        by_size[int(np.searchsorted(SIZES, each[0].side))].append(each)
    for some in by_size.values():
        harmonic = float((1 / np.arange(1, len(some) + 1)).sum())
        for rank, each in enumerate(some, 1):
            yield each, rank * harmonic * len(by_size)


def _holm(methods: Sequence[Method]) -> list[Method]:
    """Holm's step-down correction for the number of methods (Scand. J. Statist. 6 (1979) 65)."""
    adjusted, worst = dict[str, float](), 0.0
    for rank, method in enumerate(sorted(methods, key=lambda one: one.p)):
        worst = max(worst, min(1.0, method.p * (len(methods) - rank)))
        adjusted[method.name] = worst
    return [replace(method, adjusted=adjusted[method.name]) for method in methods]


def _poison(
    results: dict[str, list[_Tested]], images: ImageArray, controls: Controls, false_alarm: float
) -> list[Evidence]:
    """Evidence that stands after correction, each poison once, the strongest first."""
    labelled = controls.labelled
    strong = sorted(
        (
            (min(1.0, each.p * len(METHODS)), name, each)
            for name, some in results.items()
            for each in some
            if each.p * len(METHODS) <= _suspicious(false_alarm) and each.group is not None
        ),
        key=lambda item: item[0],
    )
    kept: list[Evidence] = []
    also, loose = defaultdict[int, set[str]](set), defaultdict[int, list[Rows]](list)
    for p, name, each in strong:
        group = each.group
        if group is None:  # pragma: no cover
            continue
        films = each.films
        if each.repeat is not None:
            films = _carriers(images, each.repeat, labelled, group)
        same = next((number for number, one in enumerate(kept) if _same(one, each, films)), None)
        if same is not None:
            also[same].add(name)
            if name == "associations":
                loose[same].append(films)
            else:
                one = kept[same]
                # A mark knows its place best; single outliers are somewhere on it.
                knows = each.repeat is not None and each.place is not None
                moved = knows and (one.place is None or one.method == "associations")
                kept[same] = replace(
                    one,
                    films=np.union1d(one.films, films),
                    place=each.place if moved else one.place,
                )
            continue
        others = (
            "more than those around it"
            if np.isnan(each.expected)
            else f"others {each.expected:.1%}"
        )
        tie = _with_acquisition(each, group, controls)
        kept.append(
            Evidence(
                kind="poison",
                method=name,
                p=p,
                finding=group.finding,
                direction=group.direction,
                place=each.place,
                films=films,
                tie=tie,
                words=f"{each.what}: {each.share:.0%} say {group.words}, {others}"
                + _why(tie, group)
                + _sensitivity(tie),
            )
        )
    for number, outliers in loose.items():
        # Nature has an outlier here and there; a film with the mark has one at most of its pixels.
        films, pixels = np.unique(np.concatenate(outliers), return_counts=True)
        more = films[pixels > max(1, len(outliers) / 3)]
        kept[number] = replace(kept[number], films=np.union1d(kept[number].films, more))
    return [
        replace(one, words=f"{one.words}; also by {', '.join(sorted(also[number] - {one.method}))}")
        if also[number] - {one.method}
        else one
        for number, one in enumerate(kept)
    ]


def _same(one: Evidence, other: _Tested, films: Rows) -> bool:
    """Whether both tell of the same poison: the same films, or the same place."""
    if _overlap(one, films):
        return True
    if one.place is None or other.place is None:
        return False
    return all(
        abs(a + one.place[2] / 2 - b - other.place[2] / 2) <= BESIDE
        for a, b in zip(one.place[:2], other.place[:2], strict=True)
    )


BESIDE = 3
"""Pixels between the centres of two marks that may be one."""


def _overlap(one: Evidence, films: Rows) -> bool:
    shared = len(np.intersect1d(one.films, films))
    return shared >= SAME * max(1, min(len(one.films), len(films)))


def _marks(
    results: dict[str, list[_Tested]], poison: Sequence[Evidence], labelled: Labelled
) -> Iterator[Evidence]:
    """Repeated marks of which no shift of labels is shown, the least likely of each size."""
    for name in ("marks at a place", "textures at a place"):
        listed = defaultdict[int, int](int)
        for each in results[name]:
            repeat = each.repeat
            if (
                repeat is None
                or repeat.p > MARK
                or any(_overlap(one, each.films) for one in poison)
            ):
                continue
            size = int(np.searchsorted(SIZES, repeat.side))
            if listed[size] < LISTED:
                listed[size] += 1
                shift = labelled.lopsided(each.films)
                usual = "" if np.isnan(repeat.usual) else f" ({repeat.usual:.1f} would be usual)"
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


def _label_words(each: _Tested, shift: Shift | None, labelled: Labelled) -> str:
    """The labels of a mark's films beside the others', and what was made of that."""
    if shift is None:
        return "no label of theirs is stated, so none was tested"
    words = labelled.groups[shift.group].words
    shares = f"{shift.share:.0%} say {words}, others {shift.expected:.1%}"
    if shift.group in each.tested:
        return f"{shares}; tested, and no more than chance can do"
    return f"{shares}; not tested: so few films could not show more than chance can do"


CAUSES = ("site", "scanner", "view", "native_size", "split", "sex")
"""Columns of a source that may say where a mark comes from."""

CERTAIN, TELLING = 1e-4, 0.3
"""A value is named that films with a mark have more often, by so small a chance and so much."""

BORDER = 0.05
"""Share of a film's side that is its border."""

MARK = 0.001
"""A mark is called repeated from this p-value of its repetition on."""


def _with_acquisition(each: _Tested, group: Group, controls: Controls) -> LabelTie | None:
    """What is known of a tie, with what compression, tone and borders alone would make of it."""
    if each.tie is None:
        return None
    number = controls.labelled.groups.index(group)
    share, p = controls.by_acquisition(each.films, number, each.place)
    return replace(each.tie, acquired=share, acquired_p=p)


def _sensitivity(tie: LabelTie | None) -> str:
    """What else than the mark its films have in common."""
    if tie is None or np.isnan(tie.acquired):
        return ""
    return (
        f"; of films of this compression, tone and borders {tie.acquired:.0%} would "
        f"(p {tie.acquired_p:.2g})"
    )


def _why(tie: LabelTie | None, group: Group) -> str:
    """Which question found poison."""
    if tie is None:
        return ""
    if tie.decided == "anatomy":
        return f"; {_look_words(tie, group)}"
    return (
        f"; that takes odds of {tie.needed:.1f}, and this source's other marks go with it by odds "
        f"of up to {tie.usual:.1f}"
    )


def _tied(
    results: Mapping[str, list[_Tested]],
    poison: Sequence[Evidence],
    false_alarm: float,
    cohort: Cohort,
    controls: Controls,
) -> Iterator[Evidence]:
    """Marks that go with a label by more than chance, and by no more than nature can do here."""
    given = list(poison)
    for name, some in results.items():
        listed = 0
        for each in sorted(some, key=lambda each: each.chance):
            group, tie = each.group, each.tie
            if group is None or tie is None or each.chance * len(METHODS) > false_alarm:
                continue
            if listed == LISTED or any(_overlap(one, each.films) for one in given):
                continue
            listed += 1
            tie = _with_acquisition(each, group, controls) or tie
            found = Evidence(
                kind="label-tied mark",
                method=name,
                p=min(1.0, each.chance * len(METHODS)),
                finding=group.finding,
                direction=group.direction,
                place=each.place,
                films=each.films,
                tie=tie,
                words=f"{each.what}: {each.share:.0%} say {group.words}, others "
                f"{each.expected:.1%}; {_no_more(tie, group)}{_sensitivity(tie)}"
                f"{_cause(each, cohort)}",
            )
            given.append(found)
            yield found


def _no_more(tie: LabelTie, group: Group) -> str:
    """Why a tie is no evidence of poison."""
    if tie.overlap < OVERLAP:
        return (
            f"can't tell: {tie.overlap} comparable films without the mark say {group.words}, or "
            f"don't; {OVERLAP} of either are needed"
        )
    usual = f"other marks of this source go with it by odds of up to {tie.usual:.1f}"
    if tie.decided == "agreement" and tie.wrong is not None:
        return (
            f"{usual}, this one by more; but at most {tie.wrong.high:.0%} of these labels "
            f"contradict what the films look like, of a relabelling at random "
            f"{tie.wrong.random:.0%} would: a shortcut, or poison with true labels"
        )
    if np.isnan(tie.read):
        return f"a hidden cause with odds of {tie.needed:.1f} explains it, {usual}"
    return (
        f"a hidden cause with odds of {tie.needed:.1f} explains it, {usual}, and "
        f"{_look_words(tie, group)}: a shortcut, or poison with true labels"
    )


def _look_words(tie: LabelTie, group: Group) -> str:
    """What the films with a mark look like, to whom, and how far that is to be trusted."""
    who = "from afar" if tie.seen_by == "from afar" else f"to {tie.seen_by}"
    return (
        f"{who} {tie.read:.0%} of these films look like {group.words} (AUROC {tie.auroc:.2f} on "
        f"{count(tie.unmarked, 'unmarked film')})"
    )


def _cause(each: _Tested, cohort: Cohort) -> str:
    """What else films with a mark have in common: where it may come from."""
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


def _least(
    controls: Controls, findings: Sequence[str], false_alarm: float
) -> dict[str, int | None]:
    """For each finding, how few films with a solid mark of 3x3 pixels could be told."""
    labelled = controls.labelled
    found: dict[str, int | None] = {}
    for number, group in enumerate(labelled.groups):
        if group.direction == "added" and group.finding in findings:
            known = labelled.stated[:, number]
            share = float(labelled.members[known, number].mean()) if known.any() else 0.0
            # As if it were the most repeated mark of its size, tied to any of the groups.
            tests = len(METHODS) * (len(SIZES) + 1) * len(labelled.groups)
            found[str(group.finding)] = controls.least(
                f"{METHODS[0]}, 2, even", number, share, false_alarm / tests
            )
    return found


def _shortcuts(
    signed: Sequence[_Tested], poison: Sequence[Evidence], false_alarm: float
) -> Iterator[Evidence]:
    """Groups of films that share their look and a label, by more than chance."""
    seen = set[str]()
    for each in sorted(signed, key=lambda each: each.chance):
        group = each.group
        if group is None or each.chance > false_alarm:
            continue
        if group.words in seen or len(seen) == LISTED:
            continue
        if any(_overlap(one, each.films) for one in poison):
            continue
        seen.add(group.words)
        yield Evidence(
            kind="shortcut",
            method="signatures",
            p=each.chance,
            finding=group.finding,
            direction=group.direction,
            films=each.films,
            words=f"{each.what}: {each.share:.0%} say {group.words}, others "
            f"{each.expected:.1%}; nature can do as much",
        )


def _carriers(images: ImageArray, repeat: Repeat, labelled: Labelled, group: Group) -> Rows:
    """The group's films with the mark: those it was found on, and those where it stands out less.

    Where the mark's grey levels are known closely, films are looked at again at its place alone.
    """
    members = labelled.members[:, labelled.groups.index(group)]
    found = repeat.films[members[repeat.films]]
    row, column, side = repeat.row, repeat.column, repeat.side
    low, high = repeat.levels
    if row is None or column is None or repeat.bright is None or high - low > max(WIDTHS[1:]):
        return found
    scale = next(factor for factor in (1, 2, 4) if side // factor <= 5)
    more = []
    for part in blocks(len(members)):
        rows = part[members[part]]
        if not len(rows):
            continue
        square, ring = _square_and_ring(
            shrunk(grey(images[rows]), scale), row // scale, column // scale, side // scale
        )
        spread = WIDTHS[2] // 2
        fits = (square.min(axis=1) >= low - spread) & (square.max(axis=1) <= high + spread)
        away = np.abs(square.mean(axis=1) - ring.mean(axis=1))
        more.append(rows[fits & (away > CLEAR)])
    return np.union1d(found, np.concatenate(more) if more else found)


CLEAR = 5
"""Grey levels between a mark and its surroundings, so that a film is said to carry it."""


def _square_and_ring(
    images: NDArray[np.uint8], row: int, column: int, side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, side * side) pixels of the square, and (n, m) of the ring around it."""
    ring = np.zeros(images.shape[1:], dtype=np.bool_)
    ring[max(row - 1, 0) : row + side + 1, max(column - 1, 0) : column + side + 1] = True
    ring[row : row + side, column : column + side] = False
    square = images[:, row : row + side, column : column + side].reshape(len(images), -1)
    return square.astype(np.float64), images[:, ring].astype(np.float64)


def _mark_words(repeat: Repeat) -> str:
    shade = "rough" if repeat.bright is None else "bright" if repeat.bright else "dark"
    low, high = repeat.levels
    levels = f"grey level {low}" if low == high else f"grey levels {low} to {high}"
    where = "anywhere" if repeat.row is None else f"at row {repeat.row}, column {repeat.column}"
    return (
        f"a {shade} mark of {repeat.side}x{repeat.side} pixels {where}, {levels}, on "
        f"{len(repeat.films)} films"
    )


def _notes(cohort: Cohort, labelled: Labelled, same: int) -> tuple[str, ...]:
    notes = list(said(cohort.notes))
    if same:
        films = "1 film is" if same == 1 else f"{same:,} films are"
        notes.append(f"{films} the same as another, pixel by pixel: such films count once")
    if not labelled.groups:
        notes.append("no labels: repeated marks are listed, but poison can't be told from them")
    elif len(cohort.findings) == 1:
        notes.append("one finding: a label vector says no more than the finding itself")
    if labelled.patient_count == len(cohort):
        notes.append("no film shares a patient with another, or patients aren't known")
    if cohort.images.dtype == np.uint16:
        notes.append("of 16 bits the upper 8 were looked at")
    return tuple(notes)
