"""What a repair has done so far, kept so that a stopped one goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from leadapron import store
from leadapron.documents import Document, dump, read
from leadapron.errors import StoreError, UsageError
from leadapron.models.classifier import NetworkClassifier
from leadapron.models.parsing.reading import open_file, open_weights
from leadapron.models.protocols import BlackBox
from leadapron.reading import read_regular
from leadapron.repairs.proof.relearning import copied

__all__ = ["Stages"]

D = TypeVar("D", bound=Document)

SETTINGS = "settings.json"

LARGEST = 1 << 28
"""Bytes of a stage that is read."""


@dataclass(frozen=True)
class Stages:
    """Stages of one repair, each a file that is written whole; none without a folder.

    Args:
        folder: where they are kept; None keeps nothing.
    """

    folder: Path | None

    @property
    def begun(self) -> bool:
        """Whether a repair was begun in the folder."""
        return self.folder is not None and (self.folder / SETTINGS).exists()

    def refuse_other(self, settings: dict[str, Any], out: Path) -> None:
        """Raise UsageError where the folder holds another repair's stages.

        Args:
            settings: what decides the result, as JSON takes it.
            out: what to call the folder.
        """
        if self.folder is None or not self.begun:
            return
        there = store.read_json(self.folder / SETTINGS)
        if there != settings:
            named = [name for name in settings if there.get(name) != settings[name]]
            raise UsageError(
                f"{out} holds another repair ({', '.join(named) or 'more'} differ); choose another "
                "`out`"
            )

    def begin(self, settings: dict[str, Any]) -> None:
        """Say whose stages these are.

        Args:
            settings: as `refuse_other`.
        """
        if self.folder is not None:
            store.write_json(self.folder / SETTINGS, settings)

    def remove(self) -> None:
        """Remove all stages."""
        if self.folder is not None:
            shutil.rmtree(self.folder)

    def kept(self, name: str, kind: type[D], make: Callable[[], D]) -> D:
        """Return a stage's document: the one that was kept, or a new one, which is kept.

        Args:
            name: of the stage.
            kind: its class.
            make: makes it.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.json"
        if path.exists():
            return read(kind, read_regular(path, LARGEST), path.name)
        made = make()
        store.write_json(path, dump(made))
        return made

    def network(
        self, name: str, original: BlackBox, make: Callable[[], NetworkClassifier]
    ) -> NetworkClassifier:
        """Return a repaired network: the one that was kept, or a new one, which is kept.

        Args:
            name: of the stage.
            original: a model of the same layers.
            make: makes it.

        Raises:
            StoreError: weights that don't fit.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.safetensors"
        if path.exists():
            made = copied(original)
            try:
                made.module.load_state_dict(_tensors(path))
            except RuntimeError as error:
                raise StoreError(
                    f"{path.name} holds other weights; remove {self.folder}"
                ) from error
            return made
        made = make()
        from safetensors.torch import save

        state = {key: value.contiguous() for key, value in made.module.state_dict().items()}
        with store.write_atomically(path) as file:
            file.write(save(state))
        return made

    def clear(self, names: Iterable[str]) -> None:
        """Remove the networks of some stages."""
        if self.folder is not None:
            for name in names:
                (self.folder / f"{name}.safetensors").unlink(missing_ok=True)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_file(path) as file, open_weights(file) as weights:
        return dict(weights.take(weights.groups[""]))
