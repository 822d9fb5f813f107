"""Regions by SAM: a grid of points, the masks that are good, stable and new. Never the default."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.sam import FoundMasks, automatic_masks, load_sam, to_image
from ovseg.sam.mobile import MOBILE_SAM


def sam(
    image: Tensor,
    structure: Tensor,
    *,
    model: str = MOBILE_SAM,
    points_per_side: int = 16,
    quality: float = 0.88,
    stability: float = 0.95,
    overlap: float = 0.7,
) -> Tensor:
    """Masks of a SAM as regions.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: not used.
        model: as of ``load_sam``; the embedded MobileSAM needs no download.
        points_per_side, quality, stability, overlap: as of ``automatic_masks``.

    Returns:
        (H, W) int32 numbers from 0, larger masks first and under smaller ones; −1 outside every mask.

    Raises:
        ModelError: the weights are missing.

    Source: Kirillov et al., Segment Anything, ICCV 2023, section 5.
    """
    network = load_sam(model)
    found = automatic_masks(
        network,
        network.encode(image),
        points_per_side=int(points_per_side),
        quality=quality,
        stability=stability,
        overlap=overlap,
    )
    return regions_of(found)


def regions_of(found: FoundMasks) -> Tensor:
    """Masks as regions, smaller over larger; see ``sam``."""
    areas = (found.embedding.inside(found.logits) > 0).flatten(1).sum(1)
    order = areas.argsort(descending=True, stable=True)
    size = found.embedding.geometry.original
    regions = torch.full(size, -1, dtype=torch.int32)
    for number, mask in enumerate(to_image(found.embedding, found.logits[order])):
        regions[mask] = number
    return regions
