"""Prompts answered by the model's own features: what looks like the clicked cells and hangs together with them.

It knows no outlines, only cells; but it needs no SAM, works with every model, and costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import label
from torch import Tensor
from torch.nn import functional

from ovseg.images.geometry import Geometry, ImageGeometry
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.selection.words import Words
from ovseg.result.segments import Mask
from ovseg.result.selection import Point, Reading, Selection, SelectionPrompts

LIMITS = {"whole": 0.4, "part": 0.5, "subpart": 0.6}
"""By level, how alike a pixel and what was pointed at must be."""

_WORDS = 0.5  # what a pixel gains that shows the text for sure
_CORE = 0.5  # share of a box's sides that shows the thing for sure


def by_features(
    encoded: EncodedImage, prompts: SelectionPrompts, previous: Selection | None, words: Words | None
) -> tuple[Reading, dict[str, Reading], str | None]:
    """The parts of the image that look more like what is on the thing than like what is off it.

    All points so far are looked at anew, so that nothing else has to be remembered but the level.

    Args:
        encoded: the image.
        prompts: of all rounds.
        previous: the selection before, for its level.
        words: the text of the prompts in the image.

    Returns:
        The answer, the three levels, and which it is.
    """
    likeness = _Likeness.of(encoded)
    alike, rivals = likeness.of_prompts(prompts)
    alike, apart = _on_pixels(torch.stack([alike, alike - rivals]), encoded).numpy()
    if words is not None:
        alike = alike + _WORDS * (words.probability - 0.5)
    levels = {name: _reading(alike, apart, prompts, limit) for name, limit in LIMITS.items()}
    level = previous.level if previous is not None and previous.level is not None else "whole"
    return levels[level], levels, level


Map = npt.NDArray[np.float32]


class _Likeness:
    """Unit vectors of the cells that show the image, without what all have in common.

    Args:
        cells: (C, h, w) unit.
        geometry: how they lie on the image.
        stride: pixels of the encoder's input per cell.
    """

    def __init__(self, cells: Tensor, geometry: Geometry, stride: int) -> None:
        self.cells, self.geometry, self.stride = cells, geometry, stride

    @classmethod
    def of(cls, encoded: EncodedImage) -> _Likeness:
        """Of an image, made once."""

        def make() -> Tensor:
            maps = encoded.features.values[0].float().cpu()
            shown = encoded.unpadded(maps).flatten(1)
            return functional.normalize(maps - shown.mean(1)[:, None, None], dim=0)

        return cls(encoded.once("likeness", make), encoded.geometry, encoded.features.stride)

    def of_prompts(self, prompts: SelectionPrompts) -> tuple[Tensor, Tensor]:
        """(h, w) cosine to the best of what is on the thing, and to the best of what is off it."""
        on = [self.near(point) for point in prompts.positive]
        off = [self.near(point) for point in prompts.negative]
        for inside, outside in self._areas(prompts):
            on.append(self._to_mean(inside))
            off += [self._to_mean(outside)] if bool(outside.any()) else []
        none = torch.full(self.cells.shape[1:], -2.0)
        return (torch.stack(maps).amax(0) if maps else none for maps in (on, off))  # type: ignore[return-value]

    def near(self, point: Point) -> Tensor:
        """(h, w) cosine to the cell at a point."""
        row, column = self.cell_at(point)
        return torch.einsum("c,chw->hw", self.cells[:, row, column], self.cells)

    def cell_at(self, point: Point) -> tuple[int, int]:
        """Row and column of the cell at x, y in pixels of the image."""
        x, y = int(point[0]), int(point[1])
        rows, columns = self.geometry.block((y, x, y + 1, x + 1), stride=self.stride)
        return min(rows.start, self.cells.shape[1] - 1), min(columns.start, self.cells.shape[2] - 1)

    def _areas(self, prompts: SelectionPrompts) -> list[tuple[Tensor, Tensor]]:
        """(h, w) bool of the cells that the box, and the rough mask, put on the thing, and off it."""
        found = []
        if prompts.box is not None:
            x0, y0, x1, y1 = prompts.box
            x, y = (1 - _CORE) / 2 * (x1 - x0), (1 - _CORE) / 2 * (y1 - y0)
            inside = self._cells_of((x0 + x, y0 + y, x1 - x, y1 - y))
            found.append((inside, ~self._cells_of(prompts.box)))
        if prompts.mask is not None:
            found.append(self._cells_of_mask(prompts.mask))
        return found

    def _cells_of(self, box: Sequence[float]) -> Tensor:
        x0, y0, x1, y1 = box
        left, top = int(x0), int(y0)
        right, bottom = max(left + 1, int(np.ceil(x1))), max(top + 1, int(np.ceil(y1)))
        chosen = torch.zeros(self.cells.shape[1:], dtype=torch.bool)
        chosen[self.geometry.block((top, left, bottom, right), stride=self.stride)] = True
        return chosen

    def _cells_of_mask(self, mask: Mask) -> tuple[Tensor, Tensor]:
        """Cells whose middle the mask covers, at least one, and the others that show the image."""
        inside = torch.zeros(self.cells.shape[1:], dtype=torch.bool)
        rows, columns = np.nonzero(mask)
        step = max(1, len(rows) // 2000)
        for x, y in zip(columns[::step].tolist(), rows[::step].tolist(), strict=True):
            inside[self.cell_at((x, y))] = True
        height, width = mask.shape
        return inside, self._cells_of((0, 0, width, height)) & ~inside

    def _to_mean(self, chosen: Tensor) -> Tensor:
        """(h, w) cosine to the mean of some cells."""
        mean = functional.normalize(self.cells[:, chosen].mean(1), dim=0)
        return torch.einsum("c,chw->hw", mean, self.cells)


def _on_pixels(maps: Tensor, encoded: EncodedImage) -> Tensor:
    """(K, h, w) maps on the pixels of the image: (K, H, W)."""
    geometry, stride = encoded.geometry, encoded.features.stride
    if isinstance(geometry, ImageGeometry):
        # two products of small matrices in place of a look-up for every pixel
        from ovseg.pipeline.upsample import axis_matrices

        down, across = axis_matrices(geometry, (maps.shape[1], maps.shape[2]), stride=stride, device=maps.device)
        return down @ maps @ across.T
    return geometry.sample(maps[None], slice(0, geometry.original[0]), stride=stride)[0]


def _reading(alike: Map, apart: Map, prompts: SelectionPrompts, limit: float) -> Reading:
    """The pixels over the limit that are more on the thing than off it and hang together with the prompts."""
    mask: Mask = (alike > limit) & (apart > 0)
    if prompts.box is not None:
        mask = mask & _inside(prompts.box, mask.shape)
    for points, wanted in ((prompts.positive, True), (prompts.negative, False)):
        for x, y in points:
            mask[int(y), int(x)] = wanted
    mask = _connected(mask, prompts)
    score = float(np.clip(alike[mask].mean(), 0, 1)) if mask.any() else 0.0
    return Reading(mask, score)


def _connected(mask: Mask, prompts: SelectionPrompts) -> Mask:
    """The 8-connected parts of a mask that hold a click; without clicks, those that the rough mask touches."""
    parts, count = label(mask, np.ones((3, 3)))
    if prompts.positive:
        touched = [parts[int(y), int(x)] for x, y in prompts.positive]
    else:
        touched = parts[prompts.mask] if prompts.mask is not None else parts.ravel()
    kept = np.zeros(count + 1, bool)
    kept[touched] = True
    kept[0] = False
    found: Mask = kept[parts]
    return found


def _inside(box: tuple[float, float, float, float], size: tuple[int, ...]) -> Mask:
    x0, y0, x1, y1 = box
    mask = np.zeros(size, bool)
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask
