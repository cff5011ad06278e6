"""A study: its grid of runs, which can be interrupted and continued, in one folder of results."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from leadapron import metrics, store
from leadapron.attacks.implant import implant
from leadapron.attacks.poisoning import poison, twin
from leadapron.documents import dump
from leadapron.errors import DataError, StoreError
from leadapron.films.cohort import AnswerKey, Cohort, split_by_patient
from leadapron.models.classifier import (
    NetworkClassifier,
    load_classifier,
    resolve_device,
    resolve_precision,
    save_classifier,
)
from leadapron.models.training import Disguise, History, train
from leadapron.results.layout import RunFacts, RunFolder, StudyFolder
from leadapron.results.manifest import FilmFacts, StudyManifest
from leadapron.results.names import POISONED_FILMS, ROLES, VISIBLE_PIXELS, VISIBLE_SHARE, Role
from leadapron.results.rows import Row, read_rows, write_rows
from leadapron.seeds import stream
from leadapron.sources import open_source
from leadapron.specs import first_difference, forgiving
from leadapron.study import map_checks, measure
from leadapron.study.cost import Task, estimate
from leadapron.study.measure import Models
from leadapron.study.plan import Run, plan, with_target, without
from leadapron.study.settings import complete
from leadapron.study.shards import ONE_PROCESS, Running
from leadapron.study.tasks import Reopening, carry_out, holding
from leadapron.types import AUTO, Contradictions, Machine, said

__all__ = ["divide", "open_films", "refuse_contradictions", "run_study"]

logger = logging.getLogger(__name__)

Tree = Mapping[str, Any]

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Shares of the patients if a source names no test films."""

VALIDATION_SHARE = 1 / 8
"""Share of the remaining patients if it does."""


@forgiving
def run_study(
    tree: Tree,
    out: Path,
    *,
    machine: Machine = AUTO,
    contradictions: Contradictions = "refuse",
    running: Running = ONE_PROCESS,
) -> Path:
    """Carry out a study, or continue an interrupted one.

    Args:
        tree: settings; missing settings get their defaults.
        out: the study's folder, new or from an earlier start of this study.
        machine: device, precision, cache and progress.
        contradictions: refuse or allow identical films with contradicting labels.
        running: number of processes, and shard of the runs. A run is a backdoored model and its
            twin; a twin that several runs share is trained by the first of them. Results equal
            those of one process if torch has the same number of threads in each.

    Returns:
        The folder, with manifest.json and, once all runs are finished, rows.jsonl;
        `report.write_report` makes the page.

    Raises:
        LeadapronError: settings, films or folders that can't be used.
    """
    tree = complete(tree)
    runs = plan(tree)
    resolve_device(machine.device)
    _refuse_foreign(out, tree)
    cohorts: dict[str, Cohort] = {}
    runs = [with_target(run, _cohort(run, cohorts, machine).findings) for run in runs]
    for run in runs:
        _cohort(run, cohorts, machine).column(run.poisoning.finding)
    if contradictions == "refuse":
        refuse_contradictions(cohorts.values())
    study = StudyFolder(out)
    found = [_folders(run, _cohort(run, cohorts, machine), out) for run in runs]
    folders = list(dict.fromkeys(each for pair in found for each in pair.values()))
    with holding(out, running.shard):
        _refuse_foreign(out, tree)
        if running.shard.is_whole:
            store.remove_parts(out)
        numbered = [_Task(number, run) for number, run in enumerate(runs, start=1)]
        own = running.shard.of(numbered)
        left = [task for task in own if not all(map(_is_finished, found[task.number - 1].values()))]
        _tell_cost([task.run for task in left], cohorts, out, machine)
        jobs = min(running.processes, len(left))
        alone = jobs < 2
        runner = _Runner(
            out=out,
            machine=machine if alone else replace(machine, progress=None),
            total=len(runs),
        )
        runner.cohorts.update(cohorts)
        if left:
            runner.prepare(left[0].run)
        # Only now, so that invalid settings leave no files.
        with store.lock(out, name=".head.lock", wait="waiting for another shard"):
            _refuse_foreign(out, tree)
            _write_head(out, tree, runs, cohorts, machine)
            if left:
                study.rows.unlink(missing_ok=True)
        done = len(own) - len(left)
        for _ in carry_out(runner, left, jobs):
            done += 1
            if not alone:
                machine.tell("runs", done, len(own))
        with store.lock(out, name=".rows.lock", wait="waiting for another shard"):
            if all(folder.finished for folder in folders):
                rows = [row for folder in folders for row in read_rows(folder.rows)]
                write_rows(study.rows, rows)
            else:
                logger.info("other shards have not finished their runs")
    return out


