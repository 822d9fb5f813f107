"""Windows over an image that is larger than an encoder likes."""

from __future__ import annotations

from dataclasses import dataclass

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


def _starts(length: int, *, window: int, overlap: int) -> list[int]:
    last = max(0, length - window)
    return [*range(0, last, window - overlap), last]


def _check_lengths(**lengths: int) -> None:
    for name, length in lengths.items():
        if length < 1:
            raise ShapeError(f"{name} must be at least 1 pixel, got {length}")
