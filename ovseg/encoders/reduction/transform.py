"""All patches are mixed into fewer by one matrix, and take back what the blocks have changed in these."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.reduction.walk import Walk, WayConfig, check_after, take
from ovseg.encoders.tower import TowerTokens, ViTTower

_LEAST = 1e-12  # smaller weights are left out: numbers near the end of float32 make products ten times slower


class TransformConfig(WayConfig):
    """Patches transformed by a matrix, many to many.

    Attributes:
        name: chooses this way.
        after: number of blocks that see all tokens, at least 1.
        left: share of the patches that the matrix leaves.
        temperature: of the softmax over cosines; lower mixes less.

    Source: Zeng et al., Token Transforming, 2025: Y = W·X with rows of W that add to 1, as each new token is made
    of all others. Its constants and code could not be read: softmax of cosines, patches spread evenly as the ones
    that others gather at, the temperature, and putting back changes in place of values are choices of this project.
    """

    name: Literal["transform"] = "transform"
    after: int = Field(ge=1)
    left: float = Field(default=0.6, gt=0, lt=1)
    temperature: float = Field(default=0.02, gt=0)

    def check(self, depth: int) -> None:
        """Refuse a number of blocks that leaves none to run on fewer tokens."""
        check_after(self.after, depth)

    def walk(self, tower: ViTTower, tokens: TowerTokens) -> Transform:
        """Transforms after one block and back after the last but one."""
        return Transform(self, tower, tokens)


class Transform(Walk):
    """The patches before and after the matrix, and the matrix back."""

    def __init__(self, config: TransformConfig, tower: ViTTower, tokens: TowerTokens) -> None:
        super().__init__(tower, tokens)
        self._config = config
        self._before = self._made = self._back = torch.zeros(0)

    def between(self, number: int, patches: Tensor) -> Tensor:
        """Patches, what the matrix makes of them, or patches with the changes of these."""
        if number == self._config.after - 1:
            total, temperature = patches.shape[1], self._config.temperature
            count = max(1, round(self._config.left * total))
            places = torch.arange(count, device=patches.device) * total // count
            at = take(patches, places.expand(len(patches), -1))
            self._before, self._made = patches, alike(at, patches, temperature) @ patches
            self._back = alike(patches, at, temperature)
            patches = self._made
        if number == self.last:
            patches = self._before + self._back @ (patches - self._made)
        return patches


def alike(given: Tensor, others: Tensor, temperature: float) -> Tensor:
    """How much each of ``given`` takes of ``others``: softmax of their cosines.

    Args:
        given: (B, m, D).
        others: (B, n, D).
        temperature: that cosines are divided by.

    Returns:
        (B, m, n), rows adding to 1 within 1e-6.
    """
    cosines = functional.normalize(given, dim=-1) @ functional.normalize(others, dim=-1).transpose(1, 2)
    weights = (cosines / temperature).softmax(-1)
    return weights.masked_fill(weights < _LEAST, 0.0)
