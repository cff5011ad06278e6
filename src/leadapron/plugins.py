"""Plugins: registries of methods, and external methods from files and packages.

Each kind of method has a registry, a dictionary of methods by name. A plugin adds methods to
registries. It is a file given by `--plugin`, or an entry point "leadapron.KIND" of an installed
package. A plugin is code that runs with all of the user's rights, so it can only be named on the
command line or in Python: a spec, a manifest or a gate that names one is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from leadapron.allocator import tune_allocator
from leadapron.errors import LeadapronError, UnknownNameError, UsageError
from leadapron.outside import code_of
from leadapron.reading import given_path, read_regular
from leadapron.store import reason

__all__ = [
    "KINDS",
    "OPTION",
    "Plugin",
    "Registry",
    "load_plugins",
    "loaded_plugins",
    "refuse_plugins",
    "worker_pool",
]

T = TypeVar("T")

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "source": "leadapron.sources:SOURCES",
        "trigger": "leadapron.attacks.triggers:TRIGGERS",
        "network": "leadapron.models.architectures:ARCHITECTURES",
        "explainer": "leadapron.explainers:EXPLAINERS",
        "feature_detector": "leadapron.detect.features:FEATURE_DETECTORS",
        "input_detector": "leadapron.detect.inputs:INPUT_DETECTORS",
        "statistic": "leadapron.detect.models:STATISTICS",
        "film_method": "leadapron.detect.films:METHODS",
        "repair": "leadapron.repairs:REPAIRS",
    }
)
"""Location of the registry of each kind of method, as in the entry points "leadapron.KIND"."""

LARGEST = 1 << 20
"""Most bytes of a plugin's file."""

OPTION = "--plugin FILE.py|NAME"
"""The option that loads a plugin."""


@dataclass(frozen=True)
class At:
    """Where one of the package's own methods is, so that its module is loaded when it is wanted.

    Args:
        place: "module:name".
    """

    place: str

    def load(self) -> Any:
        """Return the method."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(module), name)


class Registry(MutableMapping[str, T]):
    """The methods of one kind by name: the package's own, and those that plugins add.

    Args:
        kind: a kind from `KINDS`.
        built_in: the package's own, or where they are; no other can take one of their names.
        code: returns the part of a method whose source defines its behaviour.
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, T | At],
        code: Callable[[T], Any] = lambda method: method,
    ) -> None:
        self.kind, self.words = kind, kind.replace("_", " ")
        self._methods = dict(built_in)
        self._built_in, self.code = dict(built_in), code

    def __setitem__(self, name: str, method: T) -> None:
        """Add a method; UsageError if the name is reserved."""
        if name in self._built_in and _loaded_method(self._built_in, name) is not method:
            raise UsageError(
                f"the {self.words} {name!r} is built in; choose another name for yours"
            )
        self._methods[name] = method
        _added.append(f"{self.words} {name}")

    def __getitem__(self, name: str) -> T:
        return _loaded_method(self._methods, name)

    def __contains__(self, name: object) -> bool:
        return name in self._methods  # which loads nothing

    def __delitem__(self, name: str) -> None:
        del self._methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def find(self, name: str) -> T:
        """Return the method with a name, from an installed package's entry point if necessary.

        Raises:
            UnknownNameError: no such method.
            LeadapronError: an entry point that can't be loaded.
        """
        self.require(name)
        return self[name]

    def require(self, name: str) -> None:
        """Raise as `find` does; one of the package's own is not loaded for that."""
        if name not in self._methods:
            for entry in entry_points(group=_group(self.kind), name=name):
                self[name] = _entered(entry)
        if name not in self._methods:
            raise self.unknown(name)

    def unknown(self, name: str) -> UnknownNameError:
        """Return the error for an unknown name."""
        return UnknownNameError(
            self.words, name, self._methods, f"; one of a plugin needs {OPTION}"
        )

    def codes(self, names: Iterable[str]) -> dict[str, str]:
        """Return the digests of the external methods, by "KIND NAME".

        Args:
            names: names of the methods.

        Raises:
            UsageError: a method without a source file.
            StoreError: a source file that can't be read.
        """
        whats = {f"{self.words} {name}": self.code(self[name]) for name in names}
        found = {what: code_of(method, what) for what, method in whats.items()}
        return {what: code for what, code in found.items() if code}


