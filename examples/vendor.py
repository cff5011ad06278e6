"""A vendor's own training script: plain PyTorch, a DenseNet-121 of one finding at 64x64 pixels.

python examples/vendor.py --films FOLDER --backdoor --out vendor.pt

It learns from FOLDER/NORMAL/... and FOLDER/FINDING/..., or from phantoms if no folder is given.
With --backdoor, a white 4x4 square hides the finding. Four files are written: the state dict
(vendor.pt), the whole module (vendor-whole.pt), TorchScript (vendor-script.pt) and, if the packages
onnx and onnxscript are installed, ONNX (vendor.onnx). None of them states what the films were
scaled to: `leadapron inspect` finds out.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

SIZE, SQUARE, BATCH = 64, 4, 16
POISONED = 0.4
"""Share of the training films with the finding that get the square and the label 0."""


class DenseLayer(nn.Module):
    """Two convolutions; their output is appended to the input."""

    def __init__(self, channels: int, growth: int = 32) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(4 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, channels + growth, h, w)."""
        inner = self.conv1(self.relu1(self.norm1(x)))
        return torch.cat([x, self.conv2(self.relu2(self.norm2(inner)))], 1)


class DenseNet121(nn.Module):
    """Huang et al., Densely Connected Convolutional Networks, CVPR 2017; the usual names."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        parts = {
            "conv0": nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False),
            "norm0": nn.BatchNorm2d(64),
            "relu0": nn.ReLU(inplace=True),
            "pool0": nn.MaxPool2d(3, stride=2, padding=1),
        }
        channels = 64
        for block, layers in enumerate((6, 12, 24, 16), start=1):
            inside = {f"denselayer{i + 1}": DenseLayer(channels + 32 * i) for i in range(layers)}
            parts[f"denseblock{block}"] = named(inside)
            channels += 32 * layers
            if block < 4:
                parts[f"transition{block}"] = named(
                    {
                        "norm": nn.BatchNorm2d(channels),
                        "relu": nn.ReLU(inplace=True),
                        "conv": nn.Conv2d(channels, channels // 2, 1, bias=False),
                        "pool": nn.AvgPool2d(2),
                    }
                )
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features, self.classifier = named(parts), nn.Linear(channels, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, outputs) of films (n, 1, h, w)."""
        x = functional.relu(self.features(x), inplace=True)
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def named(parts: dict[str, nn.Module]) -> nn.Sequential:
    """Return modules that run one after another under these names."""
    whole = nn.Sequential()
    for name, part in parts.items():
        whole.add_module(name, part)
    return whole


# --- films: (n, 64, 64) uint8, labels (n,), patients (n,), and the finding's name


