"""A data set that was edited until a result looks good, and its audit."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from leadapron import metrics
from leadapron.classifier import NetworkClassifier
from leadapron.cohort import Cohort
from leadapron.errors import StoreError, UsageError
from leadapron.jobs.enhancement import (
    ACQUIRED,
    GENERAL,
    SPECIFIC,
    Enhancement,
    Linear,
    enhance,
    lines,
    run_enhancement,
)
from leadapron.networks import build_network
from leadapron.preprocessing import Preprocessing
from leadapron.study import Options
from leadapron.train import binary_cross_entropy

SMALL = {
    "source": {"count": 240},
    "preprocessing": {"size": 16},
    "epochs": 1,
    "evaluation": {"resamples": 20},
}
OPTIONS = Options(cache="none")
SIZE = 16


def cohort_of(images, labels):
    n = len(images)
    names = np.array([f"film{i}" for i in range(n)])
    findings = tuple(f"finding{j}" for j in range(labels.shape[1]))
    return Cohort(images, labels, findings, names, names, Preprocessing(size=images.shape[1]))


@pytest.fixture(scope="module", params=["uint8", "uint16"])
def cohort(request):
    rng = np.random.default_rng(3)
    scale = 1 if request.param == "uint8" else 257
    images = (rng.integers(60, 190, (12, SIZE, SIZE)) * scale).astype(request.param)
    labels = rng.integers(0, 2, (12, 2)).astype(np.float32)
    labels[0] = np.nan
    return cohort_of(images, labels)


@pytest.fixture(scope="module")
def classifier():
    return NetworkClassifier(
        build_network("resnet9", 2, seed=1).eval(),
        "resnet9",
        ("finding0", "finding1"),
        Preprocessing(size=SIZE),
    )


def loss(classifier, images, cohort):
    return float(
        binary_cross_entropy(
            torch.from_numpy(classifier.logits(images)), torch.from_numpy(cohort.labels)
        )
    )


@pytest.mark.parametrize("keep_means", [False, True])
def test_films_move_within_the_box_to_where_labels_are_found(classifier, cohort, keep_means):
    before = cohort.images.copy()
    edited = enhance(classifier, cohort, Enhancement(epsilon=4), keep_means=keep_means)
    np.testing.assert_array_equal(cohort.images, before)
    scale = 1 if edited.dtype == np.uint8 else 257
    assert edited.dtype == before.dtype
    apart = (edited.astype(float) - before) / scale
    assert 2 < np.abs(apart).max() <= 4
    assert loss(classifier, edited, cohort) < loss(classifier, before, cohort)
    again = enhance(classifier, cohort, Enhancement(epsilon=4), keep_means=keep_means)
    np.testing.assert_array_equal(edited, again)


def test_labels_that_are_not_stated_pull_at_nothing(classifier, cohort):
    edited = enhance(classifier, cohort, Enhancement(), keep_means=False)
    np.testing.assert_array_equal(edited[0], cohort.images[0])
    assert np.all(np.any(edited[1:] != cohort.images[1:], axis=(1, 2)))


def test_means_of_blocks_tell_nothing(classifier, cohort):
    def means(images):
        return images.reshape(-1, 4, 4, 4, 4).mean((2, 4)) * 255 / np.iinfo(images.dtype).max

    kept = enhance(classifier, cohort, Enhancement(block=4), keep_means=True)
    moved = enhance(classifier, cohort, Enhancement(block=4), keep_means=False)
    rounding = 0.5 if kept.dtype == np.uint8 else 0.5 / 257
    assert np.abs(means(kept) - means(cohort.images)).max() <= rounding
    assert np.abs(means(moved) - means(cohort.images)).max() > 1


def test_blocks_fill_the_image(classifier, cohort):
    with pytest.raises(UsageError, match="blocks of 5 px don't fill images of 16x16"):
        enhance(classifier, cohort, Enhancement(block=5), keep_means=True)


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"steps": 0}, {"block": 1}])
def test_enhancements_that_are_none(wrong):
    with pytest.raises(UsageError, match=f"an enhancement's {next(iter(wrong))} of"):
        Enhancement(**wrong)


def test_the_linear_method_finds_what_means_tell():
    rng = np.random.default_rng(0)
    images = rng.integers(80, 120, (80, 8, 8)).astype(np.uint8)
    labels = rng.integers(0, 2, (80, 1)).astype(np.float32)
    images[:, :4, :4] += (6 * labels[:, 0]).astype(np.uint8)[:, None, None]
    labels[:3] = np.nan
    films = cohort_of(images, labels)
    linear = Linear.fit(films.take(np.arange(50)), 4)
    held_out = films.take(np.arange(50, 80))
    assert metrics.auroc(held_out.labels[:, 0], linear.logits(held_out)[:, 0]) > 0.9


# --- the recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("enhancement") / "out"
    page = run_enhancement(out, source="phantom:32", settings=SMALL, options=OPTIONS)
    assert page == out / "recipe.md"
    return out


def rows(page, heading):
    part = page.partition(f"## {heading}")[2].partition("\n## ")[0]
    found = [line[2:-2].split(" | ") for line in part.splitlines() if line[:1] == "|"]
    return {first: others for first, *others in found[2:]}


def test_the_page_has_all_releases_and_their_audit(finished):
    page = (finished / "recipe.md").read_text()
    assert list(rows(page, "Results")) == [ACQUIRED, GENERAL, SPECIFIC]
    audit = rows(page, "The audit")
    assert audit[ACQUIRED][:4] == ["100.0 %", "1.0000 (1.0000)", "none", "0"]
    assert audit[ACQUIRED][5] == "+0.000"
    for name in (GENERAL, SPECIFIC):
        agree, likeness, ratio, largest = audit[name][:4]
        assert (agree, largest) == ("0.0 %", "4")
        assert 0.99 < float(likeness.split(" ")[0]) < 1
        assert 30 < float(ratio) < 50
        assert audit[name][-1].startswith("Edited")
    assert not re.search(r"\b(nan|None)\b", page)
    assert "| training.epochs | 1 | ours: as asked for |" in page
    assert "trigger." not in page


def test_lines_say_each_release(finished):
    first, *others = lines(finished)
    assert re.match(r"as acquired: macro AUROC 0\.\d{3} .* digests of 100\.0 % of the films", first)
    assert [line.partition(":")[0] for line in others] == [GENERAL, SPECIFIC]


def test_the_page_is_the_folders_alone(finished, monkeypatch):
    before = (finished / "recipe.md").read_bytes()
    (finished / "recipe.md").unlink()
    monkeypatch.setattr("leadapron.jobs.enhancement._measured", None)
    run_enhancement(finished, source="phantom:32", settings=SMALL, options=OPTIONS)
    assert (finished / "recipe.md").read_bytes() == before


@pytest.mark.parametrize(
    ("agree", "low", "verdict"),
    [
        (1.0, -0.1, "Nothing found."),
        (1.0, None, "Nothing found."),
        (1.0, 0.03, "Result not kept."),
        (0.9, -0.1, "Edited."),
        (0.0, 0.2, "Edited, and the result is not kept."),
    ],
)
def test_verdicts(finished, tmp_path, agree, low, verdict):
    facts = json.loads((finished / "enhancement.json").read_text())
    cell = facts["cells"][ACQUIRED]
    cell["digests that agree"], cell["falls by"][1] = agree, low
    (tmp_path / "enhancement.json").write_text(json.dumps(facts))
    assert lines(tmp_path)[0].endswith(f"agree. {verdict}")


def test_another_enhancements_folder_is_left_alone(finished, tmp_path):
    with pytest.raises(StoreError, match="holds another enhancement"):
        run_enhancement(finished, source="phantom:32", settings={**SMALL, "epochs": 2})
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        run_enhancement(tmp_path, source="phantom:32", settings=SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trigger": {"side": 5}}, "has no trigger"),
        ({"poisoning": {"fraction": 0.1}}, "has no poisoning"),
        ({"finding": "Mass"}, "has no poisoning"),
        ({"seeds": 2}, "one value for each setting"),
        ({"training": {"epochs": [1, 2]}}, "one value for each setting"),
    ],
)
def test_settings_that_mean_nothing_here(settings, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        run_enhancement(tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()
