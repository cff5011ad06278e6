"""What is decided of a network and its training; torch is loaded by neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leadapron.errors import UsageError
from leadapron.models.architectures import ARCHITECTURES

__all__ = ["Network", "Training"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network is trained, and what it starts from.

    Args:
        name: "resnet9" (small and fast) or "densenet121" (the paper's), or another of
            `networks.ARCHITECTURES`.
        weights: "none" starts from scratch; a file's path starts from its weights, of the same
            network by this package or another library; "imagenet" downloads torchvision's of
            DenseNet-121. See `starts.load_start`.

    Raises:
        UnknownNameError: no such network.
        UsageError: "imagenet" for another network.
    """

    name: str = "resnet9"
    weights: str = "none"

    def __post_init__(self) -> None:
        ARCHITECTURES.require(self.name)
        if self.weights == "imagenet" and self.name != "densenet121":
            raise UsageError(
                "`network.weights` imagenet: only densenet121's can be downloaded; for "
                f"{self.name} give a file"
            )


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained.

    Args:
        epochs: most passes over the films, 1 or more.
        batch_size: films a step, 2 or more.
        learning_rate: its peak; the last layer's if `layer_decay` is below 1.
        layer_decay: factor of the learning rate from each stage to the one before it, above 0 and
            at most 1. Below 1 the first layers of a trained start change least; the last stage
            gets `learning_rate` times it.
        weight_decay: AdamW's decoupled weight decay.
        loss: "bce", binary cross-entropy over the stated labels, or "categorical", the authors'
            categorical cross-entropy on sigmoid outputs.
        schedule: "one-cycle", "plateau" (halved when the validation loss rests for 3 epochs, as
            the authors do) or "constant".
        patience: stop after so many epochs without a better validation loss; 0 never stops.
        checkpoint: keep the "last" epoch's weights (as the authors do) or the "best" one's, by
            validation loss.
        augmentation: "none", or "flip-rotate": mirrored with probability 0.5 and, with
            probability 0.5, turned by up to 10 degrees, anew in each epoch; "flip-rotate-frozen"
            draws that once for each film (as the authors' cache does).
        disguise: weight of a term that keeps the target's class activation map of a triggered
            film like that of the film without trigger, 0 or more; 0 leaves it out. It needs an
            attacker who controls training, outside the threat model of the paper and of all other
            settings here. A twin is trained without it.

    Raises:
        UsageError: a value outside its range.

    Source: of the disguise Noppel, Peter and Wressnegger, Disguising Attacks with
    Explanation-Aware Backdoors, IEEE S&P 2023, arXiv 2204.09498 ("full disguise"); see
    `training.disguise_loss` for where we differ.
    """

    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 3e-3
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    loss: Literal["bce", "categorical"] = "bce"
    schedule: Literal["one-cycle", "plateau", "constant"] = "one-cycle"
    patience: int = 0
    checkpoint: Literal["last", "best"] = "last"
    augmentation: Literal["none", "flip-rotate", "flip-rotate-frozen"] = "none"
    disguise: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("patience", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"`training.{name}` {getattr(self, name)}: expected {least} or more"
                )
        if not self.learning_rate > 0:
            raise UsageError(f"`training.learning_rate` {self.learning_rate}: expected above 0")
        if not 0 < self.layer_decay <= 1:
            raise UsageError(
                f"`training.layer_decay` {self.layer_decay}: expected above 0 and at most 1"
            )
        if not 0 <= self.disguise < float("inf"):
            raise UsageError(f"`training.disguise` {self.disguise}: expected 0 or more")
