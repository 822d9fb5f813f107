"""Holes: pixels without a label that one label surrounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.tensors import check_shape

Numbers: TypeAlias = npt.NDArray[np.int64]


def fill_holes(index: Tensor, *, share: float) -> Tensor:
    """The label map with its holes in the label around them.

    A hole is a 4-connected part of pixels with no label that touches one label alone, does not touch the border of
    the image, and is at most ``share`` of the area of that label. So a ring keeps a large middle.

    Args:
        index: (H, W) integers, −1 for none.
        share: in [0, 1].

    Returns:
        The same kind of map.

    Raises:
        ShapeError: ``index`` has another shape.
    """
    check_shape("index", index, "H W")
    runs = _Runs.of(index.cpu().numpy())
    empty = np.flatnonzero(runs.value < 0)
    part, near, label = _around(runs, empty)
    parts = int(part.max(initial=-1)) + 1
    lowest, highest = np.full(parts, np.iinfo(np.int64).max), np.full(parts, -1)
    np.minimum.at(lowest, near, label)
    np.maximum.at(highest, near, label)
    inner = np.bincount(part, weights=runs.on_border[empty], minlength=parts) == 0
    areas = np.bincount(part, weights=runs.length[empty], minlength=parts)
    labelled = runs.value >= 0
    of_label = np.bincount(runs.value[labelled], weights=runs.length[labelled], minlength=1)
    holes = inner & (lowest == highest) & (areas <= share * of_label[np.where(inner, highest, 0)])
    if not holes.any():
        return index
    filled = runs.value.copy()
    filled[empty] = np.where(holes, highest, -1)[part]
    return torch.from_numpy(np.repeat(filled, runs.length).reshape(index.shape)).to(index)


@dataclass(frozen=True)
class _Runs:
    """Equal pixels that follow each other in a row of a map: few, where a map has large parts.

    Attributes:
        value: (R,) of the pixels of each run, row by row.
        start: (R,) its first pixel, counted over all rows.
        size: (H, W) of the map.
    """

    value: Numbers
    start: Numbers
    size: tuple[int, int]

    @classmethod
    def of(cls, pixels: npt.NDArray[Any]) -> _Runs:
        """The runs of a map (H, W)."""
        first = np.ones(pixels.shape, bool)
        np.not_equal(pixels[:, 1:], pixels[:, :-1], out=first[:, 1:])
        start = np.flatnonzero(first)
        return cls(pixels.ravel()[start].astype(np.int64), start, (pixels.shape[0], pixels.shape[1]))

    @cached_property
    def length(self) -> Numbers:
        """(R,) pixels of each run."""
        return np.diff(self.start, append=self.size[0] * self.size[1])

    @cached_property
    def on_border(self) -> npt.NDArray[np.bool_]:
        """(R,) whether a run touches the border of the map."""
        row, column = np.divmod(self.start, self.size[1])
        end = column + self.length
        found: npt.NDArray[np.bool_]
        found = (row == 0) | (row == self.size[0] - 1) | (column == 0) | (end == self.size[1])
        return found

    def beside(self, some: Numbers) -> tuple[Numbers, Numbers]:
        """Runs that have a pixel above or below one of ``some``, as pairs: its place in ``some``, and their own."""
        height, width = self.size
        first, last = self.start[some], self.start[some] + self.length[some] - 1
        pairs = []
        for step in (-width, width):
            there = np.flatnonzero((first + step >= 0) & (first + step < height * width))
            low, high = (
                np.searchsorted(self.start, pixel[there] + step, side="right") - 1 for pixel in (first, last)
            )
            count = high - low + 1
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            pairs.append((np.repeat(there, count), np.repeat(low, count) + within))
        one, other = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return one, other


def _around(runs: _Runs, empty: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Which runs without label are one part, and what labels lie around.

    Args:
        runs: of the map.
        empty: (E,) those without label.

    Returns:
        (E,) the part of each, and pairs of a part and the label of a pixel beside it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = runs.beside(empty)
    value = runs.value[other]
    joined = value < 0
    ends = (one[joined], np.searchsorted(empty, other[joined]))
    graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(len(empty), len(empty)))
    part = connected_components(graph, directed=False)[1].astype(np.int64)
    inner = np.flatnonzero(~runs.on_border[empty])  # of these the runs before and after are of the same row
    sides = np.concatenate([runs.value[empty[inner] + step] for step in (-1, 1)])
    near = np.concatenate([part[one[~joined]], part[inner], part[inner]])
    return part, near, np.concatenate([value[~joined], sides])
