"""What a file's bytes hold, told without torch; torch's own reading is the reference."""

import collections
import contextlib
import io
import json
import struct
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from leadapron.errors import StoreError
from leadapron.models.parsing.formats import (
    MOST_TENSORS,
    OF_SAFETENSORS,
    read_holdings,
    stated_findings,
)
from leadapron.models.parsing.pickles import STORAGES


def saved(value, kind="archive"):
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=kind == "archive")
    return out.getvalue()


def tensors(held, key=""):
    """What the process would hand over, made tensors of as the caller does it."""
    made = {}
    for name, one in held.groups[key].items():
        raw = bytearray(held.numbers(one.storage)[one.place])
        flat = torch.frombuffer(raw, dtype=getattr(torch, one.dtype)) if raw else torch.empty(0)
        made[name] = flat.as_strided(one.shape, one.strides).to(getattr(torch, one.dtype))
    return made


def views(base):
    """Tensors of one storage, as networks and training loops leave them behind."""
    return {
        "whole": base,
        "part": base[1:],
        "column": base[:, 1],
        "turned": base.T,
        "number": base[0, 0],
        "spread": base[:1, :1].expand(4, 5),
        "none": base[:0],
        "parameter": torch.nn.Parameter(base) if base.is_floating_point() else base,
    }


@pytest.mark.parametrize("kind", ["archive", "pickle"])
@pytest.mark.parametrize("dtype", STORAGES.values())
def test_torch_reads_the_same(dtype, kind):
    base = (torch.arange(12) % 5).reshape(3, 4).to(getattr(torch, dtype))
    state = collections.OrderedDict(views(base))
    state._metadata = {"": {"version": 2}}
    held = read_holdings(saved({"state_dict": state, "epoch": 3}, kind), kind, "a.pt")
    got = tensors(held, "state_dict")
    theirs = torch.load(io.BytesIO(saved(state, kind)), weights_only=True)
    assert set(got) == set(theirs)
    for name, value in theirs.items():
        assert got[name].dtype == value.dtype
        assert torch.equal(got[name], value.detach()), name


@given(st.lists(st.integers(0, 4), max_size=4), st.data())
@settings(max_examples=40, deadline=None)
def test_any_layout_is_told_as_it_is(shape, data):
    whole = torch.randn(shape)
    order = data.draw(st.permutations(range(len(shape))))
    state = {"a": whole.permute(order), "b": whole}
    for kind in ("archive", "pickle"):
        got = tensors(read_holdings(saved(state, kind), kind, "a.pt"))
        assert all(torch.equal(got[name], value) for name, value in state.items())


def test_safetensors():
    state = {n: torch.arange(6).reshape(2, 3).to(getattr(torch, n)) for n in
             OF_SAFETENSORS.values()}  # fmt: skip
    held = read_holdings(save(state, {"classes": "A, B"}), "safetensors", "a.safetensors")
    got = tensors(held)
    assert all(torch.equal(got[name], value) for name, value in state.items())
    assert held.findings == ("A", "B")
    assert held.metadata == {"classes": "A, B"}


def test_all_dictionaries_of_tensors_are_told_each_once():
    one = {"a": torch.zeros(2)}
    value = {
        "state_dict": one,
        "again": one,
        "ema": {"module": {"a": torch.ones(2)}, 3: {"a": torch.ones(2)}},
        "deep": {"er": {"still": {"too": {"a": torch.ones(2)}}}},
        "hyper_parameters": {"labels": ["A", "B"]},
        "b": torch.zeros(1),
    }
    held = read_holdings(saved(value), "archive", "a.pt")
    assert list(held.groups) == ["", "state_dict", "ema.module"]
    assert held.findings == ("A", "B")
    same = saved({"a.b": {"c": torch.zeros(1)}, "a": {"b": {"c": torch.zeros(1)}}})
    with pytest.raises(StoreError, match=r"two of its dictionaries are named a\.b"):
        read_holdings(same, "archive", "a.pt")


def archive(pickled, **entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("m/data.pkl", pickled)
        for name, content in entries.items():
            file.writestr(f"m/{name.replace('__', '/')}", content)
    return out.getvalue()


ONE = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(4)}))).read("archive/data.pkl")


def changed(old, new):
    assert ONE.count(old) == 1
    return archive(ONE.replace(old, new), data__0=bytes(16))


