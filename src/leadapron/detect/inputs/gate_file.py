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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from leadapron import __version__
from leadapron.detect.inputs.gate import Gate, fuse
from leadapron.detect.inputs.readings import InputDetector, State
from leadapron.errors import LeadapronError, StoreError, UsageError
from leadapron.films.preprocessing import FEWEST, Preprocessing
from leadapron.reading import open_regular, read_regular
from leadapron.specs import build
from leadapron.store import (
    RESULTS_VERSION,
    canonical_json,
    reason,
    write_atomically,
)

__all__ = ["GatedModel", "StoredGate", "numbers_of", "read_gate", "write_gate"]

FORMAT = "leadapron gate"
SCHEMA = 1

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
        sha256: of the file's content, 64 hex digits.
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
        UsageError: another ending, or files of that name that are no gate's.
        StoreError: files that can't be written, or numbers that can't be kept.
    """
    refuse_others(path)
    arrays = _arrays(stored.gate)
    facts = _facts(stored, path.absolute().parent, arrays)
    numbers = save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()},
        {FORMAT: canonical_json(facts)},
    )
    facts["numbers"] = {
        "file": numbers_of(path).name, "sha256": hashlib.sha256(numbers).hexdigest()
    }  # fmt: skip
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
            raise UsageError(f"{there} is there and is no gate; name another by --out")


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
    content = _bounded(numbers_of(path), LARGEST_NUMBERS)
    try:
        if hashlib.sha256(content).hexdigest() != facts.pop("numbers")["sha256"]:
            raise StoreError(
                f"{numbers_of(path).name} is not the file that {path.name} was written with; "
                "calibrate again"
            )
        if _stated(content) != canonical_json(facts):
            raise StoreError(f"{path.name} was changed since it was written; calibrate again")
        return _stored(facts, load(content), path, registry, typical)
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


def _facts(stored: StoredGate, folder: Path, arrays: Arrays) -> dict[str, Any]:
    gate, model = stored.gate, stored.model
    where = model.path.absolute()
    kept = {"sha256": model.sha256, "findings": list(model.findings)}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "leadapron": __version__,
        "results_version": RESULTS_VERSION,
        "statement": stored.statement,
        "model": {
            **kept,
            # So that a folder with both can be moved.
            "path": str(where.relative_to(folder) if where.is_relative_to(folder) else where),
            "preprocessing": asdict(model.preprocessing),
            "opening": dict(model.opening),
            "precision": model.precision,
        },
        "window": stored.window,
        "bits": stored.bits,
        "detectors": {name: _parameters(each) for name, each in gate.detectors.items()},
        "typical": None if gate.typical is None else _parameters(gate.typical[0]),
        # A list: their order is that of the scores, and objects of JSON are sorted.
        "weights": [[name, weight] for name, weight in gate.weights.items()],
        "false_alarm": gate.false_alarm,
        "threshold": gate.threshold,
        "films": {"fitted": stored.fitted, "calibration": len(gate.fused)},
        "patients": gate.patients,
        "passes": gate.passes,
        "milliseconds": stored.milliseconds,
        "notes": list(stored.notes),
        "arrays": {n: {"shape": list(a.shape), "dtype": str(a.dtype)} for n, a in arrays.items()},
    }


def _parameters(detector: InputDetector) -> dict[str, Any]:
    named: Any = detector  # a frozen dataclass, says the protocol
    values = {f.name: getattr(named, f.name) for f in fields(named) if f.init}
    return {"kind": type(detector).__name__, "parameters": values}


# --- reading


_EXPECTED = "expected a file that leadapron calibrate wrote"


def _bounded(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except OSError as error:
        raise StoreError(f"can't read {path}: {reason(error)}; {_EXPECTED}") from error


def _read_facts(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number")

    try:
        facts = json.loads(_bounded(path, LARGEST_FACTS), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"{path} is no gate (not JSON: {words}); {_EXPECTED}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise StoreError(f"{path} is no gate; {_EXPECTED}")
    if facts.get("schema") != SCHEMA or facts.get("results_version") != RESULTS_VERSION:
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
    facts: Mapping[str, Any],
    arrays: Arrays,
    path: Path,
    registry: Mapping[str, InputDetector],
    typical: InputDetector | None,
) -> StoredGate:
    _check_arrays(facts["arrays"], arrays)
    model = facts["model"]
    if unknown := set(model["opening"]) - OPENING:
        raise ValueError(f"models aren't opened by {', '.join(sorted(unknown))}")
    detectors, states = {}, {}
    for name, said in facts["detectors"].items():
        detectors[name] = _made(name, said, registry.get(name))
        states[name] = _state(arrays, f"state/{name}/")
    untypical: tuple[InputDetector, State] | None = None
    if facts["typical"] is not None:
        untypical = (
            _made(str(facts["typical"]["kind"]), facts["typical"], typical),
            _state(arrays, "typical/"),
        )
    gate = Gate(
        detectors=detectors,
        states=states,
        typical=untypical,
        weights={str(name): _number(weight) for name, weight in facts["weights"]},
        steps=arrays["steps"],
        scores=arrays["scores"],
        fused=arrays["fused"],
        typicality=arrays["typicality"],
        false_alarm=_number(facts["false_alarm"]),
        patients=int(facts["patients"]),
    )
    _check_scores(gate, _number(facts["threshold"]))
    return StoredGate(
        gate=gate,
        model=GatedModel(
            path=path.absolute().parent / model["path"],
            sha256=str(model["sha256"]),
            findings=tuple(str(finding) for finding in model["findings"]),
            preprocessing=build(Preprocessing, model["preprocessing"], "preprocessing"),
            opening={str(name): value for name, value in model["opening"].items()},
            precision=model["precision"],
        ),
        window=str(facts["window"]),
        bits=_bits(facts["bits"]),
        fitted=int(facts["films"]["fitted"]),
        milliseconds=_number(facts["milliseconds"]),
        notes=tuple(str(note) for note in facts["notes"]),
    )


def _bits(stated: Any) -> int:
    if stated not in (0, *range(FEWEST, 17)):
        raise ValueError(f"films of {stated} bits")
    return int(stated)


def _made(name: str, said: Mapping[str, Any], like: InputDetector | None) -> InputDetector:
    if like is None or type(like).__name__ != said["kind"]:
        raise StoreError(
            f"the gate uses the detector {name!r} ({said['kind']}), which this version hasn't; "
            "calibrate again"
        )
    return build(type(like), said["parameters"], f"detector {name}")


def _state(arrays: Arrays, prefix: str) -> State:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name[: len(prefix)] == prefix
    }


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _check_arrays(said: Mapping[str, Any], arrays: Arrays) -> None:
    """Raise ValueError where arrays aren't those that the facts list, or hold no numbers."""
    found = {n: {"shape": list(a.shape), "dtype": str(a.dtype)} for n, a in arrays.items()}
    if found != said:
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
