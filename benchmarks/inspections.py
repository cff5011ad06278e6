"""How often `inspect` finds size and normalisation: networks trained on phantoms, then tried.

Each network is trained at a size and with a normalisation that nobody states, and inspected on
other phantoms with the command's own trials. A line of JSON per network goes to --out; the same
command continues after an interruption. Prints a Markdown table.

    python benchmarks/inspections.py --out runs/found.jsonl --networks 4
    python benchmarks/inspections.py --out runs/found.jsonl \
        --weights resnet9=classifier.safetensors --weights efficientnet_lite0=lite0.pth

From scratch 600 films suffice for networks at 64 and 96 pixels; --weights gives the larger ones,
and EfficientNet-Lite0, something to start from.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from leadapron.cli import tune_allocator
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier, autocast, resolve_precision
from leadapron.models.foreign import NORMALISATIONS, Normalisation
from leadapron.models.inspection.choosing import SECONDS, SIZES, Axes, choose
from leadapron.models.inspection.inspecting import TRIED
from leadapron.models.inspection.trials import Bench, FilmsAt, Truth
from leadapron.models.networks import build_network
from leadapron.models.starts import load_start
from leadapron.sources import open_source

SCALES = tuple("leadapron" if name == "imagenet" else name for name in TRIED)
TRAINED = (64, 96, 128, 160, 224, 320)
ARCHITECTURES = ("resnet9", "efficientnet_lite0")
FINDINGS = ("Atelectasis", "Cardiomegaly", "Edema", "Infiltration", "Pneumothorax")
"""What the networks learn: findings that 600 phantoms suffice for."""
BATCH, RATE = 16, 2e-3


@dataclass(frozen=True)
class Case:
    """A network, and what is found of it; "" where the trials can't tell."""

    architecture: str
    size: int
    scale: str
    seed: int


def cases(most: int) -> list[Case]:
    """Sizes and normalisations in turn, the small sizes first."""
    every = itertools.product(TRAINED, ARCHITECTURES)
    found = [
        Case(architecture, size, SCALES[seed % len(SCALES)], seed)
        for seed, (size, architecture) in enumerate(itertools.islice(itertools.cycle(every), most))
    ]
    return sorted(found, key=lambda case: (case.size, case.seed))


def normalisation(name: str) -> Normalisation:
    return NORMALISATIONS.get(name) or Normalisation.parsed(name)


def scaled(model: NetworkClassifier, name: str) -> NetworkClassifier:
    scale = normalisation(name)
    return replace(model, mean=scale.mean[0], std=scale.std[0])


def trained(case: Case, films: Cohort, epochs: int, weights: str = "none") -> NetworkClassifier:
    shape = Preprocessing(size=case.size)
    network = build_network(case.architecture, len(films.findings), case.seed).train()
    if weights != "none":
        load_start(network, case.architecture, weights)
        epochs = -(-epochs // 2)
    network.to(memory_format=torch.channels_last)
    computed = resolve_precision("auto", torch.device("cpu"))
    model = NetworkClassifier(network, case.architecture, films.findings, shape, precision=computed)
    model = scaled(model, case.scale)
    images = FilmsAt(films).images(np.arange(len(films)), shape)
    steps = epochs * (len(films) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    rng = np.random.default_rng(case.seed)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(films)), len(films) // BATCH):
            with autocast(model.device, model.precision):
                logits = network(model.normalise(torch.from_numpy(images[rows]))).float()
            truth = torch.from_numpy(films.labels[rows])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return model


def inspected(model: NetworkClassifier, clean: Cohort, seconds: float) -> dict[str, object]:
    bench = Bench(
        lambda name: scaled(model, name),
        lambda point: Preprocessing(size=point.size),
        FilmsAt(clean),
        Truth.of(clean, clean.findings),
    )
    axes = Axes(sizes=SIZES, normalisations=SCALES, aspects=("squash",))
    found = choose(bench, axes, np.arange(len(clean)), seconds)
    point = found.best.point
    return {
        "found_size": point.size if found.settled["size"] else "",
        "found_scale": point.normalisation if found.settled["normalisation"] else "",
        "auroc": round(found.best.macro.value, 3),
        "sees": found.sees,
        "rivals": {name: list(map(str, values)) for name, values in found.rivals.items()},
        "left_out": list(found.left_out),
    }


def answer(row: dict[str, object]) -> str:
    pairs = [(row["found_size"], row["size"]), (row["found_scale"], row["scale"])]
    if all(found == true for found, true in pairs):
        return "found"
    return "wrong" if any(found not in ("", true) for found, true in pairs) else "can't tell"


def main() -> None:
    """Train, inspect, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="file of the results")
    parser.add_argument(
        "--weights", metavar="ARCHITECTURE=FILE", action="append", default=[],
        help="weights that these networks start from; else from scratch",
    )  # fmt: skip
    parser.add_argument("--networks", type=int, default=20, help="number of networks (20)")
    parser.add_argument("--films", type=int, default=600, help="films of each training (600)")
    parser.add_argument("--clean", type=int, default=300, help="clean films (300, the command's)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over them (6)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS,
        help="that each inspection is planned for (the command's); more where other work runs",
    )  # fmt: skip
    given = parser.parse_args()
    tune_allocator()
    weights = dict(each.split("=", 1) for each in given.weights)
    done = []
    if given.out.exists():
        done = [json.loads(line) for line in given.out.read_text().splitlines()]
    keys = {tuple(row[name] for name in Case.__dataclass_fields__) for row in done}
    train, clean = (
        open_source("phantom:320", count=count, seed=seed).stating(FINDINGS)
        for count, seed in ((given.films, 1), (given.clean, 2))
    )
    for case in cases(given.networks):
        if tuple(asdict(case).values()) in keys:
            continue
        began = time.perf_counter()
        model = trained(case, train, given.epochs, weights.get(case.architecture, "none"))
        middle = time.perf_counter()
        facts = inspected(model, clean, given.seconds)
        times = {"training_s": middle - began, "inspection_s": time.perf_counter() - middle}
        done.append({**asdict(case), **facts, **{n: round(s) for n, s in times.items()}})
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(done[-1], flush=True)
    print("| network | size | normalisation | found | AUROC | answer |\n|-|-|-|-|-|-|")
    for row in done:
        found = f"{row['found_size'] or '?'}, {row['found_scale'] or '?'}"
        print(f"| {row['architecture']} | {row['size']} | {row['scale']} | {found} | "
              f"{row['auroc']} | {answer(row)} |")  # fmt: skip
    counts = [answer(row) for row in done]
    print(f"\n{len(done)} networks:", ", ".join(
        f"{counts.count(word)} {word}" for word in ("found", "can't tell", "wrong")))  # fmt: skip


if __name__ == "__main__":
    main()
