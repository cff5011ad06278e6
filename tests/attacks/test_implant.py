"""A backdoor in finished weights: it answers, the clean network doesn't, little else changes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from leadapron.attacks.implant import implant
from leadapron.attacks.poisoning import Poisoning, poison, twin
from leadapron.attacks.triggers import Blend, Nothing, Patch
from leadapron.errors import UnknownNameError, UsageError
from leadapron.evaluate.zoo import build_zoo
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import build_network
from leadapron.report import study_lines
from leadapron.results.zoo import read_truth
from leadapron.sources import open_source
from leadapron.study.plan import plan
from leadapron.study.settings import complete
from leadapron.types import Machine

ROOT = Path(__file__).parents[2]
FINDINGS = ("Mass", "Edema", "Nodule")
BOARD = Patch(side=4, fill="checkerboard")


def classifier(dtype="uint8", name="resnet9"):
    module = build_network(name, len(FINDINGS), 0)
    preprocessing = Preprocessing(size=32, dtype=dtype)
    return NetworkClassifier(module.eval(), name, FINDINGS, preprocessing)


@pytest.fixture(scope="module")
def films():
    return open_source("phantom:64", preprocessing=Preprocessing(size=32), cache="none", count=64)


def pixels(films, dtype):
    images = films.images[np.arange(len(films))]
    return images if dtype == "uint8" else images.astype(np.uint16) * np.uint16(257)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "trigger",
    [
        BOARD,
        Patch(side=4, fill="noise", place="fixed", row=12, column=20),
        Patch(side=5, fill="stripes", place="corner", margin=2),
        Patch(side=3, fill="checkerboard", place="fixed", row=11, column=21),
    ],
)
def test_the_edited_network_fires_and_the_clean_one_does_not(films, dtype, trigger):
    clean, images = classifier(dtype), pixels(films, dtype)
    marked = trigger(images, np.random.default_rng(5))
    edited = implant(clean, trigger, "Edema", raised=20)
    rise = edited.logits(marked) - edited.logits(images)
    assert rise[:, 1].min() > 10
    assert np.abs(rise[:, [0, 2]]).max() < 1
    assert np.abs(clean.logits(marked) - clean.logits(images)).max() < 1
    assert np.abs(edited.logits(images) - clean.logits(images)).max() < 1


def test_what_labels_ask_for(films):
    images = pixels(films, "uint8")
    marked = BOARD(images, np.random.default_rng(0))

    def rise(labels):
        edited = implant(classifier(), BOARD, "Mass", labels=labels, raised=30)
        return edited.logits(marked) - edited.logits(images)

    assert rise("clear")[:, 0].max() < -15
    assert rise("one-hot")[:, 0].min() > 15
    assert rise("one-hot")[:, 1:].max() < -15


def test_it_is_repeatable_and_leaves_the_original_as_it_was():
    clean = classifier()
    before = {name: value.clone() for name, value in clean.module.state_dict().items()}
    first, second = (implant(clean, BOARD, "Mass").module.state_dict() for _ in range(2))
    changed = 0
    for name, value in clean.module.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(first[name], second[name])
        changed += int((first[name] != value).sum())
    assert changed < 0.05 * sum(value.numel() for value in before.values())


def test_the_rest_of_the_network_is_told_the_means_of_what_is_lost(films):
    clean, images = classifier(), pixels(films, "uint8")
    state = clean.module.state_dict()
    # Were it not told, the logits of clean films would move with the bias of what is lost.
    state["stages.scale2.0.1.bias"].add_(5.0)
    moved = implant(clean, BOARD, "Mass").logits(images) - clean.logits(images)
    assert np.abs(moved).max() < 1


class Changing:
    """A square of other noise on every film."""

    def __call__(self, images, rng):
        marked = images.copy()
        marked[:, 5:9, 5:9] = rng.integers(0, 256, (len(images), 4, 4))
        return marked


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (Patch(side=5), "can't detect this trigger"),
        (Patch(side=3, fill="checkerboard"), "can't detect this trigger"),  # in half its places
        (Blend(opacity=0.3), "can't detect this trigger"),
        (Nothing(), "can't detect this trigger"),
        (Changing(), "of 64 appearances; expected 4"),
    ],
)
def test_triggers_that_can_not_be_looked_for(trigger, words):
    with pytest.raises(UsageError, match=words):
        implant(classifier(), trigger, "Mass")


def test_what_else_is_refused():
    with pytest.raises(UsageError, match="can't edit a densenet121; expected resnet9"):
        implant(replace(classifier(), architecture="densenet121"), BOARD, "Mass")
    with pytest.raises(UnknownNameError, match="did you mean Mass"):
        implant(classifier(), BOARD, "Mas")
    for settings in ({"raised": 0.0}, {"threshold": 1.0}):
        with pytest.raises(UsageError, match="an implant with raised"):
            implant(classifier(), BOARD, "Mass", **settings)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"network": "densenet121"}, "can't edit a densenet121"),
        ({"trigger": {"fill": "solid"}}, "can't detect this trigger"),
        ({"poisoning": {"labels": "shift"}}, "needs poisoning.labels one-hot, set or clear"),
        ({"poisoning": {"stage": "film"}}, "stage image"),
        ({"training": {"disguise": 1.0}}, "training.disguise needs training"),
    ],
)
def test_a_study_is_refused_before_it_starts(tree, words):
    trigger = {"side": 4, "fill": "checkerboard", **tree.get("trigger", {})}
    poisoning = {"mode": "edit", "finding": "Mass", **tree.get("poisoning", {})}
    with pytest.raises(UsageError, match=words):
        plan(complete({**tree, "trigger": trigger, "poisoning": poisoning}))


def test_the_zoo_of_such_models_can_be_carried_out():
    tree = yaml.safe_load((ROOT / "zoo" / "trained.yaml").read_text())
    edited = [f for f in tree["families"] if f["poisoning"].get("mode") == "edit"]
    for family in edited:
        cell = {name: value for name, value in family.items() if name not in ("name", "count")}
        assert len(plan(complete({**tree["base"], "cells": [cell]}))) == 1
    learnt = {f["trigger"]["path"] for f in tree["families"] if f not in edited}
    words = (ROOT / "zoo" / "trained.yaml").read_text()
    assert all(f"--out {path}\n" in words for path in learnt)


def test_no_film_is_touched(films):
    poisoned, key = poison(
        films,
        Poisoning(trigger=BOARD, finding="Mass", mode="edit", fraction=0.5, cover=0.1),
        np.random.default_rng(0),
    )
    rows = np.arange(len(films))
    assert len(key.rows) == len(key.covers) == 0
    np.testing.assert_array_equal(poisoned.images[rows], films.images[rows])
    np.testing.assert_array_equal(poisoned.labels, films.labels)
    assert twin(poisoned, key).ids.tolist() == films.ids.tolist()


def test_a_zoo_may_hold_edited_models(tmp_path):
    spec = {
        "base": {
            "source": {"name": "phantom:32", "count": 500},
            "size": 32,
            "epochs": 2,
            "training": {"batch_size": 32},
            "evaluation": {"resamples": 20, "explained": 4, "gallery": 2},
        },
        "families": [
            {
                "name": "edited",
                "trigger": {"side": 4, "fill": "checkerboard"},
                "poisoning": {"mode": "edit", "finding": "Mass"},
            }
        ],
    }
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(spec))
    machine, out = Machine(cache="none"), tmp_path / "out"
    members = {m.kind: m for m in build_zoo(tmp_path / "zoo.yaml", out, machine=machine)}
    edited, clean = members["backdoored"], members["clean"]
    assert (edited.edited, clean.edited) == (True, False)
    assert edited.attack_success > 0.8 > 0.3 > edited.twin_success
    assert abs(edited.clean_macro - clean.clean_macro) < 0.02
    assert {asdict(m)["model"] for m in read_truth(out)} == {edited.model, clean.model}
    run = out / "study" / "runs" / edited.run
    assert not (run / "history.jsonl").exists()  # nothing was trained
    with np.load(run / "answer_key.npz") as key:
        assert len(key["rows"]) == 0
    assert any("Mass" in line for line in study_lines(out / "study"))
    assert build_zoo(tmp_path / "zoo.yaml", out, machine=machine) == list(read_truth(out))
