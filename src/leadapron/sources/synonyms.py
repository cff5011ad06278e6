"""Synonyms of findings in different releases, so that cohorts can be joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leadapron.errors import DataError
from leadapron.sources import nih
from leadapron.sources.releases import chexpert

__all__ = ["SYNONYMS", "aligned", "canonical"]

SYNONYMS: Mapping[str, Mapping[str, str]] = {
    # CheX_Dataset and MIMIC_Dataset; VinBrain_Dataset says the same of "Pleural effusion".
    "torchxrayvision, CheXpert and MIMIC-CXR": {"Pleural Effusion": "Effusion"},
    # PC_Dataset finds the NIH name within PadChest's; only names that stand for one finding are
    # here, so "pulmonary mass" and "laminar atelectasis" stay apart from "mass" and "atelectasis".
    "torchxrayvision, PadChest": {
        "infiltrates": "Infiltration",
        "pulmonary edema": "Edema",
        "pulmonary fibrosis": "Fibrosis",
        "hiatal hernia": "Hernia",
    },
    "torchxrayvision, OpenI": {"Infiltrate": "Infiltration", "Atelectases": "Atelectasis"},
    "torchxrayvision, Google's NIH labels": {
        "Airspace opacity": "Lung Opacity",
        "Nodule or mass": "Nodule/Mass",
    },
    "NIH, BBox_List_2017.csv": {"Infiltrate": "Infiltration"},
    "MedMNIST, info.py": {"pleural": "Pleural_Thickening"},
}
"""Synonymous names of findings, by the publication that equates them.

Spellings that differ only in case, underscores and blanks need no entry. Labelling criteria still
differ between releases: the same name doesn't guarantee the same definition.
"""


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


_CANONICAL = {
    **{_plain(name): name for name in (*chexpert.FINDINGS, *nih.FINDINGS)},
    **{_plain(name): to for entries in SYNONYMS.values() for name, to in entries.items()},
    **{_plain(to): to for entries in SYNONYMS.values() for to in entries.values()},
}


def canonical(name: str) -> str:
    """Return the one name of a finding: NIH's where it has one, else CheXpert's; itself if unknown.

    "Pleural Effusion" gives "Effusion", "pleural thickening" gives "Pleural_Thickening".
    """
    return _CANONICAL.get(_plain(name), name)


def aligned(
    findings: Sequence[Sequence[str]],
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Return the common findings of several sources, and the position of each source's columns.

    Args:
        findings: of each source, its columns' names.

    Returns:
        The k canonical names in order of their first appearance; and for each source, the place
        among them of each of its columns, so that with labels (n, k) of NaN,
        `labels[:, places] = source.labels` states what the source states and no more.

    Raises:
        DataError: two columns of one source that are synonyms.
    """
    union: dict[str, int] = {}
    places = []
    for names in findings:
        seen: dict[str, str] = {}
        for name in names:
            one = canonical(name)
            if one in seen:
                raise DataError(
                    f"findings {seen[one]!r} and {name!r} of one source both mean {one!r}; "
                    "leave one out or rename it"
                )
            seen[one] = name
            union.setdefault(one, len(union))
        places.append(tuple(union[one] for one in seen))
    return tuple(union), places
