"""PAMR: maps averaged over neighbours of similar colour."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.tensors import check_shape

_EPSILON = 1e-8
_MATRIX_ENTRIES = 1 << 23  # 64 MB as a sparse matrix; larger images are averaged without one
_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def pamr(image: Tensor, maps: Tensor, *, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8)) -> Tensor:
    """Pixel-adaptive mask refinement: maps averaged over neighbours of similar colour.

    The weight of a neighbour is the softmax, over all neighbours of all dilations, of the mean over colours
    of −|ΔI| / (0.1 σ), where σ is the standard deviation of the neighbourhood.

    Args:
        image: (1, 3, H, W) float, any range.
        maps: (1, K, H, W) float.
        iterations: how often the maps are averaged.
        dilations: distances in pixels to the eight neighbours.

    Returns:
        (1, K, H, W); every value lies between the smallest and largest of its neighbourhood.

    Raises:
        ShapeError: the sizes of image and maps differ.

    Source: Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020, section 4.
    """
    return pamr_within(image, maps, None, iterations=iterations, dilations=dilations)


def pamr_within(
    image: Tensor,
    maps: Tensor,
    where: Tensor | None,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8),
) -> Tensor:
    """``pamr`` of the pixels in ``where`` (H, W) bool; the others give their values, and keep them.

    Args, returns and errors are those of ``pamr``; None takes every pixel.
    """
    check_shape("image", image, "B C H W", B=1)
    check_shape("maps", maps, "B K H W", B=1, H=image.shape[2], W=image.shape[3])
    return _averaged(image, maps, _Places(dilations, centres=1, spare=0), iterations, where)


def released_pamr(
    image: Tensor, maps: Tensor, *, iterations: int = 10, dilations: Sequence[int] = (8, 16)
) -> Tensor:
    """PAMR as the code that NACLIP and SCLIP release runs it.

    σ is the unbiased standard deviation over the nine places of every dilation, the centre counted once for each.

    Args:
        image: (1, 3, H, W) float, any range.
        maps: (1, K, h, w) float; resized to the image first, bilinearly with aligned corners.
        iterations: how often the maps are averaged.
        dilations: distances in pixels to the eight neighbours.

    Returns:
        (1, K, H, W).

    Raises:
        ShapeError: there is more than one image.

    Source: Araslanov and Roth, CVPR 2020, as released with Hajimiri et al., NACLIP, WACV 2025.
    """
    check_shape("image", image, "B C H W", B=1)
    check_shape("maps", maps, "B K H W", B=1)
    if maps.shape[2:] != image.shape[2:]:
        maps = functional.interpolate(maps, size=image.shape[2:], mode="bilinear", align_corners=True)
    return _averaged(image, maps, _Places(dilations, centres=len(dilations), spare=1), iterations, None)


@dataclass(frozen=True)
class _Places:
    """The places around a pixel.

    Attributes:
        dilations: distances in pixels to its eight neighbours.
        centres: how often the pixel itself counts in the deviation.
        spare: what is taken off the number of places: 1 for the unbiased deviation.
    """

    dilations: Sequence[int]
    centres: int
    spare: int

    @property
    def neighbours(self) -> int:
        """How many neighbours."""
        return len(_OFFSETS) * len(self.dilations)

    def scale(self, total: Tensor, squares: Tensor) -> Tensor:
        """−1 / (0.1 σ) from the sums of the neighbours' differences from the pixel, and of their squares."""
        places = self.neighbours + self.centres
        variance = (squares - total.square() / places) / (places - self.spare)
        return -1 / (0.1 * variance.clamp_min_(0).sqrt_() + _EPSILON)


def _averaged(image: Tensor, maps: Tensor, places: _Places, iterations: int, where: Tensor | None) -> Tensor:
    entries = image[0, 0].numel() * places.neighbours
    if entries <= _MATRIX_ENTRIES and _multiplies_sparse(maps.device.type):
        return _averaged_by_matrix(image, maps, places, iterations, where)
    weights = _weights(image, places)
    for _ in range(iterations):
        total = torch.zeros_like(maps)
        for weight, other in zip(weights, _neighbours(maps, places.dilations), strict=True):
            total.addcmul_(other, weight)
        maps = total if where is None else torch.where(where, total, maps)
    return maps


