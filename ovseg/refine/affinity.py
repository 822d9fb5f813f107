"""Affinity between cells: which of them look alike."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ovseg.tensors import check_shape


def affinity(structure: Tensor, *, temperature: float, pool: int = 1) -> Tensor:
    """How much each cell takes from every other: softmax of cosines over a temperature.

    Args:
        structure: (S, h, w) unit vectors over S.
        temperature: > 0; smaller keeps more to the nearest.
        pool: side of the squares of cells that are taken from as one; the cost falls with its square.

    Returns:
        (h·w, n), rows add to 1; n is the number of squares.
    """
    check_shape("structure", structure, "S h w")
    sources = pool_cells(structure, pool).flatten(1)
    return ((structure.flatten(1).T @ sources) / temperature).softmax(-1)


def pool_cells(maps: Tensor, pool: int) -> Tensor:
    """Means over squares of ``pool`` cells: (C, h, w) to (C, ceil(h/pool), ceil(w/pool))."""
    if pool == 1:
        return maps
    return functional.avg_pool2d(maps[None], pool, ceil_mode=True, count_include_pad=False)[0]
