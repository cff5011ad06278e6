"""The decoding process: it gets open films on stdin and answers on stdout; see `isolation`.

It is started as `python -P -m leadapron.films.decoding.worker`, so that no module is imported from
the folder of films.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, BinaryIO

from numpy.typing import NDArray

from leadapron.confinement import confine, limited_time
from leadapron.errors import FilmError
from leadapron.films.decoding.pictures import read_picture, starts_as_picture
from leadapron.films.preprocessing import Preprocessing
from leadapron.workers import Asked

MEMORY = 4 << 30
"""Bytes of address space: enough for a film of the largest size in floating point."""

GRACE = 5
"""Seconds beyond `SECONDS` after which an overdue worker ends itself."""


def main() -> None:
    """Answer until there are no more questions."""
    warnings.simplefilter("ignore")
    asked = Asked()
    asked.say({"lacking": " and ".join(confine(MEMORY))})
    for question, descriptor in asked:
        # It ends even a runaway codec whose parent has died.
        with limited_time(question["seconds"] + GRACE):
            facts, pixels = _answered(question, descriptor)
        if pixels is None:
            asked.say(facts)
        else:
            facts = {**facts, "shape": pixels.shape, "dtype": str(pixels.dtype)}
            asked.say(facts, pixels.tobytes())


def _answered(
    question: Mapping[str, Any], descriptor: int
) -> tuple[dict[str, Any], NDArray[Any] | None]:
    try:
        with open(descriptor, "rb") as file:
            file.seek(0)
            return _read(file, question)
    except FilmError as error:
        return {"error": str(error), "kind": error.kind}, None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return {"error": f"can't be read ({reason})", "kind": "unreadable"}, None
    except MemoryError:
        return {"error": f"needs more than {MEMORY >> 30} GB of memory"}, None
    except RecursionError:
        return {"error": "is nested too deeply"}, None
    except Exception as error:
        # Not the error's text, which may quote the header.
        return {"error": f"can't be decoded ({type(error).__name__})"}, None


def _read(
    file: BinaryIO, question: Mapping[str, Any]
) -> tuple[dict[str, Any], NDArray[Any] | None]:
    if question["do"] == "header":
        from leadapron.films.decoding.dicom import read_header

        return read_header(file, bytes.fromhex(question["salt"])), None
    if starts_as_picture(file):
        film, form = read_picture(file, question.get("bits", 0))
    else:
        from leadapron.films.decoding.dicom import read_dicom

        allowed = question.get("modalities", ())
        film, form = read_dicom(file, question.get("window", "header"), allowed)
    if question.get("preprocessing"):
        film = _preprocessing(json.dumps(question["preprocessing"]))(film)
    return {"form": form.plain()}, film


@lru_cache(maxsize=4)
def _preprocessing(settings: str) -> Preprocessing:
    return Preprocessing(**json.loads(settings))


if __name__ == "__main__":
    main()
