"""Models that can only be asked: functions, TorchScript, ONNX."""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from leadapron.classifier import NetworkClassifier
from leadapron.errors import DataError, LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.models import NORMALISATIONS, AskedClassifier, Normalisation, open_model, process
from leadapron.networks import build_network
from leadapron.preprocessing import Preprocessing

FINDINGS = ("Effusion", "Mass")
SMALL = Preprocessing(size=16)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
HALF = PIXELS / 255.0


class Corners(torch.nn.Module):
    """Two findings: the mean of the image's left and of its right half; three channels."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("three channels")
        sides = [x[:, :, :, :8].mean((1, 2, 3)), x[:, :, :, 8:].mean((1, 2, 3))]
        return self.scale * torch.stack(sides, 1)


def expected(normalisation):
    scale = NORMALISATIONS[normalisation]
    parts = [(HALF - m) / s for m, s in zip(scale.mean, scale.std, strict=True)]
    x = np.mean(parts, 0)
    return 3 * np.stack([x[:, :, :8].mean((1, 2)), x[:, :, 8:].mean((1, 2))], 1)


def asked(run, **options):
    options = {"preprocessing": SMALL, "normalisation": NORMALISATIONS["unit"], **options}
    return AskedClassifier(run, FINDINGS, **options)


def sides(images):
    return np.stack([images[:, 0, :, :8].mean((1, 2)), images[:, 0, :, 8:].mean((1, 2))], 1)


def test_what_is_asked_is_scaled_and_cut_into_batches():
    seen = []

    def run(images):
        seen.append(images)
        return sides(images)

    model = asked(run, batch=2)
    np.testing.assert_allclose(model.logits(PIXELS), sides(HALF[:, None]), atol=1e-6)
    assert [x.shape for x in seen] == [(2, 1, 16, 16), (2, 1, 16, 16), (1, 1, 16, 16)]
    assert {x.dtype for x in seen} == {np.dtype(np.float32)}
    wide = PIXELS.astype(np.uint16) * 257
    np.testing.assert_allclose(model.logits(wide), model.logits(PIXELS), atol=1e-6)
    colours = replace(model, channels=3, normalisation=NORMALISATIONS["imagenet"])
    colours.logits(PIXELS)
    assert seen[-1].shape == (1, 3, 16, 16)
    assert not np.array_equal(seen[-1][0, 0], seen[-1][0, 1])


def test_logits_and_probabilities_fit_together():
    given = np.array([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0]], np.float32)
    model = asked(lambda images: given[: len(images)], gives="probabilities")
    images = PIXELS[:3]
    assert np.array_equal(model.probabilities(images), given)
    np.testing.assert_allclose(model.logits(images)[0], [np.log(0.25), np.log(4)], rtol=1e-5)
    assert np.isfinite(model.logits(images)).all()
    other = replace(model, gives="logits")
    np.testing.assert_allclose(other.probabilities(images), 1 / (1 + np.exp(-given)), rtol=1e-6)
    shares = replace(model, gives="logits", head="softmax").probabilities(images)
    np.testing.assert_allclose(shares, np.exp(given) / np.exp(given).sum(1)[:, None], rtol=1e-6)
    back = replace(model, head="softmax")
    log = back.logits(images)[0]
    assert log[1] - log[0] == pytest.approx(np.log(4))


def test_other_answers_are_refused():
    with pytest.raises(DataError, match=r"answers \(5, 3\) for 5 images"):
        asked(lambda images: np.zeros((len(images), 3), np.float32)).logits(PIXELS)
    with pytest.raises(UsageError, match="no images"):
        asked(sides).logits(PIXELS[:0])
    with pytest.raises(UsageError, match="3 means for a model of 1 channel"):
        asked(sides, normalisation=NORMALISATIONS["imagenet"])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the owner's, by its source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "owners_models", None)

    def write(source):
        (tmp_path / "owners_models.py").write_text(source)
        sys.modules.pop("owners_models", None)
        return "owners_models"

    return write


def test_a_function_of_the_owner(module):
    name = module(
        "import sys\n"
        f"sys.path.insert(0, {str(__file__).rpartition('/')[0]!r})\n"
        "from test_blackboxes import Corners\n"
        "def make():\n    return Corners().train()\n"
        "def classifier():\n    from test_blackboxes import own\n    return own()\n"
        "def nothing():\n    return 3\n"
        "def fails():\n    raise RuntimeError('no weights\\nhere')\n"
    )
    found = open_model(f"{name}:make", FINDINGS, preprocessing=SMALL, device="cpu")
    np.testing.assert_allclose(found.classifier.logits(PIXELS), expected("imagenet"), atol=1e-5)
    assert found.notes == (
        "ASSUMED: the normalisation 'imagenet', by its 3 channels alone; a function's model "
        "doesn't say.",
    )
    own_one = open_model(f"{name}:classifier", device="cpu").classifier
    assert isinstance(own_one, NetworkClassifier)
    for spec, findings, kind, words in (
        (f"{name}:make", None, UsageError, "has 2 outputs and doesn't name them"),
        (f"{name}:make", ("A", "B", "C"), UsageError, "has 2 outputs and 3 are named"),
        (f"{name}:classifier", ("A", "B"), UsageError, "names its own findings"),
        (f"{name}:nothing", FINDINGS, UsageError, "returned a int; expected a classifier"),
        (f"{name}:fails", FINDINGS, LeadapronError, "fails failed: no weights"),
        (f"{name}:mke", FINDINGS, UnknownNameError, "did you mean make"),
        ("no_such_module:make", FINDINGS, UsageError, "no module no_such_module"),
    ):
        with pytest.raises(kind, match=words) as caught:
            open_model(spec, findings, preprocessing=SMALL, device="cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="its model failed: three channels"):
        open_model(f"{name}:make", FINDINGS, preprocessing=SMALL, channels=1, device="cpu")


def own():
    return NetworkClassifier(build_network("resnet9", 2, 0).eval(), "resnet9", FINDINGS, SMALL)


def test_a_module_that_fails_is_named(module):
    name = module("raise OSError('no disk')\n")
    with pytest.raises(LeadapronError, match="importing owners_models failed: no disk"):
        open_model(f"{name}:make")


def test_a_file_is_never_taken_for_a_function(module, tmp_path, monkeypatch):
    name = module("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}:make").write_bytes(b"no model at all")
    with pytest.raises(StoreError, match="no model file"):
        open_model(f"{name}:make")


def scripted(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(model), path)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "model.pt"
    scripted(Corners(), path)
    return open_model(path, FINDINGS, preprocessing=SMALL)


def test_torchscript(script):
    assert script.origin == "TorchScript, asked as a black box"
    assert script.classifier.channels == 3
    assert any("by its 3 channels alone" in note for note in script.notes)
    np.testing.assert_allclose(script.classifier.logits(PIXELS), expected("imagenet"), atol=1e-5)


def test_a_failed_question_leaves_the_process_alive(script):
    running = script.classifier.run
    with pytest.raises(StoreError, match=r"can't answer an input of shape \(1, 1, 16, 16\)"):
        running(np.zeros((1, 1, 16, 16), np.float32))
    assert running(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 2)


class Greedy(torch.nn.Module):
    def forward(self, x):
        return torch.ones(1 << 36).sum() + x.mean((2, 3))


class Endless(torch.nn.Module):
    def forward(self, x):
        while bool(x.mean() < 1):
            x = x * 0.5
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("model", "words"), [(Greedy(), "can't answer an input"), (Endless(), "took more than")]
)
def test_memory_and_time_are_bounded(tmp_path, monkeypatch, model, words):
    scripted(model, tmp_path / "model.pt")
    ask = process.ModelProcess._ask

    def hurried(self, question, raw):
        monkeypatch.setattr(process, "SECONDS", 3.0 if "shape" in question else 120.0)
        return ask(self, question, raw)

    monkeypatch.setattr(process.ModelProcess, "_ask", hurried)
    with pytest.raises(StoreError, match=words):
        open_model(tmp_path / "model.pt", FINDINGS[:1], preprocessing=SMALL, channels=1)


def test_a_process_sees_little_of_its_surroundings(tmp_path, monkeypatch):
    """What the worker would see, told by Python in its place."""
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    told = (
        "import json, os, sys; sys.stdin.buffer.readline(); "
        "print(json.dumps({'seen': sorted(os.environ), 'here': os.listdir()}), flush=True); "
        "sys.stdin.buffer.read()"
    )
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", told))
    running = process.ModelProcess(tmp_path / "any.pt", "torchscript")
    assert "SECRET_TOKEN" not in running.facts["seen"]
    assert running.facts["here"] == []
    running.close()
    assert running._process.returncode is not None


@pytest.mark.parametrize(
    "answer",
    [
        "print('no JSON')",
        "print('[1]')",
        "print(json.dumps({'shape': [2, 2]}))",
        "print(json.dumps({'shape': [1, 10**9]}))",
        "print(json.dumps({'shape': [1, 2]})); sys.stdout.write('12')",
        "sys.exit(3)",
    ],
)
def test_answers_of_a_process_that_was_taken_over(tmp_path, monkeypatch, answer):
    told = (
        "import json, sys; sys.stdin.buffer.readline(); print('{}', flush=True); "
        f"sys.stdin.buffer.readline(); {answer}"
    )
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", told))
    running = process.ModelProcess(tmp_path / "any.pt", "torchscript")
    with pytest.raises(StoreError, match=r"any.pt crashed, or took more memory .*was ended"):
        running(np.zeros((1, 1, 2, 2), np.float32))
    assert running._process.poll() is not None


def onnx_file(path, metadata=None, batch=None, **options):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    sides = [batch or "n", 1, 16, 16]
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("GlobalMaxPool", ["x"], ["max"]),
            helper.make_node("Concat", ["mean", "max"], ["both"], axis=1),
            helper.make_node("Flatten", ["both"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch or "n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path, **options)


@pytest.mark.parametrize("batch", [None, 2])
def test_onnx(tmp_path, batch):
    path = tmp_path / "model.onnx"
    onnx_file(path, {"findings": '["Effusion", "Mass"]'}, batch)
    model = open_model(path).classifier
    assert model.findings == FINDINGS
    assert (model.preprocessing.size, model.channels) == (16, 1)
    both = np.stack([HALF.mean((1, 2)), HALF.max((1, 2))], 1)
    np.testing.assert_allclose(model.logits(PIXELS), both, atol=1e-5)
    with pytest.raises(UsageError, match="takes images of 16 pixels, not 32"):
        open_model(path, preprocessing=Preprocessing(size=32))
    with pytest.raises(UsageError, match="takes 1 channels, not 3"):
        open_model(path, channels=3)


def test_broken_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07" + bytes(range(99)))
    with pytest.raises(StoreError, match=r"model.onnx: can't be loaded \("):
        open_model(path, FINDINGS)
    path.write_bytes(b"\x08\x07\x0a\x08location\x12\x0b/etc/passwd")
    with pytest.raises(StoreError, match="keeps weights in other files"):
        open_model(path, FINDINGS)


def test_a_normalisation_of_numbers():
    model = asked(sides, normalisation=Normalisation((0.5,), (0.25,)))
    np.testing.assert_allclose(model.logits(PIXELS), (sides(HALF[:, None]) - 0.5) / 0.25, atol=1e-5)


def test_a_program_that_is_no_model(tmp_path):
    out = io.BytesIO()
    torch.save({"a": 1}, out)
    (tmp_path / "model.onnx").write_bytes(out.getvalue())
    with pytest.raises(LeadapronError, match=r"model.onnx"):
        open_model(tmp_path / "model.onnx", FINDINGS)
