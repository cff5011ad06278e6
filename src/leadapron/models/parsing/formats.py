"""Parsers of model files. They run in a confined process; see `server`.

Nothing here computes with weights or allocates memory for them: a tensor is its name, type, shape
and the position of its values in the file.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, TypeGuard

from leadapron.errors import StoreError
from leadapron.models.parsing.pickles import (
    ITEM_BYTES,
    LARGEST_SIDE,
    MOST_SIDES,
    Name,
    Pickle,
    Tensor,
    Thing,
    are_sides,
    span,
    walk,
)
from leadapron.models.parsing.scan import (
    LARGEST_PICKLE,
    Archive,
    first_line,
    read_archive,
    read_entry,
    refuse_operators,
)

__all__ = [
    "EXPECTED",
    "ITEM_BYTES",
    "Holdings",
    "Kind",
    "Module",
    "Setting",
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
DEEPEST = 4
"""Depth of nested dictionaries and objects that are searched for tensors and networks."""
MOST_HOLDERS = 5_000
MOST_PARTS = 500_000
"""Most attributes, tensors and modules of the networks in a file; a DenseNet-121 has 12,000."""
MOST_MODULES = 20_000
DEEPEST_MODULE = 40
MOST_SETTINGS = 100
"""Most attributes of a module that are kept; a convolution has 11."""
NOT_PLAIN = "a value that isn't plain"
"""Kept of a setting that is no number, text or short list of them; it may be another's."""
LONGEST_SETTING = 200
MOST_FINDINGS = 10_000
LONGEST_FINDINGS = 200_000
"""Most characters of a text that lists findings."""

OF_SAFETENSORS: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
ENDINGS = (".safetensors", ".pt", ".pth", ".onnx", ".ckpt", ".bin", ".keras", ".h5")
"""Of files that are probably models."""
EXPECTED = "expected .safetensors, what torch.save writes, TorchScript, .onnx, .keras or .h5"
INSTEAD = (
    "If you trust it, load it with its own code and save model.state_dict() as .safetensors; "
    "or name a function that returns the model: module:function"
)

MAGIC = 0x1950A86A20F9469CFC6C
"""Magic number of torch.save before 1.6, stored in a separate pickle."""
LEGACY_PICKLES = 5
"""Pickles in a file of torch.save before 1.6: magic number, protocol, machine, object, storages."""

FINDINGS = ("findings", "pathologies", "labels", "classes", "class_names", "label_names")
"""Keys under which files keep the names of their outputs."""
TASKS = "task_sequence"
"""The same in the checkpoints of the CheXpert group: the outputs' indices by their names."""
INDICES = (TASKS, "class_to_idx")
"""Keys under which files keep the indices of outputs by their names."""


Setting = bool | int | float | str | tuple[bool | int | float | str, ...]


@dataclass(frozen=True)
class Module:
    """A part of a pickled network, as its pickle states it.

    Args:
        kind: its class, such as "torch.nn.modules.conv.Conv2d"; its code isn't known.
        settings: its plain attributes, such as "stride".
        changed: whether the pickle replaces its forward pass or has functions run before or after,
            or has too many attributes to tell its settings.
    """

    kind: str
    settings: Mapping[str, Setting]
    changed: bool = False


@dataclass(frozen=True)
class Holdings:
    """Contents of a file.

    Args:
        groups: dictionaries of tensors, by their path of keys joined by dots; "" is the outermost
            one. Within each, tensors by their names in the file.
        findings: names of the outputs that it states; empty if none.
        tasks: whether it states them as the CheXpert group does, whose networks may have three
            outputs for each.
        metadata: metadata of a safetensors file.
        program: whether it is TorchScript, which was scanned. Its group "" has the tensors of its
            modules; it has none if there are no such tensors.
        modules: the parts of pickled networks, by group and by their path within it; "" is the
            network itself. A group without them is a dictionary of tensors.
        numbers: returns a storage's bytes.
    """

    groups: Mapping[str, Mapping[str, Tensor]]
    findings: tuple[str, ...] = ()
    tasks: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    program: bool = False
    modules: Mapping[str, Mapping[str, Module]] = field(default_factory=dict)
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
        for longest in (key, *tensors, *held.modules.get(key, ())):
            if len(longest) > LONGEST_KEY:
                raise StoreError(
                    f"{name} has a tensor's name of {len(longest):,} characters; expected "
                    f"{LONGEST_KEY} at most"
                )
    modules = [one for parts in held.modules.values() for one in parts.values()]
    if len(modules) > MOST_MODULES:
        raise StoreError(
            f"{name} holds networks of {len(modules):,} parts; expected {MOST_MODULES:,} at most"
        )
    settings = [text for one in modules for text in _setting_texts(one)]
    stated = [held.findings, held.metadata, held.metadata.values(), settings]
    letters = sum(len(text) for texts in stated for text in texts)
    if letters > LARGEST_METADATA:
        raise StoreError(
            f"{name} states {letters:,} characters of metadata; expected {LARGEST_METADATA:,} at "
            "most"
        )
    return held


