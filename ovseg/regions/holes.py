"""Holes: pixels without a label that one label surrounds."""

from __future__ import annotations

from typing import Any

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
    inner = np.ones(count + 1, bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        inner[edge] = False
    inner[0] = False
    if not inner.any():
        return index
    around = _labels_around(parts, pixels, count)
    of_label = np.bincount(pixels[pixels >= 0].ravel())
    small = np.bincount(parts.ravel()) <= share * of_label[around]
    fill = np.where(inner & small, around, -1)
    filled, none = pixels.copy(), parts > 0
    filled[none] = fill[parts[none]]
    return torch.from_numpy(filled).to(index)


def _labels_around(parts: npt.NDArray[np.int32], pixels: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    """Of parts 0 to ``count`` of the pixels without label, the one label that touches each; −1 where several do."""
    lowest, highest = (np.full(count + 1, each, pixels.dtype) for each in (np.iinfo(pixels.dtype).max, -1))
    for axis in (0, 1):
        one, other = (np.moveaxis(each, axis, 0) for each in (parts, pixels))
        borders = np.nonzero((one[1:] > 0) != (one[:-1] > 0))
        for step in (0, 1):  # the part lies before the border, or after it
            part = one[borders[0] + step, borders[1]].astype(np.intp)
            near = other[borders[0] + 1 - step, borders[1]]
            np.minimum.at(lowest, part, near)  # of pixels that have a label the part is 0, which is no part
            np.maximum.at(highest, part, near)
    return np.where(lowest == highest, highest, -1)
