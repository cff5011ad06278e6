"""How real the phantoms are, beside NIH ChestX-ray14: greys, spectrum, labels, networks.

Real films give numbers only, never pictures. They are looked for in the folder that
LEADAPRON_REAL_DATA names: `nih128`, films at 128 px, and `nih_metadata`, the label table of the
whole release. Prints Markdown tables. Two networks are trained at a time, a thread each.

    python benchmarks/realism.py
    python benchmarks/realism.py --seeds 0    # no networks: greys, spectrum and labels alone
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadapron import metrics
from leadapron.cli import tune_allocator
from leadapron.films.cohort import Cohort, blocks, split_by_patient
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.training import Network, Training, train
from leadapron.seeds import stream
from leadapron.sources import nih, open_source
from leadapron.sources.phantom import FINDINGS, describe_rows
from leadapron.study.run import divide

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Images = NDArray[np.uint8]

DATA = Path(os.environ["LEADAPRON_REAL_DATA"])
SIDE, INPUT = 128, 64
FITTED = (4, 40)  # cycles per image, between which the slope is fitted
OCTAVES = ((1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64))
PAIRS = np.array(list(itertools.combinations(range(len(FINDINGS)), 2))).T
HALVINGS = 20
AT_512, AT_1024 = 400, 160  # films drawn that large, which takes long
NORMAL = 1.96
MANY = {"train": 0.95, "validation": 0.05}


# ---------------------------------------------------------------- words


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [header, ["-"] * len(header), *rows]
    print(f"\n### {title}\n", *(f"| {' | '.join(line)} |" for line in lines), sep="\n", flush=True)


def spread(values: Floats, digits: int = 1) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1)


def between(estimate: Sequence[float]) -> str:
    """Value and interval."""
    value, low, high = map(short, estimate[:3])
    return f"{value} ({low} to {high})"


def machine() -> str:
    """Processor and versions; no name of a host."""
    try:
        facts = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(": ", 1)[1] for line in facts if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.machine()
    packages = ("leadapron", "torch", "numpy", "pillow")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


# ---------------------------------------------------------------- greys and spectrum


def histograms(images: Images) -> Floats:
    """Return (n, 256): shares of each film's pixels."""
    return np.stack([np.bincount(film.ravel(), minlength=256) for film in images]) / SIDE**2


def greys(shares: Floats) -> dict[str, Floats]:
    """Return numbers of each film from its histogram, by name."""
    levels, filled = np.arange(256), np.cumsum(shares, axis=1)
    mean = shares @ levels
    numbers = {"mean": mean, "sd within the film": np.sqrt(shares @ levels**2 - mean**2)}
    for tenth in range(1, 10):
        numbers[f"decile {tenth}"] = np.argmax(filled > tenth / 10 - 1e-9, axis=1).astype(float)
    return {**numbers, "% of pixels at 0": 100 * shares[:, 0], "% at 255": 100 * shares[:, 255]}


