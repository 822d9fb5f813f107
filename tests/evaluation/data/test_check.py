from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation.data.check import check_all, check_before, remarks, survey
from ovseg.evaluation.data.datasets import check_data, open_dataset
from ovseg.evaluation.data.protocol import load_protocol, same_names
from ovseg.evaluation.run.runner import evaluate
from ovseg.evaluation.run.task import RunOptions
from ovseg.training.data import MaskData, check_masks

FOLDER = load_protocol("folder")


def change(folder: Path, function: Callable[[Any], Any]) -> None:
    """Every mask replaced by what ``function`` makes of it."""
    for path in (folder / "masks").iterdir():
        Image.fromarray(np.asarray(function(np.asarray(Image.open(path)).astype(int)), np.uint8)).save(path)


def problems(folder: Path) -> list[str]:
    return list(check_data(FOLDER, folder))


def test_classes_are_counted_by_hand(folder: Path) -> None:
    found, wrong, _ = check_all(open_dataset(FOLDER, folder))
    assert wrong == []
    # six masks of 12 x 16; a cat of 5 x 5 in every second; two ignored pixels each, always of the sky
    assert found.masks == 6 and found.images.tolist() == [6, 6, 3]
    assert found.pixels[2] == 3 * 25 and found.ignored == 12
    assert found.pixels.sum() + found.ignored == 6 * 12 * 16
    assert found.ignored_share == 12 / (6 * 12 * 16)
    assert found.to_dict()["classes"][2] == {"name": "cat", "images": 3, "pixels": 75}
    assert "       3           75   6.58%  cat" in found.to_text()  # 75 of 1140


def test_black_and_white_masks_are_refused_everywhere(folder: Path, oracle: Callable[..., Any]) -> None:
    change(folder, lambda ids: np.where(ids == 2, 255, 0))
    told = "the masks hold only 0 and 255: 255 is ignored, every other pixel is 'sky', and road, cat is nowhere"
    assert len(problems(folder)) == 1 and problems(folder)[0].startswith(told)
    for run in (
        lambda: evaluate(oracle(), "folder", data=folder),
        lambda: check_masks(MaskData(protocol="folder", path=str(folder))),
    ):
        with pytest.raises(DatasetError, match=r"the masks hold only 0 and 255.*decode: binary"):
            run()


def test_black_and_white_masks_of_one_class_are_refused(folder: Path) -> None:
    (folder / "classes.txt").write_text("cat\n")
    change(folder, lambda ids: np.where(ids == 2, 255, 0))
    assert "every other pixel is 'cat'; if white marks a class" in problems(folder)[0]


def test_masks_that_may_be_black_and_white_are_taken_when_it_is_said(
    folder: Path, oracle: Callable[..., Any]
) -> None:
    change(folder, lambda ids: np.where(ids == 2, 255, 0))
    options = RunOptions(absent=("road", "cat"))
    assert evaluate(oracle(), "folder", data=folder, options=options).manifest["images"] == 6
    with pytest.raises(ConfigError, match="absent: no class 'roat' in 'folder'; did you mean 'road'"):
        evaluate(oracle(), "folder", data=folder, options=RunOptions(absent=("roat",)))


def test_a_part_that_looks_black_and_white_by_chance_is_no_reason(folder: Path) -> None:
    for number in range(5):
        path = folder / "masks" / f"{number:03d}.png"
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 2, 255, 0).astype(np.uint8)).save(path)
    assert check_before(open_dataset(FOLDER, folder), [0, 1, 2]) == []
    assert problems(folder) == []


@pytest.mark.parametrize("whole", [True, False])
def test_masks_that_are_all_ignored_are_refused(folder: Path, oracle: Callable[..., Any], whole: bool) -> None:
    change(folder, lambda ids: np.full_like(ids, 255))
    if not whole:  # one image alone has labels, and it is not evaluated
        Image.fromarray(np.ones((12, 16), np.uint8)).save(folder / "masks" / "003.png")
    with pytest.raises(
        DatasetError, match=r"no pixel of \d masks counts: all are ignored \(they hold the ids 255\)"
    ):
        evaluate(oracle(), "folder", data=folder, limit=None if whole else 2)


def test_ids_that_are_too_high_by_one_are_told(folder: Path, oracle: Callable[..., Any]) -> None:
    (folder / "classes.txt").write_text("sky\nroad\ncat\ndog\n")
    change(folder, lambda ids: np.where(ids == 255, 255, ids + 1))
    told = "the first class, 'sky', is in no mask while the others are: are the ids of the masks too high by one?"
    assert problems(folder) == [f"{told}; if the data have none: --absent 'sky'"]
    assert told in evaluate(oracle(), "folder", data=folder).to_markdown()
    protocol = FOLDER.model_copy(update={"expected": FOLDER.expected.model_copy(update={"absent": ("sky",)})})
    assert list(check_data(protocol, folder)) == []


