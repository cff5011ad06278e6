"""Classifiers: what they answer, and what their files hold."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from leadapron.errors import StoreError, UsageError
from leadapron.films.cohort import Overlay
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import classifier as module
from leadapron.models.classifier import (
    FORMAT,
    BlackBox,
    Differentiable,
    NetworkClassifier,
    WhiteBox,
    in_batches,
    load_classifier,
    resolve_device,
    resolve_precision,
    save_classifier,
    squashed,
)
from leadapron.models.networks import GREY_MEAN, GREY_STD, build_network

FINDINGS = ("Effusion", "Mass", "Nodule")
CPU = torch.device("cpu")
ASKED = ("logits", "probabilities", "features", "activations")


def make(architecture="resnet9", size=32, **facts):
    network = build_network(architecture, len(FINDINGS), seed=3)
    # A fresh head answers all alike; a steeper one makes the comparisons mean something.
    with torch.no_grad():
        network.head.weight.mul_(20)
    facts = {"preprocessing": Preprocessing(size=size), **facts}
    return NetworkClassifier(network.eval(), architecture, FINDINGS, **facts)


@pytest.fixture(scope="module")
def classifier():
    return make()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32), np.uint8)


@pytest.fixture
def saved(classifier, tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_classifier(classifier, path)
    return path


def parts(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def members(protocol):
    return {name for name in dir(protocol) if not name.startswith("_")}


def test_it_offers_what_the_protocols_ask_for(classifier):
    assert members(BlackBox) < members(WhiteBox) < members(Differentiable)
    for name in members(Differentiable):
        asked, offered = getattr(Differentiable, name), getattr(classifier, name)
        if inspect.isfunction(asked):
            names = [list(inspect.signature(f).parameters) for f in (asked, offered)]
            assert names[0] == ["self", *names[1]]
    assert members(Differentiable) >= {"findings", "head", "module", "normalise", *ASKED}


def test_what_it_answers(classifier, images):
    shapes = {"logits": (7, 3), "probabilities": (7, 3), "features": (7, 128)}
    for name, shape in {**shapes, "activations": (7, 128, 4, 4)}.items():
        answer = getattr(classifier, name)(images)
        assert isinstance(answer, np.ndarray)
        assert (answer.shape, answer.dtype) == (shape, np.float32)
    logits = classifier.logits(images)
    assert logits.std(0).min() > 1e-3
    x = torch.from_numpy(images.astype(np.float32) / 255 - GREY_MEAN)[:, None] / GREY_STD
    with torch.inference_mode():
        expected = classifier.module(x).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(
        classifier.probabilities(images), 1 / (1 + np.exp(-logits)), atol=1e-6
    )
    activations, features = classifier.activations(images), classifier.features(images)
    np.testing.assert_allclose(activations.mean((2, 3)), features, atol=1e-5)
    head = classifier.module.head
    by_hand = features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(by_hand, logits, atol=1e-4)


def test_normalise_keeps_what_it_was_given(classifier, images):
    given = torch.from_numpy(images.copy())
    normalised = classifier.normalise(given)
    assert (normalised.shape, normalised.dtype) == ((7, 1, 32, 32), torch.float32)
    assert np.array_equal(given.numpy(), images)
    extremes = classifier.normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8)).ravel()
    expected = [-GREY_MEAN / GREY_STD, (1 - GREY_MEAN) / GREY_STD]
    np.testing.assert_allclose(extremes, expected, rtol=1e-5)


def test_a_softmax_head_excludes(images):
    classifier = make(head="softmax")
    probabilities, logits = classifier.probabilities(images), classifier.logits(images)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    each = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, each / each.sum(1, keepdims=True), atol=1e-6)


def test_both_depths_are_the_same_image(classifier, images):
    deep = images.astype(np.uint16) * np.uint16(257)
    for name in ASKED:
        asked = getattr(classifier, name)
        np.testing.assert_allclose(asked(deep), asked(images), atol=2e-4)


def test_overlays_are_images(classifier, images):
    overlay = Overlay(images, [1, 4], images[:2] // 2, order=[3, 1, 2, 6, 0])
    plain = overlay[np.arange(5)]
    for name in ASKED:
        asked = getattr(classifier, name)
        np.testing.assert_array_equal(asked(overlay), asked(plain))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_batches_size_does_not_matter(classifier, images, monkeypatch, batch):
    whole = {name: getattr(classifier, name)(images) for name in ASKED}
    monkeypatch.setattr(module, "BATCH", batch)
    for name in ASKED:
        np.testing.assert_allclose(getattr(classifier, name)(images), whole[name], atol=1e-4)


def test_batches_of_large_images_are_small(classifier):
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return (batch.mean((2, 3)),)

    for side in (32, 512):
        in_batches(classifier, np.zeros((40, side, side), np.uint8), run)
    assert sizes == [32, 8, 6, 6, 6, 6, 6, 6, 4]


def test_no_images_are_a_usage_error(classifier, images):
    with pytest.raises(UsageError, match="at least one"):
        classifier.logits(images[:0])


def test_bf16_is_close_to_fp32(classifier, images):
    fast = replace(classifier, precision="bf16")
    for name in ASKED:
        full, short = getattr(classifier, name)(images), getattr(fast, name)(images)
        assert short.dtype == np.float32
        assert not np.array_equal(full, short)
        assert np.abs(full - short).max() < 0.03 * np.abs(full).max()


def test_asking_changes_nothing(classifier, images):
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    for name in ASKED:
        getattr(classifier, name)(images)
    after = classifier.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None and p.requires_grad for p in classifier.module.parameters())


@pytest.mark.parametrize("architecture", ["resnet9", "densenet121"])
def test_saved_and_loaded(architecture, images, tmp_path):
    preprocessing = Preprocessing(size=32, crop=0.6, interpolation="area", dtype="uint16")
    original = make(architecture, preprocessing=preprocessing, head="softmax", mean=0.3, std=0.2)
    path = tmp_path / "new" / "classifier.safetensors"
    save_classifier(original, path)
    loaded = load_classifier(path, device="cpu", precision="fp32")
    for name in ("architecture", "findings", "preprocessing", "head", "mean", "std", "precision"):
        assert getattr(loaded, name) == getattr(original, name)
    assert not loaded.module.training
    state = loaded.module.state_dict()
    for name, value in original.module.state_dict().items():
        assert torch.equal(state[name], value), name
    # Bit for bit with the same memory layout; loading lays the weights out anew.
    for name in ASKED:
        np.testing.assert_allclose(
            getattr(loaded, name)(images), getattr(original, name)(images), atol=1e-4
        )
    again = tmp_path / "again.safetensors"
    save_classifier(loaded, again)
    np.testing.assert_array_equal(
        load_classifier(again, device="cpu", precision="fp32").logits(images),
        loaded.logits(images),
    )


def test_one_pass_gives_what_three_give(classifier, images):
    together = classifier.outputs(images, [FINDINGS[2], FINDINGS[0]])
    np.testing.assert_array_equal(together.logits, classifier.logits(images))
    np.testing.assert_array_equal(together.features, classifier.features(images))
    weights = classifier.module.head.weight.detach().numpy()[[2, 0]]
    by_hand = np.einsum("nchw,kc->nkhw", classifier.activations(images), weights)
    np.testing.assert_allclose(together.maps, by_hand, atol=1e-5)
    bias = classifier.module.head.bias.detach().numpy()[[2, 0]]
    np.testing.assert_allclose(
        together.maps.mean((2, 3)) + bias, together.logits[:, [2, 0]], atol=1e-5
    )
    assert classifier.outputs(images).maps.shape[1] == 0


def test_a_file_says_nothing_about_training(classifier, saved):
    state, metadata = parts(saved)
    assert set(metadata) == {FORMAT}
    facts = json.loads(metadata[FORMAT])
    assert facts == {
        "architecture": "resnet9",
        "findings": list(FINDINGS),
        "preprocessing": asdict(classifier.preprocessing),
        "head": "sigmoid",
        "normalisation": {"mean": GREY_MEAN, "std": GREY_STD},
    }
    assert set(state) == set(classifier.module.state_dict())


def test_other_files_are_refused(saved, tmp_path):
    with pytest.raises(StoreError, match="isn't a file"):
        load_classifier(tmp_path / "missing.safetensors")
    with pytest.raises(StoreError, match="it is a folder"):
        load_classifier(tmp_path)
    whole = saved.read_bytes()
    for content, words in (
        (b"hello, hello", "is not a safetensors file"),
        (b"", "has 0 bytes"),
        (whole[:-100], "is not a safetensors file"),
    ):
        path = tmp_path / "other.safetensors"
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"other.safetensors {words}"):
            load_classifier(path)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "pickle")
    with pytest.raises(StoreError, match="is not a safetensors file"):
        load_classifier(tmp_path / "pickle")
    state, metadata = parts(saved)
    for other in (None, {}, {"leadapron classifier 0": metadata[FORMAT]}):
        save_file(state, saved, other)
        with pytest.raises(StoreError, match=f"expected format '{FORMAT}'"):
            load_classifier(saved)


WRONG = [
    {"architecture": "vgg"},
    {"architecture": "densenet121"},
    {"architecture": 3},
    {"architecture": ["resnet9"]},
    {"findings": ["Effusion", "Mass"]},
    {"findings": ["Effusion", "Mass", "Mass"]},
    {"findings": [1, 2, 3]},
    {"findings": "abc"},
    {"findings": []},
    {"findings": 3},
    {"head": "tanh"},
    {"head": None},
    {"preprocessing": {}},
    {"preprocessing": None},
    {"preprocessing": {"size": 4}},
    {"preprocessing": {"size": 32, "poisoned": True}},
    {"normalisation": [0.4, 0.2]},
    {"normalisation": {"mean": 0.4}},
    {"normalisation": {"mean": float("nan"), "std": 0.2}},
    {"normalisation": {"mean": 0.4, "std": 0}},
    {"normalisation": {"mean": "grey", "std": 0.2}},
    {"normalisation": {"mean": 10**400, "std": 0.2}},
    {"findings": ["Effusion", "Mass\x1b", "Mass\\x1b"]},
]


def test_facts_that_do_not_fit_are_refused(saved):
    state, metadata = parts(saved)
    facts = json.loads(metadata[FORMAT])
    texts = [json.dumps({**facts, **wrong}) for wrong in WRONG]
    texts += [json.dumps({k: v for k, v in facts.items() if k != name}) for name in facts]
    for text in [*texts, "", "{", "[]", "3", "null"]:
        save_file(state, saved, {FORMAT: text})
        with pytest.raises(StoreError, match=r"does not describe its own weights: .") as caught:
            load_classifier(saved)
        assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused(saved):
    state, metadata = parts(saved)
    bias = state["head.bias"]
    changed = [
        {**state, "head.bias": torch.full_like(bias, torch.nan)},
        {**state, "head.bias": torch.full_like(bias, torch.inf)},
        {**state, "head.bias": bias[:2].clone()},
        {**state, "more": torch.zeros(1)},
        {name: value for name, value in state.items() if name != "head.bias"},
    ]
    for weights in changed:
        save_file(weights, saved, metadata)
        with pytest.raises(StoreError, match=r"does not describe its own weights: ."):
            load_classifier(saved)


def test_a_failed_save_leaves_the_old_file(classifier, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(module, "save", fail)
    with pytest.raises(MemoryError):
        save_classifier(classifier, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_devices(saved, monkeypatch):
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    for name in ("cuda", "mps", "tpu"):
        with pytest.raises(UsageError, match=f"`device` {name}: not on this machine"):
            resolve_device(name)
    with pytest.raises(UsageError, match="`device` cuda"):
        load_classifier(saved, device="cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("has", [True, False])
def test_precisions(monkeypatch, has):
    monkeypatch.setattr(module, "_cpu_gains_by_bf16", lambda: has)
    assert resolve_precision("auto", CPU) == ("bf16" if has else "fp32")
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "fp32"
    with pytest.raises(UsageError, match="expected auto, bf16 or fp32"):
        resolve_precision("half", CPU)
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert resolve_precision("auto", torch.device("cuda")) == ("bf16" if has else "fp32")


@pytest.mark.parametrize(
    ("facts", "gains"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx512f", False),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16", True),
    ],
)
def test_bf16_is_chosen_where_it_is_faster(monkeypatch, facts, gains):
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module.Path, "read_text", lambda self: facts)
    assert module._cpu_gains_by_bf16.__wrapped__() == gains


@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
def test_logits_outside_a_network_are_squashed_as_inside(head):
    logits = np.float32([[-3, 0, 7], [90, -90, 1]])
    inside = torch.from_numpy(logits)
    expected = inside.sigmoid() if head == "sigmoid" else inside.softmax(1)
    np.testing.assert_allclose(squashed(logits, head), expected.numpy(), atol=1e-6)
