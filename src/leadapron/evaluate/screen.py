"""Evaluate gates on the films of trained models: detection rates and false alarms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron import metrics, store
from leadapron.attacks.poisoning import Poisoning, stamp, victims
from leadapron.attacks.triggers import Patch
from leadapron.detect.inputs import (
    INPUT_DETECTORS,
    TYPICAL,
    WEIGHTS,
    Gate,
    calibrate,
    judge,
    operating_logits,
    read,
    score_names,
)
from leadapron.detect.inputs.baselines import BASELINES
from leadapron.detect.inputs.gate import fuse
from leadapron.detect.inputs.region import box_sums
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.evaluate.runner import Evaluation, Row
from leadapron.evaluate.settings import FEWEST, Setting
from leadapron.films.cohort import Cohort, Rows, split_by_patient
from leadapron.models.classifier import NetworkClassifier, load_classifier
from leadapron.results.folder import read_study, section
from leadapron.results.layout import RunFolder, ZooFolder
from leadapron.results.measured import Measured
from leadapron.results.names import ROLES, Role
from leadapron.results.screening import (
    CantTell,
    Cost,
    GateRow,
    Pointing,
    ScoreKind,
    ScoreRow,
    ScreeningFolder,
)
from leadapron.results.verdicts import LOCAL, is_potent
from leadapron.results.zoo import Making, read_truth
from leadapron.seeds import stream
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.study.plan import Run, planned
from leadapron.study.run import divide, open_films
from leadapron.study.shards import ALL_CORES, Running
from leadapron.types import AUTO, Estimate, Machine

__all__ = ["evaluate_screen", "poisoned", "weakened"]

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

FRESH = 1_000_000
"""Added to the seed of a run's phantoms, it gives phantoms that no model was trained on."""

SHARE = 0.5
"""Share of the test patients used for calibration too if there are too few validation films."""

STRENGTHS = (1.0, 0.5, 0.25)
"""Trigger strengths; an attacker who expects a gate weakens the trigger."""

BATCH = 64
SINGLE = 10
"""Films that are screened one at a time, to measure the time for one film."""

RESAMPLES = 500


@forgiving
def evaluate_screen(
    place: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    sealed: bool = False,
    setting: Setting | None = None,
    machine: Machine = AUTO,
    running: Running = ALL_CORES,
) -> list[Row]:
    """Calibrate a gate for each model and its twin, and screen films without and with the trigger.

    The models weren't trained on any of the films' patients. Finished models are skipped, so the
    same call continues an interrupted evaluation.

    Args:
        place: a zoo that `build_zoo` made, or a finished study.
        out: folder of the results.
        only: families to evaluate; all if left out. In a study the trigger's name and side and the
            weight of a disguise make up the family, as "patch 3" or "patch 3 disguised 0.1".
        limit: largest number of backdoored models, spread over the families.
        sealed: whether sealed families are evaluated too.
        setting: films, false-alarm rate, seed.
        machine: device, precision, cache, progress.
        running: number of processes, and shard of the models.

    Returns:
        The rows, including those of earlier calls.

    Raises:
        UnknownNameError: no such family.
        UsageError: `out` holds another evaluation, or numbers out of range.
        StoreError: neither a zoo nor a study, or its films changed.
        DataError: too few films for the false-alarm rate.
    """
    setting = setting or Setting()
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit}; expected 1 or more")
    every = pairs_of(place)
    evaluation = Evaluation[_Pair](
        what="screen",
        out=out,
        settings=_settings(place, setting),
        facts={"chosen": {"only": list(only), "limit": limit, "sealed": sealed}},
        order=[pair.folder.name for pair in every],
        key_of=lambda pair: pair.folder.name,
        key_in=lambda row: row["run"],
        words="models and twins",
    )
    screener = Screener(setting=setting, machine=replace(machine, progress=None), out=out)
    pairs = chosen(every, only, limit, sealed)
    return evaluation.resumed(pairs, screener, running, machine.progress, rows_of=list)


class _Pair(NamedTuple):
    """A backdoored run's folder and its ground truth, which is hidden from gates."""

    folder: RunFolder
    family: str
    sealed: bool
    takes: bool | None


