from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.datasets import check_data, open_dataset
from ovseg.evaluation.data.examples import resize_pair
from ovseg.evaluation.data.masks import read_image, read_mask
from ovseg.evaluation.data.protocol import Protocol, Resize, load_protocol
from ovseg.images.load import load_image

FOLDER = load_protocol("folder")


def save(path: Path, values: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def refused(data: Path, message: str, protocol: Protocol = FOLDER) -> None:
    with pytest.raises(DatasetError, match=re.escape(message)):
        dataset = open_dataset(protocol, data)
        for index in range(len(dataset.names)):
            dataset.load(index)


def test_a_folder_gives_images_and_class_indices(folder: Path) -> None:
    dataset = open_dataset(FOLDER, folder)
    example = dataset.load(1)
    assert dataset.protocol.names == ("sky", "road", "cat")
    assert len(dataset.names) == 6 and example.name == "001"
    assert example.image.shape == (12, 16, 3) and example.truth.dtype == np.int32
    assert sorted(np.unique(example.truth).tolist()) == [-1, 0, 1, 2]


def test_categories_state_ids_and_the_ignored_value(folder: Path, categories: Callable[[Path], None]) -> None:
    for path in (folder / "masks").iterdir():
        ids = np.asarray(Image.open(path))
        save(path, np.where(ids == 255, 0, ids + 1))
    (folder / "classes.txt").unlink()
    categories(folder.parent / "categories.json")  # beside the folder serves as well
    truth = open_dataset(FOLDER, folder).load(1).truth
    assert (truth == -1).sum() == 2 and truth.max() == 2


def test_a_class_named_null_takes_the_unlabelled_pixels(folder: Path) -> None:
    (folder / "classes.txt").write_text("null\nroad\ncat\n")
    protocol = open_dataset(FOLDER, folder).protocol
    assert protocol.background_index == 0
    assert protocol.classes[0].prompt == "background"
    assert protocol.candidates("all") == (0, 1, 2)


def test_a_palette_mask_is_read_by_its_indices(tmp_path: Path) -> None:
    mask = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("decode", "values", "wanted"),
    [
        ("red", [[[7, 1, 2], [255, 0, 0]]], [[7, 255]]),
        ("ade-full", [[[10, 3, 0], [29, 4, 9]]], [[259, 516]]),
        ("binary", [[0, 255]], [[0, 1]]),
    ],
)
def test_masks_are_decoded_as_the_layout_says(tmp_path: Path, decode: str, values: Any, wanted: Any) -> None:
    save(tmp_path / "mask.png", values)
    assert read_mask(tmp_path / "mask.png", decode=decode).tolist() == wanted


def test_matlab_masks_and_the_label_list_give_ids_by_name(tmp_path: Path) -> None:
    from scipy.io import savemat

    save(tmp_path / "JPEGImages" / "a.jpg", np.zeros((2, 3, 3)))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a 1\n")
    (tmp_path / "trainval").mkdir()
    savemat(tmp_path / "trainval" / "a.mat", {"LabelMap": np.array([[300, 2, 9], [2, 2, 1]], np.uint16)})
    names = load_protocol("context-59").names
    lines = [f"{number + 2}: {name}" for number, name in enumerate(names)]
    (tmp_path / "labels.txt").write_text("\n".join(["1: oddity", *lines]))
    truth = open_dataset(load_protocol("context-59"), tmp_path).load(0).truth
    assert truth.tolist() == [[-1, 0, 7], [0, 0, -1]]


def test_names_may_span_folders(tmp_path: Path) -> None:
    save(tmp_path / "leftImg8bit/val/bonn/x_leftImg8bit.png", np.zeros((2, 2, 3)))
    save(tmp_path / "gtFine/val/bonn/x_gtFine_labelIds.png", [[7, 8], [3, 33]])
    example = open_dataset(load_protocol("cityscapes-19"), tmp_path).load(0)
    assert example.name == "bonn/x" and example.truth.tolist() == [[0, 1], [-1, 18]]


def test_a_subset_ignores_the_other_classes(folder: Path) -> None:
    content = FOLDER.model_dump()
    content.update(classes=[{"name": n} for n in ("sky", "road", "cat")], classes_from=[])
    protocol = Protocol.model_validate({**content, "subsets": {"animals": ["cat"]}})
    truth = open_dataset(protocol, folder, labels="animals").load(1).truth
    assert set(np.unique(truth)) == {-1, 2}


def test_the_image_follows_the_orientation_that_fits_its_mask(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "classes.txt").write_text("sky\n")
    assert read_image(tmp_path / "images" / "a.jpg").shape == (6, 4, 3)
    for size in ((6, 4), (4, 6)):
        save(tmp_path / "masks" / "a.png", np.zeros(size))
        assert open_dataset(FOLDER, tmp_path).load(0).image.shape == (*size, 3)


