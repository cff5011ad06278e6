"""A network's look at a scan's films: do the labels of films with a mark contradict their chests?

The network sees neither the marks nor the films' borders, it learns nothing from the films with a
mark, and no film is read by what learnt from its patient.
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
"""Parts of the patients, each read by what learnt from the others."""

SIDE = 64
"""Pixels of the films that a network is trained on."""

BORDER = 0.05
"""Of each side of a film, what is cut off: letters, collimators and crops are there."""

AROUND = 2
"""Pixels around a mark that are hidden with it, since compression smears it, and as many again
whose mean takes its place."""

EPOCHS, STEPS = 6, 300
"""Passes over the films, and batches, at least."""

MOST_EPOCHS = 30
"""Passes at most, however few films there are."""

RIDGE = 0.05
"""Added to the variances of a given network's features, as a share of their mean."""

CHUNK = 128
"""Films at a time."""


class Covered:
    """Films without their borders and without some squares, made as large as a network takes them.

    Args:
        images: (n, h, w) uint8 or uint16.
        hidden: what is covered, by the mean of what is around it.
        side: of the result in pixels.
        dtype: of the result.
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
    """Give a square, and what is close to it, the mean of what is around it, film by film."""
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
    """Return the look of small networks that are trained for it, one for each part of the patients.

    Args:
        cohort: the films that are scanned.
        seed: divides the patients, and seeds the networks.
        device: where they run.
        precision: of theirs.
        progress: called with what is being done, the steps done and in all.
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
                word = f"training a second look, {part + 1} of {PARTS}"
                after = lambda done, total: progress(word, done, total)  # noqa: E731
            network, _ = train(
                some,
                # The history isn't looked at, so what it is validated on doesn't matter.
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
    """Return the look of a network that is at hand: a new head on its features.

    Its own answers don't count: a network that was trained on these films may know their labels by
    heart. Its features may as well, and then it contradicts fewer wrong labels.

    Args:
        network: that shows its features.
        cohort: the films that are scanned.
        seed: divides the patients.
        progress: called with what is being done, the films done and in all.
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
                progress("looking with the network", int(rows[-1]) + 1, len(cohort))
        features = np.concatenate(parts).astype(np.float64)

        def read(_: int, teach: Rows, columns: list[int], apart: Rows) -> NDArray[np.float64]:
            return _heads(features, teach, cohort.labels[:, columns], apart)

        return _cross_fitted(cohort, hidden, seed, read, seen_by="the given network")

    return look


Read = Callable[[int, Rows, list[int], Rows], NDArray[np.float64]]


def _cross_fitted(
    cohort: Cohort, hidden: Hidden, seed: int, read: Read, *, seen_by: SeenBy
) -> Look:
    """Read each part of the patients by what learnt from the unmarked films of the others.

    Args:
        cohort: the films.
        hidden: which of them carry a mark.
        seed: divides the patients.
        read: given the part's number, the rows to learn from, the columns of the findings, and the
            rows to read, returns logits.
        seen_by: what reads, in words.
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
                raise DataError("the network's answers are no numbers")
            logits[:, columns] = read_logits
        else:
            notes.append(
                f"no finding is stated, and stated to be absent, on {FEWEST} films without a mark "
                "in each part: a network can't learn what films look like"
            )
    except DataError as error:  # the films' own verdict doesn't rest on the network
        notes.append(f"a network can't look at the films: {error}")
    return Look(logits=logits, findings=cohort.findings, notes=tuple(notes), seen_by=seen_by)


def _heads(
    features: NDArray[np.float64], teach: Rows, labels: NDArray[np.float32], apart: Rows
) -> NDArray[np.float64]:
    """Ridge regression of each finding on the features of some films; what it says of others."""
    if not np.isfinite(features).all():
        raise DataError("its features are no numbers")
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
