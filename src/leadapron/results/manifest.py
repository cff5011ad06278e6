"""What a study was made with and on, as a document: its manifest.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["FilmFacts", "StudyManifest"]


@dataclass(frozen=True, kw_only=True)
class FilmFacts:
    """What is known of the films of a study.

    Args:
        films: how many.
        patients: whose they are.
        shape: (n, height, width) of the images.
        film: (height, width) of the first film at full resolution, where there are films.
        dtype: of the images.
        positives: films that state each finding.
        notes: what is to be known of the films.
        fingerprint: SHA-256 of images, labels, names and patients.
    """

    films: int
    patients: int
    shape: tuple[int, ...]
    film: tuple[int, ...] | None
    dtype: str
    positives: Mapping[str, int]
    notes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class StudyManifest:
    """What a study was made with and on.

    Args:
        results_version: raised when equal settings give other numbers.
        versions: of packages.
        python: its version.
        system: operating system and kind of processor.
        processors: how many the machine has, where that is known.
        commit: of the package's own checkout, where it runs from one.
        dirty: whether files there were changed since that commit.
        device: that networks ran on.
        precision: of their passes.
        cohorts: the films, one entry for each source and preprocessing.
        outside: SHA-256 of code and files from outside, by what they are.
        runs: names of the folders of all runs that are planned.
    """

    SCHEMA: ClassVar[int] = 1

    results_version: int
    versions: Mapping[str, str]
    python: str
    system: str
    processors: int | None
    commit: str | None
    dirty: bool | None
    device: str
    precision: str
    cohorts: tuple[FilmFacts, ...]
    outside: Mapping[str, str]
    runs: tuple[str, ...]
