"""Objects that touch, parted: a part of a label map split where it is narrow, or where its features differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.proposals.masks import Masks, at_most_cells
from ovseg.regions.cuts import split_region
from ovseg.tensors import check_shape

_SMALLEST = 0.001  # of the image, under which nothing is an object
_LONG_SIDE = 256  # cells on which a watershed is looked for
_CELLS = 900  # a cut takes time with their third power
_DEPTH = 0.3  # of the highest distance, under which two peaks are one


def by_watershed(index: Tensor, labels: Sequence[int]) -> Masks:
    """The connected parts of labels, each split where it is narrow.

    The distance of pixels to the border of their part has a peak in each object; peaks that are less than 0.3 of
    the highest one over the pass between them are one object, and a watershed between the others is the border.

    Args:
        index: (H, W) integers, the label at each pixel.
        labels: which.

    Yields:
        A mask, and 1.

    Raises:
        ShapeError: ``index`` has another shape.

    Source: Beucher and Lantuéjoul 1979, with the h-maxima of Soille, Morphological Image Analysis, 2003.
    """
    check_shape("index", index, "H W")
    for part in _parts(index, labels):
        small = _shrunk(part, at_most=_LONG_SIDE)
        yield from _pixels(_watershed(small), part)


def by_affinity(index: Tensor, labels: Sequence[int], structure: Tensor) -> Masks:
    """The connected parts of labels, each split where a cheap normalised cut of its features goes.

    Args:
        index: (H, W) integers, the label at each pixel.
        labels: which.
        structure: (S, h, w) of the whole image; at most 900 cells are cut.

    Yields:
        A mask, and 1.

    Raises:
        ShapeError: index or structure have another shape.
    """
    check_shape("index", index, "H W")
    check_shape("structure", structure, "S h w")
    cells = at_most_cells(structure.float().cpu(), _CELLS)
    grid = (int(cells.shape[1]), int(cells.shape[2]))
    for part in _parts(index, labels):
        small = functional.adaptive_avg_pool2d(torch.from_numpy(part)[None].float(), grid)[0] > 0.5
        yield from _pixels(split_region(cells, small).numpy(), part)


def _parts(index: Tensor, labels: Sequence[int]) -> Iterator[npt.NDArray[np.bool_]]:
    """(H, W) masks of the 8-connected parts of labels, without crumbs."""
    from scipy.ndimage import label as connected

    pixels = index.cpu().numpy()
    for label in labels:
        parts, count = connected(pixels == label, structure=np.ones((3, 3)))
        areas = np.bincount(parts.ravel(), minlength=count + 1)
        for number in np.flatnonzero(areas[1:] >= _SMALLEST * parts.size) + 1:
            yield parts == number


def _shrunk(part: npt.NDArray[np.bool_], *, at_most: int) -> npt.NDArray[np.bool_]:
    """Every n-th pixel of a mask, so that its long side has at most so many."""
    step = -(-max(part.shape) // at_most)
    return part[step // 2 :: step, step // 2 :: step]


def _watershed(part: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(h, w) numbers from 0 of what a mask is split into, −1 outside."""
    from scipy.ndimage import distance_transform_edt, label
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed

    if not part.any():
        return np.full(part.shape, -1)
    distance = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]  # the border of the image is one of the part
    # skimage's h_maxima would call two peaks of one height two, however shallow the pass between them
    flattened = reconstruction(distance - _DEPTH * distance.max(), distance)
    peaks, _ = label(local_maxima(flattened) & part, structure=np.ones((3, 3)))
    numbers: npt.NDArray[np.int64] = watershed(-distance, peaks, mask=part).astype(np.int64) - 1
    return numbers


def _pixels(numbers: npt.NDArray[np.int64], part: npt.NDArray[np.bool_]) -> Masks:
    """A part of (H, W) pixels by the (h, w) numbers of its cells: each takes that of the nearest numbered one."""
    from scipy.ndimage import distance_transform_edt

    if numbers.max() <= 0:
        yield torch.from_numpy(part), 1.0
        return
    nearest = distance_transform_edt(numbers < 0, return_distances=False, return_indices=True)
    spread = numbers[tuple(nearest)]
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(part.shape, numbers.shape, strict=True))
    pixels = spread[rows[:, None], columns[None]]
    for number in range(int(numbers.max()) + 1):
        mask = part & (pixels == number)
        if mask.any():
            yield torch.from_numpy(mask), 1.0
