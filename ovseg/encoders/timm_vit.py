"""timm's VisionTransformer and NaFlexVit as towers, alone or as the trunk of an open_clip model."""

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
    last_width,
    resize_positions,
    single_tokens,
)
from ovseg.errors import ModelError


class TimmViT(ViTTower):
    """``timm.models.vision_transformer.VisionTransformer`` with standard blocks.

    Towers that pool by attention (SigLIP) give dense features through the value path of the pool.

    Args:
        trunk: the network.
        head: what follows the trunk's own head.

    Raises:
        ModelError: the blocks are of another kind.
    """

    _block_kind = "Block"
    _embedding = "patch_embed"

    def __init__(self, trunk: Any, head: nn.Module | None = None) -> None:
        super().__init__()
        last = trunk.blocks[-1] if len(trunk.blocks) else None
        gated = getattr(getattr(last, "attn", None), "gate", None) is not None
        if type(last).__name__ != self._block_kind or gated:
            raise ModelError(
                f"expected a timm network whose last block is an ungated '{self._block_kind}', got "
                f"{type(last).__name__} in {type(trunk).__name__}; choose another tower"
            )
        self.trunk = trunk
        self.head = nn.Identity() if head is None else head
        self.stride = int(getattr(trunk, self._embedding).feat_ratio())
        self.channels = last_width(trunk.head, self.head, default=int(trunk.embed_dim))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self.trunk.blocks)

    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Patches with prefix tokens and positions, and no rotary embedding."""
        patches, grid = self._patches(pixels)
        values = self.trunk.norm_pre(self._with_prefix(patches, self._positions(grid)))
        return TowerTokens(values, self.trunk.num_prefix_tokens, grid), [None] * len(self.blocks)

    def _patches(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        """(B, h·w, D) and the grid; called part by part, as the embedding refuses other sizes."""
        embedding = self.trunk.patch_embed
        maps = pixels
        if hasattr(embedding, "backbone"):  # convolutional stem
            maps = embedding.backbone(pixels)
            maps = maps[-1] if isinstance(maps, (list, tuple)) else maps
        maps = embedding.proj(maps)
        patches = maps.flatten(2).transpose(1, 2)
        if hasattr(embedding, "norm"):
            patches = embedding.norm(patches)
        return patches, (maps.shape[-2], maps.shape[-1])

    def _positions(self, grid: Grid) -> Tensor | None:
        """(1, N, D) positional embeddings, or None; timm itself resizes them bicubic with antialiasing."""
        from timm.layers import resample_abs_pos_embed

        trunk = self.trunk
        if trunk.pos_embed is None:
            return None
        old, prefix = trunk.patch_embed.grid_size, 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        if self.position_offset is not None:
            offset = self.position_offset
            return resize_positions(trunk.pos_embed[0], prefix, old=tuple(old), new=grid, offset=offset)[None]
        positions: Tensor = resample_abs_pos_embed(
            trunk.pos_embed, new_size=list(grid), old_size=list(old), num_prefix_tokens=prefix
        )
        return positions

    def _with_prefix(self, patches: Tensor, positions: Tensor | None) -> Tensor:
        trunk = self.trunk
        special = [token for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        prefix = [token.expand(patches.shape[0], -1, -1) for token in special]
        if positions is None:
            return torch.cat([*prefix, patches], 1)
        if trunk.no_embed_class:
            return torch.cat([*prefix, patches + positions], 1)
        return torch.cat([*prefix, patches], 1) + positions

    def block_qkv(self, block: Any, tokens: TowerTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a block, each (B, heads, N, d)."""
        attention = block.attn
        joint = attention.qkv(block.norm1(tokens.values))
        q, k, v = joint.view(*joint.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        return attention.q_norm(q), attention.k_norm(k), v

    def block_project(self, block: Any, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection: (B, N, D)."""
        output: Tensor = block.attn.proj(block.attn.norm(join_heads(attended)))
        return output

    def block_scale(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the layer scale."""
        output: Tensor = block.ls1(values)
        return output

    def block_normalise(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the normalisation before the feed-forward layer."""
        output: Tensor = block.norm2(values)
        return output

    def block_feed_forward(self, block: Any, values: Tensor) -> Tensor:
        """What the feed-forward layer of a block adds."""
        output: Tensor = block.ls2(block.mlp(self.block_normalise(block, values)))
        return output

    def normalise(self, values: Tensor) -> Tensor:
        """(B, N, D) through the trunk's last normalisation."""
        output: Tensor = self.trunk.norm(values)
        return output

    def to_space(self, normed: Tensor) -> Tensor:
        """(B, N, D) after the last normalisation to (B, N, C), each token as if it were pooled alone."""
        pool = self.trunk.attn_pool
        pooled = normed if pool is None else single_tokens(pool, normed)
        output: Tensor = self.head(self.trunk.head(self.trunk.fc_norm(pooled)))
        return output

    def pool(self, values: Tensor) -> Tensor:
        """Image vectors (B, C) by the trunk's own pooling."""
        output: Tensor = self.head(self.trunk.forward_head(self.normalise(values)))
        return output


class TimmNaFlex(TimmViT):
    """``timm.models.naflexvit.NaFlexVit`` with standard blocks, which resizes its own positions: C-RADIO.

    RADIO's positions are resized to a square of the longer side and cropped; timm's plain RADIO networks fix that
    at the size they are loaded for.

    Raises:
        ModelError: the blocks are of another kind.
    """

    _embedding = "embeds"

    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Patches with prefix tokens and positions, and no rotary embedding."""
        if self.position_offset is not None:
            raise ModelError("position_offset does nothing here, as this network resizes its positions; remove it")
        patches, (rows, columns) = self.trunk.embeds(pixels)
        values = self.trunk.norm_pre(patches)
        return TowerTokens(values, self.trunk.num_prefix_tokens, (rows, columns)), [None] * len(self.blocks)
