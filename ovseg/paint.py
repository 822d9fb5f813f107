"""From coarse class maps to the winner at every pixel of the original image, exactly and in bounded memory.

A pixel's value is a convex mix of at most four cells. So inside a block of cells a class can only be among
the two best where its largest cell reaches the second-largest of all classes' smallest cells. Only such
candidates are interpolated: the result equals interpolating every class, at a cost that hardly grows with
their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ovseg.images import ImageGeometry
from ovseg.tensors import check_shape

_BLOCK_CELLS = 8
_BLOCK_VALUES = 24_000_000  # values interpolated at once, 96 MB in float32


@dataclass(frozen=True)
class Winners:
    """The two best classes of every pixel.

    Attributes:
        index: (H, W) int32, the best class.
        best: (H, W) float32, its value.
        second: (H, W) float32, the value of the next class; 0 where there is only one.
    """

    index: Tensor
    best: Tensor
    second: Tensor


def interpolation_matrix(length: int, cells: int, *, cells_per_pixel: float, device: torch.device) -> Tensor:
    """Linear interpolation along one axis, pixel centres aligned (``align_corners=False``).

    Args:
        length: number of pixels.
        cells: number of cells.
        cells_per_pixel: cells that one pixel spans.
        device: where to make it.

    Returns:
        (length, cells) float32; rows add to 1, at most two entries each.
    """
    position = (torch.arange(length, device=device, dtype=torch.float64) + 0.5) * cells_per_pixel - 0.5
    position = position.clamp(0, cells - 1)
    lower = position.floor().long().clamp(max=max(cells - 2, 0))
    weight = (position - lower).float()
    matrix = torch.zeros(length, cells, device=device)
    rows = torch.arange(length, device=device)
    matrix[rows, lower] = 1 - weight
    if cells > 1:
        matrix[rows, lower + 1] = weight
    return matrix


def axis_matrices(
    geometry: ImageGeometry, grid: tuple[int, int], *, stride: int, device: torch.device
) -> list[Tensor]:
    """The two interpolation matrices (H, h) and (W, w) from cells to original pixels; padding drops out."""
    return [
        interpolation_matrix(original, cells, cells_per_pixel=resized / original / stride, device=device)
        for original, resized, cells in zip(geometry.original, geometry.resized, grid, strict=True)
    ]


def find_winners(maps: Tensor, geometry: ImageGeometry, *, stride: int) -> Winners:
    """The best and second-best class at each pixel of the original image.

    Args:
        maps: (K, h, w) float class maps at ``stride``.
        geometry: how the image became the encoder's input.
        stride: pixels of the input per cell.

    Returns:
        Equal to bilinear interpolation of all K maps followed by the two largest, for every pixel.

    Raises:
        ShapeError: ``maps`` is not (K, h, w).
    """
    check_shape("maps", maps, "K h w")
    maps = maps.float()
    down, across = axis_matrices(geometry, (maps.shape[1], maps.shape[2]), stride=stride, device=maps.device)
    height, width = geometry.original
    index = torch.empty(height, width, dtype=torch.int32, device=maps.device)
    best = torch.empty(height, width, device=maps.device)
    second = torch.zeros(height, width, device=maps.device)
    for rows, row_cells in _blocks(down):
        for columns, column_cells in _blocks(across):
            patch = maps[:, row_cells, column_cells]
            candidates = _candidates(patch)
            part = patch[candidates] @ across[columns, column_cells].T  # (k, cells, columns)
            for some in _row_chunks(rows, part.shape[0] * part.shape[2]):
                values = torch.matmul(down[some, row_cells], part)
                first, order = values.max(0)
                index[some, columns] = candidates[order].to(torch.int32)
                best[some, columns] = first
                if len(candidates) > 1:
                    values.scatter_(0, order.unsqueeze(0), -torch.inf)
                    second[some, columns] = values.amax(0)
    return Winners(index, best, second)


def interpolate(maps: Tensor, geometry: ImageGeometry, *, stride: int) -> Tensor:
    """(K, h, w) coarse maps to (K, H, W) at the original size: all of them, for the few that are kept."""
    down, across = axis_matrices(geometry, (maps.shape[1], maps.shape[2]), stride=stride, device=maps.device)
    return torch.matmul(down, maps.float() @ across.T)


def _candidates(patch: Tensor) -> Tensor:
    """Classes that can be among the two best somewhere inside a patch (K, a, b) of cells."""
    flat = patch.flatten(1)
    if flat.shape[0] <= 2:
        return torch.arange(flat.shape[0], device=patch.device)
    floor = flat.amin(1).topk(2).values[1]
    return (flat.amax(1) >= floor).nonzero().flatten()


def _blocks(matrix: Tensor) -> Iterator[tuple[slice, slice]]:
    """Runs of pixels and the cells they draw on, one run per ``_BLOCK_CELLS`` cells."""
    cells = matrix.shape[1]
    lower = (matrix > 0).int().argmax(1)
    bounds = torch.searchsorted(lower, torch.arange(0, cells + _BLOCK_CELLS, _BLOCK_CELLS, device=matrix.device))
    edges = [0, *bounds[1:].tolist()]
    edges[-1] = matrix.shape[0]
    for number, (start, stop) in enumerate(pairwise(edges)):
        if stop > start:
            first = number * _BLOCK_CELLS
            yield slice(start, stop), slice(first, min(first + _BLOCK_CELLS + 1, cells))


def _row_chunks(rows: slice, values_per_row: int) -> Iterator[slice]:
    step = max(1, _BLOCK_VALUES // max(values_per_row, 1))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))
