from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from leadapron.errors import DataError, UnknownNameError, UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import SOURCES, open_source
from leadapron.sources.releases import RELEASES
from release_trees import (
    MIMIC,
    PADCHEST,
    PADCHEST_ROWS,
    RSNA,
    SIIM,
    VINDR,
    WRITERS,
    chexpert_row,
    observed,
    padchest_row,
    vindr_row,
    write_chexpert,
    write_covidx,
    write_film,
    write_mimic,
    write_padchest,
    write_rows,
    write_rsna,
    write_siim,
    write_vindr,
)

SMALL = Preprocessing(size=8)
TABLES = {
    "chexpert": "train.csv",
    "mimic-cxr": "mimic-cxr-2.0.0-metadata.csv.gz",
    "padchest": PADCHEST,
    "vindr-cxr": "annotations/image_labels_train.csv",
    "rsna-pneumonia": "stage_2_train_labels.csv",
    "siim-pneumothorax": "train-rle.csv",
}


def opened(name: str, folder: Path, **settings) -> Cohort:
    return open_source(f"{name}:{folder}", preprocessing=SMALL, cache="none", **settings)


def refusal(name: str, folder: Path | str, kind: type[Exception] = DataError, **settings) -> str:
    with pytest.raises(kind) as caught:
        open_source(f"{name}:{folder}", preprocessing=SMALL, cache="none", **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def label(cohort: Cohort, film: str, finding: str) -> float:
    row = cohort.ids.tolist().index(film)
    return float(cohort.labels[row, cohort.findings.index(finding)])


def said(cohort: Cohort, words: str) -> bool:
    return any(words in str(note) for note in cohort.notes)


def first_film(folder: Path) -> Path:
    films = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")
    return next(p for p in sorted(folder.rglob("*")) if p.suffix in films)


# ---------------------------------------------------------------- what holds for all


@pytest.mark.parametrize("name", RELEASES)
def test_facts_are_stated(name):
    facts = RELEASES[name]
    assert name in SOURCES
    assert {"name", "version", "films", "citation", "terms", "page"} <= set(facts)
    assert str(facts["page"]).startswith("http")


@pytest.mark.parametrize("name", RELEASES)
def test_films_are_decoded_and_rows_aligned(name, tmp_path):
    cohort = opened(name, WRITERS[name](tmp_path))
    assert cohort.images.shape == (len(cohort.ids), 8, 8)
    images = cohort.images[np.arange(len(cohort.ids))]
    assert (images.max(axis=(1, 2)) > images.min(axis=(1, 2))).all()
    assert cohort.labels.shape == (len(cohort.ids), len(cohort.findings))
    assert set(np.unique(cohort.labels[np.isfinite(cohort.labels)])) <= {0, 1}


@pytest.mark.parametrize("name", RELEASES)
def test_without_a_folder(name, tmp_path):
    assert refusal(name, "", UsageError) == f"{name} needs a folder: {name}:PATH"
    assert "no folder" in refusal(name, tmp_path / "gone")
    assert str(tmp_path) in refusal(name, tmp_path)


@pytest.mark.parametrize("name", RELEASES)
def test_rows_without_a_film_are_left_out_and_counted(name, tmp_path):
    folder = WRITERS[name](tmp_path)
    before = len(opened(name, folder).ids)
    first_film(folder).unlink()
    cohort = opened(name, folder)
    assert len(cohort.ids) == before - 1
    assert said(cohort, f"Left out: 1 film of {before} without a file.")


@pytest.mark.parametrize("name", RELEASES)
def test_no_film_at_all(name, tmp_path):
    folder = WRITERS[name](tmp_path)
    for film in folder.rglob("*"):
        if film.is_file() and film.suffix not in (".csv", ".gz", ".txt"):
            film.unlink()
    assert "none of the" in refusal(name, folder)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_its_columns(name, tmp_path):
    folder = WRITERS[name](tmp_path)
    write_rows(folder / TABLES[name], [{"a": 1, "b": 2}])
    assert "has no column" in refusal(name, folder)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_rows(name, tmp_path):
    folder = WRITERS[name](tmp_path)
    table = folder / TABLES[name]
    if table.suffix == ".gz":
        table.unlink()
        table = table.with_suffix("")
        table.write_text("dicom_id,subject_id,study_id,ViewPosition\n")
    else:
        table.write_text(table.read_text().partition("\n")[0] + "\n")
    assert f"{table.name} has no rows" in refusal(name, folder)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("chexpert", "train/patient1/../../../x.jpg"),
        ("padchest", "../x.png"),
        ("vindr-cxr", "../x"),
        ("rsna-pneumonia", "../../x"),
        ("siim-pneumothorax", "../x"),
        ("covidx", "../../x.png"),
    ],
)
def test_a_path_that_climbs_out(name, path, tmp_path):
    folder = WRITERS[name](tmp_path / "release")
    if name == "chexpert":
        write_rows(folder / "train.csv", [chexpert_row(path, "PA", observed())])
    elif name == "padchest":
        write_rows(folder / PADCHEST, [padchest_row(path, "['nodule']")])
    elif name == "vindr-cxr":
        write_rows(folder / TABLES[name], [vindr_row(path, "R1", "Other diseases")])
    elif name == "rsna-pneumonia":
        write_rows(folder / TABLES[name], [{"patientId": path, "Target": 0}])
    elif name == "siim-pneumothorax":
        write_rows(folder / TABLES[name], [{"ImageId": path, "EncodedPixels": "-1"}])
    else:
        (folder / "train_COVIDx9A.txt").write_text(f"1 {path} normal rsna")
    assert "leads out of the folder" in refusal(name, folder)


