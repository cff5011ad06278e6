"""A network tests a scan's films: do the labels of films with a mark contradict their anatomy?

The marks and the films' borders are hidden from the network. It isn't trained on films with a mark,
and no film is read by a network that was trained on films of the same patient (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from leadapron.detect.films import FEWEST, Hidden, Look, SecondLook
from leadapron.detect.scores import SeenBy
from leadapron.errors import DataError
from leadapron.films.cohort import Cohort, ImageArray, Rows, blocks, split_by_patient
from leadapron.films.preprocessing import Preprocessing
from leadapron.seeds import named_seed, stream
from leadapron.types import Precision, Progress

if TYPE_CHECKING:
    from leadapron.models.classifier import WhiteBox

__all__ = ["Covered", "given_network", "trained_network"]

PARTS = 2
"""Parts of the patients for cross-fitting."""

SIDE = 64
"""Side of the training images in pixels."""

BORDER = 0.05
"""Share of each side of a film that is cut off: letters, collimators and crops are there."""

AROUND = 2
"""Width in pixels of the ring around a mark that is hidden with it, since compression smears it,
and of the next ring, whose mean replaces it."""

EPOCHS, STEPS = 6, 300
"""Fewest epochs, and fewest batches."""

MOST_EPOCHS = 30
"""Most epochs, however few films there are."""

RIDGE = 0.05
"""Added to the variances of a given network's features, as a share of their mean."""

CHUNK = 128
"""Films at a time."""


class Covered:
    """Films without their borders and with some squares covered, resized for a network.

    Args:
        images: (n, h, w) uint8 or uint16.
        hidden: the squares to cover, with the mean of their surroundings.
        side: side of the result in pixels.
        dtype: dtype of the result.
    """

    def __init__(
        self, images: ImageArray, hidden: Hidden, side: int, dtype: type[np.generic] = np.uint8
    ) -> None:
        self._images, self._places = images, hidden.places
        self._own = hidden.own[np.argsort(hidden.own[:, 0], kind="stable")]
        self.shape = (images.shape[0], side, side)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """Return (m, side, side) for an integer array of m rows."""
        import torch
        from torch.nn.functional import interpolate

        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        top = float(np.iinfo(self.dtype).max)
        cut = tuple(
            slice(round(BORDER * side), side - round(BORDER * side))
            for side in self._images.shape[1:]
        )
        for some in blocks(len(rows), CHUNK):
            films = np.asarray(self._images[rows[some]])
            scale = top / np.iinfo(films.dtype).max
            films = films.astype(np.float32)
            for row, column, side in self._places.tolist():
                _cover(films, row, column, side)
            starts, ends = (
                np.searchsorted(self._own[:, 0], rows[some], side=end) for end in ("left", "right")
            )
            for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
                for _, row, column, side in self._own[start:end].tolist():
                    _cover(films[number : number + 1], row, column, side)
            small = interpolate(
                torch.from_numpy(films[:, *cut])[:, None],
                self.shape[1:],
                mode="bilinear",
                antialias=True,
            )
            out[some] = np.rint(np.clip(small[:, 0].numpy() * scale, 0, top))
        return out


def _cover(films: NDArray[np.float32], row: int, column: int, side: int) -> None:
    """Replace a square and its margin by the mean of their surroundings, film by film."""
    height, width = films.shape[1:]

    def square(more: int) -> tuple[slice, slice]:
        return (
            slice(max(row - more, 0), min(row + side + more, height)),
            slice(max(column - more, 0), min(column + side + more, width)),
        )

    inner, outer = films[:, *square(AROUND)], films[:, *square(2 * AROUND)]
    ring = outer.sum(axis=(1, 2)) - inner.sum(axis=(1, 2))
    pixels = np.prod(outer.shape[1:]) - np.prod(inner.shape[1:])
    if pixels:
        inner[:] = (ring / pixels)[:, None, None]
    else:
        inner[:] = inner.mean(axis=(1, 2), keepdims=True)


