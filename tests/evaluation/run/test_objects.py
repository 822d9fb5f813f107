from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.datasets import OBJECT_SIZE, ObjectOracle, Oracle, encode_rectangle, write_annotations, write_objects

from ovseg.errors import ConfigError, ShapeError
from ovseg.evaluation import EvaluationReport, RunOptions, compare_reports, evaluate
from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.run.objects import found_objects, found_segments
from ovseg.evaluation.run.predictor import CandidateLabels, Predictor
from ovseg.result.panoptic import to_panoptic

HALF = Example("000", np.zeros((*OBJECT_SIZE, 3), np.uint8), np.zeros(OBJECT_SIZE, np.int32))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_objects(tmp_path / "data")
    return tmp_path / "data"


def test_a_perfect_segmenter_has_a_quality_and_a_precision_of_one(data: Path) -> None:
    report = evaluate(ObjectOracle(), "panoptic", data=data)
    assert report.mean_iou == 1
    assert report.by_class == {"PQ": {"cat": 1, "dog": 1, "sky": 1}}
    qualities = {name: value for name, value in report.scores.items() if "quality" in name}
    assert len(qualities) == 12 and set(qualities.values()) == {1}
    report = evaluate(ObjectOracle(), "instances", data=data)
    assert report.scores["average_precision"] == pytest.approx(1)
    assert report.scores["average_recall_100"] == report.scores["average_recall_100_any_name"] == 1
    assert report.by_class["AP"] == pytest.approx({"cat": 1, "dog": 1, "sky": math.nan}, nan_ok=True)


def test_scores_worked_out_by_hand(data: Path) -> None:
    """Cats of 10 columns lose 3 (IoU 0.7); dogs of 8, 9 and 10 keep 5, 6 and 7: 0.625, 0.667 and 0.7."""
    report = evaluate(ObjectOracle(cut=3), "panoptic", data=data)
    dog = (0.625 + 6 / 9 + 0.7) / 3
    assert report.by_class["PQ"] == pytest.approx({"cat": 0.7, "dog": dog, "sky": 1})
    assert report.scores["panoptic_quality_things"] == pytest.approx((0.7 + dog) / 2)
    assert report.scores["panoptic_quality_stuff"] == 1
    report = evaluate(ObjectOracle(cut=3), "instances", data=data)
    assert report.scores["average_precision_50"] == pytest.approx(1)
    assert report.by_class["AP"]["cat"] == pytest.approx(0.5)  # right at 0.5, 0.55, 0.6, 0.65 and 0.7
    assert report.scores["average_precision_75"] == 0


def test_oracle_names_part_errors_of_naming_from_those_of_cutting(data: Path) -> None:
    report = evaluate(ObjectOracle(names={"cat": "dog", "dog": "cat"}), "panoptic", data=data)
    assert report.scores["panoptic_quality_things"] == 0
    assert report.scores["panoptic_quality_oracle_names_things"] == 1
    report = evaluate(ObjectOracle(names={"cat": "dog", "dog": "cat"}), "instances", data=data)
    assert report.scores["average_precision"] == 0
    assert report.scores["average_recall_100_any_name"] == 1
    assert report.scores["average_precision_any_name"] == pytest.approx(6 / 9)  # skies, the surest, are no objects


def test_objects_are_asked_for_the_things_of_the_data_and_unsure_ones_for_precision(data: Path) -> None:
    panoptic, instances = ObjectOracle(unsure=True), ObjectOracle(unsure=True)
    evaluate(panoptic, "panoptic", data=data, options=RunOptions(quality="fast"))
    assert panoptic.asked[0] == {
        "labels": ["cat", "dog", "sky"],
        "instances": ["cat", "dog"],
        "quality": "fast",
        "background": None,
    }
    assert "least_score" not in panoptic.info
    evaluate(instances, "instances", data=data)
    assert instances.asked[0]["instances"] == ["cat", "dog", "sky"] and instances.asked[0]["quality"] == "best"
    assert panoptic.asked[0]["background"] is None and instances.asked[0]["background"] == "auto"
    assert (instances.info["least_score"], instances.info["most"]) == (0.04, 60)
    evaluate(instances, "instances", data=data, options=RunOptions(least_score=0.2))
    assert instances.info["least_score"] == 0.2