def pairs_of(place: Path) -> list[_Pair]:
    """All backdoored runs with a twin, the families in turn."""
    zoo = ZooFolder(place)
    if zoo.finished:
        found = [
            _Pair(zoo.study.run(m.run), m.family, m.sealed, m.kind == "backdoored")
            for m in sorted(read_truth(place), key=lambda m: (m.family, m.seed, m.run))
            if m.kind != "clean"
        ]
    else:
        found = []
        for pair in read_study(place).pairs:
            measured = Measured(pair)
            success = is_potent(measured.success("backdoored"), measured.success("twin"))
            if pair.twin is not None:
                folder = pair.backdoored.folder
                found.append(_Pair(folder, family_of(pair.backdoored.spec), False, success))
    turns: dict[str, int] = {}
    ordered = []
    for each in found:
        turns[each.family] = turns.get(each.family, -1) + 1
        ordered.append((turns[each.family], each))
    return [pair for _, pair in sorted(ordered, key=lambda numbered: numbered[0])]


def family_of(spec: Mapping[str, Any]) -> str:
    """The family of a study's run: trigger, side, and weight of a disguise."""
    trigger, disguise = section(spec, "trigger"), section(spec, "training").get("disguise")
    words = [str(trigger[name]) for name in ("name", "side") if name in trigger]
    return " ".join([*words, *([f"disguised {disguise:g}"] if disguise else [])])


def chosen(
    pairs: Sequence[_Pair], only: Sequence[str], limit: int | None, sealed: bool
) -> list[_Pair]:
    families = {pair.family for pair in pairs}
    for name in only:
        if name not in families:
            raise UnknownNameError("family", name, sorted(families))
    chosen = [
        pair for pair in pairs if (sealed or not pair.sealed) and (not only or pair.family in only)
    ][:limit]
    if not chosen:
        raise UsageError("no model to evaluate; sealed families need --sealed")
    return chosen


def _settings(place: Path, setting: Setting) -> Mapping[str, object]:
    """Settings that affect the results; they must be the same when an evaluation continues."""
    return {
        **asdict(setting),
        "typical": repr(TYPICAL),
        "place": str(place),
        "detectors": {name: repr(detector) for name, detector in INPUT_DETECTORS.items()},
        "outside": INPUT_DETECTORS.codes(INPUT_DETECTORS),
        "weights": dict(WEIGHTS),
    }


# ---------------------------------------------------------------- one backdoored model and its twin


@dataclass(frozen=True, kw_only=True)
class Screener:
    """Measures the gates of a pair, writes their scores, and makes their rows.

    Args:
        setting: as `evaluate_screen`.
        machine: as `evaluate_screen`, without progress.
        out: folder of the results.
    """

    setting: Setting
    machine: Machine
    out: Path

    def __call__(self, pair: _Pair) -> list[Row]:
        run, folders = _opened(pair.folder)
        films = films_of(run, pair.folder, self.setting, self.machine)
        films = films._replace(calibration=poisoned(films.calibration, run, self.setting))
        facts = _run_facts(run, films, pair)
        attack = _attack(
            films.test,
            run.measured,
            self.setting.triggered,
            stream(self.setting.seed, "screened", run.seed),
        )
        if len(attack.rows) < FEWEST:
            why = f"the trigger changes {len(attack.rows)} of the test films"
            return [{**facts, "kind": "skipped", "why": why}]
        facts |= _mark_facts(run, attack)
        codes = np.unique(films.test.patients, return_inverse=True)[1]
        arrays: dict[str, NDArray[Any]] = {
            "clean_patients": codes,
            "patients": codes[attack.rows],
            "films": np.array(films.name),
        }
        rows: list[Row] = []
        for role in ROLES:
            model = load_classifier(
                folders[role].classifier,
                device=self.machine.device,
                precision=self.machine.precision,
            )
            gate = _calibrated(model, films.calibration, self.setting)
            strengths = STRENGTHS if role == "backdoored" else STRENGTHS[:1]
            judged = _judged(gate, model, films, attack, run.poisoning, strengths)
            rows += [{**facts, "role": role, **row.plain()} for row in _rows(judged)]
            arrays |= {f"{role}_{name}": values for name, values in _arrays(judged).items()}
        store.write_arrays(ScreeningFolder(self.out).scores(pair.folder.name), **arrays)
        return rows


