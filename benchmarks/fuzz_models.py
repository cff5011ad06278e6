"""Mutate model files until reading one does what it may not.

    .venv/bin/python benchmarks/fuzz_models.py --inputs 200000 --whole 2000

The mutations know what they change: opcodes of pickles, entries and directories of archives,
headers of safetensors, tokens of TorchScript, fields of ONNX; and bytes. `--inputs` are parsed one
after another by one process, as the one that `models.parsing` forks for each file parses it; it
is started again where an input ends it. `--whole` go by `open_model`, from a file to a network or a
line. A finding is an exception that isn't one of ours, words of more than one line, and of the
whole road what takes half a minute or more than 2 GB in this process; the file that did it stays in
--out. Input I of a seed is always the same: `--only I` tries it again.

That an input ends the process that parses is no finding: it is what the process is for.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import logging
import pickletools
import random
import resource
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from leadapron.confinement import limited_time
from leadapron.errors import LeadapronError
from leadapron.models.parsing import formats, reading

SECONDS = 2
"""Granted to an input, less than in earnest: few inputs need more than a hundredth of it."""
LATE = 30
MOST_MEMORY = 2 << 30
LARGEST_TAKEN = 1 << 20
RARE = 0.01
SMALL = 5_000
"""Bytes of an input to begin with; more of these are tried, since each takes less time."""
FINDINGS = ("Effusion", "Mass")
EXTREMES = (0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
            2**62, 2**63 - 1)  # fmt: skip
WORDS = ("", "a", "a" * 600, "\x1b[31m", "a\nb", "\u202e", "..", "conv1.weight", "state_dict",
         "ema", "0", "storage", "F32", "__metadata__", "findings", "shape")  # fmt: skip
BOMBS = (b"\x85" + b"q\x01h\x01\x86" * 60 + b"K\x01s", b"\x85" * 300_000, b"\x94" * 300_000)
"""These end the process that parses, after a while; they are rare, or all time would go to them."""
STRANGE = (
    b"(" * 300, b"}q\x07h\x07h\x07s", b"cposix\nsystem\n", b"\x8e" + b"\xff" * 8, b"]q\x07h\x07a",
    b"ccollections\nOrderedDict\n", b")R", b"}b", b"\x93", b"ctorch\nFloatStorage\n", b"Q",
    b"ca\nB\n)\x81}b", b"}X\x08\0\0\0_modules}sb", b"q\x01h\x01h\x01b", b"\x82\x01", b"}\x92",
)  # fmt: skip


# --- what to begin with


def write_seeds(folder: Path) -> None:
    """Write small valid files, and state dicts of whole networks whose numbers are all one."""
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    small = {"conv1.weight": torch.randn(2, 3), "bn.running_var": torch.ones(3).half()}
    network, dense = tiny("resnet18"), tiny("densenet121")
    turned = torch.nn.Parameter(small["conv1.weight"].T)
    several = {"state_dict": small, "ema": {"module": small}, "classes": list(FINDINGS),
               "optimizer": {"state": {0: turned}}}  # fmt: skip
    both = {"state_dict": network, "ema": {"module": network}, "epoch": 3}
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())
    layers.pathologies = list(FINDINGS)
    whole = {"model": layers, "hyper_parameters": {"rate": 0.1, "loss": torch.nn.L1Loss}}
    for number, state in enumerate(
        (small, several, network, dense, both, layers, whole, tiny_network())
    ):
        torch.save(state, folder / f"{number}.pt")
        torch.save(state, folder / f"{number}.pth", _use_new_zipfile_serialization=False)
    (folder / "0.safetensors").write_bytes(save(small, {"classes": "Effusion, Mass"}))
    (folder / "1.safetensors").write_bytes(own_classifier())

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))[:, :1].repeat(1, 2)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Mean(), torch.zeros(1, 1, 8, 8)), folder / "0.ts")
    (folder / "0.onnx").write_bytes(onnx_mean())


def tiny(architecture: str) -> dict:
    """A network's state dict as its makers name it, every tensor one number that is spread."""
    import torch

    from leadapron.models.networks import shapes

    one = torch.full((1,), 0.01)
    state = {}
    for name, shape in shapes(architecture).items():
        if name.startswith("stages."):
            name = name.split(".", 2)[2].replace(".layers.", ".")
            name = f"features.{name}" if architecture.startswith("densenet") else name
            state[name] = one.expand(shape) if shape else torch.tensor(0)
    width = shapes(architecture)["head.weight"][1]
    head = "classifier" if architecture.startswith("densenet") else "fc"
    return {**state, f"{head}.weight": one.expand(2, width), f"{head}.bias": one.expand(2)}


