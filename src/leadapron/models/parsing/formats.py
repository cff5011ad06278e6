"""Parsers of model files. They run in a confined process; see `server`.

Nothing here computes with weights or allocates memory for them: a tensor is its name, type, shape
and the position of its values in the file.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, NamedTuple

from leadapron.errors import StoreError
from leadapron.models.parsing.scan import (
    LARGEST_PICKLE,
    PickleScan,
    first_line,
    read_archive,
    read_entry,
    refuse_operators,
    scan_pickle,
)

__all__ = [
    "EXPECTED",
    "ITEM_BYTES",
    "Holdings",
    "Kind",
    "Tensor",
    "are_sides",
    "read_holdings",
    "span",
    "stated_findings",
]

Kind = Literal["safetensors", "archive", "pickle"]

LARGEST_HEADER = 8 << 20
LARGEST_METADATA = 1 << 20
"""Most characters of a safetensors file's metadata, or of a file's names of outputs."""
MOST_TENSORS = 20_000
LONGEST_KEY = 500
MOST_SIDES = 8
LARGEST_SIDE = 1 << 48
DEEPEST = 4
"""Depth of nested dictionaries that are searched for tensors."""
MOST_FINDINGS = 10_000

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of a number, by torch's name of its type."""

OF_SAFETENSORS: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
OF_STORAGES: Mapping[str, str] = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool",
}  # fmt: skip

EXPECTED = "expected .safetensors, a state dict of torch.save, TorchScript, .onnx, .keras or .h5"
INSTEAD = (
    "If you trust it, load it with its own code and save model.state_dict() as .safetensors; "
    "or name a function that returns the model: module:function"
)

MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""Magic number of torch.save before 1.6, stored in a separate pickle."""
LEGACY_PICKLES = 5
"""Pickles in a file of torch.save before 1.6: magic number, protocol, machine, object, storages."""

FINDINGS = ("findings", "pathologies", "labels", "classes", "class_names", "label_names")
"""Keys under which files keep the names of their outputs."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    Args:
        dtype: key of `ITEM_BYTES`.
        shape: its dimensions.
        strides: stride of each dimension, in elements.
        storage: name of the storage that holds it.
        start: index of its first element there.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage: str
    start: int

    @property
    def place(self) -> slice:
        """The range of its bytes in the storage; it may include bytes of other tensors."""
        item = ITEM_BYTES[self.dtype]
        end = self.start + span(self.shape, self.strides)
        return slice(self.start * item, end * item)


@dataclass(frozen=True)
class Holdings:
    """Contents of a file.

    Args:
        groups: dictionaries of tensors, by their path of keys joined by dots; "" is the outermost
            one. Within each, tensors by their names in the file.
        findings: names of the outputs that it states; empty if none.
        metadata: metadata of a safetensors file.
        program: whether it is TorchScript, which was scanned and has no groups.
        numbers: returns a storage's bytes.
    """

    groups: Mapping[str, Mapping[str, Tensor]]
    findings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    program: bool = False
    numbers: Callable[[str], memoryview] = lambda storage: memoryview(b"")


def read_holdings(content: bytes, kind: Kind, name: str) -> Holdings:
    """Return the contents of a file.

    Args:
        content: all bytes of the file.
        kind: kind according to its first bytes.
        name: its name, for messages.

    Raises:
        StoreError: it can't be read, or only by running its code.
    """
    held = READERS[kind](content, name)
    _refuse_many(sum(len(tensors) for tensors in held.groups.values()), name)
    for key, tensors in held.groups.items():
        for longest in (key, *tensors):
            if len(longest) > LONGEST_KEY:
                raise StoreError(
                    f"{name} has a tensor's name of {len(longest):,} characters; expected "
                    f"{LONGEST_KEY} at most"
                )
    stated = [held.findings, held.metadata, held.metadata.values()]
    letters = sum(len(text) for texts in stated for text in texts)
    if letters > LARGEST_METADATA:
        raise StoreError(
            f"{name} states {letters:,} characters of metadata; expected {LARGEST_METADATA:,} at "
            "most"
        )
    return held


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the number of elements from a tensor's first to its last, inclusive."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


def are_sides(numbers: Iterable[Any]) -> bool:
    """Return whether these are valid as a tensor's shape or strides."""
    sides = list(numbers)
    return len(sides) <= MOST_SIDES and all(
        type(side) is int and 0 <= side < LARGEST_SIDE for side in sides
    )


def _refuse_many(count: int, name: str) -> None:
    if count > MOST_TENSORS:
        raise StoreError(f"{name} holds {count:,} tensors; expected {MOST_TENSORS:,} at most")


