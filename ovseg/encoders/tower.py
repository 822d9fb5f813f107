"""Image towers opened before their last block, so that a recipe can decide what the block attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.tensors import check_shape

Grid = tuple[int, int]


@dataclass(frozen=True)
class TowerTokens:
    """Tokens entering the last block.

    Attributes:
        values: (B, N, D).
        prefix: leading tokens that are no patches: the class token first, then registers.
        grid: (h, w) patches, N = prefix + h·w.
        rope: rotary embedding of the last block, or None.
        hidden: the tokens entering the last block and those before it, the latest last, as many as asked for.
    """

    values: Tensor
    prefix: int
    grid: Grid
    rope: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()

    def with_values(self, values: Tensor) -> TowerTokens:
        """The same tokens with other vectors."""
        return replace(self, values=values)


class ViTTower(nn.Module, ABC):
    """An image tower split at its last block; a family says how it embeds, projects and pools.

    ``merge`` and ``finish`` are the rest of the last block after ``last_block_qkv``.

    Attributes:
        stride: pixels per patch.
        channels: length C of a projected vector.
        between: called after each block before the last with its number and the tokens (B, N, D); may merge or
            drop tokens, as long as all are back before the last block, whose recipes need the whole grid.
    """

    stride: int
    channels: int
    between: Callable[[int, Tensor], Tensor] | None = None

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """All transformer blocks, in order."""

    @abstractmethod
    def embed(self, pixels: Tensor) -> tuple[TowerTokens, Sequence[Tensor | None]]:
        """Tokens entering the first block, and the rotary embedding of each block."""

    @abstractmethod
    def last_block_qkv(self, tokens: TowerTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the last block, each (B, heads, N, d), ready for a dot product."""

    @abstractmethod
    def merge(self, attended: Tensor) -> Tensor:
        """(B, heads, N, d) through the output projection: (B, N, D)."""

    @abstractmethod
    def feed_forward(self, values: Tensor) -> Tensor:
        """What the feed-forward layer of the last block adds to (B, N, D)."""

    @abstractmethod
    def normalise(self, values: Tensor) -> Tensor:
        """(B, N, D) through the tower's last normalisation."""

    @abstractmethod
    def project(self, values: Tensor) -> Tensor:
        """(B, N, D) leaving the last block to (B, N, C), each token as if it were pooled alone."""

    @abstractmethod
    def pool(self, values: Tensor) -> Tensor:
        """(B, N, D) leaving the last block to image vectors (B, C)."""

    def run_block(self, block: nn.Module, values: Tensor, rope: Tensor | None) -> Tensor:
        """``values`` (B, N, D) through one block."""
        output: Tensor = block(values)
        return output

    def prefix(self, pixels: Tensor, *, keep: int = 0) -> TowerTokens:
        """The tokens of ``pixels`` before the last block.

        Args:
            pixels: (B, 3, H, W), normalised; H and W multiples of the stride.
            keep: how many of the latest block inputs to return as ``hidden``.

        Raises:
            ShapeError: the sizes do not fit the stride.
        """
        check_pixels(pixels, self.stride)
        tokens, ropes = self.embed(pixels)
        values, passed = tokens.values, []
        for number, (block, rope) in enumerate(zip(self.blocks[:-1], ropes[:-1], strict=True)):
            values = self.run_block(block, values, rope)
            if self.between is not None:
                values = self.between(number, values)
            passed.append(values)
        if values.shape[1] != tokens.values.shape[1]:
            raise ShapeError(
                f"the last block must get {tokens.values.shape[1]} tokens, got {values.shape[1]}; what merges some "
                "between blocks must put them back"
            )
        hidden = tuple(passed[-keep:]) if keep else ()
        return replace(tokens, values=values, rope=ropes[-1], hidden=hidden)

    def finish(self, update: Tensor, tokens: TowerTokens, *, residual: bool, feed_forward: bool) -> Tensor:
        """The rest of the tower for the patches.

        Args:
            update: (B, N, D) output of the attention, from ``merge``.
            tokens: says prefix and grid of ``update``, and holds what the residual adds.
            residual: add the tokens that entered the block.
            feed_forward: run the feed-forward layer, which adds to what it is given.

        Returns:
            (B, C, h, w), not normalised.
        """
        values = self.complete(update, tokens, residual=residual, feed_forward=feed_forward)
        patches = self.project(values[:, tokens.prefix :])
        return patches.transpose(1, 2).reshape(len(patches), -1, *tokens.grid)

    def complete(self, update: Tensor, tokens: TowerTokens, *, residual: bool, feed_forward: bool) -> Tensor:
        """Tokens (B, N, D) leaving the last block."""
        values = tokens.values + update if residual else update
        return values + self.feed_forward(values) if feed_forward else values

    def whole_block(self, tokens: TowerTokens) -> Tensor:
        """Tokens (B, N, D) leaving the unchanged last block."""
        attended = functional.scaled_dot_product_attention(*self.last_block_qkv(tokens))
        return self.complete(self.merge(attended), tokens, residual=True, feed_forward=True)

    def image_vector(self, pixels: Tensor) -> Tensor:
        """The tower's own image vectors (B, C), not normalised."""
        return self.pool(self.whole_block(self.prefix(pixels)))


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


def resize_positions(positions: Tensor, prefix: int, *, old: Grid, new: Grid) -> Tensor:
    """Positional embeddings for another grid, bicubic, without antialiasing.

    Args:
        positions: (prefix + h·w, D).
        prefix: leading rows that are kept as they are.
        old: (h, w) of ``positions``.
        new: (h', w').

    Returns:
        (prefix + h'·w', D); ``positions`` itself where the grids are equal.

    Source: Dosovitskiy et al., ICLR 2021, section 3.2; bicubic as in Caron et al., DINO, ICCV 2021.
    """
    if old == new:
        return positions
    maps = positions[prefix:].T.reshape(1, -1, *old).float()  # (1, D, h, w)
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
