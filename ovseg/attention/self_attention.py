"""Recipes that use nothing but the last block itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from ovseg.attention.block import Attended, LastBlock, in_proportion


def plain(block: LastBlock) -> Attended:
    """softmax(q·kᵀ/√d)·v: the block as it was trained.

    Source: Radford et al., CLIP, ICML 2021.
    """
    return block.attended(scaled_dot_product_attention(block.q, block.k, block.v))


def maskclip(block: LastBlock) -> Attended:
    """v: every token attends to itself alone.

    Source: Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022, section 3.2.
    """
    return block.attended(block.v)


def sclip(block: LastBlock) -> Attended:
    """(softmax(q·qᵀ/√d) + softmax(k·kᵀ/√d))·v; the weights of a token add to 2.

    Source: Wang et al., SCLIP, ECCV 2024, equation 4.
    """
    queries = scaled_dot_product_attention(block.q, block.q, block.v)
    return block.attended(queries + scaled_dot_product_attention(block.k, block.k, block.v))


def clearclip(block: LastBlock) -> Attended:
    """softmax(q·qᵀ/√d)·v.

    Source: Lan et al., ClearCLIP, ECCV 2024, section 3.3.
    """
    return block.attended(scaled_dot_product_attention(block.q, block.q, block.v))


def naclip(block: LastBlock, *, sigma: float = 5.0) -> Attended:
    """softmax(k·kᵀ/√d + ω)·v, where ω draws patches to their neighbours.

    Args:
        block: the last block.
        sigma: standard deviation of the neighbourhood, in patches.

    Source: Hajimiri et al., Pay Attention to Your Neighbours, WACV 2025, section 3.3.
    """
    near = neighbourhood(block.grid, block.prefix, sigma=sigma).to(block.k)
    return block.attended(scaled_dot_product_attention(block.k, block.k, block.v, attn_mask=near))


def resclip_rcs(
    block: LastBlock,
    *,
    mix: float = 0.5,
    strength: float = 2.0,
    sigma: float = 5.0,
    first: float = 5,
    last: float = 8,
) -> Attended:
    """strength·((1 − mix)·A + mix·Ā)·v: NACLIP's weights A mixed with the mean Ā of ordinary ones of middle blocks.

    Middle blocks still look across the image, which the last one has given up.

    Args:
        block: the last block of a tower.
        mix: share of the middle blocks; the paper takes 0.2 to 0.6, by data set.
        strength: factor on all weights.
        sigma: standard deviation of NACLIP's neighbourhood, in patches.
        first, last: numbers from 0 of the middle blocks of a tower of 12; in one of another depth in proportion.

    Raises:
        ModelError: the block is not part of a tower.

    Source: Yang et al., ResCLIP, CVPR 2025, residual cross-correlation self-attention; ``feedback.resclip`` has its
    second part too, a pass by the labels of the first.
    """
    near = neighbourhood(block.grid, block.prefix, sigma=sigma).to(block.k)
    own = (key_logits(block) + near).softmax(-1)
    return mixed_with_middle(block, own, mix=mix, strength=strength, first=first, last=last)


def key_logits(block: LastBlock) -> Tensor:
    """(B, heads, N, N): k·kᵀ/√d."""
    logits: Tensor = block.k @ block.k.transpose(2, 3) * block.k.shape[-1] ** -0.5
    return logits


def mixed_with_middle(
    block: LastBlock, own: Tensor, *, mix: float, strength: float, first: float, last: float
) -> Attended:
    """strength·((1 − mix)·own + mix·Ā)·v with weights ``own`` (B, heads, N, N); see ``resclip_rcs``."""
    tower = block.needed_tower()
    middle = tower.mean_attention(in_proportion(int(first), int(last), depth=tower.depth))
    return block.attended(strength * torch.lerp(own, middle.to(own), mix) @ block.v)


def radseg(block: LastBlock, *, sharpness: float = 10.0) -> Attended:
    """softmax(sharpness·S)·v, where S < 0 is left out, with the cosines S of what the block itself would answer.

    The ordinary attention goes through the output projection first, and its channels are told apart into heads
    again; S holds, for each head, the cosines between all tokens of these.

    Args:
        block: the last block of a tower.
        sharpness: factor on the cosines.

    Raises:
        ModelError: the block is not part of a tower.

    Source: Alama et al., RADSeg, 2025, self-correlating recursive attention. As in the released code, the values
    are those of the block, not its first answer.
    """
    first = block.needed_tower().project(plain(block).values).float()  # (B, N, D)
    parts = functional.normalize(first.reshape(*first.shape[:2], block.q.shape[1], -1), dim=-1).transpose(1, 2)
    cosines = parts @ parts.transpose(2, 3)
    weights = (cosines * sharpness).masked_fill(cosines < 0, float("-inf")).softmax(-1)
    return block.attended(weights.to(block.v.dtype) @ block.v)


def neighbourhood(grid: tuple[int, int], prefix: int, *, sigma: float) -> Tensor:
    """exp(−‖p−p'‖²/(2σ²)) between patches p and p'; 0 in the rows and columns of the prefix tokens.

    Returns:
        (N, N) float32 in [0, 1], N = prefix + h·w; 1 on the diagonal of the patches.
    """
    rows, columns = (_falloff(size, sigma) for size in grid)
    near = rows[:, None, :, None] * columns[None, :, None]  # (h, w, h, w)
    near = near.flatten(2).flatten(0, 1)
    return functional.pad(near, (prefix, 0, prefix, 0))


def _falloff(size: int, sigma: float) -> Tensor:
    places = torch.arange(size, dtype=torch.float32)
    return torch.exp(-((places[:, None] - places[None]) ** 2) / (2 * sigma**2))