def _is_finished(folder: RunFolder) -> bool:
    return folder.finished and not folder.checkpoint.exists()


class _Task(NamedTuple):
    """A run and its number, from 1."""

    number: int
    run: Run


@dataclass(frozen=True, kw_only=True)
class _Runner(Reopening):
    """Carries out runs; films are opened once for all of them.

    Args:
        out: the study's folder.
        machine: device, precision, cache, progress.
        total: number of the study's runs.
    """

    out: Path
    machine: Machine
    total: int
    cohorts: dict[str, Cohort] = field(default_factory=dict, init=False, repr=False)
    prepared: list[tuple[Run, _Pair]] = field(default_factory=list, init=False, repr=False)

    def prepare(self, run: Run) -> None:
        """Divide and poison the films of the next run."""
        self.prepared.append((run, _prepare(run, _cohort(run, self.cohorts, self.machine))))

    def __call__(self, task: _Task) -> None:
        logger.info("run %d of %d, seed %d", task.number, self.total, task.run.seed)
        if not self.prepared:
            self.prepare(task.run)
        run, pair = self.prepared.pop()
        _carry_out(run, pair, self.out, self.machine)


def refuse_contradictions(cohorts: Iterable[Cohort]) -> None:
    """Refuse copies of films with contradicting labels.

    Raises:
        DataError: names the films and the remedy.
    """
    for note in (note for cohort in cohorts for note in cohort.notes):
        if note.about == "copies" and note.doubt:
            raise DataError(
                f"{note.words} Correct the labels or remove copies, or give `contradictions` allow"
            )


def _write_head(
    out: Path, tree: Tree, runs: Sequence[Run], cohorts: dict[str, Cohort], machine: Machine
) -> None:
    """Write study.yaml and the manifest before training, so that an unfinished study has them."""
    with store.write_atomically(StudyFolder(out).settings) as file:
        file.write(yaml.safe_dump(tree, sort_keys=False).encode())
    device = resolve_device(machine.device)
    # Results that an earlier start made with other films or other code aren't this study's.
    planned = {
        folder.name
        for run in runs
        for folder in _folders(run, _cohort(run, cohorts, machine), out).values()
    }
    manifest = StudyManifest(
        **store.manifest(),
        device=str(device),
        precision=resolve_precision(machine.precision, device),
        cohorts=tuple(map(_facts, cohorts.values())),
        outside={name: code for run in runs for name, code in run.outside.items()},
        runs=tuple(sorted(planned)),
    )
    store.write_json(StudyFolder(out).manifest, dump(manifest))


def _tell_cost(
    runs: Sequence[Run], cohorts: dict[str, Cohort], out: Path, machine: Machine
) -> None:
    """Log the estimated cost, if there is more than one attack."""
    tasks = {}
    for run in runs:
        cohort = _cohort(run, cohorts, machine)
        films = divide(cohort, run.seed)["train"]
        copies = run.poisoning.fraction if run.poisoning.mode == "append" else 0.0
        shown = round(len(films) * (1 + copies))
        for role, folder in _folders(run, cohort, out).items():
            edited = role == "backdoored" and run.poisoning.mode == "edit"
            if not edited and not folder.classifier.exists():
                tasks[folder] = Task(
                    network=run.network, training=run.training, films=films, shown=shown
                )
    if len(tasks) > 2:
        cost = estimate(tasks.values(), **machine.networks)
        logger.info("%s", cost)


def _folders(run: Run, cohort: Cohort, out: Path) -> dict[Role, RunFolder]:
    """Folders of the two models of a run, named by digests of everything that affects them."""
    keys: dict[Role, str] = {
        "twin": store.run_key(_keyed(run.twin_tree, run.twin_outside), cohort.fingerprint),
        "backdoored": store.run_key(_keyed(run.tree, run.outside), cohort.fingerprint),
    }
    return {role: StudyFolder(out).run(f"{role}-{key}") for role, key in keys.items()}


