"""A gate on disk: a JSON file with its description, and a safetensors file with its numbers.

Only their owner can read them, since they contain patient data. Files are read as untrusted input:
sizes are checked first, then names, shapes and numbers; nothing is run.
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
from leadapron.models.stated import IMAGE, ModelSettings
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
"""Most bytes of the two files."""

DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float32", "float64")

KEPT = {each.name for each in fields(ModelSettings) if each.name not in (*IMAGE, "findings")}
"""Settings of a model that a gate keeps as they were stated; it has findings and images anyway."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class GatedModel:
    """The model a gate was calibrated for, and the options needed to reload it identically.

    Args:
        path: the model's file.
        sha256: SHA-256 of the file's content, 64 hex digits; "" for a model without a file.
        findings: names of its outputs, in order.
        preprocessing: how a film becomes its input.
        opening: what was stated of the model, as `ModelSettings`, and whether its findings were.
        precision: its precision; "auto" for a black-box model.
    """

    path: Path
    sha256: str
    findings: tuple[str, ...]
    preprocessing: Preprocessing
    opening: Mapping[str, str | int | tuple[float, ...] | None]
    precision: Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredGate:
    """A gate, with everything needed to use it elsewhere.

    Args:
        gate: the fitted detectors and the threshold.
        model: the model it was calibrated for.
        window: window of DICOM files, as `FilmFiles.window`.
        bits: bits in use in 16-bit pictures, as `FilmFiles.bits`; 0 if the films had none.
        fitted: number of clean films for fitting detectors and scales.
        milliseconds: time per film, measured at calibration.
        notes: assumptions and omissions, one sentence each.
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
        """Number of clean films whose pixels it holds."""
        side = self.model.preprocessing.size
        return sum(
            len(array)
            for state in self.gate.states.values()
            for array in state.values()
            if array.shape[1:] == (side, side) and array.dtype.kind == "u"
        )

    @property
    def statement(self) -> str:
        """Kind of data that it holds, in a sentence."""
        count = len(self.gate.fused) + self.fitted
        return (
            f"Patient data: it contains the pixels of {self.pixels} clean films and "
            f"statistics of {count:,}; store it only where those films may be stored."
        )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A detector: the name of its class, and its parameters.

    Args:
        kind: the class's name.
        parameters: by name.
        code: SHA-256 of a plugin's source; "" for the package's own.
    """

    kind: str
    parameters: Mapping[str, Any]
    code: str


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape and type of an array in the numbers' file."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class FilmCounts:
    """Numbers of clean films for fitting detectors, and for the threshold."""

    fitted: int
    calibration: int


@dataclass(frozen=True, kw_only=True)
class NumbersFile:
    """The numbers' file: name, and SHA-256 of its content."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class GateDocument:
    """Contents of a gate's JSON file.

    Args:
        format: identifier of the format.
        leadapron: package version that wrote it.
        results_version: version of the scores.
        statement: kind of data that it holds.
        model: the model; its path is relative if it is below the gate's folder.
        window: as `StoredGate`.
        bits: as `StoredGate`.
        detectors: by name.
        typical: the out-of-distribution detector.
        weights: weights of the scores, in the order of the columns of `scores`.
        false_alarm: largest share of clean films called suspicious.
        threshold: score that suspicious films exceed.
        films: numbers of clean films.
        patients: number of patients of the films that set the threshold.
        passes: forward passes of the model per film.
        milliseconds: as `StoredGate`.
        notes: as `StoredGate`.
        arrays: arrays of the numbers' file, by name.
        numbers: the numbers' file; None in the copy of this document inside that file.
    """

    SCHEMA: ClassVar[int] = 2

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
    """Return the numbers' file of a gate's JSON file."""
    return path.with_suffix(".safetensors")


def write_gate(path: Path, stored: StoredGate) -> None:
    """Write a gate: both files, or none.

    Args:
        path: the JSON file, ending in .json; the numbers' file is written next to it. An existing
            gate of that name is replaced.
        stored: the gate to write.

    Raises:
        UsageError: another ending, existing files of that name that aren't a gate, or a model
            without a file.
        StoreError: files that can't be written, or values that can't be stored.
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
        # The JSON file is complete under a temporary name before the numbers' file is renamed.
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
    """Raise UsageError if a gate of this name would replace another kind of file."""
    if path.suffix != ".json":
        raise UsageError(f"{path.name}: expected a name that ends in .json, as gate.json")
    for there in (path, numbers_of(path)):
        if not there.exists():
            continue
        head = b""
        with contextlib.suppress(OSError), open_regular(there) as file:
            head = file.read(LARGEST_FACTS)
        if FORMAT.encode() not in head:
            raise UsageError(f"{there} exists and isn't a gate; choose another name with `out`")


