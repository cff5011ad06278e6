"""Networks that timm and transformers build, without their weights: nothing is downloaded.

A name says all that decides the layers: "timm:NAME:CHANNELSxSIZE", as "timm:swin_tiny:3x224", or
"transformers:TYPE {SETTINGS}" with settings as JSON that differ from the library's. The libraries'
own code runs; a file can only choose among the networks that they register.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from leadapron.errors import LeadapronError, UnknownNameError, UsageError
from leadapron.models.architectures import OF_TRANSFORMERS, library_of
from leadapron.models.layers import instrumented
from leadapron.models.networks import IMAGENET_MEAN, IMAGENET_STD, GreyChannels, Instrumented
from leadapron.text import clean

__all__ = ["LIBRARIES", "Library", "LibraryNetwork", "Taken", "library_network", "stored"]

MOST_WEIGHTS = 1 << 29
"""Most numbers of a network that is built (2 GiB)."""
MOST_LAYERS, MOST = 200, 100_000
"""Largest setting of a number of layers, and of anything else."""


class LibraryNetwork(nn.Module):
    """A library's network for grey images.

    Args:
        body: (n, channels, h, w) to (n, k) logits, or to an object that has them.
        channels: 1, or 3 for which grey is repeated and normalised.
        name: for messages.
    """

    def __init__(self, body: nn.Module, channels: int, name: str) -> None:
        super().__init__()
        self.colours = GreyChannels() if channels == 3 else nn.Identity()
        self.body = body
        self.name = name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, k) logits of normalised (n, 1, h, w) images."""
        try:
            given = self.body(self.colours(images))
        except (AssertionError, ValueError) as error:  # a side that it doesn't take
            words = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{self.name} takes no images of {images.shape[-1]} pixels ({words})"
            ) from None
        logits: torch.Tensor = given if torch.is_tensor(given) else given.logits
        return logits


class Taken(NamedTuple):
    """The input that a library gives a network.

    Args:
        size: side in pixels.
        mean, std: normalisation of each channel.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Stored(NamedTuple):
    """A library's network as its files hold it.

    Args:
        tensors: without values, by their names in files.
        own: their names in the library's module, by their names in files.
        channels: of its input.
        taken: the library's input.
    """

    tensors: Mapping[str, torch.Tensor]
    own: Mapping[str, str]
    channels: int
    taken: Taken


class Library(Protocol):
    """What is built of a library's networks."""

    def named(self, name: str, channels: int | None, size: int | None) -> tuple[str, ...]:
        """Return the names that say all, which a shorter one may mean; the likeliest first."""
        ...

    def body(self, name: str, outputs: int) -> tuple[nn.Module, int, Taken]:
        """Return a network with random weights, its channels, and its input."""
        ...

    def stored(self, body: nn.Module) -> Mapping[str, str]:
        """Return the names of a network's tensors in files, by their names in the module."""
        ...


def library_network(architecture: str, outputs: int) -> Instrumented:
    """Return a library's network with random weights, whose layers can be read.

    Args:
        architecture: a name as above, of all its parts.
        outputs: number of findings.

    Raises:
        UnknownNameError: no such network.
        UsageError: a library that isn't installed, a network that is too large, or one whose layers
            can't be read.
    """
    library, name = library_of(architecture)
    _refuse_large(architecture, outputs)
    body, channels, taken = LIBRARIES[library].body(name, outputs)
    network = LibraryNetwork(body, channels, architecture.partition(" ")[0]).eval()
    found = instrumented(network, taken.size, network.name)
    found.side = taken.size
    return found


@lru_cache(maxsize=32)
def stored(architecture: str, outputs: int) -> Stored:
    """Return a library's network as its files hold it.

    Raises:
        UnknownNameError, UsageError: as `library_network`.
    """
    library, name = library_of(architecture)
    with torch.device("meta"):
        body, channels, taken = LIBRARIES[library].body(name, outputs)
    names = LIBRARIES[library].stored(body)
    tensors = {names[own]: value for own, value in body.state_dict().items()}
    return Stored(tensors, {name: own for own, name in names.items()}, channels, taken)


def _refuse_large(architecture: str, outputs: int) -> None:
    count = sum(value.numel() for value in stored(architecture, outputs).tensors.values())
    if count > MOST_WEIGHTS:
        raise UsageError(
            f"{architecture.partition(' ')[0]} has {count:,} weights; expected at most "
            f"{MOST_WEIGHTS:,}"
        )


def _imported(module: str) -> Any:
    """A module of an optional library; UsageError that says how to install it."""
    library = module.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f'networks of {library} need {error.name}: pip install "leadapron[{library}]"'
        ) from None
    except (ImportError, RuntimeError) as error:  # torchvision of another torch
        words = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{library} can't be imported ({words}); install the torchvision that was built for "
            f"torch {torch.__version__}"
        ) from None


