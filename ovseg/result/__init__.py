"""What a segmentation is: a label per pixel, and everything that can be made of it."""

from ovseg.result.core import LabelSummary, SegmentationResult

__all__ = ["LabelSummary", "SegmentationResult"]
