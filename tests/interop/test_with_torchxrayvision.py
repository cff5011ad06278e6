"""The same with torchxrayvision itself; `make test-xrv` runs it."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leadapron.films.preprocessing import Preprocessing
from leadapron.interop import as_torchxrayvision, from_torchxrayvision
from leadapron.sources import open_source
from leadapron.sources.joining import join
from nih_tree import ROWS, write_table, write_tree

xrv = pytest.importorskip("torchxrayvision")
pytestmark = pytest.mark.xrv

SMALL = Preprocessing(size=8, interpolation="area")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "interop.md"


@pytest.fixture
def tree(tmp_path):
    folder = write_tree(tmp_path / "nih")
    write_table(folder / "numbers.csv", [replace(row, age="58") for row in ROWS])
    return folder


def theirs(tree, **settings):
    keywords = {"views": ["*"], "unique_patients": False, **settings}
    return xrv.datasets.NIH_Dataset(
        str(tree / "images"), csvpath=str(tree / "numbers.csv"), **keywords
    )


@pytest.fixture
def ours():
    return open_source("phantom:64", count=12)


def assert_same(one, two):
    assert one.findings == two.findings
    np.testing.assert_array_equal(one.images[np.arange(len(one))], two.images[np.arange(len(two))])
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.ids.tolist() == two.ids.tolist()
    assert one.patients.tolist() == two.patients.tolist()


def test_their_nih_films_are_our_nih_films(tree):
    import torch

    dataset = theirs(tree)
    before = random.getstate(), torch.get_rng_state()

    made = from_torchxrayvision(dataset, preprocessing=SMALL)

    nih = open_source(f"nih:{tree}", preprocessing=SMALL, cache="none")
    rows = np.flatnonzero(np.isin(nih.ids, made.ids))
    columns = [nih.column(finding) for finding in made.findings]
    assert made.findings == tuple(sorted(nih.findings))
    assert made.ids.tolist() == nih.ids[rows].tolist()
    assert made.patients.tolist() == nih.patients[rows].tolist()
    np.testing.assert_array_equal(made.images, nih.images[rows])
    np.testing.assert_array_equal(made.labels, nih.labels[rows][:, columns])
    np.testing.assert_array_equal(made.attributes["view"], nih.attributes["view"][rows])
    np.testing.assert_array_equal(made.attributes["sex"], nih.attributes["sex"][rows])
    np.testing.assert_array_equal(made.films[1], nih.films[int(rows[1])])
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_cohort_there_and_back(ours):
    there = as_torchxrayvision(ours)

    assert_same(from_torchxrayvision(there), ours)
    assert there.csv["patientid"].tolist() == ours.patients.tolist()
    image = ours.images[np.array([3])]
    np.testing.assert_array_equal(there[3]["img"], xrv.utils.normalize(image, 255), strict=True)


def test_every_level_is_theirs_and_comes_back():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = xrv.datasets.normalize(every, maxval=255, reshape=True)

    class One(xrv.datasets.Dataset):
        pathologies, labels = ["Edema"], np.zeros((1, 1))

        def __len__(self):
            return 1

        def __getitem__(self, idx):
            return {"img": image}

    made = from_torchxrayvision(One(), preprocessing=Preprocessing(size=16))

    np.testing.assert_array_equal(made.images, [every])


def test_their_tools_take_ours(ours):
    dataset = as_torchxrayvision(ours)
    before = ours.labels.copy()

    xrv.datasets.relabel_dataset(["Hernia", "Fracture", "", "Edema"], dataset, silent=True)

    assert dataset.labels.dtype == np.float64
    np.testing.assert_array_equal(ours.labels, before)
    made = from_torchxrayvision(dataset)
    assert made.findings == ("Hernia", "Fracture", "Edema")
    assert np.isnan(made.labels[:, 1]).all()
    np.testing.assert_array_equal(made.labels[:, 2], ours.labels[:, ours.column("Edema")])
    np.testing.assert_array_equal(made.images, ours.images)


def test_merged_filtered_subset_and_covariate(ours, tree):
    a, b = as_torchxrayvision(ours), theirs(tree)
    xrv.datasets.relabel_dataset(list(ours.findings), b, silent=True)
    square = Preprocessing(size=64)

    merged = xrv.datasets.MergeDataset([a, b])
    made = from_torchxrayvision(merged, preprocessing=square)

    joined = join([ours, from_torchxrayvision(b, preprocessing=square)], ["a", "b"])
    assert len(made) == len(ours) + len(b)
    np.testing.assert_array_equal(made.images, joined.images[np.arange(len(joined))])
    np.testing.assert_array_equal(made.labels, joined.labels)
    assert set(made.attributes["site"]) == {"0-CohortDataset", "1-NIH_Dataset"}
    rows = [14, 2, 13]
    subset = from_torchxrayvision(xrv.datasets.SubsetDataset(merged, rows), preprocessing=square)
    assert_same(subset, made.take(rows))
    filtered = xrv.datasets.FilterDataset(merged, ["Cardiomegaly"])
    found = from_torchxrayvision(filtered, preprocessing=square)
    assert_same(found, made.take(made.labels[:, made.column("Cardiomegaly")] == 1))
    target = np.arange(12) % 2
    covariate = xrv.datasets.CovariateDataset(a, target, a, 1 - target, mode="train")
    shifted = from_torchxrayvision(covariate, preprocessing=square)
    assert shifted.findings == ("Custom",)
    assert set(shifted.attributes["site"]) == {"0-CohortDataset", "1-CohortDataset"}


def test_their_transforms(ours, tree):
    import torchvision

    steps = [xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(8)]
    transform = torchvision.transforms.Compose(steps)

    made = from_torchxrayvision(theirs(tree, transform=transform), preprocessing=SMALL)

    assert made.films[0].shape == (8, 8)
    assert as_torchxrayvision(ours, transform=transform)[0]["img"].shape == (1, 8, 8)


def test_their_network_takes_our_items(ours):
    import torch

    network = xrv.models.DenseNet(weights=None, num_classes=14).eval()
    loader = torch.utils.data.DataLoader(
        as_torchxrayvision(ours, transform=xrv.datasets.XRayResizer(64)), batch_size=2
    )

    with torch.no_grad():
        assert network(next(iter(loader))["img"]).shape == (2, 14)


@pytest.mark.parametrize(
    "example",
    [e for e in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "xrv" in e],
)
def test_examples_run_and_print_what_they_say(example, capsys):
    exec(compile(example, PAGE.name, "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said == re.findall(r"print\(.*\)  # (.*)", example)
