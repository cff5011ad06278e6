"""How fast the service is, and whether it stays as it is under load.

    python benchmarks/service.py speed              DenseNet-121 at 64 and 224 pixels, some minutes
    python benchmarks/service.py soak --minutes 120  the service over HTTP, with full queues

`speed` sends films through the engine of all doors: a spool on disk, decoders in processes of their
own, batches. It gives films a second, CPU seconds a film (of all processes: on a machine that has
other work too, 2 / CPU seconds is what two free cores could do at most), and the time of a film
that comes alone.

`soak` runs `leadapron serve` in a process of its own, with as many clients as keep it busy, and
gives the slope of its resident memory with its standard error, open descriptors, and latency.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

import leadapron as la
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.networks import build_network
from leadapron.service.engine import Engine, running
from leadapron.service.settings import Keeping

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20

SAMPLE_SECONDS = 5.0
WARM_UP = 0.25
"""Share of a soak that doesn't count for the slope: caches and pools fill."""

FILM = 1024
"""Pixels of a film's side in `speed`; films in `soak` are as large as the model's input."""


def gate_of(folder: Path, architecture: str, size: int, count: int, precision: str) -> Path:
    """Write a network that learnt nothing and its gate, and return the gate's file."""
    findings = tuple(f"finding {number}" for number in range(1, 15))
    network = NetworkClassifier(
        build_network(architecture, len(findings), size).eval(), architecture, findings,
        la.Preprocessing(size=size),
    )  # fmt: skip
    la.save_classifier(network, folder / "model.safetensors")
    la.calibrate(
        folder / "model.safetensors", f"phantom:{size}", folder / "gate.json", count=count,
        false_alarm=0.2, machine=la.Machine(cache="none", device="cpu", precision=precision),
    )  # fmt: skip
    return folder / "gate.json"


