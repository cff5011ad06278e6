"""Evaluate: what a gate finds on the films of trained models, and how often it is wrong."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
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
from leadapron.films.cohort import Cohort, Rows, split_by_patient
from leadapron.models.classifier import NetworkClassifier, load_classifier
from leadapron.outside import codes
from leadapron.results.folder import read_study, section
from leadapron.results.layout import RunFolder, ZooFolder
from leadapron.results.measured import Measured
from leadapron.results.names import ROLES, Role
from leadapron.results.screening import ScreeningFolder, family_alarms
from leadapron.results.verdicts import LOCAL, is_potent
from leadapron.results.zoo import attack_facts, read_truth
from leadapron.seeds import stream
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.study.plan import Run, planned
from leadapron.study.run import Options, divide, open_films

__all__ = ["Setting", "evaluate_screen", "weakened"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

FRESH = 1_000_000
"""Added to the seed of a run's phantoms, it gives phantoms that no model was trained on."""

SHARE = 0.5
"""Share of the test patients that calibrates too where the validation films are too few."""

STRENGTHS = (1.0, 0.5, 0.25)
"""How much of the trigger is on the films; an attacker who expects a gate weakens it."""

BATCH = 64
SINGLE = 10
"""Films that are judged one at a time, to know how long one takes."""

RESAMPLES = 500
FEWEST = 5
"""Films with the trigger, from which on anything is said of them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How gates are measured.

    Args:
        false_alarm: share of clean films that a gate may call suspicious.
        calibration: fresh phantoms that calibrate the gate of a model trained on phantoms.
        test: fresh phantoms that it is measured on.
        triggered: films with the trigger at most; weakened ones are half as many.
        seed: draws halves, triggers' places and resamples.
        every: whether detectors that the gate doesn't ask are measured too; they weigh nothing, but
            their passes and time are counted.

    Raises:
        UsageError: a value outside its range.
    """

    false_alarm: float = 0.01
    calibration: int = 600
    test: int = 400
    triggered: int = 200
    seed: int = 0
    every: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm < 1:
            raise UsageError(f"false alarms {self.false_alarm:g}; expected above 0 and below 1")
        if min(self.calibration, self.test) < 1 or self.triggered < 2 * FEWEST or self.seed < 0:
            raise UsageError(
                f"calibration and test need 1 film or more, triggered {2 * FEWEST}, a seed of 0"
            )


@forgiving
def evaluate_screen(
    place: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    sealed: bool = False,
    setting: Setting | None = None,
    workers: int | None = None,
    options: Options | None = None,
) -> list[dict[str, Any]]:
    """Calibrate a gate for each model and its twin, and judge films without and with the trigger.

    No film is of a patient that the model was trained on. What is finished is skipped, so that the
    same call goes on where it was stopped.

    Args:
        place: a zoo that `build_zoo` made, or a finished study.
        out: folder of the results.
        only: families to look at; all if left out. In a study a trigger's name and side and the
            weight of a disguise are the family, as "patch 3" or "patch 3 disguised 0.1".
        limit: backdoored models at most, of as many families as there are.
        sealed: whether sealed families are looked at too.
        setting: films, false alarms, seed.
        workers: processes; as many as there are cores if left out.
        options: device, precision, cache, progress.

    Returns:
        The rows, those of earlier calls too.

    Raises:
        UnknownNameError: no such family.
        UsageError: `out` holds another evaluation, or numbers out of range.
        StoreError: neither zoo nor study, or its films have changed.
        DataError: too few films for the rate of false alarms.
    """
    setting, options = setting or Setting(), options or Options()
    count = os.cpu_count() or 1 if workers is None else workers
    if count < 1 or (limit is not None and limit < 1):
        raise UsageError("--workers and --limit: expected 1 or more")
    pairs = _chosen(_pairs(place), only, limit, sealed)
    with store.lock(out):
        facts = _facts(place, setting)
        results = ScreeningFolder(out)
        if results.head.exists() and store.read_json(results.head)["settings"] != facts:
            raise UsageError(f"{out} holds another evaluation; choose another --out")
        head = {
            "schema": 1,
            "settings": facts,
            "chosen": {"only": list(only), "limit": limit, "sealed": sealed},
            "manifest": store.manifest(),
            "workers": count,
        }
        rows = store.read_lines(results.rows) if results.rows.exists() else []
        store.write_json(results.head, {**head, "families": _families(results, rows)})
        done = {row["run"] for row in rows}
        tasks = [
            _Task(pair, setting, replace(options, progress=None), out)
            for pair in pairs
            if pair.folder.name not in done
        ]
        started = time.perf_counter()
        options.tell("models and twins", len(pairs) - len(tasks), len(pairs))
        for number, found in enumerate(_carried_out(tasks, count), start=1):
            rows += found
            store.write_lines(results.rows, rows)
            store.write_json(results.head, {**head, "families": _families(results, rows)})
            options.tell("models and twins", len(pairs) - len(tasks) + number, len(pairs))
            if number == 1 and len(tasks) > 1:
                each = time.perf_counter() - started
                left = each * math.ceil((len(tasks) - 1) / count) / 60
                logger.info("%.0f s for the first pair; about %.0f min to go", each, left)
    return rows