@contextlib.contextmanager
def _building(name: str) -> Iterator[None]:
    """UsageError for what a library's code raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LeadapronError:
        raise
    except Exception as error:  # any kind
        words = " ".join(str(error).split())[:200]
        raise UsageError(f"{name} can't be built ({type(error).__name__}: {words})") from None


# --- timm


@dataclass(frozen=True)
class _Timm:
    NAME = re.compile(r"([\w.]+):([13])x(\d{1,4})")

    def named(self, name: str, channels: int | None, size: int | None) -> tuple[str, ...]:
        if self.NAME.fullmatch(name):
            return (f"timm:{name}",)
        side = size or self._taken(name).size
        counts = (3, 1) if channels is None else (channels,)
        return tuple(f"timm:{name}:{count}x{side}" for count in counts)

    def body(self, name: str, outputs: int) -> tuple[nn.Module, int, Taken]:
        found = self.NAME.fullmatch(name)
        if found is None:
            raise UsageError(f"timm:{clean(name[:80])}: expected timm:NAME:CHANNELSxSIZE")
        plain, channels, size = found[1], int(found[2]), int(found[3])
        taken = self._taken(plain)
        timm = _imported("timm")
        settings: dict[str, Any] = {"num_classes": outputs, "in_chans": channels}
        with _building(f"timm:{plain}"):
            if size == taken.size:
                body: nn.Module = timm.create_model(plain, pretrained=False, **settings)
            else:
                try:  # those whose layers depend on the side take it
                    body = timm.create_model(plain, pretrained=False, img_size=size, **settings)
                except TypeError:
                    body = timm.create_model(plain, pretrained=False, **settings)
        if channels == 1:
            mean, std = (sum(each) / len(each) for each in (taken.mean, taken.std))
            return body, channels, Taken(size, (mean,), (std,))
        return body, channels, taken._replace(size=size)

    def stored(self, body: nn.Module) -> Mapping[str, str]:
        return {name: name for name in body.state_dict()}

    def _taken(self, name: str) -> Taken:
        timm = _imported("timm")
        if not re.fullmatch(r"[\w.]+", name) or not timm.is_model(name):
            raise UnknownNameError("network of timm", clean(name[:80]), timm.list_models())
        facts = timm.get_pretrained_cfg(name, allow_unregistered=True)
        return Taken(facts.input_size[-1], tuple(facts.mean), tuple(facts.std))


# --- transformers


@dataclass(frozen=True)
class _Transformers:
    def named(self, name: str, channels: int | None, size: int | None) -> tuple[str, ...]:  # noqa: ARG002
        kind, _ = self._parts(name)
        config = self._config(name, outputs=2)
        facts = {each: getattr(config, each) for each in self._own(type(config))}
        plain = type(config)()
        changed = {n: v for n, v in facts.items() if v != getattr(plain, n) and _is_plain(v)}
        words = f" {json.dumps(changed, sort_keys=True)}" if changed else ""
        if channels not in (None, config.num_channels):
            raise UsageError(
                f"`model.channels` {channels}: its config.json states {config.num_channels}"
            )
        return (f"transformers:{kind}{words}",)

    def body(self, name: str, outputs: int) -> tuple[nn.Module, int, Taken]:
        config = self._config(name, outputs)
        auto = _imported("transformers").AutoModelForImageClassification
        with _building(f"transformers:{config.model_type}"):
            # Plain attention: other implementations may be fetched.
            body: nn.Module = auto.from_config(config, attn_implementation="eager")
        sides = getattr(config, "image_size", 224)
        size = sides if isinstance(sides, int) else sides[0]
        channels = int(getattr(config, "num_channels", 3))
        if channels not in (1, 3):
            raise UsageError(f"its config.json states {channels} channels; expected 1 or 3")
        return body.eval(), channels, Taken(size, IMAGENET_MEAN, IMAGENET_STD)

    def stored(self, body: nn.Module) -> Mapping[str, str]:
        # Files keep the names of older releases.
        loading = _imported("transformers.core_model_loading")
        state = body.state_dict()
        names = {id(value): name for name, value in state.items()}
        kept = loading.revert_weight_conversion(body, dict(state))
        found = {names[id(value)]: name for name, value in kept.items() if id(value) in names}
        if found.keys() != state.keys():
            raise UsageError(
                f"transformers stores a {type(body).__name__} in an arrangement that isn't "
                "known; export TorchScript or ONNX"
            )
        return found

    def _parts(self, name: str) -> tuple[str, dict[str, Any]]:
        kind, _, text = name.partition(" ")
        if kind not in OF_TRANSFORMERS:
            raise UnknownNameError("network of transformers", clean(kind[:80]), OF_TRANSFORMERS)
        try:
            settings = json.loads(text or "{}")
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise UsageError(f"transformers:{kind}: expected its settings as a JSON object")
        return kind, settings

    def _config(self, name: str, outputs: int) -> Any:
        kind, settings = self._parts(name)
        made = _imported("transformers").CONFIG_MAPPING[kind]
        known = self._own(made)
        given = {n: value for n, value in settings.items() if n in known and _is_plain(value)}
        for setting, value in given.items():
            for number in value if isinstance(value, list) else [value]:
                layered = "layers" in setting or "depth" in setting or "blocks" in setting
                most = MOST_LAYERS if layered else MOST
                if isinstance(number, int | float) and not -MOST <= number <= most:
                    raise UsageError(
                        f"transformers:{kind}: {setting} {number}; expected at most {most:,}"
                    )
        with _building(f"transformers:{kind}"):
            # Of a type with several networks the first one classifies with one layer.
            return made(**given, num_labels=outputs, architectures=[])

    def _own(self, made: Any) -> list[str]:
        """The settings of one kind of network, without those of all."""
        base = {each.name for each in fields(_imported("transformers").PreTrainedConfig)}
        return [each.name for each in fields(made) if each.name not in base and each.name[0] != "_"]


def _is_plain(value: Any) -> bool:
    """Whether a setting is a number, a short word, or a short list of them."""
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(_is_plain(each) for each in value)
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w.-]{0,40}", value))
    return value is None or isinstance(value, bool | int | float)


LIBRARIES: Mapping[str, Library] = {"timm": _Timm(), "transformers": _Transformers()}
"""The libraries by name."""