def test_resizing_keeps_image_and_mask_together() -> None:
    truth = np.zeros((40, 60), np.int32)
    truth[:, 30:] = 3
    image = np.repeat(truth.astype(np.uint8)[..., None] * 50, 3, -1)
    small, classes = resize_pair(image, truth, resize=Resize(short_side=20, center_crop=True))
    assert small.shape == (20, 20, 3) and classes.shape == (20, 20)
    assert classes[:, :9].max() == 0 and classes[:, 11:].min() == 3


def test_a_missing_mask_is_named(folder: Path) -> None:
    (folder / "masks" / "003.png").unlink()
    refused(folder, f"the mask '{folder / 'masks' / '003.png'}' is missing; the folder should hold images/")


def test_a_missing_image_is_named(folder: Path) -> None:
    (folder / "images" / "003.png").unlink()
    refused(folder, f"1 masks have no image; the first one missing is '{folder / 'images' / '003.*'}'")


def test_an_empty_split_is_refused(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()
    refused(folder, "the split 'val' of 'folder' is empty")


def test_another_layout_says_how_the_folder_should_look(tmp_path: Path) -> None:
    protocol = load_protocol("voc20")
    refused(tmp_path, "is not laid out as 'voc20' needs; the folder should hold JPEGImages/", protocol)
    refused(tmp_path / "none", "no folder", protocol)
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "SegmentationClass").mkdir()
    refused(tmp_path, "the list of the split is missing", protocol)


def test_an_id_outside_the_protocol_is_refused(folder: Path) -> None:
    save(folder / "masks" / "002.png", np.full((12, 16), 9))
    refused(folder, "holds ids that protocol 'folder' does not know: 9")


def test_an_image_and_mask_of_different_sizes_are_refused(folder: Path) -> None:
    save(folder / "masks" / "002.png", np.zeros((10, 16)))
    refused(folder, "is 12 x 16 pixels (H x W) but its mask")


def test_a_palette_mask_converted_to_colours_is_refused(folder: Path) -> None:
    save(folder / "masks" / "002.png", np.zeros((12, 16, 3)))
    refused(folder, "single-channel file of ids, got mode RGB")


def test_damaged_files_are_refused(folder: Path) -> None:
    (folder / "masks" / "002.png").write_bytes(b"\x89PNG cut")
    refused(folder, "cannot read the mask")
    (folder / "images" / "001.png").write_bytes(b"")
    refused(folder, "cannot read the image")


def test_a_mask_of_a_huge_declared_size_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 16 // 2 - 1)
    refused(folder, "cannot read the mask")


def test_two_images_of_one_name_are_refused(folder: Path) -> None:
    save(folder / "images" / "002.jpg", np.zeros((12, 16, 3)))
    refused(folder, "'002' must be the name of one image, got 2")


def test_a_file_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    try:
        (folder / "images" / "002.png").rename(folder / "images" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes no such names")
    (folder / "masks" / "002.png").rename(folder / "masks" / os.fsdecode(b"\xff.png"))
    refused(folder, r"file names must be in UTF-8, got '\udcff'; rename image and mask")


def test_images_are_decoded_as_a_segmenter_decodes_them(folder: Path) -> None:
    wide = np.linspace(0, 65535, 12 * 16).reshape(12, 16).astype(np.uint16)
    Image.fromarray(wide).save(folder / "images" / "002.png")
    assert np.array_equal(open_dataset(FOLDER, folder).load(2).image, load_image(folder / "images" / "002.png"))
    assert np.median(open_dataset(FOLDER, folder).load(2).image) == pytest.approx(127, abs=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", "sky\n\ncat\n", "has an empty line 2"),
        ("classes.txt", "sky\nsky\n", "must name each class once; twice: sky"),
        ("classes.txt", "", "must name each class once"),
        ("categories.json", '{"ignore": 255, "categories": [{"id"', "is cut off or not a list of categories"),
        ("categories.json", '{"categories": []}', "must name each class once; it names none"),
        ("categories.json", '{"categories": [{"id": 70000, "name": "sky"}]}', "must give ids in [0, 65536)"),
        ("categories.json", '{"ignore": -3, "categories": [{"id": 0, "name": "sky"}]}', "got -3"),
    ],
)
def test_bad_class_lists_are_refused(folder: Path, name: str, content: str, message: str) -> None:
    (folder / "classes.txt").unlink()
    (folder / name).write_text(content)
    refused(folder, message)


def test_a_class_list_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "classes.txt").write_bytes(b"\xff\xfes\x00")
    refused(folder, "must be a text file in UTF-8")


def test_a_missing_class_list_shows_how_to_write_one(folder: Path) -> None:
    (folder / "classes.txt").unlink()
    refused(folder, "needs a file that names the classes: categories.json or classes.txt")


def test_checking_lists_every_problem_without_stopping(folder: Path) -> None:
    save(folder / "masks" / "002.png", np.full((12, 16), 9))
    save(folder / "masks" / "004.png", np.zeros((10, 16)))
    problems = list(check_data(FOLDER, folder))
    assert len(problems) == 2 and "002.png" in problems[0] and "004.png" in problems[1]
