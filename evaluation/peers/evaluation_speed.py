"""What measuring costs beside the model, the confusion matrix and the boundaries: in one run.

    python evaluation/peers/evaluation_speed.py
    python evaluation/peers/evaluation_speed.py coco-panoptic-133 --data coco-train100 --limit 20

Without --data: the example photo at 640 x 480 with invented masks of 20 classes. The first figures are ratios, of
time on the clock and of the processor's: a whole run (reading, scoring, bootstrap; no picture sheet) over the same
with one image after the other, in turn, medians over rounds; what a run one by one adds to the time inside the
model; and in how many rows counts of the two differ. The others are medians over invented maps. Nothing is
asserted; machines differ.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timing import EXAMPLES, Job, medians

import ovseg
from ovseg.evaluation import EvaluationReport, RunOptions, Task
from ovseg.evaluation.metrics.boundary import boundary_counts
from ovseg.evaluation.metrics.confusion import ConfusionMatrix
from ovseg.evaluation.run.runner import evaluate_task

NAMES = [f"thing {number}" for number in range(20)]
CELL = 40  # pixels: side of the blocks of an invented map


def invented_map(height: int, width: int, classes: int, seed: int) -> NDArray[np.int32]:
    """(height, width) int32 class indices in blocks of ``CELL`` pixels with ragged borders."""
    generator = np.random.default_rng(seed)
    cells = generator.integers(0, classes, (height // CELL + 1, width // CELL + 1))
    rows = np.arange(height)[:, None] + generator.integers(-2, 3, (height, width))
    columns = np.arange(width)[None] + generator.integers(-2, 3, (height, width))
    return cells[rows.clip(0) // CELL, columns.clip(0) // CELL].astype(np.int32)


def invented_folder(root: Path, *, images: int) -> Path:
    """A data set for the protocol "folder": the example photo, flipped and shifted, with invented masks."""
    (root / "images").mkdir()
    (root / "masks").mkdir()
    photo = np.asarray(Image.open(EXAMPLES / "cat.jpg").convert("RGB").resize((640, 480)))
    for number in range(images):
        Image.fromarray(np.roll(photo, 20 * number, axis=1)).save(root / "images" / f"{number:03d}.jpg")
        mask = invented_map(480, 640, len(NAMES), number).astype(np.uint8)
        Image.fromarray(mask).save(root / "masks" / f"{number:03d}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


class OneByOne:
    """A segmenter that a run calls for one image after the other, on all threads."""

    def __init__(self, segmenter: Any) -> None:
        self.segment, self.info = segmenter.segment, segmenter.info


def timed(segmenter: Any, task: Task) -> tuple[EvaluationReport, float, float]:
    """A run, its seconds on the clock and those of the processor."""
    with tempfile.TemporaryDirectory() as out:
        clock, processor = time.perf_counter(), time.process_time()
        report = evaluate_task(segmenter, task, out=out, options=RunOptions(sheet=False))
        return report, time.perf_counter() - clock, time.process_time() - processor


def runs(task: Task, model: str, *, rounds: int) -> dict[str, float]:
    """What runs cost, as ratios."""
    segmenter = ovseg.load(model)
    alone = OneByOne(segmenter)
    timed(segmenter, Task(task.benchmark, task.data, 1, task.labels))  # warm
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        (together, *quick), (apart, *slow) = timed(segmenter, task), timed(alone, task)
        inside = sum(row.seconds for row in apart.rows)
        pairs = zip(together.rows, apart.rows, strict=True)
        found = {
            "side by side / one by one, clock": quick[0] / slow[0],
            "side by side / one by one, processor": quick[1] / slow[1],
            "one by one / inside the model, clock": slow[0] / inside,
            "rows whose counts differ": sum(told(one) != told(two) for one, two in pairs),
        }
        for name, value in found.items():
            ratios.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in ratios.items()}


def told(row: Any) -> dict[str, Any]:
    """What a row says, but for its time and its sums of confidences, whose last digits depend on the threads."""
    return {name: value for name, value in row.to_dict().items() if name not in {"seconds", "calibration"}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", default="folder")
    parser.add_argument("--data")
    parser.add_argument("--labels")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rounds", type=int, default=9, help="of the matrix and the boundaries")
    parser.add_argument("--runs", type=int, default=3, help="rounds of whole runs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or invented_folder(Path(folder), images=given.limit)
        task = Task(given.benchmark, data, given.limit, given.labels)
        for name, ratio in runs(task, given.model, rounds=given.runs).items():
            print(f"{name:44s} {ratio:8.2f}")
    matrix = ConfusionMatrix.empty(847)
    generator = np.random.default_rng(0)
    noise = [generator.integers(-1, 847, (2000, 2000)).astype(np.int32) for _ in range(2)]
    jobs: dict[str, Job] = {"confusion matrix, 2000 x 2000, 847 classes": lambda: matrix.update(*noise)}
    for classes in (5, 20):
        pair = [invented_map(480, 640, classes, seed) for seed in (0, 1)]
        jobs[f"boundaries, 640 x 480, {classes} classes"] = partial(boundary_counts, *pair)
    for name, taken in medians(jobs, rounds=given.rounds, warm=1).items():
        print(f"{name:44s} {taken:8.1f} ms")


if __name__ == "__main__":
    main()
