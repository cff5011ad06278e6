"""Published releases of chest radiographs, each in its original layout.

See docs/reference/releases.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from leadapron.sources.releases import (
    chexpert,
    covidx,
    mimic_cxr,
    padchest,
    rsna_pneumonia,
    siim_pneumothorax,
    vindr_cxr,
)
from leadapron.sources.releases.layout import Release

__all__ = ["RELEASES"]

RELEASES: Mapping[str, Release] = {
    "chexpert": chexpert.RELEASE,
    "mimic-cxr": mimic_cxr.RELEASE,
    "padchest": padchest.RELEASE,
    "vindr-cxr": vindr_cxr.RELEASE,
    "rsna-pneumonia": rsna_pneumonia.RELEASE,
    "siim-pneumothorax": siim_pneumothorax.RELEASE,
    "covidx": covidx.RELEASE,
}
"""Facts of each, by the source's name."""