def trained_network(
    cohort: Cohort,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    progress: Progress | None = None,
) -> SecondLook:
    """Return a second look by small networks, one trained for each part of the patients.

    Args:
        cohort: the scanned films.
        seed: seed of the division of patients and of the networks.
        device: device of the networks.
        precision: precision of the networks.
        progress: called with the name of the step, the steps done and their total.
    """

    def look(hidden: Hidden) -> Look:
        from leadapron.models.training import Network, Training, train

        covered = Covered(cohort.images, hidden, SIDE)
        films = replace(
            cohort,
            images=np.concatenate([covered[rows] for rows in blocks(len(cohort))]),
            preprocessing=Preprocessing(size=SIDE),
            films=None,
            masks=None,
            forms={},
        )

        def read(part: int, teach: Rows, columns: list[int], apart: Rows) -> NDArray[np.float64]:
            some = films.take(teach)
            some = replace(
                some,
                labels=some.labels[:, columns],
                findings=tuple(some.findings[column] for column in columns),
            )
            fewest = max(EPOCHS, -(-STEPS * Training().batch_size // len(teach)))
            epochs = min(fewest, MOST_EPOCHS)
            after = None
            if progress is not None:
                word = f"training second network, {part + 1} of {PARTS}"
                after = lambda done, total: progress(word, done, total)  # noqa: E731
            network, _ = train(
                some,
                # The history isn't used, so the validation films don't matter.
                some.take(np.arange(min(len(some), 16))),
                network=Network(name="plain4"),
                training=Training(epochs=epochs),
                seed=int(named_seed(seed, "second look", part).generate_state(1)[0]),
                device=device,
                precision=precision,
                after_step=after,
            )
            return network.logits(films.images[apart]).astype(np.float64)

        return _cross_fitted(cohort, hidden, seed, read, seen_by="a network trained on these films")

    return look


def given_network(
    network: WhiteBox, cohort: Cohort, *, seed: int = 0, progress: Progress | None = None
) -> SecondLook:
    """Return a second look by an existing network: a new head on its features.

    Its own outputs aren't used, since a network that was trained on these films may have memorised
    their labels. Its features may have too; then fewer wrong labels are found.

    Args:
        network: gives its features.
        cohort: the scanned films.
        seed: seed of the division of patients.
        progress: called with the name of the step, the films done and their total.
    """

    def look(hidden: Hidden) -> Look:
        wanted = network.preprocessing
        covered = Covered(
            cohort.images, hidden, wanted.size, np.uint16 if wanted.dtype == "uint16" else np.uint8
        )
        parts = list[NDArray[np.float32]]()
        for rows in blocks(len(cohort), CHUNK):
            parts.append(network.features(covered[rows]))
            if progress is not None:
                progress("reading films with the network", int(rows[-1]) + 1, len(cohort))
        features = np.concatenate(parts).astype(np.float64)

        def read(_: int, teach: Rows, columns: list[int], apart: Rows) -> NDArray[np.float64]:
            return _heads(features, teach, cohort.labels[:, columns], apart)

        return _cross_fitted(cohort, hidden, seed, read, seen_by="the given network")

    return look


Read = Callable[[int, Rows, list[int], Rows], NDArray[np.float64]]


def _cross_fitted(
    cohort: Cohort, hidden: Hidden, seed: int, read: Read, *, seen_by: SeenBy
) -> Look:
    """Read each part of the patients with a network trained on unmarked films of the others.

    Args:
        cohort: the films.
        hidden: the films with a mark, and the squares to hide.
        seed: seed of the division of patients.
        read: given the part's number, the training rows, the columns of the findings, and the rows
            to read, returns logits.
        seen_by: name of the reader.
    """
    logits = np.full(cohort.labels.shape, np.nan)
    unmarked = np.ones(len(cohort), dtype=np.bool_)
    unmarked[hidden.films] = False
    names = {str(part): 1 / PARTS for part in range(PARTS)}
    notes = list[str]()
    try:
        parts = split_by_patient(
            cohort.patients, names, stream(seed, "second look"), cohort.labels
        ).values()
        teaching = [np.setdiff1d(np.flatnonzero(unmarked), part) for part in parts]
        columns = [
            column
            for column in range(len(cohort.findings))
            if all(
                (cohort.labels[rows, column] == side).sum() >= FEWEST
                for rows in teaching
                for side in (0, 1)
            )
        ]
        if columns:
            read_logits = np.empty((len(cohort), len(columns)))
            for number, (part, teach) in enumerate(zip(parts, teaching, strict=True)):
                read_logits[part] = read(number, teach, columns, part)
            if not np.isfinite(read_logits).all():
                raise DataError("the network's outputs aren't finite")
            logits[:, columns] = read_logits
        else:
            notes.append(
                f"no finding is present on {FEWEST} films without a mark and absent on {FEWEST} "
                "others in each part: too few to train a network"
            )
    except DataError as error:  # the scan's verdict doesn't depend on the network
        notes.append(f"a network can't read the films: {error}")
    return Look(logits=logits, findings=cohort.findings, notes=tuple(notes), seen_by=seen_by)


def _heads(
    features: NDArray[np.float64], teach: Rows, labels: NDArray[np.float32], apart: Rows
) -> NDArray[np.float64]:
    """Predictions for some films, by ridge regression of each finding on others' features."""
    if not np.isfinite(features).all():
        raise DataError("its features aren't finite")
    known = features[teach]
    middle, spread = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)
    known, asked = (known - middle) / spread, (features[apart] - middle) / spread
    out = np.empty((len(apart), labels.shape[1]))
    for column, wanted in enumerate(labels[teach].T):
        stated = ~np.isnan(wanted)
        some, target = known[stated], wanted[stated].astype(np.float64)
        gram = some.T @ some
        gram[np.diag_indices_from(gram)] += RIDGE * len(some)
        slope = linalg.solve(gram, some.T @ (target - target.mean()), assume_a="pos")
        out[:, column] = asked @ slope
    return out
