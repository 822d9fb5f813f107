"""Boxes x0, y0, x1, y1 in pixels: how much they overlap, and which of near copies stay."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BOX_OVERLAP = 0.6  # over which the less sure of two boxes of a kind is a copy (PicoDet's own)


def box_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4): (n, m) in [0, 1]; 0 between empty boxes."""
    shared = box_shared(one, other)
    joint = box_area(one)[:, None] + box_area(other)[None] - shared
    return shared / joint.clamp_min(1e-9)


def box_shared(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) square pixels that boxes (n, 4) and (m, 4) share."""
    corner = torch.maximum(one[:, None, :2], other[None, :, :2])
    end = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    return (end - corner).clamp_min(0).prod(-1)


def box_area(boxes: Tensor) -> Tensor:
    """(n, 4) to (n,) square pixels; 0 where a box is turned inside out."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1)


def mask_box(mask: Tensor) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 of the pixels of an (H, W) bool mask, x1 and y1 not included; None where it is empty."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def distinct(overlap: Tensor, scores: Tensor, *, most_overlap: float) -> Tensor:
    """Non-maximum suppression: which of n things stay, the surest first.

    Args:
        overlap: (n, n) in [0, 1], of boxes or of masks.
        scores: (n,).
        most_overlap: a thing is dropped where it overlaps a surer one that stays by more than this.

    Returns:
        (k,) int64 positions.
    """
    order = scores.argsort(descending=True, stable=True)
    close = (overlap[order][:, order] > most_overlap).cpu().numpy()
    gone = np.zeros(len(order), dtype=bool)
    kept = []
    for position in range(len(order)):
        if not gone[position]:
            kept.append(position)
            gone |= close[position]
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]
