"""The command screen: open a gate and its model, decode films, and decide on each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from leadapron.detect.inputs import INPUT_DETECTORS, TYPICAL, judge
from leadapron.detect.inputs.gate_file import StoredGate, read_gate
from leadapron.detect.inputs.screening import ScreenedFilm, decide_films
from leadapron.errors import FilmError, LeadapronError, StoreError
from leadapron.films.decoding import give_up, processors
from leadapron.models.backends import on_backend
from leadapron.models.classifier import BlackBox
from leadapron.models.foreign import file_of, open_model
from leadapron.models.parsing.external import content_of
from leadapron.sources.listed import Decoded, FilmFile, decoded
from leadapron.specs import forgiving
from leadapron.types import AUTO, Machine

__all__ = ["OpenGate", "open_gate", "screen"]

BATCH = 64
"""Films that are decoded and screened at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenGate:
    """A gate with its model.

    Args:
        file: the gate's file; None for a gate in memory.
        stored: the gate, and the identity of its model.
        classifier: the model.
    """

    file: Path | None
    stored: StoredGate
    classifier: BlackBox


@forgiving
def open_gate(
    file: Path, *, model: Path | None = None, trust_programs: bool = False, machine: Machine = AUTO
) -> OpenGate:
    """Open a gate and its model.

    Args:
        file: the gate's JSON file.
        model: path of the model; the path in the gate if left out.
        trust_programs: as `open_model`; a gate can't decide this for its user.
        machine: its device is used; precision and backend are the gate's.

    Raises:
        UsageError: another precision or backend than the gate's.
        StoreError: a gate that can't be read, or a model that isn't the gate's.
        LeadapronError: as `open_model`.
    """
    stored = read_gate(file, INPUT_DETECTORS, TYPICAL)
    said = stored.model
    machine = stored.made.machine(machine, file.name)
    path = file_of(said.path if model is None else model)
    if not path.is_file():
        raise StoreError(f"no model at {path}; give its path as `model` FILE")
    other = StoreError(
        f"{path.name} is not the model that {file.name} was calibrated for: its SHA-256 differs; "
        "calibrate again"
    )
    if content_of(path) != said.sha256:  # checked first: another model may fail to open
        raise other
    opening = dict(said.opening)
    model_now = open_model(
        path,
        said.findings if opening.pop("named", False) else None,
        preprocessing=said.preprocessing,
        card=False,  # the gate keeps what its card said
        trust_programs=trust_programs,
        **machine.networks,
        **opening,  # type: ignore[arg-type]
    )
    if model_now.content != said.sha256:  # the file was replaced in between
        raise other
    classifier = on_backend(model_now.classifier, machine, stored.images)
    if classifier.findings != said.findings or classifier.preprocessing != said.preprocessing:
        raise StoreError(
            f"findings or preprocessing in {file.name} differ from those of {path.name}"
        )
    _try(stored, classifier, file)
    return OpenGate(file=file, stored=stored, classifier=classifier)


def screen(opened: OpenGate, films: Sequence[FilmFile]) -> Iterator[list[ScreenedFilm]]:
    """Yield the decisions on films, batch by batch; the next batch is decoded meanwhile.

    Films are decoded in isolated worker processes, with the gate's preprocessing, as in a source
    of film files. A film that can't be decoded doesn't stop the others.

    Args:
        opened: the gate and its model.
        films: as `films_of` returns them.

    Raises:
        LeadapronError: the model or the decoders fail.
    """
    executor = ThreadPoolExecutor(processors(), thread_name_prefix="leadapron-decode")

    def decoding(start: int) -> list[Future[Decoded | FilmError]]:
        return [executor.submit(_image, film, opened) for film in films[start : start + BATCH]]

    try:
        ahead = decoding(0)
        for start in range(0, len(films), BATCH):
            waiting, ahead = ahead, decoding(start + BATCH)
            images = [future.result() for future in waiting]
            batch = films[start : start + BATCH]
            yield decide_films(
                opened.stored.gate, opened.classifier, batch, images, first=start + 1
            )
    except (KeyboardInterrupt, GeneratorExit):
        give_up()  # a film may take a minute
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _image(film: FilmFile, opened: OpenGate) -> Decoded | FilmError:
    stored = opened.stored
    try:
        return decoded(film, stored.model.preprocessing, stored.window, stored.bits)
    except FilmError as error:
        return error


def _try(stored: StoredGate, classifier: BlackBox, file: Path) -> None:
    """Screen a uniform grey image; StoreError if the states don't fit the detectors."""
    try:
        judge(stored.gate, classifier, stored.images[:1])
    except (
        KeyError, ValueError, IndexError, TypeError, RuntimeError, LeadapronError
    ) as error:  # fmt: skip
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(
            f"{file.name} doesn't fit its detectors and model ({words}); calibrate again"
        ) from error
