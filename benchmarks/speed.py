"""How fast the package is, beside the plain way to do the same, in one run.

Each line alternates between two warm processes: ours with the command line's allocator settings,
the plain one without. It shows the median of each, the range over the repeats, and the ratio of the
medians. The plain loop is what a first script would be: fp32, NCHW, a DataLoader that opens one PNG
file an item with Pillow.

    python benchmarks/speed.py                 all of it, about ten minutes on two cores
    python benchmarks/speed.py train maps      some of it, printed only
    python benchmarks/speed.py --out docs/results/benchmarks.md
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

SIZES = (64, 128, 224)
BATCH = {64: 64, 128: 32, 224: 32}
STEPS = {64: 10, 128: 5, 224: 2}
ROWS = 112_120  # of the whole NIH release
FILM = 1024


# --- two processes that take turns


class Worker:
    """A process that runs functions by name and stays warm."""

    def __init__(self, tuned: bool, folder: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, tuned, folder), daemon=True)
        self.process.start()

    def __call__(self, function: Callable[..., Any], *given: Any) -> Any:
        self.pipe.send((function, given))
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(pipe: Any, tuned: bool, folder: str) -> None:
    os.environ["BENCHMARK_FOLDER"] = folder
    if tuned:
        from leadapron.cli import tune_allocator

        tune_allocator()
    while True:
        try:
            function, given = pipe.recv()
        except EOFError:  # the other end has left
            return
        try:
            pipe.send(function(*given))
        except Exception as error:
            pipe.send(error)


class Line(NamedTuple):
    what: str
    unit: str
    ours: list[float]
    plain: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        quotient = statistics.median(self.ours) / statistics.median(self.plain)
        return 1 / quotient if self.unit in ("s", "MB") else quotient


# --- what is measured; each returns a rate or seconds


def folder() -> Path:
    return Path(os.environ["BENCHMARK_FOLDER"])


@functools.cache
def films(size: int, count: int) -> Any:
    from leadapron.sources import open_source

    return open_source(f"phantom:{size}", count=count, cache="none")


@functools.cache
def png_paths(size: int, count: int) -> list[str]:
    """Phantoms as PNG files, written once by whoever comes first."""
    import numpy as np
    from PIL import Image

    place = folder() / f"png{size}"
    place.mkdir(exist_ok=True)
    paths = [place / f"{row:05}.png" for row in range(count)]
    drawn = min(count, 64) if size == FILM else count
    for row, path in enumerate(paths):
        if not path.exists():
            Image.fromarray(films(size, drawn).images[np.array([row % drawn])][0]).save(path)
    return [str(path) for path in paths]


@functools.cache
def loader(size: int, count: int, batch: int, shown: int) -> Any:
    """Batches of normalised fp32 images and labels, decoded from PNG files one by one."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    paths = png_paths(size, count)

    class Pngs(Dataset):
        def __len__(self) -> int:
            return count

        def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
            with Image.open(paths[row]) as picture:
                if size != shown:
                    picture = picture.resize((shown, shown), Image.Resampling.BILINEAR)
                if size == FILM:  # as our batches come, in grey levels
                    return torch.from_numpy(np.array(picture)), labels[row]
                image = np.asarray(picture, np.float32) / 255
            return torch.from_numpy(image)[None], labels[row]

    labels = torch.zeros(count, 14) if size == FILM else torch.from_numpy(films(size, count).labels)
    return DataLoader(Pngs(), batch_size=batch, shuffle=True)


@functools.cache
def plain_network(name: str) -> Any:
    from leadapron.models.networks import build_network

    return build_network(name, 14, seed=0)


@functools.cache
def classifier(name: str, size: int, precision: str) -> Any:
    import torch

    from leadapron.models.classifier import NetworkClassifier, prepare, resolve_precision

    cohort, device = films(size, BATCH[size]), torch.device("cpu")
    module = prepare(plain_network(name), device).eval()
    return NetworkClassifier(
        module,
        name,
        cohort.findings,
        cohort.preprocessing,
        precision=resolve_precision(precision, device),
    )


def train_ours(name: str, size: int) -> float:
    import numpy as np

    from leadapron.models.training import Network, Training, train

    cohort = films(size, BATCH[size] * STEPS[size])
    _, history = train(
        cohort,
        cohort.take(np.arange(8)),
        network=Network(name=name),
        training=Training(epochs=1, batch_size=BATCH[size]),
    )
    return float(history[0]["films_per_second"] or 0)


