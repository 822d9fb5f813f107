"""What a recipe sees of the last block, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ovseg.errors import ModelError, ShapeError
from ovseg.tensors import check_shape


@dataclass(frozen=True)
class LastBlock:
    """Queries, keys and values of the last block, with what a recipe may look at besides.

    Attributes:
        q, k, v: (B, heads, N, d); the first ``prefix`` tokens are the class token and registers.
        prefix: number of tokens that are no patches; the class token, where there is one, is the first.
        grid: (h, w) patches, N = prefix + h·w, rows first.
        structure: (B, S, hs, ws) unit vectors over S of another encoder, or None.
        regions: (B, hs, ws) integer region of each structure cell, −1 outside every region, or None.
        spatial: (B, heads, N, d) values of intermediate layers, through the last block's projection, or None.
        mean_attention: from numbers of blocks to the mean (B, heads, N, N) of their ordinary attention weights; see
            ``ViTTower.mean_attention``.
        depth: number of blocks of the tower.
        region_tokens: from (B, h, w) numbers from 0 on ``grid`` to (B, R, D) copies of the class token that ran
            through the whole tower, one for each region; see ``ViTTower.region_tokens``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    prefix: int
    grid: tuple[int, int]
    structure: Tensor | None = None
    regions: Tensor | None = None
    spatial: Tensor | None = None
    region_tokens: Callable[[Tensor], Tensor] | None = None
    mean_attention: Callable[[Sequence[int]], Tensor] | None = None
    depth: int = 0

    def __post_init__(self) -> None:
        count = self.prefix + self.grid[0] * self.grid[1]
        batch, heads, _, _ = self.q.shape
        for name, tensor in (("q", self.q), ("k", self.k), ("v", self.v)):
            check_shape(name, tensor, "B heads N d", B=batch, heads=heads, N=count)
        if self.structure is not None:
            check_shape("structure", self.structure, "B S h w", B=batch)
        if self.regions is not None:
            if self.structure is None:
                raise ShapeError("regions must come with structure features of the same grid, got none")
            rows, columns = self.structure.shape[-2:]
            check_shape("regions", self.regions, "B h w", B=batch, h=rows, w=columns)

    def needed_structure(self) -> Tensor:
        """The structure features.

        Raises:
            ModelError: there are none.
        """
        if self.structure is None:
            raise ModelError("this recipe needs a structure encoder, got none; add 'structure:' to the model file")
        return self.structure

    def needed_regions(self) -> Tensor:
        """The regions.

        Raises:
            ModelError: there are none.
        """
        if self.regions is None:
            raise ModelError("this recipe needs regions, got none; add 'regions:' to the model file")
        return self.regions

    def needed_region_tokens(self) -> Callable[[Tensor], Tensor]:
        """What runs copies of the class token through the tower.

        Raises:
            ModelError: there is nothing.
        """
        if self.region_tokens is None:
            raise ModelError("this recipe needs the whole tower for its regions, got a single block")
        return self.region_tokens

    def needed_mean_attention(self) -> Callable[[Sequence[int]], Tensor]:
        """What computes the mean attention of other blocks.

        Raises:
            ModelError: there is nothing.
        """
        if self.mean_attention is None:
            raise ModelError("this recipe needs a tower for the attention of other blocks, got a single block")
        return self.mean_attention

    def attended(self, values: Tensor) -> Attended:
        """(B, heads, N, d) attended values on the block's own tokens."""
        return Attended(values, self.prefix, self.grid)


@dataclass(frozen=True)
class Branch:
    """What is added to attended values once each has been through the last normalisation.

    Attributes:
        weight: factor.
        values: (B, heads, N, d) attended values, before the output projection; or (B, N, D) that left the block.
    """

    weight: float
    values: Tensor


@dataclass(frozen=True)
class Attended:
    """Attended values, before the output projection.

    Attributes:
        values: (B, heads, N, d).
        prefix: tokens of N that are no patches.
        grid: (h, w) of the patches; it may be finer than that of the block.
        branches: what is added after the last normalisation, before the projection into the joint space.
    """

    values: Tensor
    prefix: int
    grid: tuple[int, int]
    branches: tuple[Branch, ...] = ()
