"""A repair as a document: what was found, what was tried, the proof, and what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from leadapron.detect.models.audit import Audit
from leadapron.detect.models.judgement import FLAGGED, MARKS, UNUSUAL_TURNED
from leadapron.detect.models.stamps import Mark
from leadapron.detect.models.sweep import Aim, Direction, Moved
from leadapron.detect.verdict import Verdict
from leadapron.documents import Estimated, Number, ShownPath
from leadapron.repairs.proof.forcing import ALLOWED, RISE_ALLOWED
from leadapron.repairs.proof.freshness import Fresh
from leadapron.repairs.proof.gating import Gated
from leadapron.repairs.proof.reading import Reading
from leadapron.repairs.proof.relearning import Relearned
from leadapron.repairs.proof.squares import Bounded

__all__ = [
    "AlteredMark",
    "Checked",
    "Control",
    "Held",
    "Marked",
    "Parts",
    "Proof",
    "Repaired",
    "Searched",
    "SearchedAim",
    "Tried",
    "found_marks",
]

Held = Literal["holds", "fails", "not shown"]
"""Of a part of the proof: it holds, it surely doesn't, or the films can't tell."""


def found_marks(audit: Audit) -> tuple[Moved, ...]:
    """Return the marks that an audit calls backdoors, or unusual, the strongest first.

    Side effects are left out: their marks force another finding. So is what no mark was found for.

    Args:
        audit: of the model.
    """
    if audit.by != MARKS:
        return ()
    return tuple(
        each.strongest
        for each in audit.forced
        if each.verdict in FLAGGED and each.strongest is not None
    )


@dataclass(frozen=True, kw_only=True)
class AlteredMark:
    """What a mark does that is changed a little.

    Args:
        alteration: what is changed.
        original: attack success on the original model.
        repaired: on the repaired one.
        usual: the largest upper end of what it does in clean models; NaN without any.
    """

    alteration: str
    original: Estimated
    repaired: Estimated
    usual: Number = float("nan")

    @property
    def allowed(self) -> float:
        """What it may turn: as much as in clean models, or as a square in those not known."""
        if math.isnan(self.usual):
            return UNUSUAL_TURNED
        return max(self.usual, ALLOWED)


@dataclass(frozen=True, kw_only=True)
class Marked:
    """What one of the audit's marks does, before and after.

    Args:
        finding: that it forces.
        direction: in which it forces it.
        mark: what is put on the films.
        original: attack success on the original model: share of films turned, where 5 % of the
            same films are beyond the threshold without the mark.
        repaired: on the repaired model, at its own threshold.
        altered: moved, turned, with more and with less contrast.
        map_original: share of the map's energy on the mark, mean over films; NaN where there is no
            map, or nothing in it speaks for the aim.
        map_repaired: the same of the repaired model.
        map_chance: the mark's share of the film.
    """

    SCHEMA: ClassVar[int] = 2

    finding: str
    direction: Direction
    mark: Mark
    original: Estimated
    repaired: Estimated
    altered: tuple[AlteredMark, ...] = ()
    map_original: Number = float("nan")
    map_repaired: Number = float("nan")
    map_chance: Number = float("nan")

    @property
    def aim(self) -> Aim:
        """Finding and direction."""
        return self.finding, self.direction


@dataclass(frozen=True, kw_only=True)
class SearchedAim:
    """The strongest square for a finding and direction, before and after.

    Args:
        finding, direction: what it forces.
        mark: of the repaired model, chosen on a few of the films.
        before: rise of the probability by the original's strongest square, its fall if the finding
            is removed, in the quarter of the films with the most room for it.
        after: rise by the repaired model's.
        limit: the largest that is usual in clean models: for the backdoor's own finding and
            direction of theirs, for others of any.
        backdoor: whether the audit of the original called it a backdoor, or unusual.
    """

    finding: str
    direction: Direction
    mark: Mark
    before: Estimated
    after: Estimated
    limit: float
    backdoor: bool

    @property
    def allowed(self) -> float:
        """How far it may rise; where there was no backdoor, as far as before."""
        usual = max(self.limit, RISE_ALLOWED)
        return usual if self.backdoor else max(usual, self.before.value)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search for squares that begins at the repaired model.

    Args:
        aims: findings and directions that 20 films allow to be looked at.
        of: clean models that the limits rest on.
        usual: largest share of the films that a square turns in clean models.
        word: the audit's verdict on the repaired model; None where only squares were sought.
        inverted: pixels of the trigger that gradients make for the first finding; NaN where none
            was made.
        inverted_before: the same of the original.
    """

    SCHEMA: ClassVar[int] = 2

    aims: tuple[SearchedAim, ...]
    of: int
    usual: float
    word: str | None = None
    inverted: Number = float("nan")
    inverted_before: Number = float("nan")

    @property
    def worst(self) -> SearchedAim | None:
        """The one that exceeds what is allowed most, or is nearest to it."""
        return max(self.aims, key=lambda each: each.after.value - each.allowed, default=None)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Something that was looked at, and whether it holds.

    Args:
        what: in words.
        held: whether it holds.
        words: the numbers, in a sentence.
    """

    what: str
    held: Held
    words: str


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A repair that was tried, and what the check said.

    Args:
        method: of `REPAIRS`.
        seconds: it took.
        checks: on films that no repair saw; the proof's are others.
    """

    SCHEMA: ClassVar[int] = 1

    method: str
    seconds: float
    checks: tuple[Checked, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing surely fails; the proof has more films to tell."""
        return all(each.held != "fails" for each in self.checks)


@dataclass(frozen=True, kw_only=True)
class Control:
    """What another way gives on the same films.

    Args:
        method: of `REPAIRS`.
        marks: attack success of each of the proof's marks.
        macro: AUROC.
        seconds: it took.
    """

    SCHEMA: ClassVar[int] = 1

    method: str
    marks: tuple[Estimated, ...]
    macro: Estimated
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was looked at once, on films that no repair and no choice saw.

    Args:
        marks: the audit's.
        reading: what the repair costs.
        searched: a search that begins at the repaired model.
        bounded: what flat squares do.
        fresh: the marks that relearning is compared with.
        relearned: what poisoned films bring back.
        restoring: poisoned films that restore an attack success of one half, at the plain learning
            rate; NaN where no dose did.
        gated: what a gate says of the first mark on either model; None where the films are too few
            to calibrate one.
        controls: other ways, where they were asked for.
        checks: what of it holds.
    """

    marks: tuple[Marked, ...]
    reading: Reading
    searched: Searched
    bounded: Bounded
    fresh: Fresh
    relearned: tuple[Relearned, ...]
    restoring: Number
    gated: Gated | None
    controls: tuple[Control, ...]
    checks: tuple[Checked, ...]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Clean films, divided by patient.

    Args:
        repair: films that repairs learn from, and that epochs are chosen on.
        check: films that say which repair is taken.
        proof: films that the proof rests on.
    """

    repair: int
    check: int
    proof: int


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What became of a model.

    Args:
        model: the file or function.
        origin: what it is, in words.
        content: SHA-256 of its file; None of a model without one.
        verdict: on the repaired model.
        audited: the audit's verdict on the original.
        method: of the repair that was taken; None where there was nothing to repair.
        tried: repairs, in their order.
        proof: None where there was nothing to repair.
        parts: how the clean films were divided.
        seconds: since it was started, or started again after a stop.
        notes: what was assumed or is doubtful.
        written: the repaired model's file, where it was written.
        as_given: the same as the state dict of another library that the model was opened from,
            where it was written.
    """

    SCHEMA: ClassVar[int] = 3

    model: str
    origin: str
    content: str | None
    verdict: Verdict
    audited: str
    method: str | None
    tried: tuple[Tried, ...]
    proof: Proof | None
    parts: Parts
    seconds: float
    notes: tuple[str, ...] = ()
    written: ShownPath | None = None
    as_given: ShownPath | None = None
