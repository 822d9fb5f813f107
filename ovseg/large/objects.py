"""Objects of a picture of any size, where they meet, and what they cover of a part of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.images.tiles import Tile
from ovseg.large.strips import Strips
from ovseg.result.segments import Segment, encode_mask

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SceneObject:
    """One object of a large picture.

    Attributes:
        label: what it is.
        score: how sure that is, in [0, 1].
        box: x0, y0, x1, y1 in pixels of the picture; x1 and y1 are not included.
        area: pixels.
        rle: COCO's compressed run-length encoding of the mask in the box alone, ``size`` [y1 - y0, x1 - x0] and
            ``counts`` as text.
    """

    label: str
    score: float
    box: Box
    area: int
    rle: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", tuple(self.box))

    @classmethod
    def of(cls, strips: Strips, label: str, score: float) -> SceneObject:
        """The object that covers these pixels, at least one."""
        return cls(label, score, strips.box, strips.area, strips.rle())

    @property
    def strips(self) -> Strips:
        """Its pixels."""
        return Strips.of_rle(self.rle, corner=(self.box[1], self.box[0]))

    def mask(self) -> npt.NDArray[np.bool_]:
        """(y1 - y0, x1 - x0) bool, of the pixels of its box."""
        x0, y0, x1, y1 = self.box
        found = np.zeros((y1 - y0, x1 - x0), bool)
        self.strips.paint(found, True, corner=(y0, x0))
        return found


def objects_seen(
    segments: Sequence[Segment], window: Tile, valid: npt.NDArray[np.bool_], *, size: tuple[int, int]
) -> list[SceneObject]:
    """The objects of a window at their place in the picture, without what has no data.

    Args:
        segments: of the window.
        window: in pixels of the picture; it may reach past its end.
        valid: (H, W) bool of the window, where it has data.
        size: (H, W) of the picture.
    """
    found = []
    for each in segments:
        rle = each.rle if valid.all() else encode_mask(each.mask() & valid)
        strips = Strips.of_rle(rle, corner=(window.top, window.left)).within(Tile(0, 0, *size))
        if strips.area:
            found.append(SceneObject.of(strips, each.label, each.score))
    return found


class Places:
    """Which of some boxes lie where, found without asking each.

    Args:
        boxes: x0, y0, x1, y1 in pixels.
        side: pixels of the squares that boxes are sorted into; best about that of most boxes.
    """

    def __init__(self, boxes: Sequence[Box], *, side: int) -> None:
        self._boxes, self._side = boxes, side
        self._squares: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, box in enumerate(boxes):
            for square in self._of(box):
                self._squares[square].append(number)

    def meeting(self, box: Box) -> list[int]:
        """The numbers, rising, of the boxes that share a pixel with this one."""
        near = {number for square in self._of(box) for number in self._squares.get(square, ())}
        return sorted(number for number in near if _meet(self._boxes[number], box))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The numbers, the lower first, of every two boxes that share a pixel."""
        for number, box in enumerate(self._boxes):
            yield from ((number, other) for other in self.meeting(box) if other > number)

    def _of(self, box: Box) -> Iterator[tuple[int, int]]:
        (left, top), (right, bottom) = (tuple(c // self._side for c in each) for each in (box[:2], box[2:]))
        return ((row, column) for row in range(top, bottom + 1) for column in range(left, right + 1))


class Painter:
    """The numbers of objects, from 1, at the pixels of any part of a picture; of several, the first is seen.

    Args:
        objects: the surest first.
        side: pixels, about those of a part.
    """

    def __init__(self, objects: Sequence[SceneObject], *, side: int) -> None:
        self._objects = objects
        self._places = Places([each.box for each in objects], side=side)

    def painted(self, place: Tile) -> npt.NDArray[np.int32]:
        """(H, W) int32 of a part of the picture, 0 where no object is."""
        canvas = np.zeros((place.height, place.width), np.int32)
        for number in reversed(self._places.meeting(box_of(place))):
            self._objects[number].strips.paint(canvas, number + 1, corner=(place.top, place.left))
        return canvas


def box_of(tile: Tile) -> Box:
    """x0, y0, x1, y1 of a tile."""
    return tile.left, tile.top, tile.left + tile.width, tile.top + tile.height


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
