import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ShapeError
from ovseg.images.tiles import Tile, plan_tiles

sides = st.integers(1, 200)


@settings(deadline=None)  # other work on the machine counts
@given(sides, sides, st.integers(1, 90), st.data())
def test_every_pixel_is_covered_and_no_tile_leaves_the_image(
    height: int, width: int, window: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(max(0, window - 40), window - 1))
    covered = np.zeros((height, width), bool)
    for tile in plan_tiles(height, width, window=window, overlap=overlap):
        assert 0 <= tile.top <= height - tile.height
        assert 0 <= tile.left <= width - tile.width
        assert (tile.height, tile.width) == (min(window, height), min(window, width))
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] = True
    assert covered.all()


@given(st.integers(1, 500), st.integers(2, 90), st.data())
def test_neighbours_share_at_least_the_overlap(width: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window - 1))
    lefts = [tile.left for tile in plan_tiles(1, width, window=window, overlap=overlap)]
    assert lefts == sorted(set(lefts))
    assert all(left + window - following >= overlap for left, following in itertools.pairwise(lefts))


@pytest.mark.parametrize("size", [(1, 1), (30, 20), (64, 64)])
def test_an_image_within_a_window_is_one_tile(size: tuple[int, int]) -> None:
    assert plan_tiles(*size, window=64, overlap=16) == [Tile(0, 0, *size)]


def test_a_long_strip_is_a_row_of_tiles_of_its_height() -> None:
    tiles = plan_tiles(20, 8000, window=448, overlap=112)
    assert {(tile.top, tile.height, tile.width) for tile in tiles} == {(0, 20, 448)}
    assert [tile.left for tile in tiles[:3]] == [0, 336, 672]
    assert tiles[-1].left == 8000 - 448


def test_the_last_tile_is_shifted_back_inside() -> None:
    assert [tile.left for tile in plan_tiles(10, 25, window=10, overlap=2)] == [0, 8, 15]


@pytest.mark.parametrize("overlap", [-1, 10, 11])
def test_overlap_outside_the_window_is_refused(overlap: int) -> None:
    with pytest.raises(
        ShapeError, match=rf"overlap must be at least 0 and less than the window of 10, got {overlap}"
    ):
        plan_tiles(50, 50, window=10, overlap=overlap)


def test_lengths_below_one_are_refused() -> None:
    with pytest.raises(ShapeError, match="window must be at least 1 pixel, got 0"):
        plan_tiles(5, 5, window=0, overlap=0)
    with pytest.raises(ShapeError, match="height must be at least 1 pixel, got 0"):
        plan_tiles(0, 5, window=1, overlap=0)
