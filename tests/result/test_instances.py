"""Objects of a result: painted, counted, cut out, saved, and in COCO's formats."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks

from ovseg.errors import ShapeError, VocabularyError
from ovseg.result import SegmentationResult
from ovseg.result.numbers import widest_place
from ovseg.result.panoptic import ids_to_picture, picture_to_ids
from ovseg.result.segments import Segment, decode_runs, encode_mask, paint

SIZE = (6, 10)


def block(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[rows, columns] = True
    return mask


def segment(mask: np.ndarray, label: str, score: float) -> Segment:
    return Segment.of_mask(mask, label, score, corner=(0, 0), size=SIZE)


@pytest.fixture
def result() -> SegmentationResult:
    """Two cars that overlap in column 4, a road below, and a car's pixel that belongs to no object."""
    index_map = np.full(SIZE, -1, np.int32)
    index_map[4:] = 1
    index_map[1:4, 1:8] = 0
    index_map[0, 9] = 0
    near = segment(block(slice(1, 4), slice(1, 5)), "car", 0.5)
    far = segment(block(slice(1, 3), slice(4, 8)), "car", 0.9)
    return SegmentationResult(
        index_map,
        ("car", "road"),
        np.full(SIZE, 0.5, np.float32),
        {"car": 1.0, "road": 1.0},
        image=np.arange(180, dtype=np.uint8).reshape(*SIZE, 3),
        instances=(far, near),
        things=("car",),
    )


def test_where_objects_overlap_the_surer_one_is_seen(result: SegmentationResult) -> None:
    expected = np.zeros(SIZE, np.int32)
    expected[1:4, 1:5] = 2
    expected[1:3, 4:8] = 1
    np.testing.assert_array_equal(result.instance_map, expected)
    assert result.instance_map.dtype == np.int32


