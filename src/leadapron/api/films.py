"""The public API on films: scan, describe, clean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

from leadapron.api.opening import Films, refuse_settings
from leadapron.api.showing import Shown
from leadapron.detect.films.cleaned import Cleaned, Drop
from leadapron.detect.films.description import Description, describe_cohort
from leadapron.detect.scanned import Scanned, scan_cohort
from leadapron.documents import dump
from leadapron.errors import UsageError
from leadapron.films.cohort import Cohort
from leadapron.jobs import clean as cleaning
from leadapron.jobs import describe as describing
from leadapron.jobs import scan as scanning
from leadapron.models.stated import AS_FOUND
from leadapron.sources import named_source
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CleanResult", "DescribeResult", "ScanResult", "clean", "describe", "scan"]


class ScanResult(Shown, Scanned):
    """Result of a scan: verdict, evidence, suspected films; see `Scanned`."""

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as scan.json holds it."""
        return dump(self.document())

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.scan import scan_lines

        return scan_lines(self.document())

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write films.csv, scan.json and scan.html, and return the page's path.

        The page holds pixels of suspected films.

        Raises:
            StoreError: files that can't be written.
        """
        return scanning.write_scanned(Path(folder), self)

    def plot(self) -> Figure:
        """Draw the suspected films of the strongest evidence of poison, with others to compare.

        Raises:
            UsageError: there is no evidence of poison.
        """
        from leadapron.report.panels import panels_of
        from leadapron.report.plots import plot_panel

        panels = panels_of(self, seed=0)
        if not panels:
            raise UsageError("there is no evidence of poison to draw")
        (first, *_) = self.document().poison
        return plot_panel(panels[0], first.words)


class DescribeResult(Shown, Description):
    """Description of a set of films; see `Description`."""

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as --json prints it."""
        return dump(Description(**vars(self)))

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.description import description_lines

        return description_lines(self)

    def report(self, file: str | os.PathLike[str]) -> Path:
        """Write an HTML page, without pixels, and return its path.

        Raises:
            StoreError: a file that can't be written.
        """
        from leadapron.report.description import write_description

        return write_description(Path(file), self)

    def plot(self) -> Figure:
        """Draw each finding's prevalence with its interval."""
        from leadapron.report.plots import plot_prevalence

        return plot_prevalence(self.findings)


