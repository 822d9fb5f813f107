"""What no object of a photo covers, in regions: grass, sky, walls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.naming import structure_of
from ovseg.proposals.masks import sharp_partition
from ovseg.regions.clusters import cluster_cells
from ovseg.result.segments import Segment

STUFF = "stuff"
"""The label of a region that no object covers."""
MOST_REGIONS = 6
_LEAST = 0.005  # share of the image that a region has
_FREE = 0.3  # share of a region that no object covers, under which the rest is taken for the object's border


@torch.inference_mode()
def stuff_regions(
    encoded: EncodedImage, objects: Sequence[Segment], *, most: int = MOST_REGIONS
) -> tuple[Segment, ...]:
    """Cells that look alike are a region, its border drawn on the image; what objects cover is cut out of it.

    Args:
        encoded: the image.
        objects: of ``propose``.
        most: how many regions the image is cut into.

    Returns:
        Segments with the label "stuff", which share no pixel and of which none lies on an object; the score is the
        share of the region that no object covers. Regions that objects cover by more than 70 % are left out, as in
        U2Seg, and so is what is smaller than 0.5 % of the image.

    Source: Niu et al., U2Seg, CVPR 2024, section 3.2, whose regions are STEGO's clusters.
    """
    structure = functional.normalize(structure_of(encoded).float().cpu(), dim=0)
    owner = sharp_partition(encoded.pixels, cluster_cells(structure, count=most)).numpy()
    free = np.ones(owner.shape, bool)
    for each in objects:
        free &= ~each.mask()
    found = []
    for number in np.unique(owner):
        region = owner == number
        own = region & free
        share = float(own.sum() / region.sum())
        if share >= _FREE and own.mean() >= _LEAST:
            size = (owner.shape[0], owner.shape[1])
            found.append(Segment.of_mask(own, STUFF, share, corner=(0, 0), size=size))
    return tuple(found)
