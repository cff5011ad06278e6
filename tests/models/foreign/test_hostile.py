"""Files that want to run, to fill the memory, or to pass for something else: one line each."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import json
import operator
import os
import pickle
import runpy
import stat
import struct
import subprocess
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from foreign_models import as_torchvision, densenet
from leadapron.errors import LeadapronError, StoreError, UsageError
from leadapron.models.foreign import open_model
from leadapron.models.parsing.pickles import MADE, walk

FINDINGS = ("Effusion", "Mass", "Nodule")
CANARY = "LEADAPRON_CANARY"


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Sets:
    """Pickles as an object that is given a state."""

    def __setstate__(self, state):
        os.environ[CANARY] = "sung"

    def __getstate__(self):
        return {"any": "thing"}


class Makes:
    def __new__(cls, *arguments, **options):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (1,), {"a": 2}


def touch(canary):
    return f"touch {canary}"


def code(canary):
    return f"import os; os.environ['{CANARY}'] = 'sung'; os.mkdir({str(canary)!r})"


def archive(pickled, extra=(), top="model", **more):
    """What torch.save would have written around a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(f"{top}/data.pkl", pickled)
        file.writestr(f"{top}/version", "3\n")
        for name, content in (*extra, *more.items()):
            file.writestr(name, content)
    return out.getvalue()


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def legacy(value):
    return saved(value, _use_new_zipfile_serialization=False)


PLAIN = pickle.dumps({"a": 1}, 2)
PLAIN_ARCHIVE = archive(PLAIN)

# Each wants to run code: what it imports, and the bytes, given the path of the canary.
PICKLES = {
    "plain pickle, os.system": ("system", lambda c: pickle.dumps(Calls(os.system, touch(c)), 2)),
    "eval": ("eval", lambda c: saved(Calls(eval, f"__import__('os').mkdir({str(c)!r})"))),
    "exec": ("exec", lambda c: saved(Calls(exec, code(c)))),
    "exec in protocol 4": ("builtins.exec", lambda c: pickle.dumps(Calls(exec, code(c)), 4)),
    "exec in protocol 5": ("builtins.exec", lambda c: pickle.dumps(Calls(exec, code(c)), 5)),
    "Popen": ("Popen", lambda c: saved(Calls(subprocess.Popen, ["touch", str(c)]))),
    "check_output": ("check_output", lambda c: saved(Calls(subprocess.check_output, ["id"]))),
    "import_module": ("import_module", lambda c: saved(Calls(importlib.import_module, "this"))),
    "run_path": ("run_path", lambda c: saved(Calls(runpy.run_path, str(c)))),
    "getattr": (
        "os.environ",
        lambda c: archive(b"\x80\x02c__builtin__\ngetattr\ncos\nenviron\nU\x03get\x86R."),
    ),
    "attrgetter": ("attrgetter", lambda c: saved(Calls(operator.attrgetter, "system"))),
    "partial": ("system", lambda c: saved(Calls(functools.partial, os.system, touch(c)))),
    "pickle in a pickle": (
        "loads", lambda c: saved(Calls(pickle.loads, pickle.dumps(Calls(exec, code(c)))))
    ),
    "a file of any length": ("open", lambda c: saved(Calls(io.open, str(c), "w"))),
    "among weights": (
        "exec", lambda c: saved({"conv1.weight": torch.zeros(2), "more": Calls(exec, code(c))})
    ),
    "in the optimiser": (
        "exec", lambda c: saved({"state_dict": {}, "optimizer": [Calls(exec, code(c))]})
    ),
    "in a file of torch 1.5": ("exec", lambda c: legacy({"more": Calls(exec, code(c))})),
    "before a file of torch 1.5": (
        "exec", lambda c: pickle.dumps(Calls(exec, code(c)), 2) + legacy({"a": torch.zeros(1)})
    ),
    "INST": ("posix.system", lambda c: archive(f"(S'{touch(c)}'\niposix\nsystem\n.".encode())),
    "OBJ": (
        "posix.system", lambda c: archive(f"(cposix\nsystem\nS'{touch(c)}'\no.".encode())
    ),
    "names that were kept": (
        "posix.system",
        lambda c: archive(
            b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x88h\x00h\x01\x93\x8c\x02id\x85R."
        ),
    ),
    "called twice in 6 names": (
        "and 2 more", lambda c: archive(
            b"\x80\x02(" + b"".join(b"cos\na%d\n" % i for i in range(8)) + b"t."
        ),
    ),
}  # fmt: skip


