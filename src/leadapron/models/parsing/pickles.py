"""Pickles, walked as data: no name is imported, no class is made, no function is called.

The walk keeps a stack of plain values (numbers, text, lists, tuples, dictionaries) and two records:
`Name` where a pickle names a class or function, and `Thing` where it would create an object.
`MADE` lists the few names that become values: tensors, their storages, and OrderedDict. So nothing
of a pickle's own choice has methods that could be reached.

The work is limited by `MOST_STEPS`; no step takes longer than the bytes that it reads.
"""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from leadapron.errors import StoreError
from leadapron.models.parsing.scan import first_line
from leadapron.text import count

__all__ = [
    "ITEM_BYTES",
    "MOST_STEPS",
    "Name",
    "Pickle",
    "Tensor",
    "Thing",
    "are_sides",
    "span",
    "walk",
]

MOST_STEPS = 1_000_000
"""Most opcodes of a pickle; a DenseNet-121 with its optimizer's state has 150,000."""
LONGEST_NUMBER = 32
"""Most bytes of an integer."""
LARGEST_KEY = 1 << 64
MOST_KEYS = 8
"""Most parts of a tuple that is a dictionary's key."""
MOST_SIDES = 8
LARGEST_SIDE = 1 << 48
MOST_SHOWN = 6
"""Most names in a message."""

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex64": 8, "complex128": 16,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of a number, by torch's name of its type."""
STORAGES: Mapping[str, str] = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool",
}  # fmt: skip
TYPES: Mapping[str, str] = {f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()}

QUIET = frozenset(
    {
        "abc", "argparse", "array", "calendar", "collections", "copy", "dataclasses", "datetime",
        "decimal", "enum", "fractions", "functools", "ipaddress", "itertools", "logging", "math",
        "numbers", "pathlib", "random", "re", "string", "time", "typing", "uuid", "weakref",
        "zoneinfo",
    }
)  # fmt: skip
"""Modules of Python's own library whose objects training code keeps in its files."""
QUIET_NAMES = frozenset(
    {
        "_codecs.encode", "codecs.encode", "operator.itemgetter", "types.SimpleNamespace",
        *(f"{module}.{name}" for module in ("copyreg", "copy_reg") for name in
          ("_reconstructor", "__newobj__", "__newobj_ex__")),
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in
          ("Ellipsis", "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset",
           "getattr", "int", "list", "long", "object", "range", "set", "slice", "str", "tuple",
           "type", "unicode", "xrange")),
    }
)  # fmt: skip


class BrokenError(Exception):
    """A pickle that no honest program writes, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names.

    Args:
        module: where it would be imported from.
        name: its name there.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def reaches(self) -> bool:
        """Whether it is of Python's own library and none of the harmless ones.

        Such names run programs, open files or import code.
        """
        top = self.module.partition(".")[0]
        if str(self) in QUIET_NAMES or top in QUIET:
            return False
        return top in sys.stdlib_module_names or top in ("__builtin__", "copy_reg", "commands")


@dataclass(eq=False, slots=True)
class Thing:
    """An object that unpickling would create.

    Args:
        of: its class, or the function that would return it.
        arguments: what that would be called with.
        state: what would be set on it; None without.
        items: what would be appended or added.
        pairs: what would be set by key.
    """

    of: object
    arguments: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> Mapping[Any, Any]:
        """Its state as a dictionary; empty if it has another form."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # with slots
            state = state[0]
        return state if isinstance(state, dict) else {}

    @property
    def kind(self) -> str:
        """Its class in full, such as "torch.nn.modules.linear.Linear"."""
        return str(self.of) if isinstance(self.of, Name) else "an unnamed class"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Storage:
    """The numbers of tensors, by their name in the file.

    Args:
        key: its name.
        dtype: key of `ITEM_BYTES`.
    """

    key: str
    dtype: str


