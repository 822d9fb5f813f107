"""What a recipe sees of the last block, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ovseg.errors import ModelError, ShapeError
from ovseg.tensors import check_shape


class OpenTower(Protocol):
    """The tower around a last block, on the images of that block."""

    @property
    def depth(self) -> int:
        """Number of blocks."""

    def entering(self, number: int) -> Tensor:
        """(B, N, D) tokens that enter block ``number``, from 0; only for recipes that keep the history."""

    def patch_qkv(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the last block, (B, heads, h·w, d), of patches (B, h·w, D) alone."""

    def project(self, attended: Tensor) -> Tensor:
        """(B, heads, n, d) attended values through the last block's output projection alone: (B, n, D)."""

    def merge(self, attended: Tensor) -> Tensor:
        """As ``project``, and through the layer scale that follows in some towers: what leaves the attention."""

    def mean_attention(self, blocks: Sequence[int]) -> Tensor:
        """(B, heads, N, N): the mean of the ordinary attention weights of ``blocks``."""

    def region_tokens(self, regions: Tensor) -> Tensor:
        """(B, R, D) copies of the class token that ran through the tower, one for each region.

        ``regions`` are (B, h, w) numbers from 0 on the grid of the block; see ``ViTTower.region_tokens``.
        """


@dataclass(frozen=True)
class LastBlock:
    """Queries, keys and values of the last block, with what a recipe may look at besides.

    Attributes:
        q: (B, heads, N, d) queries; the first ``prefix`` tokens are the class token and registers.
        k: (B, heads, N, d) keys.
        v: (B, heads, N, d) values.
        prefix: number of tokens that are no patches; the class token, where there is one, is the first.
        grid: (h, w) patches, N = prefix + h·w, rows first.
        structure: (B, S, hs, ws) of another encoder, unit vectors over S unless the recipe asks for their
            ``lengths``, or None.
        regions: (B, hs, ws) integer region of each structure cell, −1 outside every region, or None.
        spatial: (B, heads, N, d) values of intermediate layers, through the last block's projection, or None.
        tower: what the block is the last of, or None.
        labels: (B, h, w) integer label that a first pass gave each patch, −1 for none; None in a first pass.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    prefix: int
    grid: tuple[int, int]
    structure: Tensor | None = None
    regions: Tensor | None = None
    spatial: Tensor | None = None
    tower: OpenTower | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.prefix + self.grid[0] * self.grid[1]
        batch, heads, _, _ = self.q.shape
        for name, tensor in (("q", self.q), ("k", self.k), ("v", self.v)):
            check_shape(name, tensor, "B heads N d", B=batch, heads=heads, N=count)
        if self.labels is not None:
            check_shape("labels", self.labels, "B h w", B=batch, h=self.grid[0], w=self.grid[1])
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

    def needed_tower(self) -> OpenTower:
        """The tower around the block.

        Raises:
            ModelError: there is none.
        """
        if self.tower is None:
            raise ModelError("this recipe needs the whole tower, got a single block; run it on an encoder's tower")
        return self.tower

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
    """What the block answers.

    Attributes:
        values: (B, heads, N, d) attended values, before the output projection; or (B, N, D) behind it.
        prefix: tokens of N that are no patches.
        grid: (h, w) of the patches; it may be finer than that of the block.
        branches: what is added after the last normalisation, before the projection into the joint space.
    """

    values: Tensor
    prefix: int
    grid: tuple[int, int]
    branches: tuple[Branch, ...] = ()


def in_proportion(first: int, last: int, *, depth: int) -> range:
    """Numbers of the blocks that are in a tower of ``depth`` what ``first`` to ``last`` are in one of 12."""
    begin, end = (round(number * depth / 12) for number in (first, last + 1))
    begin = min(begin, depth - 1)
    return range(begin, max(end, begin + 1))
