from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.datasets import truth_of, write_rows

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import RunOptions, evaluate, load_protocol
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import Protocol

FACADE = load_protocol("facade8")


def three_classes() -> Protocol:
    values = load_protocol("folder").model_dump()
    return Protocol.model_validate({**values, "classes_from": [], "classes": ["sky", "road", "cat"]})


def test_saved_hub_data_is_read(tmp_path: Path) -> None:
    dataset = open_dataset(three_classes(), f"hf:{write_rows(tmp_path / 'saved', [4, 5])}")
    assert dataset.names == ("00000000", "00000001") and dataset.files(0) == dataset.image_files(1) == ()
    np.testing.assert_array_equal(dataset.load(1).truth, np.where(truth_of(5) == 255, -1, truth_of(5).astype(int)))


def test_a_split_in_the_name_is_that_of_the_protocol(tmp_path: Path, oracle: Callable[..., Any]) -> None:
    saved = write_rows(tmp_path / "saved", [0, 1, 2], split="test")
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
