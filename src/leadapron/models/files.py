"""From a model file to named tensors, without running anything in it."""

from __future__ import annotations

import io
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from leadapron.errors import StoreError
from leadapron.foreign.scan import (
    LARGEST_PICKLE,
    PickleScan,
    first_line,
    read_archive,
    read_entry,
    scan_pickle,
)

__all__ = ["Stored", "kind_of", "read_state", "refuse_numbers", "stated_findings"]

Kind = Literal["safetensors", "archive", "pickle", "onnx"]

LARGEST_FILE = 4 << 30
LARGEST_HEADER = 16 << 20
DEEPEST = 4
MOST_FACTS = 10_000

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
         "BOOL": 1}  # fmt: skip

OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF", "an HDF5 file (Keras)"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (0, b"BZh", "compressed by bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (0, b"7z\xbc\xaf", "compressed by 7-Zip; unpack it first"),
    (0, b"Rar!", "compressed by RAR; unpack it first"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
    (0, b"<", "a web page; fetch the file itself"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (257, b"ustar", "a tar archive; unpack it first"),
)
"""What is often mistaken for weights: where its mark stands, the mark, what it is."""

EXPECTED = "expected .safetensors, a state dict of torch.save, TorchScript or .onnx"
INSTEAD = (
    "Where you trust it, load it with its own code and save model.state_dict() as .safetensors; "
    "or name a function that returns the model: module:function"
)

LEGACY_PICKLES = 5
"""Magic number, protocol, machine, object, names of storages: torch.save before 1.6."""

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
"""Where training loops keep the state dict."""

FINDINGS = ("findings", "pathologies", "labels", "classes", "class_names", "label_names")
"""Where files keep the names of their outputs."""


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Args:
        tensors: by name, as it names them.
        findings: names of the outputs that it states; none where it states nothing.
        metadata: of a safetensors file.
    """

    tensors: Mapping[str, torch.Tensor]
    findings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def kind_of(path: Path) -> Kind:
    """Return what kind of file this is, from its first bytes.

    Raises:
        StoreError: no such file, an empty one, one that is too large, or one of another kind.
    """
    if not path.is_file():
        raise StoreError(f"{path} is no file; {EXPECTED}")
    size = path.stat().st_size
    if not 8 < size <= LARGEST_FILE:
        raise StoreError(f"{path.name} has {size:,} bytes; expected 9 to {LARGEST_FILE:,}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}") from None
    if path.suffix == ".onnx":
        return "onnx"
    if start.startswith(b"PK\x03\x04"):
        return "archive"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    if start[0] == 0x80 and start[1] <= 5:
        return "pickle"
    for place, mark, what in OTHERS:
        if start[place:].startswith(mark):
            raise StoreError(f"{path.name} is {what}; {EXPECTED}")
    raise StoreError(f"{path.name} is no model file that leadapron knows; {EXPECTED}")


def read_state(path: Path, kind: Kind) -> Stored:
    """Return what a file of tensors holds.

    Args:
        path: the file.
        kind: what `kind_of` says of it.

    Raises:
        StoreError: it can't be read, or not without running its code.
    """
    with path.open("rb") as file:
        try:
            return READERS[kind](file, path.stat().st_size, path.name)
        except (MemoryError, RecursionError) as error:
            raise StoreError(f"{path.name} asks for too much ({type(error).__name__})") from None


def _safetensors(file: IO[bytes], size: int, name: str) -> Stored:
    metadata = _checked_header(file, size, name)
    file.seek(0)
    try:
        tensors = load_safetensors(file.read())
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise StoreError(f"{name} is not a safetensors file ({first_line(error)})") from None
    return Stored(tensors, stated_findings(metadata), metadata)


def _checked_header(file: IO[bytes], size: int, name: str) -> dict[str, str]:
    """The metadata of a safetensors file whose header tells the truth about its bytes."""

    def wrong(reason: str) -> StoreError:
        return StoreError(f"{name} is not a safetensors file ({reason}); get the file again")

    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(LARGEST_HEADER, size - 8):
        raise wrong(f"a header of {length:,} bytes in a file of {size:,}")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise wrong(f"its header is no JSON: {first_line(error)}") from None
    if not isinstance(header, dict):
        raise wrong("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not _all_text(metadata):
        raise wrong("its metadata aren't texts")
    reached = 0
    for tensor, facts in sorted(header.items(), key=lambda item: _begin(item[1])):
        shown = repr(tensor[:80])
        try:
            shape, (begin, end) = facts["shape"], facts["data_offsets"]
            each = BYTES[facts["dtype"]]
            sides = all(type(side) is int and 0 <= side < 1 << 40 for side in shape)
        except (KeyError, TypeError, ValueError):
            raise wrong(f"{shown} has no type, shape or place that is known") from None
        if not sides or not isinstance(shape, list) or math.prod(shape) * each != end - begin:
            raise wrong(f"{shown} has {end - begin:,} bytes for a shape of {str(shape)[:60]}")
        if begin != reached:
            raise wrong(f"{shown} doesn't begin where the tensor before it ends")
        reached = end
    if reached != size - 8 - length:
        raise wrong(f"{reached:,} bytes of tensors, {size - 8 - length:,} in the file")
    return dict(metadata)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name comes twice")
    return names


def _begin(facts: Any) -> int:
    try:
        begin = facts["data_offsets"][0]
        return begin if type(begin) is int else -1
    except (KeyError, TypeError, IndexError):
        return -1


def _all_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())


def _archive(file: IO[bytes], size: int, name: str) -> Stored:
    archive = read_archive(file, size, name)
    if "data.pkl" not in archive.names:
        raise StoreError(f"{name} is an archive without data.pkl; {EXPECTED}")
    pickled = read_entry(file, archive, "data.pkl", LARGEST_PICKLE, name)
    whole = io.BytesIO(pickled)
    _refuse_code(scan_pickle(whole, name), name)
    if whole.tell() != len(pickled):
        raise StoreError(f"{name}: more follows after the end of its pickle; get the file again")
    file.seek(0)
    return _loaded(file, name)


def _pickle(file: IO[bytes], _size: int, name: str) -> Stored:
    scans = [scan_pickle(file, name)]
    _refuse_code(scans[0], name)
    file.seek(0)
    # The magic number of torch.save before 1.6, as a pickle of its own.
    if bytes.fromhex("6cfc9c46f9206aa85019") not in file.read(64):
        raise StoreError(f"{name} is a pickle that torch.save didn't write; {EXPECTED}")
    file.seek(scans[0].end)
    for _ in range(LEGACY_PICKLES - 1):
        _refuse_code(scan_pickle(file, name), name)
    if file.tell() > LARGEST_PICKLE:
        raise StoreError(f"{name} has a pickle larger than {LARGEST_PICKLE:,} bytes")
    file.seek(0)
    return _loaded(file, name)


def _refuse_code(scan: PickleScan, name: str) -> None:
    if scan.imports:
        raise StoreError(
            f"{name} needs code to be unpickled: {scan.words()}; expected tensors alone, so it "
            f"was not opened. {INSTEAD}"
        )


def _loaded(file: IO[bytes], name: str) -> Stored:
    """What torch's own restricted unpickler makes of it: the second lock behind the scan."""
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken pickle makes of itself is of any kind
        raise StoreError(
            f"{name} holds no weights that torch can read ({first_line(error)})"
        ) from None
    facts: list[str] = []
    for _ in range(DEEPEST):
        if not isinstance(value, dict):
            break
        facts = facts or list(stated_findings(value))
        more = value.get("hyper_parameters")
        facts = facts or (list(stated_findings(more)) if isinstance(more, dict) else [])
        inner = next((value[key] for key in WRAPPERS if isinstance(value.get(key), dict)), None)
        if inner is None:
            break
        value = inner
    if not isinstance(value, dict):
        raise StoreError(f"{name} holds a {type(value).__name__}; expected a state dict")
    tensors = {k: v for k, v in value.items() if isinstance(k, str) and torch.is_tensor(v)}
    if not tensors:
        raise StoreError(f"{name} holds no tensors; expected a state dict of a network")
    return Stored({k: v.detach() for k, v in tensors.items()}, tuple(facts))


def stated_findings(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the outputs' names among a file's facts: a list, JSON, or text between commas."""
    for key in FINDINGS:
        names = values.get(key)
        if isinstance(names, str):
            try:
                names = json.loads(names)
            except (ValueError, RecursionError):
                names = [name.strip() for name in names.split(",")]
        if not isinstance(names, list | tuple) or not 0 < len(names) < MOST_FACTS:
            continue
        if all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def refuse_numbers(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise StoreError where weights aren't numbers that a network can compute with.

    Args:
        tensors: dense, of shapes that were compared with a network's: no larger than it.
        name: the file's, for messages.
    """
    for problem in _odd(tensors):
        raise StoreError(f"{name}: {problem}; such a network can't answer. Get the file again")


def _odd(tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    broken = []
    for key, value in tensors.items():
        counter = re.search(r"num_batches_tracked$", key)
        if value.is_quantized or not (value.is_floating_point() or counter):
            yield f"{key} is of type {str(value.dtype).removeprefix('torch.')}"
        elif not bool(value.isfinite().all()):
            broken.append(key)
        elif key.endswith("running_var") and bool((value < 0).any()):
            yield f"{key}, a variance, has negative values"
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield f"{broken[0]}{more} hold values that aren't finite (NaN, infinite)"


READERS: Mapping[str, Callable[[IO[bytes], int, str], Stored]] = {
    "safetensors": _safetensors,
    "archive": _archive,
    "pickle": _pickle,
}
