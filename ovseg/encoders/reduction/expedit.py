"""Patches are clustered once, and put back before the last block."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.reduction.walk import Walk, WayConfig, check_after
from ovseg.encoders.tower import Grid, TowerTokens, ViTTower, as_maps
from ovseg.errors import ConfigError


class ExpeditConfig(WayConfig):
    """Patches clustered between two blocks.

    Attributes:
        name: chooses this way.
        after: number of blocks that see all tokens, at least 1.
        share: of the rows and of the columns of patches that are left.
        iterations: of soft k-means.
        window: side of the square of centres that a patch may belong to, in centres; odd.
        sharpness: factor of the squared distance in all weights.
        nearest: centres that a patch is put back from.

    Source: Liang et al., Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning,
    NeurIPS 2022, sections 3.2 and 3.3. Weights of the centres that a patch is put back from add to 1, as in the
    paper; its code divides by their length.
    """

    name: Literal["expedit"] = "expedit"
    after: int = Field(ge=1)
    share: float = Field(default=0.7, gt=0, lt=1)
    iterations: int = Field(default=5, ge=1)
    window: int = Field(default=5, ge=1)
    sharpness: float = Field(default=0.01, gt=0)
    nearest: int = Field(default=20, ge=1)

    def check(self, depth: int) -> None:
        """Refuse a number of blocks that leaves none to run on centres, and a window without a middle."""
        check_after(self.after, depth)
        if self.window % 2 == 0:
            raise ConfigError(f"encoder.tokens.window must be odd, got {self.window}; take one more")

    def walk(self, tower: ViTTower, tokens: TowerTokens) -> Expedit:
        """Clusters after one block and puts back after the last but one."""
        return Expedit(self, tower, tokens)


class Expedit(Walk):
    """The patches and centres as they were clustered."""

    def __init__(self, config: ExpeditConfig, tower: ViTTower, tokens: TowerTokens) -> None:
        super().__init__(tower, tokens)
        self._config = config
        self._patches = self._centres = torch.zeros(0)

    def between(self, number: int, patches: Tensor) -> Tensor:
        """Patches, their centres, or patches that were put back."""
        if number == self._config.after - 1:
            self._patches, self._centres = patches, cluster(patches, self.grid, self._config)
            patches = self._centres
        if number == self.last:
            sharpness, nearest = self._config.sharpness, self._config.nearest
            patches = put_back(self._patches, self._centres, patches, sharpness=sharpness, nearest=nearest)
        return patches


def cluster(patches: Tensor, grid: Grid, config: ExpeditConfig) -> Tensor:
    """(B, h·w, D) patches to (B, n, D) centres, rows first: soft k-means, each patch among the centres near it.

    Args:
        patches: of a grid, rows first.
        grid: (h, w).
        config: see ``ExpeditConfig``.
    """
    rows, columns = (max(1, round(config.share * side)) for side in grid)
    maps = functional.adaptive_avg_pool2d(as_maps(patches, grid), (rows, columns))
    centres = maps.flatten(2).transpose(1, 2)
    near = _near(grid, (rows, columns), config.window).to(patches.device)  # (h·w, n)
    for _ in range(config.iterations):
        weights = (-config.sharpness * torch.cdist(patches, centres).square()).masked_fill(~near, -torch.inf)
        weights = weights.softmax(-1)
        centres = weights.transpose(1, 2) @ patches / weights.sum(1)[..., None].clamp_min(1e-12)
    return centres


def _near(grid: Grid, centres: Grid, window: int) -> Tensor:
    """(h·w, n) bool: the centres in the square around the one whose part of the grid a patch lies in."""
    along = []
    for side, count in zip(grid, centres, strict=True):
        own = torch.arange(side) * count // side
        along.append((own[:, None] - torch.arange(count)[None]).abs() <= window // 2)
    return (along[0][:, None, :, None] & along[1][None, :, None, :]).flatten(2).flatten(0, 1)


def put_back(patches: Tensor, centres: Tensor, processed: Tensor, *, sharpness: float, nearest: int) -> Tensor:
    """(B, n, D) centres that blocks have changed, to the (B, N, D) patches that they were made from.

    Args:
        patches: (B, N, D) as they were clustered.
        centres: (B, n, D) as they were then.
        processed: (B, n, D) as they are now.
        sharpness: a patch takes exp(−sharpness · squared distance) of each of its nearest centres.
        nearest: so many centres at most.
    """
    scores = -sharpness * torch.cdist(patches, centres).square()
    best, place = scores.topk(min(nearest, centres.shape[1]), dim=-1)
    weights = torch.zeros_like(scores).scatter_(-1, place, best.softmax(-1))
    return weights @ processed
