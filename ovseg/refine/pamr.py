"""PAMR: maps averaged over neighbours of similar colour."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
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
    check_shape("image", image, "B C H W", B=1)
    check_shape("maps", maps, "B K H W", B=1, H=image.shape[2], W=image.shape[3])
    deviation = _deviation(image, dilations, centres=1, spare=0)
    return _averaged(maps, _weights(image, deviation, dilations), iterations, dilations)


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
    deviation = _deviation(image, dilations, centres=len(dilations), spare=1)
    return _averaged(maps, _weights(image, deviation, dilations), iterations, dilations)


def _deviation(image: Tensor, dilations: Sequence[int], *, centres: int, spare: int) -> Tensor:
    """(1, C, H, W) standard deviation of a pixel's neighbours and itself.

    Args:
        image: (1, C, H, W).
        dilations: distances to the neighbours.
        centres: how often the pixel itself counts.
        spare: what is taken off the number of places: 1 for the unbiased deviation.
    """
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    for other in _neighbours(image, dilations):
        difference = other - image  # about the pixel itself: nothing is lost where colours are large and alike
        total += difference
        squares.addcmul_(difference, difference)
    places = len(_OFFSETS) * len(dilations) + centres
    variance = (squares - total.square() / places) / (places - spare)
    return variance.clamp_min_(0).sqrt_()


def _weights(image: Tensor, deviation: Tensor, dilations: Sequence[int]) -> Tensor:
    """(8·D, H, W): how much of each neighbour goes into a pixel."""
    scale = -1 / (0.1 * deviation + _EPSILON)
    nearness = [((other - image).abs_() * scale).mean(1)[0] for other in _neighbours(image, dilations)]
    return torch.stack(nearness).softmax(0)


def _averaged(maps: Tensor, weights: Tensor, iterations: int, dilations: Sequence[int]) -> Tensor:
    if weights.numel() <= _MATRIX_ENTRIES and _multiplies_sparse(maps.device.type):
        return _averaged_by_matrix(maps, weights, iterations, dilations)
    for _ in range(iterations):
        total = torch.zeros_like(maps)
        for weight, other in zip(weights, _neighbours(maps, dilations), strict=True):
            total.addcmul_(other, weight)
        maps = total
    return maps


def _averaged_by_matrix(maps: Tensor, weights: Tensor, iterations: int, dilations: Sequence[int]) -> Tensor:
    """The same as products with a sparse matrix, a row for each pixel: a quarter of the time on a processor."""
    height, width = maps.shape[-2:]
    pixels, neighbours = height * width, len(weights)
    places = _places(height, width, dilations, device=maps.device)
    starts = torch.arange(0, pixels * neighbours + 1, neighbours, dtype=torch.int32, device=maps.device)
    entries = weights.flatten(1).T.flatten()
    matrix = torch.sparse_csr_tensor(
        starts, places.flatten(), entries, size=(pixels, pixels), check_invariants=False
    )
    values = maps[0].flatten(1).T.to(entries.dtype).contiguous()
    for _ in range(iterations):
        values = matrix @ values
    return values.T.reshape(maps.shape).to(maps.dtype)


def _places(height: int, width: int, dilations: Sequence[int], *, device: torch.device) -> Tensor:
    """(H·W, 8·D) int32 positions of the neighbours, in the order of ``_neighbours``."""
    offsets = [(dy * each, dx * each) for each in dilations for dy, dx in _OFFSETS]
    steps = torch.tensor(offsets, dtype=torch.int32, device=device)
    down, across = (torch.arange(side, dtype=torch.int32, device=device)[:, None] for side in (height, width))
    rows = (down + steps[:, 0]).clamp(0, height - 1)
    columns = (across + steps[:, 1]).clamp(0, width - 1)
    return (rows[:, None] * width + columns).flatten(0, 1)


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
