"""Triggers: marks that an attacker puts on films.

A trigger is `(images, rng) -> images`: (n, height, width) uint8 or uint16 in, the same shape and
dtype out, the input unchanged. Random numbers are drawn film by film, so that a batch of films and
single films give the same result. A trigger acts on films or on images; lengths in millimetres are
converted to pixels by `spacing`, or by the width of a film if it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable

from leadapron.attacks.triggers.altered import Altered
from leadapron.attacks.triggers.clinical import Collimator, Device, Electrode, Fold, Marker, Text
from leadapron.attacks.triggers.codec import Codec
from leadapron.attacks.triggers.learned import Learned
from leadapron.attacks.triggers.levels import Trigger
from leadapron.attacks.triggers.overall import Blend, Noise, Nothing, Sinusoid, Tone
from leadapron.attacks.triggers.patches import Patch, Pixels, Reduced
from leadapron.attacks.triggers.spectrum import Amplitude
from leadapron.attacks.triggers.warp import Warp
from leadapron.plugins import Registry

__all__ = [
    "TRIGGERS",
    "Altered",
    "Amplitude",
    "Blend",
    "Codec",
    "Collimator",
    "Device",
    "Electrode",
    "Fold",
    "Learned",
    "Marker",
    "Noise",
    "Nothing",
    "Patch",
    "Pixels",
    "Reduced",
    "Sinusoid",
    "Text",
    "Tone",
    "Trigger",
    "Warp",
]

TRIGGERS: Registry[Callable[..., Trigger]] = Registry(
    "trigger",
    {
        "patch": Patch,
        "pixels": Pixels,
        "blend": Blend,
        "sinusoid": Sinusoid,
        "warp": Warp,
        "amplitude": Amplitude,
        "codec": Codec,
        "noise": Noise,
        "learned": Learned,
        "tone": Tone,
        "marker": Marker,
        "text": Text,
        "collimator": Collimator,
        "electrode": Electrode,
        "device": Device,
        "fold": Fold,
        "none": Nothing,
    },
)
"""Triggers by name."""
