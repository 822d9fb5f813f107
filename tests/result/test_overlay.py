import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.result.overlay import draw, draw_frame, palette
from ovseg.result.segments import Segment

LABELS = ("cat", "dog", "sky")


def test_palette_is_deterministic_and_a_prefix_of_longer_ones() -> None:
    np.testing.assert_array_equal(palette(300)[:7], palette(7))
    assert palette(0).shape == (0, 3)


def test_palette_colours_are_distinct() -> None:
    assert len(np.unique(palette(255), axis=0)) == 255
    first = palette(12).astype(int)
    distances = np.abs(first[:, None] - first[None]).sum(axis=-1) + 999 * np.eye(12, dtype=int)
    assert distances.min() > 60


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (20, 8000), (8000, 20), (30, 30), (120, 90), (427, 640)])
def test_the_photo_keeps_its_size_at_the_top_left(size: tuple[int, int]) -> None:
    index_map = np.zeros(size, np.int32)
    image = np.full((*size, 3), 90, np.uint8)
    drawn = np.array(draw(index_map, LABELS, image=image, opacity=0))
    assert drawn.shape[0] >= size[0]
    assert drawn.shape[1] >= size[1]
    np.testing.assert_array_equal(drawn[: size[0], : size[1]], image)


def test_the_legend_is_below_a_wide_photo_and_beside_an_upright_one() -> None:
    wide = draw(np.zeros((300, 400), np.int32), LABELS, image=None)
    upright = draw(np.zeros((400, 300), np.int32), LABELS, image=None)
    assert wide.width == 400 and wide.height > 300
    assert upright.height == 400 and upright.width > 300


def test_the_legend_does_not_touch_the_photo_and_shows_its_colour() -> None:
    strip = np.array(draw(np.ones((300, 400), np.int32), LABELS, image=None))[300:]
    assert (strip == palette(2)[1]).all(axis=-1).any()
    assert not (strip == palette(1)[0]).all(axis=-1).any()


def test_a_photo_too_small_for_a_legend_has_none() -> None:
    assert draw(np.zeros((1, 1), np.int32), LABELS, image=None).size == (1, 1)
    assert draw(np.zeros((20, 20), np.int32), LABELS, image=None).size == (20, 20)


def test_the_legend_stops_growing_after_twenty_labels() -> None:
    heights = []
    for count in (20, 21, 90, 400):
        index_map = np.arange(300 * 400, dtype=np.int32).reshape(300, 400) % count
        labels = [f"label {i:03d}" for i in range(count)]
        heights.append(draw(index_map, labels, image=None).height)
    assert heights[1] == heights[2] == heights[3]
    assert heights[1] <= heights[0] * 1.1


def test_long_and_strange_names_stay_inside_the_strip() -> None:
    labels = ("w" * 400, "two\nlines", "größe 你好")
    index_map = np.arange(300 * 400, dtype=np.int32).reshape(300, 400) % 3
    strip = np.array(draw(index_map, labels, image=None))[300:]
    assert (strip[:, -6:] == strip[0, 0]).all()


def test_opacity_mixes_the_colour_with_the_photo() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    drawn = np.array(draw(np.zeros((40, 40), np.int32), LABELS, image=image, opacity=0.5))
    np.testing.assert_allclose(drawn[20, 20], (palette(1)[0].astype(int) + 100) / 2, atol=1)
    with pytest.raises(ShapeError, match=r"opacity must be from 0 to 1, got 1\.5"):
        draw(np.zeros((4, 4), np.int32), LABELS, image=None, opacity=1.5)


def test_outlines_are_between_labels_only() -> None:
    index_map = np.zeros((60, 60), np.int32)
    index_map[:, 30:] = 1
    drawn = np.array(draw(index_map, LABELS, image=np.zeros((60, 60, 3), np.uint8), opacity=0)).astype(int)
    assert drawn[:60, 29].min() > 200
    assert drawn[:60, :28].max() == 0


def test_frames_of_a_clip_are_of_one_size_and_objects_carry_their_own_numbers() -> None:
    labels = ("cat", "dog", "a rather long label", "bird")
    photo = np.full((200, 300, 3), 128, np.uint8)
    empty = np.full((200, 300), -1, np.int32)
    some = empty.copy()
    some[20:120, 30:160] = 1
    segment = Segment.of_mask(some == 1, "dog", 0.9, corner=(0, 0), size=(200, 300))
    numbers = (some == 1).astype(np.int32)
    pictures = [
        draw_frame(index_map, labels, image=photo, instances=objects, instance_map=numbered, ids=ids)
        for index_map, objects, numbered, ids in (
            (empty, (), None, ()),
            (some, (segment,), numbers, (1,)),
            (some, (segment,), numbers, (28,)),
        )
    ]
    assert len({picture.size for picture in pictures}) == 1 and pictures[0].height > 200
    first, other = (np.asarray(picture) for picture in pictures[1:])
    changed = np.nonzero((first != other).any(2))
    assert changed[0].size and changed[0].max() < 120 and changed[1].max() < 160  # the number alone
    assert (np.asarray(pictures[0])[200:] == first[200:]).all()  # the legend does not change
