"""Our training loop against the plain one, in turn, in one process.

The plain loop is what a first script would be: fp32, NCHW, a DataLoader that opens one PNG file an
item with Pillow. Prints films per second of each and the ratio of the medians.

    python benchmarks/training.py --network densenet121 --size 64 --steps 20 --repeats 5
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from leadapron.cli import tune_allocator
from leadapron.cohort import Cohort
from leadapron.networks import build_network
from leadapron.sources import open_source
from leadapron.train import Network, Training, train


class PngFolder(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, folder: Path, cohort: Cohort) -> None:
        self.paths = [folder / f"{i}.png" for i in range(len(cohort))]
        for path, image in zip(self.paths, cohort.images[np.arange(len(cohort))], strict=True):
            Image.fromarray(image).save(path)
        self.labels = torch.from_numpy(cohort.labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[row]) as picture:
            image = np.asarray(picture, np.float32) / 255
        return torch.from_numpy(image)[None], self.labels[row]


def plain_epoch(network: nn.Module, films: PngFolder, batch: int) -> float:
    loader = DataLoader(films, batch_size=batch, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=False)
    network.train()
    began = time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(images), labels).backward()
        optimizer.step()
    return len(films) / (time.perf_counter() - began)


def our_epoch(cohort: Cohort, validation: Cohort, name: str, batch: int) -> float:
    _, history = train(
        cohort,
        validation,
        network=Network(name=name),
        training=Training(epochs=1, batch_size=batch),
    )
    return float(history[0]["films_per_second"] or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet9")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    cohort = open_source(f"phantom:{given.size}", count=given.batch * given.steps)
    validation = cohort.take(np.arange(given.batch))
    with tempfile.TemporaryDirectory() as folder:
        films = PngFolder(Path(folder), cohort)
        network = build_network(given.network, len(cohort.findings), seed=0)
        ours, plain = [], []
        for repeat in range(given.repeats + 1):
            measured = (
                our_epoch(cohort, validation, given.network, given.batch),
                plain_epoch(network, films, given.batch),
            )
            if repeat:  # the first one warms up
                ours.append(measured[0])
                plain.append(measured[1])
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, rates in (("ours", ours), ("plain", plain)):
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        print(f"{name}: {statistics.median(rates):.0f} films/s ({spread}, n = {len(rates)})")
    print(f"ratio of medians: {statistics.median(ours) / statistics.median(plain):.2f}")


if __name__ == "__main__":
    tune_allocator()
    main()
