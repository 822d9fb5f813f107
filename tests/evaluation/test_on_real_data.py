from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.timing import processor_time

from ovseg.evaluation import RunOptions, check_data, evaluate, load_protocol
from ovseg.evaluation.data.datasets import open_dataset

SETS = {
    "coco-panoptic-133": "coco-train100",
    "voc20-on-coco": "coco-train100",
    "camvid11": "camvid/val",
    "facade8": "facade-train100",
    "clothing": "clothing",
    "folder": "camvid/train",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "where"), SETS.items())
def test_the_real_folders_fit_their_protocols(name: str, where: str, real_data: Path) -> None:
    assert list(check_data(load_protocol(name), real_data / where)) == []


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["all", "present", "things"])
def test_a_constant_answer_scores_its_share_of_pixels(labels: str, real_data: Path) -> None:
    constant = SimpleNamespace(
        segment=lambda image, labels: SimpleNamespace(index_map=np.zeros(image.shape[:2], int))
    )
    report = evaluate(constant, "coco-panoptic-133", data=real_data / "coco-train100", labels=labels, limit=20)
    assert 0 < report.pixel_accuracy < 0.6 and 0 < report.mean_iou < 0.2


@pytest.mark.slow
def test_scoring_an_image_costs_a_few_times_reading_it(real_data: Path, oracle: Callable[..., Any]) -> None:
    data, options = real_data / "camvid/val", RunOptions(boundary=False)
    dataset = open_dataset(load_protocol("camvid11"), data)
    reading = processor_time(lambda: [dataset.load(index) for index in range(len(dataset.names))])
    assert processor_time(lambda: evaluate(oracle(), "camvid11", data=data, options=options)) < 8 * reading