def train_plain(name: str, size: int) -> float:
    import torch
    from torch import nn

    network, count = plain_network(name), BATCH[size] * STEPS[size]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=False)
    network.train()
    began = time.perf_counter()
    for images, labels in loader(size, count, BATCH[size], size):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(images), labels).backward()
        optimizer.step()
    return count / (time.perf_counter() - began)


def evaluate_ours(name: str, size: int) -> float:
    cohort = films(size, BATCH[size] * STEPS[size])
    model = classifier(name, size, "auto")
    began = time.perf_counter()
    model.probabilities(cohort.images)
    return len(cohort) / (time.perf_counter() - began)


def evaluate_plain(name: str, size: int) -> float:
    import torch

    network, count = plain_network(name).eval(), BATCH[size] * STEPS[size]
    began = time.perf_counter()
    with torch.no_grad():
        for images, _ in loader(size, count, BATCH[size], size):
            network(images).sigmoid()
    return count / (time.perf_counter() - began)


def maps_ours(size: int, precision: str) -> float:
    from leadapron.explainers import class_activation

    cohort, model = films(size, BATCH[size]), classifier("densenet121", size, precision)
    began = time.perf_counter()
    class_activation(model, cohort.images, cohort.findings)
    return len(cohort) / (time.perf_counter() - began)


def forward_ours(size: int, precision: str) -> float:
    cohort, model = films(size, BATCH[size]), classifier("densenet121", size, precision)
    began = time.perf_counter()
    model.logits(cohort.images)
    return len(cohort) / (time.perf_counter() - began)


def maps_captum(size: int) -> float:
    """captum's LayerGradCam, one call a finding, enlarged as ours are; fp32, NCHW."""
    import torch
    from captum.attr import LayerAttribution, LayerGradCam

    cohort = films(size, BATCH[size])
    network = plain_network("densenet121").eval()
    images = torch.from_numpy(cohort.images).float()[:, None] / 255
    explainer = LayerGradCam(network, list(network.stages.values())[-1])
    began = time.perf_counter()
    for finding in range(14):
        maps = explainer.attribute(images, target=finding)
        LayerAttribution.interpolate(maps.detach(), (size, size), "bilinear")
    return len(cohort) / (time.perf_counter() - began)


def phantoms(size: int, count: int, seed: int) -> float:
    import numpy as np

    from leadapron.sources.phantom import render

    began = time.perf_counter()
    render(np.arange(count), size=size, seed=seed)
    return count / (time.perf_counter() - began)


def decode_only(count: int, resize: bool) -> float:
    """The decoder alone, on all processors, with or without the resize; nothing is kept."""
    import numpy as np
    from PIL import Image

    from leadapron.films.preprocessing import Preprocessing

    paths, small = png_paths(FILM, count), Preprocessing(size=224)

    def one(row: int) -> None:
        with Image.open(paths[row], formats=("PNG",)) as picture:
            film = np.asarray(picture)
        if resize:
            small(film)

    began = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(one, range(count)):
            pass
    return count / (time.perf_counter() - began)


def decode_to_cache(count: int) -> float:
    from leadapron.films.cache import Cache, decode
    from leadapron.films.decoding import FilmFiles
    from leadapron.films.preprocessing import Preprocessing

    files = FilmFiles(png_paths(FILM, count))
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        began = time.perf_counter()
        decode(files, Preprocessing(size=224), Cache(folder=Path(place)), "benchmark")
        return count / (time.perf_counter() - began)


@functools.cache
def cached(count: int) -> Any:
    from leadapron.films.cache import Cache, decode
    from leadapron.films.decoding import FilmFiles
    from leadapron.films.preprocessing import Preprocessing

    files = FilmFiles(png_paths(FILM, count))
    return decode(files, Preprocessing(size=224), Cache(folder=folder() / "cache"), "b").images


def batches_ours(count: int) -> float:
    """Random batches of 32 uint8 images at 224 px."""
    import numpy as np
    import torch

    images = cached(count)
    rng, n = np.random.default_rng(0), 0
    began = time.perf_counter()
    while time.perf_counter() - began < 0.5:
        n += len(torch.from_numpy(images[rng.integers(0, count, 32)]))
    return n / (time.perf_counter() - began)


