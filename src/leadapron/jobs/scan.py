"""The command scan: open a source and a network, scan, and write the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadapron.detect.scanned import Scanned, scan_cohort
from leadapron.documents import dump
from leadapron.errors import UsageError
from leadapron.models.stated import AS_FOUND, Opening
from leadapron.report.panels import panels_of
from leadapron.report.scan import write_scan
from leadapron.results.suspects import write_suspects
from leadapron.sources import open_source
from leadapron.sources.own_pixels import allowing_leakage, open_own_pixels
from leadapron.specs import forgiving
from leadapron.store import write_json
from leadapron.types import AUTO, Machine

if TYPE_CHECKING:
    from leadapron.models.protocols import WhiteBox

__all__ = ["FALSE_ALARM", "open_network", "scan", "write_scanned"]

FALSE_ALARM = 0.01
"""False-positive rate: chance of calling a clean set poisoned."""


@forgiving
def scan(
    source: str,
    *,
    size: int | None = None,
    false_alarm: float = FALSE_ALARM,
    model: str | None = None,
    opening: Opening = AS_FOUND,
    train: bool = False,
    out: Path | None = None,
    seed: int = 0,
    machine: Machine = AUTO,
    **options: Any,
) -> Scanned:
    """Scan a source for poison: which films, where in them, towards which finding.

    A split that shares patients, which other jobs refuse, is scanned as well.

    Args:
        source: where films come from, as "phantom:64" or "nih:PATH".
        size: side of the images in pixels; the films' own, up to 224, if left out.
        false_alarm: false-positive rate: chance of calling a clean set poisoned.
        model: a network that was trained on these films. It tests the labels of films with marks
            that are associated with a label; detectors rank the films by its features, which
            doesn't change the verdict.
        opening: what is stated of the model, and how it is opened.
        train: train small networks on these films for the same purpose. After an interruption the
            same call with `out` continues the last and longest of these trainings.
        out: folder for films.csv, scan.json and the page scan.html; nothing is written if left
            out.
        seed: seed of all random draws.
        machine: device, precision, cache and progress.
        **options: settings of the source.

    Raises:
        UsageError: settings that contradict each other or are out of range.
        DataError: fewer than 10 films, or films smaller than 16 x 16 pixels.
        LeadapronError: as `open_source` and `open_model`.
    """
    if model is not None and train:
        raise UsageError("`model` and `train`: expected one of them")
    if model is None and opening.named:
        named = ", ".join(f"`{name}`" for name in opening.named)
        raise UsageError(f"{named}: describes a model, but there is no `model`")
    network = None if model is None else open_network(model, opening, machine)
    cohort = open_own_pixels(source, size=size, machine=machine, **options)
    theirs = None
    if network is not None and network.preprocessing != cohort.preprocessing:
        theirs = open_source(
            source,
            preprocessing=network.preprocessing,
            **machine.films,
            **allowing_leakage(source, options),
        )
    found = scan_cohort(
        cohort,
        source,
        false_alarm=false_alarm,
        network=network,
        theirs=theirs,
        train=train,
        seed=seed,
        machine=machine,
        folder=out,
    )
    if out is not None:
        write_scanned(out, found, seed)
    return found


def write_scanned(folder: Path, found: Scanned, seed: int = 0) -> Path:
    """Write films.csv, scan.json and scan.html, and return the page's path.

    Args:
        folder: made if it is missing; files with these names are replaced.
        found: the scan.
        seed: seed of the choice of films that are drawn next to the suspected ones.

    Raises:
        StoreError: files that can't be written.
    """
    document = found.document()
    write_json(folder / "scan.json", dump(document))
    write_suspects(folder / "films.csv", found.suspects)
    return write_scan(folder / "scan.html", document, panels_of(found, seed))


def open_network(model: str, opening: Opening, machine: Machine) -> WhiteBox:
    """Return a white-box model, whose features can be read.

    Args:
        model: as `open_model`.
        opening: what is stated of it, and how it is opened.
        machine: device and precision.

    Raises:
        UsageError: a black-box model.
        LeadapronError: as `open_model`.
    """
    from leadapron.models.foreign import open_model
    from leadapron.models.protocols import WhiteBox

    classifier = open_model(model, **machine.networks, **opening.arguments).classifier
    if not isinstance(classifier, WhiteBox):
        raise UsageError(
            f"`model` {model} is a black box without features; expected a network whose weights "
            "leadapron reads, or `train`"
        )
    return classifier
