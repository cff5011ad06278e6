"""A data set without the dropped films, as a document: the files and the effect on a network."""

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
"""The full path of a written file, not shortened, so that a user can find the file."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Films to leave out.

    Args:
        name: of the list.
        ids: the films' names.
        scan: the scan that named them, if known; its marks can be tested on networks.
    """

    name: str
    ids: Sequence[str]
    scan: ScanDocument | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A suspected trigger and its success before and after cleaning.

    Args:
        finding: the finding whose labels it is suspected to change.
        direction: the suspected change.
        place: (row, column, side) in pixels of the image.
        before: share of marked test films whose score lies above the threshold (below it, for
            "removed"), for the network trained on all films. 5 % of the same films without the
            mark do so.
        after: the same for the network trained without the dropped films.
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
        films: numbers of training films, before and after.
        test: number of test films of both networks; none of them was dropped.
        findings: numbers of findings in the macro AUROCs, before and after.
        before: macro AUROC on clean test films, trained on all films.
        after: the same, trained without the dropped ones.
        marks: suspected triggers with a place.
        notes: what couldn't be measured, and the reason.
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
    """The result of cleaning: the films dropped and the file written.

    Args:
        verdict: always "done", since cleaning judges nothing.
        source: the cleaned source, which isn't changed.
        dropped: number of films left out.
        kept: number of films kept.
        file: a table of films if they are files, else an .npz file with their pixels.
        opens: the file as a source, with the options to open it, as the command line takes them.
        retrained: the two networks, if requested.
        notes: hints about the file.
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