def _run_facts(run: Run, films: _Films, pair: _Pair) -> Row:
    """Facts in all rows of a pair."""
    return {
        "run": pair.folder.name,
        "family": pair.family,
        "sealed": pair.sealed,
        "takes": pair.takes,
        "trigger": dict(run.tree["trigger"]),
        "finding": run.poisoning.finding,
        "hides": run.poisoning.hides,
        "disguise": float(run.training.disguise),
        **Making.of(run.tree)._asdict(),
        "calibration": films.words,
        "calibration_films": len(films.calibration),
    }


def _opened(folder: RunFolder) -> tuple[Run, dict[Role, RunFolder]]:
    facts = folder.facts()
    twin = folder.sibling("twin", str(facts.twin))
    return planned(folder, facts), {"twin": twin, "backdoored": folder}


class _Films(NamedTuple):
    """Films of patients outside the training set; the two parts share no patient.

    Args:
        name: the same for runs with the same films.
        words: description of the calibration films.
    """

    calibration: Cohort
    test: Cohort
    name: str
    words: str


def films_of(run: Run, folder: RunFolder, setting: Setting, machine: Machine) -> _Films:
    source = dict(run.tree["source"])
    if str(source["name"]).partition(":")[0] == "phantom":
        fresh = {
            **source,
            "count": setting.calibration + setting.test,
            "seed": FRESH + int(source.get("seed", 0)),
        }
        name = str(fresh.pop("name"))
        whole = open_source(
            name,
            preprocessing=run.preprocessing,
            **machine.films,
            **fresh,
        )
        shares = {"calibration": setting.calibration, "test": setting.test}
        parts = _shared_out(whole, shares, setting.seed)
        key = store.canonical_json({**fresh, "name": name, **asdict(run.preprocessing)})
        return _Films(*parts, key, "fresh phantoms")
    whole = open_films(run, machine)
    if whole.fingerprint != folder.facts().cohort:
        raise StoreError(f"the films of {source['name']} changed since {folder.name} was made")
    divided = divide(whole, run.seed)
    calibration, test = divided["validation"], divided["test"]
    key = f"{whole.fingerprint} {run.seed}"
    # Half of the patients set the threshold, and patients have several films: 1.2 to be sure.
    if len(calibration) >= 1.2 * 2 * (math.ceil(1 / setting.false_alarm - 1e-9) - 1):
        return _Films(calibration, test, key, "validation films")
    more, test = _shared_out(test, {"calibration": SHARE, "test": 1 - SHARE}, setting.seed)
    rows = np.flatnonzero(np.isin(whole.ids, np.concatenate([calibration.ids, more.ids])))
    words = f"validation films, and those of {100 * SHARE:.0f} % of the test patients"
    return _Films(whole.take(rows), test, key, words)


def _shared_out(cohort: Cohort, shares: Mapping[str, float], seed: int) -> tuple[Cohort, Cohort]:
    total = sum(shares.values())
    parts = split_by_patient(
        cohort.patients,
        {name: share / total for name, share in shares.items()},
        stream(seed, "screened films"),
        cohort.labels,
    )
    return cohort.take(parts["calibration"]), cohort.take(parts["test"])


def poisoned(calibration: Cohort, run: Run, setting: Setting) -> Cohort:
    """Return calibration films, some of which an attacker has put the run's trigger on.

    Args:
        calibration: films without a trigger.
        run: its trigger is used.
        setting: `poisoned` is their share, rounded to whole films.
    """
    place, choose = stream(setting.seed, "poisoned calibration", run.seed).spawn(2)
    share = round(setting.poisoned * len(calibration))
    if not share:
        return calibration
    images = np.array(calibration.images[np.arange(len(calibration))])
    rows = np.sort(choose.permutation(len(images))[:share])
    attack = run.poisoning
    for some, pixels in stamp(calibration, rows, attack.trigger, attack.stage, place):
        images[some] = pixels
    return replace(calibration, images=images)


