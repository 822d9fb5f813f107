"""Outlines of masks as polygons with holes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ovseg.result.segments import Mask, connected_parts

Ring = npt.NDArray[np.float64]


class Polygon(NamedTuple):
    """A connected part of a mask: its outline, and those of its holes.

    A ring is (N, 2), x and y in pixels from the upper left corner of the image, so that the centre of the first
    pixel is (0.5, 0.5); its last point is its first. The pixels whose centres lie inside ``outer`` and in none of
    ``holes`` are those of the mask.
    """

    outer: Ring
    holes: tuple[Ring, ...]


def polygons(mask: Mask) -> list[Polygon]:
    """One polygon for each 8-connected part of an (H, W) bool mask, from the top down."""
    return list(_trace(mask))


def _trace(mask: Mask) -> Iterator[Polygon]:
    from skimage.measure import find_contours

    parts, windows = connected_parts(mask)
    for number, (rows, columns) in enumerate(windows, start=1):
        part = np.pad(parts[rows, columns] == number, 1)  # so that every line closes, at the image's edge too
        lines = find_contours(part.astype(np.float32), 0.5, fully_connected="high")
        offset = np.array([columns.start, rows.start]) - 0.5  # the centre of a pixel, less the padding
        rings = sorted((line[:, ::-1] + offset for line in lines), key=_area, reverse=True)
        yield Polygon(rings[0], tuple(rings[1:]))


def _area(ring: Ring) -> float:
    x, y = ring.T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2)