def stated_findings(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the outputs' names in a file: a list, JSON, or comma-separated text."""
    for key in FINDINGS:
        names = values.get(key)
        if isinstance(names, str):
            try:
                names = json.loads(names)
            except (ValueError, RecursionError):
                names = [name.strip() for name in names.split(",")]
        if not isinstance(names, list | tuple) or not 0 < len(names) < MOST_FINDINGS:
            continue
        if all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


# --- safetensors


def _safetensors(content: bytes, name: str) -> Holdings:
    header, metadata, start = _header(content, name)
    tensors: dict[str, Tensor] = {}
    reached = 0
    for tensor, facts in sorted(header.items(), key=lambda item: _begin(item[1])):
        shown = repr(tensor[:80])
        try:
            shape, (begin, end) = facts["shape"], facts["data_offsets"]
            dtype = OF_SAFETENSORS[facts["dtype"]]
        except (KeyError, TypeError, ValueError):
            begin = end = None
        if not (type(begin) is type(end) is int):
            raise _no_safetensors(name, f"{shown} has an invalid type, shape or position")
        sides = isinstance(shape, list) and are_sides(shape)
        if not sides or math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
            raise _no_safetensors(
                name, f"{shown} has {end - begin:,} bytes for a shape of {str(shape)[:60]}"
            )
        if begin != reached:
            raise _no_safetensors(name, f"{shown} doesn't start where the previous tensor ends")
        # Each is a separate storage, since its start needn't be a multiple of the item size.
        tensors[tensor] = Tensor(dtype, tuple(shape), _dense(shape), f"{begin}:{end}", 0)
        reached = end
    body = memoryview(content)[start:]
    if reached != len(body):
        raise _no_safetensors(name, f"{reached:,} bytes of tensors, {len(body):,} in the file")

    def numbers(storage: str) -> memoryview:
        begin, _, end = storage.partition(":")
        return body[int(begin) : int(end)]

    return Holdings({"": tensors}, stated_findings(metadata), metadata, numbers=numbers)


def _header(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, str], int]:
    """A safetensors file's tensors and metadata, and the offset of the values."""
    length = int.from_bytes(content[:8], "little")
    if length > min(LARGEST_HEADER, len(content) - 8):
        raise _no_safetensors(name, f"a header of {length:,} bytes in a file of {len(content):,}")
    try:
        header = json.loads(content[8 : 8 + length], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _no_safetensors(name, f"its header isn't JSON: {first_line(error)}") from None
    if not isinstance(header, dict):
        raise _no_safetensors(name, "its header isn't a JSON object")
    metadata = header.pop("__metadata__", {})
    if not _all_text(metadata):
        raise _no_safetensors(name, "its metadata aren't text")
    _refuse_many(len(header), name)
    return header, metadata, 8 + length


def _no_safetensors(name: str, reason: str) -> StoreError:
    return StoreError(f"{name} is not a safetensors file ({reason}); get the file again")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name is repeated")
    return names


def _begin(facts: Any) -> int:
    try:
        begin = facts["data_offsets"][0]
        return begin if type(begin) is int else -1
    except (KeyError, TypeError, IndexError):
        return -1


def _all_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())


