"""Models from elsewhere: opened without running their code, and checked on clean films.

`open_model` takes a file or, as an explicit choice, a function "module:function". `model_warnings`
checks a model's outputs on a cohort of clean films.
"""

from leadapron.models.foreign.black_box import BlackBoxClassifier
from leadapron.models.foreign.model_warnings import model_warnings
from leadapron.models.foreign.opening import Opened, file_of, open_model
from leadapron.models.foreign.recognise import (
    NORMALISATIONS,
    Normalisation,
    SeveralError,
    UnnamedError,
    networks_in,
)

__all__ = [
    "NORMALISATIONS",
    "BlackBoxClassifier",
    "Normalisation",
    "Opened",
    "SeveralError",
    "UnnamedError",
    "file_of",
    "model_warnings",
    "networks_in",
    "open_model",
]
