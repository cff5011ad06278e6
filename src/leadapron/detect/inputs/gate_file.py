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
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from leadapron import __version__
from leadapron.detect.inputs.clinic import Clinic
from leadapron.detect.inputs.gate import Gate, fuse
from leadapron.detect.inputs.groups import Group
from leadapron.detect.inputs.readings import InputDetector, State
from leadapron.detect.inputs.shared_marks import MOST_MARKS, SharedMark
from leadapron.detect.inputs.strata import Strata
from leadapron.documents import Finite, dump, parsed
from leadapron.errors import LeadapronError, StoreError, UsageError
from leadapron.films.preprocessing import FEWEST, Preprocessing
from leadapron.models import backends
from leadapron.models.protocols import BlackBox, Differentiable
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
from leadapron.text import clean, printable
from leadapron.types import Backend, Machine, Precision

__all__ = [
    "GateDocument",
    "GatedModel",
    "MadeWith",
    "StoredGate",
    "numbers_of",
    "read_gate",
    "write_gate",
]

FORMAT: Final = "leadapron gate"

LARGEST_FACTS, LARGEST_NUMBERS = 1 << 20, 1 << 30
"""Most bytes of the two files."""

DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float32", "float64")

KEPT = {each.name for each in fields(ModelSettings) if each.name not in (*IMAGE, "findings")}
"""Settings of a model that a gate keeps as they were stated; it has findings and images anyway."""

CALIBRATED = ("steps", "scores", "fused", "typicality", "patients", "hashes")
"""Arrays of a clinic, beside its detectors' states; fields of `Clinic`."""

LIBRARIES = ("torch", "numpy")
"""Packages that scores depend on, besides this one."""

REFERENCES = "references"
"""Array of the names of a clinic's reference films: UTF-8, a name a line."""

GROUPS = "groups"
"""Array of a clinic's groups, (groups, films) bool."""

PICTURES = "pictures"
"""Array of a clinic's reference films, if they are kept."""

STRATA = ("levels", "codes", "others")
"""Arrays of a clinic whose thresholds go by what the model reads; fields of `Strata`."""

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
    """

    path: Path
    sha256: str
    findings: tuple[str, ...]
    preprocessing: Preprocessing
    opening: Mapping[str, str | int | tuple[float, ...] | None]


@dataclass(frozen=True, kw_only=True)
class MadeWith:
    """What a gate's scores were computed with.

    Args:
        versions: versions of the packages that scores depend on, by package.
        precision: precision of the model; "auto" for a black-box model.
        backend: what ran its forward passes; "auto" for a black-box model.
    """

    versions: Mapping[str, str]
    precision: Precision
    backend: Backend

    @classmethod
    def here(cls, classifier: BlackBox) -> MadeWith:
        """Return what a model's scores are computed with in this process."""
        backend = backends.backend_of(classifier)
        return cls(
            versions=_versions(backend),
            precision=classifier.precision if isinstance(classifier, Differentiable) else "auto",
            backend=backend,
        )

    def machine(self, wanted: Machine, gate: str) -> Machine:
        """Return a machine with the precision and backend of a gate.

        Args:
            wanted: the machine.
            gate: the gate's name.

        Raises:
            UsageError: it states another precision or backend.
        """
        for name, there, here in (
            ("precision", self.precision, wanted.precision),
            ("backend", self.backend, wanted.backend),
        ):
            if "auto" not in (there, here) and there != here:
                raise UsageError(
                    f"`{name}` {here}: {gate} was calibrated in {there}, and its thresholds hold "
                    "for that alone; leave it out, or calibrate again"
                )
        backend = wanted.backend if self.backend == "auto" else self.backend
        return replace(wanted, precision=self.precision, backend=backend)

    @property
    def doubt(self) -> str:
        """A sentence that names other versions than those of this process; "" if there are none."""
        others = [
            f"{name} {clean(self.versions.get(name, 'of an unknown version'))} (now {version})"
            for name, version in _versions(self.backend).items()
            if self.versions.get(name) != version
        ]
        if not others:
            return ""
        return f"The gate was made with {', '.join(others)}: scores may differ; calibrate again."


