"""The result of an inspection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from leadapron.documents import Estimated, Number, Pixels, ShownPath, no_pixels
from leadapron.models.stated import ModelSettings

__all__ = [
    "Basis",
    "Inspected",
    "NamedNetwork",
    "OutputFacts",
    "Program",
    "Setting",
    "Trial",
    "View",
]

Basis = Literal["stated", "file", "tried", "outputs", "labels", "assumed", "unknown"]
"""What a setting rests on: the caller or a card; the file itself; trials on films; the range of the
outputs; the films' labels; the habit of a library; nothing."""

SETTLED: tuple[Basis, ...] = ("stated", "file", "tried", "outputs", "labels")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of the model.

    Args:
        name: field of `ModelSettings`.
        value: its value in words; "" if nothing is known.
        basis: what it rests on.
        words: the evidence, in a sentence.
    """

    name: str
    value: str
    basis: Basis
    words: str

    @property
    def settled(self) -> bool:
        """Whether it may be written into a card."""
        return self.basis in SETTLED


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The model's answers on clean films with one combination of settings.

    Args:
        size: side of its input in pixels.
        normalisation: name, or MEAN/STD.
        aspect: how films were made square.
        films: number of films.
        macro: mean AUROC over findings, with its interval by patient.
        findings: AUROC of each finding that the labels allow.
        misfit: how far the layers' means and variances on these films are from those that batch
            normalisation kept from training; undefined without batch normalisation.
    """

    size: int
    normalisation: str
    aspect: str
    films: int
    macro: Estimated
    findings: Mapping[str, Estimated]
    misfit: Number


@dataclass(frozen=True, kw_only=True)
class NamedNetwork:
    """A network in the file.

    Args:
        key: its key in the file; "" if it is the only one.
        architecture: its architecture.
        outputs: number of its outputs.
        opened: whether it is the one that was inspected.
    """

    key: str
    architecture: str
    outputs: int
    opened: bool


@dataclass(frozen=True, kw_only=True)
class Program:
    """A model that is a program.

    Args:
        kind: "TorchScript" or "ONNX".
        confined: whether it ran without access to files and network.
        batch: films that it takes at a time; None if it takes any number.
        size: side that its header fixes; None if it doesn't.
        half: whether it was exported in half precision.
        words: what it does, a sentence each.
    """

    kind: str
    confined: bool
    batch: int | None
    size: int | None
    half: bool
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OutputFacts:
    """One output on the clean films.

    Args:
        finding: its name.
        low: lowest probability.
        mean: mean probability.
        high: highest probability.
        prevalence: share of films with the finding, of those whose label is stated.
        error: expected calibration error: mean distance of probability and prevalence in ten bins.
        saturated: share of probabilities below 0.0001 or above 0.9999.
    """

    finding: str
    low: Number
    mean: Number
    high: Number
    prevalence: Number
    error: Number
    saturated: Number


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """Films as the network sees them with one combination of settings.

    Args:
        words: the settings.
        images: (n, size, size) uint8.
    """

    words: str
    images: Pixels = field(default_factory=no_pixels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Inspected:
    """What was found out of a model.

    Args:
        model: the file or function.
        content: SHA-256 of the file; None of a function's model.
        origin: description of the model.
        verdict: "settled" if nothing must be stated; else "can't tell".
        networks: the networks in a file of weights.
        program: facts of a model that is a program; None of others.
        settings: every setting with what it rests on.
        known: the settings that are stated or were found, as a card holds them.
        missing: what must be stated, as options.
        tried: number of combinations that were tried.
        films: number of films.
        patients: number of their patients.
        trials: the combinations, best first.
        outputs: the outputs with the settings taken.
        doubts: warnings about the outputs.
        notes: assumptions and omissions.
        views: films as the network sees them.
        card: the card that was written; None if none was.
    """

    SCHEMA: ClassVar[int] = 1

    model: ShownPath
    content: str | None
    origin: str
    verdict: Literal["settled", "can't tell"]
    networks: tuple[NamedNetwork, ...]
    program: Program | None
    settings: tuple[Setting, ...]
    known: ModelSettings
    missing: tuple[str, ...]
    tried: int
    films: int
    patients: int
    trials: tuple[Trial, ...]
    outputs: tuple[OutputFacts, ...]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    views: tuple[View, ...] = ()
    card: ShownPath | None = None
