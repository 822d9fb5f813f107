from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.datasets import OBJECT_SIZE, encode_rectangle, write_annotations, write_objects
from PIL import Image

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import load_protocol
from ovseg.evaluation.data.annotations import checked_rle
from ovseg.evaluation.data.check import check_all, check_before
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.metrics.objects import TrueObjects
from ovseg.evaluation.metrics.panoptic import Segments, panoptic_counts
from ovseg.result.panoptic import ids_to_picture

Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def test_panoptic_data_are_segments_and_a_map_of_classes(tmp_path: Path) -> None:
    write_objects(tmp_path)
    dataset = open_dataset(load_protocol("panoptic"), tmp_path)
    assert dataset.names == ("000", "001", "002")
    assert dataset.protocol.names == ("cat", "dog", "sky")  # by id
    assert dataset.protocol.things == (0, 1)
    assert dataset.protocol.subsets == {"things": ("cat", "dog"), "stuff": ("sky",)}
    example = dataset.load(1)
    assert isinstance(example.objects, Segments)
    assert [example.truth[row, column] for row, column in ((0, 0), (12, 3), (12, 24), (12, 25), (22, 0))] == [
        2,
        0,
        1,
        -1,
        -1,
    ]
    of = {
        index: (example.objects.ids == place).sum() for place, index in enumerate(example.objects.classes, start=1)
    }
    assert of == {0: 100, 1: 90, 2: 320}
    assert (example.objects.ids == 0).sum() == example.truth.size - 510


def test_instances_are_masks_and_what_is_none_does_not_count(tmp_path: Path) -> None:
    _, instances = write_objects(tmp_path)
    crowd = {"id": 99, "image_id": 50, "category_id": 5, "iscrowd": 1, "bbox": [0, 0, 32, 24], "area": 768.0}
    crowd["segmentation"] = {"size": [24, 32], "counts": [0, 768]}
    small = {
        "id": 98,
        "image_id": 50,
        "category_id": 5,
        "iscrowd": 0,
        "segmentation": [[2, 10, 6, 10, 6, 14, 2, 14]],
    }
    instances["annotations"] += [crowd, small]
    write_annotations(tmp_path, {}, instances)
    dataset = open_dataset(load_protocol("instances"), tmp_path)
    example = dataset.load(0)
    assert isinstance(example.objects, TrueObjects)
    assert example.objects.classes == (0, 1, 1, 1)
    assert example.objects.crowd == (False, False, True, False)
    assert example.objects.areas == (100, 80, 768, 16)
    assert example.truth[0, 0] == -1 and example.truth[18, 10] == 0 and example.truth[11, 3] == 1
    assert dataset.files(0) == (tmp_path / "images" / "000.png",)
    only = open_dataset(load_protocol("instances"), tmp_path, labels="all").protocol
    assert only.names == ("cat", "dog", "sky") and only.things == (0, 1, 2)


def test_a_segment_that_others_cover_is_in_the_truth_without_a_pixel(tmp_path: Path) -> None:
    panoptic, instances = write_objects(tmp_path)
    panoptic["annotations"][0]["segments_info"].append({"id": 4, "category_id": 7})
    write_annotations(tmp_path, panoptic, instances)
    truth = open_dataset(load_protocol("panoptic"), tmp_path).load(0).objects
    assert isinstance(truth, Segments) and truth.classes == (2, 0, 1, 2)
    assert np.unique(truth.ids).tolist() == [0, 1, 2, 3]
    found = Segments(truth.ids, truth.classes[:3])
    assert panoptic_counts(found, truth)[:, :5].tolist() == [[0, 1, 0, 0, 1], [1, 1, 0, 0, 1], [2, 1, 0, 1, 1]]


def test_a_subset_leaves_other_segments_void(tmp_path: Path) -> None:
    write_objects(tmp_path)
    example = open_dataset(load_protocol("panoptic"), tmp_path, labels="things").load(0)
    assert isinstance(example.objects, Segments) and sorted(example.objects.classes) == [0, 1]
    assert not example.objects.ids[:10].any() and (example.truth[:10] == -1).all()


