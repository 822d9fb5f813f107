from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovseg.errors import ConfigError, DatasetError, ShapeError
from ovseg.evaluation import RunOptions, evaluate
from ovseg.evaluation.data.protocol import Expected, load_protocol

SLOW_MODEL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.datasets import Oracle
from ovseg.evaluation import RunOptions, evaluate

class Slow(Oracle):
    def segment(self, image, labels, *, background=None):
        time.sleep(float(sys.argv[3]))
        return super().segment(image, labels)

report = evaluate(Slow(3), "folder", data=sys.argv[1], out=sys.argv[2], options=RunOptions(sheet=False))
print(report.mean_iou, report.manifest["processes"], len(report.rows))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(SLOW_MODEL.format(tests=str(Path(__file__).parents[1])))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


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


def test_limit_spreads_evenly(folder: Path, oracle: Callable[..., Any]) -> None:
    report = evaluate(oracle(), "folder", data=folder, limit=3)
    assert [row.name for row in report.rows] == ["000", "002", "005"]
    with pytest.raises(DatasetError, match="limit must be at least 1 image, got 0"):
        evaluate(oracle(), "folder", data=folder, limit=0)


def test_a_segmenter_without_the_background_keyword_gets_its_phrases_as_labels(folder: Path) -> None:
    asked = []

    class Plain:
        def segment(self, image: Any, labels: list[str]) -> Any:
            asked.append(labels)
            return SimpleNamespace(index_map=np.full(image.shape[:2], len(labels) - 1))

    values = load_protocol("folder").model_dump()
    values.update(classes_from=[], classes=["sky", "road", "cat"])
    values["background"] = {"class_name": "sky", "phrases": ["cloud", "ceiling"]}
    report = evaluate(Plain(), type(load_protocol("folder")).model_validate(values), data=folder)
    assert asked[0] == ["road", "cat", "cloud", "ceiling"]
    assert report.iou["sky"] > 0 and report.iou["road"] == 0  # the last label stands for the background


def test_synonyms_go_as_concepts_or_as_strings_that_count_for_their_class(folder: Path) -> None:
    seen: list[Any] = []

    class Last:
        def segment(self, image: Any, labels: list[Any], *, background: Any = "unset") -> Any:
            seen.append((labels, background))
            return SimpleNamespace(index_map=np.full(image.shape[:2], len(labels) - 1))

    values = load_protocol("folder").model_dump()
    entries = [{"name": "sky"}, {"name": "road"}, {"name": "cat", "synonyms": ["kitten"]}]
    values.update(classes_from=[], classes=entries)
    protocol = type(load_protocol("folder")).model_validate(values)
    by_concept = evaluate(Last(), protocol, data=folder)
    strings = protocol.model_copy(update={"label_form": "strings"})
    by_string = evaluate(Last(), strings, data=folder)
    assert seen[0][0][2].synonyms == ("kitten",) and seen[0][1] is None
    assert seen[-1][0] == ["sky", "road", "cat", "kitten"]
    assert by_concept.iou == by_string.iou
    evaluate(Last(), protocol, data=folder, options=RunOptions(synonyms=False))
    assert seen[-1][0] == ["sky", "road", "cat"]


def test_batches_give_the_same_score(folder: Path, oracle: Callable[..., Any]) -> None:
    class Batched(oracle):  # type: ignore[misc, valid-type]
        sizes: list[int] = []  # noqa: RUF012

        def segment_batch(self, images: list[Any], labels: list[Any], **keywords: Any) -> Any:
            self.sizes.append(len(images))
            return (self.segment(image, labels, **keywords) for image in images)

    batched = evaluate(Batched(4), "folder", data=folder, options=RunOptions(batch_size=4))
    assert Batched.sizes == [4, 2]
    assert batched.mean_iou == evaluate(oracle(4), "folder", data=folder).mean_iou


