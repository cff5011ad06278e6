"""torchvision as the libraries behind these tests import it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_kept = []
"""The operators live as long as this."""


def _declare_operators():
    """Declare torchvision's operators of boxes where its compiled ones can't be loaded.

    PyPI's torchvision is built for PyPI's torch, with CUDA; with a CPU build of torch it can't even
    be imported, although no network here uses these operators.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    import torch

    try:
        torch.ops.load_library(str(Path(found.origin).with_name("_C.so")))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


_declare_operators()
