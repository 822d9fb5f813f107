from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import write_rows
from helpers.training import write_pseudo_labels, write_table
from PIL import Image

from ovseg.errors import ConfigError, DatasetError
from ovseg.training.data import MaskData, PseudoLabels, dataset_content, open_masks, open_source, read_table
from ovseg.training.features import FeatureCache


def test_pseudo_labels_are_read_with_their_confidence(folder: Path) -> None:
    data = PseudoLabels(pseudo_labels=write_pseudo_labels(folder), images=folder.parent)
    source = open_source(data)
    assert source.names == tuple(f"data/images/{number}.png" for number in range(3))
    example = source.load(1)
    assert example.confidence is not None and (example.truth[:8] == -1).all() and example.confidence.max() == 51


def test_a_pseudo_label_outside_the_vocabulary_is_named(folder: Path) -> None:
    root = write_pseudo_labels(folder)
    Image.fromarray(np.full((64, 96), 7, np.uint8)).save(root / "labels" / "0000001.png")
    source = open_source(PseudoLabels(pseudo_labels=root, images=folder.parent))
    with pytest.raises(DatasetError, match=r"0000001.png' holds label 7, but labels.json names 3 labels"):
        source.load(1)


def test_holding_out_everything_is_refused(folder: Path) -> None:
    everything = MaskData(protocol="folder", path=folder, held_out_classes=("sky", "road", "cat"))
    with pytest.raises(DatasetError, match=r"nothing of .* is left to train on: 3 images and 0 classes"):
        open_source(everything)
    with pytest.raises(DatasetError, match="left to train on: 0 images"):
        open_source(MaskData(protocol="folder", path=folder, folds=1, held_out=0))


def test_a_fold_of_coco_20i_holds_out_its_twenty_names(tmp_path: Path) -> None:
    for place in ("images/val2017", "annotations/val2017"):
        (tmp_path / place).mkdir(parents=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images/val2017/1.jpg")
    mask = np.zeros((20, 30), np.uint8)  # 0 is person, of fold 0
    mask[:, 10:], mask[:, 20:] = 1, 200  # bicycle, of fold 1, and stuff
    Image.fromarray(mask).save(tmp_path / "annotations/val2017/1.png")
    source = open_source(MaskData(protocol="coco-20i", path=tmp_path, fold=0))
    truth, _ = source.select(source.load(0).truth, None)
    assert np.unique(truth[:, :10]).tolist() == [-1]
    assert source.phrases[int(truth[0, 15])] == "bicycle"
    assert np.unique(truth[:, 20:]).tolist() == [-2]
    with pytest.raises(ConfigError, match="has 4 folds, got fold 4"):
        open_source(MaskData(protocol="coco-20i", path=tmp_path, fold=4))


def test_only_the_most_certain_pixels_of_each_label_are_kept(folder: Path) -> None:
    root = write_pseudo_labels(folder)
    draw = np.random.default_rng(0)
    sure = {name: draw.integers(0, 256, (64, 96), dtype=np.uint8) for name in ("0000000", "0000001", "0000002")}
    for name, values in sure.items():
        values[:, :48] //= 4  # what is on the left is never certain, and would be gone under one threshold
        Image.fromarray(values).save(root / "confidence" / f"{name}.png")
    source = open_source(PseudoLabels(pseudo_labels=root, images=folder.parent, keep=0.3, weighted=False))
    kept, all_ = np.zeros(3), np.zeros(3)
    for index in range(3):
        seen = source.load(index)
        truth, weight = source.select(seen.truth, seen.confidence)
        assert weight is None
        kept += np.bincount(truth[truth >= 0], minlength=3)
        all_ += np.bincount(seen.truth[seen.truth >= 0], minlength=3)
    shown = all_ > 0
    assert kept[shown] / all_[shown] == pytest.approx(0.3, abs=0.03)


def test_rows_of_the_hub_are_known_by_what_the_library_knows_them_by(tmp_path: Path) -> None:
    classes = {"classes": ["sky", "road", "cat"], "split": "val"}
    from ovseg.evaluation.data.protocol import load_protocol

    protocol = load_protocol("folder").model_copy(update={"classes_from": ()}).model_dump()
    path = tmp_path / "rows.yaml"
    path.write_text(json.dumps({**protocol, **classes}))
    cache = FeatureCache(None)

    def content(numbers: list[int], name: str) -> str:
        data = MaskData(protocol=str(path), path=f"hf://{write_rows(tmp_path / name, numbers)}")
        dataset = open_masks(data)
        assert open_source(data).load(0).truth.shape == (12, 16)
        return dataset_content(dataset, range(len(dataset.names)), cache)

    assert content([0, 1], "one") != content([0, 2], "other")


@pytest.mark.parametrize("text", ["file,caption\na.png,cat\n", "file,name\n"])
def test_a_table_without_the_columns_or_without_a_line_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"must have the columns file and name, got (file, caption|no line)"):
        read_table(tmp_path / "names.csv", column="name")
    rows = [("a.png", "cat"), ("b.png", "dog")]
    assert read_table(write_table(tmp_path / "names.csv", "name", rows), column="name") == rows
