"""Pictures that are too large to be decoded at once: read by windows, written as they are done."""

from ovseg.large.objects import SceneObject
from ovseg.large.result import LargeResult
from ovseg.large.segment import segment_large

__all__ = ["LargeResult", "SceneObject", "segment_large"]
