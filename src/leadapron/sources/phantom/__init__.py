"""Parametric chest radiographs with 14 findings: no download, no patients, known truth."""

from leadapron.sources.phantom.batch import Described, Rendered, describe_rows, render
from leadapron.sources.phantom.film import MASKS
from leadapron.sources.phantom.people import (
    AP_OTHERWISE,
    AP_WITH_EDEMA,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    FINDINGS,
    TUBE_OTHERWISE,
    TUBE_WITH_PNEUMOTHORAX,
)
from leadapron.sources.phantom.source import PhantomFilms, PhantomMasks, open_phantom

__all__ = [
    "AP_OTHERWISE",
    "AP_WITH_EDEMA",
    "FALSE_NEGATIVE",
    "FALSE_POSITIVE",
    "FINDINGS",
    "MASKS",
    "TUBE_OTHERWISE",
    "TUBE_WITH_PNEUMOTHORAX",
    "Described",
    "PhantomFilms",
    "PhantomMasks",
    "Rendered",
    "describe_rows",
    "open_phantom",
    "render",
]