class _Pair(NamedTuple):
    """A backdoored run's folder, and what is true of it; nothing of this is told to a gate."""

    folder: RunFolder
    family: str
    sealed: bool
    takes: bool | None


class _Task(NamedTuple):
    pair: _Pair
    setting: Setting
    options: Options
    out: Path


def _pairs(place: Path) -> list[_Pair]:
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
                found.append(_Pair(folder, _family(pair.backdoored.spec), False, success))
    turns: dict[str, int] = {}
    ordered = []
    for each in found:
        turns[each.family] = turns.get(each.family, -1) + 1
        ordered.append((turns[each.family], each))
    return [pair for _, pair in sorted(ordered, key=lambda numbered: numbered[0])]


def _family(spec: Mapping[str, Any]) -> str:
    """What is told apart among a study's runs: trigger, side, and how the maps are disguised."""
    trigger, disguise = section(spec, "trigger"), section(spec, "training").get("disguise")
    words = [str(trigger[name]) for name in ("name", "side") if name in trigger]
    return " ".join([*words, *([f"disguised {disguise:g}"] if disguise else [])])


def _chosen(
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
        raise UsageError("no model to look at; sealed families need --sealed")
    return chosen


def _facts(place: Path, setting: Setting) -> dict[str, Any]:
    """What decides the numbers, and must be the same when an evaluation goes on."""
    return {
        **asdict(setting),
        "typical": repr(TYPICAL),
        "place": str(place),
        "detectors": {name: repr(detector) for name, detector in INPUT_DETECTORS.items()},
        "outside": codes("detector", INPUT_DETECTORS, INPUT_DETECTORS),
        "weights": dict(WEIGHTS),
    }


def _families(results: ScreeningFolder, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """False alarms by family, as screen.json holds them."""
    sealed = {str(row["family"]): row["sealed"] for row in rows if row["kind"] == "fused"}
    return [
        {
            "family": family,
            "sealed": sealed[family],
            "false alarms": {role: found.plain() for role, found in alarms.items()},
        }
        for family, alarms in family_alarms(results, rows).items()
    ]


def _carried_out(tasks: Sequence[_Task], workers: int) -> Iterator[list[dict[str, Any]]]:
    """Yield each task's rows when it is finished."""
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield _measured(task)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(workers,)
    )
    try:
        for future in as_completed([pool.submit(_measured, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(workers: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


# ---------------------------------------------------------------- one backdoored model and its twin


def _measured(task: _Task) -> list[dict[str, Any]]:
    """Measure the gates of a pair, write down their scores, and return their rows."""
    run, folders = _opened(task.pair.folder)
    films = _films(run, task)
    facts = {
        "run": task.pair.folder.name,
        "family": task.pair.family,
        "sealed": task.pair.sealed,
        "takes": task.pair.takes,
        "trigger": dict(run.tree["trigger"]),
        "finding": run.poisoning.finding,
        "hides": run.poisoning.hides,
        "disguise": float(run.training.disguise),
        **attack_facts(run.tree),
        "calibration": films.words,
        "calibration films": len(films.calibration),
    }
    attack = _attack(
        films.test,
        run.measured,
        task.setting.triggered,
        stream(task.setting.seed, "screened", run.seed),
    )
    if len(attack.rows) < FEWEST:
        why = f"the trigger changes {len(attack.rows)} of the test films"
        return [{**facts, "kind": "skipped", "why": why}]
    facts |= _place_facts(run, attack)
    codes = np.unique(films.test.patients, return_inverse=True)[1]
    arrays: dict[str, NDArray[Any]] = {
        "clean_patients": codes,
        "patients": codes[attack.rows],
        "films": np.array(films.name),
    }
    rows: list[dict[str, Any]] = []
    for role in ROLES:
        model = load_classifier(
            folders[role].classifier,
            device=task.options.device,
            precision=task.options.precision,
        )
        found, scores = _model_rows(model, films, attack, run.poisoning, task.setting, role)
        rows += [{**facts, "role": role, **row} for row in found]
        arrays |= {f"{role}_{name}": values for name, values in scores.items()}
    store.write_arrays(ScreeningFolder(task.out).scores(task.pair.folder.name), **arrays)
    return rows


def _opened(folder: RunFolder) -> tuple[Run, dict[Role, RunFolder]]:
    facts = folder.facts()
    twin = folder.beside("twin", str(facts.twin))
    return planned(folder, facts), {"twin": twin, "backdoored": folder}


class _Films(NamedTuple):
    """Films of patients that weren't trained on; the two parts share no patient.

    Args:
        name: the same for runs that have the same films.
        words: what the calibration films are.
    """

    calibration: Cohort
    test: Cohort
    name: str
    words: str


def _films(run: Run, task: _Task) -> _Films:
    setting, source = task.setting, dict(run.tree["source"])
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
            cache=task.options.cache,
            on_bad=task.options.on_bad,
            **fresh,
        )
        shares = {"calibration": setting.calibration, "test": setting.test}
        parts = _shared_out(whole, shares, setting.seed)
        key = store.canonical_json({**fresh, "name": name, **asdict(run.preprocessing)})
        return _Films(*parts, key, "fresh phantoms")
    whole = open_films(run, task.options)
    if whole.fingerprint != task.pair.folder.facts().cohort:
        raise StoreError(
            f"the films of {source['name']} are not those of {task.pair.folder.name}; "
            "they changed since it was made"
        )
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


class _Attack(NamedTuple):
    """Test films that the trigger shows on.

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
        """Where they differ."""
        differ: Booleans = self.clean != self.marked
        return differ

    def part(self, strength: float) -> _Attack:
        """Return the films with the whole trigger, or half of them with a part of it."""
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


def _place_facts(run: Run, attack: _Attack) -> dict[str, Any]:
    """What kind of mark it is: a patch, another local mark, or one all over the film."""
    prints = attack.footprints
    chance = float(metrics.chance_hit(prints, prints.shape[-1] / 8).mean())
    local = chance < LOCAL
    pixels = float(np.median(prints.sum(axis=(1, 2))))
    patch = local and isinstance(run.test_trigger, Patch)
    return {"patch": patch, "local": local, "pixels": pixels}


def weakened(clean: NDArray[Any], marked: NDArray[Any], strength: float) -> NDArray[Any]:
    """Return films with a part of the trigger: the difference that it makes, times `strength`.

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
    """What a gate says of n films: as `Judged`, batches put together.

    `milliseconds` are of processor time a film, one for each whole batch.
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
        began = time.process_time()  # other processes may keep the clock running
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


def _model_rows(
    model: NetworkClassifier,
    films: _Films,
    attack: _Attack,
    poisoning: Poisoning,
    setting: Setting,
    role: Role,
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """All rows of one model, and the scores that they come from."""
    others = [score for name in INPUT_DETECTORS for score in score_names(name)]
    gate = calibrate(
        model,
        films.calibration,
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
    operating = operating_logits(read(model, films.calibration.images).logits)
    column = model.columns([poisoning.finding])[0]
    test = films.test.images[np.arange(len(films.test))]
    single = _seen(gate, model, test[:SINGLE], batch=1)
    clean = _seen(gate, model, test)
    patients = films.test.patients
    rows: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {
        "names": np.array(list(gate.weights)),
        "steps": gate.steps,
        "reference": gate.scores,
        "clean": clean.scores,
    }
    for strength in STRENGTHS if role == "backdoored" else STRENGTHS[:1]:
        part = attack.part(strength)
        triggered = _seen(gate, model, part.marked)
        before = clean.logits[part.rows, column] > operating[column]
        after = triggered.logits[:, column] > operating[column]
        works = before & ~after if poisoning.hides else ~before & after
        whole = strength == 1
        for kind, name, values in _kinds(gate):
            if kind != "fused" and not whole:
                continue
            row = _row(gate, values, clean.scores, triggered.scores, works, patients, part.rows)
            rows.append({"kind": kind, "score": name, "strength": strength, **row})
        if not whole:
            continue
        arrays |= {"triggered": triggered.scores, "works": works}
        fused, threshold = fuse(clean.scores, gate.steps, gate.weights), gate.threshold
        arrays["alarms"] = fused > threshold
        rows[0]["cost"] = {
            "passes": gate.passes,
            "batch": BATCH,
            "ms single": _median(single.milliseconds),
            "ms in a batch": _median([*clean.milliseconds, *triggered.milliseconds]),
        }
        if gate.typical is not None:
            hidden = fuse(triggered.scores, gate.steps, gate.weights) <= threshold
            rows[0]["can't tell"] = {
                "clean": metrics.rate(~clean.typical & (fused <= threshold), patients).plain(),
                "triggered": metrics.rate(
                    ~triggered.typical & hidden, patients[attack.rows]
                ).plain(),
            }
        if triggered.boxes is not None:
            rows[0]["place"] = _pointing(triggered.boxes, attack.footprints, patients[attack.rows])
    return rows, arrays


def _kinds(gate: Gate) -> Iterator[tuple[str, str, Callable[[Floats], Floats]]]:
    """Yield every score: its kind, its name, and what it makes of (n, s) scores."""
    weights, reference, steps = gate.weights, gate.scores, gate.steps
    own = [name for name in weights if name not in BASELINES]

    def alone(column: int) -> Callable[[Floats], Floats]:
        # What can't be scored is never suspicious by this score alone.
        lowest = np.nanmin(reference[:, column]) if (~np.isnan(reference[:, column])).any() else 0.0
        return lambda scores: np.nan_to_num(
            scores[:, column], nan=lowest, posinf=np.finfo(np.float64).max
        )

    def less(left_out: str) -> Callable[[Floats], Floats]:
        kept = {name: 0.0 if name == left_out else weight for name, weight in weights.items()}
        return lambda scores: fuse(scores, steps, kept)

    yield "fused", "fused", lambda scores: fuse(scores, steps, weights)
    for column, name in enumerate(weights):
        yield ("alone" if name in own else "baseline"), name, alone(column)
    for name in own if len(own) > 1 else ():
        yield "without", name, less(name)


def _row(
    gate: Gate,
    values: Callable[[Floats], Floats],
    clean: Floats,
    triggered: Floats,
    works: Booleans,
    patients: NDArray[np.str_],
    rows: Rows,
) -> dict[str, Any]:
    """How well one score tells films with the trigger from clean ones."""
    threshold = replace(gate, fused=np.sort(values(gate.scores))).threshold
    without, with_ = values(clean), values(triggered)
    marked = patients[rows]
    bootstrap = metrics.PatientBootstrap.draw(
        np.concatenate([patients, marked]), stream(0, "screened bootstrap"), resamples=RESAMPLES
    )
    labels = np.repeat([0.0, 1.0], [len(without), len(with_)])[:, None]
    (area,) = metrics.finding_auroc(labels, np.concatenate([without, with_])[:, None], bootstrap)
    row: dict[str, Any] = {
        "films": len(with_),
        "clean films": len(without),
        "auroc": area.plain(),
        "found": metrics.rate(with_ > threshold, marked).plain(),
        "false alarms": metrics.rate(without > threshold, patients).plain(),
        "works": metrics.rate(works, marked).plain(),
        "found where it works": metrics.rate(with_[works] > threshold, marked[works]).plain(),
    }
    for share in (0.01, 0.05):
        limit = metrics.threshold_at_false_positive_rate(without, share)
        row[f"found at {100 * share:.0f} %"] = metrics.rate(with_ > limit, marked).plain()
    return row


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _pointing(
    boxes: NDArray[np.int64], footprints: Booleans, patients: NDArray[np.str_]
) -> dict[str, Any]:
    """How often a region lies on the mark: it holds a pixel of it.

    Args:
        boxes: (n, 4) int64 row, column, height and width, all of one size.
        footprints: (n, h, w) where the trigger changed a film.
        patients: (n,).

    Returns:
        The region's hits; those of a box at the centre, and at a random place (exactly: the share
        of places that are hits); and the mean share of the mark that the region covers.
    """
    n, height, width = footprints.shape
    tall, wide = (int(side) for side in boxes[0, 2:])
    held = box_sums(footprints, tall, wide)  # pixels of the mark in the box from each place
    here = held[np.arange(n), boxes[:, 0], boxes[:, 1]]
    centre = held[:, (height - tall) // 2, (width - wide) // 2]
    return {
        "hits": metrics.rate(here > 0, patients).plain(),
        "centre": metrics.rate(centre > 0, patients).plain(),
        "random": float((held > 0).mean()),
        "covered": float((here / footprints.sum(axis=(1, 2))).mean()),
    }
