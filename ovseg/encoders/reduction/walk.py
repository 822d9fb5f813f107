"""What all ways to go on with fewer tokens have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.config import Config
from ovseg.encoders.tower import TowerTokens, ViTTower
from ovseg.errors import ConfigError


class WayConfig(Config, ABC):
    """One way: its options, and how it runs. The last block always sees all tokens."""

    @abstractmethod
    def check(self, depth: int) -> None:
        """Refuse what a tower of ``depth`` blocks cannot do, by ``ConfigError``."""

    @abstractmethod
    def walk(self, tower: ViTTower, tokens: TowerTokens) -> Callable[[int, Tensor], Tensor]:
        """What runs each block before the last: its number and (B, N, D) to what leaves it. For one batch."""


def check_after(after: int, depth: int) -> None:
    """Refuse a number of blocks behind which none is left to run on fewer tokens.

    Raises:
        ConfigError: says the highest number.
    """
    if after > depth - 2:
        raise ConfigError(
            f"encoder.tokens.after must leave a block between it and the last of {depth}, so be at most "
            f"{depth - 2}, got {after}"
        )


class Walk(ABC):
    """Runs the blocks before the last, for one batch, and changes the patches between them.

    Args:
        tower: whose blocks.
        tokens: that enter the first block.
    """

    def __init__(self, tower: ViTTower, tokens: TowerTokens) -> None:
        self.tower, self.grid, self.prefix = tower, tokens.grid, tokens.prefix
        self.last = len(tower.blocks) - 2

    def __call__(self, number: int, values: Tensor) -> Tensor:
        """(B, N, D) through the block ``number``, of which patches may be merged, left out or put back."""
        return self.changed(number, self.tower.run_block(self.tower.blocks[number], values, None))

    def changed(self, number: int, values: Tensor) -> Tensor:
        """(B, N, D) leaving the block ``number``, after what this way does there."""
        patches = self.between(number, values[:, self.prefix :])
        return torch.cat([values[:, : self.prefix], patches], 1)

    @abstractmethod
    def between(self, number: int, patches: Tensor) -> Tensor:
        """(B, n, D) patches leaving the block ``number``, to those that enter the next."""


def attend(tower: ViTTower, block: Any, values: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens after the attention of a block, before its feed-forward layer.

    Args:
        tower: whose block.
        block: the block.
        values: (B, N, D) that enter it.
        sizes: (B, N), how many tokens each one stands for: it is attended to as if it were there so often.

    Returns:
        (B, N, D), and the keys (B, heads, N, d).
    """
    q, k, v = tower.block_qkv(block, TowerTokens(values, values.shape[1], (0, 0)))
    weight = None if sizes is None else sizes.log()[:, None, None].to(q.dtype)
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=weight)
    return values + tower.block_merge(block, attended), k


def take(values: Tensor, places: Tensor) -> Tensor:
    """(B, n, D) at the places (B, m): (B, m, D)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
