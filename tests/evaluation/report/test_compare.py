from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import ConfigError
from ovseg.evaluation import (
    EvaluationReport,
    compare_reports,
    evaluate,
    regression,
)


@pytest.fixture
def report(folder: Path, oracle: Callable[..., Any]) -> EvaluationReport:
    return evaluate(oracle(4), "folder", data=folder)


def test_a_report_without_images_keeps_its_scores_but_cannot_be_compared(
    report: EvaluationReport, tmp_path: Path
) -> None:
    report.without_images().save(tmp_path / "small.json")
    small = EvaluationReport.load(tmp_path / "small.json")
    assert small.mean_iou == report.mean_iou and "6 images" in small.to_markdown()
    with pytest.raises(ConfigError, match="B holds no rows of single images"):
        compare_reports(report, small)


def test_a_comparison_says_what_differs(report: EvaluationReport, folder: Path, oracle: Callable[..., Any]) -> None:
    better = evaluate(oracle(), "folder", data=folder)
    comparison = compare_reports(report, better)
    assert comparison.mean_iou.significant and comparison.mean_iou.difference > 0
    assert comparison.iou["cat"] == pytest.approx(1 - report.iou["cat"])
    assert "**significant**" in comparison.to_markdown()
    assert not compare_reports(report, report).mean_iou.significant


def test_other_protocols_and_other_images_are_not_compared(
    report: EvaluationReport, folder: Path, oracle: Callable[..., Any]
) -> None:
    present = evaluate(oracle(4), "folder", data=folder, labels="present")
    with pytest.raises(ConfigError, match="over the same protocol can be compared; A has 'folder' with labels"):
        compare_reports(report, present)
    part = evaluate(oracle(4), "folder", data=folder, limit=3)
    with pytest.raises(ConfigError, match="over the same images can be compared; A has 6 images"):
        compare_reports(report, part)
    with pytest.raises(ConfigError, match="over the same protocol"):
        compare_reports(replace(report, manifest={}), replace(report, manifest={}))


def test_a_slice_is_held_against_the_same_images_of_the_whole(
    report: EvaluationReport, folder: Path, oracle: Callable[..., Any]
) -> None:
    worse = evaluate(oracle(2), "folder", data=folder, limit=3)
    assert "on 3 images of 'folder', more than the margin of 1.0" in str(regression(worse, report, margin=0.01))
    assert regression(worse, report, margin=0.9) is None
    assert regression(evaluate(oracle(4), "folder", data=folder, limit=3), report, margin=0) is None
    with pytest.raises(ConfigError, match="the baseline has no image '001'"):
        regression(report, worse, margin=0)


def test_images_of_one_name_over_other_files_are_not_compared(
    report: EvaluationReport, folder: Path, oracle: Callable[..., Any]
) -> None:
    mask = Image.open(folder / "masks" / "003.png")
    Image.fromarray(np.asarray(mask)[::-1]).save(folder / "masks" / "003.png")
    corrected = evaluate(oracle(4), "folder", data=folder)
    for compare in (compare_reports, lambda first, second: regression(second, first, margin=0)):
        with pytest.raises(ConfigError, match="image or mask of '003' is not the same file in both"):
            compare(report, corrected)
    earlier = replace(report, rows=tuple(replace(row, content="") for row in report.rows))
    assert compare_reports(earlier, corrected).mean_iou.difference != 0  # it cannot be known
