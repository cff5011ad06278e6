"""A data set without some of its films, as a document: what was left out, and what that gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import PlainSerializer

from leadapron.detect.scores import Direction
from leadapron.documents import Estimated
from leadapron.text import printable

if TYPE_CHECKING:
    from leadapron.detect.films.document import ScanDocument

__all__ = ["Cleaned", "Drop", "Mark", "Retrained"]

ShownFile = Annotated[Path, PlainSerializer(lambda path: printable(str(path)))]
"""A file that was written, whole: it is looked for."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Films that are left out.

    Args:
        name: what to call the list.
        ids: the films' names.
        scan: that named them, where it is known; its marks can be tried on networks.
    """

    name: str
    ids: Sequence[str]
    scan: ScanDocument | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A suspected trigger, and how often it works.

    Args:
        finding: whose labels it is suspected to change.
        direction: what it is suspected to do to them.
        place: (row, column, side) in pixels of the image.
        before: share of marked test films that go over the threshold (below it, for "removed"),
            which 5 % of the same films without the mark do; of the network with all films.
        after: the same without the dropped films.
    """

    finding: str
    direction: Direction | None
    place: tuple[int, int, int]
    before: Estimated
    after: Estimated


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """Two networks, trained with equal seeds and epochs.

    Args:
        films: it was trained on, before and after.
        test: films that both are measured on; none of them is a dropped one.
        findings: that the macro AUROCs average, before and after.
        before: macro AUROC on clean test films, trained on all films.
        after: the same, trained without the dropped ones.
        marks: suspected triggers with a place.
        notes: what couldn't be measured and why.
    """

    films: tuple[int, int]
    test: int
    findings: tuple[int, int]
    before: Estimated
    after: Estimated
    marks: tuple[Mark, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What was left out, and what was written.

    Args:
        verdict: nothing is judged.
        source: what was cleaned; it is left as it is.
        dropped: films left out.
        kept: films that are left.
        file: a table of films where they are files, else an .npz file with their pixels.
        opens: the source that it is, and options to open it with, as the command line takes them.
        retrained: two networks, where they were asked for.
        notes: what to know about the file.
    """

    SCHEMA: ClassVar[int] = 1

    verdict: Literal["done"] = "done"
    source: str
    dropped: int
    kept: int
    file: ShownFile
    opens: str
    retrained: Retrained | None
    notes: tuple[str, ...]
