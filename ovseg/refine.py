"""Refinement: class maps pulled to the edges of the image, and to cells that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.images import ImageGeometry, prepare, restore, working_size
from ovseg.tensors import check_shape

_EPSILON = 1e-8
_MOST = 16  # classes that are refined at most
_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def affinity(structure: Tensor, *, temperature: float, pool: int = 1) -> Tensor:
    """How much each cell takes from every other: softmax of cosines over a temperature.

    Args:
        structure: (S, h, w) unit vectors over S.
        temperature: > 0; smaller keeps more to the nearest.
        pool: side of the squares of cells that are taken from as one; the cost falls with its square.

    Returns:
        (h·w, n), rows add to 1; n is the number of squares.
    """
    check_shape("structure", structure, "S h w")
    sources = pool_cells(structure, pool).flatten(1)
    return ((structure.flatten(1).T @ sources) / temperature).softmax(-1)


def pool_cells(maps: Tensor, pool: int) -> Tensor:
    """Means over squares of ``pool`` cells: (C, h, w) to (C, ceil(h/pool), ceil(w/pool))."""
    if pool == 1:
        return maps
    return functional.avg_pool2d(maps[None], pool, ceil_mode=True, count_include_pad=False)[0]


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
    check_shape("image", image, "B C H W", B=1)
    check_shape("maps", maps, "B K H W", B=1, H=image.shape[2], W=image.shape[3])
    neighbours = list(_neighbours(image, dilations))
    scale = 0.1 * torch.cat([*neighbours, image]).std(0, unbiased=False, keepdim=True) + _EPSILON
    distance = torch.cat([((other - image).abs() / scale).mean(1) for other in neighbours])
    weights = (-distance).softmax(0)  # (8·D, H, W)
    for _ in range(iterations):
        total = torch.zeros_like(maps)
        for weight, other in zip(weights, _neighbours(maps, dilations), strict=True):
            total.addcmul_(other, weight)
        maps = total
    return maps


@dataclass(frozen=True)
class Refined:
    """Class maps after refinement, for the classes that are still in the running.

    Attributes:
        maps: (k, H', W').
        classes: (k,) int64, which class each map is.
        geometry: H' and W' as the resized size of the image; one cell is one pixel of it.
    """

    maps: Tensor
    classes: Tensor
    geometry: ImageGeometry


class _Plain:
    """Preprocessing of the picture for PAMR: [0, 1], no normalisation."""

    mean, std, interpolation, stride = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", 1


def refine_maps(
    image: npt.NDArray[np.uint8],
    maps: Tensor,
    geometry: ImageGeometry,
    *,
    stride: int,
    iterations: int,
    dilations: Sequence[int],
    long_side: int,
) -> Refined:
    """Coarse class maps refined by PAMR on the image shrunk to ``long_side``.

    Only classes that are among the two best of some cell take part, and of those the ``_MOST`` that are best
    in most cells: the cost does not grow with the vocabulary.

    Args:
        image: (H, W, 3) uint8.
        maps: (K, h, w) at ``stride``.
        geometry: of the encoder's input.
        stride: pixels of that input per cell.
        iterations, dilations: see ``pamr``.
        long_side: longest side to work at, in pixels; smaller images keep their size.
    """
    classes = _contenders(maps)
    long_side = min(long_side, max(geometry.original))
    size = working_size(geometry.original, short_side=long_side, max_long_side=long_side, stride=1)
    pixels, at_size = prepare(image, _Plain(), size=size)
    shrunk = ImageGeometry(size, geometry.resized, geometry.padded)
    coarse = restore(maps[classes][None].float(), shrunk, stride=stride)
    fine = pamr(pixels.to(maps.device), coarse, iterations=iterations, dilations=dilations)
    return Refined(fine[0], classes, at_size)


def _contenders(maps: Tensor) -> Tensor:
    """(K, h, w) to the classes (k,), ascending, that are worth refining."""
    ranks = maps.flatten(1).topk(min(2, len(maps)), dim=0).indices
    cells = ranks.shape[1]
    votes = torch.stack([torch.bincount(rank, minlength=len(maps)) for rank in ranks])
    support = votes[0] * (cells + 1) + votes[1:].sum(0)  # wins first, then second places
    best = support.topk(min(_MOST, len(maps)))
    return best.indices[best.values > 0].sort().values


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Views (B, C, H, W) of the eight neighbours at every dilation, in pixels; borders repeat."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = functional.pad(maps, (reach,) * 4, mode="replicate")
    for dilation in dilations:
        for dy, dx in _OFFSETS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[..., top : top + height, left : left + width]
