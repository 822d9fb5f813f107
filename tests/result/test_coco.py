import json

import numpy as np
import pytest
from pycocotools import mask as masks

from ovseg.result import CocoDataset, SegmentationResult


@pytest.fixture
def result() -> SegmentationResult:
    index_map = np.full((6, 8), -1, np.int32)
    index_map[1:3, 1:4] = 0
    index_map[4:6, 5:8] = 0
    index_map[0, 7] = 1
    score_map = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    labels = ("cat", "dog", "absent")
    provenance = {"source": "photo.jpg"}
    return SegmentationResult(index_map, labels, score_map, dict.fromkeys(labels, 1.0), provenance=provenance)


def test_rle_decodes_to_the_mask(result: SegmentationResult) -> None:
    encoded = result.to_rle("cat")
    assert encoded["size"] == [6, 8]
    assert isinstance(encoded["counts"], str)
    np.testing.assert_array_equal(masks.decode(encoded).astype(bool), result.mask("cat"))


def test_coco_has_one_annotation_per_present_label(result: SegmentationResult) -> None:
    coco = json.loads(json.dumps(result.to_coco(image_id=7)))
    assert coco["images"] == [{"id": 7, "file_name": "photo.jpg", "height": 6, "width": 8}]
    assert coco["categories"][2] == {"id": 3, "name": "absent"}
    cat, dog = coco["annotations"]
    assert (cat["id"], cat["image_id"], cat["category_id"], cat["area"], cat["iscrowd"]) == (1, 7, 1, 12, 0)
    assert cat["bbox"] == [1, 1, 7, 5]
    assert dog["bbox"] == [7, 0, 1, 1]
    assert dog["score"] == pytest.approx(7 / 47, abs=1e-6)


def test_bbox_and_area_agree_with_pycocotools(result: SegmentationResult) -> None:
    for annotation in result.to_coco()["annotations"]:
        assert masks.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
        assert int(masks.area(annotation["segmentation"])) == annotation["area"]


def test_components_are_apart_and_add_up(result: SegmentationResult) -> None:
    annotations = result.to_coco(per_component=True)["annotations"]
    cats = [annotation for annotation in annotations if annotation["category_id"] == 1]
    assert sorted(cat["bbox"] for cat in cats) == [[1, 1, 3, 2], [5, 4, 3, 2]]
    assert sum(cat["area"] for cat in cats) == result.pixels("cat")
    assert [annotation["id"] for annotation in annotations] == [1, 2, 3]


def test_a_dataset_of_many_images_has_ids_that_do_not_restart(result: SegmentationResult) -> None:
    other = SegmentationResult(
        np.array([[1, 0]], np.int32), ("road", "dog"), np.ones((1, 2), np.float32), {"road": 1.0, "dog": 1.0}
    )
    dataset = CocoDataset()
    dataset.add(result)
    dataset.add(other)
    coco = dataset.to_dict()
    assert [(image["id"], image["file_name"]) for image in coco["images"]] == [(1, "photo.jpg"), (2, "")]
    assert [(each["id"], each["image_id"], each["category_id"]) for each in coco["annotations"]] == [
        (1, 1, 1), (2, 1, 2), (3, 2, 4), (4, 2, 2),
    ]  # fmt: skip
    assert [category["name"] for category in coco["categories"]] == ["cat", "dog", "absent", "road"]
