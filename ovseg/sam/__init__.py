"""Segment Anything: masks from boxes and points, by the embedded MobileSAM or another SAM, behind one protocol."""

from ovseg.sam.grid import FoundMasks, automatic_masks
from ovseg.sam.load import ask_sam, load_sam
from ovseg.sam.protocol import PromptedSam, SamEmbedding, to_image, to_rle

__all__ = [
    "FoundMasks",
    "PromptedSam",
    "SamEmbedding",
    "ask_sam",
    "automatic_masks",
    "load_sam",
    "to_image",
    "to_rle",
]
