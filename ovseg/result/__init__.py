"""What a segmentation is: a label per pixel, and everything that can be made of it."""

from ovseg.result.coco import CocoDataset
from ovseg.result.core import LabelSummary, SegmentationResult
from ovseg.result.panoptic import Panoptic, PanopticDataset
from ovseg.result.segments import Segment
from ovseg.result.selection import Selection, SelectionPrompts

__all__ = [
    "CocoDataset",
    "LabelSummary",
    "Panoptic",
    "PanopticDataset",
    "Segment",
    "SegmentationResult",
    "Selection",
    "SelectionPrompts",
]