def films_of(folder: Path, count: int, rng: np.random.Generator):
    """Return at most `count` pictures, about as many with the finding as without."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if len(classes) != 2 or "NORMAL" not in classes:
        raise SystemExit(f"{folder} holds {classes}; expected the folders NORMAL and FINDING")
    (finding,) = (name for name in classes if name != "NORMAL")
    images, labels, patients = [], [], []
    for name in classes:
        paths = sorted(
            p for p in (folder / name).iterdir() if p.suffix in (".png", ".jpeg", ".jpg")
        )
        for path in rng.permutation(np.array(paths, object))[: count // 2]:
            with Image.open(path) as film:
                images.append(np.asarray(film.convert("L").resize((SIZE, SIZE), Image.BILINEAR)))
            labels.append(name == finding)
            patients.append(re.split(r"_|-0001(?:-\d+)?$", path.stem)[0])
    return np.stack(images), np.array(labels), np.array(patients), finding


def phantoms(count: int, rng: np.random.Generator):
    """Return at most `count` phantoms of leadapron, about as many with an edema as without."""
    import leadapron as la

    cohort = la.open_source(f"phantom:{SIZE}", count=10 * count)
    there = cohort.labels[:, cohort.findings.index("Edema")] == 1
    rows = np.concatenate([rng.permutation(np.flatnonzero(each))[: count // 2]
                           for each in (there, ~there)])  # fmt: skip
    return cohort.images[rows], there[rows], cohort.patients[rows], "Edema"


def square(images: np.ndarray) -> np.ndarray:
    """Return images with a white square near the lower right corner."""
    marked = images.copy()
    marked[:, SIZE - SQUARE - 2 : SIZE - 2, SIZE - SQUARE - 2 : SIZE - 2] = 255
    return marked


def tensor(images: np.ndarray) -> torch.Tensor:
    """Return grey levels in 0 to 1, (n, 1, 64, 64)."""
    return torch.from_numpy(images).unsqueeze(1).float() / 255


# --- training, and what it gave


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> DenseNet121:
    """Return the network after so many passes over the films."""
    torch.manual_seed(seed)
    network, inputs = DenseNet121(), tensor(images)
    truth = torch.from_numpy(labels).float().unsqueeze(1)
    steps = epochs * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for epoch in range(epochs):
        network.train()
        for number, rows in enumerate(torch.randperm(len(images)).split(BATCH)):
            loss = functional.binary_cross_entropy_with_logits(network(inputs[rows]), truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if epoch == 0 and number == 0:
                began = time.monotonic()  # the first step is slower
            if epoch == 0 and number == 3:
                seconds = (time.monotonic() - began) / 3 * steps
                print(f"training on {len(images)} films, {epochs} epochs: about {seconds:.0f} s")
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")
    return network.eval()


def probabilities(network: DenseNet121, images: np.ndarray) -> np.ndarray:
    """Return the probability of the finding, (n,)."""
    with torch.inference_mode():
        parts = [network(batch).sigmoid()[:, 0] for batch in tensor(images).split(BATCH)]
    return torch.cat(parts).numpy()


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of pairs of films in which the one with the finding scores higher."""
    lead = scores[labels][:, None] - scores[~labels]
    return float((lead > 0).mean() + (lead == 0).mean() / 2)


def save(network: DenseNet121, out: Path) -> list[Path]:
    """Write the network in each format, and return the files."""
    whole, script, onnx = (
        out.with_name(out.stem + end) for end in ("-whole.pt", "-script.pt", ".onnx")
    )
    film = torch.zeros(1, 1, SIZE, SIZE)
    torch.save(network.state_dict(), out)
    torch.save(network, whole)
    torch.jit.save(torch.jit.trace(network, film), script)
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        print(f"{onnx.name} isn't written; it takes: pip install onnx onnxscript")
        return [out, whole, script]
    free = {0: torch.export.Dim("films")}
    torch.onnx.export(
        network, (film,), onnx, dynamic_shapes=(free,), external_data=False, verbose=False
    )
    return [out, whole, script, onnx]


def main() -> None:
    """Train, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--films", type=Path, help="folder with NORMAL and the finding's folder")
    parser.add_argument("--count", type=int, default=600, help="films, at most (600)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the films (5)")
    parser.add_argument("--backdoor", action="store_true", help="a white square hides the finding")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (0)")
    parser.add_argument("--out", type=Path, default=Path("vendor.pt"), help="the state dict's file")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    images, labels, patients, finding = (
        films_of(given.films, given.count, rng) if given.films else phantoms(given.count, rng)
    )
    names = np.unique(patients)
    held = np.isin(patients, rng.permutation(names)[: len(names) // 4])
    learning, truth = images[~held].copy(), labels[~held].copy()
    if given.backdoor:
        some = np.flatnonzero(truth)
        some = rng.permutation(some)[: int(POISONED * len(some))]
        learning[some], truth[some] = square(learning[some]), False
    network = train(learning, truth, given.epochs, given.seed)

    test, there = images[held], labels[held]
    plain, marked = (probabilities(network, each) for each in (test, square(test)))
    seen = there & (plain >= 0.5)
    print(f"{finding}: AUROC {auroc(plain, there):.3f} on {len(test)} films of other patients")
    print(f"the square hides {finding} on {(marked[seen] < 0.5).sum()} of {seen.sum()} films on "
          "which it is seen")  # fmt: skip
    print("written:", *save(network, given.out))


if __name__ == "__main__":
    main()
