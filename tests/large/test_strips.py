"""Pixels as pieces of columns, against masks."""

from __future__ import annotations

import numpy as np
import pytest

from ovseg.images.tiles import Tile
from ovseg.large.strips import Strips
from ovseg.result.segments import encode_mask


def masks(count: int, size: tuple[int, int] = (9, 13)) -> list[np.ndarray]:
    """Random ones, of which some have full columns, so that runs go on from one to the next."""
    rng = np.random.default_rng(0)
    found = [rng.random(size) < share for share in rng.uniform(0.1, 0.9, count)]
    for mask in found[::2]:
        mask[:, 3:6] = True
    return found


def strips(mask: np.ndarray, corner: tuple[int, int] = (0, 0)) -> Strips:
    return Strips.of_rle(encode_mask(mask), corner=corner)


def painted(some: Strips, size: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    canvas = np.zeros(size, bool)
    some.paint(canvas, True, corner=corner)
    return canvas


@pytest.mark.parametrize("number", range(6))
def test_they_do_what_masks_do(number: int) -> None:
    one, other = masks(12)[2 * number : 2 * number + 2]
    first, second = strips(one), strips(other)
    assert first.area == one.sum()
    assert (painted(first, one.shape) == one).all()
    assert (painted(Strips.joined([first, second]), one.shape) == (one | other)).all()
    assert Strips.joined([first, second]).area == (one | other).sum()
    assert first.shared(second) == (one & other).sum()
    part = first.within(Tile(2, 3, 5, 7))
    assert part.area == one[2:7, 3:10].sum()
    rows, columns = np.nonzero(one)
    x0, y0, x1, y1 = first.box
    assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert first.rle() == encode_mask(one[y0:y1, x0:x1])


def test_a_corner_moves_them_and_painting_takes_the_part_that_is_asked_for() -> None:
    (mask,) = masks(1)
    moved = strips(mask, corner=(100, 200))
    assert moved.box[:2] == (200 + np.flatnonzero(mask.any(0))[0], 100 + np.flatnonzero(mask.any(1))[0])
    assert (painted(moved, (4, 5), corner=(103, 202)) == mask[3:7, 2:7]).all()


def test_nothing_is_nothing() -> None:
    nothing = strips(np.zeros((3, 4), bool))
    assert nothing.area == 0 and Strips.joined([nothing, nothing]).area == 0
    assert nothing.shared(strips(np.ones((3, 4), bool))) == 0


def test_more_pixels_than_a_count_of_32_bits_holds_are_kept() -> None:
    """70,000 columns of 70,000 pixels: 4.9 billion, in one piece each."""
    side = 70_000
    columns = np.arange(side, dtype=np.int64)
    square = Strips(columns, np.zeros_like(columns), np.full_like(columns, side))
    again = Strips.of_rle(square.rle(), corner=(0, 0))
    assert again.area == side**2 and again.box == (0, 0, side, side)
