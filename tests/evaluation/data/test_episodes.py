from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import RunOptions, evaluate, load_protocol
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import Protocol


def few_shot(**changes: Any) -> Protocol:
    values = load_protocol("folder").model_dump()
    values.update(classes_from=[], classes=["sky", "road", "cat"], metric="foreground_mean_iou")
    values["background"] = {"class_name": "sky", "phrases": "auto"}
    values["episodes"] = {"kind": "few-shot", "folds": [[1, 2], [2]], **changes}
    return Protocol.model_validate(values)


@pytest.fixture
def classes_in_folders(tmp_path: Path) -> Path:
    for name in ("abacus", "sea_lion", "kite", "urn", "owl"):
        for number in range(2):
            mask = np.zeros((6, 8), np.uint8)
            mask[2:5, 1 + number : 6] = 255
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / name / f"{number}.jpg")
            Image.fromarray(mask).convert("RGB").save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_zero_shot_asks_every_image_for_each_of_its_classes_once(folder: Path) -> None:
    dataset = open_dataset(few_shot(), folder)
    assert len(dataset.names) == 6 + 3  # road in all, a cat in every second one
    example = dataset.load(dataset.names.index("001@2"))
    assert example.candidates == (2,) and set(np.unique(example.truth)) == {-1, 0, 2}


def test_a_fold_holds_its_classes_only(folder: Path) -> None:
    protocol = few_shot(fold=1)
    assert open_dataset(protocol, folder).names == ("001@2", "003@2", "005@2")
    with pytest.raises(DatasetError, match="has folds 0 to 1, got 2"):
        open_dataset(few_shot(fold=2), folder)


def test_supports_show_the_class_and_never_the_query(folder: Path) -> None:
    dataset = open_dataset(few_shot(shots=1, count=20), folder)
    again = open_dataset(few_shot(shots=1, count=20), folder)
    assert dataset.names == again.names and len(set(dataset.names)) == 20
    for episode in dataset.episodes:  # type: ignore[attr-defined]
        assert episode.query not in episode.supports
    example = dataset.load(0)
    (support,) = example.supports[example.candidates[0]]  # type: ignore[index]
    assert support.mask.any() and support.mask.dtype == bool


def test_scarce_classes_are_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="5-shot episodes need 6 images of each class; too few of cat"):
        open_dataset(few_shot(shots=5), folder)


def test_the_background_is_left_out_of_a_few_shot_score(folder: Path, oracle: Callable[..., Any]) -> None:
    report = evaluate(oracle(4), few_shot(), data=folder, options=RunOptions(fold=1))
    assert report.mean_iou == report.iou["cat"] < 1
    assert "foreground_background_iou" in report.scores


def test_supports_reach_the_segmenter_as_a_concept(folder: Path, oracle: Callable[..., Any]) -> None:
    seen: list[Any] = []

    class Shown(oracle):  # type: ignore[misc, valid-type]
        reads_examples = True

        def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
            seen.append(labels[0])
            return super().segment(image, labels)

    evaluate(Shown(), few_shot(shots=2, count=3), data=folder, options=RunOptions(fold=1))
    assert len(seen[0].images) == len(seen[0].masks) == 2


def test_examples_that_nobody_would_look_at_are_refused(folder: Path, oracle: Callable[..., Any]) -> None:
    told = (
        "2 visual examples a class .* does not say that it reads them, so the result might be that of words alone"
    )
    with pytest.raises(ConfigError, match=told):
        evaluate(oracle(), few_shot(), data=folder, options=RunOptions(fold=1, shots=2))
    with pytest.raises(ConfigError, match=told):
        evaluate(oracle(), few_shot(shots=2), data=folder, options=RunOptions(fold=1))
    with pytest.raises(ConfigError, match="shots must be 0 or more visual examples a class, got -1"):
        evaluate(oracle(), few_shot(), data=folder, options=RunOptions(fold=1, shots=-1))
    assert evaluate(oracle(), few_shot(shots=2), data=folder, options=RunOptions(fold=1, shots=0)).mean_iou == 1


