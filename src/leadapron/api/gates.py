"""A gate for a program that gets films one by one, as a service of its own."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from leadapron.detect.inputs.screening import ScreenedFilm, decide_films, screen_images
from leadapron.errors import FilmError, UsageError
from leadapron.jobs.screen import OpenGate, open_gate
from leadapron.sources.listed import Decoded, FilmFile, decoded
from leadapron.text import short_path
from leadapron.types import AUTO, Machine

__all__ = ["Gate"]


class Gate:
    """A gate with its model, which threads may share: films are judged in turn.

    Args:
        opened: the gate and its model, as `open_gate` returns them.
    """

    def __init__(self, opened: OpenGate) -> None:
        self._opened = opened
        self._judging = threading.Lock()

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        machine: Machine = AUTO,
    ) -> Self:
        """Open a gate and its model.

        Args:
            file: the file that `calibrate` wrote.
            model: path of the model, if it was moved.
            machine: device and backend of the model.

        Raises:
            StoreError: a gate that can't be read, or that belongs to another model.
            LeadapronError: the model can't be opened.
        """
        place = None if model is None else Path(model)
        return cls(open_gate(Path(file), model=place, machine=machine))

    def screen(self, image: NDArray[Any] | str | os.PathLike[str]) -> ScreenedFilm:
        """Return the decision on one film.

        Args:
            image: a PNG, JPEG or DICOM file, or an image (h, w) uint8 or uint16 with the model's
                preprocessing.

        Raises:
            UsageError: an image of another size or type.
            LeadapronError: the model or the decoders fail.
        """
        stored, classifier = self._opened.stored, self._opened.classifier
        wanted = stored.model.preprocessing
        if isinstance(image, np.ndarray):
            side = wanted.size
            if image.shape != (side, side) or image.dtype != np.dtype(wanted.dtype):
                raise UsageError(
                    f"image of shape {image.shape}, {image.dtype}; the model takes ({side}, "
                    f"{side}), {wanted.dtype}"
                )
            with self._judging:
                (screened,) = screen_images(stored.gate, classifier, image[None], [""])
            return screened
        path = os.fspath(image)
        film = FilmFile(path, short_path(path))
        found: Decoded | FilmError
        try:
            found = decoded(film, wanted, stored.window, stored.bits)
        except FilmError as error:
            found = error
        with self._judging:
            (screened,) = decide_films(stored.gate, classifier, [film], [found], first=1)
        return screened
