"""Pixels of a picture of any size, as pieces of its columns: what they cost grows with their outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.images.tiles import Tile
from ovseg.result.segments import decode_runs, encode_runs, stretches

Numbers = npt.NDArray[np.int64]

_COUNTED = 2**32 - 1  # pixels that one run of pycocotools' encoding can have; above, a run ends with its column


@dataclass(frozen=True, eq=False)
class Strips:
    """Some pixels.

    Attributes:
        columns: (n,) int64, the column of each piece; they rise.
        tops: (n,) int64, its first row; in a column they rise.
        bottoms: (n,) int64, the row after its last. No two pieces of a column touch.
    """

    columns: Numbers
    tops: Numbers
    bottoms: Numbers

    @classmethod
    def of_rle(cls, rle: Mapping[str, Any], *, corner: tuple[int, int]) -> Strips:
        """What a mask covers whose first pixel lies at row and column ``corner``.

        Args:
            rle: COCO's compressed run-length encoding, with ``counts`` as text.
            corner: as said.
        """
        height = rle["size"][0]
        starts, ends = np.array(decode_runs(rle["counts"]), np.int64).reshape(-1, 2).T
        starts, ends = starts[ends > starts], ends[ends > starts]
        first, last = starts // height, (ends - 1) // height
        crossed = last - first + 1  # a run goes on from the end of a column to the next
        columns = stretches(first, crossed)
        tops = np.maximum(np.repeat(starts, crossed) - columns * height, 0)
        bottoms = np.minimum(np.repeat(ends, crossed) - columns * height, height)
        return cls(columns + corner[1], tops + corner[0], bottoms + corner[0])

    @classmethod
    def joined(cls, some: Sequence[Strips]) -> Strips:
        """What at least one of some, at least one, covers."""
        columns, tops, bottoms = (
            np.concatenate([getattr(each, name) for each in some]) for name in ("columns", "tops", "bottoms")
        )
        apart = int(bottoms.max(initial=0)) + 1  # so that no piece touches one of the next column
        order = np.lexsort((tops, columns))
        starts, ends = (columns * apart + tops)[order], (columns * apart + bottoms)[order]
        reached = np.maximum.accumulate(ends)
        new = np.append(True, starts[1:] > reached[:-1])[: len(starts)]
        last = np.append(np.flatnonzero(new)[1:] - 1, len(starts) - 1)[: new.sum()]
        columns = starts[new] // apart
        return cls(columns, starts[new] - columns * apart, reached[last] - columns * apart)

    @cached_property
    def area(self) -> int:
        """Pixels."""
        return int((self.bottoms - self.tops).sum())

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of at least one pixel; x1 and y1 are not included."""
        return int(self.columns[0]), int(self.tops.min()), int(self.columns[-1]) + 1, int(self.bottoms.max())

    def rle(self) -> dict[str, Any]:
        """COCO's compressed run-length encoding of the mask in the box, with ``counts`` as text."""
        x0, y0, x1, y1 = self.box
        starts = (self.columns - x0) * (y1 - y0) + self.tops - y0
        ends = starts + self.bottoms - self.tops
        gap = (starts[1:] > ends[:-1]) | ((x1 - x0) * (y1 - y0) > _COUNTED)
        return encode_runs(starts[np.append(True, gap)], ends[np.append(gap, True)], (y1 - y0, x1 - x0))

    def within(self, tile: Tile) -> Strips:
        """Those in a part of the picture."""
        tops = np.maximum(self.tops, tile.top)
        bottoms = np.minimum(self.bottoms, tile.top + tile.height)
        inside = (self.columns >= tile.left) & (self.columns < tile.left + tile.width) & (tops < bottoms)
        return Strips(self.columns[inside], tops[inside], bottoms[inside])

    def shared(self, other: Strips) -> int:
        """The number of pixels that both cover."""
        return self.area + other.area - Strips.joined([self, other]).area

    def paint(self, canvas: npt.NDArray[Any], value: int, *, corner: tuple[int, int]) -> None:
        """Write a value on an array, (H, W), whose first pixel lies at row and column ``corner``."""
        inside = self.within(Tile(*corner, *canvas.shape))
        lengths = inside.bottoms - inside.tops
        canvas[stretches(inside.tops, lengths) - corner[0], np.repeat(inside.columns, lengths) - corner[1]] = value