@pytest.mark.parametrize(
    ("index_map", "message"),
    [
        (np.zeros((3, 3), int), r"index_map of the image's size \(12, 16\) \(H, W\), got \(3, 3\) for '000'"),
        (np.zeros((12, 16)), "index_map must hold integers, got dtype float64"),
        (np.full((12, 16), 3), r"index_map must be in \[-1, 3\), the labels it was given, got 3 to 3"),
        (None, "got no index_map"),
    ],
)
def test_wrong_answers_are_refused(folder: Path, index_map: Any, message: str) -> None:
    segmenter = SimpleNamespace(segment=lambda image, labels: SimpleNamespace(index_map=index_map))
    with pytest.raises(ShapeError, match=message):
        evaluate(segmenter, "folder", data=folder)


@pytest.mark.parametrize("convert", ["array", "uint8", "tensor", "list"])
def test_any_kind_of_index_map_goes_also_without_keywords(folder: Path, convert: str) -> None:
    import torch

    kinds: dict[str, Callable[[Any], Any]] = {
        "array": lambda index: index,
        "uint8": lambda index: index.astype(np.uint8),
        "tensor": torch.from_numpy,
        "list": lambda index: index.tolist(),
    }
    zeros = np.zeros((12, 16), np.int64)
    segmenter = SimpleNamespace(segment=lambda image, labels: SimpleNamespace(index_map=kinds[convert](zeros)))
    report = evaluate(segmenter, "folder", data=folder)
    assert report.iou["sky"] > 0 and report.iou["road"] == 0
    assert 0 <= report.interval[0] <= report.mean_iou <= report.interval[1] <= 1


def test_scores_that_need_a_gradient_are_read(folder: Path) -> None:
    import torch

    scores = torch.full((12, 16), 0.5, requires_grad=True)
    answer = SimpleNamespace(index_map=torch.zeros((12, 16), dtype=torch.int32), score_map=scores)
    report = evaluate(SimpleNamespace(segment=lambda image, labels: answer), "folder", data=folder)
    assert not math.isnan(report.scores["expected_calibration_error"])


def test_a_batch_function_gets_only_the_keywords_it_takes(folder: Path, oracle: Callable[..., Any]) -> None:
    class Batched(oracle):  # type: ignore[misc, valid-type]
        def segment_batch(self, images: list[Any], labels: list[Any]) -> Any:
            return [self.segment(image, labels) for image in images]

    assert evaluate(Batched(), "folder", data=folder, options=RunOptions(batch_size=3)).mean_iou == 1


