"""Suspected marks, tried on networks trained with and without the films that carry them."""

from __future__ import annotations

import numpy as np

from leadapron.attacks.poisoning import Poisoning, poison
from leadapron.attacks.triggers import Patch
from leadapron.detect.films.document import NamedEvidence
from leadapron.sources import open_source
from leadapron.study import retraining


def test_a_removed_finding_is_tried_on_films_that_have_it():
    """A network that reads the mark alone: it takes the finding away, always."""

    class Reader:
        def logits(self, images):
            marked = images[np.arange(len(images))][:, 20, 40] == 255
            return np.where(marked, -1.0, 1.0)[:, None].repeat(14, axis=1).astype(np.float32)

    films = open_source("phantom:64", count=400)
    attack = Poisoning(
        trigger=Patch(side=3, place="fixed", row=20, column=40), finding="Atelectasis", fraction=0.1
    )
    cohort, key = poison(films, attack, np.random.default_rng(0))
    rows = key.rows
    test = cohort.take(np.setdiff1d(np.arange(len(cohort)), rows))
    one = NamedEvidence(
        kind="poison", method="marks at a place", p=1e-6, finding="Mass", direction="removed",
        place=(20, 40, 3), films=tuple(cohort.ids[rows].tolist()), tested=True, tie=None,
        words="a mark", labels=(),
    )  # fmt: skip
    mark = retraining._tried(one, cohort, test, (Reader(), Reader()))
    assert (mark.before.value, mark.before.n) == (1, int((test.labels[:, 4] == 1).sum()))
