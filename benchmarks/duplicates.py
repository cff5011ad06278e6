"""How well near duplicates are told from other films: each threshold of `films.duplicates`.

    python benchmarks/duplicates.py nih:PATH folder:PATH phantom:224

Copies of 300 films are altered and looked for among all films; then every pair of films is
compared, without the search's short cuts, to see how alike other films are.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from leadapron import duplicates
from leadapron.films.cohort import blocks
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import open_source

COPIES = 300


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[..., np.ndarray]:
    return lambda images, _: np.stack([np.asarray(change(Image.fromarray(i))) for i in images])


def recompressed(quality: int) -> Callable[..., np.ndarray]:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return each(change)


def resized(share: float, crop: float = 0.0) -> Callable[..., np.ndarray]:
    def change(image: Image.Image) -> Image.Image:
        side = image.width
        edge = round(crop * side)
        image = image.crop((edge, edge, side - edge, side - edge))
        small = image.resize((round(share * side),) * 2, Image.Resampling.BILINEAR)
        return small.resize((side, side), Image.Resampling.BILINEAR)

    return each(change)


def moved(images: np.ndarray, pixels: int) -> np.ndarray:
    wide = np.pad(images, ((0, 0), (pixels, 0), (pixels, 0)), mode="edge")
    return wide[:, : images.shape[1], : images.shape[2]]


def levels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda images, _: np.clip(change(images.astype(float)), 0, 255).astype(np.uint8)


def stamped(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    changed, side = images.copy(), images.shape[1] // 24
    for image in changed:
        y, x = rng.integers(0, images.shape[1] - side, 2)
        image[y : y + side, x : x + side] = 255
    return changed


def noisy(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, 5, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


ALTERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "JPEG, quality 75": recompressed(75),
    "JPEG, quality 30": recompressed(30),
    "12 grey levels brighter": levels(lambda x: x + 12),
    "contrast times 1.15": levels(lambda x: (x - 128) * 1.15 + 128),
    "gamma 0.85": levels(lambda x: 255 * (x / 255) ** 0.85),
    "noise of 5 grey levels": noisy,
    "halved and enlarged": resized(0.5),
    "white square, 1/24 of the side": stamped,
    "1 % cut off each edge": resized(1.0, crop=0.01),
    "moved by 1 pixel": lambda images, _: moved(images, 1),
    "moved by 2 pixels": lambda images, _: moved(images, 2),
    "mirrored": lambda images, _: images[:, :, ::-1],
}


def thumbnails(images: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [duplicates.thumbnails(images[rows]) for rows in blocks(len(images), 256)]
    )


def most_alike(thumbs: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """Highest correlation between films of two patients, and of one; every pair is compared."""
    unit = duplicates._units(thumbs)
    highest = [-1.0, -1.0]
    for rows in blocks(len(unit), 512):
        alike = unit[rows] @ unit.T
        alike[rows[:, None] >= np.arange(len(unit))] = -1  # each pair once
        same = patients[rows, None] == patients
        for kind, where in enumerate((~same, same)):
            highest[kind] = max(highest[kind], float(np.where(where, alike, -1).max()))
    return highest[0], highest[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--size", type=int, default=224)
    asked = parser.parse_args()
    for source in asked.sources:
        rng = np.random.default_rng(0)
        cohort = open_source(source, preprocessing=Preprocessing(size=asked.size))
        images, n = np.asarray(cohort.images[np.arange(len(cohort))]), len(cohort)
        began = time.perf_counter()
        thumbs = thumbnails(images)
        same = duplicates.identical(duplicates.digests(images))[1]
        alone = np.setdiff1d(np.arange(n), same)
        read = time.perf_counter()
        found = duplicates.near_pairs(thumbs, alone)
        done = time.perf_counter()
        other, own = most_alike(thumbs[alone], cohort.patients[alone])
        print(f"\n{source}: {n:,} films at {asked.size}, {len(same)} identical to another")
        print(
            f"near pairs {len(found)}; {read - began:.2f} s to read, {done - read:.2f} s to search"
        )
        print(f"most alike: two patients {other:.3f}, films of one patient {own:.3f}")
        chosen = rng.choice(alone, min(COPIES, len(alone)), replace=False)
        for name, change in ALTERATIONS.items():
            copies = thumbnails(change(images[chosen], rng))
            pairs = duplicates.near_pairs(np.concatenate([thumbs[alone], copies]))
            rows = np.concatenate([alone, chosen])
            seen = {
                (int(rows[a]), int(b) - len(alone))
                for a, b in zip(pairs.first, pairs.second, strict=True)
                if a < len(alone) <= b
            }
            hits = sum((int(row), i) in seen for i, row in enumerate(chosen))
            patients = cohort.patients[rows]
            wrong = int((patients[pairs.first] != patients[pairs.second]).sum())
            print(f"| {name} | {hits / len(chosen):.1%} | {wrong} |")


if __name__ == "__main__":
    main()
