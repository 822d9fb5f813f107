"""Objects of a large picture: their masks, where they lie, and what is seen of them."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from ovseg.images.tiles import Tile
from ovseg.large.objects import Painter, Places, SceneObject, objects_seen
from ovseg.large.strips import Strips
from ovseg.result.segments import Segment, encode_mask, paint

SIZE = (70, 90)


def blobs(count: int) -> list[np.ndarray]:
    """(H, W) bool: random boxes with holes."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        mask = np.zeros(SIZE, bool)
        top, left = rng.integers(0, 50, 2)
        mask[top : top + rng.integers(5, 40), left : left + rng.integers(5, 40)] = True
        found.append(mask & (rng.random(SIZE) < 0.8))
    return found


def scene_object(mask: np.ndarray, score: float) -> SceneObject:
    return SceneObject.of(Strips.of_rle(encode_mask(mask), corner=(0, 0)), "car", score)


def test_an_object_knows_its_mask_and_fits_into_json() -> None:
    for mask in blobs(5):
        found = scene_object(mask, 0.5)
        x0, y0, x1, y1 = found.box
        assert found.area == mask.sum() and (found.mask() == mask[y0:y1, x0:x1]).all()
        assert SceneObject(**json.loads(json.dumps(asdict(found)))) == found


def test_parts_are_painted_as_a_photo_is() -> None:
    masks, scores = blobs(12), np.linspace(0.9, 0.3, 12).tolist()
    segments = [
        Segment.of_mask(mask, "car", score, corner=(0, 0), size=SIZE)
        for mask, score in zip(masks, scores, strict=True)
    ]
    expected = paint(segments, SIZE)
    painter = Painter([scene_object(mask, score) for mask, score in zip(masks, scores, strict=True)], side=16)
    for place in (Tile(0, 0, *SIZE), Tile(20, 30, 16, 25), Tile(60, 80, 10, 10)):
        part = expected[place.top : place.top + place.height, place.left : place.left + place.width]
        assert (painter.painted(place) == part).all()


def test_boxes_that_meet_are_found_as_by_asking_each() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 200, (60, 2))
    boxes = [
        (x, y, x + w, y + h)
        for (x, y), (w, h) in zip(corners.tolist(), rng.integers(1, 60, (60, 2)).tolist(), strict=True)
    ]
    slow = [
        (one, other)
        for one, (x0, y0, x1, y1) in enumerate(boxes)
        for other, (left, top, right, bottom) in enumerate(boxes)
        if one < other and x0 < right and left < x1 and y0 < bottom and top < y1
    ]
    assert sorted(Places(boxes, side=32).pairs()) == slow


def test_what_has_no_data_or_lies_past_the_picture_is_of_no_object() -> None:
    """A window of 20 x 20 pixels: its last 5 rows lie past a picture of 35 rows, its first 2 have no data."""
    valid = np.ones((20, 20), bool)
    valid[:2] = False
    square, above = np.zeros((2, 20, 20), bool)
    square[:, 5:10], above[:2] = True, True
    segments = [Segment.of_mask(mask, "car", 0.5, corner=(0, 0), size=(20, 20)) for mask in (square, above)]
    (found,) = objects_seen(segments, Tile(20, 40, 20, 20), valid, size=(35, 90))
    assert (found.box, found.area) == ((45, 22, 50, 35), 5 * 13)
