from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation import load_protocol
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import Protocol

SIZE = (12, 16)


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_lvis(folder: Path) -> dict[str, Any]:
    """Five images: all show a cup and a lid that lies over it, the first two also a spoon."""
    (folder / "val2017").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": []}
    names = {3: "cup", 5: "lid_(of_a_cup)", 9: "spoon"}
    content["categories"] = [{"id": key, "name": name, "frequency": "f"} for key, name in names.items()]
    for number in range(5):
        Image.fromarray(np.full((*SIZE, 3), 40 * number, np.uint8)).save(folder / "val2017" / f"{number:03d}.jpg")
        image = {"id": number, "height": SIZE[0], "width": SIZE[1], "neg_category_ids": []}
        image["coco_url"] = f"http://host/val2017/{number:03d}.jpg"  # type: ignore[assignment]
        content["images"].append(image)
        objects = [(3, rectangle(0, 0, 8, 8)), (3, rectangle(6, 4, 12, 10)), (5, rectangle(2, 2, 6, 4))]
        objects += [(9, rectangle(12, 0, 16, 2))] * (number < 2)
        for category, polygon in objects:
            row = {"id": len(content["annotations"]), "image_id": number, "category_id": category}
            content["annotations"].append(row | {"segmentation": polygon, "iscrowd": 0})
    (folder / "lvis_v1_val.json").write_text(json.dumps(content))
    return content


def lvis(**changes: Any) -> Protocol:
    values = load_protocol("lvis-92i").model_dump()
    values["episodes"] |= {"fold_count": 1, "shots": 1, "count": 6} | changes
    return Protocol.model_validate(values)


def test_the_mask_of_a_class_is_the_union_of_its_objects_whatever_lies_over_them(tmp_path: Path) -> None:
    write_lvis(tmp_path)
    dataset = open_dataset(lvis(), tmp_path)
    assert dataset.protocol.names == ("background", "cup", "lid (of a cup)", "spoon")
    example = dataset.load(0)
    assert example.candidates == (1,)
    union = np.zeros(SIZE, bool)
    union[0:8, 0:8] = union[4:10, 6:12] = True
    np.testing.assert_array_equal(example.truth, union)  # with the lid's pixels, which an index PNG would lose
    ((support,),) = example.supports.values()
    np.testing.assert_array_equal(support.mask, union)


@pytest.mark.parametrize("folder", ["coco", "images"])
def test_images_lie_in_any_folder_that_the_layouts_name(tmp_path: Path, folder: str) -> None:
    write_lvis(tmp_path)
    annotations = tmp_path / ("annotations" if folder == "images" else ".")
    annotations.mkdir(exist_ok=True)
    (tmp_path / "lvis_v1_val.json").rename(annotations / "lvis_v1_val.json")
    (tmp_path / folder).mkdir()
    (tmp_path / "val2017").rename(tmp_path / folder / "val2017")
    assert open_dataset(lvis(), tmp_path).files(0)[0].is_relative_to(tmp_path / folder)


def test_classes_take_turns_and_a_query_is_never_its_own_example(tmp_path: Path) -> None:
    write_lvis(tmp_path)
    dataset = open_dataset(lvis(), tmp_path)
    episodes = dataset.episodes  # type: ignore[attr-defined]
    assert [episode.class_index for episode in episodes] == [1, 2, 3, 1, 2, 3]
    assert all(episode.query not in episode.supports for episode in episodes)
    assert {episodes[2].query, *episodes[2].supports} == {0, 1}  # only two images show a spoon


def test_a_fold_is_every_nth_class_with_images_enough(tmp_path: Path) -> None:
    write_lvis(tmp_path)
    folds = [open_dataset(lvis(fold_count=2, fold=fold), tmp_path).episodes for fold in (0, 1)]  # type: ignore[attr-defined]
    assert [{episode.class_index for episode in fold} for fold in folds] == [{1}, {2}]  # 3 // 2 classes each
    few = open_dataset(lvis(shots=2), tmp_path).episodes  # type: ignore[attr-defined]
    assert {episode.class_index for episode in few} == {1, 2}
    whole = open_dataset(lvis(shots=0, count=None), tmp_path)
    assert len(whole.names) == 5 + 5 + 2


def test_folds_that_the_data_cannot_fill_are_refused(tmp_path: Path) -> None:
    write_lvis(tmp_path)
    with pytest.raises(DatasetError, match="10 folds of 1-shot episodes need 10 classes with 2 images each"):
        open_dataset(lvis(fold_count=10), tmp_path)
    with pytest.raises(DatasetError, match="has folds 0 to 0, got 3"):
        open_dataset(lvis(fold=3), tmp_path)


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    write_lvis(tmp_path)
    for path in (tmp_path / "val2017").iterdir():
        Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(path)
    with pytest.raises(DatasetError, match="5 x 5 pixels"):
        open_dataset(lvis(), tmp_path).load(0)


def test_other_protocols_keep_the_fingerprint_that_they_had() -> None:
    known = {"coco-20i": "e9e0649e33db", "pascal-5i": "9cc1c54890ef", "coco-panoptic-133": "e310c62601f3"}
    assert {name: load_protocol(name).fingerprint()[:12] for name in known} == known
