"""Model cards: what is known of a model's input and outputs, in a file beside it.

A card is untrusted, as the model is: it is parsed as YAML without types or objects, with limits,
and its names are cleaned. It applies only to the file whose SHA-256 it states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import yaml

from leadapron.documents import dump
from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.models.companions import Held, beside
from leadapron.models.parsing.external import content_of
from leadapron.models.stated import ModelSettings
from leadapron.specs import build
from leadapron.store import read_yaml, write_atomically
from leadapron.text import clean, clean_names

__all__ = ["FORMAT", "ModelCard", "card_for", "read_card", "write_card"]

FORMAT = "leadapron model card"
COMMON = "model.yaml"

LARGEST = 1 << 18
"""Most bytes of a card."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model card.

    Args:
        format: mark of the format.
        file: name of the model's file.
        sha256: SHA-256 of the file's content, 64 hex digits.
        model: what is stated.
        basis: for each setting, what it rests on.
    """

    SCHEMA: ClassVar[int] = 1

    file: str
    sha256: str
    model: ModelSettings
    basis: Mapping[str, str]
    format: str = FORMAT


def read_card(path: Path) -> ModelCard:
    """Return the card in a file.

    Args:
        path: the YAML file.

    Raises:
        StoreError: no card, or one with unknown or invalid settings.
    """
    tree = read_yaml(path, LARGEST)
    name = clean(path.name)
    if tree.get("format") != FORMAT:
        raise StoreError(f"{name} is no model card; expected one that `leadapron inspect` wrote")
    if tree.get("schema") != ModelCard.SCHEMA:
        raise StoreError(f"{name} isn't a model card of schema {ModelCard.SCHEMA}")
    facts = {str(key): value for key, value in tree.items() if key not in ("format", "schema")}
    sha256, stated = str(facts.get("sha256")), facts.get("model")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not isinstance(stated, Mapping):
        raise StoreError(f"{name}: expected a line sha256 of 64 hex digits, and a section model")
    try:
        known = {name: value for name, value in stated.items() if value is not None}
        settings = _cleaned(build(ModelSettings, known, "model"))
    except (UsageError, ValueError) as error:
        raise StoreError(f"{name}: {error}") from None
    if others := set(facts) - {"file", "sha256", "model", "basis"}:
        known_keys = ("file", "sha256", "model", "basis")
        raise StoreError(f"{name}: {UnknownNameError('entry', clean(min(others)), known_keys)}")
    basis = facts.get("basis") or {}
    if not isinstance(basis, Mapping):
        raise StoreError(f"{name}: expected names and words in the section `basis`")
    return ModelCard(
        file=clean(str(facts.get("file", ""))),
        sha256=sha256,
        model=settings,
        basis={clean(str(key)): clean(str(words)) for key, words in basis.items()},
    )


def _cleaned(settings: ModelSettings) -> ModelSettings:
    """Settings whose names can be shown; ValueError if two become equal."""
    findings = settings.findings and clean_names(settings.findings)
    key = settings.weights_key and clean(settings.weights_key)
    return replace(settings, findings=findings, weights_key=key)


def write_card(path: Path, card: ModelCard) -> None:
    """Write a card as YAML; settings that aren't stated are left out.

    Args:
        path: the file; it is replaced.
        card: the card.

    Raises:
        StoreError: a file that can't be written.
    """
    facts = dump(card)
    facts["model"] = {name: value for name, value in facts["model"].items() if value is not None}
    order = ("schema", "format", "file", "sha256", "model", "basis")
    text = yaml.safe_dump(
        {name: facts[name] for name in order}, sort_keys=False, allow_unicode=True, width=100
    )
    with write_atomically(path) as file:
        file.write(text.encode())


def card_for(model: Path, named: Path | None = None) -> Held:
    """Return what a model's card states, or else the files of other tools beside it.

    Args:
        model: the model's file.
        named: the card; if left out, STEM.yaml or else model.yaml beside the model. One that was
            found and is another file's, or no card, is ignored with a note.

    Raises:
        StoreError: a named card that can't be read or is of another file, or a found one with
            invalid settings.
    """
    if named is not None:
        card = read_card(named)
        if content_of(model) != card.sha256:
            raise StoreError(
                f"{clean(named.name)} is the card of another file{_of(card)}: its SHA-256 isn't "
                f"that of {clean(model.name)}. Write one by: leadapron inspect "
                f"{clean(model.name)} --out {clean(model.stem)}.yaml"
            )
        return _held(card, named)
    notes: list[str] = []
    for path in dict.fromkeys((model.with_suffix(".yaml"), model.with_name(COMMON))):
        if path == model or not path.is_file():
            continue
        if not _is_card(path):
            notes.append(f"{clean(path.name)} beside it is no model card; it was ignored.")
            continue
        card = read_card(path)
        if content_of(model) == card.sha256:
            held = _held(card, path)
            return held._replace(notes=(*notes, *held.notes))
        notes.append(
            f"{clean(path.name)} beside it is the card of another file{_of(card)}: the SHA-256 "
            "differs; it was ignored."
        )
    found = beside(model)
    return found._replace(notes=(*notes, *found.notes))


def _is_card(path: Path) -> bool:
    try:
        return read_yaml(path, LARGEST).get("format") == FORMAT
    except StoreError:
        return False


def _of(card: ModelCard) -> str:
    return f" ({card.file})" if card.file else ""


def _held(card: ModelCard, path: Path) -> Held:
    words = f"Stated by the model card {clean(path.name)}: {card.model}."
    return Held(card.model, (words,), card.sha256)
