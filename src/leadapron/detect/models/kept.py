"""Cache of sweeps and statistics: a model is swept and measured once on the same films."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leadapron.detect.models.stamps import Floats, mark_of, plain_mark, probes
from leadapron.detect.models.statistics import STATISTICS, Measure, Tables
from leadapron.detect.models.sweep import KINDS, Moved, NotFinite, StampSweep, Swept
from leadapron.errors import StoreError
from leadapron.films.cohort import Cohort, blocks
from leadapron.models.backends import CompiledClassifier, backend_of
from leadapron.models.foreign import BlackBoxClassifier
from leadapron.models.networks import GreyChannels
from leadapron.models.protocols import BlackBox, Differentiable
from leadapron.outside import code_of
from leadapron.result_cache import keep, recall
from leadapron.types import Progress

__all__ = [
    "Kept",
    "measure_once",
    "moved_facts",
    "moved_from",
    "once",
    "sweep_once",
    "swept_facts",
    "swept_from",
]

logger = logging.getLogger(__name__)

VERSION = 3
"""Version of sweeps and statistics: raise it when equal inputs give different results."""


class _Made(NamedTuple):
    """What was made once, as JSON holds it, and the seconds that it took then."""

    value: Any
    seconds: float


class Kept(NamedTuple):
    """A sweep, and the seconds that it originally took."""

    swept: Swept
    seconds: float


def sweep_once(
    sweep: StampSweep,
    classifier: BlackBox,
    clean: Cohort,
    *,
    content: str | None,
    folder: Path | None,
    name: str = "",
    progress: Progress | None = None,
) -> Kept:
    """Return a model's sweep from the cache, or compute and cache it.

    Args:
        sweep: settings of the sweep.
        classifier: the model.
        clean: films without a trigger, of its preprocessing.
        content: SHA-256 of the model's file; without it nothing is cached.
        folder: the cache's folder, as `cache.default_folder`; None doesn't cache.
        name: the model's name, for the cache's list.
        progress: as `StampSweep.sweep`.

    Raises:
        DataError: as `StampSweep.sweep`.
    """
    kept = once(
        "sweep",
        # The repr has the names and parameters of everything else that a sweep tries.
        {**asdict(sweep), "whole image": [repr(probe) for probe in probes()]},
        classifier,
        clean,
        lambda: swept_facts(sweep.sweep(classifier, clean, progress=progress)),
        content=content,
        folder=folder,
        name=name,
    )
    return Kept(swept_from(kept.value), kept.seconds)


def measure_once(
    classifier: Differentiable,
    clean: Cohort,
    *,
    content: str | None,
    folder: Path | None,
    name: str = "",
) -> Tables:
    """Return the result of `measure`, with each statistic from the cache or computed and cached.

    Only statistics that are new or whose settings changed are computed.

    Args:
        classifier: the network.
        clean: as `measure`.
        content: as `sweep_once`.
        folder: as `sweep_once`.
        name: as `sweep_once`.

    Raises:
        LeadapronError: as `measure`.
    """
    tables: dict[str, Floats] = {}
    for statistic, how in STATISTICS.items():
        if how.lacking(classifier):
            continue
        code = code_of(how.take, f"statistic {statistic}")
        kept = once(
            statistic,
            {**how.settings, **({"source's SHA-256": code} if code else {})},
            classifier,
            clean,
            partial(_taken, how, classifier, clean),
            content=content,
            folder=folder,
            name=name,
        )
        tables[statistic] = np.array(kept.value, np.float64)
    return tables


def _taken(how: Measure, classifier: Differentiable, clean: Cohort) -> list[Any]:
    return _plain(how.take(classifier, clean))


def once(
    kind: str,
    settings: Mapping[str, Any],
    classifier: BlackBox,
    clean: Cohort,
    make: Callable[[], Any],
    *,
    content: str | None,
    folder: Path | None,
    name: str,
) -> _Made:
    """Return the cached value under `kind` and its seconds; it is made and cached if missing.

    Args:
        kind: what the value is.
        settings: what it depends on besides model and films, as plain values.
        classifier: the model.
        clean: the films; only their pixels are part of the key.
        make: makes the value, of plain values.
        content: as `sweep_once`.
        folder: as `sweep_once`.
        name: as `sweep_once`.
    """
    facts = {
        "kind": kind,
        "version": VERSION,
        "model": content,
        "run as": _run_as(classifier),
        "settings": settings,
        "films": _pixels(clean),
    }
    kept = None if content is None or folder is None else recall(folder, facts)
    if kept is not None:
        return _Made(kept["made"], float(kept["seconds"]))
    begun = time.perf_counter()
    value = make()
    made = _Made(value, time.perf_counter() - begun)
    if content is not None and folder is not None:
        try:
            keep(folder, facts, {"made": made.value, "seconds": made.seconds}, f"{kind} of {name}")
        except (StoreError, ValueError) as error:  # don't discard a result that took minutes
            logger.warning("%s; the %s of %s isn't kept", error, kind, name)
    return made


def swept_facts(swept: Swept) -> Mapping[str, object]:
    """Return a sweep as plain values, the reverse of `swept_from`."""
    return {
        "findings": list(swept.findings),
        "exclusive": swept.exclusive,
        "spread": _plain(swept.spread),
        "forwards": swept.forwards,
        "films": list(swept.films),
        "not finite": [asdict(each) for each in swept.not_finite],
        "marks": {
            kind: [moved_facts(each) for each in swept.marks[kind].values()] for kind in KINDS
        },
    }


def swept_from(facts: Mapping[str, Any]) -> Swept:
    """Return a sweep from plain values, the reverse of `swept_facts`."""
    chosen, judged = facts["films"]
    marks = {kind: [moved_from(each) for each in facts["marks"][kind]] for kind in KINDS}
    return Swept(
        findings=tuple(facts["findings"]),
        exclusive=facts["exclusive"],
        spread=np.array(facts["spread"], np.float64),
        marks={
            kind: {(each.finding, each.direction): each for each in marks[kind]} for kind in KINDS
        },
        not_finite=tuple(NotFinite(**each) for each in facts["not finite"]),
        forwards=facts["forwards"],
        films=(chosen, judged),
    )


def moved_facts(moved: Moved) -> Mapping[str, object]:
    """Return a mark's effect as plain values, the reverse of `moved_from`."""
    facts = {name: getattr(moved, name) for name in Moved.__dataclass_fields__}
    return {**facts, "mark": plain_mark(moved.mark), "shifts": _plain(moved.shifts)}


