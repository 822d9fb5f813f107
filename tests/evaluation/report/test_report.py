from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import (
    EvaluationReport,
    evaluate,
    load_protocol,
)
from ovseg.evaluation.report.report import summarize


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


def test_no_rows_give_no_report() -> None:
    with pytest.raises(DatasetError, match="no image of 'voc20' was evaluated"):
        summarize([], load_protocol("voc20"), manifest={})