@dataclass(frozen=True)
class Pickle:
    """A walked pickle.

    Args:
        value: what it holds.
        names: all classes and functions that it names, in order.
        calls: number of calls and builds.
        storages: type of each storage by its name.
    """

    value: Any
    names: tuple[Name, ...]
    calls: int
    storages: Mapping[str, str]

    @property
    def reaching(self) -> tuple[str, ...]:
        """The names that no file of weights needs, since they run programs or open files."""
        return tuple(str(name) for name in self.names if name.reaches)

    def words(self) -> str:
        """Return what it would do: "it imports os.system and makes 1 call"."""
        shown = ", ".join(name[:80] for name in self.reaching[:MOST_SHOWN])
        more = len(self.reaching) - MOST_SHOWN
        more_words = f" and {more} more" if more > 0 else ""
        return f"it imports {shown}{more_words} and makes {count(self.calls, 'call')}"


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the number of elements from a tensor's first to its last, inclusive."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


def are_sides(numbers: Sequence[Any]) -> bool:
    """Return whether these are valid as a tensor's shape or strides."""
    return len(numbers) <= MOST_SIDES and all(
        type(side) is int and 0 <= side < LARGEST_SIDE for side in numbers
    )


def walk(file: IO[bytes], name: str) -> Pickle:
    """Walk the pickle at the file's position; the file is then positioned after it.

    Args:
        file: seekable.
        name: the file's name, for messages.

    Raises:
        StoreError: not a pickle, a truncated one, or one that no honest program writes.
    """
    walker = _Walker()
    try:
        value = walker.walk(file)
    except (BrokenError, ValueError, EOFError, OverflowError, IndexError, KeyError) as error:
        raise StoreError(
            f"{name}: its pickle is broken or truncated ({first_line(error)}); get the file again"
        ) from None
    return Pickle(value, tuple(walker.names), walker.calls, walker.storages)


class _Mark:
    """What MARK leaves on the stack."""


MARK = _Mark()


