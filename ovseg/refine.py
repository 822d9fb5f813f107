"""Refinement: class maps pulled to the edges of the image, and to cells that look alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.tensors import check_shape

_EPSILON = 1e-8
_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def affinity(structure: Tensor, *, temperature: float) -> Tensor:
    """How much each cell takes from every other: softmax of cosines over a temperature.

    Args:
        structure: (S, h, w) unit vectors over S.
        temperature: > 0; smaller keeps more to the nearest.

    Returns:
        (h·w, h·w), rows add to 1.
    """
    check_shape("structure", structure, "S h w")
    vectors = structure.flatten(1)
    return ((vectors.T @ vectors) / temperature).softmax(-1)


def pamr(
    image: Tensor, maps: Tensor, *, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8)
) -> Tensor:
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
    differences, values = [], []
    for dilation in dilations:
        shifted = _neighbours(image, dilation)  # (8, 3, H, W)
        differences.append((shifted - image).abs())
        values.append(shifted)
    spread = torch.cat([*values, image]).std(0, unbiased=False, keepdim=True)
    distance = (torch.cat(differences) / (0.1 * spread + _EPSILON)).mean(1, keepdim=True)
    weights = (-distance).softmax(0)  # (8·D, 1, H, W)
    for _ in range(iterations):
        total = torch.zeros_like(maps)
        for number, dilation in enumerate(dilations):
            part = weights[8 * number : 8 * number + 8]
            total += (_neighbours(maps, dilation) * part).sum(0, keepdim=True)
        maps = total
    return maps


def _neighbours(maps: Tensor, dilation: int) -> Tensor:
    """(1, C, H, W) to (8, C, H, W): the eight neighbours at ``dilation`` pixels; borders repeat."""
    height, width = maps.shape[-2:]
    padded = functional.pad(maps, (dilation,) * 4, mode="replicate")
    return torch.cat(
        [
            padded[
                :,
                :,
                dilation * (1 + dy) : dilation * (1 + dy) + height,
                dilation * (1 + dx) : dilation * (1 + dx) + width,
            ]
            for dy, dx in _OFFSETS
        ]
    )
