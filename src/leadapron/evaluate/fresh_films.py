"""Films that the models of a zoo weren't trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from leadapron import store
from leadapron.errors import StoreError
from leadapron.films.cohort import Cohort, subsample
from leadapron.models.protocols import Differentiable
from leadapron.results.zoo import Member
from leadapron.sources import AND, open_source
from leadapron.study.run import divide
from leadapron.types import Machine

__all__ = ["FreshFilms"]


@dataclass(frozen=True, kw_only=True)
class FreshFilms:
    """Films for the models of a zoo, opened once for all of them.

    Args:
        clean: source of films for all models; if left out, phantoms of a new seed, or the test
            films of a model's own run.
        films: most films.
        seed: seed of phantoms that no member was trained on.
        machine: cache, and what is done with films that can't be read.
        opened: cohorts by source, settings and preprocessing.
    """

    clean: str | None
    films: int
    seed: int
    machine: Machine
    opened: dict[str, Cohort] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_zoo(
        cls, everyone: Sequence[Member], *, clean: str | None, films: int, machine: Machine
    ) -> FreshFilms:
        """Return the films for a zoo's models.

        Args:
            everyone: all members.
            clean: as `FreshFilms`.
            films: as `FreshFilms`.
            machine: as `FreshFilms`.
        """
        return cls(
            clean=clean,
            films=films,
            seed=max(each.seed for each in everyone) + 1,
            machine=replace(machine, progress=None),
        )

    def of(
        self, classifier: Differentiable, source: Mapping[str, Any], seed: int, fingerprint: str
    ) -> Cohort:
        """Return films that a model wasn't trained on.

        Args:
            classifier: the model.
            source: the source of its films, with its settings.
            seed: of its run.
            fingerprint: of its run's films.

        Raises:
            StoreError: films that changed since the zoo was made.
            LeadapronError: as `open_source`.
        """
        settings = {name: value for name, value in source.items() if name != "name"}
        name = self.clean or str(source["name"])
        made = name.partition(":")[0] == "phantom" and AND not in name
        fresh = made and self.clean is None
        if self.clean is not None:
            settings = {}
        elif fresh:
            settings |= {"seed": self.seed, "count": self.films}
        preprocessing = classifier.preprocessing
        key = store.canonical_json([name, settings, asdict(preprocessing)])
        if key not in self.opened:
            self.opened[key] = open_source(
                name,
                preprocessing=preprocessing,
                **self.machine.films,
                # Of a run's own films the test films are taken first.
                most=self.films if fresh or self.clean is not None else None,
                **settings,
            )
        cohort = self.opened[key]
        if self.clean is None and not fresh:
            if cohort.fingerprint != fingerprint:
                raise StoreError(f"the films of {name} changed since the zoo was made")
            cohort = divide(cohort, seed)["test"]
        return cohort.take(subsample(len(cohort), self.films))
