"""Regions by SAM 2 as CorrCLIP takes them: few points, a mask each, larger painted over smaller. Needs weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ovseg.regions.sam import grid_points, open_sam
from ovseg.regions.vote import paint_by_area

SAM2_REPO = "facebook/sam2-hiera-large"
_OFFSET = 1.0  # of the logits between which a stable mask hardly changes


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
    network, processor = load_sam2(model)
    logits, scores = propose_logits(image, network, processor, side=int(points_per_side), batch=int(batch))
    kept = keep_masks(logits, scores, quality=quality, stability=stability, overlap=overlap)
    return paint_by_area(logits[kept] > 0)


@torch.inference_mode()
def propose_logits(image: Tensor, network: Any, processor: Any, *, side: int, batch: int) -> tuple[Tensor, Tensor]:
    """Logits (n, H, W) of one mask for each point of a grid, and (n,) how well it is expected to overlap."""
    height, width = image.shape[:2]
    points = [[[point] for point in grid_points(height, width, side=side)]]
    inputs = processor(images=image.cpu().numpy(), input_points=points, return_tensors="pt")
    embeddings = network.get_image_embeddings(inputs["pixel_values"])
    logits, scores = [], []
    for prompts in torch.split(inputs["input_points"], batch, dim=1):
        output = network(image_embeddings=embeddings, input_points=prompts, multimask_output=False)
        whole = processor.post_process_masks(output.pred_masks, inputs["original_sizes"], binarize=False)[0]
        logits.append(whole[:, 0])
        scores.append(output.iou_scores[0, :, 0])
    return torch.cat(logits).float(), torch.cat(scores).float()


def keep_masks(logits: Tensor, scores: Tensor, *, quality: float, stability: float, overlap: float) -> Tensor:
    """Indices (k,) of the masks that are good, stable, not empty, and of no better one's place; the best first.

    Args:
        logits: (n, H, W).
        scores: (n,) predicted quality.
        quality, stability, overlap: see ``sam2``.
    """
    strict, loose = ((logits > edge).flatten(1).sum(1) for edge in (_OFFSET, -_OFFSET))
    stable = strict / loose.clamp_min(1)
    masks = logits > 0
    good = (scores > quality) & (stable > stability) & masks.flatten(1).any(1)
    order = [number for number in scores.argsort(descending=True, stable=True).tolist() if good[number]]
    boxes = {number: _box(masks[number]) for number in order}
    kept: list[int] = []
    for number in order:
        if all(_box_overlap(boxes[number], boxes[other]) <= overlap for other in kept):
            kept.append(number)
    return torch.tensor(kept, dtype=torch.long)


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask's pixels, all included."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _box_overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes, with sides from first to last pixel, as torchvision measures them."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if areas > both else 0.0


@lru_cache(maxsize=1)
def load_sam2(model: str) -> tuple[Any, Any]:
    """The frozen network and its processor.

    Raises:
        ModelError: the weights are missing; says how to place them.
    """
    return open_sam(model, "Sam2Model", "Sam2Processor")
