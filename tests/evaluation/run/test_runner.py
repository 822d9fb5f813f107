from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.datasets import Unsure
from helpers.threads import torch_threads
from helpers.toy import bound, paint, within
from PIL import Image

from ovseg.errors import ConfigError, TooLargeError
from ovseg.evaluation import EvaluationReport, RunOptions, evaluate
from ovseg.pipeline.memory import Asked
from ovseg.pipeline.segmenter import Segmenter


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


OPTIONS = RunOptions(sheet=False, check=False)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Eight noisy photos of 72 x 96 pixels with a square of red, and one of blue, whose masks are drawn by hand."""
    for number in range(8):
        path = paint(tmp_path / "images", f"{number}.png", ["red", "blue"], seed=number)
        pixels = np.asarray(Image.open(path)).astype(int)
        red, blue = (pixels[..., place] - pixels[..., 1] > 100 for place in (0, 2))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray((red + 2 * blue).astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("grey\nred\nblue\n")
    return tmp_path


def rows_of(report: EvaluationReport) -> list[dict[str, Any]]:
    """All rows, in order, without times."""
    return [{name: value for name, value in row.to_dict().items() if name != "seconds"} for row in report.rows]


def test_images_side_by_side_give_the_rows_of_one_by_one(
    colours: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    together = threading.Barrier(2, timeout=10)  # passed only where two are at work at once
    segment = segmenter.segment
    monkeypatch.setattr(segmenter, "segment", lambda *given, **more: [together.wait(), segment(*given, **more)][1])
    side_by_side = evaluate(segmenter, "folder", data=colours, options=OPTIONS)
    monkeypatch.setattr(segmenter, "segment", segment)
    torch.set_num_threads(1)
    monkeypatch.setattr(Segmenter, "side_by_side", False)
    one_by_one = evaluate(segmenter, "folder", data=colours, options=OPTIONS)
    assert rows_of(side_by_side) == rows_of(one_by_one) and len(side_by_side.rows) == 8
    assert str(side_by_side.scores) == str(one_by_one.scores) and side_by_side.iou["red"] > 0.5  # NaN among them


def test_a_run_side_by_side_that_stops_goes_on_and_ends_the_same(
    folder: Path, tmp_path: Path, two_threads: None
) -> None:
    class Mortal(Unsure):
        side_by_side = True
        last = 3

        def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
            if len(self.asked) == self.last:
                raise KeyboardInterrupt
            return super().segment(image, labels)

    whole = evaluate(Unsure(3), "folder", data=folder, options=OPTIONS)
    stopped, goes_on = Mortal(3), Mortal(3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped, "folder", data=folder, out=tmp_path / "out", options=OPTIONS)
    kept = (tmp_path / "out" / "rows-00000.jsonl").read_text().splitlines()[1:]
    assert 0 < len(kept) <= 3
    goes_on.last = 99
    report = evaluate(goes_on, "folder", data=folder, out=tmp_path / "out", options=OPTIONS)
    assert len(goes_on.asked) == 6 - len(kept)
    assert rows_of(report) == rows_of(whole) and str(report.scores) == str(whole.scores)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_are_the_same_within_a_bound_on_memory(
    colours: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    free = evaluate(segmenter, "folder", data=colours, options=OPTIONS)
    monkeypatch.setattr("ovseg.evaluation.run.runner.side_by_side", None)  # what is called would fail
    monkeypatch.setattr("ovseg.evaluation.run.runner.prefetch", None)
    least = bound(segmenter).least((72, 96), Asked(3, 300, beside=48))
    options = RunOptions(sheet=False, check=False, batch_size=batch_size)
    kept = evaluate(within(segmenter, least), "folder", data=colours, options=options)
    assert rows_of(kept) == rows_of(free)


def test_an_image_that_a_bound_has_no_room_for_is_refused_before_any_is_segmented(
    colours: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for kind in ("images", "masks"):
        Image.new("RGB" if kind == "images" else "L", (4000, 3000)).save(colours / kind / "last.png")
    bounded = within(segmenter, 300_000_000)
    monkeypatch.setattr(bounded, "segment", lambda *given, **more: pytest.fail("an image was segmented"))
    with pytest.raises(
        TooLargeError, match=r"last.png' has 4000 x 3000 pixels, which need at least 1.16 GB with 1"
    ):
        evaluate(bounded, "folder", data=colours, out=tmp_path / "out", options=OPTIONS)
    assert not (tmp_path / "out").exists()
