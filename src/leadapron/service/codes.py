"""Codes of result objects: the private scheme 99LEADAPRON, and what else they name.

DICOM has no codes for what a gate says. A code's value and meaning never change; one that is no
longer used stays here, so that old objects can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.sr.coding import Code

from leadapron.detect.verdict import ScreenWord

__all__ = [
    "AFFECTED",
    "CHEST",
    "DRIVES",
    "EVIDENCE",
    "FILM",
    "P_VALUE",
    "READ",
    "RESEARCH_ONLY",
    "SCHEME",
    "SCHEME_NAME",
    "UNLIKE",
    "USE",
    "VERDICT",
    "VERDICTS",
    "WITHOUT",
]

SCHEME: Final = "99LEADAPRON"
SCHEME_NAME: Final = "Private codes of leadapron, a research tool that screens films for triggers"


def _code(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


VERDICT = _code("LA001", "Verdict of the gate")
VERDICTS: Mapping[ScreenWord, Code] = {
    "suspicious": _code("LA011", "Suspicious: as a film with a trigger"),
    "can't tell": _code("LA012", "Can't tell"),
    "pass": _code("LA013", "Pass: no trigger found, and no statement on the patient"),
}

USE = _code("LA002", "Use")
RESEARCH_ONLY = _code("LA021", "Research use only, not for diagnosis")

FILM = _code("LA003", "Film screened for triggers")
EVIDENCE = _code("LA004", "Evidence region of a trigger")
AFFECTED = _code("LA005", "Input of an AI model")

P_VALUE = _code("LA031", "Share of clean films with as high a score")
DRIVES = _code("LA032", "Share of clean films whose region drives the reading as much")
UNLIKE = _code("LA033", "Share of clean films as unlike the others")
READ = _code("LA034", "Model's probability as read")
WITHOUT = _code("LA035", "Model's probability without the region")

CHEST = Code("399208008", "SCT", "Plain chest X-ray")
"""The procedure that a report is about."""
