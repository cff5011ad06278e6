"""Result objects of a judged film: valid, the same again, in the film's pixels, without secrets."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

import leadapron as la
from dicom_files import SECRETS, ramp, table, with_pixels, write
from leadapron.detect.inputs.decision import Decision, Reading
from leadapron.detect.verdict import LEVELS, Verdict
from leadapron.errors import FilmError, UsageError
from leadapron.films.decoding import FilmFiles
from leadapron.service.answers import FilmAnswer
from leadapron.types import Place

pytestmark = pytest.mark.service
objects = pytest.importorskip("leadapron.service.objects", exc_type=ImportError)
results = pytest.importorskip("leadapron.service.results", exc_type=ImportError)

CR = "1.2.840.10008.5.1.4.1.1.1"
SHAPE = (240, 200)
PADDED = la.Preprocessing(size=32, aspect="pad", crop=0.9, interpolation="area", dtype="uint16")

STUDY = {
    "SeriesInstanceUID": "1.2.3.4",
    "AccessionNumber": "ACC-77",
    "StudyID": "S-1",
    "StudyDate": "20261101",
    "StudyTime": "101500",
    "PatientBirthDate": "19700413",
    "ReferringPhysicianName": "REFERRER^ANNE",
    "Laterality": "",
    "PatientOrientation": ["L", "F"],
}
PRIVATE = {
    "InstitutionName": "Secret Hospital",
    "OperatorsName": "OPERATOR^OLGA",
    "StationName": "ROOM-5-SECRET",
    "StudyDescription": "secret study words",
    "PatientComments": "secret comment",
    "DeviceSerialNumber": "SN-SECRET",
    "Manufacturer": "Secret Maker",
    "WindowCenterWidthExplanation": "secret window",
    "OtherPatientIDs": "OTHER-SECRET",
    "ImageComments": "secret image",
}


def film(**values):
    return with_pixels(ramp(12, shape=SHAPE), BitsStored=12, **{**STUDY, **PRIVATE, **values})


def without(made, *names):
    for name in names:
        delattr(made, name)
    return made


def compressed():
    made = film()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.compress(JPEGLSLossless)
    return made


def damaged():
    """A film whose numbers can't be read; pydicom notices on access."""
    content = as_file(film(WindowCenter="2000.25", Laterality="L"))
    return pydicom.dcmread(io.BytesIO(content.replace(b"2000.25", b"nowhere")))


def lookup():
    made = film()
    made.VOILUTSequence = [table(range(4096), 0, 12)]
    made.VOILUTSequence[0].LUTExplanation = "secret table"
    return made


def bare():
    """A film that lacks all that isn't required for a result."""
    names = {"PatientName", "PatientID", "PatientSex", *STUDY, *PRIVATE} - {"SeriesInstanceUID"}
    return without(film(), *names)


CURVE = np.rint(2000 * np.sqrt(np.arange(4096) / 4095))
"""A table that leaves a part of its 12 bits unused."""