class CleanResult(Shown, Cleaned):
    """Result of `clean`: the dropped films and the written file; see `Cleaned`."""

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, as --json prints it."""
        return dump(Cleaned(**vars(self)))

    def lines(self) -> Sequence[str]:
        """Return it for a terminal, line by line."""
        from leadapron.report.scan import clean_lines

        return clean_lines(self)


def scan(
    films: Films,
    labels: ArrayLike | None = None,
    *,
    findings: Sequence[str] | None = None,
    size: int | None = None,
    false_alarm: float = scanning.FALSE_ALARM,
    model: str | None = None,
    train: bool = False,
    seed: int = 0,
    machine: Machine = AUTO,
    **settings: Any,
) -> ScanResult:
    """Scan films for poison: which films, where in them, towards which finding.

    Args:
        films: a source ("phantom:64", "nih:FOLDER"), a table, archive or folder of films, a
            cohort, or images (n, height, width) uint8 or uint16.
        labels: labels of images, (n, k) of 0, 1 or NaN ("not stated").
        findings: the k names of the labels.
        size: side of a source's images in pixels; the films' own, up to 224, if left out.
        false_alarm: false-positive rate: chance of calling a clean set poisoned, 0 to 1.
        model: a network that was trained on these films. Feature detectors rank the films by its
            features; the rankings don't change the verdict.
        train: train a small network on these films for that purpose.
        seed: seed of all random draws.
        machine: device, precision, cache and progress.
        **settings: settings of the source, as `count=600`; `source_seed=1` for one of the name of
            an argument here.

    Raises:
        UsageError: arguments that contradict each other or are out of range.
        DataError: fewer than 10 films, or films smaller than 16 x 16 pixels.
        LeadapronError: as `open_source` and `open_model`.
    """
    if isinstance(films, str | os.PathLike):
        source = _named(films, labels, findings, settings)
        found = scanning.scan(
            source,
            size=size,
            false_alarm=false_alarm,
            model=model,
            train=train,
            seed=seed,
            machine=machine,
            **settings,
        )
        return ScanResult(**vars(found))
    refuse_settings({**settings, **({} if size is None else {"size": size})})
    cohort = _in_memory(films, labels, findings)
    network = None if model is None else scanning.open_network(model, AS_FOUND, machine)
    if model is not None and train:
        raise UsageError("`model` and `train`: expected one of them")
    found = scan_cohort(
        cohort,
        "films in memory",
        false_alarm=false_alarm,
        network=network,
        train=train,
        seed=seed,
        machine=machine,
    )
    return ScanResult(**vars(found))


def describe(
    films: Films,
    labels: ArrayLike | None = None,
    *,
    findings: Sequence[str] | None = None,
    size: int | None = None,
    machine: Machine = AUTO,
    **settings: Any,
) -> DescribeResult:
    """Describe films: labels and their co-occurrence, copies, leakage across the split.

    Args:
        films: as `scan`.
        labels: as `scan`.
        findings: as `scan`.
        size: side of a source's images in pixels; the source's default if left out.
        machine: device, precision, cache and progress.
        **settings: settings of the source, as `count=600`; `source_seed=1` for one of the name of
            an argument here.

    Raises:
        UsageError: arguments that contradict each other.
        LeadapronError: as `open_source`.
    """
    if isinstance(films, str | os.PathLike):
        source = _named(films, labels, findings, settings)
        found = describing.describe(source, size=size, machine=machine, **settings)
    else:
        refuse_settings({**settings, **({} if size is None else {"size": size})})
        cohort = _in_memory(films, labels, findings)
        found = describe_cohort(cohort, "films in memory", progress=machine.progress)
    return DescribeResult(**vars(found))


def clean(
    source: str | os.PathLike[str],
    drop: str | os.PathLike[str] | Scanned | Iterable[str],
    out: str | os.PathLike[str],
    *,
    retrain: bool = False,
    size: int | None = None,
    seed: int = 0,
    machine: Machine = AUTO,
    **settings: Any,
) -> CleanResult:
    """Write a copy of a source without some films; the source itself isn't changed.

    Args:
        source: as `open_source`, or a table, archive or folder of films.
        drop: the films.csv of a scan, the result of `scan`, or names of films.
        out: folder for table.csv or films.npz, which must not exist there yet.
        retrain: train a small network with these films and one without, and compare them.
        size: side of the networks' images in pixels; the films' own, up to 224, if left out.
        seed: seed of the networks, and of the split if the source has none.
        machine: device, precision, cache and progress.
        **settings: settings of the source, as `count=600`; `source_seed=1` for one of the name of
            an argument here.

    Raises:
        DataError: names that aren't in the source, no film dropped, or no film left.
        StoreError: a file that can't be written or exists already.
        LeadapronError: as `open_source`.
    """
    done = cleaning.clean(
        named_source(source),
        Path(drop) if isinstance(drop, str | os.PathLike) else _drop(drop),
        Path(out),
        retrain=retrain,
        size=size,
        seed=seed,
        machine=machine,
        **settings,
    )
    return CleanResult(**vars(done))


def _drop(drop: Scanned | Iterable[str]) -> Drop:
    if isinstance(drop, Scanned):
        names = tuple(one.id for one in drop.suspects)
        return Drop(name="the scan", ids=names, scan=drop.document())
    return Drop(name="drop", ids=tuple(map(str, drop)))


def _named(
    films: str | os.PathLike[str],
    labels: ArrayLike | None,
    findings: Sequence[str] | None,
    settings: dict[str, Any],
) -> str:
    """The source that a path or text names; `findings` becomes one of its settings."""
    if labels is not None:
        raise UsageError("labels: a source has its own labels; give labels only with images")
    if findings is not None:
        settings["findings"] = findings if isinstance(findings, str) else ",".join(findings)
    return named_source(films)


def _in_memory(
    films: Cohort | NDArray[Any], labels: ArrayLike | None, findings: Sequence[str] | None
) -> Cohort:
    """The given cohort, or a new one of images and labels."""
    if not isinstance(films, Cohort):
        return Cohort.of(films, labels, findings)
    if labels is not None or findings is not None:
        raise UsageError("labels, findings: a cohort has its own; give them only with images")
    return films
