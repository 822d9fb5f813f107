"""Regions: an image cut into parts by a class-free method, or by SAM."""

from ovseg.regions.cuts import normalized_cut, object_masks, salient_object
from ovseg.regions.sources import SOURCES, RegionsConfig, RegionSource, build_regions
from ovseg.regions.vote import majority_label

__all__ = [
    "SOURCES",
    "RegionSource",
    "RegionsConfig",
    "build_regions",
    "majority_label",
    "normalized_cut",
    "object_masks",
    "salient_object",
]