def tiny_network() -> object:
    """MONAI's whole ResNet-18, every tensor one number that is spread."""
    import torch
    from monai.networks.nets.resnet import resnet18

    network = resnet18(spatial_dims=2, n_input_channels=1, num_classes=2)
    for value in (*network.parameters(), *network.buffers()):
        value.data = torch.full((1,), 0.01).expand(value.shape) if value.shape else value.data
    return network


def own_classifier() -> bytes:
    """The smallest network in this package's own format."""
    from safetensors.torch import save

    from leadapron.models.classifier import FORMAT
    from leadapron.models.networks import build_network

    facts = {"architecture": "resnet9", "findings": list(FINDINGS), "preprocessing": {"size": 32},
             "head": "sigmoid", "normalisation": {"mean": 0.5, "std": 0.2}}  # fmt: skip
    return save(build_network("resnet9", 2, seed=0).state_dict(), {FORMAT: json.dumps(facts)})


def onnx_mean() -> bytes:
    """A model of two nodes, GlobalAveragePool and Flatten, in protobuf's own bytes."""

    def number(field: int, value: int) -> bytes:
        return bytes([field << 3, value])

    def part(field: int, value: bytes | str) -> bytes:
        content = value.encode() if isinstance(value, str) else value
        return bytes([field << 3 | 2, len(content)]) + content

    def tensor(name: str, sides: Sequence[int]) -> bytes:
        shape = b"".join(part(1, number(1, side)) for side in sides)
        return part(1, name) + part(2, part(1, number(1, 1) + part(2, shape)))

    nodes = part(1, part(1, "x") + part(2, "y") + part(4, "GlobalAveragePool"))
    nodes += part(1, part(1, "y") + part(2, "z") + part(4, "Flatten"))
    graph = nodes + part(2, "g") + part(11, tensor("x", (1, 2, 32, 32)))
    graph += part(12, tensor("z", (1, 2)))
    return number(1, 8) + part(7, graph) + part(8, part(1, "") + number(2, 13))


# --- mutations: each takes a random generator and what it changes


def any_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flip, cut, repeat or replace some bytes."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del changed[at : at + rng.choice((1, 4, 64, len(changed)))]
            case 3:
                changed[at:at] = changed[at : at + rng.choice((1, 4, 64, 512))]
            case 4:
                width = rng.choice(["<H", "<I", "<Q", ">I"])
                value = rng.choice(EXTREMES) % (1 << 8 * struct.calcsize(width))
                changed[at : at + struct.calcsize(width)] = struct.pack(width, value)
            case _:
                changed[at:at] = rng.choice(WORDS).encode("utf-8", "surrogatepass")[:99]
    return bytes(changed)


def pickled(rng: random.Random, content: bytes) -> bytes:
    """Delete, repeat, swap, change or put in opcodes of the first pickle."""
    try:
        places = [place for _, _, place in pickletools.genops(content)]
    except (ValueError, IndexError, UnicodeDecodeError):
        return any_bytes(rng, content)
    ends = [*places[1:], places[-1] + 1]
    parts = [content[begin:end] for begin, end in zip(places, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(parts))
        match rng.randrange(7):
            case 0:
                del parts[at : at + rng.choice((1, 2, 9))]
            case 1:
                parts[at:at] = parts[at : at + rng.choice((1, 3, 20))]
            case 2:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                value = rng.choice(EXTREMES)
                parts[at] = b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
            case 4:
                word = rng.choice(WORDS).encode()
                parts[at] = b"X" + struct.pack("<I", len(word)) + word
            case 5:
                parts[at:at] = [rng.choice(BOMBS if rng.random() < RARE else STRANGE)]
            case _:
                parts[at] = any_bytes(rng, parts[at])
        if not parts:
            return b"."
    return b"".join(parts) + content[ends[-1] :]


def legacy(rng: random.Random, content: bytes) -> bytes:
    """Change one of the pickles, or the numbers behind them."""
    stream = io.BytesIO(content)
    ends = [0]
    for _ in range(5):
        collections.deque(pickletools.genops(stream), maxlen=0)
        ends.append(stream.tell())
    which = rng.choice((3, 3, 3, 0, 1, 2, 4, 5))
    if which == 5:
        return content[: ends[5]] + any_bytes(rng, content[ends[5] :])
    begin, end = ends[which], ends[which + 1]
    return content[:begin] + pickled(rng, content[begin:end]) + content[end:]


def archived(rng: random.Random, content: bytes) -> bytes:
    """Change entries, their names or how they are kept; or the directory's own bytes."""
    if rng.random() < 0.15:
        at = content.rindex(b"PK\x01\x02")
        return content[:at] + any_bytes(rng, content[at:])
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries = [(entry.filename, file.read(entry)) for entry in file.infolist()]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(entries))
        if rng.random() < 0.7:  # where most is decided
            at = next((i for i, (name, _) in enumerate(entries) if name.endswith(".pkl")), at)
        name, body = entries[at]
        match rng.randrange(10):
            case 0:
                del entries[at]
            case 1:
                entries.append((name, any_bytes(rng, body)))
            case 2:
                entries[at] = (any_bytes(rng, name.encode()).decode("latin-1"), body)
            case 3:
                entries.append((f"archive/{rng.choice(WORDS)}", body[:99]))
            case 4 | 5:
                entries[at] = (name, any_bytes(rng, body))
            case _:
                change = pickled if name.endswith(".pkl") else source
                entries[at] = (name, change(rng, body))
        if not entries:
            break
    out = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as file:
        warnings.simplefilter("ignore")
        for name, body in entries:
            file.writestr(name.replace("\0", "") or "x", body)
    return out.getvalue()


