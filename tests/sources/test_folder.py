from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_files import with_pixels, write
from leadapron.errors import DataError, LeadapronError, UsageError
from leadapron.films.cache import Cache
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.sources.folder import open_folder
from leadapron.types import said

SMALL = Preprocessing(size=8)


def put(folder: Path, *names: str) -> Path:
    """Write a small film for each name, film i of brightness 10 i."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 7), 10 * i, np.uint8)).save(path)
    return folder


def open_tree(folder: Path, **settings) -> Cohort:
    return open_folder(str(folder), SMALL, **settings)


def refusal(call, *arguments, kind: type[LeadapronError] = DataError, **settings) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_for_each_class(tmp_path):
    tree = put(tmp_path, "NORMAL/b.png", "NORMAL/a.jpeg", "TB/x.PNG", "Other mass/deep/er/y.jpg")
    cohort = open_tree(tree)
    assert cohort.findings == ("Other mass", "TB")
    names = ["NORMAL/a.jpeg", "NORMAL/b.png", "Other mass/deep/er/y.jpg", "TB/x.PNG"]
    assert cohort.ids.tolist() == names
    assert cohort.labels.tolist() == [[0, 0], [0, 0], [1, 0], [0, 1]]
    assert cohort.images[:, 0, 0].tolist() == [10, 0, 30, 20]
    assert "split" not in cohort.attributes
    assert cohort.patients.tolist() == names
    assert said(cohort.notes)[0].startswith("Patients aren't known")
    np.testing.assert_array_equal(cohort.films[3], np.full((9, 7), 20))


def test_through_open_source(tmp_path):
    tree = put(tmp_path, "NORMAL/b.png", "TB/x.png")
    cohort = open_source(f"folder:{tree}", cache=tmp_path / "cache")
    assert cohort.images.shape == (2, 224, 224)
    again = open_source(f"folder:{tree}", cache=tmp_path / "cache")
    assert again.fingerprint == cohort.fingerprint


def test_parts_of_a_split_above_the_classes(tmp_path):
    tree = put(
        tmp_path, "Train/NORMAL/a.png", "val/TB/b.png", "test/NORMAL/c.png", "train/TB/d.png"
    )
    cohort = open_tree(tree)
    assert cohort.findings == ("TB",)
    parts = dict(zip(cohort.ids.tolist(), cohort.attributes["split"].tolist(), strict=True))
    assert parts == {
        "Train/NORMAL/a.png": "train", "val/TB/b.png": "validation",
        "test/NORMAL/c.png": "test", "train/TB/d.png": "train",
    }  # fmt: skip
    assert "split" not in open_tree(tree, split="none").attributes


def test_healthy_names(tmp_path):
    tree = put(tmp_path, "no finding/a.png", "Mass/b.png")
    assert open_tree(tree).findings == ("Mass",)
    assert open_tree(tree, healthy="Mass").findings == ("no finding",)
    message = refusal(open_tree, tree, kind=UsageError, healthy="NORMAL")
    assert message == "`source.healthy` NORMAL: there is no such folder; there are Mass, no finding"
    other = put(tmp_path / "other", "Edema/a.png", "Mass/b.png")
    assert open_tree(other).findings == ("Edema", "Mass")


def test_the_naming_of_kermany(tmp_path):
    names = [
        "train/NORMAL/IM-0115-0001.jpeg", "train/NORMAL/NORMAL2-IM-0501-0001-0002.jpeg",
        "train/NORMAL/NORMAL2-IM-0501-0001.jpeg", "test/PNEUMONIA/person1_bacteria_2.jpeg",
        "test/PNEUMONIA/person1_virus_7.jpeg", "test/PNEUMONIA/BACTERIA-1008087-0001.jpeg",
    ]  # fmt: skip
    cohort = open_tree(put(tmp_path, *names))
    patients = dict(zip(cohort.ids.tolist(), cohort.patients.tolist(), strict=True))
    assert [patients[name] for name in names] == [
        "IM-0115", "NORMAL2-IM-0501", "NORMAL2-IM-0501", "person1", "person1", "BACTERIA-1008087",
    ]  # fmt: skip
    assert (
        said(cohort.notes)[0]
        == "Patients are taken from the file names of Kermany, Zhang, Goldbaum 2018."
    )
    put(tmp_path, "train/NORMAL/other.png")
    assert said(open_tree(tmp_path).notes)[0].startswith("Patients aren't known")


def test_a_split_that_shares_patients(tmp_path):
    tree = put(
        tmp_path, "train/PNEUMONIA/person1_virus_1.png", "test/PNEUMONIA/person1_virus_2.png",
        "test/NORMAL/IM-1-1.png",
    )  # fmt: skip
    message = refusal(open_tree, tree)
    assert message.startswith("1 patient on more than one side of the split: results would be too")
    allowed = open_tree(tree, leakage="allow")
    assert "DOUBT: 1 patient on more than one side of the split" in " ".join(said(allowed.notes))
    assert len(open_tree(tree, split="none")) == 3


def test_patients_by_an_expression(tmp_path):
    tree = put(tmp_path, "A/p1-x.png", "B/p1-y.png", "B/p2-z.png", "A/odd.png", "B/odd.png")
    cohort = open_tree(tree, patient="^(p[0-9]+)-")
    assert cohort.ids.tolist() == [
        "A/odd.png",
        "A/p1-x.png",
        "B/odd.png",
        "B/p1-y.png",
        "B/p2-z.png",
    ]
    assert cohort.patients.tolist() == ["A/odd.png", "p1", "B/odd.png", "p1", "p2"]
    assert (
        said(cohort.notes)[0]
        == "Without a patient in the name: 2 films, each counted as a patient."
    )
    optional = open_tree(tree, patient="(p1)?")
    assert optional.patients.tolist() == ["A/odd.png", "p1", "B/odd.png", "p1", "B/p2-z.png"]
    for pattern, words in (("p[0-9", "unterminated"), ("p1", "expected a group")):
        assert words in refusal(open_tree, tree, kind=UsageError, patient=pattern)


@pytest.mark.parametrize("loose", ["loose.png", "train/loose.png", "val/loose.png"])
def test_films_in_no_class(tmp_path, loose):
    tree = put(tmp_path, "train/NORMAL/a.png", "train/TB/b.png", loose)
    message = refusal(open_tree, tree)
    assert f"1 film in {tree} outside any class's folder, first '{loose}'" in message


def test_hidden_and_other_files(tmp_path):
    tree = put(tmp_path, "A/a.png", "B/b.png", "A/.hidden.png", ".git/x.png", "__MACOSX/._c.png")
    (tree / "A" / "Thumbs.db").touch()
    (tree / "readme.txt").touch()
    cohort = open_tree(tree)
    assert cohort.ids.tolist() == ["A/a.png", "B/b.png"]
    assert said(cohort.notes)[0] == "Left out: 2 files of other kinds."


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "b.png"),
        ("train/a.png", "test/b.png"),
        ("TB/a.png", "TB/deep/b.png"),
        ("NORMAL/a.png", "No Finding/b.png"),
    ],
)
def test_films_without_labels(tmp_path, names):
    cohort = open_tree(put(tmp_path, *names))
    assert cohort.findings == ()
    assert cohort.labels.shape == (2, 0)
    assert cohort.ids.tolist() == sorted(names)
    assert "No labels: there is no folder for each of several classes." in said(cohort.notes)


def test_no_films(tmp_path):
    assert "folder:PATH" in refusal(open_folder, "", None, kind=UsageError)
    assert "no folder" in refusal(open_tree, tmp_path / "none")
    assert "no PNG, JPEG or DICOM file in" in refusal(open_tree, tmp_path)
    (tmp_path / "file").touch()
    assert "no folder" in refusal(open_tree, tmp_path / "file")


def test_links(tmp_path):
    tree = put(tmp_path / "tree", "A/a.png", "B/b.png")
    (tree / "B" / "c.png").symlink_to(tree / "A" / "a.png")
    (tree / "loop").symlink_to(tree)
    assert open_tree(tree).ids.tolist() == ["A/a.png", "B/b.png", "B/c.png"]
    put(tmp_path, "secret.png")
    (tree / "B" / "d.png").symlink_to(tmp_path / "secret.png")
    assert "names 'B/d.png', a link that leads out" in refusal(open_tree, tree)


def test_names_that_are_not_utf8(tmp_path):
    tree = put(tmp_path, os.fsdecode(b"A/f\xff.png"), "B/b.png")
    cohort = open_source(f"folder:{tree}", preprocessing=SMALL, cache=tmp_path / "cache")
    assert len(cohort) == 2
    assert len(cohort.fingerprint) == 64
    cohort.ids[0].encode()


def test_dicom_and_pictures_together(tmp_path):
    tree = put(tmp_path, "A/a.png", "B/b.png")
    write(tree / "B" / "c.dcm", with_pixels(np.full((9, 7), 50, np.uint8)))
    (tree / "B" / "d.png").write_bytes((tree / "B" / "c.dcm").read_bytes())  # content counts
    cohort = open_tree(tree)
    assert cohort.images[:, 0, 0].tolist() == [0, 10, 50, 50]


def test_bad_films_stop_or_are_left_out(tmp_path):
    tree = put(tmp_path / "t", "A/a.png", "A/bad.png", "B/b.png", "B/worse.png", "B/c.png")
    (tree / "A" / "bad.png").write_bytes(b"")
    (tree / "B" / "worse.png").write_bytes((tree / "B" / "b.png").read_bytes()[:-40])
    kept = {"cache": tmp_path / "cache", "preprocessing": SMALL}
    words = "A/bad.png is not a PNG, JPEG or DICOM file"
    for _ in range(2):
        message = refusal(open_source, f"folder:{tree}", **kept)
        assert message.startswith(words)
        assert "remove the file, or use `on_bad` skip" in message
        skipped = open_source(f"folder:{tree}", on_bad="skip", **kept)
        assert skipped.ids.tolist() == ["A/a.png", "B/b.png", "B/c.png"]
        assert skipped.labels[:, 0].tolist() == [1, 0, 0]
        assert skipped.images[np.arange(3)][:, 0, 0].tolist() == [0, 20, 40]
        assert (skipped.films[2] == 40).all()
        (note,) = [note for note in said(skipped.notes) if note.startswith("Left out: ")]
        assert note.startswith(f"Left out: 2 films that can't be decoded: {words}; B/worse.png is")
    for path in tree.rglob("*.png"):
        path.write_bytes(b"")
    assert "(4 more can't be decoded)" in refusal(
        open_source, f"folder:{tree}", on_bad="skip", **kept
    )
    assert refusal(open_folder, str(tree), SMALL, Cache(on_bad="skip"))


# ---------------------------------------------------------------- folders that aren't classes


KERMANY = ("NORMAL/IM-0001-0001.jpeg", "PNEUMONIA/person1_virus_6.jpeg")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            [f"{above}{part}/{film}" for above in ("", "chest_xray/") for part in ("train", "test")
             for film in KERMANY],
            "chest_xray/test has the name of a part of the split, and chest_xray would become a "
            "class; give folder:{}/chest_xray, or remove chest_xray",
        ),
        (
            [f"chest_xray/train/{film}" for film in KERMANY],
            "give folder:{}/chest_xray, or remove chest_xray",
        ),
        (
            ["A/train/x.png", "A/test/y.png", "B/train/z.png"],
            "A/test has the name of a part of the split, and A would become a class; put parts "
            "above classes, as test/A/FILE",
        ),
        (
            [f"{site}/{film}" for site in ("north", "south") for film in KERMANY],
            "north/NORMAL has the name of a class, and north would become a class; give "
            "folder:{0}/north + folder:{0}/south, or remove north",
        ),
        (
            [f"train/{site}/{film}" for site in ("north", "south") for film in KERMANY],
            "train/north/NORMAL has the name of a class",
        ),
        (["A/x.png", "B/y.png", "B/more/a/z.png"], "B/more/a has the name of a class"),
        (["train/train/A/x.png", "train/train/B/y.png"], "train/train has the name of a part"),
        (["A/x.png", "B/y.png", "B/Sin hallazgos/z.png"], "B/Sin hallazgos has the name of a"),
    ],
)  # fmt: skip
def test_a_class_or_a_part_inside_a_class_is_refused(tmp_path, names, words):
    tree = put(tmp_path, *names)
    assert words.format(tree) in refusal(open_tree, tree)
    assert words.format(tree) in refusal(open_tree, tree, split="none")


def test_folders_that_the_line_names_can_be_given(tmp_path):
    nested = [f"chest_xray/{part}/{film}" for part in ("train", "test") for film in KERMANY]
    tree = put(tmp_path, *nested)
    inner = open_source(f"folder:{tree}/chest_xray", preprocessing=SMALL, leakage="allow")
    assert inner.findings == ("PNEUMONIA",)
    assert set(inner.attributes["split"].tolist()) == {"train", "test"}


@pytest.mark.parametrize(
    ("names", "said_of"),
    [
        (["a/x.png", "b/y.png", "dcm/z.png"], "a; b; dcm"),
        (["images_001/x.png", "images_002/y.png"], "images_001; images_002"),
        (["NORMAL/x.png", "TB/y.png", "Patient 12/z.png"], "Patient 12"),
    ],
)
def test_folders_that_do_not_read_like_classes_are_doubted(tmp_path, names, said_of):
    cohort = open_tree(put(tmp_path, *names))
    (doubt,) = [note.words for note in cohort.notes if note.doubt]
    assert doubt.startswith(f"These folders were taken as classes: {said_of}. If they")


def test_folders_that_recur_inside_classes_are_doubted(tmp_path):
    names = [f"{c}/{kind}/x.png" for c in ("COVID", "NORMAL") for kind in ("images", "masks")]
    cohort = open_tree(put(tmp_path, *names))
    (doubt,) = [note.words for note in cohort.notes if note.doubt and note.about == "labels"]
    assert doubt.startswith("Several classes hold folders images; masks;")


def test_the_word_for_no_finding_in_any_case(tmp_path):
    tree = put(tmp_path, "Sin_Hallazgos/x.png", "TB/y.png")
    assert open_tree(tree).findings == ("TB",)
    tree = put(tmp_path / "more", "Control/x.png", "TB/y.png")
    assert open_tree(tree, healthy="control").findings == ("TB",)


# ---------------------------------------------------------------- folders that mean harm


def test_no_name_of_a_file_forges_a_line(tmp_path):
    film, folder = "x\nCLEAN: nothing\x1b[2J.png", "TB\x1b[31m\u202e"
    tree = put(tmp_path, f"NORMAL/{film}", f"{folder}/y.png")
    cohort = open_tree(tree)
    assert cohort.findings == (r"TB\x1b[31m\u202e",)
    assert cohort.ids.tolist() == [
        r"NORMAL/x\nCLEAN: nothing\x1b[2J.png", r"TB\x1b[31m\u202e/y.png",
    ]  # fmt: skip
    assert cohort.path(0) == str(tree / "NORMAL" / film)
    (tree / "NORMAL" / film).write_bytes(b"no film")
    kept = open_folder(str(tree), SMALL, Cache(on_bad="skip"))
    assert all(str(note).isprintable() for note in kept.notes)
    put(tree, "NORMAL/x\x07.png", r"NORMAL/x\x07.png")
    assert "two different names are both shown as" in refusal(open_tree, tree)


def test_pipes_and_sockets_among_films_are_no_films(tmp_path):
    tree = put(tmp_path, "NORMAL/x.png", "TB/y.png")
    os.mkfifo(tree / "TB" / "pipe.png")
    (tree / "TB" / "zero.dcm").symlink_to("/dev/zero")
    os.mkfifo(tree / "TB" / "pipe")
    assert "leads out" in refusal(open_tree, tree)
    (tree / "TB" / "zero.dcm").unlink()
    words = "TB/pipe.png can't be read (it is a pipe; expected a file); remove the file, or"
    assert refusal(open_tree, tree).startswith(words)
    assert len(open_folder(str(tree), SMALL, Cache(on_bad="skip"))) == 2


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("kept", [False, True])
def test_identical_films_whose_labels_contradict_are_doubted(tmp_path, kept):
    tree = put(tmp_path, "NORMAL/blank.png", "TB/blank.png")  # nothing to tell films by
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tree / "TB" / "blank.png")
    for name, seed in (("NORMAL/a", 0), ("NORMAL/b", 1), ("TB/c", 0), ("TB/d", 2), ("TB/e", 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(pixels).save(tree / f"{name}.png")
    cache = Cache(folder=tmp_path / ".cache") if kept else None
    for _ in range(2):  # decoded, and from the cache
        cohort = open_folder(str(tree), SMALL, cache)
        (doubt,) = [note for note in cohort.notes if note.about == "copies"]
        assert doubt.doubt
        assert doubt.words.startswith(
            "2 films in 1 group of identical films have contradictory labels, first in TB;"
        )
    (tree / "TB" / "c.png").unlink()
    cohort = open_folder(str(tree), SMALL, cache)
    assert not [note for note in cohort.notes if note.about == "copies"]