def test_folders_name_the_classes(classes_in_folders: Path) -> None:
    protocol = load_protocol("fss-1000")
    dataset = open_dataset(protocol, classes_in_folders)
    assert dataset.protocol.names == ("background", "abacus", "kite", "owl", "sea lion", "urn")
    example = dataset.load(dataset.names.index("sea_lion/1"))
    assert example.candidates == (4,) and (example.truth == 4).sum() == 12


def test_a_list_of_classes_narrows_the_split(classes_in_folders: Path) -> None:
    protocol = load_protocol("fss-1000").model_copy(update={"split": "test"})
    with pytest.raises(DatasetError, match=r"the list of classes '.*test.txt' is missing"):
        open_dataset(protocol, classes_in_folders)
    (classes_in_folders / "test.txt").write_text("owl\nsea_lion\n")
    assert len(open_dataset(protocol, classes_in_folders).names) == 4


def test_a_mosaic_holds_four_different_classes(classes_in_folders: Path) -> None:
    dataset = open_dataset(load_protocol("mosaic-4"), classes_in_folders)
    example = dataset.load(7)
    assert len(dataset.names) == 1000 and example.image.shape == (448, 448, 3)
    assert example.candidates is not None and len(set(example.candidates)) == 4
    corners = [example.truth[:224, :224], example.truth[:224, 224:], example.truth[224:, :224]]
    assert all(len(np.unique(corner)) == 2 for corner in corners)
    assert set(np.unique(example.truth)) == {0, *example.candidates}
    np.testing.assert_array_equal(dataset.load(7).truth, example.truth)


def test_a_mosaic_needs_four_classes(classes_in_folders: Path) -> None:
    (classes_in_folders / "few.txt").write_text("owl\nurn\n")
    protocol = load_protocol("mosaic-4").model_copy(update={"split": "few"})
    with pytest.raises(DatasetError, match="a mosaic needs 4 classes, 'mosaic-4' found 2"):
        open_dataset(protocol, classes_in_folders)


def test_one_class_episodes_draw_their_examples_from_the_folder(classes_in_folders: Path) -> None:
    protocol = load_protocol("fss-1000")
    shown = protocol.model_copy(update={"episodes": protocol.episodes.model_copy(update={"shots": 1})})  # type: ignore[union-attr]
    dataset = open_dataset(shown, classes_in_folders)
    assert len(dataset.names) == 10  # every image once
    for episode in dataset.episodes:  # type: ignore[attr-defined]
        (support,) = episode.supports
        assert support != episode.query
        base = dataset.base  # type: ignore[attr-defined]
        assert base.class_of(support) == base.class_of(episode.query) == episode.class_index
    example = dataset.load(0)
    assert example.supports[example.candidates[0]][0].mask.sum() in (12, 15)  # type: ignore[index]
    scarce = protocol.model_copy(update={"episodes": protocol.episodes.model_copy(update={"shots": 2})})  # type: ignore[union-attr]
    with pytest.raises(DatasetError, match="need folders of 3 images or more; too few in abacus, kite"):
        open_dataset(scarce, classes_in_folders)


def test_the_first_image_of_a_folder_shows_the_object_of_the_others(tmp_path: Path) -> None:
    for top in ("Images", "Annotations"):
        for name in ("mug", "my_dog"):
            (tmp_path / top / name).mkdir(parents=True)
            for number in range(3):
                pixels = np.zeros((4, 5, 3), np.uint8)
                pixels[1:3, :, 0] = 128  # PerSeg paints objects dark red
                suffix = "jpg" if top == "Images" else "png"
                Image.fromarray(pixels).save(tmp_path / top / name / f"{number:02d}.{suffix}")
    dataset = open_dataset(load_protocol("perseg"), tmp_path)
    assert dataset.names == ("mug/01", "mug/02", "my_dog/01", "my_dog/02")
    assert [dataset.base.names[e.supports[0]] for e in dataset.episodes] == [  # type: ignore[attr-defined]
        "mug/00",
        "mug/00",
        "my_dog/00",
        "my_dog/00",
    ]
    assert dataset.protocol.names == ("background", "mug", "my dog")
    np.testing.assert_array_equal(dataset.load(2).truth[:, 0], [0, 2, 2, 0])
