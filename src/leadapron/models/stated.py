"""What a user or a model card states of a model, since its file doesn't; torch isn't loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from leadapron.errors import UsageError
from leadapron.films.preprocessing import Preprocessing

__all__ = ["AS_FOUND", "IMAGE", "NUMBERS", "ModelSettings", "Opening"]

IMAGE = ("size", "crop", "aspect", "interpolation")
"""Settings that are `Preprocessing`'s."""

NUMBERS = re.compile(r"[-+.\deE]+(?:,[-+.\deE]+){0,2}/[-+.\deE]+(?:,[-+.\deE]+){0,2}")
"""A normalisation as MEAN/STD."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model reads films and what its outputs are; None: not stated.

    Args:
        size: Side of the model's square input in pixels.
        crop: Central share of each side of the film that the model sees.
        aspect: How a film becomes a square.
        interpolation: How a film is resized.
        channels: Channels of a program's input, or of a network of timm.
        normalisation: How the model scales grey levels in 0 to 1: imagenet, torchxrayvision (-1024
            to 1024), unit (0 to 1), leadapron, or MEAN/STD, as 0.5/0.25; three numbers each for
            three channels.
        head: Function from outputs to probabilities: independent or exclusive findings.
        gives: Output of a program.
        findings: Names of the model's outputs in order, separated by commas.
        architecture: Architecture of a state dict that fits several, or timm:NAME.
        weights_key: Key of one network in a file that holds several, as plain and averaged weights.
        operating_points: Probability of each finding, in order, that becomes 0.5; both sides are
            scaled linearly, as torchxrayvision does.

    Raises:
        UsageError: a value outside its range.
    """

    size: int | None = None
    crop: float | None = None
    aspect: Literal["squash", "pad", "crop"] | None = None
    interpolation: Literal["nearest", "nearest-tf1", "bilinear", "bicubic", "area"] | None = None
    channels: Literal[1, 3] | None = None
    normalisation: str | None = None
    head: Literal["sigmoid", "softmax"] | None = None
    gives: Literal["logits", "probabilities"] | None = None
    findings: tuple[str, ...] | None = None
    architecture: str | None = None
    weights_key: str | None = None
    operating_points: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        self.image(self.size or 224)
        names, points = self.findings, self.operating_points
        if names is not None and (not names or not all(names) or len(set(names)) != len(names)):
            raise UsageError(f"`model.findings` {','.join(names)}: a name is empty or repeated")
        if points is not None and not all(0 < point < 1 for point in points):
            raise UsageError("`model.operating_points`: expected numbers above 0 and below 1")
        if points is not None and names is not None and len(points) != len(names):
            raise UsageError(
                f"`model.operating_points`: {len(points)} numbers for {len(names)} findings; "
                "expected one for each"
            )
        if self.normalisation is not None and "/" in self.normalisation:
            self._refuse_numbers(self.normalisation)

    def _refuse_numbers(self, text: str) -> None:
        wrong = UsageError(
            f"`model.normalisation` {text}: expected MEAN/STD as 0.5/0.25, or three numbers each"
        )
        if not NUMBERS.fullmatch(text):
            raise wrong
        try:
            means, stds = ([float(n) for n in part.split(",")] for part in text.split("/"))
        except ValueError:
            raise wrong from None
        if len(means) != len(stds) or len(means) == 2 or min(stds) <= 0:
            raise wrong
        if not all(map(math.isfinite, (*means, *stds))):
            raise wrong

    @property
    def given(self) -> Mapping[str, Any]:
        """The settings that are stated, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return MappingProxyType({n: value for n, value in values.items() if value is not None})

    def over(self, base: ModelSettings) -> ModelSettings:
        """Return these settings, completed by another's."""
        return ModelSettings(**{**base.given, **self.given})

    def image(self, size: int, aspect: str = "squash") -> Preprocessing:
        """Return how a film becomes the model's input.

        Args:
            size: side in pixels, if it isn't stated.
            aspect: as `Preprocessing`, if it isn't stated.
        """
        stated = {name: value for name, value in self.given.items() if name in IMAGE}
        return Preprocessing(**{"size": size, "aspect": aspect, **stated})

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} "
            f"{', '.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in self.given.items()
        )


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a model is opened.

    Args:
        model: what is stated of it.
        card: Model card that states the rest; STEM.yaml or model.yaml beside the model if left out.
        trust_programs: Run TorchScript and ONNX even if the system can't isolate them from your
            files.
    """

    model: ModelSettings = ModelSettings()
    card: Path | None = None
    trust_programs: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """What differs from the defaults, as messages name it."""
        other = (
            *(["card"] if self.card else ()), *(["trust_programs"] if self.trust_programs else ())
        )  # fmt: skip
        return (*(f"model.{name}" for name in self.model.given), *other)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `open_model`."""
        card = {} if self.card is None else {"card": self.card}
        return {**self.model.given, **card, "trust_programs": self.trust_programs}


AS_FOUND = Opening()
"""Nothing is stated: the file, its card and its library's habits decide."""
