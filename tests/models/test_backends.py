"""Backends: ONNX Runtime gives torch's outputs, and what it can't do is refused in one line."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from network_scenes import convolutional, transformer

from backend_scenes import in_place
from leadapron.errors import UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.films.preprocessing import Preprocessing
from leadapron.models import backends
from leadapron.models.backends import CompiledClassifier, backend_of, compiled, on_backend
from leadapron.models.classifier import BATCH, NetworkClassifier
from leadapron.models.copying import copied_network
from leadapron.models.foreign import NORMALISATIONS, BlackBoxClassifier
from leadapron.models.networks import Look, build_network
from leadapron.types import Machine

FINDINGS = ("Effusion", "Mass", "Nodule")
ONNX = Machine(device="cpu", backend="onnxruntime")


def network(architecture="plain4", size=32, **settings):
    module = build_network(architecture, 3, 0).eval()
    return NetworkClassifier(
        module,
        architecture,
        FINDINGS,
        Preprocessing(size=size),
        **{"precision": "bf16", **settings},
    )


def images(n=BATCH + 3, size=32, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(1).integers(0, top, (n, size, size), dtype, endpoint=True)


@pytest.mark.parametrize("made", ["resnet9", "a transformer", "one of other layers"])
def test_onnx_runtime_gives_torchs_outputs(made):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    module = {
        "a transformer": partial(transformer, pooled=True),
        "one of other layers": convolutional,
    }.get(made, partial(build_network, made, seed=0))(len(FINDINGS))
    plain = replace(network(precision="fp32"), module=module.eval(), architecture=made)
    there = compiled(plain, images(2))
    assert (there.precision, backend_of(there), backend_of(plain)) == (
        "fp32",
        "onnxruntime",
        "torch",
    )
    for films in (images(), images(1), images(5, dtype=np.uint16)):
        for what in ("logits", "probabilities", "features", "activations"):
            ours, theirs = (getattr(each, what)(films) for each in (plain, there))
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5, err_msg=what)
    maps = [EXPLAINERS["grad-cam"](each, images(2), FINDINGS) for each in (plain, there)]
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-5)


def test_a_network_for_one_number_of_films_is_refused(capfd):
    """Its class token is repeated `len(x)` times, a number that a traced graph keeps."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    plain = replace(network(), module=transformer(3).eval(), architecture="own")
    with pytest.raises(UsageError, match=r"^`backend` onnxruntime can't run own \(.*\); expected"):
        compiled(plain, images(1))
    assert capfd.readouterr() == ("", "")


def test_it_does_what_a_network_does_with_its_logits(monkeypatch):
    in_place(monkeypatch)
    plain = network(precision="fp32", operating_points=(0.2, 0.5, 0.7))
    films = images()
    made = on_backend(plain, ONNX, films)
    assert isinstance(made, CompiledClassifier)
    assert on_backend(made, ONNX, films) is made
    asked = made.graph.session.films
    assert asked == backends.COMPARED
    np.testing.assert_array_equal(made.probabilities(films), plain.probabilities(films))
    soft = replace(made, head="softmax", operating_points=())
    assert soft.probabilities(films).sum(axis=1) == pytest.approx(1)
    found = made.outputs(films, FINDINGS[:2])
    np.testing.assert_array_equal(found.maps, plain.outputs(films, FINDINGS[:2]).maps)
    assert made.graph.session.films == asked + 3 * len(films)
    assert on_backend(plain, Machine(backend="torch"), films) is plain
    assert on_backend(plain, Machine(), films) is plain


def test_a_changed_network_is_never_answered_for(monkeypatch):
    in_place(monkeypatch)
    made = compiled(network(), images())
    with pytest.raises(UsageError, match=r"^the graph of another network; compile the changed"):
        replace(made, module=build_network("plain4", 3, 1).eval())
    copied = copied_network(made, "a test")
    assert not isinstance(copied, CompiledClassifier)
    with torch.no_grad():
        copied.module.head.bias += 1
    difference = copied.logits(images()) - made.logits(images())
    np.testing.assert_allclose(difference, 1, atol=1e-5)


@pytest.mark.parametrize("name", Look._fields)
def test_outputs_other_than_torchs_are_refused(monkeypatch, name):
    def changed(by):
        return lambda output, value: value + by if output == name else value

    in_place(monkeypatch, changed(5e-4))
    compiled(network(), images())
    for by in (0.002 if name == "logits" else 0.05, np.nan):
        in_place(monkeypatch, changed(by))
        with pytest.raises(UsageError, match=rf"gives other {name} of this plain4 than torch"):
            compiled(network(), images())


def test_infinities_that_are_torchs_agree(monkeypatch):
    in_place(monkeypatch)
    plain = network()
    with torch.no_grad():
        plain.module.head.bias[0], plain.module.head.bias[1] = np.nan, np.inf
    assert np.isnan(compiled(plain, images()).logits(images())[:, 0]).all()


def test_what_it_cannot_run_is_refused_in_one_line(monkeypatch):
    def refused(classifier=None, **machine):
        with pytest.raises(UsageError) as caught:
            on_backend(classifier or network(), replace(ONNX, **machine), images())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    box = BlackBoxClassifier(
        lambda grey: grey[:, :, 0, 0], FINDINGS, Preprocessing(size=32), NORMALISATIONS["unit"],
        batch=8,
    )  # fmt: skip
    assert backend_of(box) == "auto"
    assert "a black box, which runs as it is; leave it out" in refused(box)
    assert "in fp32, not in bf16; leave `precision` out" in refused(precision="bf16")
    expected = "`backend` openvino: expected one of auto, torch, onnxruntime"
    assert refused(backend="openvino") == expected

    def fail(module, size):
        raise RuntimeError("no such operator\nat line 3")

    in_place(monkeypatch)
    monkeypatch.setattr(backends, "_graph", fail)
    assert "can't run plain4 (no such operator); expected `backend` torch" in refused()
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert refused().endswith('needs onnx and onnxruntime: pip install "leadapron[onnx]"')
    elsewhere = network()
    elsewhere.module.to("meta")
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    assert "not on meta; expected `device` cpu" in refused(elsewhere)
