"""Normalised cuts of a feature map: an object, several objects, or parts that cover the image, all without words.

A graph joins every two cells, strongly where their cosine is over a threshold. The second smallest solution of
(D − A)x = λDx, for the weights A and their row sums D, splits it in two so that each half hangs together. LAPACK
computes this one alone, in 0.07 s for 900 cells on one free core, whatever the graph; ARPACK took 0.02 s where it
is easy and 0.4 s where solutions lie close together, which LOBPCG did not reach. Time grows with the third power of
the cells, so pool larger maps first. The papers cut the keys of DINO.

Source of the cut: Shi and Malik, PAMI 2000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.linalg import eigh
from torch import Tensor
from torch.nn import functional

from ovseg.regions.clusters import numbers_on_pixels
from ovseg.tensors import check_shape

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_WEAK = 1e-5  # weight between cells that are not alike, so that the graph hangs together
_SMALLEST = 3  # cells that can be cut


def salient_object(features: Tensor, *, threshold: float = 0.2) -> Tensor:
    """The object that stands out most.

    Args:
        features: (C, h, w); their length does not count.
        threshold: cosine over which two cells are alike.

    Returns:
        (h, w) bool, connected; nothing where there are fewer than three cells.

    Raises:
        ShapeError: ``features`` is no (C, h, w).

    Source: Wang et al., TokenCut, CVPR 2022.
    """
    vectors, grid = _cells(features)
    half = _halve(vectors, threshold)
    found = (
        np.zeros(grid, bool) if half is None else _part(half, np.arange(len(vectors)), grid, spare_corners=False)
    )
    return torch.from_numpy(found)


def object_masks(
    features: Tensor, *, threshold: float = 0.15, most: int = 3, overlap: float = 0.5, least: float = 0.01
) -> Tensor:
    """Objects, one after the other: what was found before counts as unlike everything else.

    Args:
        features: (C, h, w); their length does not count.
        threshold: cosine over which two cells are alike.
        most: how many are looked for.
        overlap: intersection over union with the one before, over which a find is dropped.
        least: share of the cells up to which a find is dropped; the first is always kept.

    Returns:
        (n, h, w) bool, each without the cells of those before.

    Raises:
        ShapeError: ``features`` is no (C, h, w).

    Source: Wang et al., MaskCut of CutLER, CVPR 2023. The sign of a solution is chance; there the solver's is
    taken, here the larger end is the object unless it holds three corners.
    """
    vectors, grid = _cells(features)
    everything, taken = np.arange(len(vectors)), np.zeros(grid, bool)
    before: Bools = taken
    found: list[Bools] = []
    for number in range(most):
        half = _halve(np.where(taken.reshape(-1, 1), 0, vectors), threshold)
        if half is None:
            break
        part = _part(half, everything, grid, spare_corners=True)
        if number and (part.mean() <= least or (part & before).sum() > overlap * (part | before).sum()):
            part = np.zeros(grid, bool)
        before = part
        if (part & ~taken).any():
            found.append(part & ~taken)
        taken = taken | part
    return torch.from_numpy(np.array(found).reshape(-1, *grid))


def normalized_cut(
    features: Tensor, *, threshold: float = 0.3, most: int = 8, least: int = 5, cost: float = 1.0
) -> Tensor:
    """Parts that cover the image: each is cut off from what the others left.

    Args:
        features: (C, h, w); their length does not count.
        threshold: cosine over which two cells are alike.
        most: how many parts at most.
        least: with so many cells left, or fewer, it ends.
        cost: it ends at a cut that costs this or more. The cost of a cut adds, for both halves, the share of their
            weights that it severs; any cut of cells that are all alike costs 1, and none costs more than 2.

    Returns:
        (h, w) int64 numbers from 0 in the order of the cuts; −1 for what was left. A part is connected.

    Raises:
        ShapeError: ``features`` is no (C, h, w).

    Source: Kang and Cho, LaVG, ECCV 2024 (panoptic cut), which has no bound on the cost.
    """
    vectors, grid = _cells(features)
    regions = np.full(grid, -1)
    for number in range(most):
        free = np.flatnonzero(regions < 0)
        half = None if len(free) <= least else _halve(vectors[free], threshold)
        if half is None or half.cost >= cost - 1e-9:
            break
        regions[_part(half, free, grid, spare_corners=True)] = number
    return torch.from_numpy(regions)


def split_region(features: Tensor, region: Tensor, *, cost: float = 0.5, least: int = 6) -> Tensor:
    """A region cut in two as long as that is cheap, which parts what lies together but is unlike.

    Args:
        features: (C, h, w); their length does not count. Cells are alike where their cosine is over the mean of all
            pairs of the part that is cut.
        region: (h, w) bool.
        cost: no cut that costs this or more is made; see ``normalized_cut``.
        least: cells of a part at least.

    Returns:
        (h, w) int64 numbers from 0; −1 outside the region.

    Raises:
        ShapeError: features or region have another shape.
    """
    vectors, grid = _cells(features)
    check_shape("region", region, "h w", h=grid[0], w=grid[1])
    waiting, numbers, number = [np.flatnonzero(region.cpu().numpy())], np.full(len(vectors), -1), 0
    while waiting:
        cells = waiting.pop()
        if not len(cells):
            continue
        own = vectors[cells]
        half = _halve(own, float(np.square(own.mean(0)).sum())) if len(cells) >= 2 * least else None
        sides = [] if half is None else [cells[half.large], cells[~half.large]]
        if half is None or half.cost >= cost or min(map(len, sides)) < least:
            numbers[cells], number = number, number + 1
        else:
            waiting += sides
    return torch.from_numpy(numbers.reshape(grid))


def ncut(
    image: Tensor,
    structure: Tensor,
    *,
    threshold: float = 0.3,
    most: int = 8,
    least: int = 5,
    cost: float = 1.0,
    cells: int = 900,
) -> Tensor:
    """``normalized_cut`` as regions of the image.

    Args:
        image: (H, W, 3), for its size.
        structure: (S, h, w).
        threshold, most, least, cost: as of ``normalized_cut``.
        cells: a map of more cells is averaged to at most so many before it is cut.

    Returns:
        (H, W) int32 numbers from 0; −1 for what was left.
    """
    check_shape("structure", structure, "S h w")
    rows, columns = structure.shape[1:]
    shrink = (cells / (rows * columns)) ** 0.5
    if shrink < 1:
        grid = (max(1, int(rows * shrink)), max(1, int(columns * shrink)))
        structure = functional.adaptive_avg_pool2d(structure.float(), grid)
    regions = normalized_cut(structure, threshold=threshold, most=int(most), least=int(least), cost=cost)
    return numbers_on_pixels(regions, image)


@dataclass(frozen=True)
class _Half:
    """A graph split in two.

    Attributes:
        values: (n,) solution; its largest absolute value is positive.
        cost: share of its weights that each half loses, added.
    """

    values: Floats
    cost: float

    @property
    def large(self) -> Bools:
        """(n,) the cells over the mean."""
        above: Bools = self.values > self.values.mean()
        return above


def _cells(features: Tensor) -> tuple[Floats, tuple[int, int]]:
    """(C, h, w) to (h·w, C) unit vectors and the grid."""
    check_shape("features", features, "C h w")
    unit = functional.normalize(features.detach().double().cpu().flatten(1), dim=0)
    return unit.T.numpy(), (features.shape[1], features.shape[2])


def _halve(vectors: Floats, threshold: float) -> _Half | None:
    """The normalised cut of (n, C) unit vectors; None for fewer than three."""
    if len(vectors) < _SMALLEST:
        return None
    weights = np.where(vectors @ vectors.T > threshold, 1.0, _WEAK)
    degrees = weights.sum(1)
    root = np.sqrt(degrees)
    # The second largest of D^−½AD^−½ is the second smallest of the cut.
    graph, place = weights / root[:, None] / root, len(vectors) - 2
    solutions = eigh(graph, subset_by_index=[place, place], driver="evr")[1]
    if not solutions.size:  # where nearly all are equal, LAPACK may find none by its number
        solutions = np.linalg.eigh(graph)[1][:, [place]]
    values = solutions[:, 0] / root
    half = _Half(values * np.sign(values[np.abs(values).argmax()]), 0.0)
    severed = weights[half.large][:, ~half.large].sum()
    sides = max(degrees[half.large].sum(), _WEAK), max(degrees[~half.large].sum(), _WEAK)
    return _Half(half.values, float(severed / sides[0] + severed / sides[1]))


def _part(half: _Half, free: npt.NDArray[np.int64], grid: tuple[int, int], *, spare_corners: bool) -> Bools:
    """(h, w) the connected part of one side that holds its end, for a cut of the cells ``free``.

    That is the side with the largest absolute value; the other one where corners are spared and it holds three.
    """
    large, seed = half.large, int(free[half.values.argmax()])
    side = np.zeros(grid, bool)
    side.flat[free] = large
    if spare_corners and side[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= 3:
        side.flat[free], seed = ~large, int(free[half.values.argmin()])
    parts, _ = ndimage.label(side)
    part: Bools = parts == parts.flat[seed]
    return part
