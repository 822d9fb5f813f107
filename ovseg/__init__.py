"""ovseg: segment any photo by words.

>>> import ovseg
>>> result = ovseg.segment("street.jpg", ["road", "car", "person"])  # doctest: +SKIP

Names are loaded when they are first used, so that ``import ovseg`` is quick and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ovseg._version import __version__

if TYPE_CHECKING:
    from ovseg.api import evaluate as evaluate
    from ovseg.api import segment as segment
    from ovseg.bank import ImageBank as ImageBank
    from ovseg.concepts import ConceptSet as ConceptSet
    from ovseg.concepts import learn_concepts as learn_concepts
    from ovseg.discovery import cosaliency as cosaliency
    from ovseg.discovery import discover as discover
    from ovseg.discovery import propose as propose
    from ovseg.errors import OvsegError as OvsegError
    from ovseg.models.catalogue import list_models as list_models
    from ovseg.pipeline.opening import load as load
    from ovseg.pipeline.segmenter import Segmenter as Segmenter
    from ovseg.result import SegmentationResult as SegmentationResult
    from ovseg.video import VideoFrame as VideoFrame
    from ovseg.video import segment_video as segment_video
    from ovseg.vocabulary.labels import Concept as Concept

_HOMES = {
    "segment": "ovseg.api",
    "evaluate": "ovseg.api",
    "load": "ovseg.pipeline.opening",
    "Segmenter": "ovseg.pipeline.segmenter",
    "SegmentationResult": "ovseg.result",
    "Concept": "ovseg.vocabulary.labels",
    "ConceptSet": "ovseg.concepts",
    "ImageBank": "ovseg.bank",
    "learn_concepts": "ovseg.concepts",
    "propose": "ovseg.discovery",
    "discover": "ovseg.discovery",
    "cosaliency": "ovseg.discovery",
    "segment_video": "ovseg.video",
    "VideoFrame": "ovseg.video",
    "list_models": "ovseg.models.catalogue",
    "OvsegError": "ovseg.errors",
}

__all__ = [
    "Concept",
    "ConceptSet",
    "ImageBank",
    "OvsegError",
    "SegmentationResult",
    "Segmenter",
    "VideoFrame",
    "__version__",
    "cosaliency",
    "discover",
    "evaluate",
    "learn_concepts",
    "list_models",
    "load",
    "propose",
    "segment",
    "segment_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ovseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
