"""Objects that windows cut at known places: 512 x 512 pixels, windows of 256 that share 128, three a side."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise, product

import numpy as np
import pytest

from ovseg.images.tiles import Tile
from ovseg.large.grid import Grid, shared_part
from ovseg.large.joining import join
from ovseg.large.objects import SceneObject, box_of
from ovseg.large.strips import Strips

GRID = Grid((512, 512), cell=16, window=16, overlap=8, block=8)
Box = tuple[int, int, int, int]


def pixels(*boxes: Box) -> Strips:
    """All pixels of some boxes, x0, y0, x1, y1."""
    parts = []
    for x0, y0, x1, y1 in boxes:
        columns = np.arange(x0, x1, dtype=np.int64)
        parts.append(Strips(columns, np.full_like(columns, y0), np.full_like(columns, y1)))
    return Strips.joined(parts)


def seen(*objects: Strips, label: str = "car", score: float = 0.5, grid: Grid = GRID) -> list[list[SceneObject]]:
    """What every window sees of objects: the part in it; the score is the higher the further to the right."""
    found = []
    for window in map(grid.pixels, grid.windows):
        parts = [each.within(window) for each in objects]
        rising = score + window.left / grid.size[1] / 10
        found.append([SceneObject.of(part, label, rising) for part in parts if part.area])
    return found


def number_of(left: int, top: int) -> int:
    """Of the window that begins there."""
    return [(window.left, window.top) for window in map(GRID.pixels, GRID.windows)].index((left, top))


def by_hand(**windows: tuple[int, list[tuple[Box, str, float]]]) -> list[list[SceneObject]]:
    """Sightings of the windows that begin at ``left`` in the first row: x0=(0, [...]), x128=(128, [...])."""
    found: list[list[SceneObject]] = [[] for _ in GRID.windows]
    for left, objects in windows.values():
        found[number_of(left, 0)] = [SceneObject.of(pixels(box), label, score) for box, label, score in objects]
    return found


def boxes(found: tuple[SceneObject, ...]) -> list[Box]:
    return sorted(each.box for each in found)


def test_the_windows_of_the_grid() -> None:
    assert sorted({window.left for window in map(GRID.pixels, GRID.windows)}) == [0, 128, 256]
    assert {(window.height, window.width) for window in map(GRID.pixels, GRID.windows)} == {(256, 256)}
    assert shared_part(Tile(0, 0, 4, 4), Tile(3, 1, 9, 9)) == Tile(3, 1, 1, 3)
    assert shared_part(Tile(0, 0, 4, 4), Tile(4, 0, 4, 4)) is None


def test_an_object_longer_than_a_window_is_one_with_all_of_its_pixels_and_the_best_score() -> None:
    (found,) = join(seen(pixels((30, 20, 400, 60))), GRID)
    assert (found.box, found.area, found.label) == ((30, 20, 400, 60), 370 * 40, "car")
    assert found.score == 0.5 + 256 / 512 / 10
    assert found.mask().all()


def test_an_object_in_all_nine_windows_is_one() -> None:
    (found,) = join(seen(pixels((100, 100, 420, 420))), GRID)
    assert (found.box, found.area) == ((100, 100, 420, 420), 320**2)


def test_an_object_at_a_corner_of_four_windows_is_one() -> None:
    (found,) = join(seen(pixels((230, 230, 290, 290))), GRID)
    assert (found.box, found.area) == ((230, 230, 290, 290), 60**2)


@pytest.mark.parametrize("reach", [44, 256])
def test_two_objects_that_touch_at_the_border_of_a_window_stay_two(reach: int) -> None:
    """The first window ends and the last begins where the one ends and the other begins, in column 256."""
    one, other = (256 - reach, 20, 256, 60), (256, 20, 256 + reach, 60)
    assert boxes(join(seen(pixels(one), pixels(other)), GRID)) == [one, other]


@pytest.mark.parametrize("box", [(150, 20, 220, 60), (150, 150, 220, 220)])
def test_an_object_whole_in_several_windows_is_counted_once(box: Box) -> None:
    assert boxes(join(seen(pixels(box)), GRID)) == [box]


def test_what_is_cut_is_replaced_by_what_another_window_saw_whole() -> None:
    """The first window sees 10 columns of a car, badly, and says that it is surest of that."""
    found = join(
        by_hand(x0=(0, [((220, 5, 256, 90), "car", 0.9)]), x128=(128, [((240, 20, 300, 60), "car", 0.6)])), GRID
    )
    assert [(each.box, each.score) for each in found] == [((240, 20, 300, 60), 0.6)]


def test_what_only_a_window_saw_that_cut_it_is_dropped_where_another_had_room_for_it() -> None:
    cut = [((235, 20, 256, 60), "car", 0.9)]
    assert join(by_hand(x0=(0, cut)), GRID) == ()
    at_the_end_of_the_picture = [((0, 20, 40, 60), "car", 0.9)]
    assert len(join(by_hand(x0=(0, at_the_end_of_the_picture)), GRID)) == 1


def test_the_surest_whole_sighting_is_taken_as_it_is() -> None:
    """IoU of 60 x 40 and 60 x 36 pixels: 0.9."""
    both = by_hand(x0=(0, [((150, 20, 210, 60), "car", 0.6)]), x128=(128, [((150, 22, 210, 58), "car", 0.8)]))
    assert [(each.box, each.score) for each in join(both, GRID)] == [((150, 22, 210, 58), 0.8)]


def test_two_legs_that_meet_in_the_next_window_are_one_object() -> None:
    """A hairpin: the first two windows see two bars, the third the bend; each bar is half of what it sees there."""
    bars, bend = [(30, 20, 400, 60), (30, 120, 400, 160)], (400, 20, 440, 160)
    hairpin = pixels(*bars, bend)
    found = []
    for window in map(GRID.pixels, GRID.windows):
        alone = window.left + window.width <= bend[0]
        parts = [pixels(bar).within(window) for bar in bars] if alone else [hairpin.within(window)]
        found.append([SceneObject.of(part, "car", 0.5) for part in parts if part.area])
    (one,) = join(found, GRID)
    assert (one.box, one.area) == ((30, 20, 440, 160), 2 * 370 * 40 + 40 * 140)


@pytest.mark.parametrize(("score", "expected"), [(0.9, 1), (0.5, 2)])
def test_of_two_windows_that_divide_things_otherwise_the_surer_counts(score: float, expected: int) -> None:
    """One window takes two people for one, the other sees each of them."""
    two = [((150, 20, 180, 60), "person", 0.7), ((180, 20, 210, 60), "person", 0.6)]
    found = join(by_hand(x0=(0, [((150, 20, 210, 60), "person", score)]), x128=(128, two)), GRID)
    assert len(found) == expected
    assert sum(each.area for each in found) == 60 * 40


def test_what_a_window_keeps_apart_stays_apart() -> None:
    """A person before a crowd, by both windows; and other labels at the same place."""
    nested = [
        ((140, 20, 230, 100), "person", 0.8),
        ((160, 40, 180, 90), "person", 0.7),
        ((140, 20, 230, 100), "bus", 0.5),
    ]
    found = join(by_hand(x0=(0, nested), x128=(128, nested)), GRID)
    assert [(each.box, each.label, each.score) for each in found] == nested


def test_things_of_any_size_that_lie_apart_are_found_as_they_are() -> None:
    """Random boxes in fields of a lattice whose lines run beside those of windows."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lines = [sorted(rng.choice(np.arange(24, 500), 3, replace=False).tolist()) for _ in range(2)]
        across, down = ([0, *each, 512] for each in lines)
        truth = []
        for (left, right), (top, bottom) in product(pairwise(across), pairwise(down)):
            if right - left > 40 and bottom - top > 40:
                truth.append(
                    (left + 1, top + 1, right - int(rng.integers(1, 30)), bottom - int(rng.integers(1, 30)))
                )
        assert boxes(join(seen(*map(pixels, truth)), GRID)) == sorted(truth), seed


def test_nothing_seen_is_nothing() -> None:
    assert join([[] for _ in GRID.windows], GRID) == ()


def test_memory_grows_with_outlines_and_not_with_pixels() -> None:
    """An object of 30,000 x 30,000 pixels, 0.9 billion, in a picture that four windows cover."""
    grid = Grid((36_000, 36_000), cell=16, window=1500, overlap=750, block=64)
    assert [box_of(grid.pixels(window))[2:] for window in grid.windows][-1] == (36_000, 36_000)
    sightings = seen(pixels((3000, 3000, 33_000, 33_000)), grid=grid)
    tracemalloc.start()
    (found,) = join(sightings, grid)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.area == 30_000**2
    assert peak < 60e6
