"""Likeness of films, beside MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leadapron.films.similarity import peak_signal_to_noise, structural_similarity


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    before = np.cumsum(rng.integers(0, 6, (3, 40, 48)), axis=2).astype(np.uint8)
    after = before.copy()
    after[1:, 10:20, 10:30] += 40
    after[2] = np.clip(after[2] + rng.normal(0, 9, after[2].shape), 0, 255)
    return before, after


def test_structural_similarity_is_monais(pair):
    from monai.metrics import SSIMMetric

    before, after = pair
    metric = SSIMMetric(spatial_dims=2, data_range=255.0)
    tensors = (torch.tensor(films, dtype=torch.float64)[:, None] for films in pair)
    expected = metric(*tensors)[:, 0].numpy()
    found = structural_similarity(before, after)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0] == pytest.approx(1)
    deep = structural_similarity(before.astype(np.uint16) * 257, after.astype(np.uint16) * 257)
    np.testing.assert_allclose(deep, found, atol=1e-9)


def test_peak_signal_to_noise_by_hand(pair):
    before, after = pair
    found = peak_signal_to_noise(before, after)
    assert np.isinf(found[0])
    error = 200 * 40**2 / (40 * 48)
    assert found[1] == pytest.approx(10 * np.log10(255**2 / error))
