"""A gate on disk: a JSON file says what it is of, a safetensors file beside it holds its numbers.

Both are for their owner alone: they are made of patients' films. What is read back is checked as
what comes from outside: sizes before reading, then names, shapes and numbers; nothing is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from leadapron import __version__
from leadapron.detect.inputs.gate import Gate, fuse
from leadapron.detect.inputs.readings import InputDetector, State
from leadapron.documents import Finite, dump, parsed
from leadapron.errors import LeadapronError, StoreError, UsageError
from leadapron.films.preprocessing import FEWEST, Preprocessing
from leadapron.outside import code_of
from leadapron.plugins import OPTION, refuse_plugins
from leadapron.reading import open_regular, read_regular
from leadapron.specs import build
from leadapron.store import (
    RESULTS_VERSION,
    canonical_json,
    reason,
    write_atomically,
)

__all__ = ["GateDocument", "GatedModel", "StoredGate", "numbers_of", "read_gate", "write_gate"]

FORMAT: Final = "leadapron gate"

LARGEST_FACTS, LARGEST_NUMBERS = 1 << 20, 1 << 30
"""Bytes of the two files that are read."""

DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float32", "float64")

OPENING = {"architecture", "channels", "gives", "head", "named", "normalisation", "weights_key"}
"""What a gate may say of how its model is opened."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class GatedModel:
    """The model that a gate is of, and how it must be opened to answer as it did.

    Args:
        path: its file.
        sha256: of the file's content, 64 hex digits; "" of a model without a file.
        findings: names of its outputs, in their order.
        preprocessing: how a film becomes its input.
        opening: options of `open_model` that the file doesn't state: texts, numbers or None.
        precision: that it computed in; "auto" of a model that can only be asked.
    """

    path: Path
    sha256: str
    findings: tuple[str, ...]
    preprocessing: Preprocessing
    opening: Mapping[str, str | int | None]
    precision: Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredGate:
    """A gate, and what must be known to use it elsewhere.

    Args:
        gate: the detectors with what they keep of clean films.
        model: that it is of.
        window: of DICOM files, as `FilmFiles.window`.
        bits: of pictures of 16 bits, as `FilmFiles.bits`; 0 where the films had none.
        fitted: clean films that detectors and steps were fitted on.
        milliseconds: a film, as measured where it was calibrated.
        notes: what was assumed or left out, a sentence each.
    """

    gate: Gate
    model: GatedModel
    window: str
    bits: int
    fitted: int
    milliseconds: float
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """How many clean films' pixels it holds."""
        side = self.model.preprocessing.size
        return sum(
            len(array)
            for state in self.gate.states.values()
            for array in state.values()
            if array.shape[1:] == (side, side) and array.dtype.kind == "u"
        )

    @property
    def statement(self) -> str:
        """What kind of data it is, in a sentence."""
        count = len(self.gate.fused) + self.fitted
        return (
            f"Made from patient data: it holds the pixels of {self.pixels} clean films and "
            f"statistics of {count:,}; keep it where those films may be kept."
        )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A detector: its class's name, and the parameters that differ between two of it.

    Args:
        kind: the class's name.
        parameters: by name.
        code: SHA-256 of its source where it is a plugin's; "" of the package's own.
    """

    kind: str
    parameters: Mapping[str, Any]
    code: str


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An array of the numbers' file."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class FilmCounts:
    """Clean films that detectors were fitted on, and that set the threshold."""

    fitted: int
    calibration: int


@dataclass(frozen=True, kw_only=True)
class NumbersFile:
    """The file of the numbers: its name, and SHA-256 of its content."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class GateDocument:
    """What a gate's JSON file says.

    Args:
        format: by which a gate is known.
        leadapron: version that wrote it.
        results_version: of the scores.
        statement: what kind of data it is.
        model: that it is of; its path is relative where it lies below the gate's folder.
        window: as `StoredGate`.
        bits: as `StoredGate`.
        detectors: by name.
        typical: the out-of-distribution detector.
        weights: scores and their weights, in the order of the columns of `scores`.
        false_alarm: share of clean films that is called suspicious, at most.
        threshold: that the scores of suspicious films exceed.
        films: that it rests on.
        patients: of those that set the threshold.
        passes: of the model, for a film.
        milliseconds: as `StoredGate`.
        notes: as `StoredGate`.
        arrays: of the numbers' file, by name.
        numbers: that file; None in the copy of this document that the file itself holds.
    """

    SCHEMA: ClassVar[int] = 1

    format: Literal["leadapron gate"]
    leadapron: str
    results_version: int
    statement: str
    model: GatedModel
    window: str
    bits: int
    detectors: Mapping[str, Kind]
    typical: Kind | None
    weights: tuple[tuple[str, Finite], ...]
    false_alarm: Finite
    threshold: Finite
    films: FilmCounts
    patients: int
    passes: int
    milliseconds: Finite
    notes: tuple[str, ...]
    arrays: Mapping[str, Shape]
    numbers: NumbersFile | None = None


