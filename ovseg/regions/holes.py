"""Holes: pixels without a label that one label surrounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.tensors import check_shape


def fill_holes(index: Tensor, *, share: float) -> Tensor:
    """The label map with its holes in the label around them.

    A hole is a 4-connected part of pixels with no label that touches one label alone, does not touch the border of
    the image, and is at most ``share`` of the area of that label. So a ring keeps a large middle.

    Args:
        index: (H, W) integers, −1 for none.
        share: in [0, 1].

    Returns:
        The same kind of map.

    Raises:
        ShapeError: ``index`` has another shape.
    """
    from scipy.ndimage import label

    check_shape("index", index, "H W")
    pixels = index.cpu().numpy()
    parts, count = label(pixels < 0)
    if not count:
        return index
    least, most = _labels_around(parts, pixels, count)
    alone = (least == most) & (least >= 0)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        alone[edge] = False
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    of_label = np.bincount(pixels[pixels >= 0].ravel(), minlength=int(pixels.max()) + 1) if alone.any() else areas
    alone[alone] = areas[alone] <= share * of_label[least[alone]]
    alone[0] = False
    filled = np.where(alone[parts], least[parts], pixels)
    return torch.from_numpy(filled).to(index)


def _labels_around(
    parts: npt.NDArray[np.int32], pixels: npt.NDArray[np.int32], count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(count + 1,) the least and the largest label that touches each part; −1 and less for none."""
    least = np.full(count + 1, np.iinfo(np.int32).max, np.int32)
    most = np.full(count + 1, -1, np.int32)
    down, up, right, left = np.s_[1:], np.s_[:-1], np.s_[:, 1:], np.s_[:, :-1]
    for own, near in ((down, up), (up, down), (right, left), (left, right)):
        touching = np.flatnonzero((parts[own] > 0) & (pixels[near] >= 0))
        numbers, labels = parts[own].ravel()[touching], pixels[near].ravel()[touching]
        np.minimum.at(least, numbers, labels)
        np.maximum.at(most, numbers, labels)
    return least, most
