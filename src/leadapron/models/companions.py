"""Files of other tools beside a model that describe its input and outputs, read as data.

MONAI's bundles keep `configs/metadata.json` beside `models/`; models from Hugging Face keep
`config.json` and `preprocessor_config.json` beside the weights. Neither states which file it is of,
so what they say is an assumption.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leadapron.errors import UsageError
from leadapron.models.architectures import ARCHITECTURES, OF_TRANSFORMERS
from leadapron.models.stated import ModelSettings
from leadapron.reading import read_regular
from leadapron.specs import build
from leadapron.text import clean, clean_names

__all__ = ["Held", "beside"]

LARGEST = 1 << 20
"""Most bytes of such a file."""

RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic", 4: "area"}
"""Pillow's numbers of filters."""


class Held(NamedTuple):
    """What files beside a model state of it.

    Args:
        settings: the settings.
        notes: what was taken, from which file, and what was ignored; a sentence each.
        content: SHA-256 that the model's file must have; None if no file states it.
        code: names of a model's own code, which isn't run; "" if none is named.
    """

    settings: ModelSettings
    notes: tuple[str, ...] = ()
    content: str | None = None
    code: str = ""


FOR_OTHERS = re.compile(r"For(?!ImageClassification)[A-Z]|LMHead|LM$")
"""Ends of transformers' names of networks that don't classify images."""


def beside(model: Path) -> Held:
    """Return what a MONAI bundle or a Hugging Face folder states of a model.

    Args:
        model: the model's file.

    Raises:
        UsageError: a bundle's metadata says that the network segments, or `config.json` that it is
            for something else than classifying images.
    """
    for places, read in (
        ((model.parent.parent / "configs" / "metadata.json", model.with_name("metadata.json")),
         _of_monai),
        ((model.with_name("config.json"),), _of_hugging_face),
    ):  # fmt: skip
        for path in places:
            facts = _facts(path)
            if facts is None:
                continue
            stated, code = _valid(read(facts, path)), _code(facts)
            words = (f"ASSUMED, since {path.name} beside it says so: {stated}.",)
            if stated.given or code:
                return Held(stated, words if stated.given else (), code=code)
    return Held(ModelSettings())


