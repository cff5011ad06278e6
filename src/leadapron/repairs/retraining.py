"""Training from scratch without the suspected films of a scan."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from leadapron.errors import DataError
from leadapron.films.cohort import Cohort
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.fresh import untrained
from leadapron.models.protocols import BlackBox, Capability
from leadapron.repairs.session import Optimisation, begin
from leadapron.types import Progress

__all__ = ["Retraining"]


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Suspected films of a scan are dropped, and the network is trained from scratch on the rest.

    Here the films given to `repair` are the training set. Without names it is the control for all
    repairs: a network trained only on the clean films.

    Args:
        dropped: ids of the suspected films.
        optimisation: settings of the training.

    Source: the remedy after detection by Chen et al., Activation Clustering, arXiv 1811.03728,
    section 5, and Tran, Li and Madry, Spectral Signatures, NeurIPS 2018.
    """

    dropped: tuple[str, ...] = ()
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            learning_rate=3e-3, epochs=100, weight_decay=0.01, statistics="learned"
        )
    )
    needs: Capability = field(default="gradients", init=False)

    def repair(
        self,
        classifier: BlackBox,
        clean: Cohort,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> NetworkClassifier:
        """See `session.Repair.repair`.

        Raises:
            DataError: a named film that isn't there; as `session.Repair.repair`.
        """
        named = np.isin(clean.ids, self.dropped)
        if missing := sorted(set(self.dropped) - set(clean.ids[named].tolist())):
            raise DataError(
                f"{len(missing)} of {len(self.dropped)} named films aren't among the "
                f"{len(clean):,} films, first {missing[0]!r}; expected the set that was scanned"
            )
        session = begin("retraining", self.needs, classifier, clean.take(~named), rng, progress)
        with session.seeded("init"):
            session.module.load_state_dict(untrained(session.module).state_dict())
        session.tune(self.optimisation)
        return session.finish()