def numbers_of(path: Path) -> Path:
    """Return the file beside a gate's JSON file that holds its numbers."""
    return path.with_suffix(".safetensors")


def write_gate(path: Path, stored: StoredGate) -> None:
    """Write a gate: both files, or none.

    Args:
        path: the JSON file, ending in .json; the numbers go beside it. Gates of that name are
            replaced.
        stored: what is written.

    Raises:
        UsageError: another ending, files of that name that are no gate's, or a model without a
            file.
        StoreError: files that can't be written, or numbers that can't be kept.
    """
    refuse_others(path)
    if not stored.model.sha256:
        raise UsageError("a gate on disk is tied to a model file's content; this model has no file")
    arrays = _arrays(stored.gate)
    document = _document(stored, path.absolute().parent, arrays)
    numbers = save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()},
        {FORMAT: canonical_json(_unnumbered(dump(document)))},
    )
    named = NumbersFile(file=numbers_of(path).name, sha256=hashlib.sha256(numbers).hexdigest())
    facts = dump(replace(document, numbers=named))
    text = json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n"
    fresh = not numbers_of(path).exists()
    try:
        # The JSON file is whole, but for its name, before the numbers get theirs.
        with write_atomically(path) as file:
            file.write(text.encode())
            file.flush()
            with write_atomically(numbers_of(path)) as beside:
                beside.write(numbers)
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):
                numbers_of(path).unlink()
        raise


def refuse_others(path: Path) -> None:
    """Raise UsageError where a gate of this name would replace what is no gate."""
    if path.suffix != ".json":
        raise UsageError(f"{path.name}: expected a name that ends in .json, as gate.json")
    for there in (path, numbers_of(path)):
        if not there.exists():
            continue
        head = b""
        with contextlib.suppress(OSError), open_regular(there) as file:
            head = file.read(LARGEST_FACTS)
        if FORMAT.encode() not in head:
            raise UsageError(f"{there} is there and is no gate; name another by `out`")


def read_gate(
    path: Path, registry: Mapping[str, InputDetector], typical: InputDetector | None
) -> StoredGate:
    """Return the gate that `write_gate` wrote.

    Args:
        path: the JSON file.
        registry: detectors by name; those of the gate are made like them, with its parameters.
        typical: the detector of untypical films, whose parameters are the gate's too.

    Raises:
        StoreError: files that can't be read, are no gate's, were changed or don't fit together, or
            a detector that isn't known.
    """
    facts = _read_facts(path)
    refuse_plugins(facts, path.name)
    content = _bounded(numbers_of(path), LARGEST_NUMBERS)
    try:
        document = parsed(GateDocument, json.dumps(facts))
        digest = hashlib.sha256(content).hexdigest()
        if document.numbers is None or digest != document.numbers.sha256:
            raise StoreError(
                f"{numbers_of(path).name} is not the file that {path.name} was written with; "
                "calibrate again"
            )
        if _stated(content) != canonical_json(_unnumbered(facts)):
            raise StoreError(f"{path.name} was changed since it was written; calibrate again")
        return _stored(document, load(content), path, registry, typical)
    except StoreError:
        raise
    except SafetensorError as error:
        raise StoreError(f"{numbers_of(path).name} is no safetensors file ({error})") from error
    except (
        KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError,
        LeadapronError,
    ) as error:  # fmt: skip
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path.name} does not describe a gate: {words}") from error


