"""Rules for verdicts from a study's rows, with their thresholds."""

from __future__ import annotations

from collections.abc import Iterable

from leadapron.results.rows import Row

__all__ = [
    "ALIKE",
    "BLIND",
    "LOCAL",
    "POTENT",
    "attack_verdict",
    "explanation_verdict",
    "is_local",
    "is_potent",
    "sanity_verdict",
]

BLIND = "twin at chance"
"""The verdict if the twin reads no better than chance, so that nothing can be judged."""

WORKS = 0.5
"""The attack works if the interval of its success minus the twin's is above this."""

ALIKE = 0.5
"""Mean rank correlation with the maps of an untrained network at which maps count as the same."""

POTENT = (0.80, 0.50)
"""Least attack success at 5 % clean false positives, and least difference to the twin's, of a
working backdoor."""

LOCAL = 0.5
"""A trigger is local if a random pixel hits it on less than this share of the films."""


def attack_verdict(difference: Row | None) -> str:
    """Return whether the attack works, from the interval of its success minus the twin's."""
    if difference is None or difference.low is None:
        return "undefined"
    if difference.low >= WORKS:
        return "works"
    return "works partly" if difference.low > 0 else "not shown"


def is_potent(success: Row | None, twin: Row | None) -> bool | None:
    """Return whether a backdoor works, by `POTENT`; None if a rate is undefined.

    Args:
        success: attack success of the backdoored model.
        twin: attack success of the twin.
    """
    if success is None or twin is None or success.value is None or twin.value is None:
        return None
    return success.value >= POTENT[0] and success.value - twin.value >= POTENT[1]


def is_local(chance: Row | None) -> bool:
    """Return whether a trigger is local, from the rate of chance hits."""
    return chance is None or chance.value is None or chance.value < LOCAL


def explanation_verdict(
    hit: Row | None, references: Iterable[Row | None], chance: Row | None = None
) -> str:
    """Return whether the explanation points at the trigger.

    Args:
        hit: the backdoored model's rate of hits.
        references: hit rates of the twin and of the film's centre.
        chance: hit rate of a random pixel.
    """
    if not is_local(chance):
        return "not local"
    references = (*references, chance)
    if hit is None or hit.low is None:
        return "undefined"
    limits = [row.value if row.high is None else row.high for row in references if row is not None]
    beyond = hit.low > max([limit for limit in limits if limit is not None], default=0.0)
    if not beyond:
        return "not shown"
    return "gives it away" if hit.low >= WORKS else "hints at it"


def sanity_verdict(correlations: Iterable[Row | None]) -> str:
    """Return whether an explanation passes the sanity check, that maps change with the weights.

    Args:
        correlations: rank correlations of its maps with those of randomised networks.
    """
    known = [row.value for row in correlations if row is not None and row.value is not None]
    if not known:
        return "undefined"
    return "fails" if max(known) >= ALIKE else "passes"
