"""Windows over an image that is larger than an encoder likes, and the weights that blend them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovseg.errors import ShapeError


@dataclass(frozen=True)
class Tile:
    """One window of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def plan_tiles(height: int, width: int, *, window: int, overlap: int) -> list[Tile]:
    """Windows that cover every pixel, row by row; the last of a row or column is shifted back inside.

    A side shorter than the window is covered by one window of its own length.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        window: side of a square window, in pixels.
        overlap: pixels that neighbouring windows share at least; smaller than ``window``.

    Raises:
        ShapeError: a length is below 1, or ``overlap`` is not in [0, window).
    """
    _check_lengths(height=height, width=width, window=window)
    if not 0 <= overlap < window:
        raise ShapeError(f"overlap must be at least 0 and less than the window of {window}, got {overlap}")
    return [
        Tile(top, left, min(window, height), min(window, width))
        for top in _starts(height, window=window, overlap=overlap)
        for left in _starts(width, window=window, overlap=overlap)
    ]


def blend_weights(height: int, width: int, *, overlap: int) -> npt.NDArray[np.float32]:
    """Weight of each pixel of a tile: 1 inside, falling linearly over ``overlap`` pixels towards the borders.

    The ramps of two tiles that overlap by exactly ``overlap`` add up to 1.

    Args:
        height: of the tile, in pixels.
        width: of the tile, in pixels.
        overlap: length of the ramps, in pixels; 0 gives ones.

    Returns:
        (height, width) float32 in (0, 1].

    Raises:
        ShapeError: a length is below 1, or ``overlap`` is negative.
    """
    _check_lengths(height=height, width=width)
    if overlap < 0:
        raise ShapeError(f"overlap must be at least 0, got {overlap}")
    return np.outer(_ramp(height, overlap), _ramp(width, overlap)).astype(np.float32)


def _starts(length: int, *, window: int, overlap: int) -> list[int]:
    last = max(0, length - window)
    return [*range(0, last, window - overlap), last]


def _ramp(length: int, overlap: int) -> npt.NDArray[np.float64]:
    distance = np.arange(1, length + 1) / (overlap + 1)  # from the outside of the first border
    return np.minimum(1.0, np.minimum(distance, distance[::-1]))


def _check_lengths(**lengths: int) -> None:
    for name, length in lengths.items():
        if length < 1:
            raise ShapeError(f"{name} must be at least 1 pixel, got {length}")