def test_present_labels_are_those_of_the_objects_also_of_hidden_ones(data: Path) -> None:
    panoptic, instances = write_objects(data.parent / "other")
    cover = encode_rectangle(OBJECT_SIZE, 16, 10, 24, 20)
    instances["annotations"].append(
        {"id": 90, "image_id": 50, "category_id": 7, "iscrowd": 0, "segmentation": cover, "area": 1}
    )
    write_annotations(data.parent / "other", panoptic, instances)
    segmenter = ObjectOracle()
    report = evaluate(segmenter, "instances", data=data.parent / "other", labels="present")
    assert [each["labels"] for each in segmenter.asked] == [["cat", "dog", "sky"], ["cat", "dog"], ["cat", "dog"]]
    assert report.manifest["labels"] == "present"


def test_images_without_a_thing_to_ask_for_are_asked_for_areas_alone(data: Path) -> None:
    segmenter = ObjectOracle()
    report = evaluate(segmenter, "panoptic", data=data, labels="stuff")
    assert segmenter.asked[0]["instances"] is False
    assert report.scores["panoptic_quality_stuff"] == 1 and math.isnan(report.scores["panoptic_quality_things"])


@pytest.mark.parametrize("protocol", ["panoptic", "instances"])
def test_a_run_goes_on_where_it_stopped_with_the_same_report(data: Path, tmp_path: Path, protocol: str) -> None:
    whole = evaluate(ObjectOracle(cut=2, unsure=True), protocol, data=data)
    evaluate(ObjectOracle(cut=2, unsure=True), protocol, data=data, limit=2, out=tmp_path / "out")
    again = ObjectOracle(cut=2, unsure=True)
    report = evaluate(again, protocol, data=data, out=tmp_path / "out", options=RunOptions(sheet=False))
    assert len(again.asked) == 1
    for score, of in whole.by_class.items():
        assert report.by_class[score] == pytest.approx(of, abs=0, nan_ok=True)
    for name, value in whole.scores.items():
        assert report.scores[name] == value or math.isnan(value)
    kept = EvaluationReport.load(tmp_path / "out" / "report.json")
    assert kept.by_class.keys() == report.by_class.keys()
    assert kept.quality_interval == report.quality_interval == whole.quality_interval
    assert kept.rows[0].tables.keys() == report.rows[0].tables.keys()
    for name, table in report.rows[0].tables.items():
        assert np.array_equal(kept.rows[0].tables[name], table)


def test_two_reports_are_compared_by_panoptic_quality_on_the_same_draws(data: Path) -> None:
    better, worse = (evaluate(ObjectOracle(cut=cut), "panoptic", data=data) for cut in (1, 3))
    change = compare_reports(worse, better).quality
    assert change is not None and change.significant
    wanted = better.scores["panoptic_quality"] - worse.scores["panoptic_quality"]
    assert change.difference == pytest.approx(wanted)
    assert change.low <= wanted <= change.high
    told = compare_reports(worse, better).to_markdown()
    assert f"PQ {100 * wanted:+.2f} points" in told and "**significant**" in told
    instances = [evaluate(ObjectOracle(cut=cut), "instances", data=data) for cut in (1, 3)]
    assert compare_reports(*instances).quality is None


def test_rows_of_other_annotations_are_refused(data: Path, tmp_path: Path) -> None:
    evaluate(ObjectOracle(), "instances", data=data, out=tmp_path / "out")
    path = data / "instances.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ConfigError, match="holds rows of another run: data '"):
        evaluate(ObjectOracle(), "instances", data=data, out=tmp_path / "out")