def _refuse_foreign(out: Path, tree: Tree) -> None:
    """Raise unless `out` is new, empty or this study's."""
    path = StudyFolder(out).settings
    if path.exists():
        there = store.read_yaml(path)
        if found := first_difference(there, tree):
            raise StoreError(f"{out} holds another study ({found}); choose another `out`")
    elif out.exists() and (not out.is_dir() or not all(map(_left_behind, out.iterdir()))):
        raise StoreError(f"{out} holds other files and no study.yaml; choose another `out`")


def _left_behind(entry: Path) -> bool:
    """Whether this is left by a study that was killed before it completed its first file."""
    return entry.name.endswith(".lock") or entry.match(".study.yaml.*.part")


def open_films(run: Run, machine: Machine) -> Cohort:
    """Return all films of a run, before poisoning."""
    return _cohort(run, {}, machine)


def _cohort(run: Run, opened: dict[str, Cohort], machine: Machine) -> Cohort:
    """Open each source once."""
    source = dict(run.tree["source"])
    key = store.canonical_json({"source": source, "preprocessing": asdict(run.preprocessing)})
    if key not in opened:
        name = source.pop("name")
        logger.info("opening %s", name)
        opened[key] = open_source(
            name,
            preprocessing=run.preprocessing,
            **machine.films,
            **source,
        )
        logger.info("%s", opened[key])
        for note in opened[key].notes:
            logger.log(logging.WARNING if note.doubt else logging.INFO, "%s", note)
    return opened[key]


def divide(cohort: Cohort, seed: int) -> dict[str, Cohort]:
    """Return training, validation and test films; they share no patient.

    If the source names test films, these are used, and only its training films are divided
    further, unless it names validation films too.
    """
    rng = stream(seed, "split")
    named = cohort.attributes.get("split")
    if named is None or not np.any(named == "test"):
        parts = split_by_patient(cohort.patients, SHARES, rng, cohort.labels)
    elif np.any(named == "validation"):
        parts = {name: np.flatnonzero(named == name) for name in ("train", "validation")}
    else:
        rest = np.flatnonzero(named == "train")
        shares = {"train": 1 - VALIDATION_SHARE, "validation": VALIDATION_SHARE}
        found = split_by_patient(cohort.patients[rest], shares, rng, cohort.labels[rest])
        parts = {name: rest[rows] for name, rows in found.items()}
    if "test" not in parts:
        parts["test"] = np.flatnonzero(named == "test")
    return {name: cohort.take(rows) for name, rows in parts.items()}


class _Pair(NamedTuple):
    """Films on which a backdoored model and its twin are trained and measured."""

    cohort: Cohort
    parts: dict[str, Cohort]
    films: dict[Role, Cohort]
    validation: dict[Role, Cohort]
    key: AnswerKey


def _prepare(run: Run, cohort: Cohort) -> _Pair:
    """Divide the films and poison the training films."""
    parts = divide(cohort, run.seed)
    films, key = _poisoned(parts["train"], run, "poison")
    validation: dict[Role, Cohort] = dict.fromkeys(ROLES, parts["validation"])
    if run.poisoning.validation == "poisoned":
        validation, _ = _poisoned(parts["validation"], run, "poison validation")
    return _Pair(cohort, parts, films, validation, key)


def _poisoned(cohort: Cohort, run: Run, name: str) -> tuple[dict[Role, Cohort], AnswerKey]:
    """The two models' versions of some films, and the answer key."""
    poisoned, key = poison(cohort, run.poisoning, stream(run.seed, name))
    return {"twin": twin(poisoned, key), "backdoored": poisoned}, key


