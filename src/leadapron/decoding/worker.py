"""The process that decodes: reads questions from stdin, answers on stdout; see `isolation`.

Started as `python -P -m leadapron.decoding.worker`: no module is taken from the folder of films.
"""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import sys
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from leadapron.decoding.isolation import READY
from leadapron.decoding.pictures import read_picture, starts_as_picture
from leadapron.errors import FilmError
from leadapron.preprocessing import Preprocessing

MEMORY = 4 << 30
"""Bytes of address space; a film of the largest size and its floats fit in it."""

GRACE = 5
"""Seconds after which a worker ends that its parent should have killed."""


def main() -> None:
    """Answer until there are no more questions."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb")
    # What codecs print must not get among the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _limit()
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if hasattr(signal, "alarm"):  # ends even a codec that runs wild after its parent has died
            signal.alarm(math.ceil(question["seconds"]) + GRACE)
        facts, pixels = _answered(question)
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        if pixels is not None:
            facts = {**facts, "shape": pixels.shape, "dtype": str(pixels.dtype)}
        answers.write(json.dumps(facts).encode() + b"\n")
        if pixels is not None:
            answers.write(pixels.tobytes())
        answers.flush()


def _limit() -> None:
    """Bound memory, forbid writing; where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (most, most))
        except (OSError, ValueError):  # macOS knows some of them and enforces fewer
            continue


def _answered(question: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[Any] | None]:
    path = question["path"]
    try:
        if question["do"] == "header":
            from leadapron.decoding.dicom import read_header

            return read_header(path, bytes.fromhex(question["salt"])), None
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (paths may not be UTF-8)
            raise FilmError("is not a file", "unreadable")
        if starts_as_picture(path):
            film, form = read_picture(path)
        else:
            from leadapron.decoding.dicom import read_dicom

            film, form = read_dicom(path, question.get("window", "header"))
        if question.get("preprocessing"):
            film = _preprocessing(json.dumps(question["preprocessing"]))(film)
        return {"form": form.plain()}, film
    except FilmError as error:
        return {"error": str(error), "kind": error.kind}, None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        kind = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return {"error": f"can't be read ({reason})", "kind": kind}, None
    except MemoryError:
        return {"error": f"asks for more than {MEMORY >> 30} GB of memory"}, None
    except RecursionError:
        return {"error": "is nested too deeply"}, None
    except Exception as error:
        # Not its text: that may quote the header.
        return {"error": f"can't be decoded ({type(error).__name__})"}, None


@lru_cache(maxsize=4)
def _preprocessing(settings: str) -> Preprocessing:
    return Preprocessing(**json.loads(settings))


if __name__ == "__main__":
    main()
