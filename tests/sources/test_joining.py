"""Several sources as one."""

from __future__ import annotations

import numpy as np
import pytest

from leadapron.errors import DataError, UnknownNameError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source
from leadapron.sources.joining import join
from leadapron.study.plan import plan
from leadapron.study.settings import complete
from leadapron.types import said
from nih_tree import ROWS, write_tree

SMALL = Preprocessing(size=8)


def cohort(n=3, findings=("Edema", "Pleural Effusion"), size=8, **columns):
    rng = np.random.default_rng(n)
    return Cohort(
        images=rng.integers(0, 255, (n, size, size), np.uint8),
        labels=np.eye(n, len(findings), dtype=np.float32),
        findings=tuple(findings),
        ids=np.array([f"film{i}" for i in range(n)]),
        patients=np.array([f"p{i // 2}" for i in range(n)]),
        preprocessing=Preprocessing(size=size),
        **columns,
    )


def test_findings_are_matched_by_synonyms_and_unknown_ones_are_not_stated():
    one, two = cohort(3), cohort(2, ("Effusion", "Mass"))

    both = join([one, two], ["a", "b"])

    assert both.findings == ("Edema", "Effusion", "Mass")
    np.testing.assert_array_equal(both.labels[:3, :2], one.labels)
    np.testing.assert_array_equal(both.labels[3:, 1:], two.labels)
    assert np.isnan(both.labels[:3, 2]).all()
    assert np.isnan(both.labels[3:, 0]).all()


def test_films_stay_in_order_and_apart():
    one, two = cohort(3), cohort(2)

    both = join([one, two], ["a", "a"])

    assert both.ids.tolist() == ["a-1/film0", "a-1/film1", "a-1/film2", "a-2/film0", "a-2/film1"]
    assert len(set(both.patients)) == 3
    assert both.attributes["site"].tolist() == ["a-1"] * 3 + ["a-2"] * 2
    rows = np.array([4, 0, 3, 2])
    expected = np.concatenate([one.images, two.images])[rows]
    np.testing.assert_array_equal(both.images[rows], expected)
    np.testing.assert_array_equal(both.take(rows).images[:], expected)
    np.testing.assert_array_equal(both.images[4], two.images[1])


def test_attributes_that_one_lacks_are_unknown_and_a_split_needs_all():
    split, age = np.array(["train", "test", "train"]), np.array([40.0, 50.0, np.nan])
    one = cohort(3, attributes={"split": split, "age": age, "site": np.array(["x", "", "y"])})
    two = cohort(2, attributes={"view": np.array(["PA", "AP"])})

    both = join([one, two], ["a", "b"])

    assert "split" not in both.attributes
    assert "No split, since b has none." in said(both.notes)
    assert both.attributes["site"].tolist() == ["a/x", "a", "a/y", "b", "b"]
    assert both.attributes["view"].tolist() == ["", "", "", "PA", "AP"]
    np.testing.assert_array_equal(both.attributes["age"], [40, 50, np.nan, np.nan, np.nan])
    kept = join([one, one], ["a", "b"])
    assert kept.attributes["split"].tolist() == [*split, *split]


def test_images_of_other_sizes_are_refused():
    with pytest.raises(DataError, match="images differ in size or type; give `size`"):
        join([cohort(size=8), cohort(size=9)], ["a", "b"])


def test_sources_with_a_plus_between_them_are_joined(tmp_path):
    tree = write_tree(tmp_path)
    name = f"nih:{tree} + phantom:64"

    both = open_source(name, preprocessing=SMALL, cache="none", count=4)

    assert len(both) == len(ROWS) + 4
    assert both.findings[:2] == ("Atelectasis", "Cardiomegaly")
    assert len(both.findings) == 14
    alone = open_source(f"nih:{tree}", preprocessing=SMALL, cache="none")
    np.testing.assert_array_equal(both.images[: len(ROWS)], alone.images)
    assert both.films is not None
    np.testing.assert_array_equal(both.films[len(ROWS) - 1], alone.films[len(ROWS) - 1])
    assert both.films[len(ROWS)].shape == (64, 64)


def test_a_study_may_join_sources(tmp_path):
    tree = write_tree(tmp_path)
    spec = {"source": {"name": f"nih:{tree} + phantom:64", "count": 4}}

    (run,) = plan(complete(spec))

    assert run.tree["source"]["count"] == 4
    assert run.tree["source"]["split"] is None
    with pytest.raises(UnknownNameError, match="setting of source 'cout'"):
        plan(complete({"source": {"name": f"nih:{tree} + phantom", "cout": 4}}))
    with pytest.raises(UnknownNameError, match="unknown source 'fantom'"):
        plan(complete({"source": f"nih:{tree} + fantom"}))
