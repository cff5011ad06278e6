"""The process that runs TorchScript, ONNX and Keras models; see `process`.

Started as `python -P -B -m leadapron.models.foreign.worker`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import json
import math
import os
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.confinement import confine, limited_time
from leadapron.workers import Asked

__all__ = ["main"]

MEMORY = 8 << 30
"""Bytes of address space in addition to four times the file's size."""
GRACE = 5
"""Seconds beyond the limit after which this process ends itself."""
RATIO = 20
"""Most times that a .keras file may grow when unpacked."""
LONGEST_CONFIG = 64 << 20
WITH_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
"""Keras's layers and values that hold or call code outside Keras."""
SCALING = {"Rescaling": ("scale", "offset"), "Normalization": ("mean", "variance")}
"""What Keras's layers have that scale their input: a number, or one for each channel."""
MOST_PARTS = 200
"""Most outputs that are looked at."""
MOST_SHOWN = 6
DEEPEST = 4
LIBRARIES = {"torchscript": "torch", "onnx": "onnxruntime", "keras": "keras"}

OF_TEXT = "scalar types: Long, Int"
"""What torch says of a table of words that is given an image."""
CAUSE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): (.*)", re.MULTILINE | re.DOTALL)
"""torch's error message, after the program's own lines."""

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}

Floats = NDArray[np.float32]
Run = Callable[[Floats], Any]


class _WrongError(Exception):
    """A model's error, worded to follow its name."""


def main() -> None:
    """Load the model of the first request, then answer until there are no more."""
    warnings.simplefilter("ignore")
    asked = Asked()
    questions = iter(asked)
    first, descriptor = next(questions)
    facts: dict[str, Any] = {}
    run: Run | None = None
    code = [_place(LIBRARIES[first["kind"]])]
    lacking = confine(MEMORY + 4 * first["size"], code=code, threads=True)
    others = []
    for _ in range(first["others"]):  # each is sent once the one before it was received
        asked.say({})
        others.append(next(questions))
    if lacking:
        facts["unconfined"] = " and ".join(lacking)
    if not lacking or first["trusted"]:
        try:
            with limited_time(first["seconds"] + GRACE, _processors()):
                program = _content(descriptor, first["sha256"])
                beside = {
                    question["name"]: _content(number, question["sha256"])
                    for question, number in others
                }
                run, more = LOADERS[first["kind"]](program, beside)
            facts |= more
        except _WrongError as error:
            facts["error"] = str(error)
        except Exception as error:  # loaders raise any kind
            facts["error"] = f"can't be loaded ({_cause(error)})"
    asked.say(facts)
    if run is None:
        return
    answers = _Answers(run)
    for question, _ in questions:
        if "layers" in question:
            asked.say(*_inside(getattr(run, "model", None)))
            continue
        shape = question["shape"]
        images = np.frombuffer(asked.read(4 * math.prod(shape)), np.float32).reshape(shape)
        with limited_time(question["seconds"] + GRACE, _processors()):
            said, raw = answers(images, question["outputs"])
        asked.say(said, raw)


def _processors() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def _place(library: str) -> str:
    """The folder of an installed library."""
    found = importlib.util.find_spec(library)
    return str(Path(found.origin).parents[1]) if found and found.origin else os.devnull


def _content(descriptor: int, sha256: str) -> bytes:
    """The checked bytes: they are hashed and loaded from the same read."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)  # the parent has read it through the same descriptor
        content = file.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _WrongError("was changed while it was opened; try again")
    return content


class _Answers:
    """A model's answers: one of its outputs, the same in every call.

    Args:
        run: (n, c, h, w) images to an array, or to tuples, lists and dictionaries of arrays.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._taken: str | None = None

    def __call__(self, images: Floats, outputs: int | None) -> tuple[dict[str, Any], bytes]:
        """Return the facts of an answer and its numbers.

        Args:
            images: the model's input.
            outputs: number of findings if known, which decides between several outputs.
        """
        try:
            given = self._run(images)
        except Exception as error:  # models raise any kind
            cause = _cause(error)
            if OF_TEXT in cause:
                return {"gives": "takes whole numbers, as a text model does; expected a classifier "
                                 "of images"}, b""  # fmt: skip
            return {"error": f"fails on an input of shape {tuple(images.shape)} ({cause})"}, b""
        parts = dict(itertools.islice(_parts(given), MOST_PARTS))
        arrays = [part for part in parts.values() if isinstance(part, np.ndarray)]
        fitting = {
            name: part
            for name, part in parts.items()
            if isinstance(part, np.ndarray)
            and part.ndim == 2 and len(part) == len(images) and part.dtype.kind == "f"
        }  # fmt: skip
        shown = " and ".join(_words(*part) for part in itertools.islice(parts.items(), MOST_SHOWN))
        if not fitting or (self._taken is not None and self._taken not in fitting):
            sides = sorted(images.shape[1:])[-2:]
            if any(p.ndim == 4 and sorted(p.shape[1:])[-2:] == sides for p in arrays):
                return {"gives": f"gives {shown}: it draws masks, as a segmentation model does; "
                                 "expected a classifier of findings"}, b""  # fmt: skip
            return {"gives": f"gives {shown or 'nothing'}; expected floats ({len(images)}, "
                             "findings). Export a model that returns them"}, b""  # fmt: skip
        if self._taken is None:
            named = [n for n, part in fitting.items() if part.shape[1] == outputs]
            if len(fitting) > 1 and not named:
                known = "name its findings" if outputs is None else (
                    f"none has {outputs} columns, one for each named finding"
                )  # fmt: skip
                return {"gives": f"gives {shown}; {known}"}, b""
            self._taken = (named or list(fitting))[0]
        answer = np.ascontiguousarray(fitting[self._taken], np.float32)
        facts: dict[str, Any] = {"shape": answer.shape}
        if len(parts) > 1:
            facts["taken"] = f"It gives {shown}; {self._taken} was taken."
        return facts, answer.tobytes()


