from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovseg.pipeline.segmenter import Segmenter

TOOLS = Path(__file__).parents[2] / "tools"


def test_a_row_is_the_mean_over_folds_and_the_range_over_seeds() -> None:
    row = runpy.run_path(str(TOOLS / "train_folds.py"))["row"]
    found = np.array([[[0.1, 0.2, 0.3], [0.3, 0.2, 0.5]], [[0.2, 0.4, 0.3], [0.4, 0.4, 0.5]]])  # seeds, folds
    expected = (
        "| head | 25.0 (20.0 to 30.0) | 30.0 (20.0 to 40.0) | 30.0 / 30.0 | 40.0 (40.0 to 40.0) | 30.0 / 50.0 |"
    )
    assert row("head", found) == expected
    assert row("none", found[:1]) == "| none | 20.0 | 20.0 | 20.0 / 20.0 | 40.0 | 30.0 / 50.0 |"


@pytest.mark.parametrize(("kind", "part"), [("fusioner", "data"), ("none", "data"), ("mini", "masks")])
def test_a_fold_trains_without_its_names_and_half_of_the_images(kind: str, part: str) -> None:
    tool: dict[str, Any] = runpy.run_path(str(TOOLS / "train_folds.py"))
    folds = object.__new__(tool["Folds"])
    folds.data, folds.out, folds.changes = Path("coco"), Path("out"), {}
    folds.names = [entry.name for entry in tool["load_protocol"](tool["PROTOCOL"]).classes]
    config = folds.recipe(kind, fold=1, seed=2)
    (data,) = getattr(config, part)
    assert data.held_out_classes == tuple(folds.names[1::4])
    assert (data.folds, data.held_out, config.seed) == (2, 1, 2)


def test_recall_counts_captions_whose_photo_is_among_the_best() -> None:
    recalls = runpy.run_path(str(TOOLS / "train_captions.py"))["recalls"]
    logits = torch.arange(20.0).expand(4, 20)
    assert recalls(logits, torch.tensor([19, 18, 12, 3])) == "25.0 / 50.0 / 75.0"


def test_a_list_of_photos_is_labelled_as_a_bank_is(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    tool: dict[str, Any] = runpy.run_path(str(TOOLS / "train_student.py"))
    paths = [str(path) for path in sorted(photos.rglob("*.png"))]
    label = tool["write_pseudo_labels"]
    report = label(tool["Folder"](paths), tmp_path, segmenter=segmenter, labels=["red", "green"], background=None)
    assert (report.images, report.failed, report.coverage) == (len(paths), 0, 1.0)
    assert len(paths) > 1