def _refuse_many(count: int, name: str) -> None:
    if count > MOST_TENSORS:
        raise StoreError(f"{name} holds {count:,} tensors; expected {MOST_TENSORS:,} at most")


def stated_findings(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the outputs' names in a file: a list, JSON, comma-separated text, or indices."""
    for key in FINDINGS:
        names = values.get(key)
        if isinstance(names, str):
            if len(names) > LONGEST_FINDINGS:
                continue
            try:
                names = json.loads(names)
            except (ValueError, RecursionError):
                names = [name.strip() for name in names.split(",")]
        if not isinstance(names, list | tuple) or not 0 < len(names) < MOST_FINDINGS:
            continue
        if all(isinstance(name, str) for name in names):
            return tuple(names)
    for key in INDICES:
        places = values.get(key)
        if not isinstance(places, dict) or not 0 < len(places) < MOST_FINDINGS:
            continue
        order = {place: name for name, place in places.items() if type(place) is int}
        known = [order[place] for place in range(len(places)) if isinstance(order.get(place), str)]
        if len(known) == len(places):
            return tuple(known)
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

    found = stated_findings(metadata)
    return Holdings({"": tensors}, found, metadata=metadata, numbers=numbers)


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
    if EXPORTED in archive.names:
        return _exported(file, archive, name)
    if archive.scripted:
        refuse_operators(file, archive, name)
    if "data.pkl" not in archive.names:
        if inside := next((each for each in archive.names if each.endswith(ENDINGS)), ""):
            raise StoreError(
                f"{name} is a zip archive that holds {inside[:160]!a}; unpack it, and name that "
                "file"
            )
        raise StoreError(f"{name} is an archive without data.pkl; {EXPECTED}")
    pickled = read_entry(file, archive, "data.pkl", LARGEST_PICKLE, name)
    whole = io.BytesIO(pickled)
    walked = walk(whole, name)
    if not archive.scripted:
        _refuse_code(walked, name)
    if whole.tell() != len(pickled):
        raise StoreError(f"{name}: data follow the end of its pickle; get the file again")
    if "byteorder" in archive.names and read_entry(file, archive, "byteorder", 99, name) == b"big":
        raise _unreadable(name, "its numbers are big-endian")
    sizes, numbers = _entries(file, archive, "data/")
    if archive.scripted:
        return _script(walked.value, sizes, numbers, name)
    return _state(walked.value, sizes, numbers, name)


def _entries(
    file: IO[bytes], archive: Archive, below: str
) -> tuple[dict[str, int], Callable[[str], memoryview]]:
    """The sizes of an archive's entries below a folder, and how they are read."""
    opened = zipfile.ZipFile(file)  # once: reading an archive's directory is slow
    folder = f"{archive.top}{below}"
    last: dict[str, memoryview] = {}  # tensors often share one storage

    def numbers(storage: str) -> memoryview:
        if storage not in last:
            last.clear()
            last[storage] = memoryview(opened.read(folder + storage))
        return last[storage]

    return {
        entry.filename.removeprefix(folder): entry.file_size
        for entry in opened.infolist()
        if entry.filename.startswith(folder)
    }, numbers


def _script(
    value: Any, sizes: Mapping[str, int], numbers: Callable[[str], memoryview], name: str
) -> Holdings:
    """TorchScript: a program, and the tensors of its modules by their names."""
    tensors = _Flattening(name).of(value).tensors if _is_script(value) else {}
    _refuse_missing(tensors, sizes, name)
    return Holdings({"": tensors} if tensors else {}, program=True, numbers=numbers)


# --- what torch.export.save writes

EXPORTED = "archive_format"
WEIGHTS, CONFIG = "data/weights/", "_weights_config.json"
LARGEST_CONFIG = 32 << 20
OF_EXPORT: Mapping[int, str] = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32",
    8: "float64", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16",
}  # fmt: skip
"""Types by their numbers in torch._export.serde.schema.ScalarType."""
PROGRAM = "torch.export.exported_program.ExportedProgram"


