"""Opening a classifier from a file or a function."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.errors import LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import (
    FORMAT,
    BlackBox,
    NetworkClassifier,
    classifier_of,
    prepare,
    resolve_device,
    resolve_precision,
)
from leadapron.models.foreign import agreement
from leadapron.models.foreign.black_box import BATCH, BlackBoxClassifier
from leadapron.models.foreign.probing import probed
from leadapron.models.foreign.process import AnswerError, Limits, ModelProcess, ProgramKind
from leadapron.models.foreign.recognise import (
    NORMALISATIONS,
    SIZE,
    Given,
    Normalisation,
    Recognised,
    recognise,
)
from leadapron.models.parsing.external import External, external_files, scanned, together
from leadapron.models.parsing.formats import stated_findings
from leadapron.models.parsing.reading import File, Kind, Weights, open_file, open_weights
from leadapron.models.parsing.scan import first_line
from leadapron.specs import forgiving
from leadapron.store import sha256_of
from leadapron.text import clean, clean_names
from leadapron.types import Precision

__all__ = ["Opened", "open_model"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Gives = Literal["logits", "probabilities"]
Head = Literal["sigmoid", "softmax"]

MOST_NUMBERS = 1 << 28
"""Most numbers in a black box's input (1 GiB)."""
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ASKED = ("findings", "preprocessing", "head", "logits", "probabilities")


class Opened(NamedTuple):
    """A model, and the assumptions made about it.

    Args:
        classifier: `BlackBox`; `Differentiable` if its weights fit a network of this package.
        origin: description of the model and its library.
        notes: assumptions, omissions and warnings, one sentence each.
        content: SHA-256, in hex, of the file that was opened, as `external.content_of`; None of a
            function's model.
        given: where a state dict of another library holds the weights; None of other files.
    """

    classifier: BlackBox
    origin: str
    notes: tuple[str, ...] = ()
    content: str | None = None
    given: Given | None = None


@dataclass(frozen=True)
class _Wanted:
    """The caller's settings; None takes those of the file."""

    findings: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    normalisation: str | Normalisation | None
    architecture: str | None
    head: Head | None
    gives: Gives
    channels: int | None
    weights_key: str | None
    trust_programs: bool
    device: torch.device
    precision: Literal["bf16", "fp32"]


@forgiving
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
    weights_key: str | None = None,
    trust_programs: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
) -> Opened:
    """Return the model of a file, or the one that a function returns.

    Files of tensors (.safetensors; state dicts and whole networks of torch.save; .pt2) are read
    without running anything. TorchScript, ONNX and Keras files are programs: they are scanned, then
    run in a confined process without access to files or network. TorchScript whose outputs are
    those of the network that its tensors fit is opened as that network. If the system can't confine
    a process, programs are refused. A
    function's module is imported in this process, with all its side effects: name only code that
    you trust.

    Args:
        model: a file's path, or "module:function" (no file may be called so).
        findings: names of the outputs, in order; the file's own if left out.
        preprocessing: how a film becomes an image; the file's or its library's if left out.
        normalisation: name in `NORMALISATIONS` or numbers; the library's if left out.
        architecture: name in `networks.ARCHITECTURES`, for state dicts that fit several.
        head: "sigmoid" (if left out) or "softmax".
        gives: output of a black box, "logits" or "probabilities".
        channels: channels of a black box's input, 1 or 3; detected if left out.
        weights_key: name of one network in a file that holds several (plain and averaged weights,
            student and teacher); if left out, the error lists the names.
        trust_programs: run TorchScript and ONNX even if the system can't confine them.
        device: "auto", "cpu", "cuda" or "mps"; black boxes run on the processor.
        precision: "auto", "bf16" or "fp32", for networks of this package.

    Raises:
        StoreError: a file that can't be read, or only by running its code.
        UsageError: settings that don't fit the model, a missing function, or a program that this
            system can't confine.
        LeadapronError: the function failed.
    """
    where = resolve_device(device)
    names = None if findings is None else tuple(findings)
    if names is not None and (not all(names) or len(set(names)) != len(names)):
        raise UsageError(f"`findings` {','.join(names)}: a name is empty or repeated")
    wanted = _Wanted(
        names, preprocessing, normalisation, architecture, head, gives, channels, weights_key,
        trust_programs, where, resolve_precision(precision, where),
    )  # fmt: skip
    path = Path(model)
    if FACTORY.fullmatch(str(model)) and not path.exists():
        _refuse_key(str(model), wanted)
        opened = _from_function(str(model), wanted)
    else:
        with open_file(path) as file:
            opened = OPENERS[file.kind](file, wanted)
    for note in opened.notes:
        logger.warning("%s: %s", clean(path.name), note)
    return opened


