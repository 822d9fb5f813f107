"""Classes asked by name, by pictures, and by both: mean IoU over draws of the pictures, on the same images.

python evaluation/peers/shots_table.py facade8 --data ../shared/data/facade-train100 --shots 1 5 --seeds 5
python evaluation/peers/shots_table.py clothing --data ../shared/data/clothing --labels present --limit 60

The pictures are drawn from the data set, and images that show a class are not scored (``ovseg evaluate --shots``).
Every row of a draw scores the same images. Prints the mean over the draws and half of its 95 % interval (by
Student's t), and seconds of processor time an image, the learning included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import ovseg
from ovseg.evaluation import RunOptions, Task
from ovseg.evaluation.metrics.bootstrap import repeated
from ovseg.evaluation.run.runner import evaluate_task
from ovseg.vocabulary.labels import without_pictures


class WordsAlone:
    """A segmenter that is shown pictures and does not look."""

    reads_examples = True

    def __init__(self, segmenter: Any) -> None:
        self.segmenter = segmenter

    def segment(self, image: Any, labels: Sequence[Any], **options: Any) -> Any:
        """As the segmenter does by words."""
        words, _ = without_pictures(labels)
        return self.segmenter.segment(image, words, **options)


def measure(segmenter: Any, task: Task, options: RunOptions) -> tuple[float, float]:
    """Mean IoU in percent, and seconds of processor time an image."""
    started = time.process_time()
    report = evaluate_task(segmenter, task, options=options)
    return 100 * report.mean_iou, (time.process_time() - started) / len(report.rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--labels", help="all, present or a subset")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--method", help="in place of the model file's")
    parser.add_argument("--fusion", help="in place of the model file's")
    parser.add_argument("--beside", help="a further method, half of whose answer counts")
    given = parser.parse_args()
    asked = {name: getattr(given, name) for name in ("method", "fusion", "beside")}
    segmenter = ovseg.load(given.model).with_examples(**{key: value for key, value in asked.items() if value})
    task = Task(given.benchmark, given.data, limit=given.limit, labels=given.labels)
    print(
        "| shots | name | pictures | name and pictures | s an image: name, pictures, both |\n|---|---|---|---|---|"
    )
    for shots in given.shots:
        rows: list[list[tuple[float, float]]] = [[], [], []]
        for seed in range(given.seeds):
            options = RunOptions(shots=shots, seed=seed, boundary=False, sheet=False, progress=False)
            ways = [(WordsAlone(segmenter), True), (segmenter, False), (segmenter, True)]
            for row, (way, names) in zip(rows, ways, strict=True):
                row.append(measure(way, task, replace(options, names=names)))
        scores = " | ".join(repeated([score for score, _ in row]) for row in rows)
        seconds = ", ".join(f"{np.mean([spent for _, spent in row]):.2f}" for row in rows)
        print(f"| {shots} | {scores} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