def moved_from(facts: Mapping[str, Any]) -> Moved:
    """Return a mark's effect from plain values, the reverse of `moved_facts`."""
    return Moved(
        **{
            **facts,
            "mark": mark_of(facts["mark"]),
            "shifts": np.array(facts["shifts"], np.float64),
        }
    )


def _plain(table: Floats) -> list[Any]:
    """A table as lists, with None for NaN, which JSON lacks."""
    lists: list[Any] = np.where(np.isnan(table), None, table).tolist()  # type: ignore[call-overload]
    return lists


def _run_as(classifier: BlackBox) -> Mapping[str, object]:
    """Settings that its logits depend on in addition to the file."""
    facts: dict[str, object] = {
        "findings": list(classifier.findings),
        "preprocessing": asdict(classifier.preprocessing),
        "head": classifier.head,
    }
    if isinstance(classifier, Differentiable):
        names = ("architecture", "mean", "std", "precision")
        facts |= {name: getattr(classifier, name) for name in names}
        facts["device"] = classifier.device.type
        if isinstance(classifier, CompiledClassifier):
            facts["backend"] = backend_of(classifier)
        for part in classifier.module.modules():
            if isinstance(part, GreyChannels):  # it scales in place of mean and std
                facts["colours"] = [part.mean.flatten().tolist(), part.std.flatten().tolist()]
    elif isinstance(classifier, BlackBoxClassifier):
        facts["normalisation"] = asdict(classifier.normalisation)
        facts |= {"channels": classifier.channels, "gives": classifier.gives}
    return facts


def _pixels(clean: Cohort) -> str:
    """SHA-256 of the images; a sweep doesn't use labels."""
    digest = hashlib.sha256(f"{tuple(clean.images.shape)} {clean.images.dtype}".encode())
    for rows in blocks(len(clean)):
        digest.update(np.ascontiguousarray(clean.images[rows]).tobytes())
    return digest.hexdigest()
