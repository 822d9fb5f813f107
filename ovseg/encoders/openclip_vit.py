"""open_clip's own vision transformer as a tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.tower import TowerTokens, ViTTower, join_heads, resize_positions, split_heads
from ovseg.errors import ModelError


class OpenClipViT(ViTTower):
    """``open_clip.transformer.VisionTransformer`` with standard blocks.

    Raises:
        ModelError: the tower pools by attention, or has blocks of another kind.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        last = visual.transformer.resblocks[-1]
        if visual.attn_pool is not None or not isinstance(last.attn, nn.MultiheadAttention):
            raise ModelError(
                "expected an open_clip tower with nn.MultiheadAttention blocks and no attention pool, got "
                f"{type(last).__name__} with pool {type(visual.attn_pool).__name__}; choose another tower"
            )
        self.visual = visual
        self.stride = int(visual.patch_size[0])
        self.channels = int(visual.output_dim)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The residual attention blocks."""
        blocks: Sequence[nn.Module] = self.visual.transformer.resblocks
        return blocks

    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Patches with the class token and positions; there is no rotary embedding."""
        visual = self.visual
        maps = visual.conv1(pixels)
        grid = (maps.shape[-2], maps.shape[-1])
        patches = maps.flatten(2).transpose(1, 2)
        token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        offset = self.position_offset or 0.0
        positions = resize_positions(visual.positional_embedding, 1, old=visual.grid_size, new=grid, offset=offset)
        values = visual.ln_pre(torch.cat([token, patches], 1) + positions.to(patches.dtype))
        return TowerTokens(values, 1, grid), [None] * len(self.blocks)

    def block_qkv(self, block: Any, tokens: TowerTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a block, each (B, heads, N, d)."""
        attention = block.attn
        joint = functional.linear(block.ln_1(tokens.values), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = (split_heads(part, attention.num_heads) for part in joint.chunk(3, -1))
        return q, k, v

    def block_project(self, block: Any, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection: (B, N, D)."""
        output: Tensor = block.attn.out_proj(join_heads(attended))
        return output

    def block_scale(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the layer scale."""
        output: Tensor = block.ls_1(values)
        return output

    def block_normalise(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the normalisation before the feed-forward layer."""
        output: Tensor = block.ln_2(values)
        return output

    def block_feed_forward(self, block: Any, values: Tensor) -> Tensor:
        """What the feed-forward layer of a block adds."""
        output: Tensor = block.ls_2(block.mlp(self.block_normalise(block, values)))
        return output

    def normalise(self, values: Tensor) -> Tensor:
        """(B, N, D) through ``ln_post``."""
        output: Tensor = self.visual.ln_post(values)
        return output

    def pool(self, values: Tensor) -> Tensor:
        """The class token, or the mean of the patches where the tower is made so."""
        average = self.visual.pool_type == "avg"
        if self.visual.final_ln_after_pool:
            pooled = values[:, 1:].mean(1) if average else values[:, 0]
            return self.to_space(self.normalise(pooled))
        normed = self.normalise(values)
        return self.to_space(normed[:, 1:].mean(1) if average else normed[:, 0])

    def to_space(self, normed: Tensor) -> Tensor:
        """(..., D) after ``ln_post`` to (..., C)."""
        return normed if self.visual.proj is None else normed @ self.visual.proj
