"""Opening a classifier from a file or a function."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadapron.errors import LeadapronError, StoreError, UnknownNameError, UsageError
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.card import card_for
from leadapron.models.classifier import (
    FORMAT,
    BlackBox,
    NetworkClassifier,
    batch_size,
    classifier_of,
    prepare,
    resolve_device,
    resolve_precision,
)
from leadapron.models.foreign import agreement
from leadapron.models.foreign.black_box import BlackBoxClassifier
from leadapron.models.foreign.keras_weights import of_keras
from leadapron.models.foreign.library_weights import network_in
from leadapron.models.foreign.probing import probed
from leadapron.models.foreign.process import AnswerError, Limits, ModelProcess, ProgramKind
from leadapron.models.foreign.recognise import (
    NORMALISATIONS,
    SIZE,
    Given,
    Normalisation,
    Recognised,
    UnnamedError,
)
from leadapron.models.parsing.external import External, external_files, scanned, together
from leadapron.models.parsing.formats import ENDINGS, stated_findings
from leadapron.models.parsing.reading import File, Kind, Weights, open_file, open_weights
from leadapron.models.parsing.scan import first_line
from leadapron.models.stated import IMAGE, ModelSettings
from leadapron.reading import is_folder
from leadapron.specs import forgiving
from leadapron.store import sha256_of
from leadapron.text import clean, clean_names
from leadapron.types import Precision

__all__ = ["Opened", "file_of", "open_model"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Gives = Literal["logits", "probabilities"]
Head = Literal["sigmoid", "softmax"]

PART = re.compile(r"-\d{5}-of-(\d{5})\.(safetensors|bin)$")
"""Name of one of several files that hold a model of transformers."""
OF_FOLDER = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a folder of transformers, the first that is there."""
MOST_NAMED = 3
SMALL = 64
"""Side in pixels that every network of this package takes."""
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
        stated: what the caller and the model's card stated of it.
        limits: what a program's header fixes; None of other models.
    """

    classifier: BlackBox
    origin: str
    notes: tuple[str, ...] = ()
    content: str | None = None
    given: Given | None = None
    stated: ModelSettings = ModelSettings()
    limits: Limits | None = None


@dataclass(frozen=True)
class _Wanted:
    """The caller's settings and the card's; None takes those of the file."""

    stated: ModelSettings
    preprocessing: Preprocessing | None
    trust_programs: bool
    device: torch.device
    precision: Literal["bf16", "fp32"]

    def image(self, size: int, aspect: str = "squash") -> Preprocessing:
        """How a film becomes the model's input; as `ModelSettings.image`."""
        return self.preprocessing or self.stated.image(size, aspect)

    @property
    def side(self) -> int | None:
        """Side of the input in pixels, if it is stated."""
        return self.preprocessing.size if self.preprocessing is not None else self.stated.size

    def assumed(self, *names: str) -> tuple[str, ...]:
        """Those of some settings of the input that nobody stated."""
        if self.preprocessing is not None:
            return ()
        return tuple(name for name in names if name not in self.stated.given)


