from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovseg.evaluation import RunOptions, check_data, evaluate, load_protocol

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
def test_scoring_an_image_costs_little(real_data: Path, oracle: Callable[..., Any]) -> None:
    import time

    started = time.perf_counter()
    report: Any = evaluate(oracle(), "camvid11", data=real_data / "camvid/val", options=RunOptions(boundary=False))
    assert (time.perf_counter() - started) / len(report.rows) < 0.03