def test_options_without_a_use_are_refused(folder: Path, oracle: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no few-shot protocol and has no shots"):
        evaluate(oracle(), "folder", data=folder, options=RunOptions(shots=2))
    with pytest.raises(DatasetError, match="one set without splits, so it has no split 'test'"):
        evaluate(oracle(), "folder", data=folder, options=RunOptions(split="test"))
    with pytest.raises(ConfigError, match="batch_size must be at least 1 image, got 0"):
        RunOptions(batch_size=0)


def test_what_cannot_segment_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a method segment\(image, labels\), got int"):
        evaluate(3, "folder", data=folder)


def test_too_few_files_are_refused_unless_a_part_is_asked_for(folder: Path, oracle: Callable[..., Any]) -> None:
    protocol = load_protocol("folder").model_copy(update={"expected": Expected(files={"val": 7})})
    with pytest.raises(DatasetError, match="must have 7 images, found 6"):
        evaluate(oracle(), protocol, data=folder)
    assert evaluate(oracle(), protocol, data=folder, limit=2).mean_iou == 1


def test_out_holds_report_and_sheet_and_is_not_done_twice(
    folder: Path, tmp_path: Path, oracle: Callable[..., Any]
) -> None:
    first = evaluate(oracle(4), "folder", data=folder, out=tmp_path / "out")
    names = {"report.json", "report.md", "sheet.jpg", "rows-00000.jsonl"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    again = oracle(4)
    second = evaluate(again, "folder", data=folder, out=tmp_path / "out", options=RunOptions(sheet=False))
    assert again.asked == [] and second.mean_iou == first.mean_iou


def test_the_journal_of_another_model_is_refused(folder: Path, tmp_path: Path, oracle: Callable[..., Any]) -> None:
    evaluate(oracle(4), "folder", data=folder, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="holds rows of another run"):
        evaluate(oracle(5), "folder", data=folder, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="holds rows of another run"):
        evaluate(oracle(4), "folder", data=folder, out=tmp_path / "out", labels="present")


def test_a_line_that_was_cut_off_is_done_again(folder: Path, tmp_path: Path, oracle: Callable[..., Any]) -> None:
    whole = evaluate(oracle(4), "folder", data=folder, out=tmp_path / "out")
    journal = tmp_path / "out" / "rows-00000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    again = oracle(4)
    report = evaluate(again, "folder", data=folder, out=tmp_path / "out", options=RunOptions(sheet=False))
    assert len(again.asked) == 1
    assert replace(report, manifest={}).to_dict()["scores"] == replace(whole, manifest={}).to_dict()["scores"]
    assert len(journal.read_text().splitlines()) == 7


def test_a_damaged_line_of_the_journal_is_named(folder: Path, tmp_path: Path, oracle: Callable[..., Any]) -> None:
    evaluate(oracle(4), "folder", data=folder, out=tmp_path / "out")
    journal = tmp_path / "out" / "rows-00000.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:3], '{"name": 3}\n', *lines[4:]]))
    with pytest.raises(ConfigError, match=r"line 4 of '.*rows-00000.jsonl' is damaged"):
        evaluate(oracle(4), "folder", data=folder, out=tmp_path / "out")
    journal.write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match=r"cannot read '.*rows-00000.jsonl' .* delete it to start anew"):
        evaluate(oracle(4), "folder", data=folder, out=tmp_path / "out")


def test_a_killed_run_goes_on_with_the_same_result(
    folder: Path, tmp_path: Path, program: Path, oracle: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(program), str(folder), str(out)]
    process = subprocess.Popen([*command, "0.5"], env=environment(), stdout=subprocess.DEVNULL)
    journal = out / "rows-00000.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.exists() or journal.read_text().count("\n") < 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = journal.read_text().count("\n") - 1
    assert 2 <= done < 6 and not (out / "report.json").exists()
    finished = subprocess.run([*command, "0"], env=environment(), capture_output=True, text=True, check=True)
    score = float(finished.stdout.split()[0])
    assert score == evaluate(oracle(3), "folder", data=folder).mean_iou
    names = [json.loads(line)["name"] for line in journal.read_text().splitlines()[1:]]
    assert sorted(names) == [f"{number:03d}" for number in range(6)]


@pytest.mark.slow
def test_two_processes_count_every_image_once(
    folder: Path, tmp_path: Path, program: Path, oracle: Callable[..., Any]
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(program), str(folder), str(tmp_path / "out"), "0"]
    cpu = {**environment(), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=cpu, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert len(lines) == 2 and all(line[1:] == ["2", "6"] for line in lines)
    assert float(lines[0][0]) == float(lines[1][0]) == evaluate(oracle(3), "folder", data=folder).mean_iou
    rows = [path.read_text().splitlines()[1:] for path in (tmp_path / "out").glob("rows-*.jsonl")]
    assert [len(part) for part in rows] == [3, 3]


def test_the_manifest_says_what_was_measured(folder: Path, oracle: Callable[..., Any]) -> None:
    manifest = evaluate(oracle(), "folder", data=folder).manifest
    assert manifest["model"] == {"name": "oracle-0"} and manifest["images"] == 6
    assert len(manifest["protocol_hash"]) == 64 and manifest["versions"]["numpy"] == np.__version__
    assert manifest["peak_memory_mib"]["resident"] > 0 and not math.isnan(manifest["seconds_per_image"])


def test_knobs_that_the_segmenter_does_not_take_are_listed(folder: Path, oracle: Callable[..., Any]) -> None:
    taken = []

    class Sized(oracle):  # type: ignore[misc, valid-type]
        def segment(self, image: Any, labels: Any, *, background: Any = None, short_side: int = 0) -> Any:
            taken.append(short_side)
            return super().segment(image, labels)

    settings = {"shared": {"short_side": 9, "window": 5}}
    protocol = load_protocol("folder").model_copy(update={"settings": settings})
    manifest = evaluate(Sized(), protocol, data=folder, limit=1).manifest
    assert taken == [9] and manifest["not_applied"] == ["window"]


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


def test_the_paper_setting_of_a_segmenter_without_constants_must_be_in_the_protocol(
    folder: Path, oracle: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match="has no paper setting for"):
        evaluate(oracle(), "folder", data=folder, setting="paper")
