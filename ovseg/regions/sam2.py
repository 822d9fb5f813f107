"""Regions by SAM 2 as CorrCLIP takes them: few points, a mask each, larger painted over smaller. Needs weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.regions.vote import paint_by_area
from ovseg.sam.grid import grid_points, keep_masks
from ovseg.sam.load import load_sam
from ovseg.sam.protocol import PromptedSam

SAM2_REPO = "facebook/sam2-hiera-large"


def sam2(
    image: Tensor,
    structure: Tensor,
    *,
    model: str = SAM2_REPO,
    points_per_side: int = 8,
    quality: float = 0.4,
    stability: float = 0.4,
    overlap: float = 0.7,
    batch: int = 64,
) -> Tensor:
    """Masks of a SAM 2 model as regions.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: not used.
        model: repository on the hub, or a folder.
        points_per_side: side of the grid of point prompts.
        quality: predicted overlap at which a mask is dropped.
        stability: overlap of the mask at a stricter and a looser threshold, at which it is dropped.
        overlap: of the boxes of two masks, over which the one of lower quality is dropped.
        batch: points per run of the mask decoder.

    Returns:
        (H, W) int32 numbers from 0 in ascending order of area, −1 outside every mask.

    Raises:
        ModelError: the weights are missing.

    Source: Ravi et al., SAM 2, 2024; the settings are those of version 1 of CorrCLIP's code, ICCV 2025.
    """
    network = load_sam(model)
    logits, scores = propose_logits(image, network, side=int(points_per_side), batch=int(batch))
    kept = keep_masks(logits, scores, quality=quality, stability=stability, overlap=overlap)
    return paint_by_area(logits[kept] > 0)


@torch.inference_mode()
def propose_logits(image: Tensor, network: PromptedSam, *, side: int, batch: int) -> tuple[Tensor, Tensor]:
    """Logits (n, H, W) of one mask for each point of a grid, and (n,) how well it is expected to overlap."""
    height, width = image.shape[:2]
    points = torch.tensor(grid_points(height, width, side=side))
    logits, scores = network.masks(network.encode(image), points=points, batch=batch)
    return functional.interpolate(logits, (height, width), mode="bilinear")[:, 0], scores[:, 0]