def source(rng: random.Random, content: bytes) -> bytes:
    """Change words of TorchScript's source; any bytes of what is none."""
    words = content.split(b" ")
    if len(words) < 3:
        return any_bytes(rng, content)
    put = (b"torch.save(x, 'f')", b"ops.aten.from_file", b"# coding: utf-7\n", b"(" * 2000, b"'''",
           b"import os", b"\x00", b"getattr(torch, 'save')", b"9" * 5000)  # fmt: skip
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(words))
        if rng.random() < 0.5:
            words[at] = any_bytes(rng, words[at]) if words[at] else b"x"
        else:
            words.insert(at, rng.choice(put))
    return b" ".join(words)


def safetensors(rng: random.Random, content: bytes) -> bytes:
    """Change the header's JSON, its length, or any bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.2:
        text = any_bytes(rng, content[8 : 8 + length])
    else:
        for _ in range(rng.choice((1, 1, 3))):
            json_value(rng, header)
        text = json.dumps(header).encode()
    stated = rng.choice(EXTREMES) % (1 << 64) if rng.random() < 0.05 else len(text)
    return struct.pack("<Q", stated) + text + (any_bytes(rng, body) if rng.random() < 0.1 else body)


def json_value(rng: random.Random, within: dict | list) -> None:
    """Change one value, somewhere below."""
    keys = list(within) if isinstance(within, dict) else list(range(len(within)))
    if not keys:
        return
    key = rng.choice(keys)
    value = within[key]
    if isinstance(value, dict | list) and rng.random() < 0.8:
        json_value(rng, value)
        return
    if isinstance(value, str) and value.startswith("{") and rng.random() < 0.8:
        inner = json.loads(value)  # an own classifier's facts
        json_value(rng, inner)
        within[key] = json.dumps(inner)
        return
    match rng.randrange(6):
        case 0:
            del within[key]
        case 1:
            within[key] = rng.choice(EXTREMES)
        case 2:
            within[key] = rng.choice((None, True, [], {}, [[]], 0.5, float("nan"), [1] * 99))
        case 3 if isinstance(within, dict):
            within[rng.choice(WORDS)] = value
        case _:
            within[key] = rng.choice(WORDS)


MUTATIONS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "pt": archived, "pth": legacy, "safetensors": safetensors, "ts": archived, "onnx": any_bytes,
}  # fmt: skip


def made(
    seed: int,
    number: int,
    endings: Sequence[str],
    begun: Mapping[str, list[bytes]],
    small: float = 0.5,
) -> tuple[str, bytes]:
    """Return an input's ending and content; `small` is the share of those of few tensors."""
    rng = random.Random(f"{seed} {number}")
    ending = rng.choice(endings)
    few = [content for content in begun[ending] if len(content) < SMALL]
    content = rng.choice(few if few and rng.random() < small else begun[ending])
    change = any_bytes if rng.random() < 0.15 else MUTATIONS[ending]
    return ending, change(rng, content)