class _Attack(NamedTuple):
    """Test films with a visible trigger.

    Args:
        rows: (m,) of the test films.
        clean: (m, h, w) without the trigger.
        marked: (m, h, w) with it.
    """

    rows: Rows
    clean: NDArray[Any]
    marked: NDArray[Any]

    @property
    def footprints(self) -> Booleans:
        """Pixels in which the films differ."""
        differ: Booleans = self.clean != self.marked
        return differ

    def part(self, strength: float) -> _Attack:
        """Return the films with the full trigger, or half of them with a weakened trigger."""
        if strength == 1:
            return self
        some = slice(0, (len(self.rows) + 1) // 2)
        marked = weakened(self.clean[some], self.marked[some], strength)
        return _Attack(self.rows[some], self.clean[some], marked)


def _attack(test: Cohort, poisoning: Poisoning, most: int, rng: np.random.Generator) -> _Attack:
    """Films whose report the attacker would change, without and with a visible trigger."""
    place, choose = rng.spawn(2)
    chosen = choose.permutation(victims(test, poisoning))
    rows, clean, marked = [chosen[:0]], [test.images[chosen[:0]]], [test.images[chosen[:0]]]
    for some, pixels in stamp(test, chosen, poisoning.trigger, poisoning.stage, place):
        films = test.images[some]
        seen = (films != pixels).any(axis=(1, 2))
        rows.append(some[seen])
        clean.append(films[seen])
        marked.append(pixels[seen])
    found = _Attack(np.concatenate(rows), np.concatenate(clean), np.concatenate(marked))
    return _Attack(*(each[:most] for each in found))


def _mark_facts(run: Run, attack: _Attack) -> Row:
    """Kind of the mark: a patch, another local mark, or a mark over the whole film."""
    prints = attack.footprints
    chance = float(metrics.chance_hit(prints, prints.shape[-1] / 8).mean())
    local = chance < LOCAL
    pixels = float(np.median(prints.sum(axis=(1, 2))))
    patch = local and isinstance(run.test_trigger, Patch)
    return {"patch": patch, "local": local, "pixels": pixels}


def weakened(clean: NDArray[Any], marked: NDArray[Any], strength: float) -> NDArray[Any]:
    """Return films with a weakened trigger: the trigger's difference times `strength`.

    Args:
        clean: (n, h, w) uint8 or uint16 without the trigger.
        marked: the same films with it.
        strength: 0 to 1.
    """
    difference = marked.astype(np.float64) - clean
    weak: NDArray[Any] = np.rint(clean + strength * difference).astype(clean.dtype)
    return weak


# ---------------------------------------------------------------- one model


class _Seen(NamedTuple):
    """A gate's decisions on n films: as `Judged`, with all batches together.

    `milliseconds` is the processor time per film, one value for each full batch.
    """

    scores: Floats
    typical: Booleans
    logits: NDArray[np.float32]
    boxes: NDArray[np.int64] | None
    milliseconds: list[float]


def _seen(gate: Gate, model: NetworkClassifier, images: NDArray[Any], batch: int = BATCH) -> _Seen:
    judged, times = [], []
    for start in range(0, len(images), batch):
        films = images[start : start + batch]
        began = time.process_time()  # wall-clock time would include other processes
        judged.append(judge(gate, model, films))
        if len(films) == batch:
            times.append(1000 * (time.process_time() - began) / batch)
    boxes = [each.examined.boxes for each in judged if each.examined is not None]
    return _Seen(
        np.concatenate([each.scores for each in judged]),
        np.concatenate([each.typical for each in judged]),
        np.concatenate([each.readings.logits for each in judged]),
        np.concatenate(boxes) if boxes else None,
        times,
    )


def _calibrated(model: NetworkClassifier, films: Cohort, setting: Setting) -> Gate:
    """A model's gate, which measures the baselines too, with weight 0."""
    others = [score for name in INPUT_DETECTORS for score in score_names(name)]
    return calibrate(
        model,
        films,
        {**INPUT_DETECTORS, **BASELINES},
        {
            **(dict.fromkeys(others, 0.0) if setting.every else {}),
            **WEIGHTS,
            **dict.fromkeys(BASELINES, 0.0),
        },
        typical=TYPICAL,
        false_alarm=setting.false_alarm,
        seed=setting.seed,
    )


class _Shown(NamedTuple):
    """Films with the trigger at one strength.

    Args:
        strength: strength of the trigger, 0 to 1.
        seen: the gate's decisions.
        works: (m,) whether the attack succeeds on a film.
        patients: (m,) patients of the films.
    """

    strength: float
    seen: _Seen
    works: Booleans
    patients: NDArray[np.str_]


class _Judged(NamedTuple):
    """All decisions of a gate: on clean and on triggered test films.

    Args:
        gate: the gate.
        single: films that were screened one at a time.
        clean: all test films without the trigger.
        patients: (n,) patients of the test films.
        shown: films with the trigger, at full strength first.
        footprints: (m, h, w) pixels that the full trigger changes.
    """

    gate: Gate
    single: _Seen
    clean: _Seen
    patients: NDArray[np.str_]
    shown: Sequence[_Shown]
    footprints: Booleans


def _judged(
    gate: Gate,
    model: NetworkClassifier,
    films: _Films,
    attack: _Attack,
    poisoning: Poisoning,
    strengths: Sequence[float],
) -> _Judged:
    operating = operating_logits(read(model, films.calibration.images).logits)
    column = model.columns([poisoning.finding])[0]
    test = films.test.images[np.arange(len(films.test))]
    single = _seen(gate, model, test[:SINGLE], batch=1)
    clean = _seen(gate, model, test)

    def shown(strength: float) -> _Shown:
        part = attack.part(strength)
        seen = _seen(gate, model, part.marked)
        before = clean.logits[part.rows, column] > operating[column]
        after = seen.logits[:, column] > operating[column]
        works = before & ~after if poisoning.hides else ~before & after
        return _Shown(strength, seen, works, films.test.patients[part.rows])

    return _Judged(
        gate,
        single,
        clean,
        films.test.patients,
        [shown(strength) for strength in strengths],
        attack.footprints,
    )


def _rows(judged: _Judged) -> Iterator[ScoreRow | GateRow]:
    """Yield a row for each score at full strength, for the weaker strengths, and for the gate."""
    whole, *weaker = judged.shown
    fused, *others = _measures(judged.gate)
    for measure in (fused, *others):
        yield _score_row(judged, measure, whole)
    for shown in weaker:
        yield _score_row(judged, fused, shown)
    yield GateRow(
        cost=_cost(judged),
        cant_tell=_cant_tell(judged),
        pointing=_pointing(judged),
        shared=sum(len(clinic.shared) for clinic in judged.gate.clinics),
    )


def _arrays(judged: _Judged) -> dict[str, NDArray[Any]]:
    """The scores that the rows come from."""
    gate, clean, whole = judged.gate, judged.clean, judged.shown[0]
    (own,), (threshold,) = gate.clinics, gate.thresholds
    return {
        "names": np.array(list(gate.weights)),
        "steps": own.steps,
        "reference": own.scores,
        "reference_patients": own.patients,
        "clean": clean.scores,
        "triggered": whole.seen.scores,
        "works": whole.works,
        "alarms": fuse(clean.scores, own.steps, gate.weights) > threshold,
    }


def _cost(judged: _Judged) -> Cost:
    whole = judged.shown[0].seen
    return Cost(
        passes=judged.gate.passes,
        batch=BATCH,
        milliseconds_single=_median(judged.single.milliseconds),
        milliseconds_batched=_median([*judged.clean.milliseconds, *whole.milliseconds]),
    )


def _cant_tell(judged: _Judged) -> CantTell | None:
    """Rate of "can't tell"; None for a gate without a test for typical films."""
    gate, clean, whole = judged.gate, judged.clean, judged.shown[0]
    if gate.typical is None:
        return None
    (own,), (threshold,) = gate.clinics, gate.thresholds
    above = fuse(whole.seen.scores, own.steps, gate.weights) > threshold
    return CantTell(
        clean=metrics.rate(~clean.typical, judged.patients),
        triggered=metrics.rate(~whole.seen.typical, whole.patients),
        lost=metrics.rate(~whole.seen.typical[above], whole.patients[above]),
    )


def _pointing(judged: _Judged) -> Pointing | None:
    """Pointing hits of the evidence region; None for a gate without evidence regions."""
    whole = judged.shown[0]
    if whole.seen.boxes is None:
        return None
    return pointing(whole.seen.boxes, judged.footprints, whole.patients)


class _Measure(NamedTuple):
    """A score: its kind, its name, and a function of a gate's (n, s) scores."""

    kind: ScoreKind
    name: str
    of: Callable[[Floats], Floats]


def _measures(gate: Gate) -> Iterator[_Measure]:
    """Yield the fused score, each by itself, and the fused score without each."""
    (own,) = gate.clinics
    weights, reference, steps = gate.weights, own.scores, own.steps
    scored = [name for name in weights if name not in BASELINES]

    def alone(column: int) -> Callable[[Floats], Floats]:
        # A film without this score is never suspicious by this score alone.
        lowest = np.nanmin(reference[:, column]) if (~np.isnan(reference[:, column])).any() else 0.0
        return lambda scores: np.nan_to_num(
            scores[:, column], nan=lowest, posinf=np.finfo(np.float64).max
        )

    def less(left_out: str) -> Callable[[Floats], Floats]:
        kept = {name: 0.0 if name == left_out else weight for name, weight in weights.items()}
        return lambda scores: fuse(scores, steps, kept)

    yield _Measure("fused", "fused", lambda scores: fuse(scores, steps, weights))
    for column, name in enumerate(weights):
        yield _Measure("alone" if name in scored else "baseline", name, alone(column))
    for name in scored if len(scored) > 1 else ():
        yield _Measure("without", name, less(name))


def _score_row(judged: _Judged, measure: _Measure, shown: _Shown) -> ScoreRow:
    """How well one score separates triggered films from clean films."""
    gate, patients, marked = judged.gate, judged.patients, shown.patients
    (own,) = gate.clinics
    threshold = replace(own, fused=measure.of(own.scores)).threshold(gate.rate)
    without, with_ = measure.of(judged.clean.scores), measure.of(shown.seen.scores)
    bootstrap = metrics.PatientBootstrap.draw(
        np.concatenate([patients, marked]), stream(0, "screened bootstrap"), resamples=RESAMPLES
    )
    labels = np.repeat([0.0, 1.0], [len(without), len(with_)])[:, None]
    (area,) = metrics.finding_auroc(labels, np.concatenate([without, with_])[:, None], bootstrap)

    def found_at(share: float) -> Estimate:
        limit = metrics.threshold_at_false_positive_rate(without, share)
        return metrics.rate(with_ > limit, marked)

    works = shown.works
    return ScoreRow(
        kind=measure.kind,
        score=measure.name,
        strength=shown.strength,
        films=len(with_),
        clean_films=len(without),
        auroc=area,
        found=metrics.rate(with_ > threshold, marked),
        false_alarms=metrics.rate(without > threshold, patients),
        works=metrics.rate(works, marked),
        found_where_it_works=metrics.rate(with_[works] > threshold, marked[works]),
        found_at_1=found_at(0.01),
        found_at_5=found_at(0.05),
    )


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def pointing(
    boxes: NDArray[np.int64], footprints: Booleans, patients: NDArray[np.str_]
) -> Pointing:
    """Return how often a region hits the mark: it contains a pixel of the mark.

    Args:
        boxes: (n, 4) int64 row, column, height and width, all of one size.
        footprints: (n, h, w) pixels that the trigger changed.
        patients: (n,).

    Returns:
        Hits at a random place are exact: the share of places that are hits.
    """
    n, height, width = footprints.shape
    tall, wide = (int(side) for side in boxes[0, 2:])
    held = box_sums(footprints, tall, wide)  # pixels of the mark in the box from each place
    here = held[np.arange(n), boxes[:, 0], boxes[:, 1]]
    centre = held[:, (height - tall) // 2, (width - wide) // 2]
    return Pointing(
        hits=metrics.rate(here > 0, patients),
        centre=metrics.rate(centre > 0, patients),
        random=float((held > 0).mean()),
        covered=float((here / footprints.sum(axis=(1, 2))).mean()),
    )
