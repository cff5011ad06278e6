"""Mild corruptions that destroy a trigger but preserve the anatomy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadapron.attacks.triggers import Codec
from leadapron.detect.inputs.copies import (
    Change,
    Floats,
    answers,
    enough,
    excess,
    levels,
    predicted,
)
from leadapron.detect.inputs.readings import Readings, State
from leadapron.detect.inputs.region import background
from leadapron.detect.models.stamps import Blur, Probe
from leadapron.detect.scale import mad_spread
from leadapron.errors import UnknownNameError, UsageError
from leadapron.models.protocols import BlackBox, Capability

__all__ = ["CORRUPTIONS", "CorruptionConsistency"]

Images = NDArray[Any]

LEAST_SHIFT = 0.01
"""Least spread of a finding's changes, as a share of its logit's spread on clean films."""


def _moved(images: Images) -> Images:
    """Shift by one pixel down and right; the first row and column are unchanged."""
    return np.pad(images, ((0, 0), (1, 0), (1, 0)), mode="edge")[:, :-1, :-1]


CORRUPTIONS: dict[str, Change] = {
    "median 3": lambda images: background(images, 3),
    "median 5": lambda images: background(images, 5),
    "blur": Probe(name="blur of 1 pixel", change=Blur(sigma=1.0)),
    "jpeg": Probe(name="JPEG of quality 30", change=Codec(quality=30)),
    "move": _moved,
    "mirror": lambda images: images[:, :, ::-1],
}
"""Mild corruptions by name. Noise of 8 grey levels and gamma 0.8 were tried too, but found few
triggers."""


@dataclass(frozen=True, kw_only=True)
class CorruptionConsistency:
    """Findings that a mild corruption removes or restores far more strongly than on clean films.

    For each corruption and finding, the change of the logit is standardised by the median and
    spread (1.4826 median absolute deviations) of the changes on clean films. A film's score is the
    maximum over all corruptions of the standardised fall of a finding of its predicted set (a
    trigger that forced it on is destroyed) or rise of any finding (a trigger that forced it off is
    destroyed).

    Args:
        corruptions: names from `CORRUPTIONS`.

    Raises:
        UnknownNameError: no such corruption.
        UsageError: no corruptions.

    Source: after Liu et al., Detecting Backdoors During the Inference Stage Based on Corruption
    Robustness Consistency (TeCo), CVPR 2023, arXiv 2303.18191. Differs: TeCo raises each corruption
    through 5 severities and takes the deviation, over corruptions, of the severity at which the
    label flips, and needs no clean films. Here each corruption is one pass at one severity, and
    clean films give its normal effect on each finding.
    """

    corruptions: tuple[str, ...] = ("median 5", "blur", "move", "mirror")
    unit: str = field(default="spreads of the change on clean films", init=False)
    needs: Capability = field(default="outputs", init=False)

    def __post_init__(self) -> None:
        if not self.corruptions:
            raise UsageError(f"no corruptions; expected some of {', '.join(CORRUPTIONS)}")
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise UnknownNameError("corruption", name, CORRUPTIONS)

    @property
    def passes(self) -> int:
        """Forward passes per film in addition to that of `read`: one per corruption."""
        return len(self.corruptions)

    def fit(self, classifier: BlackBox, clean: Readings) -> State:
        """Run the model on the clean films under each corruption.

        Returns:
            `film levels`, `film spreads` (k,), operating logits and spreads; `change medians`,
            `change spreads` (c, k).

        Raises:
            DataError: fewer than 20 films, or logits that aren't finite.
        """
        enough(clean)
        film_levels, film_spreads = levels(clean.logits.astype(np.float64), classifier.findings)
        corrupted = answers(classifier, clean.images, self._changes())
        levels(corrupted, classifier.findings)  # raises if not finite
        changes = corrupted - clean.logits  # (c, n, k)
        return {
            "film levels": film_levels,
            "film spreads": film_spreads,
            "change medians": np.median(changes, axis=1),
            "change spreads": np.maximum(mad_spread(changes, 1), LEAST_SHIFT * film_spreads),
        }

    def score(self, classifier: BlackBox, suspect: Readings, state: State) -> Floats:
        """Return (n,) spreads; NaN if an output for a corrupted film isn't finite."""
        corrupted = answers(classifier, suspect.images, self._changes())
        films = suspect.logits.astype(np.float64)
        changes = corrupted - films - state["change medians"][:, None]
        changes /= state["change spreads"][:, None]  # (c, n, k)
        sure = predicted(excess(films, state, "film"))
        worst = np.where(sure, np.abs(changes), changes)  # falls count only in the predicted set
        values: Floats = worst.max(axis=(0, 2))
        return values

    def _changes(self) -> Sequence[Change]:
        return [CORRUPTIONS[name] for name in self.corruptions]