# Each names something that is not run; without it there is nothing to open.
INERT = {
    "torch's own loader": (
        "_load_from_bytes",
        lambda c: saved(Calls(torch.storage._load_from_bytes, saved(Calls(exec, code(c))))),
    ),
    "numpy's loader": ("load", lambda c: saved(Calls(np.load, str(c)))),
    "bytearray as a bomb": ("bytearray", lambda c: saved(Calls(bytearray, 1 << 44))),
    "an object with a state": ("Sets", lambda c: saved(Sets())),
    "an object made by name": ("Makes", lambda c: archive(pickle.dumps(Makes(), 4))),
    "another network": ("2 tensors (bias, weight, ...)", lambda c: saved(torch.nn.Linear(2, 2))),
}  # fmt: skip

# Each is a pickle that no honest program writes.
STRANGE = {
    "names that can't be told": (
        "a name that isn't text",
        lambda: archive(b"\x80\x04\x88\x94\x88\x94h\x00h\x01\x93\x8c\x02id\x85R."),
    ),
    "extension": ("extension_7", lambda: archive(b"\x80\x02\x82\x07)R.")),
}  # fmt: skip


def patched(data, marker, offset, new, start=0):
    """The bytes with `new` at `offset` behind a marker."""
    place = data.index(marker, start) + offset
    return data[:place] + new + data[place + len(new) :]


