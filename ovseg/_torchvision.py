"""Lets a CUDA-linked torchvision import beside a CPU build of torch.

PyPI's Linux wheel of torchvision is linked against CUDA. Beside CPU torch its operators fail to load, and its
import then fails because two operators have no schema. Defining the two schemas is enough for everything
but ``torchvision.ops.nms`` and ``torchvision.io``, which ovseg does not use.
"""

from __future__ import annotations

import sys
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # a Library undoes its definitions when it is collected


def ensure_torchvision() -> None:
    """Import torchvision, defining the missing schemas if that is what it takes.

    Call it before the first import of open_clip, timm or a vision model of transformers. Does nothing where
    torchvision imports by itself.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)
        import torchvision  # noqa: F401
