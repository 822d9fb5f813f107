"""A small copy of a large picture and its labels, gathered block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from ovseg.images.tiles import Tile
from ovseg.large.labelling import BlockLabels
from ovseg.result.overlay import draw

_LONGEST = 2000  # pixels


class Overview:
    """Every n-th pixel of a picture of this size (H, W), n such that at most 2000 a side are left."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._step = -(-max(size) // _LONGEST)
        height, width = (-(-side // self._step) for side in size)
        self._index = np.full((height, width), -1, np.int32)
        self._image = np.full((height, width, 3), 255, np.uint8)

    def add(self, place: Tile, block: BlockLabels) -> None:
        """A block at its place in pixels of the picture; the picture is averaged over what is left out."""
        step = self._step
        image = np.asarray(Image.fromarray(block.image).filter(ImageFilter.BoxBlur((step - 1) / 2)))
        rows, columns = slice(-place.top % step, None, step), slice(-place.left % step, None, step)
        part = block.index[rows, columns]
        top, left = -(-place.top // step), -(-place.left // step)
        here = np.s_[top : top + part.shape[0], left : left + part.shape[1]]
        self._index[here], self._image[here] = part, image[rows, columns]

    def overlay(self, labels: Sequence[str]) -> Image.Image:
        """The copy with the labels in colour and a legend; white where there are no data."""
        return draw(self._index, labels, image=self._image)
