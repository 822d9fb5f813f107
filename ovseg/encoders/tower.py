"""Image towers opened before their last block, so that a recipe can decide what the block attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.errors import ModelError, ShapeError
from ovseg.tensors import check_shape

Grid = tuple[int, int]


@dataclass(frozen=True)
class TowerTokens:
    """Tokens entering a block, mostly the last.

    Attributes:
        values: (B, N, D).
        prefix: leading tokens that are no patches: the class token first, then registers.
        grid: (h, w) patches, N = prefix + h·w.
        rope: rotary embedding of the block, or None.
        history: the tokens entering each block, from the first to the last, where they were asked for.
    """

    values: Tensor
    prefix: int
    grid: Grid
    rope: Tensor | None = None
    history: tuple[TowerTokens, ...] = ()

    def with_values(self, values: Tensor) -> TowerTokens:
        """The same tokens with other vectors."""
        return replace(self, values=values)

    def keeping(self, numbers: Collection[int]) -> TowerTokens:
        """The same tokens with the history of these blocks alone, so that the rest takes no memory."""
        history = [
            each if number in numbers else each.with_values(each.values.new_zeros(0))
            for number, each in enumerate(self.history)
        ]
        return replace(self, history=tuple(history))


class ViTTower(nn.Module, ABC):
    """An image tower split at its last block; a family says how it embeds, projects and pools.

    ``last_block_qkv``, ``merge`` and ``complete`` are the parts of the last block, one after the other.

    Attributes:
        stride: pixels per patch.
        channels: length C of a projected vector.
        walk: makes, of this tower and of the tokens entering the first block, what runs each block before the last:
            its number and the tokens (B, N, D) to those that leave it; that may merge or drop tokens, as long as
            all are back before the last block, whose recipes need the whole grid. None runs the blocks as they are.
        position_offset: how positions are resized to another grid: None as the network's library does it, a number
            as ``resize_positions`` does with this offset.
    """

    stride: int
    channels: int
    walk: Callable[[ViTTower, TowerTokens], Callable[[int, Tensor], Tensor]] | None = None
    position_offset: float | None = None

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """All transformer blocks, in order."""

    @abstractmethod
    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Tokens entering the first block, and the rotary embedding of each block."""

    @abstractmethod
    def block_qkv(self, block: Any, tokens: TowerTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a block, each (B, heads, N, d), ready for a dot product."""

    @abstractmethod
    def block_project(self, block: Any, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection of a block: (B, N, D), before any layer scale."""

    def block_scale(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) behind the output projection through the layer scale of a block, where it has one."""
        return values

    def block_merge(self, block: Any, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection and the layer scale of a block: (B, N, D)."""
        return self.block_scale(block, self.block_project(block, attended))

    @abstractmethod
    def block_normalise(self, block: Any, values: Tensor) -> Tensor:
        """(B, N, D) through the normalisation before the feed-forward layer of a block."""

    @abstractmethod
    def block_feed_forward(self, block: Any, values: Tensor) -> Tensor:
        """What the feed-forward layer of a block adds to (B, N, D)."""

    @abstractmethod
    def normalise(self, values: Tensor) -> Tensor:
        """(B, N, D) through the tower's last normalisation."""

    @abstractmethod
    def to_space(self, normed: Tensor) -> Tensor:
        """(B, N, D) after the last normalisation to (B, N, C), each token as if it were pooled alone."""

    @abstractmethod
    def pool(self, values: Tensor) -> Tensor:
        """(B, N, D) leaving the last block to image vectors (B, C)."""

    def run_block(self, block: nn.Module, values: Tensor, rope: Tensor | None) -> Tensor:
        """``values`` (B, N, D) through one block."""
        output: Tensor = block(values)
        return output

    def last_block_qkv(self, tokens: TowerTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the last block, each (B, heads, N, d)."""
        return self.block_qkv(self.blocks[-1], tokens)

    def merge(self, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection of the last block: (B, N, D)."""
        return self.block_merge(self.blocks[-1], attended)

    def feed_forward(self, values: Tensor) -> Tensor:
        """What the feed-forward layer of the last block adds to (B, N, D)."""
        return self.block_feed_forward(self.blocks[-1], values)

    def project(self, values: Tensor) -> Tensor:
        """(B, N, D) leaving the last block to (B, N, C), each token as if it were pooled alone."""
        return self.to_space(self.normalise(values))

    def prefix(self, pixels: Tensor, *, keep: bool = False) -> TowerTokens:
        """The tokens of ``pixels`` before the last block.

        Args:
            pixels: (B, 3, H, W), normalised; H and W multiples of the stride.
            keep: return what enters each block as ``history``.

        Raises:
            ShapeError: the sizes do not fit the stride.
        """
        check_pixels(pixels, self.stride)
        tokens, ropes = self.embed(pixels)
        values, passed = tokens.values, [replace(tokens, rope=ropes[0])]
        step = None if self.walk is None else self.walk(self, passed[0])
        for number, (block, rope) in enumerate(zip(self.blocks[:-1], ropes[:-1], strict=True)):
            values = self.run_block(block, values, rope) if step is None else step(number, values)
            if keep:
                passed.append(replace(tokens, values=values, rope=ropes[number + 1]))
        if values.shape[1] != tokens.values.shape[1]:
            raise ShapeError(
                f"the last block must get {tokens.values.shape[1]} tokens, got {values.shape[1]}; what merges some "
                "between blocks must put them back"
            )
        return replace(tokens, values=values, rope=ropes[-1], history=tuple(passed) if keep else ())

    def region_tokens(self, tokens: TowerTokens, regions: Tensor) -> Tensor:
        """A copy of the class token for each region, run through the whole tower beside the other tokens.

        A copy attends to the class token, any registers, and the patches of its region; neither to itself nor to
        other copies, and no other token attends to it.

        Args:
            tokens: with their ``history``.
            regions: (B, h, w) numbers from 0 on the tower's grid.

        Returns:
            (B, R, D) leaving the last block, R the number of regions; a region without a patch sees no patch.

        Raises:
            ModelError: the tower has no class token.

        Source: Zhang et al., CorrCLIP, ICCV 2025, section 3.3.
        """
        if tokens.prefix == 0:
            raise ModelError(
                "recipe 'corrclip' needs a class token for its semantic branch, but this tower has none; "
                "set its option semantic: 0"
            )
        count = int(regions.max()) + 1
        inside = regions.flatten(1)[:, None] == torch.arange(count, device=regions.device)[:, None]  # (B, R, h·w)
        seen = functional.pad(inside, (tokens.prefix, 0), value=True)[:, None]
        copies = tokens.history[0].values[:, :1].expand(-1, count, -1)
        for block, entering in zip(self.blocks, tokens.history, strict=True):
            # as prefix tokens, copies have no place in the image
            queries, _, _ = self.block_qkv(block, TowerTokens(copies, count, (0, 0), entering.rope))
            _, keys, values = self.block_qkv(block, entering)
            attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
            copies = copies + self.block_merge(block, attended)
            copies = copies + self.block_feed_forward(block, copies)
        return copies

    def mean_attention(self, tokens: TowerTokens, blocks: Sequence[int]) -> Tensor:
        """(B, heads, N, N): the mean of the ordinary attention weights of some blocks.

        Args:
            tokens: with their ``history``.
            blocks: numbers from 0.
        """
        total: Tensor | None = None
        for number in blocks:
            q, k, _ = self.block_qkv(self.blocks[number], tokens.history[number])
            weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
            total = weights if total is None else total + weights
        if total is None:
            raise ShapeError("the mean of attentions needs at least one block, got none; name some")
        return total / len(blocks)

    def inside(self, tokens: TowerTokens, number: int) -> Tensor:
        """(B, N, D): what the feed-forward layer of block ``number``, from 0, is given.

        ``tokens`` are with their ``history``.
        """
        block, entering = self.blocks[number], tokens.history[number]
        attended = functional.scaled_dot_product_attention(*self.block_qkv(block, entering))
        return self.block_normalise(block, entering.values + self.block_merge(block, attended))

    def complete(self, update: Tensor, tokens: TowerTokens, *, residual: bool, feed_forward: bool) -> Tensor:
        """Tokens (B, N, D) leaving the last block.

        Args:
            update: (B, N, D) output of the attention, from ``merge``.
            tokens: what entered the block.
            residual: add the tokens that entered the block.
            feed_forward: run the feed-forward layer, which adds to what it is given.
        """
        values = tokens.values + update if residual else update
        return values + self.feed_forward(values) if feed_forward else values

    def whole_block(self, tokens: TowerTokens) -> Tensor:
        """Tokens (B, N, D) leaving the unchanged last block."""
        attended = functional.scaled_dot_product_attention(*self.last_block_qkv(tokens))
        return self.complete(self.merge(attended), tokens, residual=True, feed_forward=True)

    def image_vector(self, pixels: Tensor) -> Tensor:
        """The tower's own image vectors (B, C), not normalised."""
        return self.pool(self.whole_block(self.prefix(pixels)))


def as_maps(values: Tensor, grid: Grid) -> Tensor:
    """(B, h·w, C), rows first, to (B, C, h, w)."""
    return values.transpose(1, 2).reshape(values.shape[0], -1, *grid)


def check_pixels(pixels: Tensor, stride: int) -> None:
    """Refuse pixels that do not fall into whole patches.

    Raises:
        ShapeError: says the shape and the stride.
    """
    check_shape("pixels", pixels, "B C H W", C=3)
    height, width = pixels.shape[-2:]
    if height % stride or width % stride or not height or not width:
        raise ShapeError(
            f"pixels must have height and width that are multiples of {stride}, got ({height}, {width}); "
            "pad them as ovseg.images.prepare does"
        )


def split_heads(values: Tensor, heads: int) -> Tensor:
    """(B, N, heads·d) to (B, heads, N, d)."""
    return values.reshape(*values.shape[:2], heads, -1).transpose(1, 2)


def join_heads(values: Tensor) -> Tensor:
    """(B, heads, N, d) to (B, N, heads·d)."""
    return values.transpose(1, 2).flatten(2)


def resize_positions(positions: Tensor, prefix: int, *, old: Grid, new: Grid, offset: float = 0.0) -> Tensor:
    """Positional embeddings for another grid, bicubic, without antialiasing.

    Args:
        positions: (prefix + h·w, D).
        prefix: leading rows that are kept as they are.
        old: (h, w) of ``positions``.
        new: (h', w').
        offset: what is added to h' and w' where the step between samples, h / h', is computed. The code of DINO
            adds 0.1 against rounding errors, and the released code of CLIP's dense recipes took that over.

    Returns:
        (prefix + h'·w', D); ``positions`` itself where the grids are equal.

    Source: Dosovitskiy et al., ICLR 2021, section 3.2; bicubic as in Caron et al., DINO, ICCV 2021.
    """
    if old == new:
        return positions
    maps = positions[prefix:].T.reshape(1, -1, *old).float()  # (1, D, h, w)
    if offset:
        factors = [(cells + offset) / before for cells, before in zip(new, old, strict=True)]
        resized = functional.interpolate(maps, scale_factor=factors, mode="bicubic", align_corners=False)
    else:
        resized = functional.interpolate(maps, size=new, mode="bicubic", align_corners=False)
    return torch.cat([positions[:prefix], resized[0].flatten(1).T.to(positions.dtype)])


def single_tokens(pool: nn.Module, values: Tensor) -> Tensor:
    """Each token of (B, N, D) through an attention pool as if it were the whole sequence: (B, N, C).

    With one token the pool's weights are 1, so this is its value path: what MaskCLIP (Zhou et al., ECCV 2022)
    does to the pool of CLIP's ResNets.
    """
    pooled: Tensor = pool(values.flatten(0, 1)[:, None])
    return pooled.reshape(*values.shape[:2], -1)


def last_width(*modules: nn.Module, default: int) -> int:
    """Output channels of the last linear layer in ``modules``; ``default`` where there is none."""
    linear = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    return linear[-1].out_features if linear else default