def batches_plain(count: int) -> float:
    began = time.perf_counter()
    for _ in loader(FILM, count, 32, 224):
        pass
    return count / (time.perf_counter() - began)


def bootstrap_ours(films_: int, resamples: int) -> float:
    import numpy as np

    from leadapron import metrics

    labels, scores, patients = answers(films_)
    began = time.perf_counter()
    drawn = metrics.PatientBootstrap.draw(patients, np.random.default_rng(0), resamples=resamples)
    metrics.finding_auroc(labels, scores, drawn)
    return time.perf_counter() - began


def bootstrap_sklearn(films_: int, resamples: int) -> float:
    """One resample in a hundred, times a hundred."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    labels, scores, patients = answers(films_)
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(patients == name) for name in np.unique(patients)]
    began = time.perf_counter()
    for _ in range(resamples // 100):
        drawn = rng.integers(0, len(groups), len(groups))
        rows = np.concatenate([groups[i] for i in drawn])
        for finding in range(14):
            roc_auc_score(labels[rows, finding], scores[rows, finding])
    return (time.perf_counter() - began) * 100


@functools.cache
def answers(n: int) -> Any:
    import numpy as np

    rng = np.random.default_rng(0)
    labels = (rng.random((n, 14)) < 0.08).astype(np.float32)
    scores = (rng.random((n, 14)) + 0.3 * labels).astype(np.float32)
    return labels, scores, np.char.mod("%d", rng.integers(0, n // 3, n))


@functools.cache
def release() -> str:
    """A folder in NIH's layout with as many films as the release, of 8x8 pixels; decoded once."""
    import numpy as np
    from PIL import Image

    from leadapron.films.preprocessing import Preprocessing
    from leadapron.sources import open_source

    place = folder() / "release"
    (place / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "film.png")
    content = (place / "film.png").read_bytes()
    with (place / "Data_Entry_2017_v2020.csv").open("w") as table:
        table.write("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,")
        table.write("View Position\n")
        for row in range(ROWS):
            name = f"{row // 4:08}_{row % 4:03}.png"
            (place / "images" / name).write_bytes(content)
            table.write(f"{name},Effusion|Mass,0,{row // 4},58,M,PA\n")
    small = Preprocessing(size=8)
    open_source(f"nih:{place}", preprocessing=small, cache=folder() / "cache")
    return str(place)


def open_release(place: str) -> float:
    from leadapron.films.preprocessing import Preprocessing
    from leadapron.sources import open_source

    began = time.perf_counter()
    small = Preprocessing(size=8)
    assert len(open_source(f"nih:{place}", preprocessing=small, cache=folder() / "cache")) == ROWS
    return time.perf_counter() - began


def memory() -> float:
    """Most memory that this process has held, in MB."""
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# --- the contests


def take_turns(
    what: str,
    unit: str,
    ours: Callable[[], float],
    plain: Callable[[], float],
    repeats: int,
) -> Line:
    ours(), plain()  # the first one warms up
    pairs = [(ours(), plain()) for _ in range(repeats)]
    line = Line(what, unit, [a for a, _ in pairs], [b for _, b in pairs])
    print(row(line), flush=True)
    return line


def train_lines(us: Worker, them: Worker, repeats: int) -> Iterator[Line]:
    for size in SIZES:
        yield take_turns(
            f"train DenseNet-121, {size} px, batch {BATCH[size]} / plain loop",
            "films/s",
            lambda size=size: us(train_ours, "densenet121", size),
            lambda size=size: them(train_plain, "densenet121", size),
            repeats,
        )


def evaluate_lines(us: Worker, them: Worker, repeats: int) -> Iterator[Line]:
    for size in SIZES:
        yield take_turns(
            f"evaluate DenseNet-121, {size} px / plain loop",
            "films/s",
            lambda size=size: us(evaluate_ours, "densenet121", size),
            lambda size=size: them(evaluate_plain, "densenet121", size),
            repeats,
        )


def map_lines(us: Worker, them: Worker, repeats: int) -> Iterator[Line]:
    for size in (64, 224):
        for precision in ("fp32", "auto"):
            name = "bf16 where it is faster" if precision == "auto" else precision
            yield take_turns(
                f"maps of 14 findings, {size} px, {name} / captum's LayerGradCam x14, fp32",
                "films/s",
                lambda size=size, precision=precision: us(maps_ours, size, precision),
                lambda size=size: them(maps_captum, size),
                repeats,
            )
            yield take_turns(
                f"maps of 14 findings, {size} px, {name} / the forward pass alone",
                "films/s",
                lambda size=size, precision=precision: us(maps_ours, size, precision),
                lambda size=size, precision=precision: us(forward_ours, size, precision),
                2 * repeats,
            )


