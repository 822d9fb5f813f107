"""Refinement: class maps pulled to the edges of the image, and to cells that look alike."""

from ovseg.refine.affinity import affinity, pool_cells
from ovseg.refine.crf import dense_crf
from ovseg.refine.guided import guided_filter
from ovseg.refine.maps import METHODS, Refined, reach_of, refine_maps
from ovseg.refine.pamr import pamr, released_pamr

__all__ = [
    "METHODS",
    "Refined",
    "affinity",
    "dense_crf",
    "guided_filter",
    "pamr",
    "pool_cells",
    "reach_of",
    "refine_maps",
    "released_pamr",
]
