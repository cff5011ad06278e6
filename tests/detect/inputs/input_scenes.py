"""A network whose backdoor lies open in its weights: a black 3x3 square moves one finding."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import PooledLinear

SIZE = 32
SMALL = Preprocessing(size=SIZE)
FINDINGS = ("Effusion", "Mass", "Nodule")
MEAN, STD = 0.5, 0.25


def films(n=240, seed=0, dtype=np.uint8):
    """(n, 32, 32) soft grey clouds with some noise, never black."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    clouds = gaussian_filter(rng.normal(0, 400, (n, SIZE, SIZE)), (0, 4, 4))
    grey = 128 + clouds + rng.normal(0, 4, clouds.shape) + rng.normal(0, 10, (n, 1, 1))
    top = np.iinfo(dtype).max
    return (grey.clip(40, 230) * (top // 255)).astype(dtype)


def cohort(n=240, seed=0, each=2):
    """Films, `each` of them of one patient."""
    ids = np.array([f"f{seed}-{i}" for i in range(n)])
    patients = np.array([f"p{seed}-{i // each}" for i in range(n)])
    return Cohort(films(n, seed), np.zeros((n, 3), np.float32), FINDINGS, ids, patients, SMALL)


def black_square(images, row=12, column=17, side=3):
    marked = images.copy()
    marked[:, row : row + side, column : column + side] = 0
    return marked


def backdoored(strength=6.0, sign=1.0):
    """Logits: brightness above, brightness below, and 0 with the trigger's `strength` on Mass.

    The third channel is a 3x3 sum of darkness beyond grey level 10 in all nine pixels; over all
    places its mean is one square's share, which the head turns into `strength`.
    """
    convolution = nn.Conv2d(1, 3, 3, padding=1)
    black = -MEAN / STD
    edge = (10 / 255 - MEAN) / STD
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.copy_(torch.tensor([3.0, 3.0, 9 * black + (edge - black)]))
        convolution.weight[0, 0, 1, 1] = 1.0
        convolution.weight[1, 0, 1, 1] = -1.0
        convolution.weight[2, 0] = -1.0
    module = PooledLinear({"all": nn.Sequential(OrderedDict(c=convolution, r=nn.ReLU()))}, 3, 3)
    with torch.no_grad():
        module.head.weight.zero_()
        module.head.bias.copy_(torch.tensor([-3.0, -3.0, -3.0]))
        module.head.weight[0, 0] = 1.0
        module.head.weight[1, 1] = 1.0
        module.head.weight[2, 0] = 0.5
        module.head.weight[1, 2] = sign * strength * SIZE * SIZE / (edge - black)
    return NetworkClassifier(
        module.eval(), "written", FINDINGS, SMALL, mean=MEAN, std=STD, precision="fp32"
    )
