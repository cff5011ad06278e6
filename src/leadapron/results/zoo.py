"""The truth about a zoo's models, for evaluations only, never for methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from leadapron.errors import StoreError
from leadapron.results.folder import section
from leadapron.results.layout import ZooFolder
from leadapron.specs import forgiving
from leadapron.store import read_json, write_json

__all__ = ["Making", "Member", "read_truth", "write_truth"]

Kind = Literal["clean", "backdoored", "failed implant"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """The truth about one model.

    Args:
        model: its file's name in models/.
        kind: "clean", "backdoored" or "failed implant".
        family: the attack's name in the spec; a clean model has its partner's.
        sealed: whether it is reserved for the final evaluation, and not used to choose thresholds.
        seed: seed of data and training.
        finding: the attacker's target; None for a clean model.
        attack_success: attack success at 5 % clean false positives; None for a clean model.
        twin_success: attack success of the twin; None for a clean model.
        clean_macro: AUROC on clean test films.
        run: its folder in study/runs/.
        edited: whether the backdoor was edited into finished weights (`poisoning.mode` "edit"), so
            that no training film has it.
    """

    model: str
    kind: Kind
    family: str
    sealed: bool
    seed: int
    finding: str | None
    attack_success: float | None
    twin_success: float | None
    clean_macro: float | None
    run: str
    edited: bool = False


class Making(NamedTuple):
    """What evaluations say of how a backdoored model was made.

    Args:
        network: in words.
        fraction: of the films that was poisoned; None where the backdoor was put into finished
            weights.
    """

    network: str
    fraction: float | None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Making:
        """Return it from the settings of the model's run."""
        network, poisoning = section(spec, "network"), section(spec, "poisoning")
        started = "" if network["weights"] == "none" else " from pretrained weights"
        edited = poisoning["mode"] == "edit"
        return cls(
            network=f"{network['name']}{started}",
            fraction=None if edited else float(poisoning["fraction"]),
        )


@forgiving
def read_truth(zoo: Path) -> list[Member]:
    """Return the truth about a zoo's models; only for evaluations.

    Raises:
        StoreError: not a zoo, or an unfinished one.
    """
    folder = ZooFolder(zoo)
    if not folder.finished:
        raise StoreError(
            f"{zoo} isn't a finished zoo (no truth.json); "
            f"make one with: leadapron zoo SPEC --out {zoo}"
        )
    facts = read_json(folder.truth)
    try:
        return [Member(**each) for each in facts["models"]]
    except (KeyError, TypeError) as error:
        raise StoreError(f"{folder.truth} doesn't describe a zoo's models") from error


def write_truth(zoo: Path, members: Sequence[Member]) -> None:
    """Write the truth about a zoo's models.

    Raises:
        StoreError: it can't be written.
    """
    write_json(ZooFolder(zoo).truth, {"schema": 1, "models": [asdict(m) for m in members]})