def _dense(shape: list[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


# --- what torch.save writes


def _archive(content: bytes, name: str) -> Holdings:
    file = io.BytesIO(content)
    archive = read_archive(file, len(content), name)
    if archive.scripted:
        refuse_operators(file, archive, name)
        return Holdings({}, program=True)
    if "data.pkl" not in archive.names:
        raise StoreError(f"{name} is an archive without data.pkl; {EXPECTED}")
    pickled = read_entry(file, archive, "data.pkl", LARGEST_PICKLE, name)
    whole = io.BytesIO(pickled)
    _refuse_code(scan_pickle(whole, name), name)
    if whole.tell() != len(pickled):
        raise StoreError(f"{name}: data follow the end of its pickle; get the file again")
    if "byteorder" in archive.names and read_entry(file, archive, "byteorder", 99, name) == b"big":
        raise _unreadable(name, "its numbers are big-endian")
    value = _unpickled(io.BytesIO(pickled), name)
    opened = zipfile.ZipFile(file)  # once: reading an archive's directory is slow
    below = f"{archive.top}data/"
    last: dict[str, memoryview] = {}  # tensors often share one storage

    def numbers(storage: str) -> memoryview:
        if storage not in last:
            last.clear()
            last[storage] = memoryview(opened.read(below + storage))
        return last[storage]

    sizes = {
        entry.filename.removeprefix(below): entry.file_size
        for entry in opened.infolist()
        if entry.filename.startswith(below)
    }
    return _state(value, sizes, numbers, name)


def _pickle(content: bytes, name: str) -> Holdings:
    file = io.BytesIO(content)
    first = scan_pickle(file, name)
    _refuse_code(first, name)
    if MAGIC not in content[:64]:
        raise StoreError(f"{name} is a pickle that torch.save didn't write; {EXPECTED}")
    for _ in range(LEGACY_PICKLES - 1):
        _refuse_code(scan_pickle(file, name), name)
    if file.tell() > LARGEST_PICKLE:
        raise StoreError(f"{name} has a pickle larger than {LARGEST_PICKLE:,} bytes")
    file.seek(0)
    of: dict[str, str] = {}
    _magic, _protocol, machine, value, keys = (
        _unpickled(file, name, of) for _ in range(LEGACY_PICKLES)
    )
    if not (isinstance(machine, dict) and machine.get("little_endian") is True):
        raise _unreadable(name, "its numbers are big-endian")
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise _unreadable(name, "its storages have no names")
    places: dict[str, tuple[int, int]] = {}
    at = file.tell()
    for key in keys:
        if key not in of or at + 8 > len(content):
            raise _unreadable(name, "its storages are truncated or don't match")
        (count,) = struct.unpack_from("<q", content, at)
        bytes_there = count * ITEM_BYTES[of[key]]
        if not 0 <= bytes_there <= len(content) - at - 8:
            raise _unreadable(name, "its storages are truncated")
        places[key] = (at + 8, bytes_there)
        at += 8 + bytes_there
    if at != len(content):
        raise _unreadable(name, f"{len(content) - at:,} bytes follow its storages")

    def numbers(storage: str) -> memoryview:
        begin, length = places[storage]
        return memoryview(content)[begin : begin + length]

    return _state(value, {key: length for key, (_, length) in places.items()}, numbers, name)


def _refuse_code(scan: PickleScan, name: str) -> None:
    if scan.imports:
        raise StoreError(
            f"{name} needs code to be unpickled: {scan.words()}; expected only tensors, so it "
            f"was not opened. {INSTEAD}"
        )


def _unreadable(name: str, reason: str) -> StoreError:
    return StoreError(f"{name} holds no readable weights ({reason})")


class _Storage(NamedTuple):
    key: str
    dtype: str


class _Plain(dict[Any, Any]):
    """Replacement of OrderedDict: a dictionary whose methods a pickle can't replace."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Ignore `_metadata` of state dicts, which isn't needed."""


class _Type(NamedTuple):
    dtype: str


def _rebuilt(storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Replacement of torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    shape, strides = tuple(shape), tuple(strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor without a storage")
    if not (are_sides(shape) and are_sides(strides) and are_sides([start])):
        raise pickle.UnpicklingError("a tensor without a shape")
    return Tensor(storage.dtype, shape, strides, storage.key, start)


def _parameter(data: Any, *_: Any) -> Any:
    return data


MADE: Mapping[str, Any] = {
    "collections OrderedDict": _Plain,
    "torch Size": tuple,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_tensor": _rebuilt,
    "torch._utils _rebuild_tensor_v2": _rebuilt,
    "torch.nn.parameter Parameter": _parameter,
    **{f"torch {name}Storage": _Type(dtype) for name, dtype in OF_STORAGES.items()},
}
"""Replacement of each name that a pickle may import: a second barrier after the scan."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing; `storages` receives the type of each named storage."""

    def __init__(self, file: IO[bytes], storages: dict[str, str]) -> None:
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        try:
            return MADE[f"{module} {name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not for state dicts") from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            # Before torch 1.6 there was a sixth part, used only by views.
            case ("storage", _Type(dtype), str(key), str(), int(), *views) if views in ([], [None]):
                self.storages[key] = dtype
                return _Storage(key, dtype)
        raise pickle.UnpicklingError("a storage that torch.save doesn't write")


def _unpickled(file: IO[bytes], name: str, storages: dict[str, str] | None = None) -> Any:
    try:
        return _Unpickler(file, {} if storages is None else storages).load()
    except MemoryError:
        raise
    except Exception as error:  # broken pickles raise any kind
        raise _unreadable(name, first_line(error)) from None


def _state(
    value: Any, sizes: Mapping[str, int], numbers: Callable[[str], memoryview], name: str
) -> Holdings:
    """The dictionaries of tensors in an unpickled object, each tensor within its storage."""
    if not isinstance(value, dict):
        raise StoreError(f"{name} holds a {type(value).__name__}; expected a state dict")
    groups: dict[str, dict[str, Tensor]] = {}
    findings: tuple[str, ...] = ()
    for place, inside in _dictionaries(value):
        findings = findings or stated_findings(inside)
        tensors = {
            key: one
            for key, one in inside.items()
            if isinstance(key, str) and isinstance(one, Tensor)
        }
        if tensors:
            key = ".".join(place)
            if key in groups:
                raise _unreadable(name, f"two of its dictionaries are named {key[:80]}")
            groups[key] = tensors
    if not groups:
        raise StoreError(f"{name} holds no tensors; expected a state dict of a network")
    for tensors in groups.values():
        for key, tensor in tensors.items():
            there = sizes.get(tensor.storage)
            if there is None:
                raise _unreadable(name, f"the values of {key[:80]} are missing")
            if tensor.place.stop > there:
                raise _unreadable(name, f"{key[:80]} is larger than its storage")
    return Holdings(groups, findings, numbers=numbers)


def _dictionaries(value: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """A dictionary and its nested ones, outer ones first, each once, with their keys."""
    level: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), value)]
    seen = {id(value)}
    for _ in range(DEEPEST):
        yield from level
        below = []
        for place, inside in level:
            for key, one in inside.items():
                if isinstance(key, str) and isinstance(one, dict) and id(one) not in seen:
                    seen.add(id(one))
                    below.append(((*place, key), one))
        level = below


READERS: Mapping[Kind, Callable[[bytes, str], Holdings]] = {
    "safetensors": _safetensors,
    "archive": _archive,
    "pickle": _pickle,
}
