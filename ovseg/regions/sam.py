"""Regions by SAM: a grid of points, one mask each, near copies dropped. Needs weights; never the default."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg.errors import ModelError
from ovseg.hub import content_of, download_folder
from ovseg.regions.vote import masks_to_regions

SAM_REPO = "facebook/sam-vit-base"


def sam(
    image: Tensor,
    structure: Tensor,
    *,
    model: str = SAM_REPO,
    points_per_side: int = 16,
    quality: float = 0.88,
    batch: int = 64,
) -> Tensor:
    """Masks of a SAM model as regions.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: not used.
        model: repository on the hub, or a folder.
        points_per_side: side of the grid of point prompts.
        quality: predicted overlap under which a mask is dropped.
        batch: points per run of the mask decoder.

    Returns:
        (H, W) int32 numbers from 0, −1 outside every mask.

    Raises:
        ModelError: the weights are missing.

    Source: Kirillov et al., Segment Anything, ICCV 2023, section 5.
    """
    network, processor = load_sam(model)
    return propose(image, network, processor, side=int(points_per_side), quality=quality, batch=int(batch))


@torch.inference_mode()
def propose(image: Tensor, network: Any, processor: Any, *, side: int, quality: float, batch: int) -> Tensor:
    """Regions of ``image`` by a loaded SAM; the arguments are those of ``sam``."""
    height, width = image.shape[:2]
    points = grid_points(height, width, side=side)
    inputs = processor(image.cpu().numpy(), input_points=[[[point] for point in points]], return_tensors="pt")
    embedding = network.get_image_embeddings(inputs["pixel_values"])
    masks, scores = [], []
    for start in range(0, len(points), batch):
        prompts = inputs["input_points"][:, start : start + batch]
        output = network(image_embeddings=embedding, input_points=prompts, multimask_output=True)
        best = output.iou_scores[0].argmax(-1)
        chosen = torch.arange(len(best))
        masks.append(output.pred_masks[0][chosen, best])
        scores.append(output.iou_scores[0][chosen, best])
    small = torch.cat(masks)[None]  # (1, n, h, w) logits
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    full = processor.image_processor.post_process_masks([small[0][:, None]], *sizes)[0][:, 0]
    good = torch.cat(scores) >= quality
    return masks_to_regions(full[good], torch.cat(scores)[good])


def grid_points(height: int, width: int, *, side: int) -> list[list[float]]:
    """Centres (x, y) of side × side equal cells of an image, in pixels, rows first."""
    return [
        [(column + 0.5) * width / side, (row + 0.5) * height / side]
        for row in range(side)
        for column in range(side)
    ]


def sam_mark(model: str) -> str:
    """What the weights of a SAM model are known by, as far as they are on this machine yet; never downloads."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        found = try_to_load_from_cache(model, "model.safetensors")
        files = [Path(found)] if isinstance(found, str) else []
    return "+".join(content_of(file)[:16] for file in files) or model


@lru_cache(maxsize=1)
def load_sam(model: str) -> tuple[Any, Any]:
    """The frozen network and its processor.

    Raises:
        ModelError: the weights are missing; says how to place them.
    """
    return open_sam(model, "SamModel", "SamProcessor")


def open_sam(model: str, network: str, processor: str) -> tuple[Any, Any]:
    """A network and a processor of transformers, from the hub or a folder.

    Args:
        model: repository or folder.
        network, processor: names of the classes.

    Raises:
        ModelError: the weights are missing; says how to place them.
    """
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    import transformers

    folder = Path(model) if Path(model).is_dir() else download_folder(model, what="the regions' SAM")
    try:
        opened = getattr(transformers, network).from_pretrained(folder, use_safetensors=True)
        return opened.eval().requires_grad_(False), getattr(transformers, processor).from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"expected the weights of SAM in '{folder}', got none ({type(error).__name__}); put them there, or use "
            "source: felzenszwalb, which needs none"
        ) from error
