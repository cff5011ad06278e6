"""Pickles of networks that want to run, to fill the memory or to never end: one line each."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import sys
import time
import zipfile

import pytest

from leadapron.errors import StoreError
from leadapron.models.parsing.pickles import MOST_STEPS, Name, Thing, walk
from leadapron.models.parsing.reading import open_file, open_weights

SECONDS, MEMORY = 10, 2 << 30


# --- opcodes


def text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    return b"J" + struct.pack("<i", value)


def name(module, last):
    return b"c" + f"{module}\n{last}\n".encode()


def pairs(values):
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def thing(kind, state):
    module, _, last = kind.rpartition(".")
    return name(module, last) + b")\x81" + state + b"b"


def network(parts=b"}", parameters=b"}", kind="torch.nn.modules.linear.Linear", **more):
    """A torch.nn.Module."""
    state = {"_parameters": parameters, "_buffers": b"}", "_modules": parts, **more}
    return thing(kind, pairs(state))


def tensor(shape=(2,), strides=(1,), start=0, key="0", kind="FloatStorage"):
    sides = [b"(" + b"".join(map(number, part)) + b"t" for part in (shape, strides)]
    stored = b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(9)
    return (
        name("torch._utils", "_rebuild_tensor_v2") + b"(" + stored + b"tQ" + number(start)
        + b"".join(sides) + b"\x89" + b"NtR"
    )  # fmt: skip


PUT, GET = b"q\x01", b"h\x01"
WEIGHT = pairs({"weight": tensor()})
SOUND = network(parameters=WEIGHT)
MANY = 100_000

# --- callables that would do something, each called by another opcode

REACHING = """
    posix.system nt.system os.system os.popen os.execv os.remove subprocess.Popen subprocess.call
    builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__ __builtin__.eval
    __builtin__.file importlib.import_module importlib._bootstrap._load runpy.run_path
    runpy._run_code pty.spawn webbrowser.open shutil.rmtree socket.socket ctypes.CDLL sys.exit
    sys.settrace
    code.InteractiveInterpreter pdb.run timeit.timeit commands.getoutput io.open _io.FileIO
    pickle.loads _pickle.loads marshal.loads types.FunctionType types.CodeType bdb.Bdb cProfile.run
    asyncio.create_subprocess_shell multiprocessing.Process threading.Thread tempfile.mktemp
    operator.attrgetter operator.methodcaller zipfile.ZipFile urllib.request.urlopen smtplib.SMTP
    gc.get_objects inspect.stack atexit.register signal.signal builtins.setattr builtins.globals
""".split()  # noqa: SIM905
INERT = """
    torch.load torch.hub.load torch.serialization.os.system torch.utils.cpp_extension.load_inline
    torch.storage._load_from_bytes torch.classes.load_library torch.jit.load torch.ops.load_library
    numpy.load numpy.testing._private.utils.runstring numpy.f2py.crackfortran.myeval pip.main
    setuptools._distutils.spawn.spawn __main__.main leadapron.cli.main pandas.read_pickle
    joblib.load dill.loads cloudpickle.loads monai.bundle.ConfigParser builtins.getattr
    collections.namedtuple functools.partial copyreg._reconstructor torch.Tensor.__setstate__
""".split()  # noqa: SIM905


def called(kind, how, canary):
    module, _, last = kind.rpartition(".")
    argument = text(f"touch {canary}")
    return {
        "REDUCE": name(module, last) + argument + b"\x85R",
        "NEWOBJ": name(module, last) + argument + b"\x85\x81",
        "OBJ": b"(" + name(module, last) + argument + b"o",
        "INST": b"(" + argument + b"i" + f"{module}\n{last}\n".encode(),
        "NEWOBJ_EX": name(module, last) + argument + b"\x85}\x92",
        "STACK_GLOBAL": text(module) + text(last) + b"\x93" + argument + b"\x85R",
        "BUILD": name(module, last) + b"}" + text("__setstate__") + argument + b"sb",
        "twice": name(module, last) + argument + b"\x85R" + argument + b"\x85R",
    }[how]


HOWS = ("REDUCE", "NEWOBJ", "OBJ", "INST", "NEWOBJ_EX", "STACK_GLOBAL", "BUILD", "twice")


def modules(count):
    """Networks of two parts each, which are the same: 2 to that power of paths."""
    inner = SOUND + PUT
    for _ in range(count):
        inner += b"0" + network(parts=b"}(" + text("a") + GET + text("b") + GET + b"u") + PUT
    return inner


def nested(count):
    """Networks within networks, without a tensor but the innermost's."""
    head = name("torch.nn", "Module") + b")\x81}(" + text("_parameters") + b"}" + text("_modules")
    return (head + b"}" + text("a")) * count + SOUND + b"sub" * count