class _Walker:
    """The state of one walk."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[Name, None] = {}
        self.storages: dict[str, str] = {}
        self.calls = 0
        self.left = MOST_STEPS

    def walk(self, file: IO[bytes]) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            self.spend(1)
            name = opcode.name
            if name in PUSHING:
                self.stack.append(argument)
            elif name in STEPS:
                STEPS[name](self, argument)
            elif name not in IGNORED:
                raise BrokenError(f"opcode {name}")
        return self.pop()

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise BrokenError(f"more than {MOST_STEPS:,} steps")

    # Popping a mark by what expects a value would shift all that follows.
    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise BrokenError("a mark for a value")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is MARK:
            raise BrokenError("a mark for a value")
        return value

    def above_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not MARK:  # each is removed by this step, so it is paid for
            place -= 1
            if place < 0:
                raise BrokenError("no mark")
        above = self.stack[place + 1 :]
        del self.stack[place:]
        return above

    def drop(self) -> None:
        self.stack.pop()

    def drop_above_mark(self) -> None:
        self.above_mark()

    def tuple_of(self, length: int) -> None:
        parts = [self.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(parts)))

    def name(self, module: Any, name: Any) -> Name:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise BrokenError("a name that isn't text")
        found = Name(module, name)
        self.names[found] = None
        return found

    def named(self, argument: str) -> Name:
        module, _, name = argument.partition(" ")
        return self.name(module, name)

    def stack_named(self) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.name(module, name))

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Thing):
            target.items.extend(values)
        else:
            raise BrokenError(f"items of a {type(target).__name__}")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Thing):
            target = target.pairs
        if not isinstance(target, dict):
            raise BrokenError(f"keys of a {type(target).__name__}")
        target.update(_paired(values))

    def call(self, of: Any, arguments: Any) -> None:
        self.calls += 1
        if not isinstance(of, Name | Thing):
            raise BrokenError(f"a call of a {type(of).__name__}")
        if not isinstance(arguments, tuple):
            raise BrokenError(f"a call with a {type(arguments).__name__}")
        self.stack.append(self.made(of, arguments))

    def made(self, of: Name | Thing, arguments: tuple[Any, ...]) -> Any:
        make = MADE.get(str(of)) if isinstance(of, Name) else None
        if make is None:
            return Thing(of, arguments)
        self.spend(sum(len(one) for one in arguments if isinstance(one, list | tuple | dict)))
        return make(*arguments)

    def reduce(self) -> None:
        arguments = self.pop()
        self.call(self.pop(), arguments)

    def called_above_mark(self) -> None:
        of, *arguments = self.above_mark()
        self.call(of, tuple(arguments))

    def new_with_keywords(self) -> None:
        keywords, arguments = self.pop(), self.pop()
        self.call(self.pop(), arguments)
        made = self.top()
        if isinstance(made, Thing) and isinstance(keywords, dict):
            made.pairs.update(keywords)
            self.spend(len(keywords))

    def build(self) -> None:
        """What a Thing's state is; what OrderedDict or a tensor would be given isn't needed."""
        self.calls += 1
        state = self.pop()
        target = self.top()
        if isinstance(target, Thing):
            if target.state is not None:
                raise BrokenError("an object that is built twice")
            target.state = state

    def stored(self, pid: Any) -> None:
        match pid:
            # Before torch 1.6 there was a sixth part, used only by views.
            case ("storage", Name() as kind, str(key), str(), int(), *views) if (
                views in ([], [None]) and str(kind) in TYPES
            ):
                self.stack.append(Storage(key, TYPES[str(kind)]))
                self.storages[key] = TYPES[str(kind)]
            case ("storage", Name() as kind, str(), str(), int()) if str(kind) not in TYPES:
                self.stack.append(Thing(kind, ()))  # of types that no network here has
            # Before torch 1.6 files held the source of their classes.
            case ("module", Name() as kind, *_):
                self.stack.append(kind)
            case _:
                raise BrokenError("a storage that torch.save doesn't write")

    def remember(self, place: int) -> None:
        self.memo[place] = self.top()

    def extended(self, code: int) -> None:
        raise BrokenError(f"the class copyreg.extension_{code}, which only its author knows")


def _key(value: Any) -> Any:
    """A dictionary's key whose hash takes no time and isn't the pickle's choice."""
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > MOST_KEYS:
        raise BrokenError(f"a key of {len(parts):,} parts")
    for part in parts:
        plain = part is None or isinstance(part, str | bytes | int | float | Name | Thing)
        if not plain or (isinstance(part, int) and abs(part) >= LARGEST_KEY):
            raise BrokenError(f"a key that is a {type(part).__name__}")
    return value


