"""The vision transformers of Hugging Face CLIP and SigLIP as towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.encoders.tower import (
    Grid,
    TowerTokens,
    ViTTower,
    join_heads,
    resize_positions,
    single_tokens,
    split_heads,
)


class HuggingFaceViT(ViTTower):
    """What CLIP and SigLIP of transformers have in common."""

    prefix_tokens = 0

    def __init__(self, vision: Any, channels: int) -> None:
        super().__init__()
        self.vision = vision
        self.stride = int(vision.config.patch_size)
        self.channels = channels

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder layers."""
        layers: Sequence[nn.Module] = self.vision.encoder.layers
        return layers

    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Patches with positions; transformers itself resizes them bicubic, without antialiasing."""
        grid = (pixels.shape[-2] // self.stride, pixels.shape[-1] // self.stride)
        if self.position_offset is None:
            values = self.vision.embeddings(pixels, interpolate_pos_encoding=True)
        else:
            values = self._embedded(pixels, grid, offset=self.position_offset)
        return TowerTokens(values, self.prefix_tokens, grid), [None] * len(self.blocks)

    def _embedded(self, pixels: Tensor, grid: Grid, *, offset: float) -> Tensor:
        parts, size = self.vision.embeddings, self.vision.config.image_size // self.stride
        patches = parts.patch_embedding(pixels).flatten(2).transpose(1, 2)
        special = [parts.class_embedding.expand(patches.shape[0], 1, -1)] if self.prefix_tokens else []
        known = parts.position_embedding.weight
        positions = resize_positions(known, self.prefix_tokens, old=(size, size), new=grid, offset=offset)
        return torch.cat([*special, patches], 1) + positions

    def run_block(self, block: nn.Module, values: Tensor, rope: Tensor | None) -> Tensor:
        """``values`` (B, N, D) through one layer."""
        output: Tensor = block(values, attention_mask=None)
        return output

    def block_qkv(self, block: Any, tokens: TowerTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a layer, each (B, heads, N, d)."""
        attention = block.self_attn
        values = block.layer_norm1(tokens.values)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (split_heads(project(values), attention.num_heads) for project in projections)
        return q, k, v

    def block_project(self, block: Any, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection: (B, N, D)."""
        output: Tensor = block.self_attn.out_proj(join_heads(attended))
        return output

    def block_normalise(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the normalisation before the feed-forward layer."""
        output: Tensor = block.layer_norm2(values)
        return output

    def block_feed_forward(self, block: Any, values: Tensor) -> Tensor:
        """What the feed-forward layer of a layer adds."""
        output: Tensor = block.mlp(self.block_normalise(block, values))
        return output

    def normalise(self, values: Tensor) -> Tensor:
        """(B, N, D) through ``post_layernorm``."""
        output: Tensor = self.vision.post_layernorm(values)
        return output


class HuggingFaceClip(HuggingFaceViT):
    """CLIP and MetaCLIP 2: a class token and a linear projection."""

    prefix_tokens = 1

    def __init__(self, vision: Any, projection: nn.Linear) -> None:
        super().__init__(vision, projection.out_features)
        self.projection = projection

    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Patches with the class token and positions, normalised as CLIP does before its first layer."""
        tokens, ropes = super().embed(pixels)
        return tokens.with_values(self.vision.pre_layrnorm(tokens.values)), ropes

    def to_space(self, normed: Tensor) -> Tensor:
        """(B, N, D) after ``post_layernorm`` to (B, N, C)."""
        output: Tensor = self.projection(normed)
        return output

    def pool(self, values: Tensor) -> Tensor:
        """The class token, projected: (B, C)."""
        return self.project(values[:, :1])[:, 0]


class HuggingFaceSiglip(HuggingFaceViT):
    """SigLIP and the fixed-size SigLIP 2: no class token, an attention pool; patches take its value path."""

    def __init__(self, vision: Any) -> None:
        super().__init__(vision, int(vision.config.hidden_size))

    def to_space(self, normed: Tensor) -> Tensor:
        """(B, N, D) after ``post_layernorm`` to (B, N, C) through the value path of the pool."""
        return single_tokens(self.vision.head, normed)

    def pool(self, values: Tensor) -> Tensor:
        """Image vectors (B, C) by the attention pool."""
        output: Tensor = self.vision.head(self.normalise(values))
        return output