BROKEN = {
    "big-endian": (archive(ONE, byteorder="big", data__0=bytes(16)), "are big-endian"),
    "numbers are few": (archive(ONE, data__0=bytes(12)), "a is larger than its storage"),
    "it begins late": (changed(b"QK\x00", b"QK\x01"), "a is larger than its storage"),
    "a negative stride": (changed(b"K\x01\x85q\t", b"J\xff\xff\xff\xff\x85q\t"), "without a shape"),
    "a true side": (changed(b"K\x04\x85q\x08", b"\x88\x85q\x08"), "without a shape"),
    "no strides": (changed(b"K\x01\x85q\t", b")q\t"), "without a shape"),
    "no storage": (changed(b"tq\x07Q", b"tq\x07"), "without a storage"),
    "a view as storage": (changed(b"K\x04tq", b"K\x04K\x01tq"), "that torch.save doesn't write"),
    "a storage of nothing": (changed(b"ctorch\nFloatStorage\n", b"N"), "doesn't write"),
    "methods replaced": (
        archive(b"\x80\x02ccollections\nOrderedDict\n)R}X\5\0\0\0itemsX\1\0\0\0xsb."), "no tensors"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_ones_are_refused(case):
    content, words = BROKEN[case]
    kind = "archive" if content[:2] == b"PK" else "pickle"
    with pytest.raises(StoreError, match=words):
        read_holdings(content, kind, "a.pt")


def test_old_files_whose_parts_do_not_fit():
    whole = saved({"a": torch.zeros(4), "b": torch.ones(2)}, "pickle")
    assert read_holdings(whole, "pickle", "a.pt").groups[""]["a"].shape == (4,)
    with pytest.raises(StoreError, match="3 bytes follow its storages"):
        read_holdings(whole + b"123", "pickle", "a.pt")
    with pytest.raises(StoreError, match="storages are truncated"):
        read_holdings(whole[:-9], "pickle", "a.pt")
    turned = whole.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    with pytest.raises(StoreError, match="big-endian"):
        read_holdings(turned, "pickle", "a.pt")


def test_files_that_say_too_much():
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

    def of(header):
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text

    many = of({f"t{i}": empty for i in range(MOST_TENSORS + 1)})
    with pytest.raises(StoreError, match=r"holds 20,001 tensors; expected 20,000 at most"):
        read_holdings(many, "safetensors", "a")
    with pytest.raises(StoreError, match="a tensor's name of 501 characters"):
        read_holdings(of({"a" * 501: empty}), "safetensors", "a")
    with pytest.raises(StoreError, match="states 2,000,001 characters of metadata"):
        read_holdings(of({"__metadata__": {"a": "b" * 2_000_000}}), "safetensors", "a")
    for shape in ([1 << 50], [1] * 9, [True], [1.0], "1"):
        with pytest.raises(StoreError, match="bytes for a shape of"):
            read_holdings(of({"a": {**empty, "shape": shape}}), "safetensors", "a")
    for place in (["a", "b"], [0.0, 0.0], [None, 0], [0], "00", {"0": 1}):
        with pytest.raises(StoreError, match="an invalid type, shape or position"):
            read_holdings(of({"a": {**empty, "data_offsets": place}}), "safetensors", "a")


def test_names_of_outputs():
    assert stated_findings({"classes": ["A", "B"]}) == ("A", "B")
    assert stated_findings({"labels": '["A"]'}) == ("A",)
    assert stated_findings({"labels": [1, 2], "classes": "A,B"}) == ("A", "B")
    for none in ({}, {"labels": []}, {"labels": [1]}, {"labels": 3}, {"labels": ["a"] * 10_000}):
        assert stated_findings(none) == ()


SMALL = {"a.b": torch.arange(3.0), "c": torch.zeros(2, 2).half()}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("archive", saved({"state_dict": SMALL})),
        ("pickle", saved({"state_dict": SMALL}, "pickle")),
        ("safetensors", save(SMALL, {"classes": "A, B"})),
    ],
)
def test_any_byte_may_be_another(kind, content):
    """Whatever a byte or a cut makes of a file, it is read or refused."""
    step = 1 if len(content) < 1000 else 5
    for at in range(0, len(content), step):
        changed = bytearray(content)
        changed[at] ^= 0xFF
        for one in (bytes(changed), content[:at]):
            with contextlib.suppress(StoreError):
                held = read_holdings(one, kind, "a")
                tensors(held, next(iter(held.groups), ""))
