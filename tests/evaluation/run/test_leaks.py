from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from PIL import Image

from ovseg.bank import ImageBank
from ovseg.errors import DatasetError
from ovseg.evaluation import evaluate, load_protocol
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.report.report import leak_line
from ovseg.evaluation.run.leaks import find_leaks
from ovseg.images.fingerprint import fingerprint
from ovseg.models.training_photos import TrainingPhotos

FOLDER = load_protocol("folder")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five painted photos with masks, under the protocol "folder"."""
    root = tmp_path / "data"
    toy.paint_photos(root / "images")
    for path in sorted((root / "images").iterdir())[5:]:
        path.unlink()
    (root / "masks").mkdir()
    for path in (root / "images").iterdir():
        Image.fromarray(np.zeros((72, 96), np.uint8)).save(root / "masks" / path.name)
    (root / "classes.txt").write_text("red\n")
    return root


@pytest.fixture
def bank(tmp_path: Path, data: Path) -> ImageBank:
    """Other photos, a renamed copy of the second image and a JPEG of the fourth."""
    photos = tmp_path / "photos"
    toy.paint(photos, "other.png", ["white", "red"], seed=99)
    images = sorted((data / "images").iterdir())
    shutil.copy(images[1], photos / "renamed.png")
    Image.open(images[3]).save(photos / "near.jpg", quality=90)
    return ImageBank.build(photos, out=tmp_path / "bank", segmenter=toy.make_segmenter())


def test_copies_and_near_copies_of_evaluated_images_are_named(bank: ImageBank, data: Path) -> None:
    dataset = open_dataset(FOLDER, data)
    leaks = find_leaks(bank, dataset, range(5))
    assert (leaks["bank_images"], leaks["count"]) == (3, 2)
    assert leaks["images"] == [dataset.names[1], dataset.names[3]]
    found = {pair["image"]: (Path(pair["bank_image"]).name, pair["exact"]) for pair in leaks["pairs"]}
    assert found == {dataset.names[1]: ("renamed.png", True), dataset.names[3]: ("near.jpg", False)}
    assert "**2 are near-copies of 2 evaluated images**" in leak_line(leaks)
    assert "and 1 more" in leak_line(leaks, shown=1)


def test_only_the_evaluated_images_count(bank: ImageBank, data: Path) -> None:
    leaks = find_leaks(bank, open_dataset(FOLDER, data), [0, 2])
    assert (leaks["count"], leaks["images"], leaks["pairs"]) == (0, [], [])
    assert leak_line(leaks).endswith("none is a near-copy of an evaluated image")


def test_images_without_a_file_are_compared_by_their_pixels(bank: ImageBank, data: Path) -> None:
    dataset = open_dataset(FOLDER, data)
    dataset.image_files = lambda index: ()  # type: ignore[method-assign]
    assert find_leaks(bank, dataset, range(5))["images"] == [dataset.names[1], dataset.names[3]]


def test_copies_of_photos_that_the_model_was_trained_on_are_named(
    bank: ImageBank, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(FOLDER, data)
    images = [np.asarray(Image.open(path)) for path in sorted((data / "images").iterdir())]
    looks = np.stack([fingerprint(each) for each in (np.ascontiguousarray(images[4][:, ::-1]), images[0])])
    trained = TrainingPhotos(looks, (("first", 1), ("second", 1)), "0")
    monkeypatch.setattr(TrainingPhotos, "of_model", lambda name: trained if name == "toy" else None)
    leaks = find_leaks(bank, dataset, [0, 2, 4], "toy")
    assert leaks["training"] == {
        "model": "toy",
        "photos": 2,
        "pairs": [
            {"image": dataset.names[0], "photo": "photo 1 of 'second'", "change": ""},
            {"image": dataset.names[4], "photo": "photo 1 of 'first'", "change": "mirrored left to right"},
        ],
    }
    assert "against the 2 photos that toy was trained on: **2 evaluated images are near-copies**: " in leak_line(
        leaks
    )
    assert leak_line(leaks).endswith("` mirrored left to right")
    assert leak_line(find_leaks(bank, dataset, [2], "toy")).endswith("that toy was trained on: none")
    assert "training" not in find_leaks(bank, dataset, [2], "other")


def test_the_report_lists_the_leaks(bank: ImageBank, data: Path, oracle: Callable[..., Any]) -> None:
    report = evaluate(oracle(), "folder", data=data, bank=bank)
    assert report.manifest["leaks"]["count"] == 2 and "- leak check against the bank" in report.to_markdown()
    assert "leaks" not in evaluate(oracle(), "folder", data=data).manifest


def test_a_missing_bank_is_told_before_anything_is_segmented(
    data: Path, tmp_path: Path, oracle: Callable[..., Any]
) -> None:
    segmenter = oracle()
    with pytest.raises(DatasetError, match="no bank at"):
        evaluate(segmenter, "folder", data=data, bank=tmp_path / "none")
    assert segmenter.asked == []
