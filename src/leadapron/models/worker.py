"""The process that runs TorchScript and ONNX: questions on stdin, answers on stdout; see `process`.

Started as `python -P -B -m leadapron.models.worker`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.foreign.scan import first_line

__all__ = ["main"]

MEMORY = 8 << 30
"""Bytes of address space beside four times the file."""

Floats = NDArray[np.float32]
Run = Callable[[Floats], Any]


def main() -> None:
    """Load what the first line names, then answer until there are no more questions."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb")
    # What a model prints must not get among the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    questions = sys.stdin.buffer
    first = json.loads(questions.readline())
    run: Run | None = None
    facts: dict[str, Any]
    try:
        run, facts = LOADERS[first["kind"]](Path(first["path"]))
    except Exception as error:  # whatever a model's loader makes of it
        facts = {"error": f"can't be loaded ({first_line(error)})"}
    _say(answers, facts)
    while run is not None and (line := questions.readline()):
        shape = json.loads(line)["shape"]
        images = np.frombuffer(questions.read(4 * math.prod(shape)), np.float32).reshape(shape)
        try:
            with contextlib.redirect_stdout(None):
                answer = _answer(run, images)
        except Exception as error:  # the model's own failures are of any kind
            words = f"can't answer an input of shape {tuple(shape)} ({first_line(error)})"
            _say(answers, {"error": words})
            continue
        _say(answers, {"shape": answer.shape}, answer.tobytes())


def _say(answers: Any, facts: Mapping[str, Any], raw: bytes = b"") -> None:
    answers.write(json.dumps(facts).encode() + b"\n" + raw)
    answers.flush()


def _answer(run: Run, images: Floats) -> Floats:
    given = run(images)
    values = np.asarray(given) if not isinstance(given, list | tuple | dict) else None
    if values is None or values.ndim != 2 or len(values) != len(images) or values.dtype.kind != "f":
        what = type(given).__name__ if values is None else f"{values.dtype} {values.shape}"
        raise ValueError(f"it gives {what}, expected floats ({len(images)}, findings)")
    return np.ascontiguousarray(values, np.float32)


def _limit(path: Path) -> None:
    """Bound memory, forbid files to grow; where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    memory = MEMORY + 4 * path.stat().st_size
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (most, most))
        except (OSError, ValueError):  # macOS knows some of them and enforces fewer
            continue


def _torchscript(path: Path) -> tuple[Run, dict[str, Any]]:
    import torch

    _limit(path)
    torch.set_grad_enabled(False)
    model = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def run(images: Floats) -> Any:
        given = model(torch.from_numpy(images.copy()))
        return given.float().numpy() if torch.is_tensor(given) else given

    return run, {}


def _onnx(path: Path) -> tuple[Run, dict[str, Any]]:
    import onnxruntime

    _limit(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.log_severity_level = 4
    # Bytes, not the path: weights kept in other files are not looked for beside it.
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ValueError("expected one input of (n, channels, height, width)")
    sides = [side if isinstance(side, int) else None for side in inputs[0].shape]
    facts = {
        "batch": sides[0],
        "channels": sides[1],
        "size": sides[2] if sides[2] == sides[3] else None,
        "metadata": dict(session.get_modelmeta().custom_metadata_map),
    }
    return lambda images: session.run(None, {inputs[0].name: images})[0], facts


LOADERS: Mapping[str, Callable[[Path], tuple[Run, dict[str, Any]]]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
}

if __name__ == "__main__":
    main()