def _weights(image: Tensor, places: _Places) -> Tensor:
    """(8·D, H, W): how much of each neighbour goes into a pixel."""
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    for other in _neighbours(image, places.dilations):
        difference = other - image  # about the pixel itself: nothing is lost where colours are large and alike
        total += difference
        squares.addcmul_(difference, difference)
    scale = places.scale(total, squares)
    nearness = [((other - image).abs_() * scale).mean(1)[0] for other in _neighbours(image, places.dilations)]
    return torch.stack(nearness).softmax(0)


def _averaged_by_matrix(
    image: Tensor, maps: Tensor, places: _Places, iterations: int, where: Tensor | None
) -> Tensor:
    """The same as products with a sparse matrix, a row for each pixel: a quarter of the time on a processor."""
    values = maps[0].flatten(1).T.to(image.dtype).contiguous()
    numbers = torch.arange(len(values), dtype=torch.int32, device=maps.device)
    size = (image.shape[2], image.shape[3])
    if where is None:
        columns = _columns(numbers, size, places.dilations)
        matrix = _matrix(image, numbers, columns, columns, places)
        for _ in range(iterations):
            values = matrix @ values
    else:
        order = torch.cat([each.flatten().nonzero().flatten() for each in (where, ~where)])
        rank = torch.empty_like(numbers)
        rank[order] = numbers
        rows = order[: int(where.sum())]
        columns = _columns(rows.int(), size, places.dilations)
        matrix = _matrix(image, rows, columns, rank.index_select(0, columns.flatten()).view_as(columns), places)
        ordered = values[order]  # those that change come first, and so lie together
        for _ in range(iterations):
            ordered[: len(rows)] = matrix @ ordered
        values[rows] = ordered[: len(rows)]
    return values.T.reshape(maps.shape).to(maps.dtype)


def _matrix(image: Tensor, rows: Tensor, columns: Tensor, numbers: Tensor, places: _Places) -> Tensor:
    """(n, H·W) sparse weights of pixels ``rows`` (n,) with neighbours ``columns`` (n, 8·D), put at ``numbers``."""
    starts = torch.arange(0, columns.numel() + 1, places.neighbours, dtype=torch.int32, device=image.device)
    entries = _weights_of_rows(image, rows, columns, places).flatten()
    size = (len(rows), image[0, 0].numel())
    return torch.sparse_csr_tensor(starts, numbers.flatten().int(), entries, size=size, check_invariants=False)


def _weights_of_rows(image: Tensor, rows: Tensor, columns: Tensor, places: _Places) -> Tensor:
    """(n, 8·D), as ``_weights``, of the pixels ``rows`` (n,) whose neighbours are ``columns`` (n, 8·D)."""
    nearness = torch.zeros(columns.shape, dtype=image.dtype, device=image.device)
    for colour in image[0].flatten(1):
        difference = colour.index_select(0, columns.flatten()).view_as(columns).sub_(colour[rows][:, None])
        squares = torch.linalg.vector_norm(difference, dim=1).square()
        scale = places.scale(difference.sum(1), squares) / image.shape[1]
        nearness += difference.abs_().mul_(scale[:, None])
    return nearness.softmax(1)


def _columns(rows: Tensor, size: tuple[int, int], dilations: Sequence[int]) -> Tensor:
    """(n, 8·D) int64 positions of the neighbours of pixels ``rows`` (n,) int32, in the order of ``_neighbours``."""
    height, width = size
    offsets = [(dy * each, dx * each) for each in dilations for dy, dx in _OFFSETS]
    down, across = torch.tensor(offsets, dtype=torch.int32, device=rows.device).T
    lines: Tensor = (rows[:, None] // width + down).clamp_(0, height - 1)
    return lines.mul_(width).add_((rows[:, None] % width + across).clamp_(0, width - 1)).long()


@cache
def _multiplies_sparse(device: str) -> bool:
    """Whether torch multiplies sparse matrices on the device; its warning that they are new is not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            starts = torch.tensor([0, 1], dtype=torch.int32, device=device)
            weight = torch.ones(1, 1, device=device)
            one = torch.sparse_csr_tensor(starts, starts[:1], weight[0], size=(1, 1), check_invariants=False)
            return bool((one @ weight).item() == 1)
        except RuntimeError:
            return False


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Views (B, C, H, W) of the eight neighbours at every dilation, in pixels; borders repeat."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = functional.pad(maps, (reach,) * 4, mode="replicate")
    for dilation in dilations:
        for dy, dx in _OFFSETS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[..., top : top + height, left : left + width]
