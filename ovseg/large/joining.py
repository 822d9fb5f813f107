"""The objects of a picture by what windows that overlap saw of them: each once, and whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ovseg.images.tiles import Tile
from ovseg.large.grid import Grid, shared_part
from ovseg.large.objects import Box, Places, SceneObject, box_of
from ovseg.large.strips import Strips

_ALIKE = 0.5  # IoU above which two windows saw the same; no two masks that are apart can have it with a third
_COVERED = 0.5  # share of the smaller from which it is a part, or a copy, of the other


@dataclass(frozen=True, eq=False)
class Sighting:
    """What one window saw of an object.

    Attributes:
        window: its number.
        seen: the object, in pixels of the picture.
        whole: whether it ends before the window does, on every side on which the picture goes on.
    """

    window: int
    seen: SceneObject
    whole: bool

    @cached_property
    def strips(self) -> Strips:
        """Its pixels."""
        return self.seen.strips


def join(seen: Iterable[Sequence[SceneObject]], grid: Grid) -> tuple[SceneObject, ...]:
    """The objects of the whole picture, the surest first.

    1. A sighting that ends at the border of its window (within a cell) is dropped where another window has room
       around it: that one sees the object better, or knows that there is none.
    2. Two sightings with one label by windows that overlap are of one object where, in the part that both windows
       see, their IoU is above 0.5; or where the smaller goes on past the border of its window into the other, and
       the other covers more than half of it there.
    3. Of an object that some window saw whole, the surest such sighting is taken as it is; the others are the
       union of their sightings. The score is the best of all.
    4. An object more than half of which lies in surer ones of its label that no window saw beside it is dropped:
       it is a part or a copy, which windows cut out differently.

    Memory grows with the number of objects and the length of their outlines alone.

    Args:
        seen: the objects of each window, in order, in pixels of the picture.
        grid: the windows.
    """
    windows = [grid.pixels(window) for window in grid.windows]
    side = max(windows[0].height, windows[0].width)
    sightings = _kept(seen, windows, grid, side=side)
    if not sightings:
        return ()
    places = Places([each.seen.box for each in sightings], side=side)
    pairs = [
        (one, other)
        for one, other in places.pairs()
        if _are_one(sightings[one], sightings[other], windows, near=grid.cell)
    ]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(sightings),) * 2)
    _, owners = connected_components(links, directed=False)
    groups: dict[int, list[Sighting]] = {}
    for owner, each in zip(owners.tolist(), sightings, strict=True):
        groups.setdefault(owner, []).append(each)
    found = [(_united(group), {each.window for each in group}) for group in groups.values()]
    found.sort(key=lambda each: (-each[0].score, each[0].label, each[0].box, each[0].area))
    return _without_copies(found, side=side)


def _kept(
    seen: Iterable[Sequence[SceneObject]], windows: Sequence[Tile], grid: Grid, *, side: int
) -> list[Sighting]:
    """All sightings but those that another window sees better."""
    rooms = [_room(window, grid) for window in windows]
    views = Places([box_of(window) for window in windows], side=side)
    kept = []
    for number, objects in enumerate(seen):
        for each in objects:
            whole = _holds(rooms[number], each.box)
            if whole or not any(_holds(rooms[other], each.box) for other in views.meeting(each.box)):
                kept.append(Sighting(number, each, whole))
    return kept


def _room(window: Tile, grid: Grid) -> Box:
    """The box of a window, a cell less on every side on which the picture goes on, and endless on the others."""
    (height, width), near = grid.size, grid.cell
    left, top, right, bottom = box_of(window)
    return (
        left + near if left > 0 else 0,
        top + near if top > 0 else 0,
        right - near if right < width else width,
        bottom - near if bottom < height else height,
    )


def _holds(room: Box, box: Box) -> bool:
    return room[0] <= box[0] and room[1] <= box[1] and box[2] <= room[2] and box[3] <= room[3]


def _are_one(one: Sighting, other: Sighting, windows: Sequence[Tile], *, near: int) -> bool:
    """Whether two sightings are of one object; see ``join``."""
    if one.seen.label != other.seen.label or one.window == other.window:
        return False
    both = shared_part(windows[one.window], windows[other.window])
    if both is None:
        return False
    parts = [(each.strips.within(both), windows[there.window]) for each, there in ((one, other), (other, one))]
    (small, beyond), (large, _) = sorted(parts, key=lambda part: part[0].area)
    if not small.area:
        return False
    common = small.shared(large)
    if common > _ALIKE * (small.area + large.area - common):
        return True
    return common > _COVERED * small.area and _goes_on(small, both, beyond, near=near)


def _goes_on(part: Strips, both: Tile, beyond: Tile, *, near: int) -> bool:
    """Whether what a window sees ends where the window does (within ``near`` pixels) while the other goes on."""
    box, border, outer = part.box, box_of(both), box_of(beyond)
    begins = any(border[side] > outer[side] and box[side] < border[side] + near for side in (0, 1))
    return begins or any(border[side] < outer[side] and box[side] > border[side] - near for side in (2, 3))


def _united(group: Sequence[Sighting]) -> SceneObject:
    """The object that all sightings of a group are of."""
    best = max(each.seen.score for each in group)
    whole = [each for each in group if each.whole]
    if whole:
        surest = max(whole, key=lambda each: each.seen.score).seen
        return SceneObject(surest.label, best, surest.box, surest.area, surest.rle)
    return SceneObject.of(Strips.joined([each.strips for each in group]), group[0].seen.label, best)


def _without_copies(found: Sequence[tuple[SceneObject, set[int]]], *, side: int) -> tuple[SceneObject, ...]:
    """Those, of which the surest come first, that surer ones of other windows do not cover."""
    places = Places([each.box for each, _ in found], side=side)
    kept: dict[int, SceneObject] = {}
    for number, (each, windows) in enumerate(found):
        rivals = [
            kept[other].strips
            for other in places.meeting(each.box)
            if other in kept and kept[other].label == each.label and not windows & found[other][1]
        ]
        if rivals and each.strips.shared(Strips.joined(rivals)) > _COVERED * each.area:
            continue
        kept[number] = each
    return tuple(kept.values())