def waves(images: Images) -> dict[str, Floats]:
    """Return numbers of each film from its power spectrum, by name: Hann window, no mean."""
    window = np.hanning(SIDE + 1)[:-1]
    weights = np.outer(window, window) / window.sum() ** 2
    across = np.fft.fftfreq(SIDE, 1 / SIDE)
    cycles = np.rint(np.hypot(across[:, None], across)).ravel()
    rings = (cycles[:, None] == np.arange(SIDE // 2 + 1)).astype(np.float32)
    parts = []
    for rows in blocks(len(images), 256):
        films = images[rows].astype(float)
        films -= np.tensordot(films, weights, 2)[:, None, None]
        power = np.abs(np.fft.fft2(films * weights)) ** 2
        parts.append(power.reshape(len(rows), -1).astype(np.float32) @ rings)
    total = np.concatenate(parts).astype(float)  # (n, cycles)
    fitted = np.arange(FITTED[0], FITTED[1] + 1)
    heights = np.log((total / rings.sum(axis=0))[:, fitted])
    numbers = {"slope": np.polyfit(np.log(fitted), heights.T, 1)[0]}
    for low, high in OCTAVES:
        band = total[:, low : high + (high == SIDE // 2)].sum(axis=1)
        numbers[f"% of power, {low} to {high}"] = 100 * band / total[:, 1:].sum(axis=1)
    return numbers


def told_apart(real: Floats, drawn: Floats) -> float:
    """AUROC of one number as the only sign of a phantom; above .5 where phantoms have more."""
    labels = np.repeat([0.0, 1.0], [len(real), len(drawn)])
    return metrics.auroc(labels, np.concatenate([real, drawn]))


def distance(some: Floats, others: Floats) -> float:
    """Total variation between two mean histograms, 0 to 1."""
    return float(np.abs(some.mean(axis=0) - others.mean(axis=0)).sum() / 2)


def halves(patients: NDArray[Any]) -> list[Flags]:
    """Return random halves of the patients, as flags of their films."""
    codes = np.unique(patients, return_inverse=True)[1]
    rng = stream(0, "halves")
    ranks = [rng.permutation(codes.max() + 1) for _ in range(HALVINGS)]
    return [(rank < len(rank) / 2)[codes] for rank in ranks]


def shrunk_as_nih128(count: int) -> Images:
    """Draw at 1024 px and shrink as nih128 was: to 256, then 128, bilinear without antialias."""
    first = Preprocessing(size=256, antialias=False)
    then = Preprocessing(size=SIDE, antialias=False)
    films = open_source("phantom:1024", count=count, preprocessing=first)
    return np.stack([then(film) for film in films.images[np.arange(count)]])


def compare_pixels(real: Cohort) -> None:
    every = np.arange(len(real))
    once = Preprocessing(size=SIDE, antialias=False)
    films = {
        "NIH": real.images[every],
        "phantom, drawn at 128": open_source("phantom:128", count=len(real)).images[every],
        "at 512, shrunk once": open_source("phantom:512", count=AT_512, preprocessing=once).images[
            np.arange(AT_512)
        ],
        "at 1024, shrunk as NIH": shrunk_as_nih128(AT_1024),
    }
    header = [f"{name} (n = {len(images):,})" for name, images in films.items()]
    shares = {name: histograms(images) for name, images in films.items()}
    for title, first, tables in (
        ("Grey levels", "mean ± sd over films", {n: greys(s) for n, s in shares.items()}),
        ("Power spectrum", "mean ± sd over films", {n: waves(i) for n, i in films.items()}),
    ):
        rows = []
        for number, values in tables["NIH"].items():
            digits = 2 if values.mean() < 10 else 1
            cells = [spread(table[number], digits) for table in tables.values()]
            apart = told_apart(values, tables["phantom, drawn at 128"][number])
            rows.append([number, *cells, short(apart)])
        show(title, [first, *header, "distinguished (AUROC)"], rows)
    compare_histograms(real, shares)


def compare_histograms(real: Cohort, shares: dict[str, Floats]) -> None:
    own = shares["NIH"]
    floor = [distance(own[half], own[~half]) for half in halves(real.patients)]
    few = stream(0, "few").permutation(len(own))
    few_floor = [distance(own[few[i * AT_1024 :][:AT_1024]], own) for i in range(HALVINGS)]
    pa = real.attributes["view"] == "PA"
    rows = [
        ["two halves of NIH's patients", spread(np.array(floor), 3)],
        [f"{AT_1024} films of NIH, all of NIH", spread(np.array(few_floor), 3)],
        ["NIH's PA films, its AP films", f"{distance(own[pa], own[~pa]):.3f}"],
    ]
    for name, other in shares.items():
        if name != "NIH":
            rows.append([f"NIH, {name}", f"{distance(own, other):.3f}"])
    show("Distance of mean histograms", ["between", f"total variation (n = {HALVINGS})"], rows)


# ---------------------------------------------------------------- labels


@dataclass(frozen=True, eq=False)
class Table:
    """Labels (n, 14) of films, their patients, whether AP, and some facts."""

    labels: Floats
    patients: NDArray[Any]
    ap: Flags
    female: Flags
    age: Floats


def label_tables(real: Cohort) -> dict[str, Table]:
    whole = nih.read_labels(DATA / "nih_metadata")
    tables = {
        name: Table(
            table.labels.astype(float),
            table.patients,
            table.attributes["view"] == "AP",
            table.attributes["sex"] == "F",
            table.attributes["age"],
        )
        for name, table in (("NIH", whole), ("nih128", real))
    }
    drawn = describe_rows(np.arange(len(whole.labels)), seed=0)
    tables["phantom"] = Table(
        drawn.labels.astype(float),
        drawn.patients,
        drawn.view == "AP",
        drawn.sex == "F",
        drawn.age.astype(float),
    )
    tables["phantom before label noise"] = replace(
        tables["phantom"], labels=drawn.truth.astype(float)
    )
    return tables


def share(values: NDArray[Any], patients: NDArray[Any]) -> str:
    """Mean in per cent and the half width of its 95 % interval, clustered by patient."""
    codes = np.unique(patients, return_inverse=True)[1]
    sums = np.bincount(codes, values - values.mean())
    half = NORMAL * np.sqrt(sums @ sums) / len(values)
    return f"{100 * values.mean():.1f} ± {100 * half:.1f}"


def phi(labels: Floats) -> Floats:
    """Return (91,) correlations between two findings."""
    matrix: Floats = np.corrcoef(labels.T)[PAIRS[0], PAIRS[1]]
    return matrix


def log_odds(labels: Floats) -> Floats:
    """Return (91,) logarithms of odds ratios, half a film added to each cell."""
    both = (labels.T @ labels)[PAIRS[0], PAIRS[1]]
    one, other = labels.sum(axis=0)[PAIRS]
    neither = len(labels) - one - other + both
    odds = (both + 0.5) * (neither + 0.5) / ((one - both + 0.5) * (other - both + 0.5))
    return np.log(odds)


def compare_labels(tables: dict[str, Table]) -> None:
    facts: list[tuple[str, Callable[[Table], str]]] = [
        ("films", lambda t: f"{len(t.labels):,}"),
        ("patients", lambda t: f"{len(np.unique(t.patients)):,}"),
        ("films a patient, mean ± sd (most)", films_a_patient),
        ("% of patients with one film", lambda t: f"{100 * np.mean(per_patient(t) == 1):.1f}"),
        ("% AP", lambda t: share(t.ap, t.patients)),
        ("% without a finding", lambda t: share(t.labels.sum(axis=1) == 0, t.patients)),
        ("% with two or more", lambda t: share(t.labels.sum(axis=1) > 1, t.patients)),
        ("% female", lambda t: share(t.female, t.patients)),
        ("age, mean ± sd", lambda t: spread(t.age[~np.isnan(t.age)])),
    ]
    rows = [[name, *(fact(table) for table in tables.values())] for name, fact in facts]
    for j, finding in enumerate(FINDINGS):
        rows.append([finding, *(share(t.labels[:, j], t.patients) for t in tables.values())])
    show("Facts and prevalence in % (± 95 %)", ["", *tables], rows)
    rows = []
    for j, finding in enumerate(FINDINGS):
        cells = [
            share(t.ap[t.labels[:, j] > 0], t.patients[t.labels[:, j] > 0]) for t in tables.values()
        ]
        rows.append([finding, *cells])
    show("AP films in % of those with the finding (± 95 %)", ["", *tables], rows)
    compare_pairs(tables)


def per_patient(table: Table) -> NDArray[Any]:
    return np.unique(table.patients, return_counts=True)[1]


def films_a_patient(table: Table) -> str:
    counts = per_patient(table)
    return f"{spread(counts, 2)} ({counts.max()})"


def compare_pairs(tables: dict[str, Table]) -> None:
    whole, drawn = tables["NIH"], tables["phantom"]
    clean = tables["phantom before label noise"]
    rows = []
    for name, measure in (("phi", phi), ("log odds ratio", log_odds)):
        floor = [
            np.corrcoef(measure(whole.labels[half]), measure(whole.labels[~half]))[0, 1]
            for half in halves(whole.patients)[:5]
        ]
        own = measure(whole.labels)
        against = [np.corrcoef(own, measure(t.labels))[0, 1] for t in (drawn, clean)]
        means = [spread(measure(t.labels), 3) for t in (whole, drawn, clean)]
        rows.append([name, *means, *(f"{r:.2f}" for r in against), spread(np.array(floor), 3)])
    header = ["of 91 pairs", "NIH, mean ± sd", "phantom", "before label noise"]
    header += ["correlation, NIH with phantom", "NIH with before noise", "halves of NIH (n = 5)"]
    show("Pairs of findings", header, rows)

    apart = phi(drawn.labels) - phi(whole.labels)
    rows = []
    for pair in np.argsort(-np.abs(apart))[:5]:
        one, other = PAIRS[:, pair]
        cells = [f"{phi(t.labels)[pair]:.3f}" for t in (whole, drawn)]
        cells += [f"{np.exp(log_odds(t.labels)[pair]):.1f}" for t in (whole, drawn)]
        cells += [f"{int(t.labels[:, one] @ t.labels[:, other]):,}" for t in (whole, drawn)]
        rows.append([f"{FINDINGS[one]}, {FINDINGS[other]}", *cells])
    header = ["pair", "phi NIH", "phi phantom", "odds ratio NIH", "phantom"]
    show("The five pairs that differ most", [*header, "films with both, NIH", "phantom"], rows)


# ---------------------------------------------------------------- networks


def start_worker() -> None:
    """Two trainings at a time share the machine best with a thread each."""
    torch.set_num_threads(1)
    tune_allocator()


def answers(
    films: Cohort, validation: Cohort, epochs: int, seed: int, tests: Sequence[Cohort]
) -> list[Floats]:
    """Train a network; return its logits on each of the tests."""
    model, _ = train(
        films,
        validation,
        network=Network(name="resnet9"),
        training=Training(epochs=epochs),
        seed=seed,
        device="cpu",
    )
    return [model.logits(test.images).astype(float) for test in tests]


def bare(cohort: Cohort) -> Cohort:
    """Leave out what another process has no use for."""
    images = cohort.images[np.arange(len(cohort))]
    return replace(cohort, images=images, films=None, masks=None)


def equalised(cohort: Cohort) -> Cohort:
    """Replace each grey level by the share of the film that is darker, or as dark."""
    images = np.stack(
        [
            np.rint(255 * np.cumsum(np.bincount(film.ravel(), minlength=256)) / film.size)[film]
            for film in cohort.images[np.arange(len(cohort))]
        ]
    )
    return replace(cohort, images=images.astype(np.uint8))


def resamples(cohort: Cohort) -> metrics.PatientBootstrap:
    return metrics.PatientBootstrap.draw(cohort.patients, stream(0, "bootstrap"), resamples=1000)


def with_macro(cohort: Cohort, scores: Floats) -> list[metrics.Estimate]:
    """AUROC by finding with intervals, and the macro one last."""
    bootstrap = resamples(cohort)
    drawn = metrics.finding_resamples(cohort.labels, scores, bootstrap)
    mean = metrics.macro_auroc(cohort.labels, scores, bootstrap, resampled=drawn)
    each = metrics.finding_auroc(cohort.labels, scores, bootstrap, resampled=drawn)
    return [*each, mean.estimate]


def over_seeds(measured: Sequence[list[metrics.Estimate]]) -> list[str]:
    """For each finding the mean, least and most over seeds."""
    return [
        between([float(np.mean(values)), min(values), max(values)])
        for values in ([one.value for one in each] for each in zip(*measured, strict=True))
    ]


def within_views(cohort: Cohort, scores: Floats) -> list[Sequence[float]]:
    """AUROC among pairs of films of the same view, with percentile intervals; macro last."""
    bootstrap = resamples(cohort)
    values, drawn, pairs = [], [], []
    for view in ("PA", "AP"):
        rows = np.flatnonzero(cohort.attributes["view"] == view)
        labels, part = cohort.labels[rows], scores[rows]
        values.append([metrics.auroc(labels[:, j], part[:, j]) for j in range(len(FINDINGS))])
        drawn.append(metrics.finding_resamples(labels, part, bootstrap.select(rows)))
        pairs.append(labels.sum(axis=0) * (1 - labels).sum(axis=0))
    weights = np.array(pairs) / np.sum(pairs, axis=0)  # (2, 14)
    value = np.nansum(weights * np.array(values), axis=0)
    each = np.nansum(weights[:, :, None] * np.array(drawn), axis=0)
    low, high = np.percentile(np.vstack([each, each.mean(axis=0)]), (2.5, 97.5), axis=1)
    return list(zip(np.append(value, value.mean()), low, high, strict=True))


Answers = dict[tuple[str, int], list[Floats]]


def ask_networks(real: Cohort, phantoms: Cohort, seeds: int, epochs: int) -> Answers:
    """Train them all; return each one's logits on its tests.

    "phantom" and "NIH" learn from equally many films and are tested on their own test films, then
    on all real ones or on the other's test films; "equalised" and "many" on all real films.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=start_worker) as pool:
        waiting: dict[tuple[str, int], Future[list[Floats]]] = {}

        def submit(name: str, seed: int, part: dict[str, Cohort], tests: list[Cohort]) -> None:
            films, validation = bare(part["train"]), bare(part["validation"])
            tests = [bare(test) for test in tests]
            waiting[name, seed] = pool.submit(answers, films, validation, epochs, seed, tests)

        submit("many", 0, many_parts(phantoms), [real])
        for seed in range(seeds):
            own, theirs = fair_parts(real, phantoms, seed)
            submit("phantom", seed, own, [own["test"], real])
            submit("NIH", seed, theirs, [theirs["test"], own["test"]])
            level = {name: equalised(part) for name, part in own.items()}
            submit("equalised", seed, level, [equalised(real)])
        return {key: future.result() for key, future in waiting.items()}


def many_parts(phantoms: Cohort) -> dict[str, Cohort]:
    """Keep nearly all phantoms to train on."""
    rows = split_by_patient(phantoms.patients, MANY, stream(0, "split"))
    return {name: phantoms.take(part) for name, part in rows.items()}


def fair_parts(
    real: Cohort, phantoms: Cohort, seed: int
) -> tuple[dict[str, Cohort], dict[str, Cohort]]:
    """Divide as many phantoms as there are real films, and these; train on equally many."""
    both = divide(phantoms.take(np.arange(len(real))), seed), divide(real, seed)
    films = np.arange(min(len(parts["train"]) for parts in both))
    for parts in both:
        parts["train"] = parts["train"].take(films)
    return both


def compare_networks(real: Cohort, count: int, seeds: int, epochs: int) -> None:
    small = Preprocessing(size=INPUT)
    phantoms = open_source(f"phantom:{SIDE}", count=count, preprocessing=small)
    scores = ask_networks(real, phantoms, seeds, epochs)
    parts = [fair_parts(real, phantoms, seed) for seed in range(seeds)]
    show_detection(phantoms, parts, scores)
    counts = len(many_parts(phantoms)["train"]), len(parts[0][0]["train"])
    show_transfer(real, counts, scores, seeds)


def show_detection(
    phantoms: Cohort, parts: list[tuple[dict[str, Cohort], dict[str, Cohort]]], scores: Answers
) -> None:
    columns, header = [], ["finding"]
    for kind, name in enumerate(("phantom", "NIH")):
        tests = [both[kind]["test"] for both in parts]
        measured = [with_macro(t, scores[name, seed][0]) for seed, t in enumerate(tests)]
        columns.append([f"{one.positives:,}" for one in measured[0]])
        columns.append([between(one) for one in measured[0]])
        columns.append(over_seeds(measured))
        header += [f"{name}: positives of {len(tests[0]):,}", "seed 0 (95 %)"]
        header += [f"mean (range) of {len(parts)} seeds"]
    films = len(parts[0][0]["train"])
    rows = zip((*FINDINGS, "macro"), *columns, strict=True)
    show(f"AUROC of a resnet9 on films of its own kind, {films:,} to train on", header, rows)

    truth = describe_rows(np.arange(len(phantoms)), seed=0).truth
    clean, back = [], []
    for seed, (own, _) in enumerate(parts):
        rows_there = np.flatnonzero(np.isin(phantoms.ids, own["test"].ids))
        true = replace(own["test"], labels=truth[rows_there])
        clean.append(with_macro(true, scores["phantom", seed][0]))
        back.append(with_macro(own["test"], scores["NIH", seed][1]))
    print(f"\nMacro on phantoms against the true labels: {over_seeds(clean)[-1]}.")
    print(f"\nMacro of the NIH-trained on phantoms: {over_seeds(back)[-1]}.", flush=True)


def show_transfer(real: Cohort, counts: tuple[int, int], scores: Answers, seeds: int) -> None:
    (many, few), logits = counts, scores["many", 0][0]
    main = with_macro(real, logits)
    views = np.repeat((real.attributes["view"] == "AP")[:, None], len(FINDINGS), axis=1)
    alone = [one.value for one in with_macro(real, views.astype(float))]
    within = within_views(real, logits)
    plain = [with_macro(real, scores["phantom", seed][1]) for seed in range(seeds)]
    level = [with_macro(real, scores["equalised", seed][0]) for seed in range(seeds)]
    columns = [
        [f"{one.positives:,}" for one in main],
        [between(one) for one in main],
        [between(one) for one in within],
        [short(value) for value in alone],
        over_seeds(plain),
        over_seeds(level),
    ]
    header = ["finding", "positives", f"{many:,} phantoms, seed 0 (95 %)", "the same within a view"]
    header += ["AP view alone", f"{few:,} phantoms, mean (range) of {seeds} seeds", "equalised"]
    names = (*FINDINGS, "macro")
    rows = zip(names, *columns, strict=True)
    show(f"AUROC on {len(real):,} real films of networks that saw phantoms alone", header, rows)
    for what, bounds in (("", main), (" within a view", within)):
        above = [name for name, one in zip(names, bounds, strict=True) if one[1] > 0.5]
        below = [name for name, one in zip(names, bounds, strict=True) if one[2] < 0.5]
        print(f"\nInterval above .5{what}: {', '.join(above) or 'none'}.")
        print(f"Below .5{what}: {', '.join(below) or 'none'}.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind; 0: none")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--count", type=int, default=8_400, help="phantoms for the transfer")
    given = parser.parse_args()
    start_worker()
    began = time.perf_counter()
    print(machine())
    real = open_source(
        f"nih:{DATA / 'nih128'}", preprocessing=Preprocessing(size=SIDE), cache="none"
    )
    compare_pixels(real)
    compare_labels(label_tables(real))
    if given.seeds:
        small = Preprocessing(size=INPUT)
        real = open_source(f"nih:{DATA / 'nih128'}", preprocessing=small, cache="none")
        compare_networks(real, given.count, given.seeds, given.epochs)
    print(f"\n{(time.perf_counter() - began) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
