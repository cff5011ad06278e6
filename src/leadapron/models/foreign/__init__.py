"""Models that others trained: opened without running what isn't asked for, and checked on films.

`open_model` takes a file or, as the owner's explicit choice, a function "module:function".
`model_warnings` says what a cohort of clean films shows to be odd about it.
"""

from leadapron.models.foreign.black_box import BlackBoxClassifier
from leadapron.models.foreign.model_warnings import model_warnings
from leadapron.models.foreign.opening import Opened, open_model
from leadapron.models.foreign.recognise import NORMALISATIONS, Normalisation

__all__ = [
    "NORMALISATIONS",
    "BlackBoxClassifier",
    "Normalisation",
    "Opened",
    "model_warnings",
    "open_model",
]