def read_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Return what was written to begin with, by ending."""
    begun: dict[str, list[bytes]] = {ending: [] for ending in MUTATIONS}
    for path in sorted(folder.iterdir()):
        begun[path.suffix[1:]].append(path.read_bytes())
    return begun


# --- parsing, in a process of its own

PARSED = ("pt", "pth", "safetensors", "ts")


def parse_on(seed: int, first: int, last: int, out: Path) -> None:
    """Parse inputs in this process, and print a line for each: what became of it."""
    resource.setrlimit(resource.RLIMIT_AS, (reading.MEMORY, reading.MEMORY))
    begun = read_seeds(out / "seeds")
    for number in range(first, last):
        ending, content = made(seed, number, PARSED, begun, small=0.95)
        with limited_time(SECONDS):
            became = parsed(content, ending)
        if became not in ("parsed", "refused", "out of memory"):
            (out / f"parsing-{seed}-{number}.{ending}").write_bytes(content)
        print(number, became, flush=True)


def parsed(content: bytes, ending: str) -> str:
    """What becomes of one, as `leadapron.models.parsing.server` parses it."""
    path = Path(f"model.{ending}")
    try:
        held = formats.read_holdings(content, reading._kind(path, content[:512]), path.name)
        for group in held.groups.values():
            for tensor in list(group.values())[:20]:
                bytes(held.numbers(tensor.storage)[tensor.place][:LARGEST_TAKEN])
    except LeadapronError as error:
        return "refused" if str(error).isprintable() else f"FOUND words of more lines: {error!r}"
    except MemoryError:
        return "out of memory"
    except RecursionError:
        return "refused"
    except Exception as error:
        return f"FOUND {type(error).__name__}: {ascii(str(error))[:200]}"
    return "parsed"


def parse(count: int, seconds: float, seed: int, out: Path) -> int:
    """Have another process parse so many, and start it again where it ends; findings."""
    began, done, found = time.monotonic(), 0, 0
    became: collections.Counter[str] = collections.Counter()
    while done < count and time.monotonic() - began < seconds:
        command = [sys.executable, __file__, "--seed", str(seed), "--out", str(out)]
        with subprocess.Popen(
            [*command, "--parse", str(done), str(count)], stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                number, what = line.rstrip().split(" ", 1)
                done = int(number) + 1
                found += what.startswith("FOUND")
                became[what.split(" ")[0] if what.startswith("FOUND") else what] += 1
                if what.startswith("FOUND"):
                    print(f"parsing {number}: {what}", flush=True)
                if done % 10_000 == 0:
                    print(f"parsing: {done:,} so far", flush=True)
                if time.monotonic() - began > seconds:
                    process.kill()
                    break
            else:
                if done < count:
                    code = process.wait()
                    became["took too long" if code == -14 else f"ended it ({code})"] += 1
                    done += 1
    tell("parsing", done, time.monotonic() - began, became)
    return found


def tell(name: str, done: int, spent: float, became: collections.Counter[str]) -> None:
    """Print what became of all."""
    said = ", ".join(f"{what} {times:,}" for what, times in sorted(became.items()))
    print(f"{name}: {done:,} inputs in {spent:.0f} s: {said}", flush=True)


# --- the whole road

OPENED = ("pt", "pth", "safetensors") * 4 + ("ts", "onnx")
"""Programs that pass start a process with torch: few of them."""
ENDS = {"took more than": "took too long", "crashes the process": "crashed its reader",
        "needs more than": "out of memory", "system ended": "killed"}  # fmt: skip


def open_all(count: int, seconds: float, seed: int, out: Path, only: int | None) -> int:
    """Open so many; findings."""
    import torch

    from leadapron.models.foreign import open_model

    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    reading.SECONDS = SECONDS
    begun = read_seeds(out / "seeds")
    began, done, found = time.monotonic(), 0, 0
    became: collections.Counter[str] = collections.Counter()
    for number in range(count) if only is None else (only,):
        if time.monotonic() - began > seconds:
            break
        ending, content = made(seed, number, OPENED, begun)
        path = out / f"opening-{seed}-{number}.{ending}"
        path.write_bytes(content)
        started = time.monotonic()
        try:
            open_model(path, FINDINGS, device="cpu", precision="fp32")
            what, wrong = "opened", ""
        except LeadapronError as error:
            what = next((end for words, end in ENDS.items() if words in str(error)), "refused")
            wrong = "" if str(error).isprintable() else f"words of more lines: {error!r}"
        except Exception as error:
            what, wrong = "FOUND", f"{type(error).__name__}: {str(error)[:300]}"
        if time.monotonic() - started > LATE:
            wrong = f"took {time.monotonic() - started:.0f} s"
        if memory() > MOST_MEMORY:
            wrong = f"{memory() >> 20} MB in this process"
        done += 1
        became[what] += 1
        if wrong:
            found += 1
            print(f"opening {number}, {path}: {wrong}", flush=True)
        else:
            path.unlink()
    tell("opening", done, time.monotonic() - began, became)
    print(f"this process had {memory() >> 20} MB at most", flush=True)
    return found


def memory() -> int:
    """The most bytes that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def main() -> None:
    """Write what is begun with, and run both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--whole", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="each of both, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one input that is opened")
    parser.add_argument("--out", type=Path, default=Path("/tmp/fuzz-models"), help="findings")
    parser.add_argument("--parse", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parse:
        parse_on(options.seed, *options.parse, options.out)
        return
    write_seeds(options.out / "seeds")
    found = 0
    if options.only is None:
        found += parse(options.inputs, options.seconds, options.seed, options.out)
    found += open_all(options.whole, options.seconds, options.seed, options.out, options.only)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