def test_a_link_that_leads_out(tmp_path):
    folder = write_rsna(tmp_path / "release")
    film = first_film(folder)
    film.rename(tmp_path / "outside.dcm")
    film.symlink_to(tmp_path / "outside.dcm")
    assert "a link that leads out" in refusal("rsna-pneumonia", folder)


def test_a_film_named_twice(tmp_path):
    folder = write_chexpert(tmp_path)
    row = chexpert_row("train/patient00001/study1/view1_frontal.jpg", "AP", observed())
    write_rows(folder / "train.csv", [row, row])
    assert "more than once" in refusal("chexpert", folder)


def test_an_unknown_setting(tmp_path):
    assert "votes" in refusal("vindr-cxr", write_vindr(tmp_path), UnknownNameError, vote="any")
    assert "`source.votes` most" in refusal("vindr-cxr", tmp_path, UsageError, votes="most")


# ---------------------------------------------------------------- CheXpert

HEALTHY = "train/patient00001/study1/view1_frontal.jpg"
DOUBTFUL = "train/patient00002/study2/view1_frontal.jpg"
LATERAL = "train/patient00002/study2/view2_lateral.jpg"
VALID = "valid/patient64541/study1/view1_frontal.jpg"


def test_chexpert(tmp_path):
    cohort = opened("chexpert", write_chexpert(tmp_path))
    assert cohort.ids.tolist() == [HEALTHY, DOUBTFUL, VALID]
    assert cohort.patients.tolist() == ["patient00001", "patient00002", "patient64541"]
    assert cohort.attributes["split"].tolist() == ["train", "train", "validation"]
    assert cohort.attributes["view"].tolist() == ["AP", "PA", "AP"]
    assert cohort.attributes["sex"].tolist() == ["F", "M", "F"]
    np.testing.assert_array_equal(cohort.attributes["age"], [68, np.nan, 68])
    assert len(cohort.findings) == 13
    assert said(cohort, "that aren't frontal; --source.views all keeps them")


def test_chexpert_no_finding_states_what_is_not_mentioned_but_devices(tmp_path):
    cohort = opened("chexpert", write_chexpert(tmp_path))
    assert label(cohort, HEALTHY, "Edema") == 0
    assert label(cohort, HEALTHY, "Support Devices") == 1
    assert np.isnan(label(cohort, DOUBTFUL, "Fracture"))
    assert said(cohort, "No Finding: 1 row;")


@pytest.mark.parametrize(("uncertain", "value"), [("nan", np.nan), ("0", 0), ("1", 1)])
def test_chexpert_uncertain(uncertain, value, tmp_path):
    cohort = opened("chexpert", write_chexpert(tmp_path), uncertain=uncertain)
    np.testing.assert_equal(label(cohort, DOUBTFUL, "Cardiomegaly"), value)
    assert label(cohort, DOUBTFUL, "Edema") == 1
    assert label(cohort, DOUBTFUL, "Pleural Effusion") == 0
    assert said(cohort, "1 label.")


def test_chexpert_blank_and_views(tmp_path):
    cohort = opened("chexpert", write_chexpert(tmp_path), blank="0", views="all")
    assert LATERAL in cohort.ids.tolist()
    assert cohort.attributes["view"][2] == "LATERAL"
    assert label(cohort, LATERAL, "Edema") == 0
    assert not said(cohort, "frontal")


