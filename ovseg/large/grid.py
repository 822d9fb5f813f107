"""One grid of cells over a picture of any size, and the windows that fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ovseg.images.tiles import Tile, plan_tiles

Scores = npt.NDArray[np.floating]
_SHARED = 2  # windows share at least half of their sides with their neighbours
_TRIMMED = 0.25  # of what is shared: so near to the border a network sees more of the border than of the picture
_LEAST = 0.02


@dataclass(frozen=True)
class Grid:
    """Cells over a picture, and windows of whole cells that overlap.

    The cells of the last rows and columns may reach past the picture.

    Attributes:
        size: (H, W) of the picture in pixels.
        cell: side of a cell in pixels of the picture.
        window: side of a window in cells; a shorter side of the picture is covered by a window of its own length.
        overlap: cells that neighbouring windows share at least.
        block: side in cells of the pieces that labels are decided in.
        multiple: of cells in the height and width of the grid and of windows, and where these begin.
    """

    size: tuple[int, int]
    cell: int
    window: int
    overlap: int
    block: int
    multiple: int = 1

    @classmethod
    def of(
        cls, size: tuple[int, int], *, scale: float, sides: tuple[int, int], stride: int, granularity: int
    ) -> Grid:
        """The grid on which things look as large to a network as they would in a photo.

        Args:
            size: (H, W) of the picture.
            scale: pixels of the network's input for each pixel of the picture; a cell has whole pixels, so that it
                is nearly kept.
            sides: pixels of the network's input of a photo, the shorter side and the longest: a block has the one,
                a window the other.
            stride: of these, pixels a cell.
            granularity: of these, what the sides of its input are a multiple of.
        """
        multiple = max(1, granularity // stride)
        block, window = (max(1, side // granularity) * multiple for side in sides)
        overlap = window // multiple // _SHARED * multiple
        return cls(size, max(1, round(stride / scale)), window, overlap, block, multiple)

    @property
    def cells(self) -> tuple[int, int]:
        """(h, w) of the grid."""
        height, width = (-(-side // (self.cell * self.multiple)) * self.multiple for side in self.size)
        return height, width

    @cached_property
    def windows(self) -> list[Tile]:
        """The windows in cells, row by row, all of one size."""
        step = self.multiple
        height, width = (length // step for length in self.cells)
        tiles = plan_tiles(height, width, window=self.window // step, overlap=self.overlap // step)
        return [Tile(tile.top * step, tile.left * step, tile.height * step, tile.width * step) for tile in tiles]

    @property
    def blocks(self) -> list[Tile]:
        """Pieces, smaller ones at the end, that cover every cell once, row by row."""
        (height, width), side = self.cells, self.block
        return [
            Tile(top, left, min(side, height - top), min(side, width - left))
            for top in range(0, height, side)
            for left in range(0, width, side)
        ]

    def views(self, most: int) -> list[Tile]:
        """Windows spread evenly, wherever those of the grid begin: as few as cover it, at most ``most`` a side."""
        side = self.windows[0]
        tops, lefts = (
            _spread(length, inner, most, multiple=self.multiple)
            for length, inner in zip(self.cells, (side.height, side.width), strict=True)
        )
        return [Tile(top, left, side.height, side.width) for top in tops for left in lefts]

    def pixels(self, tile: Tile) -> Tile:
        """A tile of cells in pixels of the picture; it may reach past its end."""
        return Tile(*(self.cell * length for length in (tile.top, tile.left, tile.height, tile.width)))

    def around(self, tile: Tile, margin: int) -> Tile:
        """A tile of cells with so many more on every side that has them."""
        height, width = self.cells
        top, left = max(0, tile.top - margin), max(0, tile.left - margin)
        bottom = min(height, tile.top + tile.height + margin)
        return Tile(top, left, bottom - top, min(width, tile.left + tile.width + margin) - left)

    def joined(self, region: Tile, scores: Callable[[int], Scores | None]) -> tuple[Scores | None, Scores]:
        """The scores of the windows on a region, each counted the less the nearer a cell is to the window's border.

        Args:
            region: in cells.
            scores: of the window of this number, (K, h, w); None where it was left out.

        Returns:
            (K, h, w) float32 means, 0 where all windows were left out, or None where that is so everywhere; and
            (h, w) float32, the sum of weights.
        """
        total: Scores | None = None
        weights = np.zeros((region.height, region.width), np.float32)
        for number, window in enumerate(self.windows):
            if (part := shared_part(region, window)) is None or (found := scores(number)) is None:
                continue
            here, there = _inside(part, region), _inside(part, window)
            weight = self._weights(window)[there]
            if total is None:
                total = np.zeros((len(found), region.height, region.width), np.float32)
            total[:, *here] += found[:, *there].astype(np.float32) * weight
            weights[here] += weight
        return (None if total is None else total / np.where(weights > 0, weights, 1)), weights

    def _weights(self, window: Tile) -> Scores:
        """(h, w) float32 in (0, 1]: rising over the overlap, 1 in the middle."""
        tall, wide = (_ramp(length, self.overlap) for length in (window.height, window.width))
        return tall[:, None] * wide[None]


def _spread(length: int, window: int, most: int, *, multiple: int) -> list[int]:
    count = min(most, -(-length // window))
    gaps = max(1, count - 1) * multiple
    return [number * (length - window) // gaps * multiple for number in range(count)]


def _ramp(length: int, overlap: int) -> npt.NDArray[np.float32]:
    """Half a wave over what is shared, after a part beside the border that counts only where there is no other."""
    trimmed = overlap * _TRIMMED
    place = np.arange(length) + 0.5
    near = (np.minimum(place, length - place) - trimmed) / max(overlap - trimmed, 0.5)
    ramp: npt.NDArray[np.float32] = np.sin(np.pi / 2 * np.clip(near, _LEAST, 1)).astype(np.float32) ** 2
    return ramp


def shared_part(one: Tile, other: Tile) -> Tile | None:
    """What two tiles share; None where that is nothing."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - top
    width = min(one.left + one.width, other.left + other.width) - left
    return Tile(top, left, height, width) if height > 0 and width > 0 else None


def _inside(part: Tile, tile: Tile) -> tuple[slice, slice]:
    """Rows and columns of a tile that are a part of it."""
    top, left = part.top - tile.top, part.left - tile.left
    return slice(top, top + part.height), slice(left, left + part.width)
