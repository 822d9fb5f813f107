"""Segment Anything: masks from boxes and points, by the embedded MobileSAM or another SAM, behind one protocol."""

from ovseg.sam.grid import FoundMasks, automatic_masks
from ovseg.sam.load import embed_once, load_sam
from ovseg.sam.protocol import PromptedSam, SamEmbedding, to_image, to_rle

__all__ = [
    "FoundMasks",
    "PromptedSam",
    "SamEmbedding",
    "automatic_masks",
    "embed_once",
    "load_sam",
    "to_image",
    "to_rle",
]