def test_ids_that_are_too_high_by_one_for_the_list_say_so(folder: Path) -> None:
    change(folder, lambda ids: np.where(ids == 255, 255, ids + 1))
    assert (
        "does not know: 3;" in problems(folder)[1]
        and "shifted by one? they should begin at 0" in problems(folder)[1]
    )


@pytest.mark.parametrize("wrapped", [True, False])
def test_ids_that_are_too_low_by_one_are_told(folder: Path, wrapped: bool) -> None:
    if wrapped:  # 0 less one is 255 in eight bits
        change(folder, lambda ids: np.where(ids == 255, 255, (ids - 1) % 256))
    else:
        (folder / "classes.txt").unlink()
        content = {
            "ignore": 0,
            "categories": [{"id": n + 1, "name": s} for n, s in enumerate(("sky", "road", "cat"))],
        }
        (folder / "categories.json").write_text(json.dumps(content))
        change(folder, lambda ids: np.where(ids == 255, 0, ids))
    (told,) = problems(folder)
    assert told.startswith("the last class, 'cat', is in no mask while the others are: are the ids")
    assert "too low by one?" in told


def test_an_empty_class_in_the_middle_is_a_remark_by_name(folder: Path, oracle: Callable[..., Any]) -> None:
    change(folder, lambda ids: np.where(ids == 1, 0, ids))
    found, wrong, told = check_all(open_dataset(FOLDER, folder))
    assert wrong == [] and told == ["1 of 3 classes are in no mask: road"]
    assert found.to_dict()["empty"] == ["road"]
    assert evaluate(oracle(), "folder", data=folder).manifest["remarks"] == told


def test_much_that_is_ignored_is_a_remark(folder: Path) -> None:
    change(folder, lambda ids: np.where(ids == 0, 255, ids))
    _, _, told = check_all(open_dataset(FOLDER, folder))
    shares = [line for line in told if "of all pixels are ignored and do not count" in line]
    assert not shares  # the sky is less than half
    change(folder, lambda ids: np.where(np.arange(192).reshape(12, 16) < 180, 255, ids))
    _, _, told = check_all(open_dataset(FOLDER, folder))
    assert any(line.startswith("93.8% of all pixels are ignored") for line in told)  # 180 of 192


def test_ids_that_a_protocol_passes_over_are_counted(folder: Path) -> None:
    protocol = FOLDER.model_copy(update={"other": "ignore"})
    change(folder, lambda ids: np.where(ids == 2, 9, ids))
    found = survey(open_dataset(protocol, folder), range(6))
    (told,) = [line for line in remarks(found, of=6) if "hold ids" in line]
    assert told == "6.5% of all pixels hold ids that no class of 'folder' names: 9"  # 75 of 1152


def test_one_class_alone_is_told(folder: Path) -> None:
    change(folder, lambda ids: np.ones_like(ids))
    assert any("every pixel that counts is 'road'; nothing is told apart here" in line for line in problems(folder))


@pytest.mark.parametrize(
    ("names", "twice"),
    [
        (("Apple", "sky", "apple"), ["Apple", "apple"]),
        (("traffic light", "traffic_light"), ["traffic light", "traffic_light"]),
        (("ﬁsh", "fish"), ["ﬁsh", "fish"]),
        (("Straße", "STRASSE"), ["Straße", "STRASSE"]),
        (("apple", "apples"), []),
    ],
)
def test_names_that_are_one_to_a_reader(names: Sequence[str], twice: list[str]) -> None:
    assert same_names(names) == twice


@pytest.mark.parametrize("file", ["classes.txt", "categories.json"])
def test_class_names_that_differ_by_case_alone_are_refused(folder: Path, file: str) -> None:
    (folder / "classes.txt").unlink()
    names = ["Apple", "road", "apple"]
    listed = json.dumps({"categories": [{"id": n, "name": s} for n, s in enumerate(names)]})
    (folder / file).write_text("\n".join(names) if file.endswith("txt") else listed)
    with pytest.raises(DatasetError, match="must name each class once; twice: Apple, apple"):
        open_dataset(FOLDER, folder)


def test_episodes_are_checked_by_the_images_they_are_drawn_from(tmp_path: Path) -> None:
    protocol = load_protocol("fss-1000").model_copy(update={"split": "all"})
    for name in ("cup", "bus"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / f"{number}.jpg")
            mask = np.zeros((8, 8, 3), np.uint8)
            mask[2:6] = 255
            Image.fromarray(mask).save(tmp_path / name / f"{number}.png")
    dataset = open_dataset(protocol, tmp_path)
    found, wrong, _ = check_all(dataset)
    assert wrong == ["expected 10000 images in the split 'all', found 4"] and dict(
        zip(dataset.protocol.names, found.images.tolist(), strict=True)
    ) == {
        "background": 4,
        "bus": 2,
        "cup": 2,
    }
    assert check_before(dataset, range(4)) == []