def _paired(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise BrokenError("a key without a value")
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _ordered(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    """OrderedDict, as Python 2 and 3 pickle it."""
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, list | tuple):
        raise BrokenError("a dictionary without pairs")
    flat: list[Any] = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BrokenError("a dictionary without pairs")
        flat += pair
    return _paired(flat)


def _rebuilt(
    storage: Any = None, start: Any = None, shape: Any = None, strides: Any = None, *_: Any
) -> Tensor | Thing:
    """torch._utils._rebuild_tensor and its later forms."""
    if isinstance(storage, Thing):
        return storage
    if not isinstance(storage, Storage):
        raise BrokenError("a tensor without a storage")
    sides = isinstance(shape, tuple | list) and isinstance(strides, tuple | list)
    if not sides or len(shape) != len(strides) or not are_sides([start]):
        raise BrokenError("a tensor without a shape")
    if not (are_sides(shape) and are_sides(strides)):
        raise BrokenError("a tensor without a shape")
    return Tensor(storage.dtype, tuple(shape), tuple(strides), storage.key, start)


def _parameter(data: Any = None, *_: Any) -> Any:
    return data


def _of_type(function: Any = None, _type: Any = None, arguments: Any = (), *_: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor of a subclass of torch.Tensor."""
    if not (isinstance(function, Name) and isinstance(arguments, tuple)):
        raise BrokenError("a tensor without a function")
    make = MADE.get(str(function))
    return make(*arguments) if make in (_rebuilt, _parameter) else Thing(function, arguments)


def _new(kind: Any = None, *arguments: Any) -> Any:
    """copyreg.__newobj__ and its kin: an object of a class."""
    return Thing(kind, arguments)


def _size(sides: Any = (), *_: Any) -> tuple[Any, ...]:
    if not isinstance(sides, tuple | list) or len(sides) > MOST_SIDES:
        raise BrokenError("a size without sides")
    return tuple(sides)


MADE: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch.nn.parameter.Parameter": _parameter,
    **{
        f"{module}.{name}": _new
        for module in ("copyreg", "copy_reg")
        for name in ("_reconstructor", "__newobj__", "__newobj_ex__")
    },
}
"""The names that become values, each by a function of this module."""


def _number(walker: _Walker, value: int) -> None:
    if value.bit_length() > 8 * LONGEST_NUMBER:
        raise BrokenError(f"a number of {value.bit_length():,} bits")
    walker.stack.append(value)


def _tuple(walker: _Walker) -> None:
    walker.stack.append(tuple(walker.above_mark()))


def _inst(walker: _Walker, argument: str) -> None:
    arguments = walker.above_mark()
    walker.call(walker.named(argument), tuple(arguments))


def _frozen(walker: _Walker) -> None:
    walker.stack.append(Thing(Name("builtins", "frozenset"), (), items=walker.above_mark()))


PUSHING = frozenset(
    {
        "FLOAT", "BINFLOAT", "BININT", "BININT1", "BININT2", "INT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
        "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
"""Opcodes whose argument is the value."""
IGNORED = frozenset(("PROTO", "FRAME", "STOP"))

STEPS: Mapping[str, Callable[[_Walker, Any], None]] = {
    "NONE": lambda w, _: w.stack.append(None),
    "NEWTRUE": lambda w, _: w.stack.append(True),
    "NEWFALSE": lambda w, _: w.stack.append(False),
    **dict.fromkeys(("LONG", "LONG1", "LONG4"), _number),
    "MARK": lambda w, _: w.stack.append(MARK),
    "POP": lambda w, _: w.drop(),
    "POP_MARK": lambda w, _: w.drop_above_mark(),
    "DUP": lambda w, _: w.stack.append(w.top()),
    "EMPTY_TUPLE": lambda w, _: w.stack.append(()),
    "TUPLE1": lambda w, _: w.tuple_of(1),
    "TUPLE2": lambda w, _: w.tuple_of(2),
    "TUPLE3": lambda w, _: w.tuple_of(3),
    "TUPLE": lambda w, _: _tuple(w),
    "EMPTY_LIST": lambda w, _: w.stack.append([]),
    "LIST": lambda w, _: w.stack.append(w.above_mark()),
    "EMPTY_DICT": lambda w, _: w.stack.append({}),
    "DICT": lambda w, _: w.stack.append(_paired(w.above_mark())),
    "EMPTY_SET": lambda w, _: w.stack.append(Thing(Name("builtins", "set"), ())),
    "FROZENSET": lambda w, _: _frozen(w),
    "APPEND": lambda w, _: w.append([w.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda w, _: w.append(w.above_mark())),
    "SETITEM": lambda w, _: w.set_items([w.pop(), w.pop()][::-1]),
    "SETITEMS": lambda w, _: w.set_items(w.above_mark()),
    "GLOBAL": lambda w, argument: w.stack.append(w.named(argument)),
    "STACK_GLOBAL": lambda w, _: w.stack_named(),
    "REDUCE": lambda w, _: w.reduce(),
    "NEWOBJ": lambda w, _: w.reduce(),
    "NEWOBJ_EX": lambda w, _: w.new_with_keywords(),
    "OBJ": lambda w, _: w.called_above_mark(),
    "INST": _inst,
    "BUILD": lambda w, _: w.build(),
    "PERSID": lambda w, argument: w.stored(argument),
    "BINPERSID": lambda w, _: w.stored(w.pop()),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda w, code: w.extended(code)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda w, place: w.stack.append(w.memo[place])
    ),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda w, place: w.remember(place)),
    "MEMOIZE": lambda w, _: w.remember(len(w.memo)),
}
"""What each opcode does with the stack."""
