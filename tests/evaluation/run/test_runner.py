from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.errors import ConfigError
from ovseg.evaluation import evaluate


def test_a_perfect_segmenter_scores_one(folder: Path, oracle: Callable[..., Any]) -> None:
    report = evaluate(oracle(), "folder", data=folder)
    assert report.mean_iou == report.pixel_accuracy == 1
    assert report.iou == {"sky": 1, "road": 1, "cat": 1}
    assert report.interval == (1, 1)
    assert report.scores["boundary_iou"] == 1
    assert report.scores["expected_calibration_error"] == pytest.approx(0.25)


def test_the_score_comes_from_one_matrix_over_all_images(folder: Path, oracle: Callable[..., Any]) -> None:
    report = evaluate(oracle(4), "folder", data=folder)
    both = either = 0
    for row in report.rows:
        truth, prediction, pixels = row.pairs.T
        both += pixels[(truth == 2) & (prediction == 2)].sum()
        either += pixels[(truth == 2) | (prediction == 2)].sum()
    assert report.iou["cat"] == pytest.approx(both / either)


def test_present_labels_are_those_of_the_image(folder: Path, oracle: Callable[..., Any]) -> None:
    segmenter = oracle()
    evaluate(segmenter, "folder", data=folder, labels="present")
    assert segmenter.asked == [["sky", "road"], ["sky", "road", "cat"]] * 3


def test_absent_labels_are_drawn_alike_each_time(folder: Path, oracle: Callable[..., Any]) -> None:
    first, second = oracle(), oracle()
    evaluate(first, "folder", data=folder, labels="present+1")
    evaluate(second, "folder", data=folder, labels="present+1")
    assert first.asked == second.asked and all(len(names) == 3 for names in first.asked)


def test_the_manifest_says_what_was_measured(folder: Path, oracle: Callable[..., Any]) -> None:
    manifest = evaluate(oracle(), "folder", data=folder).manifest
    assert manifest["model"] == {"name": "oracle-0"} and manifest["images"] == 6
    assert len(manifest["protocol_hash"]) == 64 and manifest["versions"]["numpy"] == np.__version__
    assert manifest["peak_memory_mib"]["resident"] > 0 and not math.isnan(manifest["seconds_per_image"])


@pytest.mark.parametrize(("setting", "adjusted"), [("shared", False), ("paper", True)])
def test_a_segmenter_gets_its_papers_constants_under_the_paper_setting(
    folder: Path, oracle: Callable[..., Any], setting: str, adjusted: bool
) -> None:
    plain, paper = oracle(3), oracle()
    paper.info = {"name": "oracle", "constants": "folder"}
    asked: list[str] = []

    def for_benchmark(name: str) -> Any:
        asked.append(name)
        return paper

    plain.for_benchmark = for_benchmark
    report = evaluate(plain, "folder", data=folder, setting=setting)
    assert asked == ["folder"] * adjusted
    assert (report.mean_iou == 1) == adjusted
    assert ("constants" in report.manifest["model"]) == adjusted


def test_the_constants_of_another_method_are_asked_for_by_name(folder: Path, oracle: Callable[..., Any]) -> None:
    plain, asked = oracle(3), []

    def for_benchmark(name: str, *, method: str | None = None) -> Any:
        asked.append((name, method))
        return oracle()

    plain.for_benchmark = for_benchmark
    assert evaluate(plain, "folder", data=folder, setting="paper:naclip").mean_iou == 1
    assert asked == [("folder", "naclip")]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("paper", "needs a segmenter with for_benchmark"),
        ("paper:sclip", "needs a segmenter with for_benchmark"),
        ("best", "setting must be 'shared', 'paper' or 'paper:METHOD', got 'best'"),
        ("shared:sclip", "setting must be"),
    ],
)
def test_a_setting_is_applied_or_refused(folder: Path, oracle: Callable[..., Any], setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        evaluate(oracle(), "folder", data=folder, setting=setting)