def _versions(backend: Backend) -> Mapping[str, str]:
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return {"leadapron": __version__, **libraries, **backends.versions_of(backend)}


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredGate:
    """A gate, with everything needed to use it elsewhere.

    Args:
        gate: the fitted detectors and the threshold.
        model: the model it was calibrated for.
        made: what its scores were computed with.
        window: window of DICOM files, as `FilmFiles.window`.
        bits: bits in use in 16-bit pictures, as `FilmFiles.bits`; 0 if the films had none.
        milliseconds: time per film, measured at calibration.
        notes: assumptions and omissions, one sentence each.
    """

    gate: Gate
    model: GatedModel
    made: MadeWith
    window: str
    bits: int
    milliseconds: float
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> NDArray[Any]:
        """A grey image and the clean films whose pixels it holds, (n, h, w) for the model."""
        wanted = self.model.preprocessing
        dtype = np.dtype(wanted.dtype)
        grey = np.full((1, wanted.size, wanted.size), np.iinfo(dtype).max // 2, dtype)
        held = [
            array
            for clinic in self.gate.clinics
            for state in clinic.states.values()
            for array in state.values()
            if array.shape[1:] == grey.shape[1:] and array.dtype == dtype
        ]
        return np.concatenate([grey, *held])

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the gate may not hold, one sentence or two each."""
        shared = [mark.words for clinic in self.gate.clinics for mark in clinic.shared]
        return (*filter(None, [self.made.doubt]), *shared)

    @property
    def films(self) -> int:
        """Number of clean films that it was made from."""
        return sum(len(clinic.hashes) for clinic in self.gate.clinics)

    @property
    def statement(self) -> str:
        """Kind of data that it holds, in a sentence."""
        clinics = self.gate.clinics
        named = sum(len(clinic.references) for clinic in clinics)
        shown = sum(len(each.pictures) for each in clinics if each.pictures is not None)
        return (
            f"Patient data: it contains the pixels of {len(self.images) - 1 + shown:,} clean "
            f"films, the names of {named:,} and statistics of {self.films:,}; store it only where "
            "those films may be stored."
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
class ClinicFacts:
    """What a gate's JSON file says of a clinic.

    Args:
        name: what it is called.
        films: numbers of its clean films.
        patients: number of patients of the films that set its threshold.
        threshold: score that suspicious films exceed, where they share one threshold.
        groups: kind and name of each group of these films.
        shared: marks that films share and that drive the model.
    """

    name: str
    films: FilmCounts
    patients: int
    threshold: Finite
    groups: tuple[tuple[str, str], ...]
    shared: tuple[SharedMark, ...]


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
        results_version: version of the scores.
        statement: kind of data that it holds.
        model: the model; its path is relative if it is below the gate's folder.
        made: as `StoredGate`.
        window: as `StoredGate`.
        bits: as `StoredGate`.
        detectors: by name.
        typical: the out-of-distribution detector.
        weights: weights of the scores, in the order of the columns of `scores`.
        false_alarm: largest share of a clinic's clean films called suspicious.
        clinics: facts of each clinic, in order.
        passes: forward passes of the model per film.
        milliseconds: as `StoredGate`.
        notes: as `StoredGate`.
        arrays: arrays of the numbers' file, by name.
        numbers: the numbers' file; None in the copy of this document inside that file.
    """

    SCHEMA: ClassVar[int] = 5

    format: Literal["leadapron gate"]
    results_version: int
    statement: str
    model: GatedModel
    made: MadeWith
    window: str
    bits: int
    detectors: Mapping[str, Kind]
    typical: Kind | None
    weights: tuple[tuple[str, Finite], ...]
    false_alarm: Finite
    clinics: tuple[ClinicFacts, ...]
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
    if len(numbers) > LARGEST_NUMBERS:
        raise StoreError(
            f"{numbers_of(path).name} would take {len(numbers) >> 20:,} MiB; at most "
            f"{LARGEST_NUMBERS >> 20:,} are read back: leave out pictures, or give fewer films"
        )
    named = NumbersFile(file=numbers_of(path).name, sha256=hashlib.sha256(numbers).hexdigest())
    facts = dump(replace(document, numbers=named))
    text = json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n"
    if len(text) > LARGEST_FACTS:
        raise StoreError(f"{path.name} would take more than {LARGEST_FACTS >> 20} MiB")
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
    arrays: Arrays = {}
    for number, clinic in enumerate(gate.clinics, 1):
        here = f"clinic {number}/"
        arrays |= {f"{here}{name}": getattr(clinic, name) for name in CALIBRATED}
        names = "\n".join(clinic.references).encode("utf-8")
        masks = [group.films for group in clinic.groups]
        arrays[f"{here}{GROUPS}"] = np.array(masks, bool).reshape(len(masks), len(clinic))
        arrays[f"{here}{REFERENCES}"] = np.frombuffer(names, np.uint8)
        for name, state in clinic.states.items():
            arrays |= {f"{here}state/{name}/{key}": np.asarray(v) for key, v in state.items()}
        arrays |= {
            f"{here}typical/{key}": np.asarray(v) for key, v in (clinic.typical or {}).items()
        }
        if clinic.pictures is not None:
            arrays[f"{here}{PICTURES}"] = clinic.pictures
        if clinic.strata is not None:
            arrays |= {f"{here}strata/{key}": getattr(clinic.strata, key) for key in STRATA}
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise StoreError(f"a gate can't store {name}, an array of {array.dtype}")
        if not _is_scores(name) and not np.isfinite(array).all():
            raise StoreError(f"a gate can't store {name}: not all of its values are finite")
    return arrays


def _is_scores(name: str) -> bool:
    """Whether it is an array of scores, the only ones that may be NaN."""
    return name.endswith("/scores") and "/state/" not in name


def _document(stored: StoredGate, folder: Path, arrays: Arrays) -> GateDocument:
    gate, model = stored.gate, stored.model
    where = model.path.absolute()
    if where.is_relative_to(folder):  # so that the folder can be moved
        where = where.relative_to(folder)
    return GateDocument(
        format=FORMAT,
        results_version=RESULTS_VERSION,
        statement=stored.statement,
        model=replace(model, path=where),
        made=stored.made,
        window=stored.window,
        bits=stored.bits,
        detectors={name: _kind(each) for name, each in gate.detectors.items()},
        typical=None if gate.typical is None else _kind(gate.typical),
        weights=tuple(gate.weights.items()),
        false_alarm=gate.false_alarm,
        clinics=tuple(
            ClinicFacts(
                name=clinic.name,
                films=FilmCounts(fitted=clinic.fitted, calibration=len(clinic)),
                patients=clinic.patient_count,
                threshold=threshold,
                groups=tuple((group.kind, group.name) for group in clinic.groups),
                shared=clinic.shared,
            )
            for clinic, threshold in zip(gate.clinics, gate.thresholds, strict=True)
        ),
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
    look = document.typical
    gate = Gate(
        detectors={
            name: _made(name, kind, registry.get(name)) for name, kind in document.detectors.items()
        },
        typical=None if look is None else _made(look.kind, look, typical),
        weights=dict(document.weights),
        clinics=tuple(
            _clinic(facts, document, arrays, f"clinic {number}/")
            for number, facts in enumerate(document.clinics, 1)
        ),
        false_alarm=document.false_alarm,
    )
    _check_scores(gate, document)
    return StoredGate(
        gate=gate,
        model=replace(model, path=path.absolute().parent / model.path),
        made=document.made,
        window=document.window,
        bits=_bits(document.bits),
        milliseconds=document.milliseconds,
        notes=document.notes,
    )


def _clinic(facts: ClinicFacts, document: GateDocument, arrays: Arrays, here: str) -> Clinic:
    """A clinic, whose arrays have names that start with `here`."""
    names = arrays[f"{here}{REFERENCES}"].tobytes().decode("utf-8")
    masks = arrays[f"{here}{GROUPS}"]
    if masks.dtype != np.bool_ or masks.shape[:1] != (len(facts.groups),):
        raise ValueError("groups not as expected")
    divided = _state(arrays, f"{here}strata/")
    return Clinic(
        name=clean(facts.name),
        states={name: _state(arrays, f"{here}state/{name}/") for name in document.detectors},
        typical=None if document.typical is None else _state(arrays, f"{here}typical/"),
        references=tuple(printable(name) for name in names.split("\n")) if names else (),
        groups=tuple(
            Group(clean(kind), clean(name), films)
            for (kind, name), films in zip(facts.groups, masks, strict=True)
        ),
        strata=Strata(**{name: divided[name] for name in STRATA}) if divided else None,
        shared=tuple(
            each.checked(document.model.findings, document.model.preprocessing.size)
            for each in facts.shared[:MOST_MARKS]
        ),
        pictures=_pictures(document, arrays, here, len(names.split("\n")) if names else 0),
        **{name: arrays[f"{here}{name}"] for name in CALIBRATED},
    )


def _pictures(
    document: GateDocument, arrays: Arrays, here: str, references: int
) -> NDArray[Any] | None:
    """The reference films, if they are kept."""
    found = arrays.get(f"{here}{PICTURES}")
    wanted = document.model.preprocessing
    if found is None:
        return None
    if found.shape != (references, wanted.size, wanted.size) or found.dtype != wanted.dtype:
        raise ValueError("pictures not as expected")
    return found


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
        if not _is_scores(name) and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that aren't finite")


def _fits(clinic: Clinic, findings: int) -> bool:
    """Whether what the model reads on a clinic's films has the right shapes and codes."""
    strata = clinic.strata
    if strata is None:
        return True
    shapes = (strata.levels.shape, strata.codes.shape, strata.others.shape)
    if shapes != ((2, findings), (len(clinic),), (clinic.fitted, 2)):
        return False
    codes = np.concatenate([strata.codes, strata.others[:, 1]])
    return bool((strata.levels[1] > 0).all()) and set(codes.tolist()) <= set(range(findings + 1))


def _check_scores(gate: Gate, document: GateDocument) -> None:
    """Raise ValueError if calibration scores contradict the weights and the stated facts."""
    rate = gate.false_alarm
    if not gate.clinics or not 0 < rate < 1:
        raise ValueError("clinics and false_alarm not as expected")
    if not all(weight >= 0 for weight in gate.weights.values()):
        raise ValueError("weights not as expected")
    for facts, clinic in zip(document.clinics, gate.clinics, strict=True):
        m, scores = len(clinic.fused), clinic.scores
        right = {
            "false_alarm": gate.rate * (m + 1) >= 1 - 1e-9,
            "steps": clinic.steps.shape == (2, len(gate.weights)),
            "scores": scores.shape == (m, len(gate.weights)) and not np.isinf(scores).any(),
            "calibration": clinic.fused.shape == clinic.typicality.shape == (m,),
            "patients": clinic.patients.shape == (m,),
            "groups": all(group.films.shape == (m,) for group in clinic.groups),
            "hashes": clinic.hashes.shape == (facts.films.fitted + m, 32),
            "strata": _fits(clinic, len(document.model.findings)),
        }
        wrong = [name for name, fits in right.items() if not fits]
        if wrong:
            raise ValueError(f"{' and '.join(wrong)} not as expected")
        if not math.isclose(facts.threshold, clinic.threshold(gate.rate), rel_tol=1e-9):
            raise ValueError("its threshold contradicts its calibration scores")
        if not np.allclose(fuse(scores, clinic.steps, gate.weights), clinic.fused):
            raise ValueError("its calibration scores don't give the stated fused scores")
