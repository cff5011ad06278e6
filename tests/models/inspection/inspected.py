"""Films with two findings of a certain size, and networks that learnt them."""

from __future__ import annotations

import numpy as np
import torch

from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.inspection.trials import FilmsAt
from leadapron.models.networks import build_network

FINDINGS = ("Disc", "Stripes")
NUMBERS = {"unit": (0.0, 1.0), "0.5/0.5": (0.5, 0.5), "torchxrayvision": (0.5, 1 / 2048)}


def films(n, seed, shape=(96, 96)):
    """Noise with a disc of a certain size, or with stripes of a certain width, or both."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < 0.5).astype(np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    images = rng.normal(110, 14, (n, *shape))
    for row, (disc, stripes) in enumerate(labels):
        cy, cx = rng.uniform(0.3, 0.7, 2) * shape
        # Without the finding there is another disc, and other stripes.
        radius = 14 if disc else 22
        images[row] += 30 * ((y - cy) ** 2 + (x - cx) ** 2 < radius**2)
        images[row] += 16 * np.sin((x + rng.uniform(0, 20)) / (2.2 if stripes else 3.6))
    names = np.array([f"f{i}" for i in range(n)])
    return Cohort(
        np.clip(images, 0, 255).astype(np.uint8), labels, FINDINGS, names,
        np.array([f"p{i // 2}" for i in range(n)]), Preprocessing(size=shape[0]),
    )  # fmt: skip


def trained(size, scale, epochs=4, n=320):
    """A resnet9 that learnt these films at a size and with a normalisation."""
    cohort = films(n, 1)
    mean, std = NUMBERS[scale]
    shape = Preprocessing(size=size)
    model = NetworkClassifier(
        build_network("resnet9", 2, 0), "resnet9", FINDINGS, shape, mean=mean, std=std
    )
    images = FilmsAt(cohort).images(np.arange(n), shape)
    network, rng = model.module.train(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    steps = epochs * (n // 16)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in np.split(rng.permutation(n), n // 16):
            logits = network(model.normalise(torch.from_numpy(images[rows])))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(cohort.labels[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return model
