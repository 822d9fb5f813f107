"""Holes: pixels without a label that one label surrounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.tensors import check_shape

Box = tuple[slice, slice]


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
    from scipy.ndimage import find_objects, label

    check_shape("index", index, "H W")
    pixels = index.cpu().numpy()
    parts, count = label(pixels < 0)
    inner = np.ones(count + 1, bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        inner[edge] = False
    boxes = find_objects(parts) if inner[1:].any() else []
    holes = [(box, part, _hole(parts, pixels, box, part)) for part, box in enumerate(boxes, start=1) if inner[part]]
    if all(around < 0 for _, _, around in holes):
        return index
    of_label = np.bincount(pixels[pixels >= 0].ravel())
    filled = pixels.copy()
    for box, part, around in holes:
        hole = parts[box] == part
        if around >= 0 and np.count_nonzero(hole) <= share * of_label[around]:
            filled[box][hole] = around
    return torch.from_numpy(filled).to(index)


def _hole(parts: npt.NDArray[np.int32], pixels: npt.NDArray[np.int32], box: Box, part: int) -> int:
    """The label that touches a part of the pixels without label, which ``box`` holds; −1 where several do."""
    rows, columns = box
    frame = np.s_[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1]  # no part at the border
    inside, near = parts[frame] == part, pixels[frame]
    touching = np.zeros_like(inside)
    touching[1:] |= inside[:-1]
    touching[:-1] |= inside[1:]
    touching[:, 1:] |= inside[:, :-1]
    touching[:, :-1] |= inside[:, 1:]
    labels = near[touching & ~inside]
    return int(labels[0]) if (labels == labels[0]).all() else -1
