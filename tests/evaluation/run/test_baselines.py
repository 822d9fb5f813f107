from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.datasets import ObjectOracle, write_objects

from ovseg.errors import ConfigError
from ovseg.evaluation import EvaluationReport, RunOptions, Task, compare_reports, evaluate
from ovseg.evaluation.run.baselines import BASELINES, Majority, make_baseline
from ovseg.evaluation.run.peer import run_all, side_by_side, with_baselines

PEERS = Path(__file__).parents[3] / "evaluation" / "peers"
OPTIONS = RunOptions(sheet=False)


class Refining:
    """Says what it was asked with."""

    info = {"name": "refining"}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def segment(self, image: Any, labels: Any, *, background: Any = "auto", refine: bool | None = None) -> Any:
        self.calls.append({"background": background, "refine": refine})
        return SimpleNamespace(index_map=np.zeros(np.shape(image)[:2], int))


def test_the_majority_is_the_largest_class_of_the_truth(folder: Path) -> None:
    report = evaluate(Majority.of(Task("folder", folder), OPTIONS), "folder", data=folder)
    areas = {name: 0 for name in report.names}
    for row in report.rows:
        for truth, _, pixels in row.pairs:
            areas[report.names[truth]] += pixels
    assert report.pixel_accuracy == max(areas.values()) / sum(areas.values())
    assert sorted(report.iou.values())[:2] == [0, 0]


def test_the_majority_takes_the_next_label_where_the_largest_is_not_asked_for() -> None:
    segmenter = Majority({"sky": 5, "road": 9, "cat": 2})
    answers = [segmenter.segment(np.zeros((2, 3, 3)), labels).index_map for labels in (["cat", "sky"], ["cat"])]
    assert answers[0].tolist() == [[1] * 3] * 2 and answers[1].tolist() == [[0] * 3] * 2
    assert (Majority({"cat": 2}, background=3).segment(np.zeros((2, 3, 3)), ["cat"]).index_map == -1).all()


def test_the_majority_looks_at_the_images_of_the_task_alone(folder: Path) -> None:
    few, all_of_it = (Majority.of(Task("folder", folder, limit), OPTIONS).areas for limit in (2, None))
    assert sum(few.values()) < sum(all_of_it.values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("no-refinement", {"background": "auto", "refine": False}),
        ("no-background", {"background": None, "refine": None}),
        ("plain", {"background": None, "refine": False}),
    ],
)
def test_one_part_is_taken_away_and_the_rest_stays(name: str, wanted: dict[str, Any], folder: Path) -> None:
    (folder / "classes.txt").write_text("background\nroad\ncat\n")
    segmenter = Refining()
    report = evaluate(make_baseline(name, segmenter, Task("folder", folder), OPTIONS), "folder", data=folder)
    assert segmenter.calls[0] == wanted
    assert report.manifest["model"]["name"].startswith("refining (no ")


def test_what_a_model_does_not_take_is_not_passed(folder: Path) -> None:
    bare = SimpleNamespace(segment=lambda image, labels: SimpleNamespace(index_map=np.zeros(image.shape[:2], int)))
    report = evaluate(make_baseline("plain", bare, Task("folder", folder), OPTIONS), "folder", data=folder)
    assert report.manifest["background_passed"] is False


def test_an_unknown_baseline_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown baseline 'majorty'; did you mean 'majority'"):
        make_baseline("majorty", None, Task("folder", folder), OPTIONS)


def test_all_run_on_the_same_images_and_can_be_compared(
    folder: Path, tmp_path: Path, oracle: Callable[..., Any]
) -> None:
    task = Task("folder", folder, limit=4)
    segmenters = with_baselines(oracle(), list(BASELINES), task, OPTIONS)
    reports = run_all(segmenters, task, out=tmp_path, options=OPTIONS)
    assert list(reports) == ["model", *BASELINES]
    saved = EvaluationReport.load(tmp_path / "majority" / "report.json")
    assert compare_reports(saved, reports["model"]).mean_iou.difference > 0
    assert "| majority |" in side_by_side(reports) and "| model | 100.0 |" in side_by_side(reports)


def run_program(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(PEERS / name), run_name="__main__")


def test_the_majority_program_writes_the_same_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("folder", "--data", folder, "--out", tmp_path / "out", "--labels", "present", "--limit", 3)
    run_program(monkeypatch, "majority.py", *arguments)
    report = EvaluationReport.load(tmp_path / "out" / "report.json")
    assert len(report.rows) == 3 and report.manifest["labels"] == "present"
    assert json.loads(capsys.readouterr().out)["mean_iou"] == report.mean_iou


def test_a_mistake_ends_a_program_with_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run_program(monkeypatch, "majority.py", "foldr", "--data", folder)
    assert left.value.code == 2 and capsys.readouterr().err.startswith("error: no file 'foldr'")


def test_the_plain_program_takes_a_model_away_from_its_refinement(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Refining()
    monkeypatch.setattr("ovseg.load", lambda name: segmenter)
    run_program(monkeypatch, "plain.py", "folder", "--data", folder, "--out", tmp_path / "out")
    assert segmenter.calls[0]["refine"] is False
    assert (tmp_path / "out" / "report.json").is_file()


def test_all_baselines_come_as_one_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ovseg.load", lambda name: Refining())
    run_program(monkeypatch, "all.py", "folder", "--data", folder)
    assert capsys.readouterr().out.count("\n") == 2 + 1 + len(BASELINES)


def test_the_table_of_objects_has_a_row_for_each_way_to_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_objects(tmp_path)
    asked: list[dict[str, Any]] = []

    class Told(ObjectOracle):
        def with_objects(self, **fields: Any) -> Any:
            asked.append(fields)
            return Told(cut=3 if fields.get("proposals") == "parts" else 0)

    monkeypatch.setattr("ovseg.load", lambda model: Told())
    data = ("--panoptic", tmp_path, "--instances", tmp_path, "--protocols", "panoptic", "instances")
    run_program(monkeypatch, "objects_table.py", *data, "--rows", "parts", "sam", "--out", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "| proposals | PQ | PQ things | PQ, oracle names | AP | AP50 | AR100 | AP, any name | s"
    )
    assert lines[2].startswith("| parts | 78.8 | 68.2 | 78.8 | ")
    assert lines[3].startswith("| sam | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | ")
    assert {"proposals": "detector", "masks": "mobile-sam"} in asked and {"least_score": 0.04, "most": 60} in asked
    assert (tmp_path / "out" / "table.md").read_text().splitlines() == lines
    assert EvaluationReport.load(tmp_path / "out" / "sam" / "panoptic" / "report.json").rows