def _refuse_key(name: str, wanted: _Wanted) -> None:
    if wanted.weights_key is not None:
        raise UsageError(f"{name} holds one network; leave `weights_key` out")


def _of_weights(file: File, wanted: _Wanted) -> Opened:
    with open_weights(file) as weights:
        if not weights.program:
            read = _own if FORMAT in weights.metadata else _foreign
            return read(weights, wanted)._replace(content=weights.sha256)
        network = agreement.fitting(weights, wanted.findings, wanted.architecture)
        white = None if network is None else _foreign(weights, wanted)
    program = _program(file, weights.sha256, "torchscript", "TorchScript", wanted)
    if network is None or white is None:
        return program
    return _stands_for(network, white, program)


def _stands_for(network: Recognised, white: Opened, program: Opened) -> Opened:
    """The network of a program's tensors if the program computes the same, else the program."""
    box = program.classifier
    if not isinstance(box, BlackBoxClassifier):
        return program
    difference, gives = agreement.compare(network, box)
    images = f"{agreement.IMAGES} random images"
    if not difference <= agreement.TOLERANCE:
        note = (
            f"DOUBT: its tensors fit {network.architecture}, but its outputs for {images} differ "
            f"from that network's by {difference:.2g} of the largest, so it was opened as a black "
            "box."
        )
        return program._replace(notes=(*program.notes, note))
    note = (
        f"Its tensors fit {network.architecture}, and for {images} its program gives that "
        f"network's {gives} (difference {difference:.0e} of the largest); what else its code does "
        "isn't seen."
    )
    origin = f"TorchScript, opened as {white.origin}"
    return Opened(white.classifier, origin, (*white.notes, note), program.content)


def _foreign(weights: Weights, wanted: _Wanted) -> Opened:
    network = recognise(
        weights, wanted.findings, wanted.normalisation, wanted.architecture, wanted.weights_key
    )
    notes = list(network.notes)
    preprocessing = wanted.preprocessing
    if preprocessing is None:
        preprocessing = Preprocessing(size=network.size, aspect=network.maker.aspect)
        notes.append(
            f"ASSUMED: images of {network.size}x{network.size} pixels, films made square by "
            f"{network.maker.aspect!r}, as {network.maker.name} does; the file doesn't state it."
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
        operating_points=network.operating_points,
    )
    origin = f"a {network.architecture} with the layer names of {network.maker.name}"
    return Opened(classifier, origin, tuple(notes), given=network.given)


def _own(weights: Weights, wanted: _Wanted) -> Opened:
    _refuse_key(weights.name, wanted)
    classifier = classifier_of(weights, wanted.device, wanted.precision)
    stated = {
        "findings": (wanted.findings, classifier.findings),
        "architecture": (wanted.architecture, classifier.architecture),
        "head": (wanted.head, classifier.head),
        "preprocessing": (wanted.preprocessing, classifier.preprocessing),
    }
    for what, (said, own) in stated.items():
        if said is not None and said != own:
            raise UsageError(
                f"{weights.name} states its own {what}, which differ from the given ones; "
                "leave them out"
            )
    if wanted.normalisation is not None:
        raise UsageError(f"{weights.name} states its own normalisation; leave it out")
    return Opened(classifier, f"leadapron's own {classifier.architecture}")


def _onnx(file: File, wanted: _Wanted) -> Opened:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(f'{file.name} needs ONNX Runtime: pip install "leadapron[onnx]"')
    own, names = scanned(file)
    with external_files(file, names) as others:
        opened = _program(file, own, "onnx", "ONNX", wanted, others)
        return opened._replace(content=together(own, others))


