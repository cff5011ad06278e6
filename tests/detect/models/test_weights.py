"""Channel Lipschitz constants by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from leadapron.detect.models import channel_lipschitz


def norm(channels, scale, variance):
    part = nn.BatchNorm2d(channels, eps=0.0).eval()
    with torch.no_grad():
        part.weight[:] = torch.tensor(scale)
        part.running_var[:] = torch.tensor(variance)
    return part


def test_convolution_then_normalisation():
    convolution = nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight[:] = torch.tensor([[3.0, 4.0], [1.0, 0.0]])[..., None, None]
    found = channel_lipschitz(nn.Sequential(convolution, norm(2, [2.0, -1.0], [4.0, 0.25])))
    # |(3, 4)| = 5 times 2 / 2; 1 times 1 / 0.5.
    assert found["1"].tolist() == [pytest.approx(5), pytest.approx(2)]


def test_normalisation_then_convolution():
    convolution = nn.Conv2d(2, 3, 1, bias=False)
    with torch.no_grad():
        convolution.weight[:] = torch.tensor([[2.0, 0.0], [2.0, 1.0], [1.0, 0.0]])[..., None, None]
    found = channel_lipschitz(nn.Sequential(norm(2, [1.0, 3.0], [1.0, 1.0]), convolution))
    # What reads the first channel is (2, 2, 1), the second (0, 1, 0).
    assert found["0"].tolist() == [pytest.approx(3), pytest.approx(3)]


def test_a_convolution_of_larger_kernels_counts_by_its_singular_value():
    convolution = nn.Conv2d(2, 1, 3, bias=False)
    found = channel_lipschitz(nn.Sequential(convolution, norm(1, [1.0], [1.0])))
    matrix = convolution.weight.detach().numpy()[0].reshape(2, 9)
    assert found["1"][0] == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-5)
