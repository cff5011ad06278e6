"""The process that runs TorchScript and ONNX; see `process`.

Started as `python -P -B -m leadapron.models.foreign.worker`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
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
LIBRARIES = {"torchscript": "torch", "onnx": "onnxruntime"}

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
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        lacking = confine(MEMORY + 4 * size, code=[_place(LIBRARIES[first["kind"]])], threads=True)
        if lacking:
            facts["unconfined"] = " and ".join(lacking)
        if not lacking or first["trusted"]:
            try:
                with limited_time(first["seconds"] + GRACE, _processors()):
                    program = _program(file, first["sha256"])
                    run, more = LOADERS[first["kind"]](program)
                facts |= more
            except _WrongError as error:
                facts["error"] = str(error)
            except Exception as error:  # loaders raise any kind
                facts["error"] = f"can't be loaded ({_cause(error)})"
    asked.say(facts)
    if run is None:
        return
    for question, _ in questions:
        shape = question["shape"]
        images = np.frombuffer(asked.read(4 * math.prod(shape)), np.float32).reshape(shape)
        with limited_time(question["seconds"] + GRACE, _processors()):
            said, raw = _answer(run, images)
        asked.say(said, raw)


def _processors() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def _place(library: str) -> str:
    """The folder of an installed library."""
    found = importlib.util.find_spec(library)
    return str(Path(found.origin).parents[1]) if found and found.origin else os.devnull


def _program(file: io.BufferedReader, sha256: str) -> bytes:
    """The checked bytes: they are hashed and loaded from the same read."""
    file.seek(0)  # the parent has read it through the same descriptor
    program = file.read()
    if hashlib.sha256(program).hexdigest() != sha256:
        raise _WrongError("was changed while it was opened; try again")
    return program


def _answer(run: Run, images: Floats) -> tuple[dict[str, Any], bytes]:
    try:
        given = run(images)
    except Exception as error:  # models raise any kind
        words = f"fails on an input of shape {tuple(images.shape)} ({_cause(error)})"
        return {"error": words}, b""
    fits = isinstance(given, np.ndarray) and given.ndim == 2 and len(given) == len(images)
    if not fits or given.dtype.kind != "f":
        return {"gives": f"gives {_words(given)}; expected floats ({len(images)}, findings). "
                         "Export a model that returns them alone"}, b""  # fmt: skip
    answer = np.ascontiguousarray(given, np.float32)
    return {"shape": answer.shape}, answer.tobytes()


def _words(given: object) -> str:
    """An output in words: "a tuple of float32 (1, 2) and float32 (1, 64, 7, 7)"."""
    if isinstance(given, np.ndarray):
        return f"{given.dtype} {given.shape}"
    if isinstance(given, tuple | list):
        return f"a {type(given).__name__} of {' and '.join(map(_words, given[:4])) or 'nothing'}"
    return f"a {type(given).__name__}"


def _cause(error: BaseException) -> str:
    """The cause according to torch or onnxruntime, in one line."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, MemoryError) or "bad_alloc" in text:
        return "it needs more memory than allowed"
    if causes := CAUSE.findall(text):
        text = causes[-1]
    return " ".join(text.split())[:300]


def _torchscript(program: bytes) -> tuple[Run, dict[str, Any]]:
    import torch

    with io.BytesIO(program) as file:
        model = torch.jit.load(file, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    kinds = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    dtype = kinds.pop() if len(kinds) == 1 else torch.float32

    def run(images: Floats) -> Any:
        with torch.inference_mode():
            return _arrays(model(torch.from_numpy(images.copy()).to(dtype)))

    def _arrays(given: Any) -> Any:
        if torch.is_tensor(given):
            return given.float().numpy() if given.is_floating_point() else given.numpy()
        if isinstance(given, tuple | list):
            return type(given)(map(_arrays, given)) if type(given) in (tuple, list) else given
        return given

    return run, {"half": dtype in (torch.float16, torch.bfloat16)}


def _onnx(program: bytes) -> tuple[Run, dict[str, Any]]:
    # Imported after confinement: it starts a thread, and would send telemetry.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _processors()
    options.log_severity_level = 4
    # Bytes, not the path, so that it doesn't read weights from other files.
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = " and ".join(str(each.shape) for each in inputs[:4])
        raise _WrongError(
            f"takes {shapes or 'nothing'}; expected one input of (n, channels, height, width)"
        )
    sides = [side if isinstance(side, int) else None for side in inputs[0].shape]
    if sides[3] in (1, 3) and sides[1] not in (1, 3):
        raise _WrongError(
            f"takes {tuple(inputs[0].shape)}, channels last; expected (n, channels, height, "
            "width): export it channels first"
        )
    if inputs[0].type not in FLOATS:
        raise _WrongError(f"takes {inputs[0].type}; expected floats")
    dtype = FLOATS[inputs[0].type]
    facts = {
        "batch": sides[0],
        "channels": sides[1],
        "size": sides[2] if sides[2] == sides[3] else None,
        "half": dtype == np.float16,
        "metadata": dict(session.get_modelmeta().custom_metadata_map),
    }

    def run(images: Floats) -> Any:
        given = session.run(None, {inputs[0].name: images.astype(dtype)})
        return given[0] if len(given) == 1 else tuple(given)

    return run, facts


LOADERS: Mapping[str, Callable[[bytes], tuple[Run, dict[str, Any]]]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
}

if __name__ == "__main__":
    main()