@forgiving
def open_model(  # noqa: PLR0913 (the fields of `ModelSettings`, by keyword)
    model: str | Path,
    findings: Sequence[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    size: int | None = None,
    crop: float | None = None,
    aspect: Literal["squash", "pad", "crop"] | None = None,
    interpolation: Literal["nearest", "nearest-tf1", "bilinear", "bicubic", "area"] | None = None,
    channels: Literal[1, 3] | None = None,
    normalisation: str | Normalisation | None = None,
    head: Head | None = None,
    gives: Gives | None = None,
    architecture: str | None = None,
    weights_key: str | None = None,
    operating_points: Sequence[float] | None = None,
    card: Path | bool = True,
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

    What is left out is the model card's, or else that of other tools' files beside the model, or
    else the model's own or its library's; see `ModelSettings`.

    Args:
        model: a file's path, a folder of transformers (config.json and model.safetensors), or
            "module:function" (no file may be called so).
        findings: names of the outputs, in order; the file's own if left out.
        preprocessing: how a film becomes an image, in place of the next four.
        size: side of the model's input in pixels.
        crop: as `Preprocessing`.
        aspect: as `Preprocessing`.
        interpolation: as `Preprocessing`.
        channels: channels of a black box's input, 1 or 3; detected if left out.
        normalisation: name in `NORMALISATIONS` or numbers; the library's if left out.
        head: "sigmoid" (if left out) or "softmax".
        gives: output of a black box, "logits" (if left out) or "probabilities".
        architecture: name in `networks.ARCHITECTURES`, if several fit; or "timm:NAME".
        weights_key: name of one network in a file that holds several (plain and averaged weights,
            student and teacher); if left out, the error lists the names.
        operating_points: probability of each finding that becomes 0.5, as in torchxrayvision.
        card: a model card; True takes the one beside the model, if it is this file's; False none.
        trust_programs: run TorchScript and ONNX even if the system can't confine them.
        device: "auto", "cpu", "cuda" or "mps"; black boxes run on the processor.
        precision: "auto", "bf16" or "fp32", for networks of this package.

    Raises:
        StoreError: a file that can't be read, or only by running its code; a card that is broken or
            of another file.
        UsageError: settings that don't fit the model, a missing function, or a program that this
            system can't confine.
        LeadapronError: the function failed.
    """
    where = resolve_device(device)
    stated = ModelSettings(
        size=size, crop=crop, aspect=aspect, interpolation=interpolation, channels=channels,
        normalisation=str(normalisation) if normalisation is not None else None, head=head,
        gives=gives, findings=None if findings is None else tuple(findings),
        architecture=architecture, weights_key=weights_key,
        operating_points=None if operating_points is None else tuple(operating_points),
    )  # fmt: skip
    if preprocessing is not None and (twice := [name for name in IMAGE if name in stated.given]):
        raise UsageError(f"`preprocessing` and {', '.join(twice)}: expected one of them")
    wanted = _Wanted(
        stated, preprocessing, trust_programs, where, resolve_precision(precision, where)
    )
    opened = _opened(model, wanted, card)
    for note in opened.notes:
        logger.warning("%s: %s", clean(Path(model).name), note)
    return opened


def _opened(model: str | Path, wanted: _Wanted, card: Path | bool) -> Opened:
    """The model, with what the caller and its card state."""
    path, stated = Path(model), wanted.stated
    function = bool(FACTORY.fullmatch(str(model))) and not path.exists()
    notes: tuple[str, ...] = ()
    content = None
    code = ""
    if not function:
        path = file_of(path)
        if card is not False and path.is_file():
            held = card_for(path, None if card is True else Path(card))
            notes, content, stated = held.notes, held.content, stated.over(held.settings)
            code = held.code
    elif isinstance(card, Path):
        raise UsageError(f"`card` {card}: a card is of a file; {model} is a function")
    wanted = replace(wanted, stated=stated)
    if function:
        _refuse_key(str(model), wanted)
        opened = _from_function(str(model), wanted)
    else:
        with open_file(path) as file, _without_code(file, code):
            opened = OPENERS[file.kind](file, wanted)
    if content not in (None, opened.content):
        raise StoreError(f"{path.name} changed while its card was read; try again")
    return _with_points(opened, stated)._replace(notes=(*notes, *opened.notes), stated=stated)


def file_of(path: Path) -> Path:
    """Return a model's file: the path, or the weights in a folder of transformers.

    Raises:
        UsageError: a folder of models, with their names; one of several files of a model.
    """
    if is_folder(path) and path.joinpath("config.json").is_file():
        for name in OF_FOLDER:
            if path.joinpath(name).is_file():
                return path / name
    _refuse_folder(path)
    _refuse_part(path)
    return path


@contextlib.contextmanager
def _without_code(file: File, code: str) -> Iterator[None]:
    """A better reason for weights that nothing knows, if their code is named beside them."""
    try:
        yield
    except StoreError as error:
        if not code:
            raise
        raise UsageError(
            f"{file.name} needs code of its own ({code}, by auto_map in config.json), which isn't "
            "run; export TorchScript or ONNX, or name a function: module:function"
        ) from error


def _refuse_part(path: Path) -> None:
    part = PART.search(path.name)
    if part is not None and int(part[1]) > 1:
        raise UsageError(
            f"{clean(path.name)} is one of {int(part[1])} parts of a model; expected it in one "
            'file, as save_pretrained(..., max_shard_size="100GB") writes it'
        )


def _refuse_folder(path: Path) -> None:
    found = sorted(n.name for n in path.iterdir() if n.suffix in ENDINGS) if is_folder(path) else []
    if not found:
        return  # opening it says so
    _refuse_part(path / found[0])
    some = ", ".join(clean(name) for name in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    raise UsageError(
        f"{path} is a folder that holds {some}{more}; name one file: {path / clean(found[0])}"
    )


def _with_points(opened: Opened, stated: ModelSettings) -> Opened:
    """The model with its operating points."""
    points, classifier = stated.operating_points, opened.classifier
    if points is None:
        return opened
    if len(points) != len(classifier.findings):
        raise UsageError(
            f"`model.operating_points`: {len(points)} numbers for {len(classifier.findings)} "
            "outputs; expected one for each"
        )
    if not isinstance(classifier, NetworkClassifier | BlackBoxClassifier):
        raise UsageError("`model.operating_points`: a function's classifier applies its own")
    return opened._replace(classifier=replace(classifier, operating_points=points))


def _scale(stated: ModelSettings) -> str | Normalisation | None:
    """A stated normalisation: a name, or numbers."""
    text = stated.normalisation
    return Normalisation.parsed(text) if text is not None and "/" in text else text


def _refuse_key(name: str, wanted: _Wanted) -> None:
    if wanted.stated.weights_key is not None:
        raise UsageError(f"{name} holds one network; leave `model.weights_key` out")


def _of_weights(file: File, wanted: _Wanted) -> Opened:
    with open_weights(file) as weights:
        if not weights.program:
            read = _own if FORMAT in weights.metadata else _foreign
            return read(weights, wanted)._replace(content=weights.sha256)
        network = agreement.fitting(weights, wanted.stated.findings, wanted.stated.architecture)
        white = None if network is None else _foreign(weights, wanted)
    program = _program(file, weights.sha256, "torchscript", "TorchScript", wanted)
    if network is None or white is None:
        return program
    return _stands_for(network, white, program, "TorchScript")


def _stands_for(network: Recognised, white: Opened, program: Opened, words: str) -> Opened:
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
    origin = f"{words}, opened as {white.origin}"
    return Opened(white.classifier, origin, (*white.notes, note), program.content)


def _foreign(weights: Weights, wanted: _Wanted) -> Opened:
    stated = wanted.stated
    if not weights.program:
        _refuse_probabilities(weights.name, stated)
    network = network_in(
        weights, stated.findings, _scale(stated), stated.architecture, stated.weights_key,
        channels=stated.channels, size=wanted.side,
    )  # fmt: skip
    notes = list(network.notes)
    preprocessing = wanted.image(network.size, network.maker.aspect)
    said = {
        "size": f"images of {network.size}x{network.size} pixels (--model.size N states others)",
        "aspect": f"films made square by {network.maker.aspect!r}, as {network.maker.name} does",
    }
    if missing := wanted.assumed("size", "aspect"):
        notes.append(
            f"ASSUMED: {', '.join(said[name] for name in missing)}; the file doesn't state it."
        )
    classifier = NetworkClassifier(
        prepare(network.module, wanted.device).eval(),
        network.architecture,
        network.findings,
        preprocessing,
        stated.head or "sigmoid",
        network.mean,
        network.std,
        precision=wanted.precision,
        operating_points=network.operating_points,
    )
    if preprocessing.size < SMALL:
        _refuse_small(classifier, weights.name)
    origin = f"a {network.architecture} with the layer names of {network.maker.name}"
    return Opened(classifier, origin, tuple(notes), given=network.given)


def _refuse_small(classifier: NetworkClassifier, name: str) -> None:
    """UsageError for images that are too small for a network's layers."""

    def runs(size: int) -> bool:
        try:
            classifier.logits(np.zeros((1, size, size), np.uint8))
        except RuntimeError:
            return False
        return True

    size = classifier.preprocessing.size
    if not runs(size):
        least = next(more for more in range(size + 1, SMALL + 1) if more == SMALL or runs(more))
        raise UsageError(
            f"`model.size` {size}: {name} is a {classifier.architecture}, which takes {least} "
            "pixels or more"
        )


def _own(weights: Weights, wanted: _Wanted) -> Opened:
    _refuse_key(weights.name, wanted)
    classifier = classifier_of(weights, wanted.device, wanted.precision)
    stated = wanted.stated
    _refuse_probabilities(weights.name, stated)
    own = classifier.preprocessing
    image = {name: getattr(own, name) for name in IMAGE}
    said = {
        "findings": classifier.findings,
        "architecture": classifier.architecture,
        "head": classifier.head,
        "normalisation": str(Normalisation((classifier.mean,), (classifier.std,))),
        **image,
    }
    given: dict[str, Any] = {name: v for name, v in stated.given.items() if name in said}
    if given.get("normalisation") in NORMALISATIONS:
        given["normalisation"] = str(NORMALISATIONS[given["normalisation"]])
    others = [name for name, value in given.items() if value != said[name]]
    if wanted.preprocessing not in (None, own):
        others.append("preprocessing")
    if others:
        raise UsageError(
            f"{weights.name} states its own {', '.join(others)}, which differ from the given ones; "
            "leave them out"
        )
    return Opened(classifier, f"leadapron's own {classifier.architecture}")


def _refuse_probabilities(name: str, stated: ModelSettings) -> None:
    if stated.gives == "probabilities":
        raise UsageError(
            f"`model.gives` probabilities: {name} holds weights, whose last layer gives logits; "
            "leave it out"
        )


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


def _from_layers(process: ModelProcess, sha256: str, program: Opened, wanted: _Wanted) -> Opened:
    """The network of a Keras model's layers if it is a known one, else the program."""
    box = program.classifier
    found = of_keras(process.layers(), process.name, sha256)
    if found is None or not isinstance(box, BlackBoxClassifier):
        return program
    # What the box takes, and then what the model's own rescaling makes of it.
    taken = box.normalisation.then(found.scale)
    network = agreement.fitting(found.weights, box.findings, found.architecture, found.scale)
    if network is None:
        return program
    settings = ModelSettings(
        normalisation=str(taken), findings=box.findings, architecture=found.architecture,
        head=box.head,
    )  # fmt: skip
    whole = replace(wanted, stated=settings, preprocessing=box.preprocessing)
    white = _foreign(found.weights, whole)._replace(given=None)
    opened = _stands_for(network, white, program, "Keras")
    # What was taken for granted of the program holds for the network too.
    kept = [note for note in program.notes if note not in opened.notes]
    return opened._replace(notes=(*kept, *opened.notes))


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
        named = wanted.stated.findings or _named(limits.metadata or {}, file.name)
        process.outputs = None if named is None else len(named)
        opened = _asked(process, file.name, words, wanted, named, limits)
        if kind == "keras":
            opened = _from_layers(process, sha256, opened, wanted)
        runs = isinstance(opened.classifier, BlackBoxClassifier)
        opened = opened._replace(content=sha256, limits=limits if runs else None)
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
    size, channels, batch = limits.size, limits.channels, limits.batch
    notes, stated = [], wanted.stated
    preprocessing = wanted.image(size or SIZE)
    if size is None and wanted.assumed("size"):
        notes.append(
            f"ASSUMED: images of {SIZE}x{SIZE} pixels, made square by {preprocessing.aspect!r}; "
            f"{words} doesn't state it (--model.size N states others)."
        )
    if size is not None and size != preprocessing.size:
        raise UsageError(f"{name} takes images of {size} pixels, not {preprocessing.size}")
    if channels is not None and stated.channels not in (None, channels):
        raise UsageError(f"{name} takes {channels} channels, not {stated.channels}")
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
        channels=stated.channels or channels,
        batch=batch,
        last=limits.last,
    )
    notes += found.notes
    taken = found.channels
    if findings is None or len(findings) != found.outputs:
        said = "doesn't name them" if findings is None else f"{len(findings)} are named"
        raise UnnamedError(
            f"{name} has {found.outputs} output{'s' * (found.outputs > 1)} and {said}; name them "
            "in their order by `model.findings` A,B,...",
            found.outputs,
        )
    scale = _scale(stated)
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
    gives, head = stated.gives or "logits", stated.head or "sigmoid"
    if limits.activation is not None:
        gives, head = "probabilities", stated.head or limits.activation
        notes.append(f"Its last layer is a {limits.activation}, so it gives probabilities.")
    classifier = BlackBoxClassifier(
        found.run, tuple(findings), preprocessing, scale, taken, gives, head,
        found.batch or batch_size((1, preprocessing.size, preprocessing.size)),
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
                  wanted.stated.findings)  # fmt: skip


def _of_protocol(made: Any, spec: str, wanted: _Wanted) -> Opened:
    names = made.findings
    fits = isinstance(names, tuple) and all(isinstance(n, str) for n in names) and names
    if not fits or not isinstance(made.preprocessing, Preprocessing):
        raise UsageError(
            f"{spec}: its classifier has findings of type {type(names).__name__} and preprocessing "
            f"of type {type(made.preprocessing).__name__}; expected a tuple of names and "
            "leadapron.Preprocessing"
        )
    if wanted.stated.findings not in (None, names):
        raise UsageError(
            f"{spec}: its classifier names its own findings; leave `model.findings` out"
        )
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
