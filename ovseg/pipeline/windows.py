"""Windows whose maps are enlarged before they are averaged, as the released code of CLIP's dense recipes does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.images.geometry import Box, Size, interpolation_matrix
from ovseg.images.tiles import Tile
from ovseg.tensors import check_shape


@dataclass(frozen=True)
class WindowGeometry:
    """How the cells of windows, one below the other in a map, lie on the pixels of the image.

    A map is enlarged to the pixels of each window, averaged where windows overlap, and then brought to the size of
    the image: two bilinear interpolations, where one grid of cells needs only one. Windows may begin anywhere.

    Attributes:
        original: (H, W) of the image as it was given.
        resized: (H, W) that the windows were cut from.
        tiles: the windows, all of one size.
        padded: (H, W) of a window with the padding around it.
        grid: (h, w) cells of a padded window; a map has len(tiles)·h rows.
    """

    original: Size
    resized: Size
    tiles: tuple[Tile, ...]
    padded: Size
    grid: Size

    def shrunk(self, size: Size) -> WindowGeometry:
        """The same for the image shrunk to ``size``."""
        return replace(self, original=size)

    def sample(self, maps: Tensor, rows: slice, *, stride: float) -> Tensor:
        """Maps (B, K, n·h, w) on ``rows`` of the image's pixels: (B, K, rows, W) float32.

        Raises:
            ShapeError: the maps do not hold the cells of the windows.

        Source: the sliding-window code of SCLIP, ECCV 2024, and its heirs.
        """
        (h, w), count = self.grid, len(self.tiles)
        check_shape("maps", maps, "B K h w", h=count * h, w=w)
        down, across = (
            interpolation_matrix(old, new, cells_per_pixel=new / old, device=maps.device)
            for old, new in zip(self.original, self.resized, strict=True)
        )
        down = down[rows]
        used = down.any(0).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1]) + 1  # rows of the resized image that are needed
        total = maps.new_zeros(*maps.shape[:2], last - first, self.resized[1], dtype=torch.float32)
        times = torch.zeros(last - first, self.resized[1], device=maps.device)
        tall, wide = self._enlargement(maps.device)
        for tile, cells in zip(self.tiles, torch.split(maps.float(), h, dim=2), strict=True):
            top, bottom = max(tile.top, first), min(tile.top + tile.height, last)
            if top >= bottom:
                continue
            place = (slice(top - first, bottom - first), slice(tile.left, tile.left + tile.width))
            total[:, :, *place] += tall[top - tile.top : bottom - tile.top] @ cells @ wide.T
            times[place] += 1
        return down[:, first:last] @ (total / times) @ across.T

    def _enlargement(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Interpolation from the cells of a window to its pixels, (H, h) and (W, w), without the padding."""
        tile = self.tiles[0]
        tall, wide = (
            interpolation_matrix(outer, cells, cells_per_pixel=cells / outer, device=device)[start : start + side]
            for outer, cells, start, side in zip(
                self.padded,
                self.grid,
                _before((tile.height, tile.width), self.padded),
                (tile.height, tile.width),
                strict=True,
            )
        )
        return tall, wide

    def block(self, box: Box, *, stride: int) -> tuple[slice, slice]:
        """Refused: a cell of the map is a cell of one window.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "expected features on one grid of cells, got windows that are averaged in pixels; use a model file "
            "whose 'input.splice' is scores or features, such as a -shared one"
        )


def place_windows(size: Size, *, window: int | None, stride: int) -> list[Tile]:
    """Windows over an image as the released code places them, row by row.

    They begin every ``stride`` pixels, the last of a row or column shifted back to end at the border. A side
    that is shorter than the window is covered by one window of its own length.

    Args:
        size: (H, W) of the resized image.
        window: side in pixels; None is one window of the whole image.
        stride: pixels from one window to the next.

    Source: the sliding-window code of SCLIP, ECCV 2024.
    """
    height, width = (side if window is None else min(window, side) for side in size)
    return [
        Tile(top, left, height, width)
        for top in _starts(size[0], height, stride)
        for left in _starts(size[1], width, stride)
    ]


def padded_size(tile: Tile, multiple: int) -> Size:
    """(H, W) of a window once its sides are multiples of ``multiple`` pixels."""
    return -(-tile.height // multiple) * multiple, -(-tile.width // multiple) * multiple


def cut(maps: Tensor, tile: Tile, padded: Size, *, fill: float = 0) -> Tensor:
    """A window of (..., H, W) maps in the middle of its padded size, ``fill`` around it.

    Source: the padding of ClearCLIP, ECCV 2024.
    """
    top, left = _before((tile.height, tile.width), padded)
    border = (left, padded[1] - tile.width - left, top, padded[0] - tile.height - top)
    inside = maps[..., tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    return torch.nn.functional.pad(inside, border, value=fill)


def _before(inner: Size, padded: Size) -> Size:
    """Padding above and to the left: the smaller half."""
    return (padded[0] - inner[0]) // 2, (padded[1] - inner[1]) // 2


def _starts(length: int, window: int, stride: int) -> list[int]:
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(number * stride, length - window) for number in range(count)]
