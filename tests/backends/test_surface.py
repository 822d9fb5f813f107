"""What a user does with any model, done with those that answer with masks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.datasets import write_objects
from helpers.mask_models import mask_model_files

from ovseg.evaluation import RunOptions, evaluate
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.pipeline.segmenter import Segmenter
from ovseg.result import SegmentationResult

NAMES = ["clipseg-rd64-refined", "sam3"]  # scores alone, and objects of its own
PHOTO = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=NAMES)
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = tmp_path_factory.mktemp("weights")
    config = read_model_config(request.param)
    for name, content in mask_model_files(config.encoder.name).items():
        (folder / name).write_bytes(content)
    background = config.background.model_copy(update={"threshold": 0.1})
    config = config.model_copy(update={"background": background})
    return Segmenter(build_model(config, weights=folder), device=torch.device("cpu"))


def test_an_evaluation_of_objects_runs_and_says_which_model(segmenter: Segmenter, tmp_path: Path) -> None:
    write_objects(tmp_path / "data", images=2)
    fast = RunOptions(quality="fast")
    report = evaluate(segmenter, "panoptic", data=tmp_path / "data", options=fast)
    assert 0 <= report.mean_iou <= 1 and 0 <= report.scores["panoptic_quality"] <= 1
    assert segmenter.config.name in str(report.manifest)
    again = evaluate(segmenter, "panoptic", data=tmp_path / "data", options=fast)
    assert again.scores == pytest.approx(report.scores, nan_ok=True)


def test_a_copy_by_pickle_and_a_result_read_again_are_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    found = segmenter.segment(PHOTO, ["cat", "sky"], instances=["cat"], quality="fast")
    copy = pickle.loads(pickle.dumps(segmenter))  # noqa: S301
    copied = copy.segment(PHOTO, ["cat", "sky"], instances=["cat"], quality="fast")
    np.testing.assert_array_equal(copied.score_map, found.score_map)
    assert copied.instances == found.instances and found.things == ("cat",)
    found.save(tmp_path)
    read = SegmentationResult.load(tmp_path)
    np.testing.assert_array_equal(read.index_map, found.index_map)
    assert read.instances == found.instances


def test_a_label_is_answered_alike_whatever_else_is_asked(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(PHOTO)
    alone, together = (
        segmenter.segment(encoded, labels, keep_scores=True).scores for labels in (["cat"], ["sky", "cat", "road"])
    )
    assert alone is not None and together is not None
    np.testing.assert_allclose(together[1], alone[0], atol=2e-3)