# --- writing


def _arrays(gate: Gate) -> Arrays:
    """All numbers by name; StoreError where they couldn't be read back."""
    arrays: Arrays = {
        "steps": gate.steps,
        "scores": gate.scores,
        "fused": gate.fused,
        "typicality": gate.typicality,
    }
    for name, state in gate.states.items():
        arrays |= {f"state/{name}/{key}": np.asarray(value) for key, value in state.items()}
    if gate.typical is not None:
        arrays |= {f"typical/{key}": np.asarray(v) for key, v in gate.typical[1].items()}
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise StoreError(f"a gate can't keep {name}, an array of {array.dtype}")
        if name != "scores" and not np.isfinite(array).all():
            raise StoreError(f"a gate can't keep {name}: not all of its numbers are finite")
    return arrays


def _document(stored: StoredGate, folder: Path, arrays: Arrays) -> GateDocument:
    gate, model = stored.gate, stored.model
    where = model.path.absolute()
    if where.is_relative_to(folder):  # a folder with both can be moved
        where = where.relative_to(folder)
    return GateDocument(
        format=FORMAT,
        leadapron=__version__,
        results_version=RESULTS_VERSION,
        statement=stored.statement,
        model=replace(model, path=where),
        window=stored.window,
        bits=stored.bits,
        detectors={name: _kind(each) for name, each in gate.detectors.items()},
        typical=None if gate.typical is None else _kind(gate.typical[0]),
        weights=tuple(gate.weights.items()),
        false_alarm=gate.false_alarm,
        threshold=gate.threshold,
        films=FilmCounts(fitted=stored.fitted, calibration=len(gate.fused)),
        patients=gate.patients,
        passes=gate.passes,
        milliseconds=stored.milliseconds,
        notes=tuple(stored.notes),
        arrays={name: _shape(array) for name, array in arrays.items()},
    )


def _kind(detector: InputDetector) -> Kind:
    named: Any = detector  # a frozen dataclass, says the protocol
    values = {f.name: getattr(named, f.name) for f in fields(named) if f.init}
    name = type(detector).__name__
    code = code_of(detector, f"input detector {name}")
    return Kind(kind=name, parameters=values, code=code)


def _shape(array: NDArray[Any]) -> Shape:
    return Shape(shape=tuple(array.shape), dtype=str(array.dtype))


def _unnumbered(facts: Mapping[str, object]) -> Mapping[str, object]:
    """A document as the numbers' file repeats it: it can't state its own hash."""
    return {name: value for name, value in facts.items() if name != "numbers"}


# --- reading


_EXPECTED = "expected a file that leadapron calibrate wrote"


def _bounded(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}; {_EXPECTED}") from error


