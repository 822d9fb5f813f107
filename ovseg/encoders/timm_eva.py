"""timm's Eva as a tower: EVA-02, PE-Core and DINOv3, with rotary embeddings and prefix tokens."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.timm_vit import TimmViT
from ovseg.encoders.tower import Grid, TowerTokens, join_heads, split_heads
from ovseg.errors import ModelError


class TimmEva(TimmViT):
    """``timm.models.eva.Eva`` with pre-norm blocks.

    The queries and keys that recipes see carry the rotary embedding, as they do in the block.

    Raises:
        ModelError: the blocks are of another kind, or share keys between heads.
    """

    _block_kind = "EvaBlock"

    def __init__(self, trunk: Any, head: nn.Module | None = None) -> None:
        super().__init__(trunk, head)
        if getattr(trunk.blocks[-1].attn, "num_kv_groups", 1) != 1:
            raise ModelError(
                "expected an Eva network with one key per head, got grouped keys; choose another tower"
            )

    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Patches with prefix tokens and positions, and the rotary embedding of each block."""
        tokens, none = super().embed(pixels)
        rope = self.trunk.rope
        if rope is None:
            return tokens, none
        angles = _angles(rope, tokens.grid)
        return tokens, list(angles) if self.trunk.rope_mixed else [angles] * len(none)

    def run_block(self, block: nn.Module, values: Tensor, rope: Tensor | None) -> Tensor:
        """``values`` (B, N, D) through one block with its rotary embedding."""
        output: Tensor = block(values, rope=rope)
        return output

    def block_qkv(self, block: Any, tokens: TowerTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys after rotation, and values, each (B, heads, N, d)."""
        attention = block.attn
        q, k, v = _projections(attention, block.norm1(tokens.values))
        q, k = attention.q_norm(q), attention.k_norm(k)
        if tokens.rope is not None and q.shape[2] > tokens.prefix:
            half = bool(getattr(attention, "rotate_half", False))
            q, k = (_rotate(part, tokens.rope, tokens.prefix, half=half).type_as(v) for part in (q, k))
        return q, k, v

    def block_project(self, block: Any, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection: (B, N, D)."""
        output: Tensor = block.attn.proj(block.attn.norm(join_heads(attended)))
        return output

    def block_scale(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the layer scale."""
        return _scaled(values, block.gamma_1)

    def block_normalise(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the normalisation before the feed-forward layer."""
        output: Tensor = block.norm2(values)
        return output

    def block_feed_forward(self, block: Any, values: Tensor) -> Tensor:
        """What the feed-forward layer of a block adds."""
        return _scaled(block.mlp(self.block_normalise(block, values)), block.gamma_2)


def _angles(rope: Any, grid: Grid) -> Tensor:
    """Rotary embedding for a grid. A copy is set to the grid, so that the network keeps its own size."""
    if getattr(rope, "feat_shape", None) is None:  # made for every size, as DINOv3's, or it has no size to set
        fresh: Tensor = rope.get_embed(shape=list(grid))
        return fresh
    twin = deepcopy(rope)
    twin.update_feat_shape(list(grid))
    angles: Tensor = twin.get_embed()
    return angles


def _projections(attention: Any, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, D) to q, k, v (B, heads, N, d), from one layer or from three."""
    if attention.qkv is None:
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (split_heads(layer(values), attention.num_heads) for layer in layers)
        return q, k, v
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # EVA learns no bias for the keys
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    joint = functional.linear(values, attention.qkv.weight, bias)
    q, k, v = joint.view(*joint.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return q, k, v


def _rotate(values: Tensor, rope: Tensor, prefix: int, *, half: bool) -> Tensor:
    """(B, heads, N, d) with the patches rotated; the prefix has no place in the image."""
    from timm.layers import apply_rot_embed_cat

    rotated = apply_rot_embed_cat(values[:, :, prefix:], rope, half=half)
    return torch.cat([values[:, :, :prefix].to(rotated.dtype), rotated], 2)


def _scaled(values: Tensor, scale: Tensor | None) -> Tensor:
    return values if scale is None else values * scale
