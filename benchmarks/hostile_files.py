"""Hostile and broken model files of every format, made of genuine ones, always the same.

`MAKERS` writes a small file or folder of each format, as its library does. `hostile` changes each
by the kinds of its format: bytes, entries of archives, opcodes and objects of pickles, headers,
graphs, layers, descriptions beside the weights. Those that could run something would make the file
`canary`.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import io
import json
import os
import random
import runpy
import stat
import struct
import subprocess
import tempfile
import timeit
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from fuzz_models import any_bytes, own_classifier, tiny, tiny_network

FINDINGS = ("Effusion", "Mass")
STATED = ("--model.findings", ",".join(FINDINGS))
SMALL = (*STATED, "--model.size", "64")
SECRET = b"the-secret-of-another-file"
"""Content of a file outside the model's folder, which no answer may show."""

Change = Callable[[bytes, str], bytes]
"""Changes bytes; gets the path of the canary."""


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    to: str


class Pipe:
    """A named pipe, which never gives anything."""


Entry = bytes | Link | Pipe


@dataclass(frozen=True, eq=False)
class Model:
    """A model's files, and what is typed after `leadapron inspect`.

    Args:
        files: content by path within a folder.
        typed: the model's path there, and options.
        main: the file that changes of bytes change.
        needs: package without which the format isn't read; "" if none.
    """

    files: Mapping[str, Entry]
    typed: tuple[str, ...]
    main: str
    needs: str = ""

    @property
    def content(self) -> bytes:
        """Bytes of the main file."""
        held = self.files[self.main]
        assert isinstance(held, bytes)
        return held

    def having(self, files: Mapping[str, Entry | None], *options: str) -> Model:
        """The same with other files, or without those of None, and with more options."""
        kept = {name: one for name, one in {**self.files, **files}.items() if one is not None}
        return replace(self, files=kept, typed=(*self.typed, *options))


@dataclass(frozen=True)
class Hostile:
    """One hostile or broken model.

    Args:
        format: key of `MAKERS`.
        kind: what was done to it.
        model: the changed files.
    """

    format: str
    kind: str
    model: Model = field(repr=False)


# --- genuine models


def of_one(name: str, content: bytes, *options: str, needs: str = "") -> Model:
    """A model that is one file."""
    return Model({name: content}, (name, *(options or STATED)), name, needs)


