"""The command explain: maps of a finished attack's two models, or of any model, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leadapron import store
from leadapron.errors import UsageError
from leadapron.explainers import EXPLAINERS
from leadapron.explainers.document import MapsOfModel
from leadapron.explainers.of_model import chosen_films, fitting, look
from leadapron.models.foreign import open_model
from leadapron.models.protocols import columns_of, differentiable
from leadapron.models.stated import AS_FOUND, Opening
from leadapron.report.explanations import draw_explanations, draw_looks
from leadapron.sources import open_source
from leadapron.specs import forgiving
from leadapron.study.explained import Explanations, explain_attack, open_attack
from leadapron.text import local_path
from leadapron.types import AUTO, Machine, said

__all__ = ["explain_sheet"]


@forgiving
def explain_sheet(
    place: str | Path,
    out: Path,
    *,
    source: str | None = None,
    finding: str | None = None,
    methods: Sequence[str] = (),
    count: int = 4,
    seed: int = 0,
    opening: Opening = AS_FOUND,
    machine: Machine = AUTO,
    **options: Any,
) -> Explanations | MapsOfModel:
    """Draw each explainer's maps of a model on films of a source, or of a study's backdoored model.

    With a study, the films are triggered test films, and it also counts how many maps point at the
    trigger, for the backdoored model and its clean twin.

    Args:
        place: a model as `audit` takes it, if `source` is given; else a study's folder (its first
            backdoored run is used), a backdoored run's folder, or the classifier.safetensors in
            one.
        out: the file, ending in .png.
        source: films that the model reads, as folder:PATH; for a model that is no study's.
        finding: finding to explain; the attacker's target, or the model's first, if left out.
        methods: names in `EXPLAINERS`, as layer-cam and occlusion; all if left out.
        count: number of films, one per row, 1 or more. Of a source, films with the finding come
            first; of a study, test films without the finding (with it if the trigger hides it) on
            which the trigger is visible.
        seed: seed of the choice of films and of the trigger's places.
        opening: what is stated of the model, and how it is opened.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Returns:
        The drawn maps, with the hits of both models if it is a study.

    Raises:
        UsageError: another file ending, count below 1, no method that fits the network, too
            large a sheet, or settings of a model for a study.
        UnknownNameError: no such method or finding.
        StoreError: not a study, or its models or films are missing.
        VanishedTriggerError: the trigger is visible on no film.
        LeadapronError: as `open_model` and `open_source`.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"`out` {out}: expected a file ending in .png")
    if count < 1:
        raise UsageError(f"`count` {count}: expected 1 or more")
    for name in methods:
        EXPLAINERS.find(name)
    found: Explanations | MapsOfModel
    if source is None:
        _refuse_for_study(place, opening, options)
        explained = explain_attack(
            open_attack(Path(place), machine),
            finding=finding,
            methods=methods,
            count=count,
            seed=seed,
            machine=machine,
        )
        found, sheet = explained.found, draw_explanations(explained)
    else:
        found, sheet = _of_model(
            place, source, finding, methods, count, seed, opening, machine, options
        )
    with store.write_atomically(out) as file:
        sheet.save(file, "PNG")
    return replace(found, file=str(out))


def _refuse_for_study(place: str | Path, opening: Opening, options: Mapping[str, Any]) -> None:
    """UsageError for settings of a model or a source, which a study has itself."""
    settings = [*opening.named, *(f"source.{name}" for name in options)]
    if settings:
        named = ", ".join(f"`{name}`" for name in settings)
        raise UsageError(
            f"{named}: a study states this itself; leave it out, or explain the model {place} on "
            "films of a `source`"
        )


def _of_model(
    model: str | Path,
    source: str,
    finding: str | None,
    methods: Sequence[str],
    count: int,
    seed: int,
    opening: Opening,
    machine: Machine,
    options: Mapping[str, Any],
) -> tuple[MapsOfModel, Image.Image]:
    """A model's maps on films of a source, and their sheet."""
    opened = open_model(model, **machine.networks, **opening.arguments)
    chosen, skipped = fitting(methods, opened.classifier)
    classifier = differentiable(opened.classifier, chosen[0])
    finding = classifier.findings[0] if finding is None else finding
    columns_of(classifier, [finding])
    cohort = open_source(source, preprocessing=classifier.preprocessing, **machine.films, **options)
    films, labels = chosen_films(cohort, finding, count, seed)
    images = films.images[np.arange(len(films))]
    looked = look(classifier, images, finding, chosen, machine.progress)
    found = MapsOfModel(
        file="",
        model=local_path(str(model)),
        origin=opened.origin,
        notes=(*opened.notes, *said(cohort.notes)),
        finding=finding,
        films=tuple(films.ids.tolist()),
        labels=tuple(labels),
        probabilities=tuple(looked.said.tolist()),
        methods=looked.methods,
        skipped=skipped,
    )
    return found, draw_looks(found, looked)
