"""Coarse class maps refined on the image, by one of the methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.images.geometry import Geometry, ImageGeometry
from ovseg.images.resize import Plain, prepare, restore, working_size
from ovseg.refine.crf import dense_crf
from ovseg.refine.guided import guided_filter
from ovseg.refine.pamr import pamr, pamr_within, released_pamr

METHODS: dict[str, Callable[..., Tensor]] = {
    "pamr": pamr,
    "pamr-released": released_pamr,
    "guided": guided_filter,
    "crf": dense_crf,
}
"""From (1, 3, H, W) image in [0, 1], (1, K, H, W) maps and options to refined maps."""

_MOST = 16  # classes that are refined at most
_MOST_NEAR = 0.6  # share of the pixels, over which it is quicker to refine all of them
_SECOND = 0.02  # share of the cells in which a class is second, from which it counts


@dataclass(frozen=True)
class Refined:
    """Class maps after refinement, for the classes that are still in the running.

    Attributes:
        maps: (k, H', W').
        classes: (k,) int64, which class each map is.
        geometry: H' and W' as the resized size of the image; one cell is one pixel of it.
    """

    maps: Tensor
    classes: Tensor
    geometry: ImageGeometry


def refine_maps(
    image: npt.NDArray[np.uint8],
    maps: Tensor,
    geometry: Geometry,
    *,
    stride: float,
    long_side: int,
    method: str = "pamr",
    options: Mapping[str, Any] | None = None,
    borders_only: bool = False,
) -> Refined:
    """Coarse class maps refined on the image shrunk to ``long_side``.

    Only classes that are best in some cell, or second in one of fifty, take part, and of those the 16 that are best
    in most cells: the cost does not grow with the vocabulary.

    Args:
        image: (H, W, 3) uint8.
        maps: (K, h, w) at ``stride``.
        geometry: of the encoder's input.
        stride: pixels of that input per cell.
        long_side: longest side to work at, in pixels; smaller images keep their size.
        method: a name of ``METHODS``.
        options: keyword arguments of its function.
        borders_only: with "pamr", refine only pixels that draw on a cell at a border between classes; all where
            these are most.
    """
    classes = _contenders(maps)
    long_side = min(long_side, max(geometry.original))
    size = working_size(geometry.original, short_side=long_side, max_long_side=long_side, stride=1)
    pixels, at_size = prepare(image, Plain(), size=size)
    coarse = restore(maps[classes][None].float(), geometry.shrunk(size), stride=stride)
    run, pixels = METHODS[method], pixels.to(maps.device)
    if borders_only:
        border = border_cells(maps[classes]).to(coarse)
        near = restore(border[None, None], geometry.shrunk(size), stride=stride)[0, 0] > 0
        run = pamr if near.float().mean() > _MOST_NEAR else partial(pamr_within, where=near)
    fine = run(pixels, coarse, **(options or {}))
    return Refined(fine[0], classes, at_size)


def border_cells(maps: Tensor) -> Tensor:
    """(K, h, w) to (h, w) bool: the cells of which one of the eight around has another class as its best.

    Where the four cells around a pixel share their best class, so does the pixel: its values are mixed from theirs.
    """
    best = maps.argmax(0)[None, None].float()
    highest = functional.max_pool2d(best, 3, stride=1, padding=1)
    lowest = -functional.max_pool2d(-best, 3, stride=1, padding=1)
    return (highest != lowest)[0, 0]


def reach_of(method: str, options: Mapping[str, Any]) -> int:
    """How many pixels away a refined pixel's values may come from.

    Args:
        method: a name of ``METHODS``.
        options: keyword arguments of its function.

    Raises:
        ConfigError: a pixel may take values from anywhere.
    """
    if METHODS[method] not in (pamr, released_pamr):
        raise ConfigError(
            f"refinement '{method}' needs whole maps, got 'scoring.at: pixels'; use pamr, or at: cells"
        )
    bound = inspect.signature(METHODS[method]).bind_partial(**options)
    bound.apply_defaults()
    # one more for the deviation, which looks at neighbours too
    return int((bound.arguments["iterations"] + 1) * max(bound.arguments["dilations"]))


def _contenders(maps: Tensor) -> Tensor:
    """(K, h, w) to the classes (k,), ascending, that are worth refining."""
    ranks = maps.flatten(1).topk(min(2, len(maps)), dim=0).indices
    cells = ranks.shape[1]
    votes = torch.stack([torch.bincount(rank, minlength=len(maps)) for rank in ranks])
    seconds = votes[1:].sum(0)
    support = votes[0] * (cells + 1) + seconds  # wins first, then second places
    support = support.masked_fill((votes[0] == 0) & (seconds < _SECOND * cells), 0)
    best = support.topk(min(_MOST, len(maps)))
    return best.indices[best.values > 0].sort().values