def saved(value: object, *, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


class Mean(torch.nn.Module):
    """The mean of the image, twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))[:, :1].repeat(1, 2)


def scripted() -> bytes:
    """TorchScript."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Mean(), torch.zeros(1, 1, 32, 32)), out)
    return out.getvalue()


def exported() -> bytes:
    """A whole ResNet-18 by torch.export."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(tiny_network().eval(), (torch.zeros(1, 1, 64, 64),))
        torch.export.save(program, out)
    return out.getvalue()


def lightning() -> dict[str, Any]:
    """A checkpoint with the keys that Lightning writes."""
    return {
        "epoch": 3, "global_step": 90, "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": value for name, value in tiny("resnet18").items()},
        "loops": {}, "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": ""}},
        "optimizer_states": [{"state": {}, "param_groups": []}], "lr_schedulers": [],
        "hparams_name": "kwargs", "hyper_parameters": {"lr": 1e-4, "pos_weight": [1.0, 2.0]},
    }  # fmt: skip


def dense() -> dict[str, torch.Tensor]:
    """A DenseNet-121's state dict in half precision, as safetensors needs it: without strides."""
    return {name: value.half().contiguous() for name, value in tiny("densenet121").items()}


def onnx(external: bool = False, **changes: Any) -> bytes:
    """A mean of each channel and a product with 1 x 2 weights, in protobuf's own bytes.

    Args:
        external: whether the weights are in another file.
        changes: see the defaults below.
    """
    given = {
        "sides": (1, 1, 32, 32), "kinds": ("GlobalAveragePool", "Flatten", "MatMul"),
        "weights": (1, 2), "raw": struct.pack("<2f", 1, 2), "domain": "", "opset": 13,
        "place": {"location": "weights.bin", "offset": "0", "length": "8"}, "metadata": {},
        "nodes": b"", "names": ("x", "y", "z", "o"), "more": b"",
    } | changes  # fmt: skip

    def number(name: int, value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return bytes([name << 3]) + out + bytes([value])

    def part(name: int, value: bytes | str) -> bytes:
        content = value.encode() if isinstance(value, str) else value
        return bytes([name << 3 | 2]) + number(0, len(content))[1:] + content

    def tensor(name: str, sides: tuple[int, ...]) -> bytes:
        shape = b"".join(part(1, number(1, side)) for side in sides)
        return part(1, name) + part(2, part(1, number(1, 1) + part(2, shape)))

    def pair(key: str, value: str) -> bytes:
        return part(1, key) + part(2, value)

    names = given["names"]
    graph = b""
    for place, kind in enumerate(given["kinds"]):
        inputs = part(1, names[place]) + (part(1, "w") if kind == "MatMul" else b"")
        node = inputs + part(2, names[place + 1]) + part(4, kind) + part(7, given["domain"])
        graph += part(1, node)
    weights = b"".join(number(1, side) for side in given["weights"]) + number(2, 1) + part(8, "w")
    weights += (
        b"".join(part(13, pair(*each)) for each in given["place"].items()) + number(14, 1)
        if external else part(9, given["raw"])
    )  # fmt: skip
    graph += given["nodes"] + part(2, "g") + part(5, weights)
    graph += part(11, tensor(names[0], given["sides"]))
    graph += part(12, tensor(names[len(given["kinds"])], (1, 2))) + given["more"]
    metadata = b"".join(part(14, pair(*each)) for each in given["metadata"].items())
    opset = part(8, part(1, given["domain"]) + number(2, given["opset"]))
    opset += part(8, part(1, "") + number(2, given["opset"])) if given["domain"] else b""
    return number(1, 8) + part(7, graph) + opset + metadata


def keras_layers() -> Any:
    """A small Keras model."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="sigmoid"),
        ]
    )


def of_keras(ending: str) -> bytes:
    """A model as Keras writes it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / f"model.{ending}"
        keras_layers().save(path)
        return path.read_bytes()


def hugging_face() -> Model:
    """A folder with a small ViT, as transformers writes it."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, num_channels=1, id2label=dict(enumerate(FINDINGS)),
        problem_type="multi_label_classification",
    )  # fmt: skip
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        transformers.ViTForImageClassification(config).save_pretrained(folder)
        held = {f"vit/{each.name}": each.read_bytes() for each in Path(folder).iterdir()}
    facts = {"do_normalize": True, "image_mean": [0.5], "image_std": [0.25], "size": {"height": 32}}
    held["vit/preprocessor_config.json"] = json.dumps(facts).encode()
    return Model(held, ("vit",), "vit/model.safetensors", "transformers")


BUNDLE = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [64, 64], "value_range": [0, 1]}},
        "outputs": {"pred": {"type": "probabilities", "format": "classes",
                             "channel_def": dict(enumerate(FINDINGS))}},
    }
}  # fmt: skip

CARD = {
    "schema": 1, "format": "leadapron model card", "file": "model.pt",
    "model": {"size": 64, "findings": list(FINDINGS), "normalisation": "unit"},
}  # fmt: skip


def card(state: bytes, **changes: object) -> bytes:
    """A model card of a file, which JSON is YAML enough for."""
    import hashlib

    facts = {**CARD, "sha256": hashlib.sha256(state).hexdigest(), **changes}
    return json.dumps(facts).encode()


def plain() -> bytes:
    """A state dict of a ResNet-18."""
    return saved(tiny("resnet18"))


MAKERS: Mapping[str, Callable[[], Model]] = {
    "state dict": lambda: of_one("model.pt", plain(), *SMALL),
    "state dict before torch 1.6": lambda: of_one(
        "model.pth", saved(tiny("resnet18"), legacy=True), *SMALL
    ),
    "whole network": lambda: of_one("model.pt", saved(tiny_network()), *SMALL),
    "whole network before torch 1.6": lambda: of_one(
        "model.pth", saved(tiny_network(), legacy=True), *SMALL
    ),
    "Lightning": lambda: of_one("model.ckpt", saved(lightning()), *SMALL),
    "TorchScript": lambda: of_one("model.pt", scripted()),
    "torch.export": lambda: of_one("model.pt2", exported(), *SMALL),
    "safetensors": lambda: of_one("model.safetensors", save(dense()), *SMALL),
    "leadapron": lambda: of_one("model.safetensors", own_classifier(), "--device", "cpu"),
    "ONNX": lambda: of_one("model.onnx", onnx(), needs="onnxruntime"),
    "ONNX with other files": lambda: Model(
        {"model.onnx": onnx(external=True), "weights.bin": struct.pack("<2f", 1, 2)},
        ("model.onnx", *STATED), "model.onnx", "onnxruntime",
    ),
    "Hugging Face": hugging_face,
    "MONAI bundle": lambda: Model(
        {"bundle/configs/metadata.json": json.dumps(BUNDLE).encode(),
         "bundle/models/model.pt": plain()},
        ("bundle/models/model.pt",), "bundle/configs/metadata.json",
    ),
    "model card": lambda: Model(
        {"model.pt": plain(), "model.yaml": card(plain())}, ("model.pt",), "model.yaml"
    ),
    ".keras": lambda: of_one("model.keras", of_keras("keras"), needs="keras"),
    ".h5": lambda: of_one("model.h5", of_keras("h5"), needs="keras"),
}  # fmt: skip
"""What makes a genuine model of each format, which opens."""


@functools.cache
def genuine(name: str) -> Model | None:
    """Return the genuine model of a format; None if the library that it needs isn't installed."""
    try:
        model = MAKERS[name]()
    except ImportError:
        return None
    return None if model.needs and importlib.util.find_spec(model.needs) is None else model


# --- changes of bytes, for every format


def at_random(number: int) -> Change:
    """One of the mutations of `fuzz_models`."""
    return lambda content, _: any_bytes(random.Random(f"{number} {len(content)}"), content)


def put(content: bytes, at: int, new: bytes) -> bytes:
    """The bytes with others at a place."""
    return content[:at] + new + content[at + len(new) :]


BYTES: Mapping[str, Change] = {
    "nothing": lambda c, _: b"",
    "cut at the half": lambda c, _: c[: len(c) // 2],
    "the last byte missing": lambda c, _: c[:-1],
    "the first byte missing": lambda c, _: c[1:],
    "doubled": lambda c, _: c + c,
    "a bit of the header": lambda c, _: put(c, 5, bytes([c[5] ^ 64])),
    "the middle is ones": lambda c, _: put(c, len(c) // 2, b"\xff" * 64),
    **{f"mutation {number}": at_random(number) for number in range(1)},
}


# --- objects of pickles


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def touch(canary: str) -> str:
    """A command that makes the canary."""
    return f"touch {canary}"


def code(canary: str) -> str:
    """Python that makes the canary."""
    return f"open({canary!r}, 'w').close()"


RUNS: Mapping[str, Callable[[str], object]] = {
    "os.system": lambda c: Calls(os.system, touch(c)),
    "eval": lambda c: Calls(eval, code(c)),
    "exec, of a partial": lambda c: Calls(functools.partial, exec, code(c)),
    "Popen": lambda c: Calls(subprocess.Popen, ["touch", c]),
    "an import of a module beside": lambda c: Calls(importlib.import_module, "evil"),
    "__import__": lambda c: Calls(builtins.__import__, "evil"),
    "run_path": lambda c: Calls(runpy.run_path, "evil.py"),
    "torch.load inside": lambda c: Calls(
        torch.storage._load_from_bytes, saved(Calls(os.system, touch(c)))
    ),
    "timeit": lambda c: Calls(timeit.timeit, code(c), "pass", timeit.default_timer, 1),
    "a file that is opened": lambda c: Calls(io.open, c, "w"),
}
"""Objects whose unpickling makes the canary."""

Value = dict[str, Any]

SPOILT: Mapping[str, Callable[[Value, str], object]] = {
    "NaN": lambda s, n: {**s, n: torch.full((1,), float("nan")).expand(s[n].shape)},
    "whole numbers for weights": lambda s, n: {**s, n: torch.ones(1).to(torch.int8)
                                               .expand(s[n].shape)},
    "complex weights": lambda s, n: {**s, n: torch.ones(1, dtype=torch.complex64)
                                     .expand(s[n].shape)},
    "a shape of 2^40": lambda s, n: {**s, n: torch.zeros(1).expand(1 << 40)},
    "a shape of 2^20 a side": lambda s, n: {**s, n: torch.zeros(1).expand(1 << 20, 1 << 20, 1, 1)},
    "no dimension": lambda s, n: {**s, n: torch.tensor(0.0)},
    "a sparse tensor": lambda s, n: {**s, n: torch.zeros(2, 2).to_sparse()},
    "a tensor missing": lambda s, n: {k: v for k, v in s.items() if k != n},
    "a name of two lines": lambda s, n: {**s, f"{n}\nINFO: nothing found": torch.zeros(1)},
    "a name that clears the screen": lambda s, n: {**s, f"\x1b[2J{n}": torch.zeros(1)},
    "a name of a million letters": lambda s, n: {**s, "a" * 1_000_000: torch.zeros(1)},
    "50,000 tensors": lambda s, n: {**s, **{str(i): torch.zeros(1) for i in range(50_000)}},
    "findings of two lines": lambda s, n: {"state_dict": s, "classes": ["A\nB", "C"]},
    "more findings than outputs": lambda s, n: {"state_dict": s, "classes": list("ABCDE")},
    "itself inside": lambda s, n: inside_itself(dict(s)),
    "two networks": lambda s, n: {"state_dict": s, "ema": dict(s)},
    "a list": lambda s, n: list(s.values()),
    "no tensors": lambda s, n: {"state_dict": {n: "text"}},
}  # fmt: skip
"""Changes of a state dict; they get the name of the first convolution too."""


def inside_itself(state: Value) -> Value:
    """A dictionary that holds itself."""
    state["more"] = state
    return state


def within(network: Any, **attributes: object) -> Any:
    """The network with other attributes."""
    for name, value in attributes.items():
        network.__dict__[name] = value
    return network


def changed_part(network: Any, **settings: object) -> Any:
    """The network whose first convolution has other settings."""
    within(network.conv1, **settings)
    return network


def looped(network: Any) -> Any:
    """A network that is a part of itself."""
    network._modules["layer1"] = network
    return network


ODD_NETWORKS: Mapping[str, Callable[[Any], object]] = {
    "a part of itself": looped,
    "findings of two lines": lambda n: within(n, pathologies=["A\nB", "C"]),
    "findings that are calls": lambda n: within(n, pathologies=Calls(os.system, "true")),
    "a replaced forward pass": lambda n: within(n, forward=print),
    "a stride as large as the sea": lambda n: changed_part(n, stride=(1 << 70, 1)),
    "a stride of text": lambda n: changed_part(n, stride="\x1b[31m two"),
    "no parameters": lambda n: changed_part(n, _parameters=None),
    "parts that are a list": lambda n: within(n, _modules=[1, 2]),
    "another dilation": lambda n: changed_part(n, dilation=(7, 7)),
    "a hook": lambda n: changed_part(n, _forward_hooks={0: os.system}),
}


def text(word: str) -> bytes:
    """The opcode of a text."""
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


PICKLED: Mapping[str, bytes] = {
    "nested 300,000 deep": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "marks 300,000 deep": b"\x80\x02" + b"(" * 300_000 + b".",
    "tuples of 2^60 leaves": b"\x80\x02" + b"K\x01\x85" + b"q\x01h\x01\x86" * 60 + b".",
    "keys of 2^60 leaves": b"\x80\x02}" + b"K\x01\x85" + b"q\x01h\x01\x86" * 60 + b"K\x01s.",
    "a text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc.",
    "a number of 2^31 bytes": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"abc.",
    "a frame of 2^62 bytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "the memo at 2^31": b"\x80\x02}r" + struct.pack("<I", (1 << 31) - 1) + b".",
    "no end": b"\x80\x02}",
    "an empty stack": b"\x80\x02.",
    "an extension": b"\x80\x02\x82\x07)R.",
    "a dictionary of itself": b"\x80\x02}q\x00h\x00K\x01s" + text("a") + b"h\x00s.",
    "a class of two lines": b"\x80\x04" + text("os\nINFO") + text("x\ny") + b"\x93)R.",
    "a name that is a number": b"\x80\x04K\x01K\x02\x93)R.",
    "a persistent name": b"\x80\x02Pos.system\n.",
    "2,000,000 steps": b"\x80\x02" + b"N0" * 1_000_000 + b"}.",
    "a number of text": b"\x80\x02I" + b"9" * 100_000 + b"\n.",
    "bytes of 2^44": b"\x80\x02cbuiltins\nbytearray\nL17592186044416L\n\x85R.",
}
"""Pickles that no honest program writes."""


def in_archive(content: bytes, name: str, change: Callable[[bytes], bytes | None]) -> bytes:
    """An archive with one entry changed, or left out: the first whose name ends so."""
    return rewritten(
        content,
        lambda entries: [
            (each, new)
            for each, old in entries
            if (new := change(old) if each.endswith(name) else old) is not None
        ],
    )


Entries = list[tuple[Any, bytes]]


def rewritten(
    content: bytes, change: Callable[[Entries], Entries], how: int = zipfile.ZIP_STORED
) -> bytes:
    """An archive with other entries."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries: Entries = [(each.filename, file.read(each)) for each in file.infolist()]
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as file:
        warnings.simplefilter("ignore")
        for name, body in change(entries):
            file.writestr(name, body)
    return out.getvalue()


def in_place_of_pickle(content: bytes, pickled: bytes) -> bytes:
    """A file of torch.save, whose main pickle is another."""
    if content.startswith(b"PK"):
        return in_archive(content, "data.pkl", lambda _: pickled)
    import pickletools

    stream, ends = io.BytesIO(content), [0]
    for _ in range(4):
        list(pickletools.genops(stream))
        ends.append(stream.tell())
    return content[: ends[3]] + pickled + content[ends[4] :]


# --- entries of archives


def added(name: str, body: bytes = b"") -> Change:
    """An archive with one more entry beside its first."""
    return lambda c, _: rewritten(c, lambda e: [*e, (f"{e[0][0].partition('/')[0]}/{name}", body)])


def entry_of(name: str, mode: int) -> zipfile.ZipInfo:
    """An entry of another type."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (mode | 0o777) << 16
    return entry


def in_directory(offset: int, new: bytes) -> Change:
    """An archive whose directory says something else of its first entry."""
    return lambda c, _: put(c, c.index(b"PK\x01\x02") + offset, new)


def with_bomb(content: bytes, _: str) -> bytes:
    """An archive with 64 MB of zeros, packed."""
    return rewritten(content, lambda e: [*e, ("m/zeros", bytes(1 << 26))], zipfile.ZIP_DEFLATED)


ARCHIVED: Mapping[str, Change] = {
    "a bomb": with_bomb,
    "an entry that leads up": added("../../../../evil.py", b"x"),
    "an entry of the root": lambda c, f: rewritten(c, lambda e: [*e, (f, b"x")]),
    "an entry of two lines": added("a\nINFO: nothing found", b"x"),
    "an entry that is a link": lambda c, _: rewritten(
        c, lambda e: [*e, (entry_of("m/link", stat.S_IFLNK), b"/etc/passwd")]
    ),
    "each entry twice": lambda c, _: rewritten(c, lambda e: e + e),
    "30,000 entries": lambda c, _: rewritten(
        c, lambda e: [*e, *((f"m/{i}", b"") for i in range(30_000))]
    ),
    "encrypted": in_directory(8, b"\x01\x00"),
    "another method": in_directory(10, b"\x0e\x00"),
    "another size": in_directory(24, struct.pack("<I", 1 << 31)),
    "the checksum is another": in_directory(16, bytes(4)),
    "begins elsewhere": in_directory(42, struct.pack("<I", 7)),
    "no entries": lambda c, _: rewritten(c, lambda e: []),
    "half of the entries": lambda c, _: rewritten(c, lambda e: e[::2]),
    "packed by LZMA": lambda c, _: rewritten(c, lambda e: e, zipfile.ZIP_LZMA),
    "bytes before it": lambda c, _: b"#!/bin/sh\n" + c,
}

SOURCE: Mapping[str, str] = {
    "saves": "def forward(self, x):\n  torch.save(x, 'f')\n",
    "maps a file": "x = torch.from_file('/etc/passwd', True, 9)\n",
    "other machines": "x = ops.prim.rpc_sync('a', f)\n",
    "Python": "x = ops.prim.PythonOp(x)\n",
    "a custom operator": "x = ops.mine.run(x)\n",
    "a C++ class": "x : __torch__.torch.classes.mine.Runner\n",
    "operators under another name": "o = ops\nx = o.c10d.send(x)\n",
    "a name in pieces": "y = getattr(torch, 's' 'ave')\n",
    "another encoding": "# coding: utf-7\nx = 1\n",
    "brackets 20,000 deep": "x = " + "(" * 20_000 + "\n",
    "no end": "def f(:\n  '''\n",
}
"""TorchScript's source."""

EXPORTED: Mapping[str, Callable[[Any], object]] = {
    "a path that leads out": lambda f: replaced(f, path_name="../../../etc/passwd"),
    "an absolute path": lambda f: replaced(f, path_name="/etc/passwd"),
    "a pickle of its own": lambda f: replaced(f, use_pickle=True),
    "an unknown type": lambda f: of_tensor(f, dtype=99),
    "a size of 2^62": lambda f: of_tensor(f, sizes=[{"as_int": 1 << 62}]),
    "negative strides": lambda f: of_tensor(f, strides=[{"as_int": -4}] * 4),
    "begins beyond its end": lambda f: of_tensor(f, storage_offset={"as_int": 1 << 40}),
    "a size of text": lambda f: of_tensor(f, sizes=[{"as_expr": "__import__('evil')"}]),
    "a list": lambda f: [f],
    "no tensors": lambda f: {"config": {}},
}
"""Descriptions of the weights of torch.export."""


def replaced(facts: Any, **changes: object) -> Any:
    """A description in which the first tensor is another."""
    first = next(iter(facts["config"].values()))
    first.update(changes)
    return facts


def of_tensor(facts: Any, **changes: object) -> Any:
    """A description in which the first tensor's type or shape is another."""
    next(iter(facts["config"].values()))["tensor_meta"].update(changes)
    return facts


def on_json(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    """A change of JSON as one of bytes."""
    return lambda content: json.dumps(change(json.loads(content))).encode()


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000

# --- headers of safetensors

HEADERS: Mapping[str, Callable[[Any], object]] = {
    "an unknown type": lambda h: {**h, first(h): {**h[first(h)], "dtype": "F31"}},
    "a shape of 2^62": lambda h: {**h, first(h): {**h[first(h)], "shape": [1 << 62, 4]}},
    "a negative shape": lambda h: {**h, first(h): {**h[first(h)], "shape": [-4]}},
    "a shape of text": lambda h: {**h, first(h): {**h[first(h)], "shape": ["4"]}},
    "offsets beyond the file": lambda h: {
        **h, first(h): {**h[first(h)], "data_offsets": [0, 1 << 62]}
    },
    "offsets before it": lambda h: {**h, first(h): {**h[first(h)], "data_offsets": [-64, 0]}},
    "tensors that overlap": lambda h: {**h, "more": h[first(h)]},
    "a name of two lines": lambda h: {
        f"{name}\nINFO" if name == first(h) else name: value for name, value in h.items()
    },
    "findings of two lines": lambda h: {**h, "__metadata__": {"findings": '["A\\nB", "C"]'}},
    "findings by the million": lambda h: {
        **h, "__metadata__": {"findings": json.dumps([str(i) for i in range(1_000_000)])}
    },
    "metadata of numbers": lambda h: {**h, "__metadata__": {"findings": 3}},
    "a list": lambda h: [h],
    "no tensors": lambda h: {},
}  # fmt: skip


def first(header: Mapping[str, Any]) -> str:
    """The name of the first tensor."""
    return next(name for name in header if name != "__metadata__")


def with_header(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A safetensors file with another header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = change(content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def on_facts(change: Callable[[Any], object]) -> Callable[[Any], object]:
    """A change of the facts of leadapron's own file."""

    def changed(header: Any) -> object:
        from leadapron.models.classifier import FORMAT

        header["__metadata__"][FORMAT] = json.dumps(change(json.loads(
            header["__metadata__"][FORMAT])))  # fmt: skip
        return header

    return changed


FACTS: Mapping[str, Callable[[Any], object]] = {
    "an architecture that is a path": lambda f: {**f, "architecture": "../../evil"},
    "an architecture of a library": lambda f: {**f, "architecture": "timm:hf-hub:evil/evil"},
    "an architecture of Python": lambda f: {**f, "architecture": "evil:make"},
    "findings of two lines": lambda f: {**f, "findings": ["A\nB", "C"]},
    "a hundred thousand findings": lambda f: {**f, "findings": [str(i) for i in range(100_000)]},
    "images of 2^40 pixels": lambda f: {**f, "preprocessing": {"size": 1 << 40}},
    "images of no pixels": lambda f: {**f, "preprocessing": {"size": 0}},
    "a mean that is no number": lambda f: {**f, "normalisation": {"mean": float("nan"), "std": 1}},
    "a std of zero": lambda f: {**f, "normalisation": {"mean": 0, "std": 0}},
    "a head that is a command": lambda f: {**f, "head": "touch canary"},
    "facts that are a list": lambda f: [f],
    "nothing": lambda f: {},
}
"""What leadapron's own file says of its network."""


# --- ONNX

GRAPHS: Mapping[str, Mapping[str, Any]] = {
    "an unknown operator": {"kinds": ("GlobalAveragePool", "Flatten", "Run")},
    "an operator of another library": {"domain": "evil.operators"},
    "a version to come": {"opset": 9_999},
    "sides of 2^40": {"sides": (1, 1, 1 << 40, 1 << 40)},
    "a batch of 2^40": {"sides": (1 << 40, 1, 32, 32)},
    "no sides": {"sides": ()},
    "images that aren't square": {"sides": (1, 1, 32, 48)},
    "four channels": {"sides": (1, 4, 32, 32)},
    "weights larger than their bytes": {"weights": (1 << 30, 2)},
    "weights of 2^62": {"weights": (1 << 31, 1 << 31)},
    "no weights": {"raw": b""},
    "a graph in a circle": {"names": ("x", "y", "z", "y")},
    "names of two lines": {"names": ("x", "y", "z", "o\nINFO")},
    "findings of two lines": {"metadata": {"findings": '["A\\nB", "C"]'}},
    "a thousand inputs": {"more": b"".join(bytes([11 << 3 | 2, 2, 10, 0]) for _ in range(1000))},
}
"""Other graphs."""

PLACES: Mapping[str, Mapping[str, str]] = {
    "another folder": {"location": "../secret"},
    "the root": {"location": "/etc/passwd"},
    "a file that is missing": {"location": "missing.bin"},
    "a folder": {"location": "."},
    "a name of two lines": {"location": "a\nb"},
    "a name of nothing": {"location": ""},
    "a name of a drive": {"location": "C:\\x"},
    "an offset beyond its end": {"location": "weights.bin", "offset": "99999"},
    "a negative offset": {"location": "weights.bin", "offset": "-16"},
    "a length of 2^62": {"location": "weights.bin", "length": str(1 << 62)},
    "a length of text": {"location": "weights.bin", "length": "all"},
    "a link out of the folder": {"location": "link"},
    "a pipe": {"location": "pipe"},
}
"""Where weights in another file are."""


# --- Keras


def every(facts: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """A description of layers, each of which is changed."""
    for layer in facts["config"]["layers"]:
        change(layer)
    return facts


def last(facts: Any, **changes: object) -> Any:
    """A description whose last layer is another."""
    facts["config"]["layers"][-1].update(changes)
    return facts


def settings(facts: Any, kind: str, **changes: object) -> Any:
    """A description in which the layers of a kind have other settings."""
    for layer in facts["config"]["layers"]:
        if layer["class_name"] == kind:
            layer["config"].update(changes)
    return facts


def call(module: str, name: str, **config: object) -> dict[str, Any]:
    """A description that names a function or class."""
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


LAYERS: Mapping[str, Callable[[Any, str], object]] = {
    "os.system": lambda f, c: call("os", "system", command=touch(c)),
    "a Lambda layer": lambda f, c: last(f, class_name="Lambda"),
    "a Lambda's code": lambda f, c: settings(
        f, "Dense", activation={"class_name": "__lambda__", "config": {"value": code(c)}}
    ),
    "a layer of another package": lambda f, c: last(f, module="subprocess", class_name="Popen"),
    "a layer of torch's": lambda f, c: last(f, class_name="TorchModuleWrapper"),
    "a saved model of TensorFlow": lambda f, c: last(f, class_name="TFSMLayer"),
    "unsafe loading switched on": lambda f, c: call(
        "keras.config", "enable_unsafe_deserialization"
    ),
    "a download": lambda f, c: call(
        "keras.utils", "get_file", fname="evil", origin=f"file://{c}", cache_dir="."
    ),
    "a vocabulary in a file": lambda f, c: last(
        f, class_name="StringLookup", config={"vocabulary": "../secret", "name": "a"}
    ),
    "a module's own name": lambda f, c: last(f, module="keras.src.evil"),
    "an unknown layer of two lines": lambda f, c: last(f, class_name="De\nnse"),
    "2^40 units": lambda f, c: settings(f, "Dense", units=1 << 40),
    "negative units": lambda f, c: settings(f, "Dense", units=-3),
    "images of 2^30 pixels": lambda f, c: settings(
        f, "InputLayer", batch_shape=[None, 1 << 30, 1 << 30, 1]
    ),
    "a layer inside itself": lambda f, c: last(f, inbound_nodes=[[["dense", 0, 0, {}]]]),
    "no layers": lambda f, c: {**f, "config": {"layers": []}},
    "a list": lambda f, c: [f],
}  # fmt: skip
"""Descriptions of layers, in .keras and .h5."""


def hdf5(change: Callable[[Any], object]) -> bytes:
    """An HDF5 file of Keras in which something else was written."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        path.write_bytes(of_keras("h5"))
        with h5py.File(path, "r+") as file:
            change(file)
        return path.read_bytes()


def weights_in(file: Any) -> tuple[Any, str]:
    """The group and the name of a layer's kernel."""
    found: list[str] = []
    file.visit(lambda name: found.append(name) if name.endswith("kernel") else None)
    parent, _, name = found[-1].rpartition("/")
    return file[parent], name


def instead(file: Any, value: object = None, **options: object) -> None:
    """Put something else in place of a layer's kernel."""
    group, name = weights_in(file)
    del group[name]
    if options:
        group.create_dataset(name, **options)
    else:
        group[name] = value


def outside(secret: str) -> Any:
    """A link to a data set of another file."""
    import h5py

    return h5py.ExternalLink(secret, "/a")


def soft(place: str) -> Any:
    """A link inside the file."""
    import h5py

    return h5py.SoftLink(place)


HDF5: Mapping[str, Callable[[Any], object]] = {
    "weights of another file": lambda f: instead(f, outside("../secret")),
    "weights that lie in another file": lambda f: instead(
        f, shape=(4, 2), dtype="f4", external=[("../secret", 0, 32)]
    ),
    "weights that are a link to itself": lambda f: instead(f, soft(weights_in(f)[0].name)),
    "weights of 2^40 numbers": lambda f: instead(
        f, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(1024, 1024)
    ),
    "weights of text": lambda f: instead(f, "text"),
    "weights of no shape": lambda f: instead(f, shape=(0,), dtype="f4"),
    "a group inside itself": lambda f: f.__setitem__("model_weights/loop", f["/"]),
    "no description": lambda f: f.attrs.__delitem__("model_config"),
    "a description that is a number": lambda f: f.attrs.__setitem__("model_config", 3),
    "no weights": lambda f: f.__delitem__("model_weights"),
}
"""Changes of HDF5."""


# --- files beside the weights

CONFIGS: Mapping[str, Callable[[Any], object]] = {
    "code of its own": lambda f: {**f, "auto_map": {"AutoModel": "evil.Evil"}, "model_type": "x"},
    "an unknown kind": lambda f: {**f, "model_type": "evil\nINFO"},
    "a kind that is a path": lambda f: {**f, "model_type": "../../evil"},
    "a text model": lambda f: {**f, "model_type": "bert"},
    "2^40 wide": lambda f: {**f, "hidden_size": 1 << 40},
    "a million layers": lambda f: {**f, "num_hidden_layers": 1_000_000},
    "images of 2^30 pixels": lambda f: {**f, "image_size": 1 << 30},
    "negative images": lambda f: {**f, "image_size": -32},
    "patches of none": lambda f: {**f, "patch_size": 0},
    "findings of two lines": lambda f: {**f, "id2label": {"0": "A\nB", "1": "C"}},
    "a million findings": lambda f: {**f, "id2label": {str(i): str(i) for i in range(1_000_000)}},
    "an activation that is a command": lambda f: {**f, "hidden_act": "os.system"},
    "attention of another place": lambda f: {**f, "_attn_implementation": "evil/kernel"},
    "a type that is a command": lambda f: {**f, "dtype": "os.system", "torch_dtype": "evil"},
    "numbers that are none": lambda f: {**f, "layer_norm_eps": float("nan")},
}
"""`config.json` of transformers."""

METADATA: Mapping[str, Callable[[Any], object]] = {
    "it segments": lambda f: described(f, "outputs", type="segmentation"),
    "images of 2^40 pixels": lambda f: described(f, "inputs", spatial_shape=[1 << 40, 1 << 40]),
    "images of no pixels": lambda f: described(f, "inputs", spatial_shape=[0, 0]),
    "images of text": lambda f: described(f, "inputs", spatial_shape=["*", "8*n"]),
    "a range of nothing": lambda f: described(f, "inputs", value_range=[1, 1]),
    "a range without end": lambda f: described(f, "inputs", value_range=[0, float("inf")]),
    "a thousand channels": lambda f: described(f, "inputs", num_channels=1000),
    "findings of two lines": lambda f: described(f, "outputs", channel_def={"0": "A\nB", "1": "C"}),
    "findings that are equal": lambda f: described(f, "outputs", channel_def={"0": "A", "1": "A"}),
    "a finding too many": lambda f: described(
        f, "outputs", channel_def={"0": "A", "1": "B", "2": "C"}
    ),
    "a list": lambda f: [f],
}
"""`metadata.json` of a MONAI bundle."""


def described(facts: Any, side: str, **changes: object) -> Any:
    """A description in which the first input or output is another."""
    next(iter(facts["network_data_format"][side].values())).update(changes)
    return facts


MODELS: Mapping[str, object] = {
    "images of 2^40 pixels": {"size": 1 << 40},
    "negative images": {"size": -1},
    "images of text": {"size": "$(touch canary)"},
    "a size that is no number": {"size": float("nan")},
    "findings of two lines": {"findings": ["A\nB", "C"]},
    "findings that look equal": {"findings": ["A", "A\u200b"]},
    "a finding too many": {"findings": ["A", "B", "C"]},
    "a std of zero": {"normalisation": "0.5/0"},
    "a normalisation of text": {"normalisation": "__import__('os')/1"},
    "an architecture of Python": {"architecture": "evil:make"},
    "an architecture to be fetched": {"architecture": "timm:hf-hub:evil/evil"},
    "operating points out of range": {"operating_points": [2, 3], "findings": list(FINDINGS)},
    "an unknown setting": {"sizes": 3, "\x1b[2J": 1},
    "a list": [1, 2],
}
"""The section `model` of a card."""

TEXTS: Mapping[str, bytes] = {
    "a call by a tag": b"!!python/object/apply:os.system ['touch canary']\n",
    "a module by a tag": b"format: !!python/module:evil\n",
    "aliases of 10^9": b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 10)
    ),
    "a list inside itself": b"format: &a [*a]\n",
    "nested 20,000 deep": b"[" * 20_000,
    "no UTF-8": b"\xff\xfe\x00format",
    "a megabyte": b"a: " + b"x" * (1 << 20),
    "two documents": b"a: 1\n---\nb: 2\n",
}  # fmt: skip
"""Cards that are none."""


# --- all of them


def hostile(canary: str, formats: Collection[str] = ()) -> Iterator[Hostile]:
    """Yield every hostile or broken model whose format is read in this environment; some are equal.

    Args:
        canary: absolute path of the file that a hostile one would make.
        formats: keys of `MAKERS`; all if empty.
    """
    for name in formats or MAKERS:
        model = genuine(name)
        if model is None:
            continue
        for kind, change in BYTES.items():
            yield Hostile(name, kind, model.having({model.main: change(model.content, canary)}))
        for kind, changed in SPECIAL[name](model, canary):
            yield Hostile(name, kind, changed)


Changed = Iterator[tuple[str, Model]]


def of_torch(value: Callable[[], Any], *, legacy: bool, whole: bool = False) -> Any:
    """Changes of a file of torch.save: the objects in it, its pickle and its archive."""

    def changed(model: Model, canary: str) -> Changed:
        evil = {"evil.py": code(canary).encode()}
        for kind, make in RUNS.items():
            held = value()
            called = make(canary)
            held = within(held, more=called) if whole else {**held, "more": called}
            content = saved(held, legacy=legacy)
            yield f"runs {kind}", model.having({**evil, model.main: content})
        if whole and not legacy:
            for kind, odd in ODD_NETWORKS.items():
                yield kind, model.having({model.main: saved(odd(value()))})
        if whole:
            return
        for kind, pickled in PICKLED.items():
            yield kind, model.having({model.main: in_place_of_pickle(model.content, pickled)})
        if legacy:
            return
        for kind, spoil in SPOILT.items():
            yield kind, model.having({model.main: saved(spoil(value(), "conv1.weight"))})
        yield from of_archive(model, canary)

    return changed


def of_lightning(model: Model, canary: str) -> Changed:
    """Changes of what Lightning keeps beside the weights."""
    for kind, make in RUNS.items():
        held = lightning()
        held["hyper_parameters"]["loss"] = make(canary)
        yield (
            f"runs {kind}",
            model.having({"evil.py": code(canary).encode(), model.main: saved(held)}),
        )
    for kind in ("nested 300,000 deep", "keys of 2^60 leaves", "a class of two lines"):
        yield kind, model.having({model.main: in_place_of_pickle(model.content, PICKLED[kind])})


def of_archive(model: Model, canary: str) -> Changed:
    """Changes of an archive's entries."""
    for kind, change in ARCHIVED.items():
        yield kind, model.having({model.main: change(model.content, canary)})


def of_script(model: Model, _: str) -> Changed:
    """Changes of TorchScript."""
    for kind, source in SOURCE.items():
        content = in_archive(model.content, ".py", lambda _, new=source: new.encode())
        yield f"source: {kind}", model.having({model.main: content})
    for kind in ("nested 300,000 deep", "keys of 2^60 leaves", "a class of two lines"):
        yield kind, model.having({model.main: in_place_of_pickle(model.content, PICKLED[kind])})


def of_export(model: Model, _: str) -> Changed:
    """Changes of torch.export's archive."""
    for kind, change in EXPORTED.items():
        content = in_archive(model.content, "weights_config.json", on_json(change))
        yield kind, model.having({model.main: content})
    content = in_archive(model.content, "weights_config.json", lambda _: DEEP)
    yield "nested 100,000 deep", model.having({model.main: content})


def of_safetensors(model: Model, _: str) -> Changed:
    """Changes of a header."""
    for kind, change in HEADERS.items():
        yield kind, model.having({model.main: with_header(model.content, on_json(change))})
    yield (
        "nested 100,000 deep",
        model.having({model.main: with_header(model.content, lambda _: DEEP)}),
    )
    length = struct.pack("<Q", 1 << 62)
    yield "a header of 2^62 bytes", model.having({model.main: put(model.content, 0, length)})


def of_leadapron(model: Model, _: str) -> Changed:
    """Changes of the facts in its own file."""
    for kind, change in FACTS.items():
        content = with_header(model.content, on_json(on_facts(change)))
        yield kind, model.having({model.main: content})


def of_onnx(model: Model, _: str) -> Changed:
    """Other graphs."""
    for kind, changes in GRAPHS.items():
        yield kind, model.having({model.main: onnx(**changes)})


def of_external(model: Model, _: str) -> Changed:
    """Weights that are elsewhere."""
    beside: dict[str, Entry] = {"link": Link("../secret"), "pipe": Pipe()}
    for kind, place in PLACES.items():
        yield kind, model.having({**beside, model.main: onnx(external=True, place=place)})
    yield "no other file", model.having({"weights.bin": None})
    yield "the other file is empty", model.having({"weights.bin": b""})


def of_keras_zip(model: Model, canary: str) -> Changed:
    """Changes of a .keras file."""
    for kind, change in ARCHIVED.items():
        if kind in ("a bomb", "an entry that leads up", "each entry twice", "no entries"):
            yield kind, model.having({model.main: change(model.content, canary)})
    for kind, of_layers in LAYERS.items():
        content = in_archive(
            model.content, "config.json", on_json(lambda f, new=of_layers: new(f, canary))
        )
        yield kind, model.having({model.main: content})
    for kind, body in (("nested 100,000 deep", DEEP), ("no description", None)):
        content = in_archive(model.content, "config.json", lambda _, new=body: new)
        yield kind, model.having({model.main: content})
    content = in_archive(model.content, "model.weights.h5", lambda b: b[: len(b) // 2])
    yield "half of the weights", model.having({model.main: content})


def of_hdf5(model: Model, canary: str) -> Changed:
    """Changes of an .h5 file."""
    for kind, change in HDF5.items():
        yield kind, model.having({model.main: hdf5(change)})
    for kind in ("os.system", "a Lambda layer", "a Lambda's code", "a download", "2^40 units"):

        def described_so(file: Any, new: Callable[[Any, str], object] = LAYERS[kind]) -> None:
            facts = new(json.loads(file.attrs["model_config"]), canary)
            file.attrs["model_config"] = json.dumps(facts)

        yield f"layers: {kind}", model.having({model.main: hdf5(described_so)})


def of_hugging_face(model: Model, canary: str) -> Changed:
    """Changes of a folder of transformers."""
    config = "vit/config.json"
    for kind, change in CONFIGS.items():
        held = model.files[config]
        assert isinstance(held, bytes)
        yield kind, model.having({config: on_json(change)(held)})
    code_of = code(canary).encode()
    modules = {f"vit/{name}.py": code_of for name in ("torch", "transformers", "modeling_vit")}
    weights = saved({"more": Calls(os.system, touch(canary))})
    others: Mapping[str, Mapping[str, Entry | None]] = {
        "nested 100,000 deep": {config: DEEP},
        "a configuration that is a pipe": {config: Pipe()},
        "a configuration of another place": {config: Link("../../secret")},
        "modules beside it": {**modules, "torch.py": code_of},
        "weights that are a pipe": {model.main: Pipe()},
        "weights of another place": {model.main: Link("../../secret")},
        "weights that are a link to itself": {model.main: Link("model.safetensors")},
        "weights that run os.system": {model.main: None, "vit/pytorch_model.bin": weights},
        "no weights": {model.main: None},
        "a processor that is a list": {"vit/preprocessor_config.json": b"[1]"},
        "a std of zero": {
            "vit/preprocessor_config.json": b'{"image_mean": [0.5], "image_std": [0]}'
        },
    }
    for kind, files in others.items():
        yield kind, model.having(files)


def of_bundle(model: Model, _: str) -> Changed:
    """Changes of a MONAI bundle."""
    for kind, change in METADATA.items():
        yield kind, model.having({model.main: on_json(change)(model.content)})
    yield "nested 100,000 deep", model.having({model.main: DEEP})
    yield "a pipe", model.having({model.main: Pipe()})


def of_card(model: Model, _: str) -> Changed:
    """Changes of a model card, which is found by itself or named."""
    state = model.files["model.pt"]
    assert isinstance(state, bytes)
    for kind, facts in MODELS.items():
        yield kind, model.having({model.main: card(state, model=facts)})
    named = ("--card", model.main)
    for kind, content in TEXTS.items():
        yield kind, model.having({model.main: content}, *named)
    yield "of another file", model.having({model.main: card(state, sha256="0" * 64)}, *named)
    yield "a hash of text", model.having({model.main: card(state, sha256="x" * 64)}, *named)
    yield "a version to come", model.having({model.main: card(state, schema=99)}, *named)
    yield "a pipe", model.having({model.main: Pipe()}, *named)
    yield "a file of another place", model.having({model.main: Link("../secret")}, *named)


SPECIAL: Mapping[str, Callable[[Model, str], Changed]] = {
    "state dict": of_torch(lambda: tiny("resnet18"), legacy=False),
    "state dict before torch 1.6": of_torch(lambda: tiny("resnet18"), legacy=True),
    "whole network": of_torch(tiny_network, legacy=False, whole=True),
    "whole network before torch 1.6": of_torch(tiny_network, legacy=True, whole=True),
    "Lightning": of_lightning,
    "TorchScript": of_script,
    "torch.export": of_export,
    "safetensors": of_safetensors,
    "leadapron": of_leadapron,
    "ONNX": of_onnx,
    "ONNX with other files": of_external,
    ".keras": of_keras_zip,
    ".h5": of_hdf5,
    "Hugging Face": of_hugging_face,
    "MONAI bundle": of_bundle,
    "model card": of_card,
}
"""Changes by format, beside those of bytes."""


def write(files: Mapping[str, Entry], folder: Path) -> None:
    """Write a model's files into a new folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case Link():
                path.symlink_to(content.to)
            case Pipe():
                os.mkfifo(path)
            case _:
                path.write_bytes(content)