def films(number: int, size: int, side: int) -> list[bytes]:
    """Return PNG files of phantoms, enlarged, each of which differs from the others."""
    cohort = la.open_source(f"phantom:{size}", count=min(number, 64), seed=77)
    images = cohort.images[np.arange(len(cohort))]
    made = []
    for each in range(number):
        picture = Image.fromarray(images[each % len(images)]).resize((side, side))
        picture.putpixel((each % side, each // side), each % 251)
        content = io.BytesIO()
        picture.save(content, "PNG", compress_level=1)
        made.append(content.getvalue())
    return made


# --- speed


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that still run."""
    total, own = 0.0, os.getpid()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(path.parent.name) == own or int(words[1]) == own:
            total += (int(words[11]) + int(words[12])) / TICKS
    return total


def send(engine: Engine, content: bytes) -> str:
    with closing(engine.arrive()) as arriving:
        arriving.write(content)
        return engine.accept(arriving)


def speed(sizes: list[int], number: int, alone: int, calibration: int, precision: str) -> None:
    """Print a line for each size."""
    machine()
    print("| px | precision | passes | films | films/s | CPU s/film | alone, median (most) |")
    print("|-|-|-|-|-|-|-|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            gate = gate_of(folder, "densenet121", size, calibration, precision)
            opened = la.open_gate(gate, machine=la.Machine(device="cpu"))
            first, *rest = films(1 + alone + number, size, FILM)
            with running(opened, Keeping(spool=folder / "spool", queue=number + 1)) as engine:
                engine.when_answered(send(engine, first)).result()  # all is loaded
                singly = []
                for content in rest[:alone]:
                    began = time.perf_counter()
                    engine.when_answered(send(engine, content)).result()
                    singly.append(time.perf_counter() - began)
                began, busy = time.perf_counter(), cpu_seconds()
                names = [send(engine, content) for content in rest[alone:]]
                for name in names:
                    engine.when_answered(name).result()
                wall, spent = time.perf_counter() - began, cpu_seconds() - busy
            made = opened.stored
            print(
                f"| {size} | {made.made.precision} | {made.gate.passes} | {number} | "
                f"{number / wall:.2f} | {spent / number:.3f} | "
                f"{statistics.median(singly):.2f} s ({max(singly):.2f} s) |",
                flush=True,
            )


# --- soak


class Service:
    """`leadapron serve` in a process of its own; its port is free to choose."""

    def __init__(self, gate: Path) -> None:
        token = gate.with_name("token")
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        self.headers = {"Authorization": f"Bearer {token.read_text()}"}
        self._log = gate.with_name("log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "leadapron", "serve", gate, "--http", "127.0.0.1:0",
                 "--token-file", token, "--spool", gate.with_name("spool")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.port = self._listening()

    def _listening(self) -> int:
        while self.process.poll() is None:
            _, found, rest = self._log.read_text().partition("listening on ")
            if found and "\n" in rest:
                return int(rest.splitlines()[0].rpartition(":")[2])
            time.sleep(0.1)
        raise SystemExit(self._log.read_text())

    def resident(self) -> float:
        """Return its resident memory in MiB, without that of its decoders."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / MIB

    def descriptors(self) -> int:
        """Return the number of its open descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


class Client(threading.Thread):
    """Sends films one after the other, each with something new in it, and waits for verdicts."""

    def __init__(self, service: Service, contents: list[bytes], numbers: itertools.count) -> None:
        super().__init__(daemon=True)
        self._service, self._contents, self._numbers = service, contents, numbers
        self.seconds: list[float] = []
        self.refused, self.failed, self.over = 0, 0, False

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=300)
        while not self.over:
            number = next(self._numbers)
            content = self._contents[number % len(self._contents)] + number.to_bytes(8, "big")
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/films?wait=60", content, self._service.headers)
                answer = connection.getresponse()
                answer.read()
            except OSError:
                self.failed += 1
                connection.close()
                continue
            if answer.status == 200:
                self.seconds.append(time.perf_counter() - began)
            elif answer.status in (429, 503):
                self.refused += 1
                time.sleep(1)
            else:
                self.failed += 1
        connection.close()


def slope(at: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the slope of values over time by least squares, and its standard error."""
    x = at - at.mean()
    found = (x * (values - values.mean())).sum() / (x**2).sum()
    left = values - values.mean() - found * x
    return found, float(np.sqrt((left**2).sum() / (len(x) - 2) / (x**2).sum()))


def soak(minutes: float, clients: int, architecture: str, size: int) -> None:
    """Print what was seen."""
    machine()
    with tempfile.TemporaryDirectory() as place:
        gate = gate_of(Path(place), architecture, size, 80, "auto")
        contents = films(256, size, size)
        service, numbers = Service(gate), itertools.count()
        senders = [Client(service, contents, numbers) for _ in range(clients)]
        for sender in senders:
            sender.start()
        began, seen = time.monotonic(), []
        while (now := time.monotonic() - began) < 60 * minutes:
            seen.append((now, service.resident(), service.descriptors()))
            time.sleep(SAMPLE_SECONDS)
        for sender in senders:
            sender.over = True
        for sender in senders:
            sender.join(120)
        wall = time.monotonic() - began
        code = service.stop()
    latency = np.array([each for sender in senders for each in sender.seconds])
    at, memory, open_files = (np.array(each, float) for each in zip(*seen, strict=True))
    counted = at > WARM_UP * at[-1]
    rise, error = slope(at[counted] / 3600, memory[counted])
    half, most = np.percentile(latency, [50, 99])
    print(f"{architecture} at {size} px, {clients} clients, {minutes:g} minutes; exit code {code}")
    print(f"films: {len(latency):,} judged ({len(latency) / wall:.1f}/s), "
          f"{sum(each.refused for each in senders)} refused for a while, "
          f"{sum(each.failed for each in senders)} failed")  # fmt: skip
    print(f"latency: {half:.2f} s median, {most:.2f} s p99, {latency.max():.2f} s most")
    print(
        f"resident memory: {memory[counted][0]:.1f} MiB after warm-up, {memory[-1]:.1f} MiB in the "
        f"end, {memory.max():.1f} MiB most; slope {rise:+.2f} MiB/h (standard error {error:.2f}, "
        f"{counted.sum()} samples)"
    )
    print(f"open descriptors: {open_files[counted].min():.0f} to {open_files[counted].max():.0f}, "
          f"{open_files[-1]:.0f} in the end")  # fmt: skip


def machine() -> None:
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores; load {load} before the run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    fast = what.add_parser("speed")
    fast.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    fast.add_argument("--films", type=int, default=128)
    fast.add_argument("--alone", type=int, default=10, help="films that come one by one")
    fast.add_argument("--calibration", type=int, default=80)
    fast.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    long = what.add_parser("soak")
    long.add_argument("--minutes", type=float, default=120)
    long.add_argument("--clients", type=int, default=24)
    long.add_argument("--architecture", default="densenet121")
    long.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    if given.what == "speed":
        speed(given.sizes, given.films, given.alone, given.calibration, given.precision)
    else:
        soak(given.minutes, given.clients, given.architecture, given.size)


if __name__ == "__main__":
    main()
