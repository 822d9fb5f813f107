"""Regions from colours alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import ShapeError


def slic(image: Tensor, structure: Tensor, *, count: int = 150, compactness: float = 10.0) -> Tensor:
    """Superpixels of similar colour and size.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: not used.
        count: how many, about.
        compactness: larger makes them rounder.

    Returns:
        (H, W) int32 numbers from 0.

    Source: Achanta et al., SLIC Superpixels, PAMI 2012, as in scikit-image.
    """
    from skimage.segmentation import slic as run

    return _numbers(run(_array(image), n_segments=int(count), compactness=compactness, start_label=0))


def felzenszwalb(
    image: Tensor, structure: Tensor, *, scale: float = 100.0, sigma: float = 0.7, smallest: int = 20
) -> Tensor:
    """Regions whose inner differences are smaller than those to their neighbours.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: not used.
        scale: larger makes larger regions.
        sigma: blur before, in pixels.
        smallest: pixels of the smallest region.

    Returns:
        (H, W) int32 numbers from 0.

    Source: Felzenszwalb and Huttenlocher, IJCV 2004, as in scikit-image.
    """
    from skimage.segmentation import felzenszwalb as run

    return _numbers(run(_array(image), scale=scale, sigma=sigma, min_size=int(smallest)))


def _array(image: Tensor) -> Any:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
        raise ShapeError(f"image must be (H, W, 3) uint8, got {tuple(image.shape)} {image.dtype}")
    return image.cpu().numpy()


def _numbers(labels: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int32))