def test_chexpert_one_part_will_do(tmp_path):
    folder = write_chexpert(tmp_path)
    (folder / "train.csv").unlink()
    assert opened("chexpert", folder).ids.tolist() == [VALID]


def test_chexpert_wrong_cells_and_paths(tmp_path):
    folder = write_chexpert(tmp_path)
    write_rows(folder / "train.csv", [chexpert_row(HEALTHY, "AP", observed(Edema="maybe"))])
    assert "column 'Edema': expected 1, 0, -1 and blanks" in refusal("chexpert", folder)
    write_rows(folder / "train.csv", [chexpert_row("else/film.jpg", "AP", observed())])
    assert "expected paths such as train/patient00001" in refusal("chexpert", folder)


def test_chexpert_laterals_alone(tmp_path):
    folder = write_chexpert(tmp_path)
    (folder / "valid.csv").unlink()
    write_rows(folder / "train.csv", [chexpert_row(LATERAL, "", observed())])
    assert "no film is left of train.csv" in refusal("chexpert", folder)


def test_a_patient_on_both_sides_is_refused(tmp_path):
    folder = write_chexpert(tmp_path)
    path = "valid/patient00001/study9/view1_frontal.jpg"
    write_film(folder / path)
    write_rows(folder / "valid.csv", [chexpert_row(path, "PA", observed())])
    assert "1 patient on more than one side" in refusal("chexpert", folder)
    assert said(opened("chexpert", folder, leakage="allow"), "DOUBT")


# ---------------------------------------------------------------- MIMIC-CXR


@pytest.mark.parametrize(("gz", "films"), [(".gz", "files/"), ("", "")])
def test_mimic(gz, films, tmp_path):
    cohort = opened("mimic-cxr", write_mimic(tmp_path, gz=gz, films=films))
    assert cohort.ids.tolist() == [MIMIC[0][0], MIMIC[2][0], MIMIC[3][0]]
    assert cohort.patients.tolist() == ["10000032", "10000764", "10000935"]
    assert cohort.attributes["split"].tolist() == ["train", "validation", "test"]
    assert cohort.attributes["view"].tolist() == ["PA", "AP", "AP"]
    assert said(cohort, "1 film of 6 whose study isn't in mimic-cxr-2.0.0-chexpert.csv")
    assert said(cohort, "2 films of 5 that aren't frontal")
    assert label(cohort, MIMIC[0][0], "Edema") == 0
    assert np.isnan(label(cohort, MIMIC[0][0], "Support Devices"))
    assert label(cohort, MIMIC[2][0], "Consolidation") == 1
    assert np.isnan(label(cohort, MIMIC[2][0], "Pneumonia"))


def test_mimic_settings(tmp_path):
    cohort = opened("mimic-cxr", write_mimic(tmp_path), labels="negbio", views="all", blank="0")
    assert len(cohort.ids) == 5
    assert label(cohort, MIMIC[2][0], "Pneumonia") == 1
    assert label(cohort, MIMIC[3][0], "Fracture") == 0
    assert "`source.labels` radgraph" in refusal(
        "mimic-cxr", tmp_path, UsageError, labels="radgraph"
    )


@pytest.mark.parametrize("table", ["metadata", "split", "chexpert"])
def test_mimic_needs_three_tables(table, tmp_path):
    folder = write_mimic(tmp_path)
    (folder / f"mimic-cxr-2.0.0-{table}.csv.gz").unlink()
    assert f"no mimic-cxr-2.0.0-{table}.csv in" in refusal("mimic-cxr", folder)


def test_mimic_a_study_twice_or_a_strange_part(tmp_path):
    folder = write_mimic(tmp_path, gz="")
    table = folder / "mimic-cxr-2.0.0-chexpert.csv"
    text = table.read_text()
    table.write_text(text + text.splitlines()[1] + "\n")
    assert "names a study more than once" in refusal("mimic-cxr", folder)
    table.write_text(text)
    split = folder / "mimic-cxr-2.0.0-split.csv"
    split.write_text(split.read_text().replace("validate", "holdout"))
    assert "has a split 'holdout'" in refusal("mimic-cxr", folder)


# ---------------------------------------------------------------- PadChest


