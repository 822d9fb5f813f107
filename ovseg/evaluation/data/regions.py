"""What people drew around things in a labelling tool: regions of a photo, checked and painted as a mask of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import DatasetError

_OUTSIDE = 1.0  # pixels that a point may be outside of the photo, as tools let it
_AT_ONCE = 500_000  # pairs of lines that are compared at once
Mask = npt.NDArray[np.bool_]
Ring = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """One region of a photo.

    Attributes:
        label: what it is.
        ring: (N, 2) x and y in pixels of its outline, the centre of the first pixel being (0.5, 0.5); or None.
        mask: (h, w) bool; or None where there is a ring.
        corner: row and column of the mask's first pixel in the photo.
    """

    label: str
    ring: Ring | None = None
    mask: Mask | None = None
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Drawing:
    """The regions of a photo, the lowest first.

    Attributes:
        photo: what the file calls it, a path with ``/``.
        size: (H, W); (0, 0) where the file does not say.
        regions: one painted over the other.
        left_out: number of points and lines, which cover nothing.
    """

    photo: str
    size: tuple[int, int]
    regions: tuple[Region, ...]
    left_out: int = 0


def painted(drawing: Drawing, ids: Mapping[str, int], *, ground: int, path: Path) -> npt.NDArray[np.int32]:
    """(H, W) int32 ids of the regions, ``ground`` where none is.

    Args:
        drawing: of a photo.
        ids: by label.
        ground: as said.
        path: the file that the drawing is from, for errors.

    Raises:
        DatasetError: a region has a label without id, lies outside of the photo, or crosses itself.
    """
    found = np.full(drawing.size, ground, dtype=np.int32)
    for region in drawing.regions:
        where = f"'{region.label}' on '{drawing.photo}' in '{path}'"
        if region.label not in ids:
            known = ", ".join(sorted(ids)[:8])
            raise DatasetError(f"the classes have no {where}; add it to them, or correct it (there are: {known})")
        if region.ring is not None:
            found[_filled(region.ring, drawing.size, where=where)] = ids[region.label]
        elif region.mask is not None:
            found[_window(region, drawing.size, where=where)][region.mask] = ids[region.label]
    return found


def _filled(ring: Ring, size: tuple[int, int], *, where: str) -> tuple[npt.NDArray[np.intp], ...]:
    """Rows and columns of the pixels whose centres a checked ring surrounds."""
    from skimage.draw import polygon

    height, width = size
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise DatasetError(
            f"an outline needs three points or more, but that of {where} has {len(ring)}; draw it again"
        )
    low, high = ring.min(0), ring.max(0)
    if (low < -_OUTSIDE).any() or (high > np.array([width, height]) + _OUTSIDE).any():
        raise DatasetError(
            f"the outline of {where} goes from {low.round(1).tolist()} to {high.round(1).tolist()}, outside of the "
            f"photo's {width} x {height} pixels; is the file of another photo?"
        )
    crossing = first_crossing(ring)
    if crossing is not None:
        x, y = crossing.round(1).tolist()
        raise DatasetError(f"the outline of {where} crosses itself near x {x}, y {y}; draw it again")
    rows, columns = polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, size)
    return rows, columns


def first_crossing(ring: Ring) -> Ring | None:
    """(2,) a point of a line of the ring that another line of it crosses; None where lines touch at most.

    Outlines that only touch themselves do not cross, and a line that is drawn there and back, as the seam to a
    hole, crosses nothing.
    """
    lines = np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1)
    back = np.where((lines[:, :2] > lines[:, 2:])[:, :1], lines[:, [2, 3, 0, 1]], lines)
    upright = lines[:, 0] == lines[:, 2]
    back[upright, 1], back[upright, 3] = lines[upright][:, [1, 3]].min(1), lines[upright][:, [1, 3]].max(1)
    _, which, counts = np.unique(back, axis=0, return_inverse=True, return_counts=True)
    lines = lines[counts[which.ravel()] == 1]
    starts, ends = lines[:, :2], lines[:, 2:]
    step = max(1, _AT_ONCE // max(1, len(lines)))
    for begin in range(0, len(lines), step):
        some = slice(begin, begin + step)
        across = _side(starts[some], ends[some], starts) * _side(starts[some], ends[some], ends) < 0
        along = _side(starts, ends, starts[some]).T * _side(starts, ends, ends[some]).T < 0
        crossed = np.flatnonzero((across & along).any(1))
        if len(crossed):
            place: Ring = starts[begin + crossed[0]]
            return place
    return None


def _side(starts: Ring, ends: Ring, points: Ring) -> npt.NDArray[np.float64]:
    """(N, M) on which side of each of N lines each of M points lies: above, below or at 0."""
    along, offset = (ends - starts)[:, None], points[None] - starts[:, None]
    side: npt.NDArray[np.float64] = np.sign(
        (along[..., 0] * offset[..., 1] - along[..., 1] * offset[..., 0]).round(6)
    )
    return side


def _window(region: Region, size: tuple[int, int], *, where: str) -> tuple[slice, slice]:
    assert region.mask is not None
    (top, left), (height, width) = region.corner, region.mask.shape
    if top < 0 or left < 0 or top + height > size[0] or left + width > size[1]:
        raise DatasetError(
            f"the mask of {where} lies outside of the photo's {size[1]} x {size[0]} pixels; is the file of another "
            "photo?"
        )
    return slice(top, top + height), slice(left, left + width)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Ring:
    """(4, 2) its corners."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)


def pixels(runs: Sequence[Any], shape: tuple[int, int]) -> Mask:
    """(h, w) bool of the lengths of runs of False and True in turn, row by row.

    Raises:
        ValueError: the runs are not whole numbers, or do not fill the mask.
    """
    lengths = [int(run) for run in runs]
    if min(lengths, default=0) < 0 or sum(lengths) != shape[0] * shape[1]:
        raise ValueError(f"runs of {sum(lengths)} pixels do not fit {shape[0]} x {shape[1]}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(shape)
