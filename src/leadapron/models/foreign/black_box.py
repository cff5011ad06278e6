"""A model as a black box: normalised images in, one output per finding out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import DataError, UsageError
from leadapron.films.cohort import ImageArray, blocks
from leadapron.films.preprocessing import Preprocessing
from leadapron.models.classifier import squashed
from leadapron.models.foreign.recognise import Normalisation

__all__ = ["BlackBoxClassifier"]

Floats = NDArray[np.float32]
LEAST = 1e-7


@dataclass(frozen=True, eq=False)
class BlackBoxClassifier:
    """A black-box model, of which only the outputs are available; implements `BlackBox`.

    Args:
        run: (n, c, h, w) float32, normalised, to (n, k) float32.
        findings: names of its k outputs.
        preprocessing: how a film becomes its image.
        normalisation: normalisation of grey levels in 0 to 1; three numbers give three channels.
        channels: 1 or 3 copies of the film.
        gives: kind of output of `run`.
        head: function from logits to probabilities.
        batch: films per call of `run`.
        operating_points: as `squashed`; empty for plain probabilities.
    """

    run: Callable[[Floats], Floats]
    findings: tuple[str, ...]
    preprocessing: Preprocessing
    normalisation: Normalisation
    channels: int = 1
    gives: Literal["logits", "probabilities"] = "logits"
    head: Literal["sigmoid", "softmax"] = "sigmoid"
    batch: int = 32
    operating_points: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.normalisation.mean) not in (1, self.channels):
            raise UsageError(
                f"a normalisation of {len(self.normalisation.mean)} means for a model of "
                f"{self.channels} channel; expected one mean and one std"
            )

    def answers(self, images: ImageArray) -> Floats:
        """Return the model's (n, k) float32 outputs for (n, h, w) images.

        Raises:
            UsageError: no images.
            DataError: an output of another shape.
        """
        n = images.shape[0]
        if not n:
            raise UsageError("no images; expected at least one")
        out = np.empty((n, len(self.findings)), np.float32)
        mean, std = (
            np.asarray(v, np.float32)[:, None, None]
            for v in (self.normalisation.mean, self.normalisation.std)
        )
        for rows in blocks(n, self.batch):
            pixels = np.asarray(images[rows])
            grey = pixels.astype(np.float32)[:, None] / np.float32(np.iinfo(pixels.dtype).max)
            scaled = (grey - mean) / std  # (m, 1 or 3, h, w)
            whole = np.broadcast_to(scaled, (len(rows), self.channels, *scaled.shape[2:]))
            given = self.run(np.array(whole, np.float32, order="C"))
            if given.shape != (len(rows), len(self.findings)):
                raise DataError(
                    f"the model's output has shape {given.shape} for {len(rows)} images; expected "
                    f"({len(rows)}, {len(self.findings)}), a number for each finding"
                )
            out[rows] = given
        return out

    def logits(self, images: ImageArray) -> Floats:
        """Return (n, k) float32 logits, computed from probabilities if the model gives those."""
        return self._logits(self.answers(images))

    def probabilities(self, images: ImageArray) -> Floats:
        """Return (n, k) float32 probabilities."""
        return self._probabilities(self.answers(images))

    def both(self, images: ImageArray) -> tuple[Floats, Floats]:
        """Return the logits and the probabilities of one run."""
        given = self.answers(images)
        return self._logits(given), self._probabilities(given)

    def _logits(self, given: Floats) -> Floats:
        return given if self.gives == "logits" else self._odds(given)

    def _probabilities(self, given: Floats) -> Floats:
        if self.gives == "probabilities":
            if not self.operating_points:
                return given
            given = self._odds(given)
        return squashed(given, self.head, self.operating_points).astype(np.float32)

    def _odds(self, given: Floats) -> Floats:
        """Return the logits of probabilities."""
        # An infinite value isn't a probability, so it becomes NaN.
        told = np.where(np.isfinite(given), given, np.nan).astype(np.float64)
        inside = np.clip(told, LEAST, 1 - LEAST)
        odds = np.log(inside) if self.head == "softmax" else np.log(inside / (1 - inside))
        return np.asarray(odds, np.float32)
