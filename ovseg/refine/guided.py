"""The guided filter: maps as locally linear functions of the colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.tensors import check_shape


def guided_filter(image: Tensor, maps: Tensor, *, radius: int = 8, epsilon: float = 1e-3) -> Tensor:
    """Maps that follow the edges of a colour image.

    Inside every window a map is fitted by a linear function of red, green and blue; a pixel's value is the
    mean of the functions of all windows that hold it.

    Args:
        image: (1, 3, H, W) float in [0, 1].
        maps: (1, K, H, W) float.
        radius: windows are squares of 2·radius + 1 pixels, cut at the border.
        epsilon: > 0, weight of the ridge penalty; larger smooths more.

    Returns:
        (1, K, H, W); not limited to the range of ``maps``.

    Raises:
        ShapeError: the sizes of image and maps differ.

    Source: He, Sun and Tang, Guided Image Filtering, TPAMI 2013, equations 19 to 21.
    """
    check_shape("image", image, "B C H W", B=1, C=3)
    check_shape("maps", maps, "B K H W", B=1, H=image.shape[2], W=image.shape[3])
    mean_image, mean_maps = _box(image, radius), _box(maps, radius)
    count, height, width = maps.shape[1:]
    products = _box((image[:, :, None] * image[:, None]).flatten(1, 2), radius).view(1, 3, 3, height, width)
    variance = products - mean_image[:, :, None] * mean_image[:, None]  # (1, 3, 3, H, W)
    ridge = epsilon * torch.eye(3, dtype=image.dtype, device=image.device)
    both = _box((image[:, :, None] * maps[:, None]).flatten(1, 2), radius).view(1, 3, count, height, width)
    covariance = both - mean_image[:, :, None] * mean_maps[:, None]  # (1, 3, K, H, W)
    slope = torch.linalg.solve(
        variance.permute(0, 3, 4, 1, 2) + ridge, covariance.permute(0, 3, 4, 1, 2)
    )  # (1, H, W, 3, K)
    slope = slope.permute(0, 3, 4, 1, 2)
    offset = mean_maps - (slope * mean_image[:, :, None]).sum(1)
    mean_slope = _box(slope.flatten(1, 2), radius).view(1, 3, count, height, width)
    return (mean_slope * image[:, :, None]).sum(1) + _box(offset, radius)


def _box(maps: Tensor, radius: int) -> Tensor:
    """Means over squares around every pixel, of the pixels inside the image."""
    side = 2 * radius + 1
    return functional.avg_pool2d(maps, side, stride=1, padding=radius, count_include_pad=False)
