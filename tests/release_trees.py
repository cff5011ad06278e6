"""Fake releases: a few tiny films, tables with the releases' file names, columns and quirks."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
"""CheXpert's columns of labels, in the release's order."""

VINDR = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
    "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity",
    "Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion",
    "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion",
    "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
)  # fmt: skip
"""VinDr's columns of labels but the last two, which the tables spell differently."""

SIZE = (12, 10)


def write_film(path: Path, value: int = 90) -> None:
    """Write a film of one grey but for a darker corner; the ending says in which format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".dcm", ".dicom"):
        _write_dicom(path, value)
        return
    pixels = np.full(SIZE, value, dtype=np.uint8)
    pixels[:4, :4] = 0
    Image.fromarray(pixels).save(path)


def write_deep_film(path: Path, value: int = 40_000) -> None:
    """Write a 16-bit PNG film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(SIZE, value, dtype=np.uint16)
    pixels[:4, :4] = 0
    Image.fromarray(pixels).save(path)


def _write_dicom(path: Path, value: int) -> None:
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    film.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = "1.2.3"
    film.PatientID = "ANONYMISED"
    film.Rows, film.Columns = SIZE
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 8, 8, 7, 0
    pixels = np.full(SIZE, value, dtype=np.uint8)
    pixels[:4, :4] = 0
    film.PixelData = pixels.tobytes()
    film.save_as(path, enforce_file_format=True)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV table, .gz if the path says so; its columns are the first row's."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def observed(**labels: str) -> dict[str, str]:
    """Return CheXpert's cells, blank but for those given (Pleural_Effusion)."""
    given = {name.replace("_", " "): label for name, label in labels.items()}
    assert set(given) <= set(OBSERVATIONS)
    return {name: given.get(name, "") for name in OBSERVATIONS}


# ---------------------------------------------------------------- CheXpert


def chexpert_row(
    path: str, view: str, labels: Mapping[str, str], sex: str = "Female", age: int = 68
):
    """Return a row of train.csv or valid.csv."""
    return {
        "Path": f"CheXpert-v1.0-small/{path}",
        "Sex": sex,
        "Age": age,
        "Frontal/Lateral": "Frontal" if view else "Lateral",
        "AP/PA": view,
        **labels,
    }


def write_chexpert(folder: Path) -> Path:
    train = [
        chexpert_row(
            "train/patient00001/study1/view1_frontal.jpg", "AP",
            observed(No_Finding="1.0", Pneumothorax="0.0", Support_Devices="1.0"),
        ),
        chexpert_row(
            "train/patient00002/study2/view1_frontal.jpg", "PA",
            observed(Cardiomegaly="-1.0", Edema="1.0", Pleural_Effusion="0.0"), "Male", 0,
        ),
        chexpert_row("train/patient00002/study2/view2_lateral.jpg", "", observed(), "Unknown"),
    ]  # fmt: skip
    zeros = observed(**{name.replace(" ", "_"): "0.0" for name in OBSERVATIONS})
    valid = [
        chexpert_row(
            "valid/patient64541/study1/view1_frontal.jpg", "AP", {**zeros, "Fracture": "1.0"}
        )
    ]
    write_rows(folder / "train.csv", train)
    write_rows(folder / "valid.csv", valid)
    for row in (*train, *valid):
        write_film(folder / row["Path"].partition("/")[2])
    return folder


# ---------------------------------------------------------------- MIMIC-CXR-JPG

MIMIC = (
    ("02aa804e-bde0afdd", "10000032", "50414267", "PA", "train"),
    ("174413ec-4ec4c1f7", "10000032", "50414267", "LATERAL", "train"),
    ("2a2277a9-b0ded155", "10000764", "57375967", "AP", "validate"),
    ("68b5c4b1-227d0485", "10000935", "51178377", "AP", "test"),
    ("096052b7-d256dc40", "10000935", "56164612", "", "test"),
    ("ffffffff-00000000", "10000980", "59999999", "PA", "train"),
)
"""Film, patient, study, view, part; the fifth has no view, the last study no labels."""


def write_mimic(folder: Path, *, gz: str = ".gz", films: str = "files/") -> Path:
    prefix = folder / "mimic-cxr-2.0.0-"
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "split")
    rows = [dict(zip(columns, row, strict=True)) for row in MIMIC]
    meta = [{**row, "Rows": "3056", "StudyDate": "21800506"} for row in rows]
    write_rows(Path(f"{prefix}metadata.csv{gz}"), [_less(row, "split") for row in meta])
    write_rows(
        Path(f"{prefix}split.csv{gz}"), [_less(row, "ViewPosition") for row in reversed(rows)]
    )
    order = ("No Finding", *sorted(OBSERVATIONS[1:]))
    for labels, uncertain in (("chexpert", "-1.0"), ("negbio", "1.0")):
        studies = {
            "50414267": ("10000032", observed(No_Finding="1.0")),
            "57375967": ("10000764", observed(Consolidation="1.0", Pneumonia=uncertain)),
            "51178377": ("10000935", observed(Pneumonia="0.0")),
            "56164612": ("10000935", observed(Edema="1.0")),
        }
        write_rows(
            Path(f"{prefix}{labels}.csv{gz}"),
            [
                {"subject_id": patient, "study_id": study, **{name: cells[name] for name in order}}
                for study, (patient, cells) in studies.items()
            ],
        )
    for film, patient, study, *_ in MIMIC:
        write_film(folder / f"{films}p{patient[:2]}/p{patient}/s{study}/{film}.jpg")
    return folder


def _less(row: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in row.items() if key != name}


