"""Torch's, torchxrayvision's and MONAI's data sets, without torchxrayvision itself."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset as MonaiDataset
from monai.transforms import LoadImage
from PIL import Image

from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import Cohort, Overlay
from leadapron.films.preprocessing import Preprocessing
from leadapron.interop import (
    as_dataset,
    as_monai,
    as_torchxrayvision,
    from_monai,
    from_torchxrayvision,
)
from leadapron.interop.pixels import shareable
from leadapron.sources import open_source
from leadapron.sources.joining import join
from leadapron.types import said
from nih_tree import write_tree

FINDINGS = ("Hernia", "Edema", "Mass")


def cohort(n=6, size=16, dtype="uint8", **changes):
    rng = np.random.default_rng(n)
    images = rng.integers(0, np.iinfo(dtype).max, (n, size, size), dtype, endpoint=True)
    images[0, 0, :2] = 0, np.iinfo(dtype).max
    labels = rng.choice([0, 1, np.nan], (n, 3)).astype(np.float32)
    return Cohort(
        images=images,
        labels=labels,
        findings=FINDINGS,
        ids=np.array([f"film {i}" for i in range(n)]),
        patients=np.array([f"p{i // 2}" for i in range(n)]),
        preprocessing=Preprocessing(size=size, dtype=dtype, crop=0.6),
        attributes={
            "view": np.array(["PA", "AP", "", "PA", "AP", "L"][:n]),
            "sex": np.array(["M", "F", "", "M", "F", "F"][:n]),
            "age": np.array([40, 50, np.nan, 60, 70, 80][:n]),
            "split": np.array(["train"] * (n - 2) + ["test"] * 2),
        },
        **changes,
    )


def assert_same(one, two):
    assert one.findings == two.findings
    np.testing.assert_array_equal(one.images[np.arange(len(one))], two.images[np.arange(len(two))])
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.ids.tolist() == two.ids.tolist()
    assert one.patients.tolist() == two.patients.tolist()


def assert_same_attributes(one, two):
    assert set(one.attributes) == set(two.attributes)
    for name, values in one.attributes.items():
        np.testing.assert_array_equal(values, two.attributes[name])


@pytest.fixture
def pandas(monkeypatch):
    """Stands in for pandas, which torchxrayvision brings: columns by name."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))


class Theirs:
    """As torchxrayvision's data sets are, their seeding of the global generators included."""

    def __init__(self, images, *, csv=None, labels=None, pathologies=FINDINGS[:2]):
        n = len(images)
        self.images, self.pathologies = images, list(pathologies)
        self.labels = np.zeros((n, len(pathologies)), np.float32) if labels is None else labels
        if csv is not None:
            self.csv = csv

    def __len__(self):
        return len(self.images)

    def __getitem__(self, idx):
        seed = np.random.randint(2147483647)  # noqa: NPY002
        random.seed(seed)
        torch.random.manual_seed(seed)
        return {"idx": idx, "lab": self.labels[idx], "img": self.images[idx]}


class Merged:
    """As their MergeDataset, its own columns included."""

    def __init__(self, datasets):
        self.datasets = datasets
        self.pathologies = datasets[0].pathologies
        self.labels = np.concatenate([d.labels for d in datasets])
        self.csv = {
            name: np.concatenate([d.csv.get(name, [np.nan] * len(d)) for d in datasets])
            for name in dict.fromkeys(name for d in datasets for name in d.csv)
        }

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, idx):
        first = len(self.datasets[0])
        return self.datasets[0][idx] if idx < first else self.datasets[1][idx - first]