def _facts(path: Path) -> Mapping[str, Any] | None:
    """The JSON object in a file; None if there is none that can be read."""
    try:
        facts = json.loads(read_regular(path, LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _valid(stated: Mapping[str, Any]) -> ModelSettings:
    """The settings that are valid; what else such a file says is left out."""
    found = ModelSettings()
    for name, value in stated.items():
        try:
            found = build(ModelSettings, {name: value}, "model").over(found)
        except UsageError:
            continue
    return found


def _inside(facts: Any, *steps: str) -> Any:
    for step in steps:
        facts = facts.get(step) if isinstance(facts, Mapping) else None
    return facts


def _code(facts: Mapping[str, Any]) -> str:
    """Names of code of its own in a `config.json` of transformers."""
    named = facts.get("auto_map")
    words = ", ".join(map(str, named.values())) if isinstance(named, Mapping) else ""
    return clean(words[:200])


# --- MONAI


def _of_monai(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A bundle's `metadata.json`.

    Source: MONAI, Bundle Specification, "metadata.json File" and "network_data_format".
    """
    took = _first(_inside(facts, "network_data_format", "inputs"))
    gave = _first(_inside(facts, "network_data_format", "outputs"))
    kinds = {str(_inside(gave, "type")), str(_inside(gave, "format"))}
    if "segmentation" in kinds:
        raise UsageError(
            f"{path.name} beside the model says that it segments; expected a classifier of findings"
        )
    stated: dict[str, Any] = {"channels": _inside(took, "num_channels")}
    shape = _inside(took, "spatial_shape")
    if isinstance(shape, list) and len(shape) == 2 and shape[0] == shape[1]:
        stated["size"] = shape[0]
    if isinstance(reach := _inside(took, "value_range"), list):
        stated["normalisation"] = _between(reach)
    stated["findings"] = _numbered(_inside(gave, "channel_def"))
    return {name: value for name, value in stated.items() if value is not None}


def _first(parts: Any) -> Any:
    return next(iter(parts.values()), None) if isinstance(parts, Mapping) else None


def _between(reach: Sequence[Any]) -> str | None:
    """The normalisation that scales black and white to two numbers."""
    if len(reach) != 2 or not all(type(end) in (int, float) for end in reach):
        return None
    low, high = (float(end) for end in reach)
    if not -1e6 < low < high < 1e6:
        return None
    std = 1 / (high - low)
    return "unit" if (low, high) == (0, 1) else f"{-low * std!r}/{std!r}"


def _numbered(names: Any) -> list[str] | None:
    """Names by index, as {"0": "A", "1": "B"}; None unless each number from 0 has one."""
    if not isinstance(names, Mapping) or not names:
        return None
    found = {str(index): name for index, name in names.items()}
    order = [found.get(str(index)) for index in range(len(found))]
    return _names(order)


def _names(given: Any) -> list[str] | None:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        return None
    try:
        return list(clean_names(given)) or None
    except ValueError:
        return None


# --- Hugging Face


def _of_hugging_face(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`config.json` of transformers or timm, with transformers' `preprocessor_config.json`."""
    _refuse_other(facts, path)
    trained = _inside(facts, "pretrained_cfg")
    stated = _of_timm(trained if isinstance(trained, Mapping) else {})
    stated["findings"] = _names(facts.get("label_names")) or _labels(facts)
    stated["size"] = stated.get("size", facts.get("image_size"))
    kinds = {
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
    }
    stated["head"] = kinds.get(str(facts.get("problem_type")))
    stated["architecture"] = _architecture(facts)
    prepared = _facts(path.with_name("preprocessor_config.json"))
    if prepared is not None:
        stated |= {n: value for n, value in _of_processor(prepared).items() if value is not None}
    return {name: value for name, value in stated.items() if value is not None}


def _refuse_other(facts: Mapping[str, Any], path: Path) -> None:
    """UsageError for a model of transformers for text, masks, boxes and the like."""
    named = facts.get("architectures")
    kinds = [str(each) for each in named] if isinstance(named, list) else []
    if kinds and all(FOR_OTHERS.search(each) for each in kinds):
        raise UsageError(
            f"{path.name} beside the model says that it is a {clean(kinds[0][:80])}; expected a "
            "classifier of images (...ForImageClassification)"
        )


def _architecture(facts: Mapping[str, Any]) -> str | None:
    """The network of timm or transformers, as in `leadapron.models.libraries`."""
    name, kind = facts.get("architecture"), facts.get("model_type")
    if isinstance(facts.get("pretrained_cfg"), Mapping) and isinstance(name, str):
        # This package has its own networks for some names, which need no other library.
        return None if name.partition(".")[0] in ARCHITECTURES else f"timm:{name}"
    if kind not in OF_TRANSFORMERS or _code(facts):
        return None
    settings = {n: value for n, value in facts.items() if n not in ("id2label", "label2id")}
    return f"transformers:{kind} {json.dumps(settings, sort_keys=True)}"


def _labels(facts: Mapping[str, Any]) -> list[str] | None:
    """The names in `id2label`, unless it holds the placeholders LABEL_0, LABEL_1, ..."""
    names = _numbered(facts.get("id2label"))
    placeholders = names is not None and all(n == f"LABEL_{i}" for i, n in enumerate(names))
    return None if placeholders else names


def _of_timm(facts: Mapping[str, Any]) -> dict[str, Any]:
    shape, kind = facts.get("input_size"), facts.get("interpolation")
    known = isinstance(shape, list) and len(shape) == 3 and shape[1] == shape[2]
    stated = {
        "size": shape[1] if known else None,  # type: ignore[index]
        "normalisation": _scale(facts.get("mean"), facts.get("std")),
        "interpolation": kind,
        "crop": facts.get("crop_pct"),
    }
    return {name: value for name, value in stated.items() if value is not None}


def _of_processor(facts: Mapping[str, Any]) -> dict[str, Any]:
    sides = facts.get("crop_size") if facts.get("do_center_crop") else facts.get("size")
    if isinstance(sides, Mapping):
        sides = sides.get("height", sides.get("shortest_edge"))
    scaled = facts.get("do_normalize", True)
    scale = _scale(facts.get("image_mean"), facts.get("image_std")) if scaled else "unit"
    number, share = facts.get("resample"), facts.get("crop_pct")
    cropped = bool(facts.get("do_center_crop")) or share is not None
    whole = _inside(facts.get("size"), "shortest_edge")
    if share is None and cropped and type(sides) is int and type(whole) is int and whole > sides:
        share = sides / whole
    return {
        "size": sides if type(sides) is int else None,
        "normalisation": scale,
        "interpolation": RESAMPLING.get(number) if type(number) is int else None,
        "aspect": "crop" if cropped else None,
        "crop": share,
    }


def _scale(means: Any, stds: Any) -> str | None:
    """MEAN/STD of two lists of one or three numbers."""
    lists = [means, stds]
    if not all(isinstance(one, list) and len(one) in (1, 3) for one in lists):
        return None
    if not all(type(n) in (int, float) and math.isfinite(n) for one in lists for n in one):
        return None
    return "/".join(",".join(repr(float(n)) for n in one) for one in lists)