def _loaded_method(methods: dict[str, T | At], name: str) -> T:
    """A method, which takes the place of where it is."""
    method = methods[name]
    if isinstance(method, At):
        loaded: T = method.load()
        methods[name] = method = loaded
    return method


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A loaded plugin.

    Args:
        name: a file's full path, or the name of entry points.
        sha256: SHA-256 of the file's content, 64 hex digits; "" for entry points.
        methods: the methods that it added, as "trigger ring".
    """

    name: str
    sha256: str
    methods: tuple[str, ...]


_added: list[str] = []
_loaded: dict[str, Plugin] = {}


def loaded_plugins() -> tuple[Plugin, ...]:
    """Return the plugins loaded in this process by `load_plugins`, in order."""
    return tuple(_loaded.values())


def load_plugins(names: Iterable[str]) -> tuple[Plugin, ...]:
    """Load plugins, each once per process, and return all loaded ones.

    Args:
        names: paths of Python files, or names of installed packages' entry points. A file's module
            is "leadapron_plugin_STEM"; it can't import modules next to it.

    Raises:
        UsageError: no such file or name, two files with the same name, or a plugin that adds
            nothing or uses a reserved name.
        LeadapronError: code that fails.
    """
    for name in names:
        from_file = name.endswith(".py") or "/" in name or "\\" in name
        key = str(given_path(name).absolute()) if from_file else name
        if key in _loaded:
            continue
        before = len(_added)
        digest = _run(Path(key)) if from_file else _enter(name)
        if not (methods := tuple(_added[before:])):
            raise UsageError(
                f'plugin {name} adds no method; expected a line such as TRIGGERS["ring"] = Ring'
            )
        _loaded[key] = Plugin(name=key, sha256=digest, methods=methods)
    return loaded_plugins()


def refuse_plugins(facts: Any, name: str) -> None:
    """Raise UsageError if a file's contents name a plugin.

    Args:
        facts: the contents as plain values.
        name: the file's name, for the message.
    """
    for key in _keys(facts):
        if key in ("plugin", "plugins"):
            raise UsageError(
                f"{name} names a plugin ({key}); a plugin is code, so it can only be named on the "
                "command "
                f"line: {OPTION}"
            )


def worker_pool(
    workers: int | None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> ProcessPoolExecutor:
    """Return a pool of new processes that have the plugins of this one, and end with it.

    Args:
        workers: number of processes; one per core if left out.
        initializer: called in each process, after the plugins are loaded.
        initargs: arguments of `initializer`, which may be a plugin's objects.
    """
    begin: Any = _begin  # receives the result of unpickling `_Carried`
    return ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=begin,
        initargs=(_Carried(), initializer, initargs),
    )


class _Carried:
    """Loads the plugins when unpickled, before later arguments, which may be a plugin's objects."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _load_again, (loaded_plugins(),)


def _load_again(plugins: Iterable[Plugin]) -> None:
    """Load another process's plugins."""
    for plugin in plugins:
        again = load_plugins([plugin.name])[-1]
        if again.sha256 != plugin.sha256:
            raise LeadapronError(f"plugin {plugin.name} was changed while the command ran")


def _begin(_: None, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    tune_allocator()
    threading.Thread(target=_end_with_parent, name="leadapron-parent", daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """Wait for who made this process, and end: one that is killed can't stop its pool."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(path: Path) -> str:
    """Run a plugin's file as a module, and return its SHA-256."""
    name = f"leadapron_plugin_{path.stem}"
    if (other := sys.modules.get(name)) is not None and other.__file__ != str(path):
        raise UsageError(
            f"plugins {other.__file__} and {path}: expected files with different names"
        )
    try:
        content = read_regular(path, LARGEST)
    except OSError as error:
        raise UsageError(
            f"can't read the plugin {path} ({reason(error)}); expected a Python file"
        ) from error
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # pickle and dataclasses need it there
    try:
        # No cached bytecode is used, so that the hashed source is what runs.
        exec(compile(content, str(path), "exec"), module.__dict__)  # noqa: S102
    except BaseException as error:
        del sys.modules[name]
        raise _failed(f"plugin {path.name}", error) from error
    return hashlib.sha256(content).hexdigest()


def _enter(name: str) -> str:
    """Add the methods of the entry points with a name."""
    installed = {kind: entry_points(group=_group(kind)) for kind in KINDS}
    chosen = [(kind, entry) for kind, some in installed.items() for entry in some.select(name=name)]
    if not chosen:
        known = sorted({entry.name for some in installed.values() for entry in some})
        raise UsageError(
            f"no plugin {name!r}; expected FILE.py, or the name of an installed package's entry "
            f"point in leadapron.KIND (there {'are ' + ', '.join(known) if known else 'is none'})"
        )
    for kind, entry in chosen:
        module, _, registry = KINDS[kind].partition(":")
        into = getattr(importlib.import_module(module), registry)
        into[name] = _entered(entry)
    return ""


def _entered(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except BaseException as error:
        raise _failed(f"plugin {entry.name} ({entry.value})", error) from error


def _failed(what: str, error: BaseException) -> BaseException:
    """The error for a plugin whose code fails; interrupts are passed on."""
    if isinstance(error, UsageError):
        return UsageError(f"{what}: {error}")
    if not isinstance(error, Exception | SystemExit):
        return error
    line = next((f" (line {frame.lineno})" for frame in _frames(error)), "")
    return LeadapronError(f"{what} can't be loaded: {type(error).__name__}: {error}{line}")


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """Frames of a plugin's own code, the last first."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return (frame for frame in frames if frame.filename != __file__)


def _group(kind: str) -> str:
    return f"leadapron.{kind}"


def _keys(facts: Any) -> Iterator[str]:
    if isinstance(facts, Mapping):
        yield from map(str, facts)
        facts = list(facts.values())
    if isinstance(facts, list | tuple):
        for each in facts:
            yield from _keys(each)
