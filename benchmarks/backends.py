"""Forward passes by backend and precision: torch in fp32 and bf16, and ONNX Runtime, in turn.

    python benchmarks/backends.py                    resnet9 at 64 px, DenseNet-121 at 64 and 224
    python benchmarks/backends.py densenet121:128    one network and size
    python benchmarks/backends.py --gate resnet9:64  and a gate's whole judgement
    python benchmarks/backends.py --out docs/results/backends.md

One thread, processor's seconds: other work on the machine changes them little. Every repeat runs
each backend once on the same films. Films are phantoms; weights are untrained, which changes
neither the time nor the agreement of sums. It needs the extra onnx.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from leadapron.cli import tune_allocator

FINDINGS = 14
CASES = ("resnet9:64", "densenet121:64", "densenet121:224")
FILMS = {64: 128, 128: 64, 224: 32}
GATED = 200
"""Films that a gate is calibrated on."""

HEAD = """# Backends

`python benchmarks/backends.py --gate --out docs/results/backends.md` writes this page. Films per
second of one core (processor's seconds, one thread), median and range of {repeats} repeats that run
every backend in turn; *times torch* is the ratio of the medians to torch in fp32, *difference* the
largest of a logit from it, in the logit's standard deviations over the films.

{machine}

| network | what | backend | films/s | times torch | difference |
|-|-|-|-|-|-|
"""


class Line(NamedTuple):
    """What a backend did.

    Args:
        network: its name and the films' side in pixels.
        what: "forward pass" or "gate".
        backend: its name and precision.
        rates: films per processor's second, one for each repeat.
        ratio: of its median to torch's in fp32.
        difference: largest of a logit from torch's in fp32, in its standard deviations over the
            films; None for a gate.
    """

    network: str
    what: str
    backend: str
    rates: list[float]
    ratio: float
    difference: float | None

    def row(self) -> str:
        low, high = min(self.rates), max(self.rates)
        rate = f"{statistics.median(self.rates):.3g} ({low:.3g} to {high:.3g})"
        far = "" if self.difference is None else f"{self.difference:.1g}"
        cells = (self.network, self.what, self.backend, rate, f"{self.ratio:.2f}", far)
        return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, metavar="NETWORK:SIZE")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gate", action="store_true", help="a gate's judgement too")
    parser.add_argument("--out", type=Path, help="page to write")
    given = parser.parse_args()
    tune_allocator()  # as the command line does, before torch is loaded
    rows = []
    for line in measured(given.cases, given.repeats, given.gate):
        rows.append(line.row())
        print(rows[-1], flush=True)
    if given.out is not None:
        head = HEAD.format(repeats=given.repeats, machine=machine())
        given.out.write_text(head + "\n".join(rows) + "\n")


def measured(cases: list[str], repeats: int, gate: bool) -> Iterator[Line]:
    """Every network, forward passes first."""
    import numpy as np
    import torch

    from leadapron.sources import open_source

    torch.set_num_threads(1)
    for case in cases:
        name, _, side = case.partition(":")
        size = int(side)
        count = FILMS.get(size, 32)
        cohort = open_source(f"phantom:{size}", count=max(count, GATED * gate), cache="none")
        films = cohort.images[np.arange(count)]
        models = backends(name, size, films)
        first = models["torch fp32"].logits(films)
        spread = first.std(axis=0)
        far = {
            each: float((abs(model.logits(films) - first) / spread).max())
            for each, model in models.items()
        }
        runs = {each: partial(model.logits, films) for each, model in models.items()}
        yield from lines(f"{name}, {size} px", "forward pass", runs, len(films), repeats, far)
        if gate:
            few = films[:16]
            judged = {each: judging(model, cohort, few) for each, model in models.items()}
            yield from lines(f"{name}, {size} px", "gate", judged, len(few), repeats, {})


def backends(name: str, size: int, films: Any) -> dict[str, Any]:
    """One network on each backend."""
    from dataclasses import replace

    import torch

    from leadapron.films.preprocessing import Preprocessing
    from leadapron.models.backends import compiled
    from leadapron.models.classifier import NetworkClassifier, prepare
    from leadapron.models.networks import build_network

    module = prepare(build_network(name, FINDINGS, 0), torch.device("cpu")).eval()
    names = tuple(f"finding {i}" for i in range(FINDINGS))
    plain = NetworkClassifier(module, name, names, Preprocessing(size=size))
    began = time.process_time()
    made = compiled(plain, films)
    print(f"{name}: exported and compared in {time.process_time() - began:.1f} s")
    return {
        "torch fp32": plain,
        "torch bf16": replace(plain, precision="bf16"),
        "ONNX Runtime fp32": made,
    }


def judging(model: Any, cohort: Any, films: Any) -> Callable[[], object]:
    """A gate of this model and backend, judging films."""
    from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, WEIGHTS, calibrate, judge

    gate = calibrate(
        model, cohort, INPUT_DETECTORS, WEIGHTS, typical=TYPICAL, false_alarm=0.05, name="phantoms"
    )
    return partial(judge, gate, model, films)


def lines(
    network: str,
    what: str,
    runs: dict[str, Callable[[], object]],
    films: int,
    repeats: int,
    far: dict[str, float],
) -> Iterator[Line]:
    rates: dict[str, list[float]] = {each: [] for each in runs}
    for repeat in range(repeats + 1):
        for each, run in runs.items():
            began = time.process_time()
            run()
            if repeat:  # the first warms up
                rates[each].append(films / (time.process_time() - began))
    plain = statistics.median(rates["torch fp32"])
    for each, own in rates.items():
        ratio = statistics.median(own) / plain
        yield Line(network, what, each, own, ratio, far.get(each))


def machine() -> str:
    import platform

    import onnxruntime
    import torch

    facts = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in facts if line.startswith("model name")]
    return (
        f"{models[0] if models else platform.processor()}, one thread, shared with other work; "
        f"Python {platform.python_version()}, torch {torch.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}."
    )


if __name__ == "__main__":
    main()