def _parts(given: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """All parts of what a model gives, by name: "logits", "output 2", "heads.output 1"."""
    inside: Mapping[Any, object] = {}
    if isinstance(given, Mapping):
        inside = given
    elif isinstance(given, tuple) and hasattr(given, "_fields"):
        inside = dict(zip(given._fields, given, strict=True))
    elif isinstance(given, tuple | list):
        inside = {f"output {place}": part for place, part in enumerate(given, start=1)}
    if not inside or depth == DEEPEST:
        yield name, given
        return
    for key, part in inside.items():
        yield from _parts(part, f"{name}.{key}" if name else str(key), depth + 1)


def _words(name: str, part: object) -> str:
    """A part in words: "logits float32 (1, 14)"."""
    what = f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else (
        f"a {type(part).__name__}"
    )  # fmt: skip
    return f"{name} {what}".strip()


def _cause(error: BaseException) -> str:
    """The cause according to torch or onnxruntime, in one line."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, MemoryError) or "bad_alloc" in text:
        return "it needs more memory than allowed"
    if causes := CAUSE.findall(text):
        text = causes[-1]
    return " ".join(text.split())[:300]


def _arrays(given: Any) -> Any:
    """The tensors in what a model gives, as arrays."""
    import torch

    if torch.is_tensor(given):
        given = given.detach()
        return given.float().numpy() if given.is_floating_point() else given.numpy()
    if isinstance(given, tuple) and hasattr(given, "_fields"):
        given = dict(zip(given._fields, given, strict=True))
    if isinstance(given, Mapping):
        return {key: _arrays(part) for key, part in given.items()}
    return [_arrays(part) for part in given] if isinstance(given, tuple | list) else given


def _sides(shape: Sequence[Any]) -> dict[str, Any]:
    """The facts of the input that a header's shape of four sides fixes."""
    sides = [side if isinstance(side, int) else None for side in shape]
    last = sides[3] in (1, 3) and sides[1] not in (1, 3)
    height, width = sides[1:3] if last else sides[2:]
    if height is not None and width is not None and height != width:
        raise _WrongError(f"takes images of {height} x {width} pixels; expected square ones")
    return {
        "batch": sides[0],
        "channels": sides[3] if last else sides[1],
        "size": height if height == width else None,
        "last": last or (False if sides[1] in (1, 3) else None),
    }


def _torchscript(program: bytes, _: Mapping[str, bytes]) -> tuple[Run, dict[str, Any]]:
    import torch

    with io.BytesIO(program) as file:
        model = torch.jit.load(file, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    kinds = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    dtype = kinds.pop() if len(kinds) == 1 else torch.float32

    def run(images: Floats) -> Any:
        with torch.inference_mode():
            return _arrays(model(torch.from_numpy(images.copy()).to(dtype)))

    return run, {"half": dtype in (torch.float16, torch.bfloat16)}


def _onnx(program: bytes, others: Mapping[str, bytes]) -> tuple[Run, dict[str, Any]]:
    # Imported after confinement: it starts a thread, and would send telemetry.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _processors()
    options.log_severity_level = 4
    if others:
        options.add_external_initializers_from_files_in_memory(
            list(others), list(others.values()), [len(content) for content in others.values()]
        )
    # Bytes, not the path, so that it reads no other files.
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = " and ".join(str(each.shape) for each in inputs[:4])
        raise _WrongError(
            f"takes {shapes or 'nothing'}; expected one input of (n, channels, height, width)"
        )
    if inputs[0].type not in FLOATS:
        raise _WrongError(f"takes {inputs[0].type}; expected floats")
    dtype = FLOATS[inputs[0].type]
    names = [output.name for output in session.get_outputs()]
    facts = {
        **_sides(inputs[0].shape),
        "half": dtype == np.float16,
        "metadata": dict(session.get_modelmeta().custom_metadata_map),
    }

    def run(images: Floats) -> Any:
        given = session.run(None, {inputs[0].name: images.astype(dtype)})
        return dict(zip(names, given, strict=True))

    return run, facts


def _keras(program: bytes, _: Mapping[str, bytes]) -> tuple[Run, dict[str, Any]]:
    zipped = zipfile.is_zipfile(io.BytesIO(program))
    _refuse_code(_zipped_config(program) if zipped else _hdf5_config(program))
    # torch's compiler wants these to exist when it is imported; it writes to neither.
    tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path.cwd())
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Keras draws without need for it
    import torch

    # The public `load_model` takes paths alone, and this process can open none.
    if zipped:
        from keras.src.saving.saving_lib import load_model

        model = load_model(io.BytesIO(program), compile=False, safe_mode=True)
    else:
        import h5py
        from keras.src.legacy.saving.legacy_h5_format import load_model_from_hdf5

        with h5py.File(io.BytesIO(program), "r") as file:
            model = load_model_from_hdf5(file, compile=False, safe_mode=True)
    inputs: Sequence[Any] = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = " and ".join(str(tuple(each.shape)) for each in inputs[:4])
        raise _WrongError(
            f"takes {shapes or 'nothing that it states'}; expected one input of (n, height, width, "
            "channels)"
        )
    dtype = getattr(torch, str(inputs[0].dtype), torch.float32)

    def run(images: Floats) -> Any:
        with torch.inference_mode():
            return _arrays(model(torch.from_numpy(images.copy()).to(dtype), training=False))

    run.model = model  # type: ignore[attr-defined]
    ends = getattr(getattr(model.layers[-1], "activation", None), "__name__", "")
    known = ends in ("sigmoid", "softmax") and len(model.outputs) == 1
    facts = {"activation": ends} if known else {}
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers)
    return run, {**_sides(inputs[0].shape), "half": half, **facts}