def test_lvis_names_files_by_address_and_says_what_was_judged(tmp_path: Path) -> None:
    _, instances = write_objects(tmp_path, images=1)
    image = instances["images"][0]
    del image["file_name"]
    image |= {
        "coco_url": "http://host/val2017/000.jpg",
        "neg_category_ids": [7],
        "not_exhaustive_category_ids": [3],
    }
    for row, letter in zip(instances["categories"], "fcr", strict=True):
        row |= {"frequency": letter, "name": row["name"] + "_(kind)"}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text(json.dumps(instances))
    (tmp_path / "val2017").mkdir()
    Image.open(tmp_path / "images" / "000.png").save(tmp_path / "val2017" / "000.jpg")
    dataset = open_dataset(load_protocol("lvis-instances"), tmp_path)
    assert dataset.names == ("val2017/000",)
    subsets = {"frequent": ("sky (kind)",), "common": ("cat (kind)",), "rare": ("dog (kind)",)}
    assert dataset.protocol.subsets == subsets
    truth = dataset.load(0).objects
    assert isinstance(truth, TrueObjects) and (truth.judged, truth.partial) == ({2}, {0})


def test_words_are_lent_by_another_protocol_in_order_of_the_ids(tmp_path: Path) -> None:
    folder = tmp_path / "gtFine" / "cityscapes_panoptic_val"
    folder.mkdir(parents=True)
    city = tmp_path / "leftImg8bit" / "val" / "bonn"
    city.mkdir(parents=True)
    lender = load_protocol("cityscapes-19")
    names = [{"id": entry.ids[0], "name": "?", "isthing": entry.thing} for entry in lender.classes]
    image = {"id": "bonn_000000_000019", "file_name": "bonn_000000_000019_gtFine_leftImg8bit.png"}
    content = {
        "images": [image | {"height": 4, "width": 6}],
        "annotations": [
            {
                "image_id": image["id"],
                "file_name": "bonn_000000_000019_gtFine_panoptic.png",
                "segments_info": [{"id": 26001, "category_id": 26, "iscrowd": 1}],
            }
        ],
        "categories": names,
    }
    (tmp_path / "gtFine" / "cityscapes_panoptic_val.json").write_text(json.dumps(content))
    ids_to_picture(np.full((4, 6), 26001, np.int32)).save(folder / "bonn_000000_000019_gtFine_panoptic.png")
    Image.new("RGB", (6, 4)).save(city / "bonn_000000_000019_leftImg8bit.png")
    dataset = open_dataset(load_protocol("cityscapes-panoptic"), tmp_path)
    assert dataset.protocol.names == lender.names
    objects = dataset.load(0).objects
    assert isinstance(objects, Segments) and objects.crowd == (True,)
    assert dataset.protocol.names[objects.classes[0]] == "car"
    content["categories"] = names[:-1]
    (tmp_path / "gtFine" / "cityscapes_panoptic_val.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"must have the 19 categories .* got 18; .* protocol 'panoptic'"):
        open_dataset(load_protocol("cityscapes-panoptic"), tmp_path)


def unknown_segment(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["annotations"][0]["segments_info"].pop()


def segment_twice(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["annotations"][0]["segments_info"] *= 2


def image_twice(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["images"].append(panoptic["images"][0])


def file_twice(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["images"][1]["file_name"] = panoptic["images"][0]["file_name"]


def no_annotation(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["annotations"].pop()


def no_picture(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["annotations"][0]["file_name"] = "gone.png"


def no_image(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["images"][0]["file_name"] = "gone.png"


def unlisted_image(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["annotations"][0]["image_id"] = 1


def unlisted_category(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    panoptic["annotations"][0]["segments_info"][0]["category_id"] = 8


def not_coco(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    del panoptic["categories"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            unknown_segment,
            "holds 1 segments that its annotations do not list: 70000; fetch pictures and annotations",
        ),
        (segment_twice, "must name each segment of image 50 once, got '1000' twice"),
        (image_twice, "must name each image once, got '50' twice; remove one"),
        (file_twice, "must name each image once, got '000' twice"),
        (no_annotation, "lists 1 images without annotation, such as '52'"),
        (no_picture, r"the panoptic picture '.*gone.png' of .* is missing; the folder should hold"),
        (no_image, r"the image '.*gone\.\*' of .* is missing"),
        (unlisted_image, "has annotations of an image '1' that it does not list"),
        (unlisted_category, "gives '1000' in image '50' the category 8, which it does not list"),
        (not_coco, r"is not in COCO's format for panoptic \(KeyError\('categories'\)\)"),
    ],
)
def test_panoptic_data_that_do_not_fit_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    both = write_objects(tmp_path)
    change(*both)
    write_annotations(tmp_path, *both)
    with pytest.raises(DatasetError, match=message):
        open_dataset(load_protocol("panoptic"), tmp_path).load(0)


def test_a_picture_of_another_size_in_one_channel_or_damaged_is_refused(tmp_path: Path) -> None:
    write_objects(tmp_path)
    dataset = open_dataset(load_protocol("panoptic"), tmp_path)
    path = tmp_path / "panoptic" / "000.png"
    whole = Image.open(path)
    whole.crop((0, 0, 32, 22)).save(path)
    with pytest.raises(DatasetError, match=r"is 24 x 32 pixels \(H x W\) but its mask .* is 22 x 32"):
        dataset.load(0)
    whole.convert("L").save(path)
    with pytest.raises(DatasetError, match="must be a panoptic picture in colours, got one channel"):
        dataset.load(0)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match="cannot read the panoptic picture"):
        dataset.load(0)


GOOD = encode_rectangle(OBJECT_SIZE, 2, 10, 12, 20)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [32, 24], "counts": GOOD["counts"]}, r"is 32 x 24 pixels \(H x W\) but its image 24 x 32"),
        ({"size": [24, 32], "counts": GOOD["counts"] + "zzzz"}, "cannot be read"),
        ({"size": [24, 32], "counts": "å"}, "cannot be read"),
        ({"size": [24, 32], "counts": [5, 800]}, "its runs do not fit 24 x 32"),
        ({"size": [24, 32], "counts": [5, -3]}, "counts must be whole numbers from 0"),
        ({"counts": [5, 3]}, "cannot be read"),
        ([[1, 1, 2, 2]], "a polygon needs three points or more"),
        ([], "a polygon needs three points or more"),
        (None, "cannot be read"),
        ("text", "cannot be read"),
    ],
)
def test_masks_that_cannot_be_read_are_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        checked_rle(segmentation, OBJECT_SIZE, what="object 1 of '000'")


def test_all_ways_to_write_a_mask_are_one() -> None:
    counts = [0] * 0 + [2 * 24 + 10]
    for column in range(10):
        counts += [10, 14 if column < 9 else 24 * 20 + 4]
    corners = [[2, 10, 12, 10, 12, 20, 2, 20]]
    for segmentation in (
        GOOD,
        {"size": [24, 32], "counts": counts},
        {"size": [24, 32], "counts": counts[:-1]},
        corners,
    ):
        assert checked_rle(segmentation, OBJECT_SIZE, what="it") == GOOD


def test_objects_that_are_annotated_twice_are_told(tmp_path: Path) -> None:
    panoptic, instances = write_objects(tmp_path)
    for row in instances["annotations"]:
        row |= {"bbox": [row["id"], 0, 5, 5], "area": 25}
    instances["annotations"].append(instances["annotations"][0] | {"id": 77})
    write_annotations(tmp_path, panoptic, instances)
    dataset = open_dataset(load_protocol("instances"), tmp_path)
    wanted = "1 objects are annotated twice, with one box and area, such as 0 and 77 of '000'; one is missed"
    assert wanted in check_before(dataset, range(3)) and wanted in check_all(dataset)[2]


def test_no_folder_no_file_and_no_images_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="reads annotations in COCO's format from a folder, got 'hf://a/b'"):
        open_dataset(load_protocol("coco-instances"), "hf://a/b")
    with pytest.raises(DatasetError, match=r"no folder .* the folder should hold images/\{name\}.\* \+ panoptic/"):
        open_dataset(load_protocol("panoptic"), tmp_path / "none")
    with pytest.raises(DatasetError, match="is not laid out as 'instances' needs"):
        open_dataset(load_protocol("instances"), tmp_path)
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DatasetError, match="lists no image"):
        open_dataset(load_protocol("instances"), tmp_path)
    (tmp_path / "instances.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match="annotation file"):
        open_dataset(load_protocol("instances"), tmp_path)


def test_categories_of_one_name_are_refused(tmp_path: Path) -> None:
    panoptic, instances = write_objects(tmp_path)
    instances["categories"][0]["name"] = "Cat"
    write_annotations(tmp_path, panoptic, instances)
    with pytest.raises(ConfigError, match="every class needs its own name; given twice: cat, Cat"):
        open_dataset(load_protocol("instances"), tmp_path)


@pytest.mark.slow
def test_the_map_of_panoptic_data_is_that_of_the_semantic_masks(real_data: Path) -> None:
    panoptic = open_dataset(load_protocol("coco-panoptic"), real_data / "coco-train100")
    semantic = open_dataset(load_protocol("coco-panoptic-133"), real_data / "coco-train100")
    assert panoptic.names == semantic.names and panoptic.protocol.names == semantic.protocol.names
    for index in range(0, 100, 10):
        assert np.array_equal(panoptic.load(index).truth, semantic.load(index).truth)