def levels(n=4, shape=(8, 8), top=255):
    """Images in their range that hold every level in turn, and what they are in ours."""
    dtype = np.uint8 if top == 255 else np.uint16
    ours = (np.arange(n * shape[0] * shape[1]) * 11 % (top + 1)).reshape(n, 1, *shape).astype(dtype)
    return [(2 * (i.astype(np.float32) / top) - 1.0) * 1024 for i in ours], ours[:, 0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cohort_torchxrayvision_cohort(dtype, pandas):
    ours = cohort(dtype=dtype)

    back = from_torchxrayvision(as_torchxrayvision(ours))

    assert_same(back, ours)
    assert_same_attributes(back, ours)
    np.testing.assert_array_equal(back.films[3], ours.images[3])


@pytest.mark.parametrize("top", [255, 65535])
def test_every_level_comes_back(top):
    side = 16 if top == 255 else 256
    every = np.arange(top + 1).reshape(1, side, side)
    theirs = (2 * (every.astype(np.float32) / top) - 1.0) * 1024
    dtype = "uint8" if top == 255 else "uint16"

    back = from_torchxrayvision(
        Theirs([theirs]), preprocessing=Preprocessing(size=side, dtype=dtype)
    )

    np.testing.assert_array_equal(back.images, every)
    np.testing.assert_array_equal(
        as_torchxrayvision(back)[0]["img"], theirs.astype(np.float32), strict=True
    )


def test_global_generators_are_left_as_they_are():
    images, _ = levels()
    torch.manual_seed(7)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002

    films = from_torchxrayvision(Theirs(images), preprocessing=Preprocessing(size=8)).films
    films[1]

    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_images_of_any_size_go_through_our_preprocessing():
    images, ours = levels(shape=(20, 30))
    pre = Preprocessing(size=8, aspect="crop", interpolation="area")

    made = from_torchxrayvision(Theirs(images), preprocessing=pre)

    np.testing.assert_array_equal(made.images, [pre(film) for film in ours])
    assert made.films[2].shape == (20, 30)
    assert from_torchxrayvision(Theirs(images)).images.shape == (4, 224, 224)


def test_columns_of_their_tables():
    images, _ = levels(4)
    csv = {
        "Image Index": ["a.png", "b.png", "c.png", "d.png"],
        "patientid": ["1", "1", np.nan, "2"],
        "view": ["PA", "UNKNOWN", "AP", "PA"],
        "sex_male": [True, False, False, True],
        "sex_female": [False, True, False, False],
        "age_years": [58.0, np.nan, 3.0, 4.0],
        "split": ["a", "b", "c", "d"],
    }

    made = from_torchxrayvision(Theirs(images, csv=csv), preprocessing=Preprocessing(size=8))

    assert made.ids.tolist() == csv["Image Index"]
    assert made.patients.tolist() == ["1", "1", "c.png", "2"]
    assert made.attributes["view"].tolist() == ["PA", "", "AP", "PA"]
    assert made.attributes["sex"].tolist() == ["M", "F", "", "M"]
    assert "split" not in made.attributes
    assert "Without a patient: 1 film, each counted as a patient." in said(made.notes)


def test_without_a_table_films_and_patients_are_numbered_and_it_is_said():
    made = from_torchxrayvision(Theirs(levels()[0]), preprocessing=Preprocessing(size=8))

    assert made.ids.tolist() == made.patients.tolist() == ["film-0", "film-1", "film-2", "film-3"]
    assert any("Patients aren't known" in note for note in said(made.notes))
    assert any("named by number" in note for note in said(made.notes))


def test_patients_of_merged_data_sets_stay_apart():
    images, _ = levels(2)
    a = Theirs(images, csv={"Image Index": ["x", "y"], "patientid": [1, 2]})
    b = Theirs(images, csv={"ImageID": ["x", "z"], "patientid": [1, 1], "view": ["PA", "AP"]})
    merged = Merged([a, b])

    made = from_torchxrayvision(merged, preprocessing=Preprocessing(size=8))

    assert made.ids.tolist() == ["0-Theirs/x", "0-Theirs/y", "1-Theirs/x", "1-Theirs/z"]
    assert made.attributes["site"].tolist() == ["0-Theirs"] * 2 + ["1-Theirs"] * 2
    assert len(set(made.patients.tolist())) == 3
    some = Theirs([images[1], images[0]], csv={k: v[[3, 0]] for k, v in merged.csv.items()})
    some.dataset, some.idxs = merged, [3, 0]
    subset = from_torchxrayvision(some, preprocessing=Preprocessing(size=8))
    assert subset.ids.tolist() == ["1-Theirs/z", "0-Theirs/x"]


def test_pathologies_without_a_name_are_left_out():
    # Their pretrained models name outputs that a data set lacks "".
    theirs = Theirs(levels()[0], pathologies=["Edema", "", ""])

    made = from_torchxrayvision(theirs, preprocessing=Preprocessing(size=8))

    assert made.findings == ("Edema",)
    assert "Left out: 2 pathologies without a name." in said(made.notes)


def test_what_is_no_such_data_set_is_refused():
    images, _ = levels()

    def refused(kind, match, *args, **changes):
        theirs = Theirs(*args or (images,))
        for name, value in changes.items():
            setattr(theirs, name, value)
        with pytest.raises(kind, match=match):
            from_torchxrayvision(theirs, preprocessing=Preprocessing(size=8))

    refused(DataError, r"pixels from -1500 to .*; expected -1024", [images[0] - 476, *images[1:]])
    refused(DataError, "pixels from nan", [images[0] * np.nan])
    refused(DataError, "range must be wrong", [image / 2048 + 0.5 for image in images])
    refused(DataError, r"shape \(3, 8, 8\)", [np.zeros((3, 8, 8), np.float32)])
    refused(DataError, "item 0: list index out of range", labels=np.zeros((4, 2)), images=Broken(4))
    refused(DataError, r".labels of shape \(3, 2\)", labels=np.zeros((3, 2)))
    refused(DataError, "a label of -1", labels=np.full((4, 2), -1.0))
    refused(DataError, ".csv has 3 rows for 4 items", csv={"patientid": ["a", "b", "c"]})
    refused(UsageError, "data_aug", data_aug=lambda image: image)
    refused(UsageError, "data_aug", dataset=SimpleNamespace(data_aug=1), idxs=[0, 1, 2, 3])


class Broken(list):
    def __init__(self, n):
        super().__init__()
        self.n = n

    def __len__(self):
        return self.n


def test_labels_that_left_their_rows_are_noticed():
    theirs = Theirs(levels()[0])
    moved = theirs.labels + 1
    theirs.__class__ = type("Moved", (Theirs,), {"__getitem__": lambda s, i: {
        "lab": moved[i], "img": s.images[i]}})  # fmt: skip

    with pytest.raises(DataError, match="the labels of item 0 differ from row 0"):
        from_torchxrayvision(theirs, preprocessing=Preprocessing(size=8))


def test_a_range_half_used_is_doubted_and_bad_items_are_skipped():
    images, _ = levels()
    images[1] = np.full((3, 3), np.nan)
    bright = [np.abs(image) for image in images]

    made = from_torchxrayvision(Theirs(bright), preprocessing=Preprocessing(size=8), on_bad="skip")

    assert made.ids.tolist() == ["film-0", "film-2", "film-3"]
    assert any(note.startswith("DOUBT: all pixels lie between") for note in said(made.notes))
    assert any("item 1: pixels from nan" in note for note in said(made.notes))


def test_our_object_is_edited_as_theirs_are_and_the_cohort_is_not(pandas):
    ours = cohort()
    theirs = as_torchxrayvision(ours, transform=lambda image: image[:, :8], data_aug=np.negative)

    item = theirs[np.int64(-1)]

    assert item["idx"] == 5
    assert item["img"].shape == (1, 8, 16)
    assert item["img"].dtype == np.float32
    assert repr(theirs) == theirs.string() == "CohortDataset num_samples=6"
    assert set(theirs.totals()) == set(FINDINGS)
    assert theirs.csv["view"][2] == "UNKNOWN"
    theirs.pathologies, theirs.labels = ["Edema"], theirs.labels[:, 1:2]
    theirs.labels[:] = 0
    assert ours.findings == FINDINGS
    assert not (np.nan_to_num(ours.labels[:, 1]) == 0).all()
    with pytest.raises(IndexError):
        theirs[6]


def test_without_pandas_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(UsageError, match=r"leadapron\[xrv\]"):
        as_torchxrayvision(cohort()).csv  # noqa: B018


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cohort_monai_cohort(dtype):
    ours = cohort(dtype=dtype)

    items = as_monai(ours)
    back = from_monai(items, ours.findings)

    assert isinstance(items, list)
    assert items[0]["image"].shape == (1, 16, 16)
    assert_same(back, ours)
    assert_same_attributes(back, ours)


def test_monai_takes_our_items():
    ours = cohort()

    batch = next(iter(MonaiLoader(MonaiDataset(as_monai(ours)), batch_size=6)))

    np.testing.assert_array_equal(np.asarray(batch["image"])[:, 0], ours.images)
    np.testing.assert_array_equal(batch["label"], ours.labels)
    assert batch["id"] == ours.ids.tolist()


@pytest.mark.filterwarnings("ignore:NvImgCodec")  # MONAI says so whatever it reads
def test_files_of_a_data_list_are_decoded_as_films(tmp_path):
    rng = np.random.default_rng(0)
    films = rng.integers(0, 255, (3, 12, 10), np.uint8)
    for i, film in enumerate(films):
        Image.fromarray(film).save(tmp_path / f"{i}.png")
    items = [{"image": f"{i}.png", "label": [i % 2, 1]} for i in range(3)]
    pre = Preprocessing(size=8, interpolation="area")

    made = from_monai(items, ("a", "b"), root=tmp_path, preprocessing=pre)

    np.testing.assert_array_equal(made.images, [pre(film) for film in films])
    np.testing.assert_array_equal(made.films[1], films[1])
    assert made.ids.tolist() == ["0.png", "1.png", "2.png"]
    assert made.labels.tolist() == [[0, 1], [1, 1], [0, 1]]
    absolute = [{"image": tmp_path / "0.png", "label": [0, 1]}]
    seen = from_monai(absolute, ("a", "b"), cache="none")
    assert seen.images.shape == (1, 224, 224)
    assert seen.ids.tolist() == ["0.png"]  # where somebody keeps films is nobody's business
    with pytest.raises(DataError, match="leads out of the folder"):
        from_monai(absolute, ("a", "b"), root=tmp_path / "below")
    # MONAI reads a PNG as (width, height) unless it is told otherwise.
    pixels = LoadImage(reader="PILReader", image_only=True)(tmp_path / "0.png")
    read = [{"image": pixels, "label": [0, 1]}]
    turned = from_monai(read, ("a", "b"), image_range=(0, 255))
    assert turned.films[0].shape == (10, 12)
    assert any("by 90 degrees" in note for note in said(turned.notes))


def test_labels_by_name():
    pixels = cohort(4).images
    labels = [["Mass", "Edema"], ["No Finding"], None, {"Edema": 1, "Mass": np.nan}]
    items = [{"image": i, "label": label} for i, label in zip(pixels, labels, strict=True)]

    made = from_monai(items)

    assert made.findings == ("Edema", "Mass")
    expected = [[1, 1], [0, 0], [np.nan, np.nan], [1, np.nan]]
    np.testing.assert_array_equal(made.labels, expected)
    assert any("Patients aren't known" in note for note in said(made.notes))
    del items[2]["label"]
    np.testing.assert_array_equal(from_monai(items).labels, expected)


def test_keys_have_other_names_and_one_finding_needs_no_vector():
    items = [{"img": pixels, "y": i, "pid": 7} for i, pixels in enumerate(cohort(2).images)]
    keys = {"image_key": "img", "label_key": "y", "patient_key": "pid"}

    made = from_monai(items, ["Edema"], **keys)

    assert made.labels.tolist() == [[0], [1]]
    assert made.patients.tolist() == ["7", "7"]
    del items[1]["pid"]
    assert from_monai(items, ["Edema"], **keys).patients.tolist() == ["7", "film-1"]


def test_what_is_no_data_list_is_refused():
    pixels = cohort(2).images

    def refused(match, *items, findings=("a", "b"), kind=DataError):
        with pytest.raises(kind, match=match):
            from_monai([{"image": pixels[0], "label": [0, 1], **item} for item in items], findings)

    refused("is empty")
    refused("name", {}, findings=None, kind=UsageError)
    refused("a label vector among names", {"label": ["a"]}, {}, findings=None)
    refused("shape .*the number of a class", {"label": 3})
    refused("a label of type str", {"label": "masks/1.png"})
    refused("a label of 2", {"label": [0, 2]})
    refused("unknown finding", {"label": ["c"]})
    refused("item 1: 'image' is ndarray, item 0's is a path", {"image": "a.png"}, {})
    refused("item 1: 'image' is str; expected an array", {}, {"image": "a.png"})
    refused("an image of type list", {"image": ["a.png", "b.png"]})
    refused("pixels from 0 to 255; expected 0", {"image": np.float32([[0, 255]])})
    refused("type int64", {"image": np.zeros((8, 8), np.int64)})
    refused("on more than one side", *({"patient": "1", "split": s} for s in ("train", "val")))
    with pytest.raises(DataError, match="item 0 has no 'scan'; it has image, label"):
        from_monai([{"image": pixels[0], "label": [0, 1]}], ("a", "b"), image_key="scan")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cohort_torch_cohort(dtype):
    ours = cohort(dtype=dtype)
    dataset = as_dataset(ours)

    item = dataset[1]
    back = from_monai(dataset, dataset.findings, preprocessing=Preprocessing(size=16, dtype=dtype))

    assert isinstance(dataset, torch.utils.data.Dataset)
    assert item["image"].dtype == item["label"].dtype == torch.float32
    assert item["image"].shape == (1, 16, 16)
    assert (item["id"], item["patient"], item["row"]) == ("film 1", "p0", 1)
    assert dataset[0]["image"].min() == 0
    assert dataset[0]["image"].max() == 1
    assert_same(back, ours)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_what_one_process_gives(context, tmp_path):
    tree = write_tree(tmp_path)
    clean = open_source(f"nih:{tree}", preprocessing=Preprocessing(size=8), cache=tmp_path / "c")
    assert isinstance(clean.images, np.memmap)
    stamped = np.full((1, 8, 8), 255, np.uint8)
    ours = replace(clean, images=Overlay(clean.images, rows=[1], pixels=stamped))

    loader = torch.utils.data.DataLoader(
        as_dataset(ours), batch_size=3, num_workers=1, multiprocessing_context=context
    )
    batches = list(loader)

    images = torch.cat([batch["image"] for batch in batches])
    expected = ours.images[np.arange(len(ours))][:, None] / np.float32(255)
    np.testing.assert_array_equal(images, expected)
    assert [i for batch in batches for i in batch["id"]] == ours.ids.tolist()


def test_what_lies_in_a_file_is_not_pickled(tmp_path):
    pixels = np.arange(100 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(100, 32, 32)
    np.save(tmp_path / "images.npy", pixels)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    base = replace(
        cohort(6, 32),
        images=mapped,
        labels=np.zeros((100, 3), np.float32),
        ids=np.arange(100).astype(str),
        patients=np.arange(100).astype(str),
        attributes={},
    )
    joined = join([base.take(np.arange(99, -1, -1)), base], ["a", "b"])

    content = pickle.dumps(as_dataset(joined))

    assert len(content) < pixels.nbytes / 2
    back = pickle.loads(content)
    np.testing.assert_array_equal(back[0]["image"][0] * 255, pixels[99].astype(np.float32))
    np.testing.assert_array_equal(back[100]["image"][0] * 255, pixels[0].astype(np.float32))
    assert isinstance(joined.images.parts[1], np.memmap)
    part = mapped[1:]  # not the whole file: its pixels go along
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shareable(part))), part)


def test_a_transform_is_applied_and_rows_end():
    dataset = as_dataset(cohort(), transform=lambda image: image[:, :4])

    assert dataset[-1]["image"].shape == (1, 4, 16)
    assert dataset[-1]["row"] == 5
    with pytest.raises(IndexError):
        dataset[6]


def test_the_module_loads_no_torch():
    words = "import sys, leadapron.interop; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", words], check=True)