def _inside(model: Any) -> tuple[dict[str, Any], bytes]:
    """A Keras model's layers, as `process.Layer`, and their weights in a row."""
    try:
        facts, raw = [], []
        for layer in _all_layers(model):
            stated = {name: getattr(layer, name) for name in SCALING.get(type(layer).__name__, ())}
            numbers = {n: float(v) for n, v in stated.items() if isinstance(v, int | float)}
            held = {n: v for n, v in stated.items() if n not in numbers}
            weights = held if stated else {v.name: v.value for v in layer.weights}
            arrays = [
                (name, np.asarray(_arrays(value), np.float32)) for name, value in weights.items()
            ]
            facts.append((
                layer.name, type(layer).__name__, float(getattr(layer, "epsilon", 0)), numbers,
                [(name, array.shape) for name, array in arrays],
            ))  # fmt: skip
            raw += [array.tobytes() for _, array in arrays]
    except Exception as error:  # layers raise any kind
        return {"error": f"can't be read by layers ({_cause(error)})"}, b""
    return {"layers": facts}, b"".join(raw)


def _all_layers(model: Any) -> Iterator[Any]:
    """The layers of a model and of those inside it, in their order."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)
        else:
            yield layer


def _zipped_config(program: bytes) -> Any:
    """The description of the layers in a .keras file."""
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise _WrongError("is no Keras model: it has no config.json")
        if archive.getinfo("config.json").file_size > LONGEST_CONFIG:
            raise _WrongError(f"describes its layers in more than {LONGEST_CONFIG:,} bytes")
        size = sum(each.file_size for each in archive.infolist())
        if size > RATIO * len(program):  # Keras stores without compression
            raise _WrongError(f"is {size:,} bytes unpacked, of {len(program):,}; it is broken")
        return json.loads(archive.read("config.json"))


def _hdf5_config(program: bytes) -> Any:
    """The description of the layers in an .h5 file."""
    import h5py

    with h5py.File(io.BytesIO(program), "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise _WrongError("holds weights without their model; save the whole model as .keras")
    return json.loads(config)


def _refuse_code(config: Any) -> None:
    """Refuse layers whose code is in the file, or in another package than Keras."""
    left = [config]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        if not isinstance(part, dict):
            continue
        left += part.values()
        kind, module = part.get("class_name"), part.get("module")
        if kind in WITH_CODE:
            raise _WrongError(
                f"has a layer of kind {kind}, which is code; save the model with layers of Keras "
                "alone, or export it as ONNX"
            )
        known = not isinstance(module, str) or module.partition(".")[0] in ("keras", "builtins")
        if isinstance(kind, str) and not known:
            raise _WrongError(
                f"needs {kind[:40]!r} of {str(module)[:40]!r}, whose code isn't run; save the "
                "model with layers of Keras alone, or export it as ONNX"
            )


LOADERS: Mapping[str, Callable[[bytes, Mapping[str, bytes]], tuple[Run, dict[str, Any]]]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
    "keras": _keras,
}

if __name__ == "__main__":
    main()
