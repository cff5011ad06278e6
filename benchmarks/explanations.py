"""How long each explanation takes, all findings of a film together.

    python benchmarks/explanations.py                           200 films, DenseNet-121, 128 pixels
    python benchmarks/explanations.py --films 32 layer-cam      fewer films, some methods
    python benchmarks/explanations.py --peers                   captum's own calls beside ours

Films are noise and weights untrained: neither changes the time. Two films warm each method up.
Where other work shares the machine (the load is printed), read the processor's seconds with
--threads 1: waiting threads count as work.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

from leadapron.cli import tune_allocator

FINDINGS = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="all if left out")
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--network", default="densenet121")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=0, help="all processors if left out")
    parser.add_argument("--peers", action="store_true", help="captum beside ours, one finding each")
    given = parser.parse_args()
    tune_allocator()  # as the command line does, before torch is loaded

    import numpy as np
    import torch

    from leadapron.explainers import EXPLAINERS, unsupported
    from leadapron.films.preprocessing import Preprocessing
    from leadapron.models.classifier import NetworkClassifier, prepare, resolve_precision
    from leadapron.models.networks import build_network

    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device("cpu")
    network = prepare(build_network(given.network, FINDINGS, 0), device).eval()
    findings = tuple(f"finding {i}" for i in range(FINDINGS))
    classifier = NetworkClassifier(
        network,
        given.network,
        findings,
        Preprocessing(size=given.size),
        precision=resolve_precision(given.precision, device),
    )
    images = np.random.default_rng(0).integers(
        0, 256, (given.films, given.size, given.size), np.uint8
    )
    print(
        f"{given.films} films of {given.size} pixels, {FINDINGS} findings, {given.network}, "
        f"{classifier.precision}; {processor()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    total = worked = 0.0
    print(f"{'':<30}{'elapsed':>11}{'processor':>11}")
    for name in given.methods or EXPLAINERS:
        if reason := unsupported(name, given.network):
            print(f"{name:<30} skipped: {reason}")
            continue
        EXPLAINERS[name](classifier, images[:2], findings[:1])
        began = time.process_time()
        seconds = timed(lambda name=name: EXPLAINERS[name](classifier, images, findings))
        processed = time.process_time() - began
        total, worked = total + seconds, worked + processed
        load = os.getloadavg()[0]
        print(f"{name:<30}{seconds:9.1f} s{processed:9.1f} s   load {load:.1f}", flush=True)
    print(f"{'together':<30}{total:9.1f} s{worked:9.1f} s")
    if given.peers:
        peers(classifier, images[:16])


def peers(classifier: object, images: object) -> None:
    """captum's calls, which run the network again for each finding, beside ours."""
    import torch
    from captum.attr import IntegratedGradients, Occlusion

    from leadapron.explainers import integrated_gradients
    from leadapron.explainers.occlusion import occlusion

    inputs = classifier.normalise(torch.from_numpy(images))
    findings = classifier.findings
    grey = inputs.mean((2, 3), keepdim=True).expand_as(inputs)
    gradients, hiding = IntegratedGradients(classifier.module), Occlusion(classifier.module)
    window = round(3 / 16 * inputs.shape[-1])

    def captums(what: str) -> None:
        for column in range(len(findings)):
            if what == "integrated gradients":
                gradients.attribute(inputs, grey, target=column, n_steps=2)
            else:
                hiding.attribute(inputs, (1, window, window), (1, window, window), grey, column)

    pairs = {
        "integrated gradients": lambda: integrated_gradients(
            classifier, images, findings, baseline="mean", steps=2
        ),
        "occlusion": lambda: occlusion(classifier, images, findings, window=window, stride=window),
    }
    for what, ours in pairs.items():
        first, second = timed(ours), timed(lambda what=what: captums(what))
        print(
            f"{what}, {len(images)} films, all findings: ours {first:.1f} s, "
            f"captum {second:.1f} s ({second / first:.1f}x)",
            flush=True,
        )


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
