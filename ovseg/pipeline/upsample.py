"""From coarse class maps to the winner at every pixel of the original image, exactly and in bounded memory.

A pixel's value is a convex mix of at most four cells. So inside a block of cells a class can only be among
the two best where its largest cell reaches the second-largest of all classes' smallest cells. Only such
candidates are interpolated: the result equals interpolating every class, at a cost that hardly grows with
their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ovseg.images.geometry import Geometry, ImageGeometry, interpolation_matrix
from ovseg.tensors import check_shape

_BLOCK_CELLS = 4  # a power of two; smaller blocks have fewer candidates but cost more calls
_BLOCK_PIXELS = 16384  # larger blocks where the cells are small
_MANY = 64  # candidates above which a block is cut
_FEW = 6  # candidates that are compared one after the other, which is quicker
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


def axis_matrices(
    geometry: ImageGeometry, grid: tuple[int, int], *, stride: float, device: torch.device
) -> list[Tensor]:
    """The two interpolation matrices (H, h) and (W, w) from cells to original pixels; padding drops out."""
    return [
        interpolation_matrix(original, cells, cells_per_pixel=resized / original / stride, device=device)
        for original, resized, cells in zip(geometry.original, geometry.resized, grid, strict=True)
    ]


def find_winners(
    maps: Tensor, geometry: Geometry, *, stride: float, classes: Tensor | None = None, most: int | None = None
) -> Winners:
    """The best and second-best class at each pixel of the original image.

    Args:
        maps: (K, h, w) float class maps at ``stride``.
        geometry: how the image became the encoder's input.
        stride: pixels of the input per cell.
        classes: (K,) int64, the number of each map's class; None: its place.
        most: values interpolated at once, if fewer than by default.

    Returns:
        Equal to bilinear interpolation of all K maps followed by the two largest, for every pixel.

    Raises:
        ShapeError: ``maps`` is not (K, h, w).
    """
    check_shape("maps", maps, "K h w")
    maps = maps.float()
    numbers = torch.arange(len(maps), device=maps.device) if classes is None else classes.to(maps.device)
    numbers = numbers.to(torch.int32)
    most = min(most or _BLOCK_VALUES, _BLOCK_VALUES)
    if not isinstance(geometry, ImageGeometry):
        return _winners_by_rows(maps, geometry, numbers, stride=stride, most=most)
    down, across = axis_matrices(geometry, (maps.shape[1], maps.shape[2]), stride=stride, device=maps.device)
    height, width = geometry.original
    index = torch.empty(height, width, dtype=torch.int32, device=maps.device)
    best = torch.empty(height, width, device=maps.device)
    second = torch.zeros(height, width, device=maps.device)
    # Choosing candidates saves arithmetic and asks the device for each block: an accelerator is quicker without.
    cut = _pieces if maps.device.type == "cpu" else _whole
    for piece in cut(maps, _first_pixels(down), _first_pixels(across)):
        rows, columns, candidates = piece.rows, piece.columns, piece.candidates
        patch = maps[:, piece.row_cells, piece.column_cells][candidates]
        part = patch @ across[columns, piece.column_cells].T  # (k, cells, columns)
        for some in row_bands(rows, part.shape[0] * part.shape[2], most=most):
            values = torch.matmul(down[some, piece.row_cells], part)
            index[some, columns], best[some, columns], next_best = _two_best(values, numbers[candidates])
            if next_best is not None:
                second[some, columns] = next_best
    return Winners(index, best, second)


def _two_best(values: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of (k, rows, columns) values the number of the largest, the largest and the next; the first of equal ones."""
    if len(values) > _FEW:
        best, order = values.max(0)
        return numbers[order], best, values.scatter_(0, order.unsqueeze(0), -torch.inf).amax(0)
    best, second = values[0], None
    index = numbers[0].expand(best.shape)
    for number, value in zip(numbers[1:], values[1:], strict=True):
        index = torch.where(value > best, number, index)
        less = torch.minimum(best, value)
        best = torch.maximum(best, value)
        second = less if second is None else torch.maximum(second, less)
    return index, best, second


