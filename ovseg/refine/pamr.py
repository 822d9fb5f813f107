"""PAMR: maps averaged over neighbours of similar colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.tensors import check_shape

_EPSILON = 1e-8
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
    check_shape("image", image, "B C H W", B=1)
    check_shape("maps", maps, "B K H W", B=1, H=image.shape[2], W=image.shape[3])
    neighbours = list(_neighbours(image, dilations))
    deviation = torch.cat([*neighbours, image]).std(0, unbiased=False, keepdim=True)
    return _averaged(maps, _weights(image, neighbours, deviation), iterations, dilations)


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
    neighbours = list(_neighbours(image, dilations))
    deviation = torch.cat([*neighbours, *[image] * len(dilations)]).std(0, keepdim=True)
    return _averaged(maps, _weights(image, neighbours, deviation), iterations, dilations)


def _weights(image: Tensor, neighbours: Sequence[Tensor], deviation: Tensor) -> Tensor:
    """(8·D, H, W): how much of each neighbour goes into a pixel."""
    scale = 0.1 * deviation + _EPSILON
    distance = torch.cat([((other - image).abs() / scale).mean(1) for other in neighbours])
    return (-distance).softmax(0)


def _averaged(maps: Tensor, weights: Tensor, iterations: int, dilations: Sequence[int]) -> Tensor:
    for _ in range(iterations):
        total = torch.zeros_like(maps)
        for weight, other in zip(weights, _neighbours(maps, dilations), strict=True):
            total.addcmul_(other, weight)
        maps = total
    return maps


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Views (B, C, H, W) of the eight neighbours at every dilation, in pixels; borders repeat."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = functional.pad(maps, (reach,) * 4, mode="replicate")
    for dilation in dilations:
        for dy, dx in _OFFSETS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[..., top : top + height, left : left + width]
