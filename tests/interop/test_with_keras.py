"""Models that Keras itself wrote, as black boxes and networks; `make test-keras` runs it."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from leadapron import metrics
from leadapron.detect.models import StampSweep
from leadapron.errors import StoreError
from leadapron.explainers import EXPLAINERS
from leadapron.films.preprocessing import Preprocessing
from leadapron.jobs.audit import audit
from leadapron.jobs.calibrate import calibrate
from leadapron.jobs.inspect import inspect
from leadapron.jobs.screen import open_gate, screen
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.foreign import BlackBoxClassifier, Normalisation, open_model
from leadapron.models.stated import ModelSettings, Opening
from leadapron.sources import open_source
from leadapron.sources.listed import films_of
from leadapron.types import Machine

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
pytestmark = [
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # its own, of NumPy
]

FINDINGS = ("Effusion", "Mass")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)


def small(ends="sigmoid", channels=1, outputs=2, last=None):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, channels)),
            layers.Rescaling(2.0, offset=-1.0),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            last or layers.GlobalAveragePooling2D(),
            layers.Dense(outputs, activation=ends),
        ]
    )


def answers(model, channels=1, output=None):
    """What Keras itself says of the films, with grey levels in 0 to 1."""
    x = np.stack([np.float32(PIXELS) / np.float32(255)] * channels, -1)
    given = model(x, training=False)
    return keras.ops.convert_to_numpy(given if output is None else given[output])


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize(("ends", "channels"), [("sigmoid", 1), ("softmax", 3), (None, 3)])
def test_answers_are_kerass_own(tmp_path, ending, ends, channels):
    model = small(ends, channels)
    model.save(tmp_path / f"model.{ending}")
    found = open_model(tmp_path / f"model.{ending}", FINDINGS, normalisation="unit")
    said = found.classifier
    assert (said.preprocessing.size, said.channels) == (32, channels)
    assert said.head == ("softmax" if ends == "softmax" else "sigmoid")
    assert said.gives == ("logits" if ends is None else "probabilities")
    assert (f"Its last layer is a {ends}, so it gives probabilities." in found.notes) == bool(ends)
    assert "It takes the channels last: (n, height, width, channels)." in found.notes
    np.testing.assert_array_equal(said.answers(PIXELS), answers(model, channels))


APPLICATIONS = {
    "DenseNet121": 64,
    "ResNet50": 64,
    "MobileNet": 64,
    "EfficientNetB0": 64,
    "Xception": 96,
}


READ = {
    "DenseNet121": "densenet121",
    "ResNet50": "resnet50-keras",
    "MobileNet": "mobilenet",
    "EfficientNetB0": "efficientnet_b0-keras",
    "Xception": "xception-keras",
}
"""Networks that are opened as networks of this package."""


def moved(model):
    """The model, its normalisations' statistics and biases away from 0 and 1."""
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if variable.name in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):  # behind a division by 255
            layer.adapt_mean.assign([0.001, 0.002, 0.003])
            layer.adapt_variance.assign([1e-6, 2e-6, 3e-6])
            layer.finalize_state()
    return model


def application(name, size, **settings):
    keras.utils.set_random_seed(1)
    given = {"weights": None, "input_shape": (size, size, 3), **settings}
    return moved(getattr(keras.applications, name)(**given))


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_networks_of_keras_applications(tmp_path, name):
    size = APPLICATIONS[name]
    model = application(name, size, classes=2, classifier_activation="sigmoid")
    model.save(tmp_path / "model.keras")
    found = open_model(
        tmp_path / "model.keras", FINDINGS, normalisation="unit", device="cpu", precision="fp32"
    )
    films = np.random.default_rng(0).integers(0, 256, (2, size, size), np.uint8)
    x = np.stack([np.float32(films) / np.float32(255)] * 3, -1)
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    assert isinstance(found.classifier, NetworkClassifier)
    assert found.classifier.architecture == READ[name]
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found.classifier.probabilities(films), expected, atol=1e-4)
    logits = np.log(expected / (1 - expected))
    np.testing.assert_allclose(
        found.classifier.logits(films), logits, rtol=0, atol=1e-4 * np.abs(logits).max()
    )


def headed(*before, between=()):
    """A published network without its head, below a head of the owner's."""
    base = application("MobileNet", 64, include_top=False, alpha=1.0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((64, 64, 3)), *before, base, *between, layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2), layers.Dense(2),
        ]
    )  # fmt: skip


