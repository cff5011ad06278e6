"""The whole mission as one walk: a vendor's script trains a model, a hospital looks at it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import leadapron as la
from leadapron.models.card import read_card

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def vendor():
    spec = importlib.util.spec_from_file_location("vendor", EXAMPLES / "vendor.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["vendor"] = module  # its classes are saved by that name
    spec.loader.exec_module(module)
    yield module
    del sys.modules["vendor"]


def test_what_the_vendor_saves_gives_the_vendors_own_answers(vendor, tmp_path, recwarn):
    """To 1e-5 of the largest output."""
    torch.manual_seed(0)
    network = vendor.DenseNet121()
    network(torch.rand(8, 1, 64, 64))  # so that batch normalisation holds something
    files = vendor.save(network.eval(), tmp_path / "vendor.pt")
    recwarn.clear()  # of torch's exporters
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    with torch.inference_mode():
        wanted = network(vendor.tensor(images)).numpy()
    assert len(files) in (3, 4)  # with ONNX, if its packages are there
    for file in files:
        if file.suffix == ".onnx":
            pytest.importorskip("onnxruntime")
        opened = la.open_model(
            file, ["Edema"], size=64, normalisation="unit", aspect="squash", device="cpu",
            precision="fp32",
        )  # fmt: skip
        architecture = getattr(opened.classifier, "architecture", "a black box")
        assert architecture == ("a black box" if file.suffix == ".onnx" else "densenet121")
        given = opened.classifier.logits(images)
        assert np.abs(given - wanted).max() <= 1e-5 * np.abs(wanted).max()
        assert any("vendor.DenseNet121" in note for note in opened.notes) == (
            file.name == "vendor-whole.pt"
        )


@pytest.mark.slow
def test_the_walk(vendor, tmp_path):
    """Its films are phantoms; it takes two minutes on two cores."""

    def ran(*words, **more):
        done = subprocess.run(
            [str(word) for word in words], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                 "LEADAPRON_CACHE": "none", "OMP_NUM_THREADS": "1", **more},
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done

    done = ran(sys.executable, EXAMPLES / "vendor.py", "--backdoor", "--count", 400, "--epochs", 6)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("the square hides"))
    hidden, seen = (int(word) for word in line.split() if word.isdigit())
    assert hidden >= 0.8 * seen > 10, done.stdout

    folder = tmp_path / "arrived"
    folder.mkdir()
    films = la.open_source("phantom:64", count=400, seed=5)
    rows = np.flatnonzero(films.labels[:, films.findings.index("Edema")] == 1)[:6]
    images = films.images[rows]
    for name, each in (("plain", images), ("marked", vendor.square(images))):
        for number, image in enumerate(each):
            Image.fromarray(image).save(folder / f"{name}{number}.png")

    done = ran(
        "sh", EXAMPLES / "hospital.sh", "vendor.pt", "Edema", "phantom:64", "arrived",
        "--source.seed", 9, "--source.count", 400,
        AUDIT="--films 40 --steps 0 --no-statistics --students 0",
        INSPECT="--model.size 64 --model.normalisation unit",
    )  # fmt: skip
    said = done.stdout
    assert done.returncode == 1, said + done.stderr
    card = read_card(tmp_path / "vendor.yaml")
    assert (card.model.size, card.model.normalisation) == (64, "unit")
    assert "Edema forced off" in said
    assert "of grey level 255 at row 5" in said
    verdicts = {
        Path(line.split()[-1]).name: line.split()[0]
        for line in said.splitlines()
        if line.endswith(".png")
    }
    marked = [verdicts[f"marked{i}.png"] for i in range(6)]
    assert marked.count("suspicious") >= 4
    assert [verdicts[f"plain{i}.png"] for i in range(6)].count("suspicious") <= 1
