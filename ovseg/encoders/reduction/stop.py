"""Patches that clearly belong to one group of the image stop; they are moved on by the patches that go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.reduction.transform import alike
from ovseg.encoders.reduction.walk import Walk, WayConfig, check_after, take
from ovseg.encoders.tower import Grid, TowerTokens, ViTTower, as_maps
from ovseg.errors import ConfigError

_ROUNDS = 5  # of k-means


class StopConfig(WayConfig):
    """Patches that leave the tower early.

    Attributes:
        name: chooses this way.
        after: numbers of blocks, each at least 1 and rising, after which patches stop.
        share: of all patches that stop each time, those that are the surest of their group.
        context: the surest patches of each group that go on all the same; where an image has no more patches than
            the contexts of all groups, none stops.
        groups: square root of the number of groups at most: k-means starts from a grid of so many rows and columns.
        temperature: of the softmax over cosines by which a patch that stopped is moved on; lower mixes less.

    Source: Tang et al., Dynamic Token Pruning in Plain Vision Transformers for Semantic Segmentation, ICCV 2023,
    and its released code, of which ``after`` (for 12 blocks) and ``context`` are. There a trained head is more than
    0.9 sure of a label; an encoder knows no labels here, so patches are grouped by k-means, a patch is the surer,
    the nearer it is to its own group beside the next, and a share of them stops in place of those above a limit.
    There a label is final; here a patch takes part in the last block, so it gets the changes of patches like it.
    """

    name: Literal["stop"] = "stop"
    after: tuple[int, ...] = (6, 8)
    share: float = Field(default=0.25, gt=0, lt=1)
    context: int = Field(default=5, ge=1)
    groups: int = Field(default=4, ge=1)
    temperature: float = Field(default=0.02, gt=0)

    def check(self, depth: int) -> None:
        """Refuse blocks that do not rise, or leave none to run on fewer tokens, and shares that leave no patch."""
        if not self.after or self.after[0] < 1 or list(self.after) != sorted(set(self.after)):
            raise ConfigError(
                f"encoder.tokens.after must be rising numbers of blocks from 1, such as [6, 8], got "
                f"{list(self.after)}"
            )
        check_after(self.after[-1], depth)
        if self.share * len(self.after) >= 1:
            raise ConfigError(
                f"encoder.tokens.share must be below 1 / {len(self.after)}, as so many patches stop "
                f"{len(self.after)} times, got {self.share:g}"
            )

    def walk(self, tower: ViTTower, tokens: TowerTokens) -> Stop:
        """Leaves patches out after some blocks, and puts all back after the last but one."""
        return Stop(self, tower, tokens)


@dataclass(frozen=True)
class _Pause:
    """The patches (B, n, D) as some of them stopped, and the places that go on and that stop."""

    before: Tensor
    going: Tensor
    stopping: Tensor


class Stop(Walk):
    """The group of each patch that goes on, and what was left out so far."""

    def __init__(self, config: StopConfig, tower: ViTTower, tokens: TowerTokens) -> None:
        super().__init__(tower, tokens)
        self._config = config
        self._groups = torch.zeros(0)
        self._pauses: list[_Pause] = []
        self._each = round(config.share * (tokens.values.shape[1] - tokens.prefix))

    def between(self, number: int, patches: Tensor) -> Tensor:
        """Patches, those that go on, or all of them."""
        if number + 1 in self._config.after:
            if not self._pauses:
                self._groups = group(patches, self.grid, self._config.groups)
            going, stopping = choose_stops(
                patches, self._groups, self._count(patches), context=self._config.context
            )
            self._pauses.append(_Pause(patches, going, stopping))
            self._groups = self._groups.gather(1, going)
            patches = take(patches, going)
        if number == self.last:
            for pause in reversed(self._pauses):
                patches = move_on(pause, patches, self._config.temperature)
        return patches

    def _count(self, patches: Tensor) -> int:
        """How many stop: the same for all images of a batch, so what an image gives depends on no other."""
        return max(0, min(self._each, patches.shape[1] - self._config.context * self._config.groups**2))


def group(patches: Tensor, grid: Grid, side: int) -> Tensor:
    """(B, h·w, D) patches, rows first, to (B, h·w) numbers of groups below side²; k-means from means of a grid."""
    centres = functional.adaptive_avg_pool2d(as_maps(patches, grid), (side, side)).flatten(2).transpose(1, 2)
    owner = torch.cdist(patches, centres).argmin(-1)
    for _ in range(_ROUNDS):
        means, counts = _means(patches, owner, side * side)
        centres = torch.where(counts[..., None] > 0, means, centres)
        owner = torch.cdist(patches, centres).argmin(-1)
    return owner


def sureness(patches: Tensor, groups: Tensor) -> Tensor:
    """(B, n): 1 − (distance to the mean of the own group / to the nearest of another); 1 where there is no other.

    Args:
        patches: (B, n, D).
        groups: (B, n) numbers.
    """
    means, counts = _means(patches, groups, int(groups.max()) + 1)
    distances = torch.cdist(patches, means).masked_fill(counts[:, None] == 0, torch.inf)
    own = distances.gather(2, groups[..., None])[..., 0]
    others = distances.scatter(2, groups[..., None], torch.inf).amin(-1)
    return 1 - own / others.clamp_min(1e-12)


def choose_stops(patches: Tensor, groups: Tensor, count: int, *, context: int) -> tuple[Tensor, Tensor]:
    """Which patches go on and which stop.

    Args:
        patches: (B, n, D).
        groups: (B, n) numbers.
        count: how many stop; no more than n less the context of all groups.
        context: the surest patches of each group that go on all the same.

    Returns:
        (B, n − count) places that go on and (B, count) places that stop, each in order.
    """
    sure = sureness(patches, groups)
    members = functional.one_hot(groups).transpose(1, 2).bool()  # (B, groups, n)
    ranked = sure[:, None].expand_as(members).masked_fill(~members, -torch.inf)
    best = ranked.topk(min(context, sure.shape[1]), dim=-1)
    kept = torch.zeros_like(members).scatter_(2, best.indices, best.values > -torch.inf).any(1)
    order = sure.masked_fill(kept, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order[:, count:].sort(-1).values, order[:, :count].sort(-1).values


def move_on(pause: _Pause, now: Tensor, temperature: float) -> Tensor:
    """All patches (B, n, D) of a pause: those that stopped get the changes of those like them that went on.

    Args:
        pause: before it.
        now: (B, m, D) the patches that went on, as they are now.
        temperature: see ``alike``.
    """
    then, stopped = take(pause.before, pause.going), take(pause.before, pause.stopping)
    stopped = stopped + alike(stopped, then, temperature) @ (now - then)
    values = torch.empty_like(pause.before)
    for places, part in ((pause.going, now), (pause.stopping, stopped)):
        values.scatter_(1, places[..., None].expand_as(part), part)
    return values


def _means(patches: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean (B, count, D) of each group, zeros for one without patches, and how many (B, count) it has."""
    members = functional.one_hot(groups, count).to(patches.dtype).transpose(1, 2)
    counts = members.sum(-1)
    return members @ patches / counts.clamp_min(1)[..., None], counts
