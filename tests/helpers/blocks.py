"""A made-up last block with the tower around it, and slow float64 loops that recipes are compared with."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ovseg.attention import LastBlock

GRID, FINE = (3, 5), (4, 6)


class FakeTower:
    """Twelve blocks with random tokens and linear maps; what it is asked for is written down.

    Attributes:
        asked: the numbers of blocks whose mean attention was asked for, call by call.
    """

    depth = 12

    def __init__(self, batch: int, count: int, *, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.tokens = torch.randn(self.depth, batch, count, 8, generator=draw).cumsum(0)
        self.joint = torch.randn(8, 24, generator=draw) / 3
        self.output = torch.randn(8, 8, generator=draw) / 3
        self.middle = middle_weights(batch, count)
        self.table = region_table(batch)
        self.asked: list[list[int]] = []

    def entering(self, number):
        return self.tokens[number]

    def patch_qkv(self, patches):
        joint = (patches @ self.joint).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return tuple(joint)

    def project(self, attended):
        return self.merge(attended)

    def merge(self, attended):
        return attended.transpose(1, 2).flatten(2) @ self.output

    def mean_attention(self, blocks):
        self.asked.append(list(blocks))
        return self.middle

    def region_tokens(self, regions):
        return self.table[:, : int(regions.max()) + 1]

    def changed(self, change):
        """The same tower with ``change`` applied to all that has an image axis first, and to its maps."""
        other = object.__new__(FakeTower)
        other.tokens = torch.stack([change(tokens) for tokens in self.tokens])
        other.joint, other.output, other.asked = self.joint, self.output, self.asked
        other.middle, other.table = change(self.middle), change(self.table)
        return other

    def to(self, dtype):
        """The same tower in another precision."""
        other = self.changed(lambda values: values.to(dtype))
        other.joint, other.output = self.joint.to(dtype), self.output.to(dtype)
        return other


def make_block(*, prefix: int, batch: int = 2, fine: tuple[int, int] = FINE, seed: int = 0) -> LastBlock:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    count = prefix + GRID[0] * GRID[1]
    structure = torch.nn.functional.normalize(normal(batch, 8, *fine) + 0.5, dim=1)
    return LastBlock(
        *(normal(batch, 2, count, 4) for _ in range(3)),
        prefix,
        GRID,
        structure=structure,
        regions=torch.randint(-1, 4, (batch, *fine), generator=draw),
        spatial=normal(batch, 2, count, 4),
        tower=FakeTower(batch, count, seed=seed),
    )


def of_image(block: LastBlock, image: int) -> LastBlock:
    """One image of a made-up block."""
    part = slice(image, image + 1)
    names = ("q", "k", "v", "structure", "regions", "spatial")
    return replace(
        block,
        **{name: getattr(block, name)[part] for name in names},
        tower=block.tower.changed(lambda values: values[part]),
    )


def middle_weights(batch: int, count: int) -> torch.Tensor:
    """(B, 2, N, N) made up weights of middle blocks; rows add to 1."""
    return torch.linspace(0, 3, batch * 2 * count * count).view(batch, 2, count, count).sin().softmax(-1)


def region_table(batch: int) -> torch.Tensor:
    """(B, R, 8) made up tokens of regions."""
    return torch.arange(batch * 9 * 8, dtype=torch.float32).view(batch, 9, 8)


def rows_softmax(logits):
    top = max(logits)
    weights = [math.exp(value - top) for value in logits]
    return [weight / sum(weights) for weight in weights]


def dot(left, right):
    return float((left.double() * right.double()).sum())


def weighted(weights, values):
    return sum(weight * value.double() for weight, value in zip(weights, values, strict=True))


def self_attention(left, right, values, bias=None):
    """(N, d) each, one head of one image."""
    out = []
    for row, query in enumerate(left):
        logits = [dot(query, key) / math.sqrt(len(query)) for key in right]
        if bias is not None:
            logits = [logit + bias[row][column] for column, logit in enumerate(logits)]
        out.append(weighted(rows_softmax(logits), values))
    return torch.stack(out)


def nearness(prefix, sigma=5.0):
    places = [None] * prefix + [(row, column) for row in range(GRID[0]) for column in range(GRID[1])]
    return [
        [
            0.0 if p is None or o is None else math.exp(-((p[0] - o[0]) ** 2 + (p[1] - o[1]) ** 2) / (2 * sigma**2))
            for o in places
        ]
        for p in places
    ]
