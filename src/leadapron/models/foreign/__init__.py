"""Models that others trained: opened without running what isn't asked for, and checked on films.

`open_model` takes a file or, as the owner's explicit choice, a function "module:function".
`doubts` says what a cohort of clean films shows to be odd about it.
"""

from leadapron.models.foreign.asked import AskedClassifier
from leadapron.models.foreign.doubts import doubts
from leadapron.models.foreign.opening import Opened, open_model
from leadapron.models.foreign.recognise import NORMALISATIONS, Normalisation

__all__ = [
    "NORMALISATIONS",
    "AskedClassifier",
    "Normalisation",
    "Opened",
    "doubts",
    "open_model",
]