def test_objects_are_counted_by_label_of_things_alone(result: SegmentationResult) -> None:
    assert result.count("car") == 2
    assert [row.objects for row in result.table()] == [2, None]
    with pytest.raises(VocabularyError, match=r"no objects of 'road' were looked for"):
        result.count("road")


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_runs_are_those_that_pycocotools_decodes(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((37, 301)) < share
    runs = np.zeros(mask.size, np.uint8)
    for start, end in decode_runs(encode_mask(mask)["counts"]):
        runs[start:end] = 1
    np.testing.assert_array_equal(runs.reshape(301, 37).T, coco_masks.decode(encode_mask(mask)))


def test_runs_of_a_picture_of_many_pixels() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[10:2990, 20:3990] = True
    mask[500:600, 700:800] = False
    assert decode_runs(encode_mask(mask)["counts"])[0] == (20 * 3000 + 10, 20 * 3000 + 2990)
    np.testing.assert_array_equal(
        paint([Segment.of_mask(mask, "a", 1, corner=(0, 0), size=mask.shape)], mask.shape), mask
    )


def test_a_segment_of_a_window_lies_at_its_corner() -> None:
    found = Segment.of_mask(np.array([[1, 0], [1, 1]], bool), "car", 0.25, corner=(2, 5), size=SIZE)
    assert (found.box, found.area, found.score) == ((5, 2, 7, 4), 3, 0.25)
    expected = np.zeros(SIZE, bool)
    expected[2, 5] = expected[3, 5:7] = True
    np.testing.assert_array_equal(found.mask(), expected)


def test_saved_and_loaded_nothing_of_an_object_is_lost(result: SegmentationResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    loaded = SegmentationResult.load(tmp_path)
    assert (loaded.instances, loaded.things) == (result.instances, result.things)
    np.testing.assert_array_equal(loaded.instance_map, result.instance_map)


def test_panoptic_segments_never_overlap_and_what_objects_leave_is_stuff_or_none(
    result: SegmentationResult,
) -> None:
    panoptic = result.to_panoptic(image_id=7)
    expected = np.zeros(SIZE, np.int32)
    expected[1:4, 1:5] = 2
    expected[1:3, 4:8] = 1
    expected[4:] = 3  # the road; the lonely pixel of a car is no object and no stuff
    np.testing.assert_array_equal(panoptic.ids, expected)
    rows = [(row["id"], row["category_id"], row["area"], row["bbox"]) for row in panoptic.segments_info]
    assert rows == [(1, 1, 8, [4, 1, 4, 2]), (2, 1, 10, [1, 1, 4, 3]), (3, 2, 20, [0, 4, 10, 2])]
    assert [(row["name"], row["isthing"]) for row in panoptic.categories] == [("car", 1), ("road", 0)]
    assert panoptic.image_id == 7


def test_small_panoptic_segments_become_none(result: SegmentationResult) -> None:
    panoptic = result.to_panoptic(min_area=10)
    assert [row["id"] for row in panoptic.segments_info] == [2, 3]
    assert set(np.unique(panoptic.ids)) == {0, 2, 3}


def test_a_result_without_objects_has_one_panoptic_segment_per_label(result: SegmentationResult) -> None:
    panoptic = replace(result, instances=None, things=()).to_panoptic()
    assert [row["area"] for row in panoptic.segments_info] == [22, 20]


def test_colours_of_panoptic_pictures_are_numbers() -> None:
    ids = np.array([[0, 255, 256], [65535, 65536, 1_234_567]], np.int32)
    picture = ids_to_picture(ids)
    assert picture.getpixel((2, 0)) == (0, 1, 0)
    np.testing.assert_array_equal(picture_to_ids(np.asarray(picture)), ids)


def test_coco_has_one_annotation_an_object_and_one_for_all_of_a_label_that_is_no_thing(
    result: SegmentationResult,
) -> None:
    document = result.to_coco()
    assert [(row["category_id"], row["bbox"], row["score"]) for row in document["annotations"]] == [
        (1, [4, 1, 4, 2], 0.9),
        (1, [1, 1, 4, 3], 0.5),
        (2, [0, 4, 10, 2], 0.5),
    ]


def test_crops_are_transparent_where_the_object_is_not(result: SegmentationResult) -> None:
    odd = Segment.of_mask(np.array([[1, 0], [1, 1]], bool), "car", 0.9, corner=(4, 8), size=SIZE)
    (crop,) = replace(result, instances=(odd,)).crops(padding=1)
    assert (crop.mode, crop.size) == ("RGBA", (3, 3))  # the image ends right and below
    assert np.asarray(crop)[..., 3].tolist() == [[0, 0, 0], [0, 255, 0], [0, 255, 255]]
    assert result.image is not None
    np.testing.assert_array_equal(np.asarray(crop)[..., :3], result.image[3:6, 7:10])
    with pytest.raises(ShapeError, match="with its photo"):
        list(replace(result, image=None).crops())


def test_small_and_unsure_objects_are_dropped_with_their_pixels(result: SegmentationResult) -> None:
    assert result.instances is not None
    assert result.without_small(9).instances == result.instances[1:]
    assert result.without_unsure(0.6).instances == result.instances[:1]


def test_objects_must_be_of_a_label_that_was_asked_for_and_of_the_size_of_the_image(
    result: SegmentationResult,
) -> None:
    with pytest.raises(VocabularyError, match="no label 'cat'"):
        replace(result, things=("cat",))
    with pytest.raises(ShapeError, match=r"one of things=\(\), got 'car'"):
        replace(result, things=())
    other = Segment.of_mask(np.ones((2, 2), bool), "car", 1, corner=(0, 0), size=(2, 2))
    with pytest.raises(ShapeError, match=r"instances must be of \(6, 10\) pixels"):
        replace(result, instances=(other,))


def test_the_overlay_outlines_objects_numbers_and_counts_them() -> None:
    size = (200, 300)
    index_map = np.zeros(size, np.int32)
    mask = np.ones((180, 130), bool)
    pair = tuple(Segment.of_mask(mask, "car", 0.9 - n / 2, corner=(10, 10 + 130 * n), size=size) for n in (0, 1))
    plain = SegmentationResult(index_map, ("car",), np.ones(size, np.float32), {"car": 1.0})
    drawn = replace(plain, instances=pair, things=("car",)).overlay()
    before, after = np.array(plain.overlay())[:200], np.array(drawn)[:200]
    assert (after[100, 139] > 200).all() and not (before[100, 139] > 200).all()  # the line between the two
    assert (after[60:140, 40:110] == 32).any()  # the dark ground of a number
    assert not np.array_equal(np.array(plain.overlay())[200:], np.array(drawn)[200:])  # "2 × car"


def test_the_widest_place_of_an_object_is_inside_what_is_seen_of_it() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:90, 10:14] = True
    mask[50:80, 10:50] = True
    one = Segment.of_mask(mask, "car", 1, corner=(0, 0), size=(100, 100))
    found = widest_place(one, paint([one], (100, 100)), 1)
    assert found is not None
    (x, y), radius = found
    assert mask[int(y), int(x)] and 50 <= y <= 80 and 12 <= radius <= 18
    assert widest_place(one, np.zeros((100, 100), np.int32), 1) is None


def test_many_objects_are_saved(tmp_path: Path) -> None:
    size = (128, 128)
    dots = [
        Segment.of_mask(np.ones((1, 1), bool), "car", 0.5, corner=(row, column), size=size)
        for row in range(128)
        for column in range(0, 128, 4)
    ]
    many = SegmentationResult(
        np.zeros(size, np.int32),
        ("car",),
        np.ones(size, np.float32),
        {"car": 1.0},
        instances=tuple(dots),
        things=("car",),
    )
    assert many.instance_map.max() == len(dots)
    many.save(tmp_path)
    with Image.open(tmp_path / "result_overlay.png") as picture:
        assert picture.width == 128
