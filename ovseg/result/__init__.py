"""What a segmentation is: a label per pixel, and everything that can be made of it."""

from ovseg.result.coco import CocoDataset
from ovseg.result.core import LabelSummary, SegmentationResult

__all__ = ["CocoDataset", "LabelSummary", "SegmentationResult"]