def _exported(file: IO[bytes], archive: Archive, name: str) -> Holdings:
    """The tensors of an exported program; its graph isn't read."""
    configs = sorted(
        entry for entry in archive.names if entry.startswith(WEIGHTS) and entry.endswith(CONFIG)
    )
    if not configs:
        raise StoreError(f"{name} is an archive of torch.export without weights; {EXPECTED}")
    sizes, numbers = _entries(file, archive, WEIGHTS)
    groups = {}
    for entry in configs:
        try:
            facts = json.loads(read_entry(file, archive, entry, LARGEST_CONFIG, name))["config"]
            _refuse_many(len(facts), name)
            tensors = {str(key): _exported_tensor(one) for key, one in facts.items()}
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _unreadable(
                name, f"{entry[:80]} doesn't say where: {first_line(error)}"
            ) from None
        model = entry.removeprefix(WEIGHTS).removesuffix(CONFIG)
        groups[model if len(configs) > 1 else ""] = tensors
        _refuse_missing(tensors, sizes, name)
    modules = {key: {"": Module(PROGRAM, {})} for key in groups}
    return Holdings(groups, modules=modules, numbers=numbers)


def _exported_tensor(facts: Any) -> Tensor:
    meta = facts["tensor_meta"]
    if facts["use_pickle"]:
        raise ValueError("a tensor that is pickled")
    shape, strides = (tuple(side["as_int"] for side in meta[key]) for key in ("sizes", "strides"))
    start = meta["storage_offset"]["as_int"]
    if len(shape) != len(strides) or not all(map(are_sides, (shape, strides, (start,)))):
        raise ValueError("a tensor without a shape")
    return Tensor(OF_EXPORT[meta["dtype"]], shape, strides, str(facts["path_name"]), start)


# --- what torch.save wrote before torch 1.6


def _pickle(content: bytes, name: str) -> Holdings:
    file = io.BytesIO(content)
    first = walk(file, name)
    _refuse_code(first, name)
    if first.value != MAGIC:
        raise StoreError(f"{name} is a pickle that torch.save didn't write; {EXPECTED}")
    rest = [walk(file, name) for _ in range(LEGACY_PICKLES - 1)]
    for walked in rest:
        _refuse_code(walked, name)
    if file.tell() > LARGEST_PICKLE:
        raise StoreError(f"{name} has a pickle larger than {LARGEST_PICKLE:,} bytes")
    of = rest[2].storages
    machine, value, keys = (walked.value for walked in rest[1:])
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


def _refuse_code(walked: Pickle, name: str) -> None:
    if walked.reaching:
        raise StoreError(
            f"{name} needs code to be unpickled: {walked.words()}; no network needs that, so it "
            f"was not opened. {INSTEAD}"
        )


def _unreadable(name: str, reason: str) -> StoreError:
    return StoreError(f"{name} holds no readable weights ({reason})")


def _state(
    value: Any, sizes: Mapping[str, int], numbers: Callable[[str], memoryview], name: str
) -> Holdings:
    """The dictionaries of tensors and the networks in a pickle, each tensor within its storage."""
    if not isinstance(value, dict | Thing):
        raise StoreError(f"{name} holds a {type(value).__name__}; expected a state dict or network")
    groups: dict[str, Mapping[str, Tensor]] = {}
    modules: dict[str, Mapping[str, Module]] = {}
    findings: tuple[str, ...] = ()
    tasks = False
    flattening = _Flattening(name)
    for place, inside in _holders(value, name):
        key = ".".join(place)
        if isinstance(inside, Thing):
            flat = flattening.of(inside)
            stating: Mapping[Any, Any] = inside.attributes
        else:
            flat = _Flat({one: part for one, part in _by_name(inside) if isinstance(part, Tensor)})
            stating = inside
        if not findings and (findings := stated_findings(stating)):
            tasks = TASKS in stating
        if flat.tensors:
            if key in groups:
                raise _unreadable(name, f"two of its dictionaries are named {key[:80]}")
            groups[key] = flat.tensors
            if flat.modules:
                modules[key] = flat.modules
    if not groups:
        kind = f"a {value.kind} and " if isinstance(value, Thing) else ""
        raise StoreError(f"{name} holds {kind}no tensors; expected a state dict of a network")
    for tensors in groups.values():
        _refuse_missing(tensors, sizes, name)
    return Holdings(groups, findings, tasks, modules=modules, numbers=numbers)


def _refuse_missing(tensors: Mapping[str, Tensor], sizes: Mapping[str, int], name: str) -> None:
    """Refuse tensors that don't lie within their storages."""
    for key, tensor in tensors.items():
        there = sizes.get(tensor.storage)
        if there is None:
            raise _unreadable(name, f"the values of {key[:80]} are missing")
        if tensor.place.stop > there:
            raise _unreadable(name, f"{key[:80]} is larger than its storage")