def _keras(file: File, wanted: _Wanted) -> Opened:
    if importlib.util.find_spec("keras") is None:
        raise UsageError(f'{file.name} needs Keras: pip install "leadapron[keras]"')
    return _program(file, sha256_of(file.path), "keras", "Keras", wanted)


OPENERS: dict[Kind, Callable[[File, _Wanted], Opened]] = {
    "safetensors": _of_weights,
    "pickle": _of_weights,
    "archive": _of_weights,
    "onnx": _onnx,
    "keras": _keras,
}


def _program(
    file: File,
    sha256: str,
    kind: ProgramKind,
    words: str,
    wanted: _Wanted,
    others: Sequence[External] = (),
) -> Opened:
    _refuse_key(file.name, wanted)
    process = ModelProcess(
        file.stream,
        file.name,
        kind,
        sha256,
        others=others,
        trusted=wanted.trust_programs,
    )
    try:
        limits = process.limits
        named = wanted.findings or _named(limits.metadata or {}, file.name)
        process.outputs = None if named is None else len(named)
        opened = _asked(process, file.name, words, wanted, named, limits)._replace(content=sha256)
    except BaseException:
        process.close()
        raise
    half = "It was exported in half precision, so its outputs are coarser." if limits.half else ""
    more = [note for note in (process.taken, half) if note]
    return opened._replace(notes=(*opened.notes, *more))


def _named(metadata: Mapping[str, str], name: str) -> tuple[str, ...] | None:
    try:
        return clean_names(stated_findings(metadata)) or None
    except ValueError as error:
        raise StoreError(f"{name}: {error}") from None


def _asked(
    run: Callable[[Floats], Floats],
    name: str,
    words: str,
    wanted: _Wanted,
    findings: tuple[str, ...] | None,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> Opened:
    """A black box, run once on a black image to find the shapes of its input and output."""
    notes = []
    size, channels, batch = limits.size, limits.channels, limits.batch
    preprocessing = wanted.preprocessing
    if preprocessing is None:
        preprocessing = Preprocessing(size=size or SIZE)
        if size is None:
            notes.append(
                f"ASSUMED: images of {SIZE}x{SIZE} pixels, squashed; {words} doesn't state it."
            )
    elif size is not None and size != preprocessing.size:
        raise UsageError(f"{name} takes images of {size} pixels, not {preprocessing.size}")
    if channels is not None and wanted.channels not in (None, channels):
        raise UsageError(f"{name} takes {channels} channels, not {wanted.channels}")
    numbers = (batch or 1) * (channels or 3) * preprocessing.size**2
    if numbers > MOST_NUMBERS:
        raise StoreError(
            f"{name} takes batches of {batch or 1:,} films of {preprocessing.size:,} pixels a "
            "side; "
            f"expected at most {MOST_NUMBERS >> 20} million numbers. Export it with a free batch "
            "size"
        )
    found = probed(
        run,
        name,
        preprocessing.size,
        channels=wanted.channels or channels,
        batch=batch,
        last=limits.last,
    )
    notes += found.notes
    taken = found.channels
    if findings is None or len(findings) != found.outputs:
        said = "doesn't name them" if findings is None else f"{len(findings)} are named"
        raise UsageError(
            f"{name} has {found.outputs} outputs and {said}; name them in their order by "
            "`findings` A,B,..."
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
            f"ASSUMED: the normalisation {key!r}, only because it has {taken} "
            f"channel{'s' * (taken > 1)}; "
            f"{words} doesn't state it."
        )
    gives, head = wanted.gives, wanted.head or "sigmoid"
    if limits.activation is not None:
        gives, head = "probabilities", wanted.head or limits.activation
        notes.append(f"Its last layer is a {limits.activation}, so it gives probabilities.")
    classifier = BlackBoxClassifier(
        found.run, tuple(findings), preprocessing, scale, taken, gives, head,
        found.batch or BATCH,
    )  # fmt: skip
    return Opened(classifier, f"{words}, opened as a black box", tuple(notes))


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
        raise UsageError(f"{spec}: its classifier names its own findings; leave `findings` out")
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
            raise AnswerError(f"{spec}: its model gives no (n, findings) tensor")
        return given.float().cpu().numpy()

    return run