@pytest.mark.parametrize("flat", [False, True])
def test_padchest(flat, tmp_path):
    cohort = opened("padchest", write_padchest(tmp_path, flat=flat))
    assert cohort.ids.tolist() == ["1.png", "2.png", "3.png", "4.png", "6.png", "7.png"]
    assert cohort.findings == (
        "NSG tube", "cardiomegaly", "infiltrates", "pleural effusion", "scoliosis",
    )  # fmt: skip
    assert not cohort.labels[0].any()
    assert cohort.labels[1].tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_array_equal(cohort.labels[2], [np.nan] * 3 + [1, np.nan])
    assert np.isnan(cohort.labels[3:5]).all()
    assert cohort.labels[5].tolist() == [1, 0, 1, 0, 0]
    assert len(set(cohort.patients.tolist())) == 2
    assert "split" not in cohort.attributes
    assert cohort.attributes["view"][2] == "AP_horizontal"
    assert cohort.attributes["sex"].tolist() == ["F"] * 5 + ["M"]
    np.testing.assert_array_equal(cohort.attributes["age"], [84, 84, 84, 84, np.nan, 84])
    for words in (
        "Marked 'unchanged', so unnamed findings aren't stated: 1 row.",
        "Both 'normal' and with a finding, taken as having it: 1 row.",
        "Without a label, so nothing is stated: 3 rows.",
        "Left out: 1 film of 8 marked 'exclude'.",
        "Left out: 1 film of 7 that aren't frontal",
        "16 bits a pixel: 6 films.",
    ):
        assert said(cohort, words), words


def test_padchest_settings(tmp_path):
    folder = write_padchest(tmp_path)
    cohort = opened("padchest", folder, findings="scoliosis, pleural effusion", views="all")
    assert cohort.findings == ("scoliosis", "pleural effusion")
    assert cohort.labels[:2].tolist() == [[0, 0], [0, 1]]
    assert label(cohort, "7.png", "scoliosis") == 0
    assert label(cohort, "8.png", "scoliosis") == 1
    assert "4.png" not in opened("padchest", folder, method="physician").ids.tolist()
    message = refusal("padchest", folder, UnknownNameError, findings="pleural efusion")
    assert "pleural effusion" in message


@pytest.mark.parametrize(
    "labels",
    ["pleural effusion", "__import__('os')", "['a', 3]", "{'a'}", "['a'", "[" * 900, "'a' " * 2000],
)
def test_padchest_labels_that_are_no_list(labels, tmp_path):
    folder = write_padchest(tmp_path, [*PADCHEST_ROWS[:1], padchest_row("9.png", labels)])
    message = refusal("padchest", folder)
    assert "expected a list such as" in message
    assert len(message) < 250


# ---------------------------------------------------------------- VinDr-CXR


def test_vindr(tmp_path):
    cohort = opened("vindr-cxr", write_vindr(tmp_path))
    assert cohort.ids.tolist() == ["aa", "bb", "cc"]
    assert cohort.findings == (*VINDR, "Other diseases")
    assert cohort.attributes["split"].tolist() == ["train", "train", "test"]
    assert label(cohort, "aa", "Pneumonia") == 1
    assert label(cohort, "aa", "Edema") == 0
    assert np.isnan(label(cohort, "bb", "Pleural effusion"))
    assert label(cohort, "bb", "Pneumonia") == 0
    assert label(cohort, "cc", "Tuberculosis") == 1
    assert said(cohort, "Tied votes in image_labels_train.csv, so not stated: 1 label.")
    assert said(cohort, "Patients aren't known")


def test_vindr_any_vote_counts(tmp_path):
    cohort = opened("vindr-cxr", write_vindr(tmp_path), votes="any")
    assert label(cohort, "aa", "Edema") == 1
    assert label(cohort, "bb", "Pleural effusion") == 1
    assert label(cohort, "bb", "Edema") == 0
    assert np.isfinite(cohort.labels).all()


def test_vindr_window(tmp_path):
    folder = write_vindr(tmp_path)
    assert said(opened("vindr-cxr", folder, window="45/90"), "centre 45, width 90")
    assert "`source.window` narrow" in refusal("vindr-cxr", folder, UsageError, window="narrow")


# ---------------------------------------------------------------- RSNA and SIIM


def test_rsna(tmp_path):
    folder = write_rsna(tmp_path)
    cohort = opened("rsna-pneumonia", folder)
    assert cohort.ids.tolist() == list(RSNA)
    assert cohort.patients.tolist() == list(RSNA)
    assert cohort.findings == ("Pneumonia",)
    assert cohort.labels.tolist() == [[0], [1], [0]]
    assert cohort.attributes["class"][1] == "Lung Opacity"
    assert said(cohort, "the release doesn't say which films share a patient")
    (folder / "stage_2_detailed_class_info.csv").unlink()
    assert "class" not in opened("rsna-pneumonia", folder).attributes