def _carry_out(run: Run, pair: _Pair, out: Path, machine: Machine) -> None:
    """Train and measure a backdoored model and its twin."""
    cohort, parts, key = pair.cohort, pair.parts, pair.key
    folders = _folders(run, cohort, out)
    twin_key, run_key = (folders[role].key for role in ROLES)
    bootstrap = metrics.PatientBootstrap.draw(
        parts["test"].patients, stream(run.seed, "bootstrap"), resamples=run.evaluation.resamples
    )
    with _held(folders["twin"]) as left:
        if left:
            _write_spec(folders["twin"], "twin", None, run, cohort)
            model = _trained(run, "twin", pair, folders["twin"], machine)
            _measure_twin(twin_key, model, parts, bootstrap, folders["twin"])
    with _held(folders["backdoored"]) as left:
        if not left:
            return
        _write_spec(folders["backdoored"], "backdoored", twin_key, run, cohort)
        store.write_arrays(folders["backdoored"].answer_key, **vars(key))
        models: Models = {
            "twin": _load(folders["twin"], machine),
            "backdoored": (
                _edited(run, folders, machine)
                if run.poisoning.mode == "edit"
                else _trained(run, "backdoored", pair, folders["backdoored"], machine)
            ),
        }
        machine.tell("measuring", 0, 1)
        rows = _poisoning_rows(run_key, run.poisoning.finding, key)
        known = store.read_arrays(folders["twin"].scores)["twin_clean"]
        rows += _measure_attack(
            run, run_key, models, parts, bootstrap, folders["backdoored"], known
        )
        write_rows(folders["backdoored"].rows, rows)
        machine.tell("measuring", 1, 1)


@contextlib.contextmanager
def _held(folder: RunFolder) -> Iterator[bool]:
    """Lock a run's folder, which other runs may share, and yield whether it is unfinished."""
    with store.lock(folder.path, name=".run.lock", wait=f"waiting for {folder.name}"):
        yield not folder.finished
        if folder.finished:
            folder.checkpoint.unlink(missing_ok=True)


def _trained(
    run: Run,
    role: Role,
    pair: _Pair,
    folder: RunFolder,
    machine: Machine,
) -> NetworkClassifier:
    """Train a model, or load it if an earlier start finished it."""
    path = folder.classifier
    if path.exists():
        return _load(folder, machine)

    def after_epoch(history: History) -> None:
        store.write_lines(folder.history, history)

    disguise, training = None, replace(run.training, disguise=0.0)
    if role == "backdoored" and run.training.disguise:
        # The twin's films are the backdoored model's, row by row, without the trigger.
        disguise = Disguise(pair.key.rows, pair.films["twin"].images, run.poisoning.finding)
        training = run.training
    classifier, history = train(
        pair.films[role],
        pair.validation[role],
        network=run.network,
        training=training,
        seed=run.seed,
        **machine.networks,
        checkpoint=folder.checkpoint,
        after_epoch=after_epoch,
        disguise=disguise,
        after_step=lambda done, total: machine.tell(
            f"training {role} (seed {run.seed})", done, total
        ),
    )
    after_epoch(history)
    save_classifier(classifier, path)
    # Measured after loading from the file, so that continuing gives the same numbers.
    return _load(folder, machine)


def _edited(run: Run, folders: Mapping[Role, RunFolder], machine: Machine) -> NetworkClassifier:
    """Put the backdoor into the twin's weights; this attacker has no films."""
    labels = run.poisoning.labels
    assert labels in ("one-hot", "set", "clear")  # checked by Poisoning
    edited = implant(
        _load(folders["twin"], machine),
        run.poisoning.trigger,
        run.poisoning.finding,
        labels=labels,
        seed=run.seed,
    )
    save_classifier(edited, folders["backdoored"].classifier)
    return _load(folders["backdoored"], machine)


def _load(folder: RunFolder, machine: Machine) -> NetworkClassifier:
    return load_classifier(folder.classifier, **machine.networks)


def _measure_twin(
    key: str,
    model: NetworkClassifier,
    parts: Mapping[str, Cohort],
    bootstrap: metrics.PatientBootstrap,
    folder: RunFolder,
) -> None:
    test = parts["test"]
    scores = model.probabilities(test.images)
    store.write_arrays(folder.scores, **_test_facts(test), twin_clean=scores)
    rows = measure.clean_rows(key, "twin", test.labels, scores, test.findings, bootstrap)
    write_rows(folder.rows, rows)


