from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.datasets import truth_of
from PIL import Image

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import RunOptions, evaluate, load_protocol
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import Protocol

FACADE = load_protocol("facade8")


def three_classes() -> Protocol:
    values = load_protocol("folder").model_dump()
    return Protocol.model_validate({**values, "classes_from": [], "classes": ["sky", "road", "cat"]})


def save_rows(folder: Path, truths: list[Any], *, split: str = "val") -> Path:
    """A saved set of one split; the red channel of an image is 50 times its mask, as ``Oracle`` expects."""
    import datasets

    masks = [np.asarray(truth, np.uint8) for truth in truths]
    images = [np.stack([np.where(mask == 255, 0, mask) * 50] * 3, -1).astype(np.uint8) for mask in masks]
    columns = {"image": map(Image.fromarray, images), "annotation": map(Image.fromarray, masks)}
    table = datasets.Dataset.from_dict({name: list(values) for name, values in columns.items()})
    table = table.cast_column("image", datasets.Image()).cast_column("annotation", datasets.Image())
    datasets.DatasetDict({split: table}).save_to_disk(str(folder))
    return folder


def test_saved_hub_data_is_read(tmp_path: Path) -> None:
    saved = save_rows(tmp_path / "saved", [np.full((4, 5), value) for value in (0, 255)])
    dataset = open_dataset(FACADE, f"hf:{saved}")
    assert len(dataset.names) == 2
    assert dataset.load(0).truth.max() == 0 and dataset.load(1).truth.max() == -1


def test_a_split_in_the_name_is_that_of_the_protocol(tmp_path: Path, oracle: Callable[..., Any]) -> None:
    saved = save_rows(tmp_path / "saved", [truth_of(number) for number in range(3)], split="test")
    named = evaluate(oracle(4), three_classes(), data=f"hf://{saved}:test")
    chosen = evaluate(oracle(4), three_classes(), data=f"hf://{saved}", options=RunOptions(split="test"))
    assert named.manifest["split"] == "test" and named.mean_iou == chosen.mean_iou
    assert named.manifest["protocol_hash"] == chosen.manifest["protocol_hash"]
    with pytest.raises(ConfigError, match="names the split 'test', the options 'val'; drop one"):
        evaluate(oracle(), three_classes(), data=f"hf://{saved}:test", options=RunOptions(split="val"))


def test_hub_data_that_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lists no classes"):
        open_dataset(load_protocol("folder"), "hf:owner/name")
    with pytest.raises(DatasetError, match="cannot load the split 'val' of 'hf://"):
        open_dataset(FACADE, f"hf:{tmp_path}")
