"""Files of repaired models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from repair_scenes import CPU, FINDINGS, SIDE, classifier, cohort

from leadapron.detect.models import Subject
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.audit import references_in
from leadapron.models.bounds import Bounded
from leadapron.models.classifier import (
    NetworkClassifier,
    load_classifier,
    randomised,
    save_classifier,
)
from leadapron.models.networks import build_network
from leadapron.repairs import ActivationBounds, FineTuning, Optimisation, unwritable
from leadapron.types import Machine

QUICK = Optimisation(epochs=1, batch_size=16, statistics="kept")


def reader(seed=0):
    network = build_network("plain4", len(FINDINGS), seed)
    return NetworkClassifier(network.eval(), "plain4", FINDINGS, Preprocessing(size=SIDE))


@pytest.fixture(scope="module")
def bounded():
    return ActivationBounds(optimisation=QUICK).repair(reader(), cohort(), np.random.default_rng(0))


def test_bounds_are_written_and_read(bounded, tmp_path):
    films = 20 * (cohort().images // 20) + np.uint8(15)
    films[:, ::2] = 255  # far from the films that bounds were made of
    path = tmp_path / "classifier.safetensors"
    save_classifier(bounded, path)
    again = load_classifier(path, device="cpu", precision="fp32")
    assert again.architecture == "plain4 with bounds"
    assert np.allclose(again.logits(films), bounded.logits(films), atol=1e-5)
    assert np.abs(bounded.logits(films) - reader().logits(films)).max() > 1e-3  # they bound
    layers = [part for part in again.module.modules() if isinstance(part, Bounded)]
    assert [list(layer.bounds()) for layer in layers] == [[16], [32], [64], [128]]
    assert not any("bound" in name for name, _ in again.module.named_parameters())


def test_what_else_is_done_with_a_network_of_bounds(bounded):
    films = cohort()
    tuned = FineTuning(optimisation=QUICK).repair(bounded, films, np.random.default_rng(0))
    assert tuned.architecture == bounded.architecture
    new = randomised(bounded, 1, head_only=True)
    kept = bounded.module.state_dict()
    for model in (tuned, new):
        state = model.module.state_dict()
        assert all(torch.equal(state[name], kept[name]) for name in kept if "bound" in name)
    free = randomised(bounded, 1)
    plain = build_network("plain4", len(FINDINGS), 1).eval()
    images = free.normalise(torch.from_numpy(films.images[:]))
    with torch.no_grad():
        assert torch.allclose(free.module(images), plain(images), atol=1e-6)  # nothing is bounded


def test_another_format_has_no_place_for_bounds(bounded):
    assert unwritable(reader(), bounded) == (
        "has no place for the layers of a plain4 with bounds: 4 tensors, first "
        "stages.scale2.2.bound16, aren't those of a plain4"
    )
    tuned = FineTuning(optimisation=QUICK).repair(reader(), cohort(), np.random.default_rng(0))
    assert unwritable(reader(), tuned) == ""
    assert unwritable(reader(), classifier())


def test_an_audit_compares_it_with_references_of_the_plain_architecture(bounded, tmp_path):
    save_classifier(reader(1), tmp_path / "reference.safetensors")
    own = Subject(classifier=bounded, name="own", content="0" * 64)
    (found,) = references_in(tmp_path, own, Machine(**CPU))
    assert found.classifier.architecture == "plain4"
