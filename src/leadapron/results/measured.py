"""The rows of one attack, and the verdicts on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from leadapron.results.folder import Pair
from leadapron.results.names import (
    ATTACK_SUCCESS,
    AUROC,
    CALIBRATED,
    CENTRE,
    CHANCE,
    MACRO,
    MAP_DETECTION,
    MICRO,
    POINTING_HIT,
    SEPARATION,
    WIDE,
)
from leadapron.results.rows import Row
from leadapron.results.stealth import Stealth, at_chance, stealth_of
from leadapron.results.verdicts import BLIND, attack_verdict, explanation_verdict, is_potent

__all__ = ["Measured"]


@dataclass(frozen=True)
class Measured:
    """One attack and its twin: the rows behind the verdicts, None if missing."""

    pair: Pair

    def success(self, role: str, at: str = CALIBRATED) -> Row | None:
        """Attack success of a role at a threshold."""
        return self.pair.row(ATTACK_SUCCESS, role, regime="triggered", at=at)

    def separation(self, role: str) -> Row | None:
        """Separation of triggered from clean films by the target's score."""
        return self.pair.row(SEPARATION, role, regime="triggered")

    def micro(self, role: str, regime: str = "triggered") -> Row | None:
        """Micro AUROC of a role, by default against the trigger's label."""
        return self.pair.row(AUROC, role, regime=regime, method=MICRO)

    def macro(self, role: str, method: str = MACRO, regime: str = "clean") -> Row | None:
        """Macro AUROC of a role, by default over all findings on clean films."""
        return self.pair.row(AUROC, role, regime=regime, method=method)

    def explainers(self) -> list[str]:
        """Names of the measured explanations."""
        rows = [row for row in self.pair.rows() if row.stage == "explanation"]
        return list(dict.fromkeys(row.method for row in rows if row.role == "backdoored"))

    def hit(self, role: str, at: str = WIDE, explainer: str | None = None) -> Row | None:
        """Pointing hits of a model, or of "chance" or "centre", on triggered films."""
        if role in (CHANCE, CENTRE):
            role, method = "reference", role
        else:
            method = explainer or next(iter(self.explainers()), "")
        return self.pair.row(
            POINTING_HIT, role, regime="triggered", method=method, finding=None, at=at
        )

    @property
    def blind(self) -> bool:
        """Whether the twin reads no better than chance, so that the attack can't be judged."""
        return at_chance(self.macro("twin"))

    @property
    def potent(self) -> bool | None:
        """Whether the backdoor works by `POTENT`; None if undefined or the twin is at chance."""
        if self.blind:
            return None
        return is_potent(self.success("backdoored"), self.success("twin"))

    @property
    def attack(self) -> str:
        """Verdict on the attack."""
        return BLIND if self.blind else attack_verdict(self.success("difference"))

    @property
    def stealth(self) -> str:
        """Verdict on its stealth."""
        return BLIND if self.blind else self.cost.verdict

    @cached_property
    def cost(self) -> Stealth:
        """The backdoor's cost on clean films, by finding."""
        return stealth_of(self.pair)

    @property
    def explanation(self) -> str:
        """Verdict on the explanation."""
        if self.blind:
            return BLIND
        references = [self.hit(role) for role in ("twin", CENTRE)]
        return explanation_verdict(self.hit("backdoored"), references, self.hit(CHANCE))

    def map_detection(self, role: str, at: str = "", explainer: str | None = None) -> Row | None:
        """AUROC of a model's maps for separating triggered films from others.

        Args:
            role: the model's role.
            at: the other films: the same films untriggered, or `names.against` a look-alike.
            explainer: the explainer; the first measured one if left out.
        """
        method = explainer or next(iter(self.explainers()), "")
        return self.pair.row(
            MAP_DETECTION, role, regime="triggered", method=method, finding=None, at=at
        )
