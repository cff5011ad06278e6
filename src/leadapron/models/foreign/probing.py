"""What a black box takes and gives, found by running it on black images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import StoreError
from leadapron.models.foreign.process import AnswerError

__all__ = ["Probed", "probed"]

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]

FIXED_BATCHES = (2, 4, 8, 16, 32)
"""Sizes of batches that are tried if a model takes no single film."""


class Probed(NamedTuple):
    """A black box, wrapped to take any number of films with the channels first.

    Args:
        run: (n, c, h, w) to (n, k), both float32.
        channels: 1 or 3.
        outputs: k.
        batch: films that it takes at once; None if any number.
        notes: what was found, one sentence each.
    """

    run: Run
    channels: int
    outputs: int
    batch: int | None
    notes: tuple[str, ...]


class _Layout(NamedTuple):
    channels: int
    last: bool


def probed(
    run: Run,
    name: str,
    size: int,
    *,
    channels: int | None = None,
    batch: int | None = None,
    last: bool | None = None,
) -> Probed:
    """Find a model's channels, their place, its outputs and its batches.

    Args:
        run: (n, c, h, w) or (n, h, w, c) to (n, k), both float32.
        name: of the model, for messages.
        size: side of the images in pixels.
        channels: 1 or 3 if known.
        batch: films that it takes at once, if its header fixes them.
        last: whether the channels come last, if known.

    Raises:
        AnswerError: it takes images but gives something else.
        StoreError: it takes no such images.
    """
    layouts = [
        _Layout(taken, place)
        for place in ((False, True) if last is None else (last,))
        for taken in ((1, 3) if channels is None else (channels,))
    ]
    failures: list[tuple[int, _Layout, StoreError]] = []
    for films in (batch,) if batch else (1, *FIXED_BATCHES):
        for layout in layouts:
            try:
                outputs = _outputs(run, name, films, layout, size)
            except StoreError as error:
                failures.append((films, layout, error))
                if isinstance(error, AnswerError):  # it took the images
                    break
                continue
            return _wrapped(run, name, layout, outputs, size, films, known=batch is not None)
    shown = [
        error
        for films, layout, error in failures
        if films == (batch or 1) and layout.last == layouts[0].last
    ]
    raise _reason(name, shown)


def _outputs(run: Run, name: str, films: int, layout: _Layout, size: int) -> int:
    """The number of outputs for black films."""
    sides = (size, size, layout.channels) if layout.last else (layout.channels, size, size)
    given = run(np.zeros((films, *sides), np.float32))
    if given.ndim != 2 or len(given) != films or not given.shape[1]:
        raise AnswerError(
            f"{name} gives {given.shape} for {films} image{'s' * (films > 1)}; expected "
            "(n, findings)"
        )
    return int(given.shape[1])


def _wrapped(
    run: Run, name: str, layout: _Layout, outputs: int, size: int, films: int, *, known: bool
) -> Probed:
    notes = []
    batch = films if known or films > 1 else None
    if batch is None:
        try:
            more = _outputs(run, name, 2, layout, size)
        except StoreError:
            more = 0
        if more != outputs:
            batch = 1
    if batch is not None and not known:
        notes.append(f"It takes {batch} film{'s' * (batch > 1)} at a time, no other number.")
    if layout.last:
        notes.append("It takes the channels last: (n, height, width, channels).")
    taking = _channels_last(run) if layout.last else run
    whole = taking if batch is None else _filled(taking, batch)
    return Probed(whole, layout.channels, outputs, batch, tuple(notes))


def _channels_last(run: Run) -> Run:
    return lambda images: run(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))


def _filled(run: Run, batch: int) -> Run:
    """`run` for a model of a fixed batch size: black films fill the last batch."""

    def whole(images: Floats) -> Floats:
        missing = batch - len(images)
        return run(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))))[: len(images)]

    return whole


def _reason(name: str, failures: Sequence[StoreError]) -> StoreError:
    """The first wrong answer; else the causes of all failures, as one error."""
    answers = [error for error in failures if isinstance(error, AnswerError)]
    if answers:
        return answers[0]
    causes = dict.fromkeys(str(error).removeprefix(f"{name} ") for error in failures)
    return StoreError(f"{name} {'; '.join(causes)}")
