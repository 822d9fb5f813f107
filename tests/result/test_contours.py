"""Lines around the parts of a mask, compared with scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import find_contours

from ovseg.result.contours import trace


def turned(line: np.ndarray) -> bytes:
    """A closed line from its first point in the order of reading on."""
    ring = line[:-1]
    return np.roll(ring, -np.lexsort(ring.T)[0], axis=0).tobytes()


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_lines_are_those_of_marching_squares(density: float) -> None:
    mask = np.pad(np.random.default_rng(3).random((17, 26)) < density, 1)
    points, begins = trace(mask)
    lines = np.split(points, begins[1:])
    expected = find_contours(mask.astype(np.float32), 0.5, fully_connected="high")
    assert {turned(line) for line in lines} == {turned(line[:, ::-1]) for line in expected}
    assert all((line[0] == line[-1]).all() for line in lines)
    tops = [line[:, 1].min() for line in lines]
    assert tops == sorted(tops)


def test_what_is_inside_lies_on_the_right() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 1] = True
    points, begins = trace(mask)
    assert begins.tolist() == [0]
    assert points.tolist() == [[1, 0.5], [1.5, 1], [1, 1.5], [0.5, 1], [1, 0.5]]