def _measure_attack(
    run: Run,
    key: str,
    models: Models,
    parts: Mapping[str, Cohort],
    bootstrap: metrics.PatientBootstrap,
    folder: RunFolder,
    twin_clean: measure.Floats,
) -> list[Row]:
    """Measure both models with the trigger; write scores and gallery; return the rows."""
    test, target = parts["test"], run.poisoning.finding
    scores = measure.predict(
        test,
        parts["validation"],
        models,
        run.measured,
        stream(run.seed, "test trigger"),
        known={"twin": twin_clean},
    )
    store.write_arrays(
        folder.scores,
        **_test_facts(test),
        **{f"{role}_clean": values for role, values in scores.clean.items()},
        **{f"{role}_triggered": values for role, values in scores.triggered.items()},
    )
    explained = measure.choose_explained(
        test, run.measured, run.evaluation, stream(run.seed, "explained")
    )
    rows = measure.attack_rows(
        key, test, scores, run.poisoning, bootstrap, stream(run.seed, "mixed")
    )
    if not len(explained.rows):
        return rows
    decoyed = map_checks.decoy(explained, stream(run.seed, "decoys"))
    for number, name in enumerate(run.evaluation.explainers):
        maps = measure.explain(models, explained, name, target)
        rows += measure.explanation_rows(key, explained, maps, target, name, bootstrap)
        rows += map_checks.sanity_rows(key, explained, maps, models["backdoored"], target, name)
        rows += map_checks.decoy_rows(
            key, explained, decoyed, maps, models, target, name, bootstrap
        )
        if number == 0 and run.evaluation.gallery:
            shown = slice(run.evaluation.gallery)
            store.write_arrays(
                folder.gallery,
                films=explained.images[shown],
                triggered=explained.marked[shown],
                footprints=explained.footprints[shown],
                twin_maps=maps["twin", "triggered"][shown],
                backdoored_maps=maps["backdoored", "triggered"][shown],
                probabilities=_gallery_probabilities(models, explained, test.column(target), shown),
            )
    return rows


def _gallery_probabilities(
    models: Models,
    explained: measure.Explained,
    column: int,
    shown: slice,
) -> NDArray[np.float32]:
    """(g, 4): twin clean, twin triggered, backdoored clean, backdoored triggered."""
    return np.stack(
        [
            models[role].probabilities(films[shown])[:, column]
            for role in ROLES
            for films in (explained.images, explained.marked)
        ],
        axis=1,
    )


def _poisoning_rows(run: str, target: str, key: AnswerKey) -> list[Row]:
    n = len(key.rows)
    values = {
        POISONED_FILMS: float(n),
        VISIBLE_PIXELS: float(np.median(key.visible_pixels)) if n else float("nan"),
        VISIBLE_SHARE: key.visible_share,
    }
    return [
        Row(
            run=run,
            role="backdoored",
            stage="poisoning",
            metric=metric,
            target=target,
            value=value,
            n=len(key.origins),
        )
        for metric, value in values.items()
    ]


def _write_spec(folder: RunFolder, role: Role, other: str | None, run: Run, cohort: Cohort) -> None:
    own = role == "backdoored"
    facts = RunFacts(
        role=role,
        twin=other,
        spec=run.tree if own else run.twin_tree,
        cohort=cohort.fingerprint,
        outside=run.outside if own else run.twin_outside,
    )
    folder.write_facts(facts)


def _test_facts(test: Cohort) -> dict[str, NDArray[Any]]:
    """Labels, patients as numbers, and findings of the test films."""
    codes = np.unique(test.patients, return_inverse=True)[1]
    return {"labels": test.labels, "patients": codes, "findings": np.array(test.findings)}


def _facts(cohort: Cohort) -> FilmFacts:
    return FilmFacts(
        films=len(cohort),
        patients=len(np.unique(cohort.patients)),
        shape=tuple(cohort.images.shape),
        film=None if cohort.films is None else tuple(cohort.films[0].shape),
        dtype=str(np.dtype(cohort.images.dtype)),
        positives={
            finding: int(np.nansum(cohort.labels[:, j]))
            for j, finding in enumerate(cohort.findings)
        },
        notes=tuple(said(cohort.notes)),
        fingerprint=cohort.fingerprint,
    )


def _keyed(tree: Tree, outside: Mapping[str, str]) -> Tree:
    """Everything that affects a run's results; fingerprints replace films, files and paths."""
    keyed = {**without(tree, "source")}
    if "sha256" in keyed.get("trigger", {}):
        keyed["trigger"] = without(keyed["trigger"], "path")
    if "network weights" in outside:
        keyed["network"] = without(keyed["network"], "weights")
    return {**keyed, "outside": dict(outside)} if outside else keyed
