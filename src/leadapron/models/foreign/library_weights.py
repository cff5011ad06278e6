"""State dicts of networks that timm and transformers build; see `leadapron.models.libraries`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from leadapron.errors import StoreError, UnknownNameError, UsageError
from leadapron.models import networks
from leadapron.models.architectures import library_of
from leadapron.models.foreign.classes import library_differences
from leadapron.models.foreign.recognise import (
    NORMALISATIONS,
    OUTERMOST,
    TRAINING,
    Given,
    Maker,
    Normalisation,
    Recognised,
    SeveralError,
    findings_of,
    likely,
    recognise,
    refuse_numbers,
)
from leadapron.models.libraries import LIBRARIES, Stored, stored
from leadapron.models.parsing.formats import MOST_FINDINGS
from leadapron.models.parsing.reading import Group, Outline, Weights
from leadapron.models.protocols import network_lacks

__all__ = ["network_in"]

INSIDE = "network.body."
"""What this package's names have before a library's."""


@dataclass(frozen=True)
class _Fit:
    """Tensors of a file that are a library's network.

    Args:
        key: of the dictionary and the prefix, joined by a dot.
        group: key of the dictionary.
        prefix: of the tensors' names in it.
        architecture: name of the network, whole.
        outputs: number of findings.
        stored: the network as the library's files hold it.
        inside: its tensors by the library's names.
    """

    key: str
    group: str
    prefix: str
    architecture: str
    outputs: int
    stored: Stored
    inside: Group


def network_in(
    weights: Weights,
    findings: tuple[str, ...] | None = None,
    normalisation: str | Normalisation | None = None,
    architecture: str | None = None,
    key: str | None = None,
    *,
    channels: int | None = None,
    size: int | None = None,
) -> Recognised:
    """Return the network in a file, as `recognise`; also one of a library.

    Args:
        weights: the file's.
        findings: as `recognise`.
        normalisation: as `recognise`.
        architecture: as `recognise`, or a name as in `leadapron.models.libraries`, which may lack
            channels and size.
        key: as `recognise`.
        channels: channels of a library's network, 1 or 3; those that fit if left out.
        size: side of its images in pixels; the library's if left out.

    Raises:
        StoreError: no known network, or weights that don't fit it.
        UsageError: settings that don't fit the file, a library that isn't installed, or several
            networks and no `key`.
    """
    library, name = library_of(architecture or "")
    if not library:
        return recognise(weights, findings, normalisation, architecture, key)
    wanted = LIBRARIES[library].named(name, channels, size)
    fit, notes = _chosen(weights, wanted, key)
    maker = Maker(library, lambda _: False, "imagenet")
    named = findings_of(weights, findings, fit.outputs, maker, notes)
    state = weights.take(fit.inside)
    refuse_numbers({n: v for n, v in state.items() if v.is_floating_point()}, weights.name)
    module = networks.build_network(fit.architecture, fit.outputs, seed=0)
    own = module.state_dict()
    names = {name: INSIDE + fit.stored.own[name] for name in fit.inside}
    module.load_state_dict(
        {**own, **{names[name]: value.to(own[names[name]].dtype)
                   for name, value in state.items()}}
    )  # fmt: skip
    scale = _scale(normalisation, fit, library, notes)
    mean, std = networks.GREY_MEAN, networks.GREY_STD
    if fit.stored.channels == 3:
        _colour(module, scale)
    else:
        (mean,), (std,) = scale.mean, scale.std
    _refuse_other(weights, fit, module)
    notes.append(_maps_of(module, fit.architecture))
    return Recognised(
        module.eval(),
        fit.architecture,
        maker,
        named,
        mean,
        std,
        fit.stored.taken.size,
        (),
        tuple(notes),
        Given(
            group=fit.group,
            architecture=fit.architecture,
            scale=scale,
            names={own: fit.prefix + name for name, own in names.items()},
            biases={},
            first=None,
            colours=False,
            others=(),
        ),
    )


def _chosen(weights: Weights, wanted: Sequence[str], key: str | None) -> tuple[_Fit, list[str]]:
    """The tensors that are the network, and what was left out."""
    found: dict[str, _Fit] = {}
    misfits: list[tuple[int, str]] = []
    for architecture in wanted:
        held = stored(architecture, 1)
        smaller, larger = held.tensors, stored(architecture, 2).tensors
        of_head = [name for name, one in smaller.items() if one.shape != larger[name].shape]
        for group in likely(weights.groups):
            tensors = weights.groups[group]
            for prefix in _prefixes(tensors, smaller, of_head):
                place = ".".join(p for p in (group, prefix.rstrip(".")) if p) or OUTERMOST
                odd, inside, outputs = _compared(tensors, prefix, smaller, of_head)
                if odd:
                    short = _short(architecture)
                    misfits.append((len(odd), f"don't fit {short}: {odd[0]}"))
                elif place not in found:
                    found[place] = _Fit(place, group, prefix, architecture, outputs, held, inside)
    if key is not None and key not in found and (found or not misfits):
        raise UnknownNameError("weights key", key, found)
    if not found:
        count, words = min(misfits, default=(0, f"aren't those of {_short(next(iter(wanted)))}"))
        raise StoreError(
            f"the weights in {weights.name} {words}" + (f" ({count} misfits)" if count else "")
        )
    if key is None and len(found) > 1:
        shown = ", ".join(list(found)[:6])
        raise SeveralError(
            f"{weights.name} holds {len(found)} networks: {shown}; choose one with "
            f"`model.weights_key` {next(iter(found))}",
            next(iter(found)),
        )
    fit = found[key or next(iter(found))]
    others = [place for place in found if place != fit.key]
    left = f"The file's weights {fit.key} were opened; left out: {', '.join(others)}."
    return fit, [left] if others else []


def _short(architecture: str) -> str:
    """A network's name without its settings."""
    return architecture.partition(" ")[0]


