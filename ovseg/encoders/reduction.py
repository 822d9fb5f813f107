"""Fewer tokens between two blocks of a tower, without training: clustered, and put back before the last block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ovseg.config import Config
from ovseg.encoders.tower import Grid, TowerTokens, as_maps
from ovseg.errors import ConfigError


class TokensConfig(Config):
    """Where a tower goes on with fewer tokens (Expedit).

    Attributes:
        after: number of blocks that see all tokens, at least 1; the last block sees all again.
        share: of the rows and of the columns of patches that are left.
        iterations: of soft k-means.
        window: side of the square of centres that a patch may belong to, in centres; odd.
        sharpness: factor of the squared distance in all weights.
        nearest: centres that a patch is put back from.
    """

    after: int = Field(ge=1)
    share: float = Field(default=0.7, gt=0, lt=1)
    iterations: int = Field(default=5, ge=1)
    window: int = Field(default=5, ge=1)
    sharpness: float = Field(default=0.01, gt=0)
    nearest: int = Field(default=20, ge=1)


@dataclass(frozen=True)
class TokenReduction:
    """What a tower does between its blocks; holds nothing of an image.

    Args:
        config: where and how.
        depth: number of blocks of the tower.

    Raises:
        ConfigError: fewer than one block would run on fewer tokens.

    Source: Liang et al., Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning,
    NeurIPS 2022, sections 3.2 and 3.3. Weights of the centres that a patch is put back from add to 1, as in the
    paper; its code divides by their length.
    """

    config: TokensConfig
    depth: int

    def __post_init__(self) -> None:
        if self.config.after > self.depth - 2:
            raise ConfigError(
                f"encoder.tokens.after must leave a block between it and the last of {self.depth}, so be at most "
                f"{self.depth - 2}, got {self.config.after}"
            )
        if self.config.window % 2 == 0:
            raise ConfigError(f"encoder.tokens.window must be odd, got {self.config.window}; take one more")

    def __call__(self, tokens: TowerTokens) -> Callable[[int, Tensor], Tensor]:
        """What is called after each block of one batch, with the block's number and (B, N, D) tokens.

        Raises:
            ConfigError: the tokens have rotary positions, which centres between them would not have.
        """
        if tokens.rope is not None:
            raise ConfigError("encoder.tokens needs a tower without rotary positions; remove it, or take another")
        return _Step(self.config, self.depth, tokens.prefix, tokens.grid)


class _Step:
    """Clusters after one block and puts back after the last but one, for one batch."""

    def __init__(self, config: TokensConfig, depth: int, prefix: int, grid: Grid) -> None:
        self._config, self._last, self._prefix, self._grid = config, depth - 2, prefix, grid
        self._patches = self._centres = torch.zeros(0)

    def __call__(self, number: int, values: Tensor) -> Tensor:
        prefix, patches = values[:, : self._prefix], values[:, self._prefix :]
        if number == self._config.after - 1:
            self._patches, self._centres = patches, cluster(patches, self._grid, self._config)
            patches = self._centres
        if number == self._last:
            settings = {"sharpness": self._config.sharpness, "nearest": self._config.nearest}
            patches = put_back(self._patches, self._centres, patches, **settings)  # type: ignore[arg-type]
        return torch.cat([prefix, patches], 1)


def cluster(patches: Tensor, grid: Grid, config: TokensConfig) -> Tensor:
    """(B, h·w, D) patches to (B, n, D) centres, rows first: soft k-means, each patch among the centres near it.

    Args:
        patches: of a grid, rows first.
        grid: (h, w).
        config: see ``TokensConfig``.
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