# What each opcode can be made to do. None is a file that torch.save writes.
STRANGE = {
    "a network in itself": name("torch.nn", "Module") + b")\x81" + PUT + pairs(
        {"_parameters": WEIGHT, "_modules": b"}" + text("me") + GET + b"s"}) + b"b",
    "more paths than atoms": modules(60),
    "some paths": modules(9),
    "networks nested deeply": nested(100),
    "networks nested beyond the stack": nested(20_000),
    "dictionaries nested beyond the stack": (b"}" + text("a")) * 100_000 + b"}" + b"s" * 100_000,
    "lists nested beyond the stack": b"]" * MANY + b"a" * (MANY - 1),
    "tuples nested beyond the stack": b")" + b"\x85" * MANY,
    "objects nested beyond the stack": name("a", "B") + b")R" + b")R" * MANY,
    "states nested beyond the stack": (name("a", "B") + b")R") * 50_000 + b"b" * 49_999,
    "a dictionary in itself": b"}" + PUT + text("a") + GET + b"s",
    "a list in itself": b"]" + PUT + GET + b"a",
    "a dictionary as its own key": b"}" + PUT + GET + GET + b"s",
    "a tuple of tuples as a key": b"})" + b"\x85" * 1000 + b"Ns",
    "a tuple of many parts as a key": b"}(" + b"N" * 100_000 + b"tNs",
    "numbers of one hash as keys": b"}(" + b"".join(
        b"\x8a\x20" + (i * (2**61 - 1)).to_bytes(32, "little") + b"N" for i in range(50_000)
    ) + b"u",
    "a number of a million digits": b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20),
    "a number in a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "a place in the memo without end": b"}r" + b"\xff" * 4,
    "a memo without end": b"N" + b"\x94" * MANY,
    "a stack without end": b"N" * (MOST_STEPS + 1),
    "marks without end": b"(" * MANY,
    "copies without end": b"N" + b"2" * MANY,
    "a network of 20,001 tensors": network(parameters=pairs(
        {str(i): tensor() for i in range(20_001)})),
    "a network of attributes": network(**{f"a{i}": b"K\x01" for i in range(100_000)}),
    "attributes of many networks": b"}(" + b"".join(
        text(f"{i}") + thing("a.B", b"h\x02") for i in range(9_000)) + b"u",
    "findings of many dictionaries": text("[" * 100_000) + PUT + b"0}(" + b"".join(
        text(f"{i}") + b"}" + text("findings") + GET + b"s" for i in range(6_000)) + b"u",
    "a name of many letters": pairs({"a" * 100_000: tensor()}),
    "a module's name of many letters": network(pairs({"a" * 600: SOUND})),
    "a class of many letters": network(parameters=WEIGHT, kind="a." + "b" * 100_000),
    "a class with control characters": network(parameters=WEIGHT, kind="a\x1b[31m.b\u202e"),
    "a module with line ends": network(pairs({"a\nFOUND: nothing": SOUND})),
    "a setting with line ends": network(parameters=WEIGHT, stride=text("\x1b]0;x\x07\n2")),
    "settings that aren't plain": network(parameters=WEIGHT, stride=b"]" + PUT + GET + b"a"),
    "a setting as large as the sea": network(
        parameters=WEIGHT, stride=b"\x8a\x1f" + b"\x7f" * 31),
    "a module that hides another": network(pairs({"relu": SOUND, "relu ": SOUND}), WEIGHT),
    "a setting that hides another": network(
        parameters=WEIGHT, stride=number(2), **{"stride ": number(1)}),
    "settings of many letters": text("a" * 199) + PUT + b"0" + network(pairs(
        {str(i): network(**{str(j): GET for j in range(40)}) for i in range(200)}), WEIGHT),
    "20,001 parts": network(parameters=WEIGHT, parts=pairs(
        {f"a{i}": b"h\x02" for i in range(20_001)})).replace(b"c", SOUND + b"q\x020c", 1),
    "parts that are no dictionary": network(parts=b"]", parameters=WEIGHT),
    "parts that are no networks": network(pairs({"a": number(3), "b": b"]"}), WEIGHT),
    "tensors that are none": network(parameters=pairs({"weight": number(3)})),
    "buffers hidden by a number": network(
        parameters=WEIGHT, _non_persistent_buffers_set=number(3)),
    "buffers hidden by a set of lists": network(
        parameters=WEIGHT, _non_persistent_buffers_set=b"\x8f(]]\x90"),
    "a forward pass of its own": network(parameters=WEIGHT, forward=name("posixpath", "join")),
    "an object that is built twice": SOUND + b"}b",
    "an object built of itself": name("a", "B") + b")\x81" + PUT + GET + b"b",
    "a class that is built": name("torch._utils", "_rebuild_tensor_v2") + pairs(
        {"__code__": b"N", "__defaults__": b")"}) + b"b",
    "a dictionary whose methods are set": name("collections", "OrderedDict") + b")R" + pairs(
        {"items": b"N", "__class__": b"N"}) + b"b",
    "a state of slots": name("a", "B") + b")\x81N" + pairs({"__class__": b"N"}) + b"\x86b",
    "a tensor of a negative side": pairs({"weight": tensor(shape=(-2,))}),
    "a tensor that begins before": pairs({"weight": tensor(start=-1)}),
    "a tensor of other strides": pairs({"weight": tensor(strides=(1, 1))}),
    "a tensor of 9 sides": pairs({"weight": tensor(shape=(1,) * 9, strides=(1,) * 9)}),
    "a tensor beyond its storage": pairs({"weight": tensor(shape=(1 << 30,))}),
    "a tensor of another file": pairs({"weight": tensor(key="../../../etc/passwd")}),
    "a tensor of no storage": name("torch._utils", "_rebuild_tensor_v2") + b")R",
    "a tensor of words": name("torch._utils", "_rebuild_tensor_v2") + text("a") + b"\x85R",
    "a tensor of a strange type": pairs({"weight": tensor(kind="UndtypedStorage")}),
    "a tensor of a called type": name("torch._tensor", "_rebuild_from_type_v2") + b"(" + name(
        "os", "system") + b"N(" + text("id") + b"tNtR",
    "a storage that is a call": b"(" + text("storage") + name("a", "B") + b")R" + text("0")
        + text("cpu") + number(1) + b"tQ",
    "a persistent name in text": b"Pstorage\n",
    "a persistent list": b"]Q",
    "ordered pairs of no pairs": name("collections", "OrderedDict") + b"](K\x01K\x02e\x85R",
    "ordered pairs again and again": name("collections", "OrderedDict") + PUT + b"0](" + (
        b")" * 1000 + b"e\x85q\x020" + b"h\x01h\x02R0" * MANY + b"}"),
    "a size without sides": name("torch", "Size") + text("a") + b"\x85R",
    "a parameter of nothing": name("torch._utils", "_rebuild_parameter") + b")R",
    "extensions": b"\x82\x01\x83\x01\x00\x84\x01\x00\x00\x00",
    "a buffer outside": b"\x97",
    "a buffer that is only read": b"N\x98",
    "a text longer than the file": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "bytes longer than the file": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "an array longer than the file": b"\x96" + b"\xff" * 7 + b"\x7f",
    "a frame longer than the file": b"\x95" + b"\xff" * 7 + b"\x7fN",
    "a long number of negative length": b"\x8b\xff\xff\xff\xff",
    "a version of the future": b"\x80\xff",
    "an opcode of the future": b"\xee",
    "nothing to drop": b"0",
    "nothing to copy": b"2",
    "nothing to keep": b"q\x00",
    "a mark as a value": b"(\x85",
    "a mark as a function": b"()R",
    "no mark": b"Nt",
    "no memory of it": b"h\x07",
    "a key without a value": b"}(Nu",
    "items of a number": b"K\x01Na",
    "keys of a tuple": b")NNs",
    "a call of text": text("os.system") + b")R",
    "a call with a list": name("a", "B") + b"]R",
    "a call of nothing": b"(o",
    "a class of numbers": b"K\x01K\x02\x93",
    "an instance without a mark": b"ia\nb\n",
    "keywords that are none": name("a", "B") + b")N\x92",
    "text that is none": b"X\x02\x00\x00\x00\xff\xfe",
    "a string that isn't closed": b"S'a\n",
    "a fraction that is none": b"Fa\n",
    "a number that is none": b"Ia\n",
    "names without end": b"".join(name("a", f"b{i}") + b"0" for i in range(100_000)) + b"}",
}  # fmt: skip


