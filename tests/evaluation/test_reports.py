from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import (
    EvaluationReport,
    Task,
    compare_reports,
    evaluate,
    load_protocol,
    regression,
)
from ovseg.evaluation.report.report import summarize
from ovseg.evaluation.report.sheet import class_colors, ranked_images
from ovseg.evaluation.run.robustness import measure_robustness


@pytest.fixture
def report(folder: Path, oracle: Callable[..., Any]) -> EvaluationReport:
    return evaluate(oracle(4), "folder", data=folder)


def test_a_saved_report_loads_alike(report: EvaluationReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    loaded = EvaluationReport.load(tmp_path / "report.json")
    assert loaded.to_dict() == report.to_dict()
    np.testing.assert_array_equal(loaded.rows[1].pairs, report.rows[1].pairs)
    np.testing.assert_array_equal(loaded.rows[1].boundary, report.rows[1].boundary)


def test_an_absent_class_survives_as_nan(folder: Path, oracle: Callable[..., Any], tmp_path: Path) -> None:
    (folder / "classes.txt").write_text("sky\nroad\ncat\nwhale\n")
    report = evaluate(oracle(), "folder", data=folder)
    report.save(tmp_path / "report.json")
    assert np.isnan(EvaluationReport.load(tmp_path / "report.json").iou["whale"])
    assert report.mean_iou == 1 and "| whale | – |" in report.to_markdown()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "ovseg-eval', "is cut off or not JSON"),
        ('{"format": "other"}', "must be a report of the format"),
        ("[]", "must be a report of the format"),
        ('{"format": "ovseg-evaluation-1"}', "is incomplete"),
    ],
)
def test_broken_reports_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        EvaluationReport.load(tmp_path / "report.json")


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no report '.*none.json'"):
        EvaluationReport.load(tmp_path / "none.json")


def test_a_folder_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the report .* Is a directory"):
        EvaluationReport.load(tmp_path)


def test_a_report_without_images_keeps_its_scores_but_cannot_be_compared(
    report: EvaluationReport, tmp_path: Path
) -> None:
    report.without_images().save(tmp_path / "small.json")
    small = EvaluationReport.load(tmp_path / "small.json")
    assert small.mean_iou == report.mean_iou and "6 images" in small.to_markdown()
    with pytest.raises(ConfigError, match="B holds no rows of single images"):
        compare_reports(report, small)


def test_no_rows_give_no_report() -> None:
    with pytest.raises(DatasetError, match="no image of 'voc20' was evaluated"):
        summarize([], load_protocol("voc20"), manifest={})


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


def test_images_are_ranked_and_none_is_shown_twice(report: EvaluationReport) -> None:
    ranked = ranked_images(report, each=2)
    assert [kind for kind, _, _ in ranked] == ["best", "best", "median", "median", "worst", "worst"]
    assert len({name for _, name, _ in ranked}) == 6
    scores = [score for _, _, score in ranked]
    assert scores[0] == max(scores) and scores[-1] == min(scores)


def test_neighbouring_classes_have_different_colours_and_none_is_black() -> None:
    colours = class_colors(150)
    assert len(np.unique(colours, axis=0)) > 140 and colours[-1].tolist() == [0, 0, 0]


def test_robustness_is_relative_to_clean(folder: Path, tmp_path: Path, oracle: Callable[..., Any]) -> None:
    class Literal(oracle):  # type: ignore[misc, valid-type]
        """Knows the classes by their first three letters, so that plurals and capitals may pass."""

        def segment(self, image: Any, labels: list[str], *, background: Any = None) -> Any:
            return super().segment(image, [label.lower()[:3].replace("roa", "road") for label in labels])

    task = Task("folder", folder)
    table = measure_robustness(Literal(), task, out=tmp_path, corruptions=["noise:5"])
    by_name = {condition.name: condition for condition in table.conditions}
    assert table.clean == 1
    assert by_name["noise:5"].relative < 0.5
    assert by_name["capitals"].relative == by_name["plural"].relative == 1
    assert by_name["photo"].mean_iou == 0 and table.word_spread == 1
    assert "present+10" in by_name and "| noise:5 |" in table.to_markdown()
    assert (tmp_path / "robustness.json").exists()


def test_robustness_is_measured_under_the_setting_of_the_task(folder: Path, oracle: Callable[..., Any]) -> None:
    segmenter = oracle(3)
    segmenter.for_benchmark = lambda name: oracle()
    table = measure_robustness(segmenter, Task("folder", folder, setting="paper"), corruptions=[])
    assert table.clean == 1 and table.manifest["setting"] == "paper"
