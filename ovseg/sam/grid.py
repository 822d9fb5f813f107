"""Masks of everything: a SAM asked at a grid of points, and what is good, stable and new kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.proposals.boxes import box_overlap, distinct, mask_box
from ovseg.sam.protocol import PromptedSam, SamEmbedding

_OFFSET = 1.0  # of the logits between which a stable mask hardly changes
_CHUNK = 64  # points whose masks are kept before they are filtered: 50 MB


@dataclass(frozen=True)
class FoundMasks:
    """Masks of a photo, the best first.

    Attributes:
        embedding: of the photo, for ``to_image``.
        logits: (n, h, w) float32 at low resolution.
        quality: (n,) float32 predicted overlap.
    """

    embedding: SamEmbedding
    logits: Tensor
    quality: Tensor


def automatic_masks(
    network: PromptedSam,
    embedding: SamEmbedding,
    *,
    points_per_side: int = 16,
    quality: float = 0.88,
    stability: float = 0.95,
    overlap: float = 0.7,
) -> FoundMasks:
    """Masks of the things and parts of a photo that nobody pointed at.

    Args:
        network: of ``load_sam``.
        embedding: the photo as the network sees it.
        points_per_side: side of the grid of points, 8 to 32; the time grows with its square.
        quality: predicted overlap at which a mask is dropped.
        stability: overlap of the mask at a stricter and a looser threshold, at which it is dropped.
        overlap: of the boxes of two masks, over which the one of lower quality is dropped.

    Source: Kirillov et al., Segment Anything, ICCV 2023, section 5 and appendix B, without its crops.
    """
    points = torch.tensor(grid_points(*embedding.geometry.original, side=points_per_side))
    limits = {"quality": quality, "stability": stability, "overlap": overlap}
    logits, scores = torch.zeros(0, 0, 0), torch.zeros(0)
    for part in torch.split(points, _CHUNK):
        masks, predicted = network.masks(embedding, points=part, multimask=True)
        masks, predicted = masks.flatten(0, 1), predicted.flatten()
        kept = keep_masks(embedding.inside(masks), predicted, **limits)
        logits = torch.cat([logits.view(-1, *masks.shape[1:]), masks[kept]])
        scores = torch.cat([scores, predicted[kept]])
    kept = keep_masks(embedding.inside(logits), scores, **limits)
    return FoundMasks(embedding, logits[kept], scores[kept])


def grid_points(height: int, width: int, *, side: int) -> list[list[float]]:
    """Centres (x, y) of side × side equal cells of an image, in pixels, rows first."""
    return [
        [(column + 0.5) * width / side, (row + 0.5) * height / side]
        for row in range(side)
        for column in range(side)
    ]


def keep_masks(logits: Tensor, scores: Tensor, *, quality: float, stability: float, overlap: float) -> Tensor:
    """Indices (k,) of the masks that are good, stable, not empty, and of no better one's place; the best first.

    Args:
        logits: (n, h, w).
        scores: (n,) predicted quality.
        quality, stability, overlap: see ``automatic_masks``.
    """
    strict, loose = ((logits > edge).flatten(1).sum(1) for edge in (_OFFSET, -_OFFSET))
    stable = strict / loose.clamp_min(1)
    masks = logits > 0
    good = ((scores > quality) & (stable > stability) & masks.flatten(1).any(1)).nonzero().flatten()
    boxes = torch.tensor([mask_box(mask) for mask in masks[good]]).view(-1, 4)
    boxes = (boxes - torch.tensor([0, 0, 1, 1])).float()  # from pixel to pixel, as torchvision measures
    return good[distinct(box_overlap(boxes, boxes), scores[good], most_overlap=overlap)]