def test_the_report_begins_with_the_score_of_objects_and_lists_it_by_class(data: Path, tmp_path: Path) -> None:
    evaluate(ObjectOracle(cut=3), "panoptic", data=data, out=tmp_path / "p")
    lines = (tmp_path / "p" / "report.md").read_text().splitlines()
    told = re.fullmatch(r"PQ \*\*78\.8\*\* \(95 % interval (\S+) to (\S+)\), (.*)", lines[2])
    assert told is not None and told[3] == "things 68.2, stuff 100.0, with the names of the truth 78.8."
    assert 77 < float(told[1]) < 78.8 < float(told[2]) < 81  # dogs differ from image to image
    assert "| class | PQ % | IoU % |" in lines and "| sky | 100.0 | 100.0 |" in lines
    assert (tmp_path / "p" / "sheet.jpg").is_file()
    evaluate(ObjectOracle(cut=3), "instances", data=data, out=tmp_path / "i")
    lines = (tmp_path / "i" / "report.md").read_text().splitlines()
    assert lines[2].startswith("AP **") and "AP50 100.0, AR100" in lines[2]
    assert "| sky | – | – |" in lines


def test_a_segmenter_without_objects_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"'panoptic' counts objects: a segmenter needs .* got Oracle"):
        evaluate(Oracle(), "panoptic", data=data)
    with pytest.raises(ConfigError, match="quality must be 'fast' or 'best', got 'good'"):
        RunOptions(quality="good")
    with pytest.raises(ConfigError, match="least_score must be from 0 to 1, got 2"):
        RunOptions(least_score=2)


def test_a_batch_without_objects_is_not_used(data: Path) -> None:
    segmenter = ObjectOracle()
    segmenter.segment_batch = lambda images, labels: 1 / 0  # type: ignore[attr-defined]
    report = evaluate(segmenter, "panoptic", data=data, options=RunOptions(batch_size=2))
    assert report.scores["panoptic_quality"] == 1


def result_of(**changes: Any) -> SimpleNamespace:
    mask = encode_rectangle(OBJECT_SIZE, 0, 0, 4, 4)
    values = {"label": "cat", "score": 0.5, "rle": mask} | changes
    return SimpleNamespace(instances=[SimpleNamespace(**values)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "cow"}, "a label that was asked for and a score, got 'cow' and 0.5 for '000'"),
        ({"score": math.nan}, "got 'cat' and nan"),
        ({"rle": {"size": [3, 4], "counts": ""}}, r"the image's size \(24, 32\) \(H, W\), got \(3, 4\)"),
    ],
)
def test_objects_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        found_objects(result_of(**changes), {"cat": 0}, example=HALF)


@pytest.mark.parametrize("numbers", [None, np.zeros((3, 4), np.int32), np.zeros(OBJECT_SIZE, np.float32)])
def test_a_map_of_objects_that_does_not_fit_is_refused(numbers: Any) -> None:
    result = result_of()
    result.instance_map = numbers
    found = found_objects(result, {"cat": 0}, example=HALF)
    with pytest.raises(ShapeError, match="an instance_map of integers of the image's size"):
        found_segments(result, HALF.truth, found, things=(0,), example=HALF)


def test_the_panoptic_map_is_that_of_the_result(data: Path) -> None:
    from ovseg.evaluation import load_protocol
    from ovseg.evaluation.data.datasets import open_dataset

    dataset = open_dataset(load_protocol("panoptic"), data)
    example = dataset.load(1)
    segmenter = ObjectOracle(cut=1, unsure=True)
    predictor = Predictor(segmenter, dataset.protocol)
    segments = predictor.predict(example, (0, 1, 2)).segments
    assert segments is not None
    asked = CandidateLabels(["cat", "dog", "sky"], np.array([0, 1, 2, -1], np.int32)).names
    told = to_panoptic(segmenter.segment(example.image, asked, instances=["cat", "dog"]), image_id=1, min_area=0)
    assert np.array_equal(segments.ids, told.ids)
    assert [segments.classes[row["id"] - 1] for row in told.segments_info] == [
        row["category_id"] - 1 for row in told.segments_info
    ]
