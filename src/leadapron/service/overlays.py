"""The evidence region to look at: presentation state, picture and segmentation."""

from __future__ import annotations

import io

import numpy as np
from highdicom import PresentationLUTTransformation, pr, sc, seg
from highdicom.enum import CoordinateSystemNames, PresentationLUTShapeValues
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from leadapron.report.screen import overlay_png
from leadapron.service.codes import EVIDENCE
from leadapron.service.reports import corners
from leadapron.service.results import Result

__all__ = ["presentation_state", "secondary_capture", "segmentation"]

LAYER = "LEADAPRON"

TEXT_BOX = (0.02, 0.02, 0.6, 0.2)
"""Left, top, right and bottom of the words, as shares of the display."""

LETTERS, SPACE = 14, 6
"""Height of letters on a picture, and space around lines, in pixels."""

FRAME_COLOUR = (79, 227, 255)


def presentation_state(result: Result) -> Dataset | None:
    """Return a GSPS: the region's outline and the words, over the film as it is shown.

    Args:
        result: the judged film.

    Returns:
        The object; None for a film in colour.
    """
    original = result.original
    if not original.photometric:
        return None
    layer = pr.GraphicLayer(LAYER, order=1, description="Research use only")
    outlines = []
    if result.region is not None:
        outlines.append(
            pr.GraphicObject(
                graphic_type=pr.GraphicTypeValues.POLYLINE,
                graphic_data=corners(result.region),
                units=pr.AnnotationUnitsValues.PIXEL,
                tracking_id="evidence region",
                tracking_uid=result.uid("gsps", "region"),
            )
        )
    words = pr.TextObject(
        text_value="\r\n".join(result.lines)[:1024],
        units=pr.AnnotationUnitsValues.DISPLAY,
        bounding_box=TEXT_BOX,
        text_justification=pr.TextJustificationValues.LEFT,
    )
    inverse = original.photometric == "MONOCHROME1"
    shape = PresentationLUTShapeValues.INVERSE if inverse else PresentationLUTShapeValues.IDENTITY
    made = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[original.header],
        content_label="TRIGGER SCREEN",
        content_description="Research use only: evidence of a trigger",
        graphic_layers=[layer],
        graphic_annotations=[
            pr.GraphicAnnotation(
                [original.header], layer, graphic_objects=outlines or None, text_objects=[words]
            )
        ],
        presentation_lut_transformation=PresentationLUTTransformation(shape),
        **result.naming("gsps", "evidence over the film"),
    )
    made.update(original.modality)
    if original.voi:
        made.SoftcopyVOILUTSequence = [original.voi]
    height, width = original.aspect
    made.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio = [height, width]
    made.Laterality = original.header.Laterality
    return result.finished(made)


def secondary_capture(result: Result) -> Dataset | None:
    """Return a picture of the model's input with the region framed, and the words above it.

    Args:
        result: the judged film.

    Returns:
        The object; None if the model's input isn't known.
    """
    if result.image is None:
        return None
    made = sc.SCImage.from_ref_dataset(
        ref_dataset=result.original.header,
        pixel_array=_drawn(result),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system=CoordinateSystemNames.PATIENT,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_orientation=("L", "F"),  # it wants one; the film's follows
        **result.naming("sc", "the model's input"),
    )
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BurnedInAnnotation = "YES"
    made.DerivationDescription = "The model's input, enlarged; words and a frame are burnt in"
    header, source = result.original.header, Dataset()
    source.ReferencedSOPClassUID = header.SOPClassUID
    source.ReferencedSOPInstanceUID = header.SOPInstanceUID
    made.SourceImageSequence = [source]
    made.PatientOrientation, made.Laterality = header.PatientOrientation, header.Laterality
    return result.finished(made)


def segmentation(result: Result) -> Dataset | None:
    """Return the region as pixels of the film.

    Args:
        result: the judged film.

    Returns:
        The object; None without a region.
    """
    original, region = result.original, result.region
    if region is None:
        return None
    mask = np.zeros((original.rows, original.columns), np.uint8)
    mask[region.row : region.row + region.height, region.column : region.column + region.width] = 1
    made = seg.Segmentation(
        source_images=[original.header],
        pixel_array=mask,
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            seg.SegmentDescription(
                segment_number=1,
                segment_label="Evidence region of a trigger",
                segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
                segmented_property_type=EVIDENCE,
                algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=result.algorithm(),
                tracking_uid=result.uid("seg", "region"),
                tracking_id="evidence region",
            )
        ],
        content_label="TRIGGER SCREEN",
        content_description="Research use only: evidence of a trigger",
        **result.naming("seg", "evidence region"),
    )
    made.PatientOrientation = original.header.PatientOrientation
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = result.uid("seg", "dimensions")
    return result.finished(made)


def _drawn(result: Result) -> np.ndarray:
    """The picture, (height, width, 3) uint8."""
    assert result.image is not None
    content = overlay_png(result.image, result.decision.region)
    picture = Image.open(io.BytesIO(content))
    font = ImageFont.load_default(LETTERS)
    lines = [
        line for words in result.lines for line in _wrapped(words, font, picture.width - 2 * SPACE)
    ]
    step = LETTERS + SPACE
    whole = Image.new("RGB", (picture.width, picture.height + step * len(lines) + 2 * SPACE))
    whole.paste(picture, (0, whole.height - picture.height))
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        draw.text((SPACE, SPACE + number * step), line, font=font, fill=FRAME_COLOUR)
    return np.asarray(whole)


def _wrapped(
    words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """Lines of words that are no wider than `width` pixels."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
