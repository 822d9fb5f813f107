"""One label per region."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.errors import ShapeError


def majority_label(index_map: Tensor, regions: Tensor, *, spare_lowest: bool = False) -> Tensor:
    """The label map with each region painted in its most frequent label.

    Args:
        index_map: (H, W) integer labels, −1 for none of them.
        regions: (H, W) integer regions; pixels at −1 keep their label.
        spare_lowest: where no pixel is at −1, those of the lowest number keep their label, as in CorrCLIP's code.

    Returns:
        (H, W) of the dtype of ``index_map``; where two labels are as frequent, the smaller one wins.

    Raises:
        ShapeError: the sizes differ.

    Source: the map correction of Zhang et al., CorrCLIP, ICCV 2025.
    """
    if index_map.shape != regions.shape or index_map.ndim != 2:
        raise ShapeError(
            f"index_map and regions must be (H, W) alike, got {tuple(index_map.shape)} and {tuple(regions.shape)}"
        )
    inside = regions > regions.min() if spare_lowest else regions >= 0
    if not bool(inside.any()):
        return index_map
    labels, owner = index_map[inside].long() + 1, torch.unique(regions[inside].long(), return_inverse=True)[1]
    classes = int(labels.max()) + 1
    counts = torch.bincount(owner * classes + labels, minlength=(int(owner.max()) + 1) * classes)
    winners = counts.view(-1, classes).argmax(1) - 1
    voted = index_map.clone()
    voted[inside] = winners[owner].to(index_map.dtype)
    return voted


def mean_of_regions(values: Tensor, regions: Tensor) -> Tensor:
    """Values with each cell of a region at the mean of the region.

    Args:
        values: (C, h, w) float.
        regions: (h, w) integer regions; cells at −1 keep their values.

    Raises:
        ShapeError: the grids differ.

    Source: Kang and Cho, LaVG, ECCV 2024, object grounding.
    """
    if values.ndim != 3 or regions.shape != values.shape[1:]:
        raise ShapeError(
            f"expected values (C, h, w) and regions (h, w), got {tuple(values.shape)} and {tuple(regions.shape)}"
        )
    inside = (regions >= 0).to(values.device)
    known, owner = torch.unique(regions.to(values.device)[inside].long(), return_inverse=True)
    cells = values[:, inside]  # (C, n)
    totals = cells.new_zeros(len(cells), len(known)).index_add(1, owner, cells)
    means = values.clone()
    means[:, inside] = (totals / owner.bincount(minlength=len(known)))[:, owner].to(values.dtype)
    return means


def paint_by_area(masks: Tensor) -> Tensor:
    """Overlapping masks as regions, larger painted over smaller, as CorrCLIP does.

    Args:
        masks: (n, H, W) bool.

    Returns:
        (H, W) int32 numbers from 0 in ascending order of area, the order of the masks where areas are equal; −1
        outside every mask.

    Source: version 1 of the released code of Zhang et al., CorrCLIP, ICCV 2025.
    """
    areas = masks.flatten(1).sum(1)
    order = areas.argsort(stable=True).to(torch.int32)
    regions = torch.full(masks.shape[1:], -1, dtype=torch.int32)
    for place, number in enumerate(order.tolist()):
        regions[masks[number].cpu()] = place
    return regions