def _winners_by_rows(maps: Tensor, geometry: Geometry, numbers: Tensor, *, stride: float, most: int) -> Winners:
    """The same where nothing is known of how cells lie on pixels: every class, a band of rows at a time."""
    height, width = geometry.original
    bands = []
    for rows in row_bands(slice(0, height), len(maps) * width, most=most):
        values = geometry.sample(maps[None], rows, stride=stride)[0]
        best, order = values.topk(min(2, len(maps)), dim=0)
        second = best[1] if len(maps) > 1 else torch.zeros_like(best[0])
        bands.append((numbers[order[0]], best[0], second))
    return Winners(*(torch.cat(part) for part in zip(*bands, strict=True)))


@dataclass(frozen=True)
class _Piece:
    """Pixels (rows, columns), the cells they draw on, and the classes (k,) that can be among their two best."""

    rows: slice
    columns: slice
    row_cells: slice
    column_cells: slice
    candidates: Tensor


def _whole(maps: Tensor, row_at: list[int], column_at: list[int]) -> Iterator[_Piece]:
    """Every pixel, every cell and every class as one piece."""
    everything = torch.arange(maps.shape[0], device=maps.device)
    yield _Piece(slice(0, row_at[-1]), slice(0, column_at[-1]), slice(None), slice(None), everything)


def _pieces(maps: Tensor, row_at: list[int], column_at: list[int]) -> Iterator[_Piece]:
    """Pieces that together cover every pixel once; a block with many candidates is cut into quarters."""
    # Blocks of few cells have few candidates, but each costs a call: where cells are small, blocks hold more of
    # them.
    everything = torch.arange(maps.shape[0], device=maps.device)
    size = _BLOCK_CELLS
    cells, pixels = maps[0].numel(), row_at[-1] * column_at[-1]
    while size**2 * pixels < _BLOCK_PIXELS * cells and size**2 < cells:
        size *= 2
    corners = product(*(range(0, cells, size) for cells in maps.shape[1:]))
    blocks = [(top, left, size, everything) for top, left in corners]
    while blocks:
        top, left, size, classes = blocks.pop()
        rows, columns = _pixels(row_at, top, size), _pixels(column_at, left, size)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        row_cells, column_cells = slice(top, top + size + 1), slice(left, left + size + 1)
        candidates = classes[_candidates(maps[classes, row_cells, column_cells])]
        if len(candidates) > _MANY and size > 1:
            half = -(-size // 2)
            corners = product((top, top + half), (left, left + half))
            blocks += [(*corner, half, candidates) for corner in corners]
        else:
            yield _Piece(rows, columns, row_cells, column_cells, candidates)


def _candidates(patch: Tensor) -> Tensor:
    """Classes that can be among the two best somewhere inside a patch (K, a, b) of cells."""
    flat = patch.flatten(1)
    if flat.shape[0] <= 2:
        return torch.arange(flat.shape[0], device=patch.device)
    floor = flat.amin(1).topk(2).values[1]
    return (flat.amax(1) >= floor).nonzero().flatten()


def _first_pixels(matrix: Tensor) -> list[int]:
    """For each cell of an interpolation matrix (pixels, cells), and past the last, its first pixel."""
    cells = torch.arange(matrix.shape[1], device=matrix.device)
    lower = (matrix > 0).int().argmax(1)
    return [*torch.searchsorted(lower, cells).tolist(), matrix.shape[0]]


def _pixels(first: list[int], start: int, size: int) -> slice:
    last = len(first) - 1
    return slice(first[min(start, last)], first[min(start + size, last)])


def row_bands(rows: slice, values_per_row: int, *, most: int) -> Iterator[slice]:
    """``rows`` in bands of at most ``most`` values, or of one row."""
    step = max(1, most // max(values_per_row, 1))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))