# ---------------------------------------------------------------- PadChest

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def padchest_row(film: str, labels: str, **others: str) -> dict[str, str]:
    """Return a row of PadChest's table, whose first column has no name."""
    return {
        "": "0",
        "ImageID": film,
        "ImageDir": "0",
        "StudyDate_DICOM": "20140915",
        "StudyID": "20536686640136348236148679891455886468",
        "PatientID": "839860488694292331637988235681460987",
        "PatientBirth": "1930.0",
        "PatientSex_DICOM": "F",
        "Projection": "PA",
        "Report": 'sin hallazgos patologic , "radiolog" .\nsegunda linea',
        "MethodLabel": "Physician",
        "Labels": labels,
        "Localizations": "['loc pleural']",
        **others,
    }


PADCHEST_ROWS = (
    padchest_row("1.png", "['normal']"),
    padchest_row("2.png", "['normal', 'pleural effusion', ' cardiomegaly ']", ImageDir="14"),
    padchest_row("3.png", "['unchanged', 'pleural effusion']", Projection="AP_horizontal"),
    padchest_row("4.png", "['suboptimal study']", MethodLabel="RNN_model"),
    padchest_row("5.png", "['exclude']"),
    padchest_row("6.png", "", PatientBirth=""),
    padchest_row("7.png", "['infiltrates', 'NSG tube', '']", PatientID="2", PatientSex_DICOM="M"),
    padchest_row("8.png", "['scoliosis']", Projection="L"),
)


def write_padchest(
    folder: Path, rows: Sequence[Mapping[str, str]] = PADCHEST_ROWS, *, flat: bool = False
) -> Path:
    write_rows(folder / PADCHEST, rows)
    for row in rows:
        place = folder if flat else folder / row["ImageDir"]
        write_deep_film(place / row["ImageID"])
    return folder


# ---------------------------------------------------------------- VinDr-CXR


def vindr_row(film: str, reader: str, other: str, **labels: str) -> dict[str, str]:
    """Return a row of image_labels_*.csv; `other` is how it spells its last disease."""
    given = {name.replace("_", " "): label for name, label in labels.items()}
    first = {"image_id": film} | ({"rad_id": reader} if reader else {})
    return {
        **first,
        **{name: given.get(name, "0") for name in VINDR},
        other: "0",
        "No finding": "0",
    }


def write_vindr(folder: Path) -> Path:
    plural = "Other diseases"
    train = [
        vindr_row("aa", "R1", plural, Pneumonia="1", Edema="1"),
        vindr_row("bb", "R1", plural),
        vindr_row("aa", "R2", plural, Pneumonia="1"),
        vindr_row("aa", "R3", plural),
        vindr_row("bb", "R8", plural, Pleural_effusion="1"),
    ]
    test = [vindr_row("cc", "", "Other disease", Tuberculosis="1")]
    write_rows(folder / "annotations" / "image_labels_train.csv", train)
    write_rows(folder / "annotations" / "image_labels_test.csv", test)
    for film in ("train/aa", "train/bb", "test/cc"):
        write_film(folder / f"{film}.dicom")
    return folder


# ---------------------------------------------------------------- RSNA, SIIM

RSNA = ("0004cfab-14fd", "00436515-870c", "00313ee0-9eaa")


def write_rsna(folder: Path) -> Path:
    boxes = [
        (RSNA[0], "", 0),
        (RSNA[1], "264.0", 1),
        (RSNA[1], "562.0", 1),
        (RSNA[2], "", 0),
    ]
    write_rows(
        folder / "stage_2_train_labels.csv",
        [
            {"patientId": film, "x": x, "y": x, "width": x, "height": x, "Target": target}
            for film, x, target in boxes
        ],
    )
    classes = ("No Lung Opacity / Not Normal", "Lung Opacity", "Normal")
    write_rows(
        folder / "stage_2_detailed_class_info.csv",
        [{"patientId": f, "class": c} for f, c in zip(RSNA, classes, strict=True)],
    )
    for film in RSNA:
        write_film(folder / "stage_2_train_images" / f"{film}.dcm")
    return folder


SIIM = ("1.2.276.0.7230010.3.1.4.8323329.6904", "1.2.276.0.7230010.3.1.4.8323329.13666")


def write_siim(folder: Path) -> Path:
    masks = [(SIIM[0], "-1"), (SIIM[1], "557374 2 1015 8"), (SIIM[1], "514175 10 1008 29")]
    write_rows(
        folder / "train-rle.csv",
        [{"ImageId": film, " EncodedPixels": f" {runs}"} for film, runs in masks],
    )
    for i, film in enumerate(SIIM):
        write_film(folder / "dicom-images-train" / f"1.2.{i}" / f"1.3.{i}" / f"{film}.dcm")
    return folder


# ---------------------------------------------------------------- COVIDx

COVIDX = {
    "train_COVIDx9A.txt": (
        "3 SARS-Fig8a-day0.jpeg pneumonia cohen",
        "COVID 1 COVID(1).png COVID-19 sirm",
        "dd68a62a 1f2a.png normal rsna",
        "",
    ),
    "test_COVIDx9A.txt": ("120 nejmoa2001191.jpeg COVID-19", "19e3 2c.png normal rsna"),
}


def write_covidx(folder: Path, lists: Mapping[str, Sequence[str]] = COVIDX) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines))
    for film in (
        "train/SARS-Fig8a-day0.jpeg", "train/COVID(1).png", "train/1f2a.png",
        "test/nejmoa2001191.jpeg", "test/2c.png",
    ):  # fmt: skip
        write_film(folder / film)
    return folder


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "chexpert": write_chexpert,
    "mimic-cxr": write_mimic,
    "padchest": write_padchest,
    "vindr-cxr": write_vindr,
    "rsna-pneumonia": write_rsna,
    "siim-pneumothorax": write_siim,
    "covidx": write_covidx,
}
