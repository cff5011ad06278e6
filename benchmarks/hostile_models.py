"""Open hostile and broken model files of every format as a user does; nothing may run.

    make hostile-models
    .venv-hostile/bin/python benchmarks/hostile_models.py --format ONNX --format .keras

Each model of `hostile_files` is written into a folder of its own, where the command line's
`leadapron inspect` opens it in a process of its own. That is forked from one that has opened a
genuine model; the seconds that this took count for each. The command has to end with exit
code 2 or 4 and one line, or with 0 where the model still opens; within 10 s of the processor's time
for all of its processes, and with 2 GB for each; and it may neither make nor change any file, nor
show what another file holds. What does otherwise is a finding, and its folder stays in --out. The
genuine models are opened first: each has to open.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile_files import MAKERS, SECRET, Hostile, Link, Model, Pipe, genuine, hostile, write

OPENER = Path(__file__).with_name("hostile_opener.py")
SECONDS = 10
MOST_MEMORY = 2 << 30
REFUSED = (2, 4)


@dataclass(frozen=True)
class Tried:
    """What became of a model.

    Args:
        code: exit code.
        said: standard error.
        seconds: of the processor, for all of its processes.
        waited: seconds from the start to the end.
        memory: bytes of the largest of its processes.
        wrong: what may not be; "" if nothing.
    """

    code: int
    said: str
    seconds: float
    waited: float
    memory: int
    wrong: str


class Opener:
    """The process that forks one for each model."""

    def __init__(self, genuine: Model, folder: Path) -> None:
        write(genuine.files, folder / "model")
        # -P: a folder of models may hold modules.
        self.process = subprocess.Popen(
            [sys.executable, "-P", OPENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(genuine, folder)
        self.start = self._heard()["processor"]
        shutil.rmtree(folder)

    def _say(self, model: Model, folder: Path) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), "typed": model.typed}) + "\n")
        self.process.stdin.flush()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tried(self, model: Model, folder: Path, canary: Path) -> Tried:
        """Open a model, and say what may not be."""
        write(model.files, folder / "model")
        (folder / "secret").write_bytes(SECRET)
        before = listing(folder)
        self._say(model, folder)
        facts = self._heard()
        said, shown = ((folder / name).read_bytes() for name in ("err", "out"))
        words, took = said.decode("utf-8", "replace"), self.start + facts["processor"]
        found = [
            *(["something ran"] if canary.exists() else []),
            *(["files were changed"] if listing(folder) != before else []),
            *(["another file is shown"] if SECRET in said + shown else []),
            *([f"took {took:.1f} s"] if took > SECONDS else []),
            *([f"took {facts['memory'] >> 20} MB"] if facts["memory"] > MOST_MEMORY else []),
            *wrong_words(facts["code"], words),
        ]
        return Tried(
            facts["code"], words, took, facts["seconds"], facts["memory"], "; ".join(found)
        )


def wrong_words(code: int, said: str) -> Iterator[str]:
    """What is wrong with an end."""
    lines = said.splitlines()
    if not all(line.isprintable() for line in said.split("\n")):
        yield f"control characters: {said[:300]!r}"
    if code not in (0, *REFUSED):
        yield f"exit code {code}: {said[-300:]!r}"
    elif code in REFUSED and len(lines) != 1:
        yield f"{len(lines)} lines: {said[:300]!r}"


def listing(folder: Path) -> dict[str, str]:
    """What lies in a folder; the outputs apart."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() else "none"
        for path in sorted(folder.rglob("*"))
        if path not in (folder / "out", folder / "err")
    }  # fmt: skip


def fingerprint(model: Model) -> str:
    """Equal of equal models."""
    digest = hashlib.sha256(repr(model.typed).encode())
    for name, content in sorted(model.files.items()):
        held = content if isinstance(content, bytes) else (
            content.to.encode() if isinstance(content, Link) else Pipe.__name__.encode()
        )  # fmt: skip
        digest.update(f"{name} {type(content).__name__} {len(held)} ".encode() + held)
    return digest.hexdigest()


class Trial:
    """All models tried, and what became of them.

    Args:
        out: folder of the findings.
        kind: the only kind that is tried; None: all.
        verbose: whether each model's line is printed.
    """

    def __init__(self, out: Path, kind: str | None, *, verbose: bool) -> None:
        self.out, self.kind, self.verbose = out, kind, verbose
        self.canary = out / "canary"
        plain = genuine("state dict")
        assert plain is not None
        self.opener = Opener(plain, out / "0")
        self.seen: set[str] = set()
        self.counts: dict[str, collections.Counter[str]] = {}
        self.findings, self.slowest, self.largest = 0, 0.0, 0

    def of(self, name: str) -> None:
        """Try the genuine model of a format, and then all others, each once."""
        count = self.counts[name] = collections.Counter()
        model = genuine(name)
        if model is None:
            print(f"{name}: not tried, its library isn't installed", flush=True)
            return
        done = self.opener.tried(model, self.out / "0", self.canary)
        if done.code or done.wrong:
            sys.exit(f"{name}: the genuine model doesn't open: {done.wrong} {done.said}")
        shutil.rmtree(self.out / "0")
        self.seen.add(fingerprint(model))
        for each in hostile(str(self.canary), [name]):
            mark = fingerprint(each.model)
            if mark not in self.seen and self.kind in (None, each.kind):
                self.seen.add(mark)
                count["opened" if self._opened(each) else "refused"] += 1
        print(row(name, count), flush=True)

    def _opened(self, each: Hostile) -> bool:
        """Whether a model opened; what is wrong is printed."""
        folder = self.out / str(len(self.seen))
        done = self.opener.tried(each.model, folder, self.canary)
        self.slowest = max(self.slowest, done.seconds)
        self.largest = max(self.largest, done.memory)
        if self.verbose or done.wrong:
            what = done.wrong or ("opened" if done.code == 0 else done.said.strip())
            used = f"{done.seconds:.1f} s, waited {done.waited:.1f} s, {done.memory >> 20} MB"
            print(f"{folder.name} {each.format}, {each.kind} ({used}): {what}", flush=True)
        if done.wrong:
            self.findings += 1
            self.canary.unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)
        return done.code == 0


def row(name: str, count: collections.Counter[str]) -> str:
    """A line of the table."""
    return (
        f"{name:32}{count.total():4} files, {count['refused']:4} refused, {count['opened']:4} open"
    )


def main() -> None:
    """Try the models of all formats, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--format", action="append", choices=MAKERS, default=[], help="of this alone"
    )
    parser.add_argument("--kind", help="of this alone")
    parser.add_argument("--verbose", action="store_true", help="each model's line")
    parser.add_argument(
        "--out", type=Path, default=Path(tempfile.gettempdir()) / "hostile-models", help="findings"
    )
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    trial = Trial(options.out.resolve(), options.kind, verbose=options.verbose)
    for name in options.format or MAKERS:
        trial.of(name)
    print(row("all", sum(trial.counts.values(), collections.Counter())))
    print(
        f"slowest {trial.slowest:.1f} s of the processor, largest process "
        f"{trial.largest >> 20} MB, {trial.findings} findings"
    )
    sys.exit(1 if trial.findings else 0)


if __name__ == "__main__":
    main()