def archive(pickled):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", b"\x80\x02" + pickled + b".")
        file.writestr("m/data/0", bytes(64))
    return out.getvalue()


@pytest.fixture
def harmless(tmp_path):
    """Open a hostile file; what is said, "" if it opens."""

    def ask(pickled):
        path = tmp_path / "model.pt"
        path.write_bytes(archive(pickled))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said, began = "", time.monotonic()
        try:
            with open_file(path) as file, open_weights(file) as weights:
                shown = [*weights.groups, *(n for group in weights.groups.values() for n in group)]
                for parts in weights.modules.values():
                    for where, part in parts.items():
                        shown += [where, part.kind, *part.settings, str(part.settings)]
                assert all(line.isprintable() for line in shown)
        except StoreError as error:
            said = str(error)
        assert time.monotonic() - began < SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
        assert said.isprintable()
        assert len(said) < 900
        assert [each.name for each in tmp_path.iterdir()] == ["model.pt"]
        return said

    return ask


def test_there_are_enough_of_them():
    assert len(STRANGE) + len(REACHING) + len(INERT) >= 160
    assert len(STRANGE) >= 60


@pytest.mark.parametrize("case", STRANGE)
def test_strange_pickles(harmless, case):
    said = harmless(STRANGE[case])
    assert said.startswith("model.pt") or (not said and case in OPENED), said


