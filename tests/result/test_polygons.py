"""Outlines hold exactly the pixels of a mask, holes and parts that touch at a corner included."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import points_in_poly

from ovseg.result.polygons import polygons


def fill(size: tuple[int, int], mask: np.ndarray) -> np.ndarray:
    """The pixels whose centres lie inside the outlines of ``mask`` and in none of their holes."""
    rows, columns = np.indices(size).reshape(2, -1) + 0.5
    centres = np.stack([columns, rows], 1)
    inside = np.zeros(len(centres), dtype=bool)
    for polygon in polygons(mask):
        part = points_in_poly(centres, polygon.outer)
        for hole in polygon.holes:
            part &= ~points_in_poly(centres, hole)
        inside |= part
    return inside.reshape(size)


def test_a_pixel_is_a_diamond_around_its_centre() -> None:
    (polygon,) = polygons(np.array([[False, True]]))
    assert polygon.holes == ()
    assert {tuple(point) for point in polygon.outer} == {(1.5, 0.0), (2.0, 0.5), (1.5, 1.0), (1.0, 0.5)}
    np.testing.assert_array_equal(polygon.outer[0], polygon.outer[-1])


def test_a_ring_has_one_hole_and_what_is_in_it_is_a_part_of_its_own() -> None:
    mask = np.ones((7, 9), dtype=bool)
    mask[1:6, 1:8] = False
    mask[3, 4] = True
    ring, dot = polygons(mask)
    assert (len(ring.holes), len(dot.holes)) == (1, 0)
    assert dot.outer.mean(0) == pytest.approx([4.5, 3.5], abs=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_filled_outlines_are_the_mask(seed: int) -> None:
    mask = np.random.default_rng(seed).random((20, 31)) < 0.2 + 0.15 * seed
    np.testing.assert_array_equal(fill(mask.shape, mask), mask)


def test_an_empty_mask_has_no_outline() -> None:
    assert polygons(np.zeros((3, 4), dtype=bool)) == []