def data_lines(us: Worker, them: Worker, repeats: int) -> Iterator[Line]:
    for resize in (True, False):
        yield take_turns(
            f"{FILM} px PNG into the cache at 224 px / decoding "
            f"{'and resizing' if resize else 'alone'}, all cores",
            "films/s",
            lambda: us(decode_to_cache, 512),
            lambda resize=resize: us(decode_only, 512, resize),
            repeats,
        )
    yield take_turns(
        f"random batches of 32 at 224 px from the cache / DataLoader on {FILM} px PNG files",
        "films/s",
        lambda: us(batches_ours, 128),
        lambda: them(batches_plain, 128),
        repeats,
    )


def single_lines(us: Worker, them: Worker, repeats: int) -> Iterator[Line]:
    yield take_turns(
        "1,000 patient-bootstrap resamples of 14 AUROCs, 10,000 films / scikit-learn",
        "s",
        lambda: us(bootstrap_ours, 10_000, 1000),
        lambda: them(bootstrap_sklearn, 10_000, 1000),
        repeats,
    )
    for size, count in ((64, 3000), (224, 256), (1024, 16)):
        us(phantoms, size, count, 0)
        rates = [us(phantoms, size, count, seed) for seed in range(repeats)]
        yield alone(f"phantoms of {size} px", "films/s", rates)


def release_lines(folder_: str, repeats: int) -> Iterator[Line]:
    place = Worker(True, folder_)
    path = str(Path(folder_) / "release")
    place(release_made)
    times, sizes = [], []
    for _ in range(repeats):
        fresh = Worker(True, folder_)  # its memory is what is measured
        times.append(fresh(open_release, path))
        sizes.append(fresh(memory))
        fresh.process.kill()
    yield alone(f"open {ROWS:,} rows, films decoded before", "s", times)
    yield alone("the same, most memory held", "MB", sizes)


def release_made() -> float:
    return float(len(release()))


def alone(what: str, unit: str, values: list[float]) -> Line:
    line = Line(what, unit, values, [])
    print(row(line), flush=True)
    return line


# --- the table


def row(line: Line) -> str:
    ratio = f"{line.ratio:.2f}" if line.plain else ""
    cells = [line.what, cell(line.ours), cell(line.plain), line.unit, ratio]
    return "| " + " | ".join(cells) + " |"


def cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{shown(statistics.median(values))} ({shown(min(values))} to {shown(max(values))})"


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [n for n in cpuinfo.read_text().splitlines() if n.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    from leadapron.models.classifier import resolve_precision

    precision = resolve_precision("auto", torch.device("cpu"))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {precision}"
    return f"{name}, {len(os.sched_getaffinity(0))} cores, shared with other work; {versions}"


HEAD = """| what / beside what | ours | beside | unit | times faster |
|-|-|-|-|-|"""

PARTS = ("train", "evaluate", "maps", "data", "single", "release")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all if left out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="markdown file to write the table to")
    given = parser.parse_args()
    chosen = given.parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    print(machine())
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as place:
        us, them = Worker(True, place), Worker(False, place)
        lines: list[Line] = []
        makers: dict[str, Callable[[], Iterator[Line]]] = {
            "train": lambda: train_lines(us, them, given.repeats),
            "evaluate": lambda: evaluate_lines(us, them, given.repeats),
            "maps": lambda: map_lines(us, them, given.repeats),
            "data": lambda: data_lines(us, them, given.repeats),
            "single": lambda: single_lines(us, them, given.repeats),
            "release": lambda: release_lines(place, given.repeats),
        }
        for part in chosen:
            lines += makers[part]()
    if given.out:
        intro = (
            "# Speed\n\n`make bench` writes this page. Median and range of "
            f"{given.repeats} repeats or more, two warm processes in turn; "
            "the last column is the ratio of the medians, above 1 where ours is faster.\n\n"
        )
        table = "\n".join([HEAD, *map(row, lines)])
        given.out.write_text(f"{intro}{machine()}.\n\n{table}\n")


if __name__ == "__main__":
    main()
