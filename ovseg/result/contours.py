"""The lines around the parts of a mask, traced for all parts at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Of four pixels a b / c d, by a + 2b + 4c + 8d: from which side to which a line runs, with what is inside on its
# right. Pixels that touch at a corner hang together. Sides: 0 between a and b, 1 c and d, 2 a and c, 3 b and d.
_LINES: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((0, 2),), 2: ((3, 0),), 3: ((3, 2),), 4: ((2, 1),), 5: ((0, 1),), 6: ((2, 0), (3, 1)), 7: ((3, 1),),
    8: ((1, 3),), 9: ((0, 3), (1, 2)), 10: ((1, 0),), 11: ((1, 2),), 12: ((2, 3),), 13: ((0, 3),), 14: ((2, 0),),
}  # fmt: skip


def trace(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """The lines half-way between pixels inside and outside, clockwise around what is inside, holes the other way.

    Args:
        mask: (H, W) bool, whose outermost pixels are all False.

    Returns:
        (N, 2) x and y, where a pixel's centre is its column and row, each line closed: its last point is its first;
        and where each line begins. Lines are in the order of their topmost points.

    Source: Lorensen and Cline, Marching Cubes, 1987, in the plane.
    """
    width = mask.shape[1]
    bits = mask.view(np.uint8)
    codes = bits[:-1, :-1] + 2 * bits[:-1, 1:] + 4 * bits[1:, :-1] + 8 * bits[1:, 1:]
    places = np.flatnonzero((codes > 0) & (codes < 15))
    kinds = codes.ravel()[places]
    places += places // (width - 1)  # of pixel a in the mask
    sides = np.array([0, 2 * width, 1, 3])  # a point lies right of a pixel (even) or below it (odd)
    pairs = [(kind, sides[line[0]], sides[line[1]]) for kind, lines in _LINES.items() for line in lines]
    chosen = [(2 * places[kinds == kind], start, end) for kind, start, end in pairs]
    starts = np.concatenate([place + start for place, start, _ in chosen])
    ends = np.concatenate([place + end for place, _, end in chosen])
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    visited, begins = _follow(np.searchsorted(starts, ends))
    points = starts[visited]
    rows, columns = np.divmod(points // 2, width)
    below = points % 2
    return np.stack([columns + 0.5 * (1 - below), rows + 0.5 * below], 1), begins


def _follow(following: npt.NDArray[np.intp]) -> tuple[list[int], npt.NDArray[np.intp]]:
    """The circles of a permutation, one after the other, each with its first number again at its end."""
    after, seen = following.tolist(), bytearray(len(following))
    visited: list[int] = []
    begins: list[int] = []
    for first in range(len(after)):
        if seen[first]:
            continue
        begins.append(len(visited))
        number = first
        while not seen[number]:
            seen[number] = 1
            visited.append(number)
            number = after[number]
        visited.append(first)
    return visited, np.array(begins, dtype=np.intp)
