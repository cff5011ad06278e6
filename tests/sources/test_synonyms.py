from __future__ import annotations

import numpy as np
import pytest

from leadapron.errors import DataError
from leadapron.sources import nih
from leadapron.sources.releases import chexpert, rsna_pneumonia, siim_pneumothorax, vindr_cxr
from leadapron.sources.synonyms import SYNONYMS, aligned, canonical


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("Pleural Effusion", "Effusion"),
        ("Pleural effusion", "Effusion"),
        ("pleural effusion", "Effusion"),
        ("Pleural Thickening", "Pleural_Thickening"),
        ("pleural", "Pleural_Thickening"),
        ("Infiltrate", "Infiltration"),
        ("infiltrates", "Infiltration"),
        ("hiatal hernia", "Hernia"),
        ("edema", "Edema"),
        ("lung opacity", "Lung Opacity"),
        ("Enlarged_Cardiomediastinum", "Enlarged Cardiomediastinum"),
        ("pulmonary mass", "pulmonary mass"),
        ("Non-COVID-19 Pneumonia", "Non-COVID-19 Pneumonia"),
        ("of my own", "of my own"),
    ],
)
def test_canonical(name, one):
    assert canonical(name) == one
    assert canonical(one) == one


def test_nih_names_stay():
    assert tuple(map(canonical, nih.FINDINGS)) == nih.FINDINGS


def test_entries_agree():
    for entries in SYNONYMS.values():
        for name, one in entries.items():
            assert canonical(name) == one


def test_releases_join():
    lists = [
        nih.FINDINGS, chexpert.FINDINGS, vindr_cxr.FINDINGS, rsna_pneumonia.FINDINGS,
        siim_pneumothorax.FINDINGS, [name.lower() for name in nih.FINDINGS],
    ]  # fmt: skip
    union, places = aligned(lists)
    assert union[:14] == nih.FINDINGS
    assert len(set(union)) == len(union)
    assert places[0] == places[5] == tuple(range(14))
    assert union[places[1][chexpert.FINDINGS.index("Pleural Effusion")]] == "Effusion"
    assert union[places[4][0]] == "Pneumothorax"


def test_aligned_labels_state_what_the_source_states():
    union, places = aligned([["Mass", "Effusion"], ["Pleural Effusion", "Fracture"]])
    assert union == ("Mass", "Effusion", "Fracture")
    labels = np.full((1, 3), np.nan)
    labels[:, places[1]] = [[1, 0]]
    np.testing.assert_array_equal(labels, [[np.nan, 1, 0]])
    assert aligned([]) == ((), [])


def test_two_columns_that_mean_the_same():
    with pytest.raises(DataError, match="'Effusion' and 'pleural effusion' of one source both"):
        aligned([["Mass"], ["Effusion", "pleural effusion"]])