def read_gate(
    path: Path, registry: Mapping[str, InputDetector], typical: InputDetector | None
) -> StoredGate:
    """Return a gate that `write_gate` wrote.

    Args:
        path: the JSON file.
        registry: detectors by name; the gate's detectors are built from them with its parameters.
        typical: the out-of-distribution detector, rebuilt in the same way.

    Raises:
        StoreError: files that can't be read, aren't a gate, were changed or don't fit together, or
            an unknown detector.
    """
    facts = _read_facts(path)
    refuse_plugins(facts, path.name)
    content = _bounded(numbers_of(path), LARGEST_NUMBERS)
    try:
        document = parsed(GateDocument, json.dumps(facts))
        digest = hashlib.sha256(content).hexdigest()
        if document.numbers is None or digest != document.numbers.sha256:
            raise StoreError(
                f"{numbers_of(path).name} doesn't belong to {path.name}; calibrate again"
            )
        if _stated(content) != canonical_json(_unnumbered(facts)):
            raise StoreError(f"{path.name} was changed after it was written; calibrate again")
        return _stored(document, load(content), path, registry, typical)
    except StoreError:
        raise
    except SafetensorError as error:
        raise StoreError(f"{numbers_of(path).name} isn't a safetensors file ({error})") from error
    except (
        KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError,
        LeadapronError,
    ) as error:  # fmt: skip
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path.name} does not describe a gate: {words}") from error


# --- writing


def _arrays(gate: Gate) -> Arrays:
    """All arrays by name; StoreError if they couldn't be read back."""
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
            raise StoreError(f"a gate can't store {name}, an array of {array.dtype}")
        if name != "scores" and not np.isfinite(array).all():
            raise StoreError(f"a gate can't store {name}: not all of its values are finite")
    return arrays


def _document(stored: StoredGate, folder: Path, arrays: Arrays) -> GateDocument:
    gate, model = stored.gate, stored.model
    where = model.path.absolute()
    if where.is_relative_to(folder):  # so that the folder can be moved
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
    named: Any = detector  # a frozen dataclass, by the protocol
    values = {f.name: getattr(named, f.name) for f in fields(named) if f.init}
    name = type(detector).__name__
    code = code_of(detector, f"input detector {name}")
    return Kind(kind=name, parameters=values, code=code)


def _shape(array: NDArray[Any]) -> Shape:
    return Shape(shape=tuple(array.shape), dtype=str(array.dtype))


def _unnumbered(facts: Mapping[str, object]) -> Mapping[str, object]:
    """The document as stored in the numbers' file, which can't contain its own hash."""
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
        raise ValueError(f"{constant} isn't a number")

    try:
        facts = json.loads(_bounded(path, LARGEST_FACTS), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"{path} isn't a gate (not JSON: {words}); {_EXPECTED}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise StoreError(f"{path} isn't a gate; {_EXPECTED}")
    if (
        facts.get("schema") != GateDocument.SCHEMA
        or facts.get("results_version") != RESULTS_VERSION
    ):
        raise StoreError(
            f"{path} was written by another version, whose scores may differ; calibrate again"
        )
    return facts


def _stated(content: bytes) -> str:
    """The document in the numbers' file."""
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
    if unknown := set(model.opening) - KEPT - {"named"}:
        raise ValueError(f"unknown options of its model: {', '.join(sorted(unknown))}")
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
            f"the gate uses the detector {name!r} ({stated.kind}), which isn't available; one of a "
            f"plugin needs {OPTION}, else calibrate again"
        )
    if code_of(like, f"input detector {name}") != stated.code:
        raise StoreError(
            f"the input detector {name} changed since the gate was calibrated (different "
            "SHA-256 of its source); calibrate again"
        )
    return build(type(like), stated.parameters, f"detector {name}")


def _state(arrays: Arrays, prefix: str) -> State:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name[: len(prefix)] == prefix
    }


def _check_arrays(stated: Mapping[str, Shape], arrays: Arrays) -> None:
    """Raise ValueError unless arrays are as listed, with finite values."""
    if {name: _shape(array) for name, array in arrays.items()} != stated:
        raise ValueError("its arrays have other names, shapes or types than stated")
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise ValueError(f"{name} is of {array.dtype}")
        if name != "scores" and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that aren't finite")


def _check_scores(gate: Gate, threshold: float) -> None:
    """Raise ValueError if the calibration scores contradict the weights and the threshold."""
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
        raise ValueError("its threshold contradicts its calibration scores")
    if not np.allclose(np.sort(fuse(gate.scores, gate.steps, gate.weights)), gate.fused):
        raise ValueError("its calibration scores don't give the stated fused scores")
