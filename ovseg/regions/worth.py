"""How much a region is worth a person's label: where many labels meet and the model is unsure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.tensors import check_shape


@dataclass(frozen=True)
class Worth:
    """Of every window of n × n cells that lies inside an image, by its top left cell.

    Attributes:
        impurity: (h − n + 1, w − n + 1) in [0, 1], how many labels meet in it.
        uncertainty: likewise in [0, 1], how unsure the model is of its cells.
    """

    impurity: Tensor
    uncertainty: Tensor

    @property
    def score(self) -> Tensor:
        """Impurity times uncertainty."""
        return self.impurity * self.uncertainty


def region_worth(probabilities: Tensor, *, window: int) -> Worth:
    """Impurity and uncertainty of the windows of an image.

    The impurity is the entropy of the shares that the most probable classes of its cells have in a window, the
    uncertainty the mean entropy of the probabilities of its cells; both over ln K.

    Args:
        probabilities: (K, h, w) of at least 2 classes, at least 0; those of a cell are made to add to 1.
        window: n, cells along a side; a side of the map that is shorter is a window's side.

    Raises:
        ShapeError: fewer than two classes, or a window below 1.

    Source: Xie et al., RIPU, CVPR 2022, section 3.2, with n = 2k + 1. There a window is cut off at the border of
    the image; here those that would be are left out, so that all have one size.
    """
    check_shape("probabilities", probabilities, "K h w")
    count = len(probabilities)
    if count < 2 or window < 1:
        raise ShapeError(f"expected at least 2 classes and a window of at least 1 cell, got {count} and {window}")
    shares = probabilities.float() / probabilities.float().sum(0).clamp_min(1e-12)
    hard = functional.one_hot(shares.argmax(0), count).permute(2, 0, 1).float()
    size = (min(window, hard.shape[1]), min(window, hard.shape[2]))

    def means(maps: Tensor) -> Tensor:
        return functional.avg_pool2d(maps[None], size, stride=1)[0]

    return Worth(_entropy(means(hard)), means(_entropy(shares)[None])[0])


def apart(scores: Tensor, *, most: int, distance: int) -> list[tuple[int, int]]:
    """Rows and columns of the best scores (h, w), each at least ``distance`` in row or column from those before.

    Scores of 0 and below are never taken.
    """
    left = scores.clone()
    found: list[tuple[int, int]] = []
    while len(found) < most and float(left.max()) > 0:
        row, column = divmod(int(left.argmax()), left.shape[1])
        found.append((row, column))
        rows, columns = (slice(max(0, centre - distance + 1), centre + distance) for centre in (row, column))
        left[rows, columns] = -torch.inf
    return found


def unlike(
    scores: Tensor, vectors: Tensor, groups: Sequence[int], *, count: int, each: int, weight: float
) -> list[int]:
    """Positions of the best of n things that are unlike one another, in the order in which they are taken.

    The next is always the one with the largest score × distance^weight, the distance being 1 − cosine to the
    nearest that was taken; so a copy of one of them is worth nothing.

    Args:
        scores: (n,) above 0.
        vectors: (n, C) unit.
        groups: n numbers of the group, such as the image, that each belongs to.
        count: how many, at most.
        each: how many of a group, at most.
        weight: 0 takes the best scores alone.
    """
    nearest = torch.zeros(len(scores))
    taken: list[int] = []
    open_ = torch.ones(len(scores), dtype=torch.bool)
    while len(taken) < count and bool(open_.any()):
        worth = scores.float() * (1 - nearest).clamp_min(0).pow(weight)
        best = int(worth.masked_fill(~open_, -1).argmax())
        taken.append(best)
        open_[best] = False
        if sum(groups[one] == groups[best] for one in taken) >= each:
            open_ &= torch.tensor([group != groups[best] for group in groups])
        nearest = torch.maximum(nearest, vectors.float() @ vectors[best].float())
    return taken


def _entropy(shares: Tensor) -> Tensor:
    """Entropy over the first axis of (K, ...) shares that add to 1, over ln K: in [0, 1]."""
    entropy: Tensor = torch.special.entr(shares).sum(0) / math.log(len(shares))
    return entropy
