"""What a result hands to other programs: its objects, and what each label that is no thing covers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ovseg.result.polygons import Polygon, polygons
from ovseg.result.segments import Mask, Segment, decode_runs

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

_SHEET = 2048  # pixels a side, of small masks that are outlined together


class Item(NamedTuple):
    """An object, or all that a label covers.

    Attributes:
        label: what it is.
        score: how sure that is, in [0, 1].
        number: of the object, 1 for the first of ``instances``; 0 where it is all that a label covers.
        corner: row and column of the first pixel of ``mask`` in the image.
        mask: (h, w) bool, no larger than what it covers.
    """

    label: str
    score: float
    number: int
    corner: tuple[int, int]
    mask: Mask

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels; x1 and y1 are not included."""
        (top, left), (height, width) = self.corner, self.mask.shape
        return left, top, left + width, top + height

    def whole(self, size: tuple[int, int]) -> Mask:
        """(H, W) bool, in an image of this size."""
        x0, y0, x1, y1 = self.box
        mask = np.zeros(size, dtype=bool)
        mask[y0:y1, x0:x1] = self.mask
        return mask


def items(result: SegmentationResult) -> Iterator[Item]:
    """The objects in order, and then, in order, the labels of which none were looked for, where they have pixels.

    As in COCO's format, what a label covers besides its objects, where these were looked for, is in no item.
    """
    for number, each in enumerate(result.instances or (), start=1):
        yield Item(each.label, each.score, number, (each.box[1], each.box[0]), _cropped(each))
    for label in result.labels:
        mask = result.mask(label)
        if label not in result.things and mask.any():
            score = float(result.score_map[mask].mean(dtype=np.float64))
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            yield Item(label, score, 0, (int(rows[0]), int(columns[0])), window)


def _cropped(segment: Segment) -> Mask:
    """The mask of a segment in its box, decoded column by column of the box alone."""
    height = segment.rle["size"][0]
    x0, y0, x1, y1 = segment.box
    columns = np.zeros((x1 - x0) * height, dtype=bool)
    for start, end in decode_runs(segment.rle["counts"]):
        columns[max(start - x0 * height, 0) : max(end - x0 * height, 0)] = True
    return columns.reshape(x1 - x0, height)[:, y0:y1].T


def outlines(some: Sequence[Item], *, tolerance: float) -> list[list[Polygon]]:
    """The polygons of the connected parts of each item, in pixels of the image; see ``polygons``.

    Small ones are laid side by side and outlined in one go, as a call costs more than a small mask.
    """
    found: list[list[Polygon]] = [[] for _ in some]
    for sheet in _sheets(some):
        height = max(top + some[number].mask.shape[0] for number, top, _ in sheet) + 1
        width = max(left + some[number].mask.shape[1] for number, _, left in sheet) + 1
        drawn, owners = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=np.int32)
        for place, (number, top, left) in enumerate(sheet):
            rows, columns = some[number].mask.shape
            drawn[top : top + rows, left : left + columns] = some[number].mask
            owners[top : top + rows + 1, left : left + columns + 1] = place
        for polygon in polygons(drawn, tolerance=tolerance):
            column, row = np.floor(polygon.outer[0]).astype(int)
            number, top, left = sheet[owners[row, column]]
            corner = some[number].corner
            moved = np.array([corner[1] - left, corner[0] - top])
            found[number].append(Polygon(polygon.outer + moved, tuple(hole + moved for hole in polygon.holes)))
    return found


def _sheets(some: Sequence[Item]) -> Iterator[list[tuple[int, int, int]]]:
    """Number, row and column of each item on a sheet with others, a pixel apart; one larger than it is alone."""
    sheet: list[tuple[int, int, int]] = []
    top = left = shelf = 0
    for number in sorted(range(len(some)), key=lambda number: some[number].mask.shape):
        height, width = some[number].mask.shape
        if left and left + width > _SHEET:
            top, left, shelf = top + shelf, 0, 0
        if sheet and top + height > _SHEET:
            yield sheet
            sheet, top, left, shelf = [], 0, 0, 0
        sheet.append((number, top, left))
        left, shelf = left + width + 1, max(shelf, height + 1)
    if sheet:
        yield sheet
