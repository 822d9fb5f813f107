"""Tokens that look alike are merged in every block, and each patch gets the value of its token back."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.reduction.walk import Walk, WayConfig, attend, check_after, take
from ovseg.encoders.tower import TowerTokens, ViTTower


class ToMeConfig(WayConfig):
    """Tokens merged by bipartite soft matching.

    Attributes:
        name: chooses this way.
        after: number of blocks that merge nothing.
        merged: share of all patches that each later block but the last merges into others.
        by: what is compared: the keys of a block, averaged over its heads, or the tokens after its attention.
        proportional: whether a token is attended to as often as the patches it stands for.

    Source: Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, section 3; patches are put back as its
    authors do for images that are generated: every patch gets a copy of its token. Registers are kept as the class
    token is. Tokens that are not merged stay in order, as in the released code for towers with a class token.
    """

    name: Literal["tome"] = "tome"
    after: int = Field(default=0, ge=0)
    merged: float = Field(gt=0, le=0.5)
    by: Literal["keys", "tokens"] = "keys"
    proportional: bool = True

    def check(self, depth: int) -> None:
        """Refuse a number of blocks that leaves none to merge in."""
        check_after(self.after, depth)

    def walk(self, tower: ViTTower, tokens: TowerTokens) -> ToMe:
        """Merges in every block, and puts back after the last but one."""
        return ToMe(self, tower, tokens)


class ToMe(Walk):
    """Which token each patch is in, and how many patches are in each token."""

    def __init__(self, config: ToMeConfig, tower: ViTTower, tokens: TowerTokens) -> None:
        super().__init__(tower, tokens)
        self._config = config
        batch, count = tokens.values.shape[0], tokens.values.shape[1] - tokens.prefix
        exact = torch.promote_types(tokens.values.dtype, torch.float32)
        self._sizes = tokens.values.new_ones(batch, count, dtype=exact)
        self._owner = torch.arange(count, device=tokens.values.device).expand(batch, -1)
        self._each = round(config.merged * count)

    def __call__(self, number: int, values: Tensor) -> Tensor:
        """(B, N, D) through a block, merged between its attention and its feed-forward layer."""
        if number < self._config.after:
            return super().__call__(number, values)
        block = self.tower.blocks[number]
        sizes = functional.pad(self._sizes, (self.prefix, 0), value=1.0) if self._config.proportional else None
        values, keys = attend(self.tower, block, values, sizes)
        compared = keys.mean(1) if self._config.by == "keys" else values
        values = self._merged(values, compared[:, self.prefix :])
        return self.changed(number, values + self.tower.block_feed_forward(block, values))

    def _merged(self, values: Tensor, compared: Tensor) -> Tensor:
        owner, count = pair(compared, self._each, first=self.prefix % 2)
        patches, self._sizes = merge(values[:, self.prefix :], self._sizes, owner, count)
        self._owner = owner.gather(1, self._owner)
        return torch.cat([values[:, : self.prefix], patches], 1)

    def between(self, number: int, patches: Tensor) -> Tensor:
        """Patches as they are, and one for each place of the grid after the last but one block."""
        return take(patches, self._owner) if number == self.last else patches


def pair(compared: Tensor, most: int, *, first: int) -> tuple[Tensor, int]:
    """Bipartite soft matching: every second patch finds the most similar of the others; the best pairs are merged.

    Args:
        compared: (B, n, d), compared by cosine.
        most: so many pairs, at most half of the patches.
        first: the first patch that is merged into another, 0 or 1; the others are every second one from it.

    Returns:
        (B, n) the new place of each patch, and how many places there are: first patches that could have been
        merged and were not, in order, then those that others are merged into.
    """
    batch, total, _ = compared.shape
    most = min(most, total // 2)
    if most == 0:
        return torch.arange(total, device=compared.device).expand(batch, -1), total
    unit = functional.normalize(compared, dim=-1)
    movers, targets = unit[:, first::2], unit[:, 1 - first :: 2]
    best, nearest = (movers @ targets.transpose(1, 2)).max(-1)  # (B, a)
    order = best.argsort(dim=-1, descending=True, stable=True)
    stay = movers.shape[1] - most
    places = (nearest + stay).scatter(
        1, order[:, most:].sort(-1).values, torch.arange(stay, device=order.device).expand(batch, -1)
    )
    owner = (stay + torch.arange(total, device=order.device) // 2).repeat(batch, 1)  # right for the targets
    owner[:, first::2] = places
    return owner, total - most


def merge(patches: Tensor, sizes: Tensor, owner: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means of patches that go to the same place, each weighted by its size.

    Args:
        patches: (B, n, D).
        sizes: (B, n).
        owner: (B, n) places below ``count``.
        count: number of places.

    Returns:
        (B, count, D), and the sizes (B, count).
    """
    total = sizes.new_zeros(len(sizes), count).scatter_add(1, owner, sizes)
    sums = sizes.new_zeros(len(patches), count, patches.shape[-1]).scatter_add(
        1, owner[..., None].expand_as(patches), patches * sizes[..., None]
    )
    return (sums / total[..., None]).to(patches.dtype), total