def zipped(entries, compress=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as file:
        for name, content in entries:
            file.writestr(name, content)
    return out.getvalue()


def twice():
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped([("m/data.pkl", PLAIN), ("m/a", b"1"), ("m/a", b"2")])


def linked():
    entry = zipfile.ZipInfo("m/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped([("m/data.pkl", PLAIN), (entry, b"/etc/passwd")])


def overlapping():
    """Two entries of the directory that stand for the same bytes."""
    data = zipped([("m/aaaa.pkl", b"x" * 99), ("m/bbbb.pkl", b"x" * 99)])
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    return patched(data, b"PK\x01\x02", 42, struct.pack("<I", 0), second)


def remarked(data, remark):
    """An archive that ends in a remark, as its end says."""
    return data[:-2] + struct.pack("<H", len(remark)) + remark


DIRECTORY = b"PK\x01\x02"
WHOLE = saved({"features.conv0.weight": torch.zeros(4, 1)})
PICKLED = zipfile.ZipFile(io.BytesIO(WHOLE)).read("archive/data.pkl")

ARCHIVES = {
    "bomb": (
        "bytes that unpack to",
        lambda: zipped([("m/data.pkl", PLAIN), ("m/0", bytes(64 << 20))], zipfile.ZIP_DEFLATED),
    ),
    "bomb that says it is larger still": (
        "unpack to|two sizes", lambda: patched(WHOLE, DIRECTORY, 24, struct.pack("<I", 1 << 31))
    ),
    "overlapping": ("overlaps another", overlapping),
    "leads up": ("leads out", lambda: zipped([("m/data.pkl", PLAIN), ("m/../../x", b"")])),
    "leads to the root": ("leads out", lambda: zipped([("m/data.pkl", PLAIN), ("/etc/x", b"")])),
    "leads to a drive": ("leads out", lambda: zipped([("m/data.pkl", PLAIN), ("C:x", b"")])),
    "backslashes": ("leads out", lambda: zipped([("m/data.pkl", PLAIN), ("m\\..\\x", b"")])),
    "twice": ("is repeated", twice),
    "link": ("is a link", linked),
    "encrypted": ("an encrypted archive", lambda: patched(WHOLE, DIRECTORY, 8, b"\x01\x00")),
    "LZMA": ("method 14", lambda: zipped([("m/data.pkl", PLAIN)], zipfile.ZIP_LZMA)),
    "two sizes": ("two sizes", lambda: patched(WHOLE, DIRECTORY, 24, struct.pack("<I", 3))),
    "half": ("damaged or truncated", lambda: WHOLE[: len(WHOLE) // 2]),
    "directory cut off": ("damaged or truncated", lambda: WHOLE[:-30]),
    "a byte of a weight": ("is damaged", lambda: patched(WHOLE, b"data/0", 70, b"\x07")),
    "appended to another": ("isn't at the stated offset", lambda: zipped([("a", b"b")]) + WHOLE),
    "twice but for case": (
        "is repeated", lambda: zipped([("m/data.pkl", PLAIN), ("m/DATA.pkl", PLAIN)])
    ),
    "a remark": ("data follow its directory", lambda: remarked(WHOLE, b"hi")),
    "a second directory in the remark": (
        "isn't at the stated offset", lambda: remarked(WHOLE, WHOLE[WHOLE.index(DIRECTORY):])
    ),
    "a large archive's end that points elsewhere": (
        "isn't at the stated offset", lambda: patched(WHOLE, b"PK\6\6", 48, struct.pack("<Q", 0))
    ),
    "20,001 entries": ("20,001 entries", lambda: zipped([(f"m/{i}", b"") for i in range(20_001)])),
    "a document": ("without data.pkl", lambda: zipped([("word/document.xml", b"<x/>")])),
    "weights missing": (
        "the values of features.conv0.weight are missing",
        lambda: archive(PICKLED),
    ),
    "pickle cut off": ("broken or truncated", lambda: archive(PLAIN[:-3])),
    "second pickle behind": ("data follow", lambda: archive(PLAIN + PLAIN)),
    "not a pickle": ("broken or truncated", lambda: archive(b"\xff\xfe no pickle")),
    "a list": ("holds a list", lambda: saved([torch.zeros(1)])),
    "no tensors": ("no tensors", lambda: saved({"state_dict": {"a": "text"}})),
    "numbers as names": ("no tensors", lambda: saved({1: torch.zeros(1)})),
    "tensor larger than its numbers": (
        "features.conv0.weight is larger than its storage",
        lambda: archive(
            PICKLED.replace(b"K\x04K\x01\x86", b"K\x7fK\x7f\x86"),
            [("model/data/0", bytes(16)), ("model/byteorder", b"little")],
        ),
    ),
    "another network": ("to no DenseNet-121 or ResNet", lambda: saved({"a": torch.zeros(1)})),
}  # fmt: skip


def safetensors(header, body=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(**changes):
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


HEADERS = {
    "header as long as the sea": ("a header of", safetensors(tensor(), length=1 << 62)),
    "header beyond the file": ("a header of", safetensors(tensor(), length=5000)),
    "no JSON": ("isn't JSON", safetensors(b"{not json}")),
    "no UTF-8": ("isn't JSON", safetensors(b'{"\xff\xfe": 1}')),
    "deep": ("isn't JSON", safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "a list": ("isn't a JSON object", safetensors(b"[1, 2, 3]")),
    "a name twice": ("a name is repeated", safetensors(b'{"a": 1, "a": 2}')),
    "unknown type": ("an invalid type, shape", safetensors(tensor(dtype="F31"))),
    "no shape": ("type, shape", safetensors({"a": {"dtype": "F32", "data_offsets": [0, 16]}})),
    "facts that are none": ("an invalid type, shape", safetensors({"a": 3})),
    "negative side": ("for a shape", safetensors(tensor(shape=[-4]))),
    "a side as text": ("for a shape", safetensors(tensor(shape=["4"]))),
    "a side as large as the sea": ("for a shape", safetensors(tensor(shape=[1 << 62, 4]))),
    "other bytes than its shape": ("for a shape", safetensors(tensor(shape=[5]))),
    "begins late": ("doesn't start", safetensors(tensor(data_offsets=[4, 20]), bytes(20))),
    "beyond the file": ("in the file", safetensors(tensor(), bytes(8))),
    "more behind": ("in the file", safetensors(tensor(), bytes(32))),
    "one over another": (
        "doesn't start", safetensors({**tensor(), "b": tensor()["a"]}, bytes(16))
    ),
    "metadata of numbers": (
        "aren't text", safetensors({"__metadata__": {"a": 1}, **tensor()})
    ),
    "metadata that is a list": (
        "aren't text", safetensors({"__metadata__": ["a"], **tensor()})
    ),
}  # fmt: skip

OTHERS = {
    "empty": ("has 0 bytes", b""),
    "one byte": ("has 1 bytes", b"\x80"),
    "words": ("isn't a known model file", b"these are no weights"),
    "web page": ("a web page", b"<!DOCTYPE html><html>not found</html>"),
    "by OpenSSL": ("encrypted by OpenSSL; decrypt it first", b"Salted__" + bytes(40)),
    "by PGP": ("encrypted by PGP; decrypt it first", b"-----BEGIN PGP MESSAGE-----\n" + bytes(40)),
    "Git LFS": ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "gzip": ("gzip", b"\x1f\x8b" + bytes(99)),
    "tar": ("tar archive", bytes(257) + b"ustar" + bytes(300)),
    "empty archive": ("isn't a known model file", b"PK\x05\x06" + bytes(18)),
    "protocol 0": ("isn't a known model file", b"(S'id'\nios\nsystem\n."),
    "plain values": ("torch.save didn't write", pickle.dumps({"a": [1, 2.5, "b"]}, 2)),
    "pickle cut off": ("broken or truncated", pickle.dumps({"a": list(range(99))}, 2)[:-20]),
    "torch 1.5, cut off": ("broken or truncated", legacy({"a": torch.zeros(9)})[:150]),
    "torch 1.5, weights cut off": ("storages are truncated", legacy({"a": torch.zeros(9)})[:-20]),
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Open a hostile file; what is said, with nothing run, nothing written, nothing printed."""
    canary = tmp_path / "canary"

    def ask(content, *words, name="model.pt", findings=FINDINGS):
        path = tmp_path / name
        path.write_bytes(content(canary) if callable(content) else content)
        with pytest.raises(LeadapronError) as caught:
            open_model(path, findings, device="cpu", precision="fp32")
        said = str(caught.value)
        assert isinstance(caught.value, (StoreError, UsageError))
        assert "\n" not in said
        assert name in said
        assert len(said) < 900
        assert not canary.exists()
        assert CANARY not in os.environ
        assert sorted(p.name for p in tmp_path.iterdir()) == [name]
        assert capfd.readouterr() == ("", "")
        return said, type(caught.value)

    monkeypatch.delenv(CANARY, raising=False)
    return ask


def test_there_are_enough_of_them():
    assert sum(map(len, (PICKLES, ARCHIVES, HEADERS, OTHERS, WEIGHTS, SOURCES))) >= 50


def test_the_canary_would_sing(tmp_path, monkeypatch):
    monkeypatch.setenv(CANARY, "")
    canary = tmp_path / "canary"
    pickle.loads(PICKLES["exec in protocol 4"][1](canary))
    assert canary.exists()
    assert os.environ[CANARY] == "sung"
    canary.rmdir()
    pickle.loads(PICKLES["plain pickle, os.system"][1](canary))
    assert canary.exists()
    monkeypatch.setenv(CANARY, "")
    pickle.loads(pickle.dumps(Sets()))
    assert os.environ[CANARY] == "sung"


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_that_run_code(refused, case):
    imported, content = PICKLES[case]
    said, kind = refused(content)
    assert kind is StoreError
    assert "needs code to be unpickled: it imports" in said
    assert imported in said
    assert "module:function" in said


@pytest.mark.parametrize("case", INERT)
def test_pickles_of_which_nothing_is_left(refused, case):
    named, content = INERT[case]
    said, kind = refused(content)
    assert kind is StoreError
    assert named in said


@pytest.mark.parametrize("case", STRANGE)
def test_pickles_that_no_honest_program_writes(refused, case):
    words, content = STRANGE[case]
    said, kind = refused(content())
    assert kind is StoreError
    assert words in said


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(refused, case):
    words, make = ARCHIVES[case]
    said, kind = refused(make())
    assert kind is StoreError
    assert any(each in said for each in words.split("|")), said


@pytest.mark.parametrize("case", HEADERS)
def test_safetensors_headers(refused, case):
    words, content = HEADERS[case]
    said, kind = refused(content, name="model.safetensors")
    assert kind is StoreError
    assert words in said


@pytest.mark.parametrize("case", OTHERS)
def test_other_files(refused, case):
    words, content = OTHERS[case]
    said, kind = refused(content)
    assert kind is StoreError
    assert words in said


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(StoreError, match=r"missing\.pt isn't a file; expected"):
        open_model(tmp_path / "missing.pt")
    with pytest.raises(StoreError, match="it is a folder; expected a file"):
        open_model(tmp_path)
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(StoreError, match="it is a pipe; expected a file"):
        open_model(tmp_path / "pipe.pt")


def odd(state, name, value):
    return {**state, name: value}


def spoilt(state, name, value):
    tensor = state[name].clone()
    tensor.view(-1)[5] = value
    return {**state, name: tensor}


FIRST, LAST, NORM = "features.conv0.weight", "classifier.weight", "features.norm5.running_var"

# Of a network that would be taken but for one thing: what is said, and the changed state dict.
WEIGHTS = {
    "NaN": ("conv2.weight hold values that aren't", lambda s: spoilt(
        s, "features.denseblock3.denselayer7.conv2.weight", np.nan)),
    "infinite": ("the last layer's weight hold", lambda s: spoilt(s, LAST, np.inf)),
    "negative variance": ("has negative values", lambda s: spoilt(s, NORM, -1)),
    "bytes for weights": ("is of type int8", lambda s: odd(s, FIRST, s[FIRST].to(torch.int8))),
    "complex": ("is of type complex64", lambda s: odd(s, NORM, s[NORM].to(torch.complex64))),
    "four channels": ("takes 4 channels", lambda s: odd(s, FIRST, torch.zeros(64, 4, 7, 7))),
    "larger than the sea": ("has shape", lambda s: odd(
        s, NORM, torch.zeros(1).expand(1 << 40))),
    "one missing": ("norm5.running_var is missing", lambda s: {
        n: v for n, v in s.items() if n != NORM}),
    "one too many": ("isn't one of its weights", lambda s: odd(s, "features.more", torch.zeros(1))),
    "one beside": ("belong to no known network", lambda s: {
        **{f"model.{n}": v for n, v in s.items()}, "other.weight": torch.zeros(1)}),
    "no last layer": ("without a last layer", lambda s: {
        n: v for n, v in s.items() if not n.startswith("classifier")}),
    "narrow last layer": ("the last layer has weights", lambda s: odd(
        s, LAST, torch.zeros(3, 1000))),
    "other biases": ("the last layer has weights", lambda s: odd(
        s, "classifier.bias", torch.zeros(4))),
    "two findings for three": ("3 outputs and 2 different", lambda s: {
        "state_dict": s, "classes": ["Mass", "Nodule"]}),
    "a finding twice": ("3 outputs and 2 different", lambda s: {
        "state_dict": s, "classes": ["Mass", "Nodule", "Mass"]}),
    "a finding without a name": ("3 outputs and 3 different", lambda s: {
        "state_dict": s, "classes": ["Mass", "", "Nodule"]}),
    "no findings": ("doesn't name its 3 outputs", lambda s: s),
}  # fmt: skip


@pytest.fixture(scope="module")
def dense():
    return {n: v.half() if v.is_floating_point() else v
            for n, v in as_torchvision(densenet().state_dict()).items()}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_none(refused, dense, case):
    words, change = WEIGHTS[case]
    said, kind = refused(saved(change(dense)), findings=None if "finding" in case else FINDINGS)
    assert issubclass(kind, UsageError if case == "no findings" else StoreError)
    assert words in said, said


def test_metadata_that_lies(refused, dense):
    for wrong in ('["Mass", "Nodule"]', "Mass, Nodule, Mass", "[" * 9000):
        said, kind = refused(save(dense, {"findings": wrong}), name="m.safetensors", findings=None)
        assert kind is StoreError
        assert "3 outputs and" in said
    own = {"leadapron classifier 1": json.dumps({"architecture": "densenet121"})}
    said, kind = refused(save(dense, own), name="m.safetensors", findings=None)
    assert kind is StoreError
    assert "does not describe its own weights" in said


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def script():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        out = io.BytesIO()
        torch.jit.save(torch.jit.script(Mean()), out)
    return out


def scripted(out, source=None, rename=lambda name: name, **more):
    """TorchScript whose source is another, whose entries are called otherwise, or that has more."""
    changed = io.BytesIO()
    with zipfile.ZipFile(out) as file, zipfile.ZipFile(changed, "w") as target:
        top = file.namelist()[0].partition("/")[0]
        for entry in file.infolist():
            content = file.read(entry)
            if source is not None and entry.filename.endswith(".py"):
                content = source if isinstance(source, bytes) else source.encode()
            target.writestr(rename(entry.filename), content)
        for name, content in more.items():
            target.writestr(f"{top}/{name}", content)
    return changed.getvalue()


def utf16(source):
    """ASCII that another reader takes for other letters: lines of even length behind a cookie."""
    lines = [b"# coding: utf-16-le", *source.encode().splitlines()]
    return b"".join(line + b" " * (1 - len(line) % 2) + b"\n" for line in lines)


SOURCES = {
    "saves": ("calls save", "def forward(self, x):\n  torch.save(x, 'f')\n"),
    "saves, spread out": ("calls save", "def forward(self, x):\n  torch . save(x, 'f')\n"),
    "saves as a method": ("calls save", "def forward(self, x):\n  x.save('f')\n"),
    "saves by name": ("names save", "y = getattr(torch, 's\\x61ve')\n"),
    "saves by pieces": ("from parts", "y = getattr(torch, 's' 'ave')\n"),
    "maps a file": ("calls from_file", "x = torch.from_file('/etc/passwd', True, 9)\n"),
    "aten by its name": ("calls save", "x = ops.aten.save(x, 'f')\n"),
    "network": ("operator of c10d", "x = ops.c10d.send(x)\n"),
    "custom operator": ("operator of mine", "x = ops.mine.run(x)\n"),
    "C++ class": ("C++ classes", "x : __torch__.torch.classes.mine.Runner\n"),
    "other machines": ("contacts other machines", "x = ops.prim.rpc_sync('a', f)\n"),
    "operators by a name of its own": (
        "assigns operators to a variable",
        "o = ops\nx = o.c10d.send(x)\n",
    ),
    "C++ classes by a name of their own": (
        "assigns torch's classes to a variable",
        "t = __torch__.torch\n",
    ),
    "Python": ("runs Python", "x = ops.prim.PythonOp(x)\n"),
    "not to be read": ("can't be read", "def f(:\n  '''\n"),
    "a cookie": ("can't be read (byte 0x23 in line 1)", utf16("x = torch.save(x, 'f')")),
    "a cookie in the second line": ("0x23 in line 2", b"\n# -*- coding: utf-7 -*-\n"),
    "a byte order mark": ("byte 0xef", b"\xef\xbb\xbfx = 1\n"),
    "wide letters": ("byte 0xef", "x = torch.\uff53ave(x, 'f')\n"),
    "a form feed": ("byte 0x0c", b"x = 1\n\x0cy = 1\n"),
    "a tab": ("byte 0x09", b"x =\t1\n"),
    "a carriage return": ("byte 0x0d", b"y = 2\rx = 1\n"),
    "a zero": ("byte 0x00", b"x = 1\0\n"),
    "behind a number": ("calls save", "x = 1..save('f')\n"),
    "stuck to a number": ("byte 0x31", "x = 1save('f')\n"),
    "stuck to a number of another kind": ("byte 0x30", "x = 0x1.save('f')\n"),
    "a line that goes on": ("byte 0x5c", b"x = torch.sa\\\nve(x, 'f')\n"),
    "a type in a comment": ("byte 0x23", "x = y # type: __torch__.torch.classes.A\n"),
    "a text with a letter before": ("from parts", "x = r'save'\n"),
    "a text of three quotes": ("from parts", "x = '''save'''\n"),
    "another letter in a text": ("byte 0x27", "x = '\u00e9'\n"),
    "a zero in a text": ("byte 0x22", b'x = "a\0b"\n'),
    "a text that goes on": ("byte 0x27", b"x = 'sa\\\nve'\n"),
    "a letter by its number": ("names save", "y = getattr(torch, '\\163ave')\n"),
    "a letter by a name": ("can't be read", "y = getattr(torch, '\\N{nothing like it}')\n"),
}

ENTRIES = {
    "code in capitals": {"rename": lambda name: name.replace("/code/", "/CODE/")},
    "source in capitals": {"rename": lambda name: name.replace(".py", ".PY")},
    "a folder in capitals": {"rename": lambda name: name.replace("__torch__", "__TORCH__")},
    "an older format": {"model.json": b"{}"},
    "tensors of an older format": {"tensors/0": b"1234"},
    "for another loader": {"bytecode.pkl": b"\x80\x02N."},
    "packed beside": {".data/ts_code/0/x": b""},
    "code of another package": {"code/mine.py": b"x = 1\n"},
    "up and down": {"code/__torch__/a.b.py": b"x = 1\n"},
    "another letter": {"code/__torch__/\u0131.py": b"x = 1\n"},
}
"""Of TorchScript: changed or added entries that torch might find, or once did."""


@pytest.fixture
def no_process(monkeypatch):
    """No process is even started."""
    from leadapron.models.foreign import opening

    monkeypatch.setattr(opening, "ModelProcess", None)


@pytest.mark.parametrize("case", SOURCES)
def test_torchscript_that_reaches_out(refused, no_process, script, case):
    words, source = SOURCES[case]
    said, kind = refused(scripted(script, source))
    assert kind is StoreError
    assert words in said


@pytest.mark.parametrize("case", ENTRIES)
def test_torchscript_with_entries_that_are_not_its_own(refused, no_process, script, case):
    change = dict(ENTRIES[case])
    rename = change.pop("rename", None)
    said, kind = refused(
        scripted(script, rename=rename, **{"code/__torch__/more.py": b"x = 1\n"})
        if rename
        else scripted(script, **change)
    )
    assert kind is StoreError
    assert "with an entry" in said


@pytest.mark.parametrize("pickled", [
    b"\x80\x02X\x23\0\0\0__torch__.torch.classes.mine.Runner.__.",
    b"\x80\x02c__torch__.torch.classes.mine\nRunner\n.",
    b"\x80\x02c__torch__.torch\nclasses.mine.Runner\n.",
])  # fmt: skip
def test_torchscript_with_objects(refused, no_process, script, pickled):
    said, _ = refused(scripted(script, **{"traced_inputs.pkl": pickled}))
    assert "C++ classes" in said
    said, _ = refused(scripted(script, **{"traced_inputs.pkl": b"\x80\x02c__torch__.torch"}))
    assert "broken or truncated" in said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.onnx", b"\x08\x07" + bytes(99), 'ONNX Runtime: pip install "leadapron[onnx]"'),
        ("model.keras", PLAIN_ARCHIVE, 'Keras: pip install "leadapron[keras]"'),
        ("any", b"\x89HDF\r\n\x1a\n" + bytes(99), 'Keras: pip install "leadapron[keras]"'),
    ],
)
def test_without_the_library_that_runs_it(refused, monkeypatch, name, content, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said, kind = refused(content, name=name)
    assert kind is UsageError
    assert said == f"{name} needs {words}"


def test_what_becomes_a_value_is_what_torch_allows():
    """Names that are more than records, torch's restricted unpickler allows too."""
    from torch._weights_only_unpickler import _get_allowed_globals

    made = {name for name in MADE if not name.startswith(("copyreg", "copy_reg"))}
    assert made < set(_get_allowed_globals())


def test_a_walk_names_what_would_be_imported():
    pickled = pickle.dumps([Calls(os.system, "id"), Calls(os.system, "ls")], 2)
    file = io.BytesIO(pickled + b"more")
    walked = walk(file, "a.pkl")
    assert walked.reaching == (f"{os.system.__module__}.system",)
    assert walked.calls == 2
    assert file.tell() == len(pickled)
    assert walked.words() == f"it imports {os.system.__module__}.system and makes 2 calls"
    assert walk(io.BytesIO(PLAIN), "a.pkl").reaching == ()


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_any_cut_is_refused(refused, cut):
    refused(WHOLE[: 20 + cut * len(WHOLE) // 70])
