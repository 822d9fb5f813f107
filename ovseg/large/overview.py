"""A small copy of a large picture and its labels, gathered block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ovseg.images.tiles import Tile
from ovseg.large.labelling import BlockLabels
from ovseg.large.objects import Box, SceneObject
from ovseg.result.overlay import draw

_LONGEST = 2000  # pixels


class Overview:
    """Every n-th pixel of a picture of this size (H, W), n such that at most 2000 a side are left."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._step = -(-max(size) // _LONGEST)
        height, width = (-(-side // self._step) for side in size)
        self._index = np.full((height, width), -1, np.int32)
        self._image = np.full((height, width, 3), 255, np.uint8)
        self._numbers = np.zeros((height, width), np.int32)

    def add(self, place: Tile, block: BlockLabels, numbers: npt.NDArray[np.int32]) -> None:
        """A block at its place in pixels of the picture; the picture is averaged over what is left out.

        Args:
            place: of the block.
            block: its labels and pixels.
            numbers: (H, W) int32 of the object at each pixel, from 1, 0 for none.
        """
        step = self._step
        image = np.asarray(Image.fromarray(block.image).filter(ImageFilter.BoxBlur((step - 1) / 2)))
        rows, columns = slice(-place.top % step, None, step), slice(-place.left % step, None, step)
        part = block.index[rows, columns]
        top, left = -(-place.top // step), -(-place.left // step)
        here = np.s_[top : top + part.shape[0], left : left + part.shape[1]]
        self._index[here], self._image[here] = part, image[rows, columns]
        self._numbers[here] = numbers[rows, columns]

    def overlay(self, labels: Sequence[str], objects: Sequence[SceneObject] | None) -> Image.Image:
        """The copy with the labels in colour and a legend; white where there are no data.

        Args:
            labels: their names.
            objects: those that are outlined, numbered and counted; None where none were looked for.
        """
        if objects is None:
            return draw(self._index, labels, image=self._image)
        step = self._step
        shrunk = [replace(each, box=_shrunk(each.box, step)) for each in objects]
        return draw(self._index, labels, image=self._image, instances=shrunk, instance_map=self._numbers)


def _shrunk(box: Box, step: int) -> Box:
    """The box, in pixels of the copy, of what is left of an object."""
    x0, y0, x1, y1 = (-(-side // step) for side in box)
    return x0, y0, x1, y1
