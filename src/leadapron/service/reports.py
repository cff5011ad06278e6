"""The structured report: a Comprehensive 3D SR by TID 1500 (PS3.16)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from leadapron.service.codes import (
    CHEST,
    DRIVES,
    EVIDENCE,
    FILM,
    P_VALUE,
    READ,
    RESEARCH_ONLY,
    UNLIKE,
    USE,
    VERDICT,
    VERDICTS,
    WITHOUT,
)
from leadapron.service.results import MAKER, TOOL, Result
from leadapron.types import Place

__all__ = ["corners", "structured_report"]

Group: TypeAlias = (
    sr.MeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations
)


def structured_report(result: Result) -> Dataset:
    """Return the report: verdict, p, region, readings, and what decided.

    Args:
        result: the judged film.
    """
    region = result.region
    groups: list[Group] = [_of_film(result)]
    if region is not None:
        groups.append(_of_region(result, region))
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                    uid=result.about.device, name=TOOL, manufacturer_name=MAKER, model_name=TOOL
                ),
            )
        ),
        procedure_reported=CHEST,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return result.finished(
        sr.Comprehensive3DSR(
            evidence=[result.original.header],
            content=report,
            is_complete=True,
            is_final=False,  # PRELIMINARY
            is_verified=False,  # UNVERIFIED
            **result.naming("sr", "film screened for triggers"),
        )
    )


def corners(place: Place) -> np.ndarray:
    """Return (5, 2) columns and rows of a rectangle's outline, closed.

    Coordinates count from the upper left corner of the film's first pixel, so that a rectangle ends
    behind its last pixel.

    Args:
        place: the rectangle.
    """
    left, top = place.column, place.row
    right, bottom = left + place.width, top + place.height
    outline = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.asarray(outline, np.float64)


def _of_film(result: Result) -> sr.MeasurementsAndQualitativeEvaluations:
    """What is said of the whole film."""
    header, decision = result.original.header, result.decision
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(result, "film"),
        finding_type=FILM,
        algorithm_id=_algorithm(result),
        measurements=_shares(
            (P_VALUE, decision.p), (DRIVES, decision.drives), (UNLIKE, decision.unlike)
        ),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(VERDICT, VERDICTS[result.word]),
            sr.QualitativeEvaluation(USE, RESEARCH_ONLY),
        ],
        source_images=[
            sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)
        ],
    )
    group[0].ContentSequence.append(
        sr.TextContentItem(
            name=codes.DCM.Comment,
            value="\r\n".join(result.lines),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
    )
    return group


def _of_region(result: Result, region: Place) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """What is said of the evidence region: where it is, and what the model reads without it."""
    header, finding = result.original.header, result.decision.finding
    read = next((each for each in result.decision.readings if each.finding == finding), None)
    known = () if read is None else ((READ, read.probability), (WITHOUT, read.without))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(
            result, "region" if finding is None else f"region, {finding}"
        ),
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=corners(region),
            source_image=sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID),
        ),
        finding_type=EVIDENCE,
        algorithm_id=_algorithm(result),
        measurements=_shares(*known),
        qualitative_evaluations=[sr.QualitativeEvaluation(USE, RESEARCH_ONLY)],
    )


def _tracking(result: Result, part: str) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=result.uid("sr", part), identifier=f"{TOOL}: {part}")


def _algorithm(result: Result) -> sr.AlgorithmIdentification:
    said = result.about.parameters.items()
    return sr.AlgorithmIdentification(
        name=TOOL,
        version=result.about.version,
        parameters=[f"{name}: {value}" for name, value in said],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MAKER,
    )


def _shares(*values: tuple[Code, float | None]) -> list[sr.Measurement]:
    """Numbers from 0 to 1; unknown ones are left out."""
    return [
        sr.Measurement(name=name, value=value, unit=codes.UCUM.NoUnits)
        for name, value in values
        if value is not None
    ]