def _read_facts(path: Path) -> Mapping[str, object]:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number")

    try:
        facts = json.loads(_bounded(path, LARGEST_FACTS), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"{path} is no gate (not JSON: {words}); {_EXPECTED}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise StoreError(f"{path} is no gate; {_EXPECTED}")
    if (
        facts.get("schema") != GateDocument.SCHEMA
        or facts.get("results_version") != RESULTS_VERSION
    ):
        raise StoreError(
            f"{path} was written by another version, whose scores may differ; calibrate again"
        )
    return facts


def _stated(content: bytes) -> str:
    """The facts that the numbers' file repeats."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, 4 * LARGEST_FACTS):
        raise SafetensorError("its header is too long")
    said = json.loads(content[8 : 8 + length])["__metadata__"][FORMAT]
    return str(said)


def _stored(
    document: GateDocument,
    arrays: Arrays,
    path: Path,
    registry: Mapping[str, InputDetector],
    typical: InputDetector | None,
) -> StoredGate:
    _check_arrays(document.arrays, arrays)
    model = document.model
    if unknown := set(model.opening) - OPENING:
        raise ValueError(f"models aren't opened by {', '.join(sorted(unknown))}")
    untypical: tuple[InputDetector, State] | None = None
    if document.typical is not None:
        made = _made(document.typical.kind, document.typical, typical)
        untypical = made, _state(arrays, "typical/")
    gate = Gate(
        detectors={
            name: _made(name, kind, registry.get(name)) for name, kind in document.detectors.items()
        },
        states={name: _state(arrays, f"state/{name}/") for name in document.detectors},
        typical=untypical,
        weights=dict(document.weights),
        steps=arrays["steps"],
        scores=arrays["scores"],
        fused=arrays["fused"],
        typicality=arrays["typicality"],
        false_alarm=document.false_alarm,
        patients=document.patients,
    )
    _check_scores(gate, document.threshold)
    return StoredGate(
        gate=gate,
        model=replace(model, path=path.absolute().parent / model.path),
        window=document.window,
        bits=_bits(document.bits),
        fitted=document.films.fitted,
        milliseconds=document.milliseconds,
        notes=document.notes,
    )


def _bits(stated: int) -> int:
    if stated not in (0, *range(FEWEST, 17)):
        raise ValueError(f"films of {stated} bits")
    return stated


def _made(name: str, stated: Kind, like: InputDetector | None) -> InputDetector:
    if like is None or type(like).__name__ != stated.kind:
        raise StoreError(
            f"the gate uses the detector {name!r} ({stated.kind}), which isn't here; one of a "
            f"plugin needs {OPTION}, else calibrate again"
        )
    if code_of(like, f"input detector {name}") != stated.code:
        raise StoreError(
            f"the input detector {name} is no longer what the gate was calibrated with (another "
            "source's SHA-256); calibrate again"
        )
    return build(type(like), stated.parameters, f"detector {name}")


def _state(arrays: Arrays, prefix: str) -> State:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name[: len(prefix)] == prefix
    }


def _check_arrays(stated: Mapping[str, Shape], arrays: Arrays) -> None:
    """Raise ValueError where arrays aren't those that the facts list, or hold no numbers."""
    if {name: _shape(array) for name, array in arrays.items()} != stated:
        raise ValueError("its numbers have other names, shapes or types than it states")
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise ValueError(f"{name} is of {array.dtype}")
        if name != "scores" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that aren't finite")


def _check_scores(gate: Gate, threshold: float) -> None:
    """Raise ValueError where the calibration scores aren't those of these weights and threshold."""
    m, rate = len(gate.fused), gate.false_alarm
    right = {
        "false_alarm": 0 < rate < 1 and rate * (m + 1) >= 1 - 1e-9,
        "steps": gate.steps.shape == (2, len(gate.weights)),
        "scores": gate.scores.shape == (m, len(gate.weights)) and not np.isinf(gate.scores).any(),
        "calibration": gate.fused.shape == gate.typicality.shape == (m,)
        and bool((np.diff(gate.fused) >= 0).all() and (np.diff(gate.typicality) >= 0).all()),
        "weights": all(weight >= 0 for weight in gate.weights.values()),
    }
    wrong = [name for name, fits in right.items() if not fits]
    if wrong:
        raise ValueError(f"{' and '.join(wrong)} not as expected")
    if not math.isclose(threshold, gate.threshold, rel_tol=1e-9):
        raise ValueError("its threshold is not that of its calibration scores")
    if not np.allclose(np.sort(fuse(gate.scores, gate.steps, gate.weights)), gate.fused):
        raise ValueError("its calibration scores don't fuse to what it states")
