"""From a file or a function's name to a classifier."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.classifier import (
    FORMAT,
    BlackBox,
    NetworkClassifier,
    Precision,
    load_classifier,
    prepare,
    resolve_device,
    resolve_precision,
)
from leadapron.errors import LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.foreign.scan import first_line, read_archive, refuse_operators
from leadapron.models.asked import BATCH, AskedClassifier
from leadapron.models.files import Kind, kind_of, read_state, stated_findings
from leadapron.models.process import AnswerError, ModelProcess, ProgramKind
from leadapron.models.recognise import NORMALISATIONS, Normalisation, recognise
from leadapron.preprocessing import Preprocessing
from leadapron.reading import open_regular

__all__ = ["Opened", "open_model"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Gives = Literal["logits", "probabilities"]
Head = Literal["sigmoid", "softmax"]

SIZE = 224
MOST_NUMBERS = 1 << 28
"""In what a black box takes at a time: 1 GiB."""
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ONE_FILE = b"\x0a\x08location\x12"
"""In an ONNX file: a tensor whose numbers lie in another file."""
ASKED = ("findings", "preprocessing", "head", "logits", "probabilities")


class Opened(NamedTuple):
    """A model, and what was taken for granted about it.

    Args:
        classifier: `BlackBox`; a `NetworkClassifier`, which is `Differentiable`, where it is a
            network of this package.
        origin: what it is and whose, in words.
        notes: what was assumed, left out or is doubtful, a sentence each.
    """

    classifier: BlackBox
    origin: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """What the caller says about the model; None leaves it to the file."""

    findings: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    normalisation: str | Normalisation | None
    architecture: str | None
    head: Head | None
    gives: Gives
    channels: int | None
    trust_programs: bool
    device: torch.device
    precision: Literal["bf16", "fp32"]


def open_model(  # noqa: PLR0913
    model: str | Path,
    findings: Sequence[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    normalisation: str | Normalisation | None = None,
    architecture: str | None = None,
    head: Head | None = None,
    gives: Gives = "logits",
    channels: int | None = None,
    trust_programs: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
) -> Opened:
    """Return the model of a file, or the one that a function returns.

    Files of tensors (.safetensors; state dicts of torch.save) are read without running anything.
    TorchScript and ONNX files are programs: they are scanned, then run in a process that can reach
    neither files nor network; where the system can't confine one, they are refused.
    A function's module is imported here, with all that it does: name only what you trust.

    Args:
        model: a file's path, or "module:function" (no file may be called so).
        findings: names of the outputs, in their order; the file's own if left out.
        preprocessing: how a film becomes an image; the file's or its library's if left out.
        normalisation: name in `NORMALISATIONS` or numbers; the library's if left out.
        architecture: name in `networks.ARCHITECTURES`, for state dicts that fit several.
        head: "sigmoid" (if left out) or "softmax".
        gives: what a black box returns, "logits" or "probabilities".
        channels: what a black box takes, 1 or 3; found out if left out.
        trust_programs: run TorchScript and ONNX even where the system can't confine them.
        device: "auto", "cpu", "cuda" or "mps"; black boxes run on the processor.
        precision: "auto", "bf16" or "fp32", for networks of this package.

    Raises:
        StoreError: a file that can't be read, or not without running its code.
        UsageError: names or numbers that don't fit the model, a function that isn't there, or a
            program that this system can't confine.
        LeadapronError: the function failed.
    """
    where = resolve_device(device)
    names = None if findings is None else tuple(findings)
    if names is not None and (not all(names) or len(set(names)) != len(names)):
        raise UsageError(f"--findings {','.join(names)}: a name is empty or comes twice")
    wanted = _Wanted(
        names, preprocessing, normalisation, architecture, head, gives, channels, trust_programs,
        where, resolve_precision(precision, where),
    )  # fmt: skip
    path = Path(model)
    if FACTORY.fullmatch(str(model)) and not path.exists():
        opened = _from_function(str(model), wanted)
    else:
        kind = kind_of(path)
        opened = OPENERS[kind](path, kind, wanted)
    for note in opened.notes:
        logger.warning("%s: %s", path.name, note)
    return opened


def _of_tensors(path: Path, kind: Kind, wanted: _Wanted) -> Opened:
    stored = read_state(path, kind)
    if FORMAT in stored.metadata:
        return _own(path, wanted)
    network = recognise(
        stored, path.name, wanted.findings, wanted.normalisation, wanted.architecture
    )
    notes = list(network.notes)
    preprocessing = wanted.preprocessing
    if preprocessing is None:
        preprocessing = Preprocessing(size=SIZE, aspect=network.maker.aspect)
        notes.append(
            f"ASSUMED: images of {SIZE}x{SIZE} pixels, films made square by "
            f"{network.maker.aspect!r}, as {network.maker.name} does; the file doesn't tell."
        )
    classifier = NetworkClassifier(
        prepare(network.module, wanted.device).eval(),
        network.architecture,
        network.findings,
        preprocessing,
        wanted.head or "sigmoid",
        network.mean,
        network.std,
        precision=wanted.precision,
    )
    origin = f"a {network.architecture} named as {network.maker.name} names it"
    return Opened(classifier, origin, tuple(notes))


def _own(path: Path, wanted: _Wanted) -> Opened:
    classifier = load_classifier(path, device=wanted.device.type, precision=wanted.precision)
    stated = {
        "findings": (wanted.findings, classifier.findings),
        "architecture": (wanted.architecture, classifier.architecture),
        "head": (wanted.head, classifier.head),
        "preprocessing": (wanted.preprocessing, classifier.preprocessing),
    }
    for what, (said, own) in stated.items():
        if said is not None and said != own:
            raise UsageError(
                f"{path.name} states its own {what}, which are others than the ones given; "
                f"leave them out"
            )
    if wanted.normalisation is not None:
        raise UsageError(f"{path.name} states its own normalisation; leave it out")
    return Opened(classifier, f"leadapron's own {classifier.architecture}")


def _archive(path: Path, kind: Kind, wanted: _Wanted) -> Opened:
    with open_regular(path) as file:
        archive = read_archive(file, os.fstat(file.fileno()).st_size, path.name)
        if not archive.scripted:
            return _of_tensors(path, kind, wanted)
        digest = _digest(file)
        refuse_operators(file, archive, path.name)
        return _program(file, path.name, digest, "torchscript", "TorchScript", wanted)


def _onnx(path: Path, _kind: Kind, wanted: _Wanted) -> Opened:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(f'{path.name} needs ONNX Runtime: pip install "leadapron[onnx]"')
    with open_regular(path) as file:
        if ONE_FILE in file.read():
            raise StoreError(
                f"{path.name} keeps weights in other files, which are not read; save it as one file"
            )
        return _program(file, path.name, _digest(file), "onnx", "ONNX", wanted)


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


OPENERS: dict[Kind, Callable[[Path, Kind, _Wanted], Opened]] = {
    "safetensors": _of_tensors,
    "pickle": _of_tensors,
    "archive": _archive,
    "onnx": _onnx,
}


def _program(
    file: IO[bytes], name: str, sha256: str, kind: ProgramKind, words: str, wanted: _Wanted
) -> Opened:
    process = ModelProcess(file, name, kind, sha256, trusted=wanted.trust_programs)
    try:
        limits = process.limits
        named = wanted.findings or stated_findings(limits.metadata or {}) or None
        run = _filled(process, limits.batch) if limits.batch else process
        opened = _asked(
            run, name, words, wanted, named, limits.size, limits.channels, limits.batch
        )  # fmt: skip
    except BaseException:
        process.close()
        raise
    if not limits.half:
        return opened
    note = "It computes in half precision, as it was exported; its answers are coarser."
    return opened._replace(notes=(*opened.notes, note))


def _filled(run: Callable[[Floats], Floats], batch: int) -> Callable[[Floats], Floats]:
    """`run` for a model that takes so many films, no fewer: black ones fill the last batch."""

    def whole(images: Floats) -> Floats:
        missing = batch - len(images)
        return run(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))))[: len(images)]

    return whole


def _asked(
    run: Callable[[Floats], Floats],
    name: str,
    words: str,
    wanted: _Wanted,
    findings: tuple[str, ...] | None,
    size: int | None = None,
    channels: int | None = None,
    batch: int | None = None,
) -> Opened:
    """A black box, asked once about a black image to see what it takes and gives."""
    notes = []
    preprocessing = wanted.preprocessing
    if preprocessing is None:
        preprocessing = Preprocessing(size=size or SIZE)
        if size is None:
            notes.append(f"ASSUMED: images of {SIZE}x{SIZE} pixels, squashed; {words} doesn't say.")
    elif size is not None and size != preprocessing.size:
        raise UsageError(f"{name} takes images of {size} pixels, not {preprocessing.size}")
    if channels is not None and wanted.channels not in (None, channels):
        raise UsageError(f"{name} takes {channels} channels, not {wanted.channels}")
    numbers = (batch or 1) * (channels or 3) * preprocessing.size**2
    if numbers > MOST_NUMBERS:
        raise StoreError(
            f"{name} takes {batch or 1:,} films of {preprocessing.size:,} pixels a side at a time; "
            f"expected at most {MOST_NUMBERS >> 20} million numbers. Export it with a free batch"
        )
    taken, outputs = _probed(run, name, wanted.channels or channels, preprocessing.size, batch or 1)
    if findings is None or len(findings) != outputs:
        said = "doesn't name them" if findings is None else f"{len(findings)} are named"
        raise UsageError(
            f"{name} has {outputs} outputs and {said}; name them in their order by "
            "--findings A,B,..."
        )
    scale = wanted.normalisation
    if isinstance(scale, str):
        if scale not in NORMALISATIONS:
            raise UnknownNameError("normalisation", scale, NORMALISATIONS)
        scale = NORMALISATIONS[scale]
    if scale is None:
        key = "imagenet" if taken == 3 else "unit"
        scale = NORMALISATIONS[key]
        notes.append(
            f"ASSUMED: the normalisation {key!r}, by its {taken} channel{'s' * (taken > 1)} "
            f"alone; {words} doesn't say."
        )
    classifier = AskedClassifier(
        run, tuple(findings), preprocessing, scale, taken, wanted.gives,
        wanted.head or "sigmoid", batch or BATCH,
    )  # fmt: skip
    return Opened(classifier, f"{words}, asked as a black box", tuple(notes))


def _probed(
    run: Callable[[Floats], Floats], name: str, channels: int | None, size: int, batch: int
) -> tuple[int, int]:
    """Channels that a model takes, and outputs that it has."""
    failures: list[StoreError] = []
    for taken in (1, 3) if channels is None else (channels,):
        try:
            given = run(np.zeros((batch, taken, size, size), np.float32))
        except AnswerError:
            raise
        except StoreError as error:
            failures.append(error)
            continue
        if given.ndim != 2 or len(given) != batch or not given.shape[1]:
            raise StoreError(
                f"{name} gives {given.shape} for {batch} image; expected (n, findings)"
            )
        return taken, int(given.shape[1])
    if _takes_channels_last(run, batch, size):
        raise StoreError(
            f"{name} takes (n, {size}, {size}, channels), channels last; expected (n, channels, "
            "height, width): export it channels first"
        )
    causes = dict.fromkeys(str(error).removeprefix(f"{name} ") for error in failures)
    raise StoreError(f"{name} {'; '.join(causes)}")


def _takes_channels_last(run: Callable[[Floats], Floats], batch: int, size: int) -> bool:
    for taken in (1, 3):
        with contextlib.suppress(StoreError):
            run(np.zeros((batch, size, size, taken), np.float32))
            return True
    return False


def _from_function(spec: str, wanted: _Wanted) -> Opened:
    place, _, function = spec.partition(":")
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{spec}: no module {error.name}; expected a file, or module:function on PYTHONPATH"
        ) from None
    except Exception as error:  # the owner's own code
        raise LeadapronError(f"{spec}: importing {place} failed: {first_line(error)}") from error
    make = getattr(module, function, None)
    if not callable(make):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UnknownNameError(f"function of {place}", function, known)
    try:
        made = make()
    except Exception as error:  # the owner's own code
        raise LeadapronError(f"{spec} failed: {first_line(error)}") from error
    if all(hasattr(made, name) for name in ASKED):
        return _of_protocol(made, spec, wanted)
    if not callable(made):
        raise UsageError(
            f"{spec} returned a {type(made).__name__}; expected a classifier (findings, "
            "preprocessing, head, logits, probabilities) or a torch module"
        )
    return _asked(_in_process(made, spec, wanted.device), spec, "a function's model", wanted,
                  wanted.findings)  # fmt: skip


def _of_protocol(made: Any, spec: str, wanted: _Wanted) -> Opened:
    names = made.findings
    fits = isinstance(names, tuple) and all(isinstance(n, str) for n in names) and names
    if not fits or not isinstance(made.preprocessing, Preprocessing):
        raise UsageError(
            f"{spec}: its classifier has findings of type {type(names).__name__} and preprocessing "
            f"of type {type(made.preprocessing).__name__}; expected a tuple of names and "
            "leadapron.Preprocessing"
        )
    if wanted.findings is not None and wanted.findings != names:
        raise UsageError(f"{spec}: its classifier names its own findings; leave --findings out")
    return Opened(made, f"the classifier that {spec} returned")


def _in_process(
    made: Callable[[Any], Any], spec: str, device: torch.device
) -> Callable[[Floats], Floats]:
    if isinstance(made, nn.Module):
        made = made.to(device).eval()

    def run(images: Floats) -> Floats:
        try:
            with torch.inference_mode():
                given = made(torch.from_numpy(images).to(device))
        except Exception as error:  # the owner's own code
            raise StoreError(f"{spec}: its model failed: {first_line(error)}") from error
        if not torch.is_tensor(given) or given.ndim != 2:
            raise StoreError(f"{spec}: its model gives no (n, findings) tensor")
        return given.float().cpu().numpy()

    return run