def _holders(value: Any, name: str) -> Iterator[tuple[tuple[str, ...], Thing | dict[Any, Any]]]:
    """Networks, and dictionaries, outer ones first, each once, with their keys."""
    level: list[tuple[tuple[str, ...], Any]] = [((), value)]
    seen = {id(value)}
    for _ in range(DEEPEST):
        below = []
        for place, one in level:
            if _is_network(one):
                yield place, one
                continue
            inside = {**one.attributes, **one.pairs} if isinstance(one, Thing) else one
            yield place, inside
            for key, part in _by_name(inside):
                if isinstance(part, dict | Thing) and id(part) not in seen:
                    seen.add(id(part))
                    below.append(((*place, key), part))
        if len(seen) > MOST_HOLDERS:
            raise _unreadable(name, f"{len(seen):,} dictionaries and objects")
        level = below


def _is_network(value: Any) -> TypeGuard[Thing]:
    """Whether it is a torch.nn.Module, whatever its class."""
    return isinstance(value, Thing) and all(
        isinstance(value.attributes.get(part), dict) for part in ("_modules", "_parameters")
    )


def _is_script(value: Any) -> TypeGuard[Thing]:
    """Whether it is a module of TorchScript."""
    script = isinstance(value, Thing) and isinstance(value.of, Name)
    return script and value.of.module.partition(".")[0] == "__torch__"


@dataclass(frozen=True)
class _Flat:
    """The tensors and parts of a network, named as in its state dict."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)


class _Flattening:
    """Makes flat networks, as long as there are not too many parts in all.

    Args:
        name: the file's name, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.left = MOST_PARTS

    def of(self, network: Thing) -> _Flat:
        """Return a flat network; a part that is used twice has two names, as in torch."""
        flat = _Flat()
        self._add(network, (), flat)
        return flat

    def _add(self, network: Thing, path: tuple[str, ...], flat: _Flat) -> None:
        attributes = network.attributes
        # A script's tensors and parts are its attributes.
        homes = (None,) * 3 if _is_script(network) else ("_parameters", "_buffers", "_modules")
        parameters, buffers, parts = (
            dict(_by_name(attributes.get(home) if home else attributes)) for home in homes
        )
        temporary = _members(attributes.get("_non_persistent_buffers_set"))
        self.left -= sum(map(len, (attributes, parameters, buffers, parts, temporary)))
        if self.left < 0 or len(path) > DEEPEST_MODULE:
            raise _unreadable(self.name, "a network of too many parts, or nested too deeply")
        flat.modules[".".join(path)] = _module(network)
        hidden = {one for one in temporary if isinstance(one, str)}
        for key, one in (*parameters.items(), *buffers.items()):
            if isinstance(one, Tensor) and key not in hidden:
                flat.tensors[".".join((*path, key))] = one
        for key, part in parts.items():
            if _is_network(part) or _is_script(part):
                self._add(part, (*path, key), flat)


def _by_name(values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        yield from ((key, value) for key, value in values.items() if isinstance(key, str))


def _members(value: Any) -> list[Any]:
    """What a set holds."""
    if not isinstance(value, Thing):
        return []
    if value.arguments and isinstance(value.arguments[0], list):
        return value.arguments[0]
    return value.items


def _setting_texts(module: Module) -> Iterator[str]:
    for value in module.settings.values():
        yield from (one for one in (value if isinstance(value, tuple) else (value,))
                    if isinstance(one, str))  # fmt: skip


CHANGES = (
    "_forward_hooks", "_forward_pre_hooks", "_compiled_call_impl", "_call_impl", "_slow_forward",
    "forward", "_forward_impl", "_conv_forward", "forward_features", "forward_head", "features2",
)  # fmt: skip
"""Attributes that change what a call of a network computes, if they are set."""


def _module(network: Thing) -> Module:
    attributes = network.attributes
    settings: dict[str, Setting] = {}
    changed = any(attributes.get(change) for change in CHANGES)
    for key, value in _by_name(attributes):
        if key.startswith("_") or len(key) > LONGEST_SETTING or value is None:
            continue
        if isinstance(value, dict | Tensor):
            continue
        if len(settings) == MOST_SETTINGS:
            changed = True
            break
        plain = tuple(value) if isinstance(value, list) else value
        settings[key] = plain if _is_setting(value) else NOT_PLAIN
    return Module(network.kind[:LONGEST_KEY], settings, changed)


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) <= MOST_SIDES and all(map(_is_plain, value))
    return _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_SETTING
    return isinstance(value, bool | float) or (type(value) is int and abs(value) < LARGEST_SIDE)


READERS: Mapping[Kind, Callable[[bytes, str], Holdings]] = {
    "safetensors": _safetensors,
    "archive": _archive,
    "pickle": _pickle,
}
