"""The inspected model: how it opens, and what is stated of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadapron.models.architectures import library_of
from leadapron.models.classifier import FORMAT, NetworkClassifier
from leadapron.models.foreign import (
    BlackBoxClassifier,
    Opened,
    SeveralError,
    UnnamedError,
    file_of,
    networks_in,
    open_model,
)
from leadapron.models.inspection.document import NamedNetwork
from leadapron.models.parsing.reading import open_file, open_weights
from leadapron.models.stated import ModelSettings, Opening
from leadapron.types import Machine

__all__ = ["InspectedModel"]


@dataclass(frozen=True, eq=False, kw_only=True)
class InspectedModel:
    """The inspected model.

    Args:
        model: as it was named.
        opening: what is stated.
        machine: where it runs.
        opened: the model as it opens.
        guessed: settings without which it doesn't open, and which nobody stated: numbers in place
            of names, the likeliest of several networks.
        networks: those in its file.
    """

    model: str
    opening: Opening
    machine: Machine
    opened: Opened
    guessed: Mapping[str, Any]
    networks: tuple[NamedNetwork, ...]

    @classmethod
    def of(cls, model: str, opening: Opening, machine: Machine) -> InspectedModel:
        """Open the model."""
        guessed: dict[str, Any] = {}
        while True:
            try:
                opened = open_model(model, **machine.networks, **opening.arguments, **guessed)
                break
            except UnnamedError as error:
                if opening.model.findings is not None:
                    raise
                guessed["findings"] = tuple(f"output {i + 1}" for i in range(error.outputs))
            except SeveralError as error:
                guessed["weights_key"] = error.likeliest
        return cls(
            model=model, opening=opening, machine=machine, opened=opened, guessed=guessed,
            networks=_networks(model, opened),
        )  # fmt: skip

    @property
    def named(self) -> bool:
        """Whether its outputs have names."""
        return "findings" not in self.guessed

    @property
    def own(self) -> bool:
        """Whether the model states all of its settings."""
        ours = self.opened.origin.startswith("leadapron's own")
        return ours or not isinstance(
            self.opened.classifier, NetworkClassifier | BlackBoxClassifier
        )

    @property
    def known(self) -> ModelSettings:
        """What is stated, by the caller or a card."""
        given = self.opened.stated.given
        return ModelSettings(**{n: v for n, v in given.items() if n not in self.guessed})

    def again(self, **settings: Any) -> Opened:
        """Open the model with further settings."""
        stated = {**self.opening.arguments, **self.guessed, **settings}
        with _silent():
            return open_model(self.model, **self.machine.networks, **stated)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the notes of a model that was opened before."""
    logger = logging.getLogger("leadapron.models.foreign.opening")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _networks(model: str, opened: Opened) -> tuple[NamedNetwork, ...]:
    if opened.content is None or opened.limits is not None:
        return ()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_file(file_of(Path(model))))
        if file.kind == "keras":
            return ()
        weights = stack.enter_context(open_weights(file))
        if FORMAT in weights.metadata:
            return ()
        made = opened.given.architecture if opened.given is not None else ""
        if library_of(made)[0]:
            count = len(opened.classifier.findings)
            return (NamedNetwork(key="", architecture=made, outputs=count, opened=True),)
        key = opened.stated.weights_key
        listed = networks_in(weights)
        return tuple(
            NamedNetwork(
                key=each.key if len(listed) > 1 else "",
                architecture=each.architecture,
                outputs=each.outputs,
                opened=len(listed) == 1 or key == each.key or each.key.startswith(f"{key}."),
            )
            for each in listed
        )