def _prefixes(tensors: Group, own: Mapping[str, torch.Tensor], of_head: Iterable[str]) -> list[str]:
    """What stands before the library's names, judged by the last layer's."""
    for name in of_head:
        found = [key.removesuffix(name) for key in tensors if f".{key}".endswith(f".{name}")]
        # "head.weight" is the end of "other_head.weight" and of a part's: most names decide.
        counts = {prefix: sum(prefix + each in tensors for each in own) for prefix in found}
        return [prefix for prefix in found if counts[prefix] > len(own) // 2]
    return []


def _compared(
    tensors: Group, prefix: str, own: Mapping[str, torch.Tensor], of_head: Iterable[str]
) -> tuple[list[str], dict[str, Outline], int]:
    """Misfits of a file's tensors, those that fit, and the number of outputs."""
    heads = {tensors[prefix + name].shape[:1] for name in of_head if prefix + name in tensors}
    sides = next(iter(heads), ())
    outputs = sides[0] if len(heads) == 1 and sides else 0
    odd = [] if 0 < outputs <= MOST_FINDINGS else [
        f"its last layer has {outputs:,} outputs, expected 1 to {MOST_FINDINGS:,}"
    ]  # fmt: skip
    inside = {}
    for name, value in own.items():
        there = tensors.get(prefix + name)
        shape = (outputs, *value.shape[1:]) if name in of_head else tuple(value.shape)
        if there is None:
            odd += [] if name.endswith("num_batches_tracked") else [f"{name} is missing"]
        elif there.shape != shape:
            odd.append(f"{name} has shape {there.shape}, expected {shape}")
        else:
            inside[name] = there
    odd += [
        f"{key[:80]} isn't one of its weights"
        for key in tensors
        if key.startswith(prefix) and key.removeprefix(prefix) not in own
        and not TRAINING.search(key)
    ]  # fmt: skip
    return odd, inside, outputs


def _scale(
    wanted: str | Normalisation | None, fit: _Fit, library: str, notes: list[str]
) -> Normalisation:
    if isinstance(wanted, str) and wanted not in NORMALISATIONS:
        raise UnknownNameError("normalisation", wanted, NORMALISATIONS)
    scale = NORMALISATIONS[wanted] if isinstance(wanted, str) else wanted
    if scale is None:
        scale = Normalisation(fit.stored.taken.mean, fit.stored.taken.std)
        notes.append(
            f"ASSUMED: the normalisation {scale}, {library}'s for this network; the file doesn't "
            "state it."
        )
    if fit.stored.channels == 1 and len(scale.mean) != 1:
        raise UsageError(
            f"it takes one channel, so its normalisation needs one mean and one std, not {scale}"
        )
    return scale


def _colour(module: networks.Network, scale: Normalisation) -> None:
    """Set the normalisation of a network that repeats grey in three channels."""
    first = next(part for part in module.modules() if isinstance(part, networks.GreyChannels))
    first.load_state_dict(networks.GreyChannels(*scale.colours).state_dict())


def _maps_of(module: networks.Network, architecture: str) -> str:
    """Which maps the network offers."""
    layer = module.map_layer.removeprefix("body.")
    if module.pooled_head is not None:
        maps = f"exact class activation maps, since its linear last layer reads the mean of {layer}"
    else:
        fine = module.fine_layer(module.side).removeprefix("body.")
        other = f", LayerCAM that of {fine}" * (fine != layer)
        maps = (
            "no exact class activation maps, since its last layer doesn't read the mean of "
            f"{layer}; Grad-CAM shows that layer's map{other}"
        )
    if not network_lacks(module, architecture, "attention"):
        maps += ". Attention rollout is the same for every finding"
    return f"{_short(architecture)} has {maps}."


def _refuse_other(weights: Weights, fit: _Fit, module: networks.Network) -> None:
    """StoreError if the network was pickled whole and isn't the library's."""
    inside = {
        path.removeprefix(fit.prefix): part
        for path, part in weights.modules.get(fit.group, {}).items()
        if f"{path}.".startswith(fit.prefix)
    }
    if odd := list(library_differences(module.get_submodule(INSIDE.rstrip(".")), inside)):
        raise StoreError(
            f"the tensors in {weights.name} fit {_short(fit.architecture)}, but it computes "
            f"something else: {'; '.join(odd[:3])[:300]}"
        )
