"""A picture of each label: right pixels, names that fit any file system, and nothing of an earlier result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import OutputError
from ovseg.result import SegmentationResult
from ovseg.result.masks import file_names


def make_result(*labels: str) -> SegmentationResult:
    index_map = np.array([[0, 0, -1], [1, -1, 0]], np.int32)
    return SegmentationResult(index_map, labels, np.ones((2, 3), np.float32), dict.fromkeys(labels, 1.0))


def test_masks_are_white_where_the_label_won(tmp_path: Path) -> None:
    cat, light, none = make_result("cat", "traffic light", "absent").save_masks(tmp_path / "m")
    assert (cat.name, light.name) == ("cat.png", "traffic_light.png")
    assert np.array(Image.open(cat)).tolist() == [[255, 255, 0], [0, 0, 255]]
    assert np.array(Image.open(light)).tolist() == [[0, 0, 0], [255, 0, 0]]
    assert not np.array(Image.open(none)).any()
    assert json.loads((tmp_path / "m" / "labels.json").read_text())["traffic_light.png"] == "traffic light"


def test_masks_of_an_earlier_result_are_removed(tmp_path: Path) -> None:
    make_result("cat", "dog").save_masks(tmp_path)
    make_result("cat", "road").save_masks(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "labels.json", "road.png"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="which has other files; choose another folder"):
        make_result("cat", "dog").save_masks(tmp_path)
    assert (tmp_path / "cat.png").read_bytes() == b"mine"


def test_a_table_that_names_files_elsewhere_removes_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "keep.png").write_bytes(b"mine")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "labels.json").write_text('{"../keep.png": "cat"}')
    make_result("cat", "dog").save_masks(folder)
    assert (tmp_path / "keep.png").read_bytes() == b"mine"


def test_file_names_are_safe_and_one_of_a_kind() -> None:
    names = file_names(["../x", "cat", "CAT", "cat_2", "?", "!", "猫" * 100, "é", "a" * 300])
    assert names[:4] == ["x.png", "cat.png", "CAT_2.png", "cat_2_3.png"]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(len(name.encode()) <= 255 and "/" not in name for name in names)