def test_a_network_below_a_head_of_the_owners(tmp_path):
    model = headed(keras.layers.Rescaling(2.0, offset=-1.0))
    model.save(tmp_path / "model.h5")
    found = open_model(
        tmp_path / "model.h5", FINDINGS, normalisation="0.25/0.5", device="cpu", precision="fp32"
    )
    films = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    x = np.stack([(np.float32(films) / np.float32(255) - 0.25) / 0.5] * 3, -1)
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    assert found.classifier.architecture == "mobilenet"
    assert found.origin.startswith("Keras, opened as a mobilenet")
    assert any("its program gives that network's logits" in note for note in found.notes)
    np.testing.assert_allclose(
        found.classifier.logits(films), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )
    stated = Opening(model=ModelSettings(findings=FINDINGS, normalisation="0.25/0.5"))
    seen = inspect(tmp_path / "model.h5", opening=stated, machine=Machine(device="cpu"))
    assert seen.origin == found.origin
    assert seen.program is None
    maps = EXPLAINERS["class-activation"](found.classifier, films, FINDINGS[:1])
    assert maps.std() > 0


def test_a_network_with_another_layer_stays_a_black_box(tmp_path):
    headed(between=[keras.layers.Activation("tanh")]).save(tmp_path / "model.keras")
    found = open_model(tmp_path / "model.keras", FINDINGS, normalisation="unit")
    assert isinstance(found.classifier, BlackBoxClassifier)
    assert any(n.startswith("DOUBT: its tensors fit mobilenet, but") for n in found.notes)
    headed(between=[keras.layers.LayerNormalization()]).save(tmp_path / "other.keras")
    found = open_model(tmp_path / "other.keras", FINDINGS, normalisation="unit")
    assert isinstance(found.classifier, BlackBoxClassifier)


def test_several_outputs_and_half_precision(tmp_path):
    inputs = keras.Input((32, 32, 1))
    inner = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(
        inputs, {"features": inner, "finding": keras.layers.Dense(2, name="finding")(inner)}
    )
    model.save(tmp_path / "two.keras")
    found = open_model(tmp_path / "two.keras", FINDINGS, normalisation="unit")
    assert any(note.endswith("; finding was taken.") for note in found.notes)
    np.testing.assert_array_equal(
        found.classifier.answers(PIXELS), answers(model, output="finding")
    )

    keras.config.set_dtype_policy("mixed_float16")
    try:
        small().save(tmp_path / "half.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    found = open_model(tmp_path / "half.keras", FINDINGS, normalisation="unit")
    assert "It was exported in half precision, so its outputs are coarser." in found.notes


def edited(model, tmp_path, change=lambda text: text, **entries):
    """A .keras file with another description or other entries."""
    model.save(tmp_path / "whole.keras")
    out = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "whole.keras") as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                content = change(content.decode()).encode()
            if entries.get(name, content) is not None:
                new.writestr(name, entries.get(name, content))
    return out.getvalue()


def squashing(ending):
    """Bytes of a model with a Lambda layer."""

    def make(folder):
        model = small(last=keras.layers.Lambda(lambda x: x.mean((1, 2)), output_shape=(4,)))
        model.save(folder / f"lambda.{ending}")
        return (folder / f"lambda.{ending}").read_bytes()

    return make


@keras.saving.register_keras_serializable("mine")
class Own(keras.layers.Layer):
    def call(self, x):
        return x.mean((1, 2))


def weights_alone(folder):
    small().save_weights(folder / "a.weights.h5")
    return (folder / "a.weights.h5").read_bytes()


def no_images(folder):
    keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)]).save(folder / "flat.keras")
    return (folder / "flat.keras").read_bytes()


def wide(folder):
    model = keras.Sequential([keras.Input((32, 48, 1)), keras.layers.GlobalAveragePooling2D()])
    model.save(folder / "wide.keras")
    return (folder / "wide.keras").read_bytes()


def bomb(folder):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(1 << 26))
    return out.getvalue()


def from_another_package(folder):
    return edited(small(), folder, lambda text: text.replace('"keras.layers"', '"subprocess"'))


