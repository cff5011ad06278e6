"""Opens arguments of the public API: returns the cohort or model that a job needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.films.preprocessing import Preprocessing
from leadapron.sources import named_source, open_source
from leadapron.types import Machine

if TYPE_CHECKING:
    from leadapron.models.foreign import Opened
    from leadapron.models.protocols import BlackBox

__all__ = ["Films", "Model", "cohort_of", "model_of", "refuse_settings", "source_name"]

Films: TypeAlias = "str | os.PathLike[str] | Cohort | NDArray[Any]"
"""A source as `open_source` takes it, a table, archive or folder of films, a cohort, or images
(n, height, width) uint8 or uint16."""

Model: TypeAlias = "str | os.PathLike[str] | BlackBox | Opened"
"""A model's file or "module:function" as `open_model` takes it, a classifier, or what `open_model`
returned."""


def source_name(films: Films) -> str | None:
    """Return the source that a text or path names; None for films in memory."""
    return named_source(films) if isinstance(films, str | os.PathLike) else None


def refuse_settings(settings: Mapping[str, Any]) -> None:
    """Raise UsageError if films in memory come with settings of a source."""
    if settings:
        raise UsageError(
            f"{', '.join(sorted(settings))}: settings of a source; these films are in memory"
        )


def cohort_of(
    films: Films,
    preprocessing: Preprocessing,
    machine: Machine,
    settings: Mapping[str, Any],
    most: int | None = None,
) -> Cohort:
    """Return films as a cohort with a model's preprocessing.

    Args:
        films: the films; images in memory must have this preprocessing already.
        preprocessing: the model's.
        machine: device, precision, cache and progress.
        settings: settings of the source.
        most: largest number of films that are opened.

    Raises:
        UsageError: settings of a source for films in memory.
        DataError: images that can't be used.
        LeadapronError: as `open_source`.
    """
    source = source_name(films)
    if source is not None:
        return open_source(
            source, preprocessing=preprocessing, most=most, **machine.films, **settings
        )
    refuse_settings(settings)
    if isinstance(films, Cohort):
        return films if most is None else films.take(np.arange(len(films))[:most])
    return Cohort.of(np.asarray(films)[:most], preprocessing=preprocessing)


def model_of(model: Model, machine: Machine) -> Opened:
    """Return an open model with the facts that are known about it.

    Args:
        model: the model, or the file or function that gives it.
        machine: device and precision, if the model is opened here.

    Raises:
        UsageError: an object that isn't a classifier.
        LeadapronError: as `open_model`.
    """
    from leadapron.models.foreign import Opened, open_model
    from leadapron.models.protocols import BlackBox

    if isinstance(model, Opened):
        return model
    if isinstance(model, str | os.PathLike):
        return open_model(os.fspath(model), **machine.networks)
    if not isinstance(model, BlackBox):
        raise UsageError(
            f"model is a {type(model).__name__}; expected a file, or a classifier with findings, "
            "preprocessing, head, logits and probabilities"
        )
    return Opened(classifier=model, origin=f"a {type(model).__name__} in memory")
