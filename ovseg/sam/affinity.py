"""Which cells of a photo belong together, as the last attention of SAM's image encoder says.

Source: Shi et al., Harnessing Vision Foundation Models (Trident), ICCV 2025, section 3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.sam.hub import open_transformers_sam
from ovseg.sam.protocol import check_image

_HIGHEST = 0.9  # what the limit of cosines is at most
_LOAD = lru_cache(maxsize=1)(open_transformers_sam)


def cell_affinity(model: str, image: Tensor, *, above: float) -> tuple[Tensor, tuple[int, int]]:
    """How much each cell takes from each other cell.

    Args:
        model: repository or folder of a SAM (``facebook/sam-vit-base``), of transformers.
        image: (H, W, 3) uint8 RGB.
        above: cells whose cosine is not above this times the mean cosine take nothing from one another.

    Returns:
        (N, N) float32, rows add to 1, and the grid (h, w) of the N cells that show the photo, rows first.

    Raises:
        ModelError: the weights are missing, or of another kind of network.
        ShapeError: the image has another form.
    """
    network, processor = _LOAD(model)
    inputs = processor(check_image(image).numpy(), return_tensors="pt")
    stride = network.config.vision_config.patch_size
    height, width = (-(-int(side) // stride) for side in inputs["reshaped_input_sizes"][0])
    with torch.inference_mode():
        attention, values = last_attention(network.vision_encoder, inputs["pixel_values"])
    side = inputs["pixel_values"].shape[-1] // stride
    shown = (torch.arange(height)[:, None] * side + torch.arange(width)).flatten()
    return limited(attention[shown][:, shown], values[shown], above=above), (height, width)


def last_attention(encoder: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The attention of the last layer, mean of its heads (N, N), and its values (N, C), of one photo.

    The heads are gone through one by one: together they take 0.8 GB.

    Args:
        encoder: a ``SamVisionEncoder`` whose last layer attends to the whole frame.
        pixels: (1, 3, S, S).
    """
    layer = encoder.layers[-1].attn
    found: list[Tensor] = []
    handle = layer.qkv.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        encoder(pixels)
    finally:
        handle.remove()
    rows, columns = found[0].shape[1:3]
    heads = layer.num_attention_heads
    query, key, value = found[0].view(rows * columns, 3, heads, -1).permute(1, 2, 0, 3)  # (heads, N, d)
    total = torch.zeros(rows * columns, rows * columns)
    for head in range(heads):
        scores = (query[head] * layer.scale) @ key[head].T
        if layer.use_rel_pos:
            size = (rows, columns)
            places = layer.get_decomposed_rel_pos(query[head][None], layer.rel_pos_h, layer.rel_pos_w, size, size)
            scores = scores + places.reshape_as(scores)
        total += scores.softmax(-1)
    return total / heads, value.transpose(0, 1).flatten(1)


def limited(attention: Tensor, values: Tensor, *, above: float) -> Tensor:
    """Attention (N, N) between cells whose values (N, C) are alike enough, its rows adding to 1 again."""
    unit = functional.normalize(values, dim=1)
    cosines = unit @ unit.T
    limit = min(above * float(cosines.mean()), _HIGHEST)
    kept = (cosines > limit) | torch.eye(len(cosines), dtype=torch.bool)  # a cell always sees itself
    weights = attention * kept
    return weights / weights.sum(1, keepdim=True)