BROKEN = {
    "a Lambda layer": ("keras", squashing("keras"), "a layer of kind .?_?Lambda.*, which is code"),
    "a Lambda layer in HDF5": ("h5", squashing("h5"), "a layer of kind Lambda, which is code"),
    "a class of another package": (
        "keras", from_another_package, "of 'subprocess', whose code isn't run"
    ),
    "a layer of the owner's": ("keras", lambda f: edited(small(last=Own()), f), "Own"),
    "a call of another module": (
        "keras",
        lambda f: edited(small(), f, lambda t: json.dumps(
            {"module": "os", "class_name": "system", "config": {"command": f"touch {f}/sung"}})),
        "needs 'system' of 'os', whose code isn't run",
    ),
    "weights alone": ("h5", weights_alone, "holds weights without their model"),
    "no images": ("keras", no_images, r"takes \(None, 7\); expected one input of"),
    "images that aren't square": ("keras", wide, "takes images of 32 x 48 pixels; expected square"),
    "no description": (
        "keras", lambda f: edited(small(), f, **{"config.json": None}), "it has no config.json"
    ),
    "no weights": (
        "keras", lambda f: edited(small(), f, **{"model.weights.h5": None}), "can't be loaded"
    ),
    "a description that is none": (
        "keras", lambda f: edited(small(), f, lambda t: "[" * 100_000), "can't be loaded"
    ),
    "a bomb": ("keras", bomb, "bytes unpacked, of .*; it is broken"),
    "half of an HDF5 file": ("h5", lambda f: weights_alone(f)[:3000], "can't be loaded"),
    "HDF5 of nothing": ("h5", lambda f: b"\x89HDF\r\n\x1a\n" + bytes(99), "can't be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_hostile_and_broken_files(tmp_path, case):
    ending, make, words = BROKEN[case]
    path = tmp_path / f"model.{ending}"
    path.write_bytes(make(tmp_path))
    with pytest.raises(StoreError, match=f"^model.{ending} .*{words}") as caught:
        open_model(path, FINDINGS, normalisation="unit")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sung").exists()


# --- a model that was published


def published():
    """The file of the package pneumonia-model-package, which isn't imported; None without it."""
    found = importlib.util.find_spec("pneumonia_model_package")
    folder = Path(found.origin).parent / "trained_models" if found and found.origin else None
    return next(folder.glob("*.keras"), None) if folder else None


@pytest.fixture(scope="module")
def pneumonia():
    path = published()
    if path is None:
        pytest.skip("make test-keras INSTALL=1 installs pneumonia-model-package")
    return path


@pytest.mark.slow
@pytest.mark.real_data("kermany224")
def test_the_published_pneumonia_classifier(real_data, pneumonia):
    # Its own preprocessing: 150 pixels, Xception's -1 to 1; two logits, as a softmax.
    options = {
        "findings": ("NORMAL", "PNEUMONIA"), "head": "softmax",
        "normalisation": Normalisation((0.5,), (0.5,)),
    }  # fmt: skip
    image = Preprocessing(size=150)
    model = open_model(pneumonia, preprocessing=image, **options).classifier
    films = open_source(f"folder:{real_data / 'kermany224'}", preprocessing=image, cache="none")
    some = films.take(np.sort(np.random.default_rng(0).permutation(len(films))[:120]))
    truth = some.labels[:, some.column("PNEUMONIA")]
    assert metrics.auroc(truth, model.logits(some.images)[:, 1]) > 0.9


SMALL_SWEEP = StampSweep(
    sides=(3,), values=(255,), pitches=((8, 1),), places=4, rounds=1, films=1, judged=16
)


@pytest.mark.slow
@pytest.mark.real_data("kermany224")
def test_the_published_classifier_is_audited_calibrated_and_screened(
    real_data, pneumonia, tmp_path
):
    """About 2,000 images at .1 s each: a program has no gradients, and each answer its price."""
    stated = ModelSettings(
        findings=("NORMAL", "PNEUMONIA"), head="softmax", normalisation="0.5/0.5"
    )
    opening, machine = Opening(model=stated), Machine(cache="none")
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "films" / name).mkdir(parents=True)
        for film in sorted((real_data / "kermany224" / name).iterdir())[:30]:
            shutil.copy(film, tmp_path / "films" / name)
    clean = f"folder:{tmp_path / 'films'}"

    found = audit(
        pneumonia, clean, films=40, sweep=SMALL_SWEEP, students=0, opening=opening,
        machine=machine,
    )  # fmt: skip
    assert (found.films, found.image, found.unsteady) == (40, (150, 150), ())
    assert 150 < found.forwards < 500
    assert found.verdict.level == "can't tell"  # neither references nor students
    assert {each.finding for each in found.forced} == {"NORMAL", "PNEUMONIA"}
    assert "The model is a black box: no trigger was inverted." in found.notes

    made = calibrate(
        pneumonia, clean, tmp_path / "gate.json", false_alarm=0.1, opening=opening, machine=machine
    )
    gate = made.stored.gate
    assert set(gate.left_out) == {
        "evidence region", "scaled batch normalisation", "Mahalanobis", "nearest neighbours"
    }  # fmt: skip
    opened = open_gate(tmp_path / "gate.json", machine=machine)
    files, _ = films_of([str(film) for film in sorted((tmp_path / "films" / "NORMAL").iterdir())])
    screened = [film for batch in screen(opened, files[:4]) for film in batch]
    assert [film.bad for film in screened] == [None] * 4
    assert [film.level for film in screened].count("nothing found") >= 2  # they were calibrated on