FILMS = {
    "DX": film,
    "CR": lambda: film(SOPClassUID=CR, Modality="CR", ViewPosition=None),
    "MONOCHROME1": lambda: film(
        PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE",
        WindowCenter=["2000", "100"], WindowWidth=["900", "10"],
    ),
    "JPEG-LS": compressed,
    "lookup table": lookup,
    "not square": lambda: film(PixelSpacing=[0.2, 0.1]),
    "rescaled": lambda: film(RescaleSlope="2", RescaleIntercept="-100", RescaleType="SECRET"),
    "modality table": lambda: film(
        ModalityLUTSequence=[table(CURVE, 0, 12)], WindowCenter="1000", WindowWidth="800"
    ),
    "two tables": lambda: film(
        ModalityLUTSequence=[table(CURVE, 0, 12)],
        VOILUTSequence=[table(np.arange(2001) // 2, 0, 10)],
    ),
    "nothing but identifiers": bare,
    "damaged": damaged,
    "invalid values": lambda: film(
        PatientBirthDate="April 1970", PatientSex="female", StudyTime="noon", Laterality="X",
        PatientOrientation=["?", "F"], WindowCenter="5", WindowWidth="0",
    ),
    "another alphabet": lambda: film(
        SpecificCharacterSet="ISO_IR 100", PatientName="M\u00fcller^J\u00f6rg"
    ),
    "odd name": lambda: film(PatientName="Covid0000", ReferringPhysicianName="Anonymous"),
}  # fmt: skip


def answered(word="suspicious", **changes):
    """An answer on a film, with a region in pixels of the model's input."""
    decision = Decision(
        verdict=word, p=1 / 301, drives=0.0033, unlike=0.7, finding="Pneumonia",
        region=Place(row=6, column=10, height=4, width=5),
        readings=(Reading(finding="Pneumonia", probability=0.93, without=0.125),),
    )  # fmt: skip
    return FilmAnswer(
        id="0" * 32, state="judged", received="2026-11-29T12:00:00.000Z",
        judged="2026-11-29T12:00:01.000Z", attempts=1, verdict=Verdict.of("screen", word),
        decision=replace(decision, **changes), gate="a" * 64, model="b" * 64,
    )  # fmt: skip


ABOUT = results.Installation(
    gate="a" * 64, model="b" * 64, preprocessing=PADDED, scores=("region", "strip"),
    false_alarm=0.05, device="2.25.7",
)  # fmt: skip
IMAGE = np.zeros((32, 32), np.uint8)


def all_kinds(film, answer=None, about=ABOUT):
    made = objects.result_objects(film, answer or answered(), about, objects.KINDS, image=IMAGE)
    return dict(zip(objects.KINDS, made, strict=True))


def as_file(made) -> bytes:
    content = io.BytesIO()
    if not hasattr(made, "file_meta"):
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(content, enforce_file_format=True)
    return content.getvalue()


def texts(node):
    """Texts of a report's content items by the meaning of their names."""
    found = {}
    for item in node.get("ContentSequence", ()):
        name = (
            item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        )
        if "TextValue" in item:
            found.setdefault(name, []).append(str(item.TextValue))
        if "MeasuredValueSequence" in item:
            found[name] = float(item.MeasuredValueSequence[0].NumericValue)
        if "ConceptCodeSequence" in item:
            code = item.ConceptCodeSequence[0]
            found[name] = (code.CodeValue, code.CodingSchemeDesignator)
        found |= {key: value for key, value in texts(item).items() if key not in found}
    return found


@pytest.mark.parametrize("name", FILMS)
def test_dciodvfy_finds_no_error(name, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (dicom3tools)")
    made = all_kinds(FILMS[name]())
    assert list(made) == list(objects.KINDS)
    for kind, each in made.items():
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(as_file(each))
        checked = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
        errors = [line for line in checked.stderr.splitlines() if line.startswith("Error")]
        assert (kind, checked.returncode, errors) == (kind, 0, [])


@pytest.mark.parametrize("name", FILMS)
def test_only_patient_and_study_are_copied(name):
    original = FILMS[name]()
    for made in all_kinds(original).values():
        read = pydicom.dcmread(io.BytesIO(as_file(made)))
        assert read.StudyInstanceUID == original.StudyInstanceUID
        assert read.SeriesInstanceUID != original.get("SeriesInstanceUID")
        for tag in ("PatientID", "PatientName", "AccessionNumber", "StudyID"):
            assert str(read[tag].value or "") == str(original.get(tag, "") or "")
        content = as_file(made).lower()
        for word in (b"secret", b"operator", b"elm street", b"room-5", b"058y"):
            assert word not in content


def test_again_gives_the_same_bytes_and_another_gate_other_uids():
    def same():
        return film(SOPInstanceUID="1.2.9", StudyInstanceUID="1.2.8")

    one, again = all_kinds(same()), all_kinds(same())
    assert [as_file(each) for each in one.values()] == [as_file(each) for each in again.values()]
    other = all_kinds(same(), about=replace(ABOUT, gate="c" * 64))
    film_other = all_kinds(film(SOPInstanceUID="1.2.10"))
    uids = {
        uid
        for each in (one, other, film_other)
        for made in each.values()
        for uid in (made.SOPInstanceUID, made.SeriesInstanceUID)
    }
    assert len(uids) == 3 * 4 * 2
    assert all(pydicom.uid.UID(uid).is_valid for uid in uids)


def test_the_report_says_what_decided():
    original = film()
    made = all_kinds(original)["sr"]
    assert (made.VerificationFlag, made.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    said = texts(made)
    assert said["Verdict of the gate"] == ("LA011", "99LEADAPRON")
    assert said["Use"] == ("LA021", "99LEADAPRON")
    assert said["Share of clean films with as high a score"] == pytest.approx(1 / 301)
    assert said["Model's probability as read"] == pytest.approx(0.93)
    assert said["Model's probability without the region"] == pytest.approx(0.125)
    assert f"gate SHA-256: {'a' * 64}" in said["Algorithm Parameters"]
    assert f"model SHA-256: {'b' * 64}" in said["Algorithm Parameters"]
    (words,) = said["Comment"]
    assert "Research use only" in words
    assert "UNVERIFIED, PRELIMINARY" in words
    (study,) = made.CurrentRequestedProcedureEvidenceSequence
    (referred,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert referred.ReferencedSOPInstanceUID == original.SOPInstanceUID


def test_every_object_says_what_it_is_for():
    for kind, made in all_kinds(film()).items():
        assert "Research use only" in made.SeriesDescription
        assert made.DeviceSerialNumber == "2.25.7"
        if kind != "sr":
            assert made.Laterality in ("", None) if "Laterality" in made else kind == "seg"
    words = made_words(all_kinds(film())["gsps"])
    assert "suspicious (p 0.00332)" in words
    assert "UNVERIFIED, PRELIMINARY" in words


def made_words(state):
    return state.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue


@pytest.mark.parametrize(
    ("shape", "values", "made"),
    [
        ((240, 200), {}, PADDED),
        ((200, 240), {}, PADDED),
        ((120, 300), {}, replace(PADDED, aspect="crop", crop=0.6, size=40)),
        ((231, 173), {}, replace(PADDED, aspect="squash", crop=1.0, size=224)),
        ((150, 200), {"PixelSpacing": [0.2, 0.1]}, PADDED),
        ((150, 200), {"PixelAspectRatio": [3, 5]}, PADDED),
        ((150, 120), {}, replace(PADDED, film_size=400)),
    ],
)
def test_a_marked_pixel_of_the_film_lies_in_the_outline(tmp_path, shape, values, made):
    """Through decoder, crop, pad and resize to the model's input, and back."""
    row, column = shape[0] // 3, int(shape[1] * 0.6)
    stored = np.random.default_rng(0).integers(900, 1000, shape).astype(np.uint16)
    images = []
    for value in (0, 4095):
        stored[row, column] = value
        original = with_pixels(stored, BitsStored=12, SeriesInstanceUID="1.2.3", **values)
        path = write(tmp_path / f"{value}.dcm", original)
        images.append(FilmFiles([str(path)], window="full").image(0, made)[0].astype(int))
    at = np.unravel_index((images[1] - images[0]).argmax(), images[0].shape)
    region = Place(row=int(at[0]), column=int(at[1]), height=1, width=1)
    kinds = all_kinds(original, answered(region=region), replace(ABOUT, preprocessing=made))

    (outline,) = kinds["gsps"].GraphicAnnotationSequence[0].GraphicObjectSequence
    corners = np.reshape(outline.GraphicData, (-1, 2))
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    assert left <= column < right
    assert top <= row < bottom
    step = max(shape) * 2 / made.size + 2
    assert max(right - left, bottom - top) <= step
    (region,) = coordinates(kinds["sr"])
    assert region == pytest.approx(list(outline.GraphicData))
    pixels = kinds["seg"].pixel_array
    assert pixels.shape == shape
    assert np.argwhere(pixels)[[0, -1]].tolist() == [[top, left], [bottom - 1, right - 1]]


def coordinates(node):
    found = [list(node.GraphicData)] if node.get("ValueType") == "SCOORD" else []
    return found + [each for item in node.get("ContentSequence", ()) for each in coordinates(item)]


def test_a_presentation_state_shows_the_film_as_it_is():
    inverse = all_kinds(FILMS["MONOCHROME1"]())["gsps"]
    assert inverse.PresentationLUTShape == "INVERSE"
    assert inverse.SoftcopyVOILUTSequence[0].WindowCenter == 2000
    assert all_kinds(film())["gsps"].PresentationLUTShape == "IDENTITY"
    stretched = all_kinds(FILMS["not square"]())["gsps"]
    assert list(stretched.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio) == [
        2000,
        1000,
    ]
    (item,) = all_kinds(lookup())["gsps"].SoftcopyVOILUTSequence[0].VOILUTSequence
    assert list(item.LUTDescriptor) == [4096, 0, 16]
    entries = np.frombuffer(item.LUTData, "<u2")
    assert entries[[0, 1, 4095]].tolist() == [0, 16, 65535]  # spread over 16 bits
    rescaled = all_kinds(FILMS["rescaled"]())["gsps"]
    assert (rescaled.RescaleSlope, rescaled.RescaleIntercept) == (2, -100)
    assert rescaled.RescaleType == "US"


SHOWN = (
    "DX", "CR", "MONOCHROME1", "rescaled", "modality table", "two tables", "lookup table",
    "odd name",
)  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_dcmtk_shows_through_it_what_the_gate_decoded(name, tmp_path):
    """DCMTK's rendering by the presentation state is the decoder's, to one grey level or two."""
    if shutil.which("dcmp2pgm") is None:
        pytest.skip("needs dcmp2pgm (dcmtk)")
    original = FILMS[name]()
    path, state, picture = (tmp_path / each for each in ("film.dcm", "state.dcm", "shown.pgm"))
    path.write_bytes(as_file(original))
    state.write_bytes(as_file(all_kinds(original)["gsps"]))
    subprocess.run(["dcmp2pgm", "-p", state, path, picture], check=True, capture_output=True)
    shown = np.asarray(Image.open(picture)).astype(float)
    decoded = FilmFiles([str(path)])[0] / 257
    assert np.abs(shown - decoded).max() < 2
    assert np.ptp(shown) > 240


@pytest.mark.parametrize("word", LEVELS["screen"])
def test_each_verdict_has_its_code(word):
    answer = answered(word, region=None, finding=None, readings=(), p=None, reason="of that")
    report, state = objects.result_objects(film(), answer, ABOUT)
    assert texts(report)["Verdict of the gate"][0] in ("LA011", "LA012", "LA013")
    assert not coordinates(report)
    assert f"leadapron gate: {word}\r\nof that" in made_words(state)
    assert "GraphicObjectSequence" not in state.GraphicAnnotationSequence[0]


def test_what_cant_be_made_is_left_out():
    colour = with_pixels(np.zeros((20, 30, 3), np.uint8), SeriesInstanceUID="1.2.3")
    made = objects.result_objects(colour, answered(region=None), ABOUT, objects.KINDS)
    assert [each.Modality for each in made] == ["SR"]
    padding = Place(row=0, column=0, height=32, width=1)
    made = objects.result_objects(film(), answered(region=padding), ABOUT, objects.KINDS)
    assert [each.Modality for each in made] == ["SR", "PR"]


@pytest.mark.parametrize(
    "name", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Rows"]
)
def test_a_film_that_results_cant_refer_to_is_refused(name):
    with pytest.raises(FilmError, match=f"has no {name}"):
        objects.result_objects(without(film(), name), answered(), ABOUT)


def test_unknown_kinds_and_waiting_films_are_refused():
    with pytest.raises(UsageError, match="no result object pdf; expected sr, gsps, sc and seg"):
        objects.result_objects(film(), answered(), ABOUT, ("pdf",))
    with pytest.raises(UsageError, match="waits"):
        objects.result_objects(film(), replace(answered(), verdict=None), ABOUT)


def test_nothing_of_the_header_is_logged(caplog, capfd):
    odd = film(PatientName="DOEJOHN", PatientID="PAT-4711-X" * 12, PatientSex="DOE^JOHN")
    with caplog.at_level(logging.DEBUG):
        assert all_kinds(odd)["sr"].PatientID == "PAT-4711-X" * 12
    said = caplog.text + "".join(capfd.readouterr())
    assert not any(secret in said for secret in (*SECRETS, "DOEJOHN", odd.SOPInstanceUID))


def test_a_film_of_an_unknown_kind_has_no_results():
    with pytest.raises(FilmError, match=r"has no results \(KeyError\)") as caught:
        objects.result_objects(film(SOPClassUID="1.2.3.4.5"), answered(), ABOUT)
    assert caught.value.__cause__ is None