OPENED = {
    "buffers hidden by a number", "buffers hidden by a set of lists", "a forward pass of its own",
    "settings that aren't plain", "a setting as large as the sea", "a setting with line ends",
    "a class of many letters", "a class with control characters", "a module with line ends",
    "parts that are no dictionary", "parts that are no networks", "some paths",
}  # fmt: skip
"""Of these the tensors are read, and what is strange is left out or made printable."""


@pytest.mark.parametrize("kind", REACHING)
def test_what_would_run_is_refused(harmless, tmp_path, kind):
    how = HOWS[REACHING.index(kind) % len(HOWS)]
    call = called(kind, how, tmp_path / "canary")
    said = harmless(b"}(" + text("net") + SOUND + text("more") + call + b"u")
    assert f"needs code to be unpickled: it imports {kind}" in said


@pytest.mark.parametrize("kind", INERT)
def test_what_is_of_other_packages_is_not_run(harmless, tmp_path, kind):
    """The network beside it opens."""
    how = HOWS[INERT.index(kind) % len(HOWS)]
    call = called(kind, how, tmp_path / "canary")
    said = harmless(b"}(" + text("net") + SOUND + text("more") + call + b"u")
    assert not said


def test_the_canary_would_sing(tmp_path):
    pickle.loads(b"\x80\x02" + called("os.system", "REDUCE", tmp_path / "canary") + b".")
    assert (tmp_path / "canary").exists()


def test_nothing_that_a_pickle_names_is_imported():
    """Classes stay names, however they are used."""
    before = set(sys.modules)
    pickled = b"\x80\x02" + called("antigravity.fly", "REDUCE", "x") + b"."
    value = walk(io.BytesIO(pickled), "a.pt").value
    assert isinstance(value, Thing)
    assert value.of == Name("antigravity", "fly")
    assert set(sys.modules) == before


def test_a_sound_one_opens(harmless):
    assert not harmless(SOUND)
    assert not harmless(network(pairs({"a": SOUND, "b": SOUND})))


def test_walks_are_what_pickle_loads():
    """On plain values, the walk agrees with Python's own unpickler in every protocol."""
    shared = [1, 2]
    value = {
        "a": shared, "b": (shared, {"c": 1.5, 3: None}, b"bytes", "\u00e9", 2**70, -1, 255, 65536),
        "d": [True, False, "", (), [], {}], ("k", 1): [[[["deep"]]]], "e": "x" * 300,
        "f": b"y" * 300,
        "g": (1,), "h": (1, 2), "i": (1, 2, 3), "j": float("inf"), "k": -(2**31), "l": -(2**40),
    }  # fmt: skip
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.dumps(value, protocol)
        if protocol < 3:  # bytes become a call of codecs
            walked = walk(io.BytesIO(pickled), "a").value
            assert isinstance(walked["f"], Thing)
            walked["f"], walked["b"] = value["f"], (*walked["b"][:2], b"bytes", *walked["b"][3:])
        else:
            walked = walk(io.BytesIO(pickled), "a").value
        assert walked == value, protocol
        assert walked["a"] is walked["b"][0]