def test_rsna_a_film_with_two_targets(tmp_path):
    folder = write_rsna(tmp_path)
    table = folder / "stage_2_train_labels.csv"
    table.write_text(table.read_text() + f"{RSNA[1]},,,,,0\n")
    assert f"two labels for film {RSNA[1]!r}" in refusal("rsna-pneumonia", folder)


def test_siim(tmp_path):
    cohort = opened("siim-pneumothorax", write_siim(tmp_path))
    assert cohort.ids.tolist() == list(SIIM)
    assert cohort.labels.tolist() == [[0], [1]]
    assert said(cohort, "Patients aren't known")


def test_siim_as_kaggle_gives_it(tmp_path):
    write_rows(tmp_path / "stage_2_train.csv", [{"ImageId": "ID_0011fe81e", "EncodedPixels": "-1"}])
    write_film(tmp_path / "stage_2_images" / "ID_0011fe81e.dcm")
    assert opened("siim-pneumothorax", tmp_path).labels.tolist() == [[0]]


def test_siim_refuses_what_it_does_not_understand(tmp_path):
    folder = write_siim(tmp_path)
    film = first_film(folder)
    write_film(folder / "copy" / film.name)
    assert "keep one" in refusal("siim-pneumothorax", folder)
    write_rows(folder / "train-rle.csv", [{"ImageId": SIIM[0], "EncodedPixels": "none"}])
    assert "expected run lengths or -1" in refusal("siim-pneumothorax", folder)
    rows = [{"ImageId": SIIM[0], "EncodedPixels": runs} for runs in ("-1", "1 2")]
    write_rows(folder / "train-rle.csv", rows)
    assert "two labels" in refusal("siim-pneumothorax", folder)


# ---------------------------------------------------------------- COVIDx


def test_covidx(tmp_path):
    cohort = opened("covidx", write_covidx(tmp_path))
    assert cohort.findings == ("Non-COVID-19 Pneumonia", "COVID-19")
    assert cohort.labels.tolist() == [[1, 0], [0, 1], [0, 0], [0, 1], [0, 0]]
    assert cohort.patients.tolist() == ["3", "COVID 1", "dd68a62a", "120", "19e3"]
    assert cohort.attributes["site"].tolist() == ["cohen", "sirm", "rsna", "", "rsna"]
    assert cohort.attributes["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert said(cohort, "Collections: rsna (2), ")


def test_covidx_positive_and_negative_lists(tmp_path):
    folder = write_covidx(tmp_path)
    (folder / "labels").mkdir()
    (folder / "labels" / "train_COVIDx9B.txt").write_text(
        "3 SARS-Fig8a-day0.jpeg negative cohen\n7 COVID(1).png positive sirm"
    )
    message = refusal("covidx", folder, UsageError)
    assert "COVIDx9A, COVIDx9B; name one by `source.lists`" in message
    cohort = opened("covidx", folder, lists="COVIDx9B")
    assert cohort.findings == ("COVID-19",)
    assert cohort.labels.tolist() == [[0], [1]]
    assert "COVIDx9B" in refusal("covidx", folder, UnknownNameError, lists="COVIDx9C")
    (folder / "train.txt").write_text("dd68a62a 1f2a.png negative rsna")
    assert opened("covidx", folder, lists="train.txt").labels.tolist() == [[0]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3 a.png", "train_COVIDx9A.txt, line 1: expected patient, file, class and source"),
        ("3 a.png mild cohen", "classes COVID-19, mild, normal; expected normal, pneumonia"),
        ("3 a.png positive cohen", "classes COVID-19, normal, positive; expected"),
    ],
)
def test_covidx_lines(line, words, tmp_path):
    folder = write_covidx(tmp_path)
    (folder / "train_COVIDx9A.txt").write_text(line)
    assert words in refusal("covidx", folder)


# ---------------------------------------------------------------- the docs


def test_the_docs_name_each_release_with_its_facts():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "releases.md").read_text()
    for name, facts in RELEASES.items():
        assert f"## {name}" in text
        assert str(facts["page"]) in text
        assert re.sub(r"\D", "", str(facts["films"])) in text.replace(",", "")
