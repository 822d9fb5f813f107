from __future__ import annotations

import numpy as np
import pytest

from ovseg.images.tiles import Tile
from ovseg.large.grid import Grid

GRID = Grid(size=(100, 230), cell=10, window=8, overlap=4, block=5)


def test_cells_reach_past_the_end_and_windows_cover_them_all() -> None:
    assert GRID.cells == (10, 23)
    assert [(each.top, each.left) for each in GRID.windows] == [
        (top, left) for top in (0, 2) for left in (0, 4, 8, 12, 15)
    ]
    seen = np.zeros(GRID.cells, int)
    for block in GRID.blocks:
        seen[block.top : block.top + block.height, block.left : block.left + block.width] += 1
    assert (seen == 1).all()
    assert GRID.pixels(Tile(2, 15, 8, 8)) == Tile(20, 150, 80, 80)
    assert GRID.around(Tile(0, 20, 5, 3), 2) == Tile(0, 18, 7, 5)


def test_the_grid_is_that_of_a_photo_at_the_scale() -> None:
    grid = Grid.of((4000, 5000), scale=0.5, sides=(512, 1280), stride=16, granularity=32)
    assert grid == Grid((4000, 5000), 32, 80, 40, 32, 2)
    assert grid.cells == (126, 158) and {each.top for each in grid.windows} == {0, 40, 46}
    assert Grid.of((40, 50), scale=4, sides=(16, 8), stride=16, granularity=16).cell == 4


def test_views_are_spread_evenly_wherever_windows_begin() -> None:
    assert [(view.top, view.left) for view in GRID.views(5)] == [(0, 0), (0, 7), (0, 15), (2, 0), (2, 7), (2, 15)]
    grid = Grid.of((20_000, 2000), scale=0.5, sides=(512, 1280), stride=16, granularity=32)
    assert [view.top for view in grid.views(5)] == [0, 136, 272, 408, 546]
    assert {(view.height, view.width) for view in grid.views(5)} == {(80, 64)}


def test_windows_change_places_smoothly() -> None:
    """Of four shared cells the first counts for nothing: 2.5, 1.5 and 0.5 cells from it the weights are sin² of
    75, 45 and 15 degrees."""
    grid = Grid(size=(1, 12), cell=1, window=8, overlap=4, block=8)
    scores = {0: np.zeros((1, 1, 8), np.float16), 1: np.ones((1, 1, 8), np.float16)}
    found, weights = grid.joined(Tile(0, 0, 1, 12), scores.get)
    assert found is not None
    second = 0.06699 / (0.06699 + 0.5)
    assert found[0, 0] == pytest.approx([0] * 5 + [second, 1 - second] + [1] * 5, abs=2e-3)
    part, _ = grid.joined(Tile(0, 3, 1, 5), scores.get)
    assert part is not None and np.array_equal(part[0, 0], found[0, 0, 3:8])
    assert (weights > 0).all()


def test_windows_that_were_left_out_do_not_count() -> None:
    grid = Grid(size=(1, 12), cell=1, window=8, overlap=4, block=8)
    found, weights = grid.joined(Tile(0, 0, 1, 12), {0: np.full((1, 1, 8), 0.5, np.float16)}.get)
    assert found is not None and found[0, 0] == pytest.approx([0.5] * 8 + [0] * 4)
    assert list(weights[0] > 0) == [True] * 8 + [False] * 4
    assert grid.joined(Tile(0, 0, 1, 12), lambda number: None)[0] is None
