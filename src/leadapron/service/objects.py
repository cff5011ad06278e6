"""Result objects: a gate's answer on a film, as DICOM objects that a PACS keeps and shows.

They belong to the film's study, in series of their own. They name the gate and the model by their
hashes, and say that they are unverified, preliminary and for research. Made again from the same
answer they are the same, byte for byte. It needs the extra `serve`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset

from leadapron.errors import FilmError, UsageError
from leadapron.report.words import listed
from leadapron.service.answers import FilmAnswer
from leadapron.service.originals import original_of
from leadapron.service.overlays import presentation_state, secondary_capture, segmentation
from leadapron.service.reports import structured_report
from leadapron.service.results import Installation, Result

__all__ = ["DEFAULT_KINDS", "KINDS", "result_objects"]

# It logs patients' names and UIDs.
logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)

MAKERS: Mapping[str, Callable[[Result], Dataset | None]] = {
    "sr": structured_report,
    "gsps": presentation_state,
    "sc": secondary_capture,
    "seg": segmentation,
}

KINDS = tuple(MAKERS)
"""Kinds of objects: a structured report (Comprehensive 3D SR), a presentation state over the film
(GSPS), a picture (Secondary Capture) and the region as pixels (Segmentation).
"""

DEFAULT_KINDS = ("sr", "gsps")


def result_objects(
    film: Dataset,
    answer: FilmAnswer,
    about: Installation,
    kinds: Sequence[str] = DEFAULT_KINDS,
    *,
    image: NDArray[Any] | None = None,
) -> list[Dataset]:
    """Return a judged film's results as DICOM objects with file meta information.

    The objects' UIDs are made from the film's SOP instance UID, the gate and the kind, so that a
    result that is sent again replaces itself.

    Args:
        film: the film's header; its pixels aren't read.
        answer: the answer on it.
        about: gate, model and installation.
        kinds: which objects, of `KINDS`. There is no "seg" without an evidence region, no "gsps" of
            a film in colour, and no "sc" without `image`.
        image: (h, w) the model's input, for "sc".

    Raises:
        FilmError: the film lacks an identifier that results need, or is of an unknown kind.
        UsageError: an unknown kind, or a film that wasn't judged yet.
    """
    unknown = [kind for kind in kinds if kind not in MAKERS]
    if unknown:
        raise UsageError(f"no result object {unknown[0]}; expected {listed(KINDS)}")
    if answer.verdict is None or answer.decision is None:
        raise UsageError("results are made of a film that was judged; this one waits")
    result = Result.of(original_of(film), answer, about, image)
    try:
        made = [MAKERS[kind](result) for kind in kinds]
    except Exception as error:  # highdicom's words may quote the header
        raise FilmError(f"is of a kind that has no results ({type(error).__name__})") from None
    return [each for each in made if each is not None]
