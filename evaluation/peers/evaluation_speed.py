"""What measuring costs beside the model, the confusion matrix and the boundaries: three numbers in one run.

    python evaluation/peers/evaluation_speed.py
    python evaluation/peers/evaluation_speed.py coco-panoptic-133 --data coco-train100 --limit 20

Without --data: the example photo at 640 x 480 with invented masks of 20 classes. The first number is the
run's wall time (reading, scoring, bootstrap; no picture sheet) less the time inside the model, over the time
inside the model. The other two are medians over invented maps. Nothing is asserted; machines differ.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import ovseg
from ovseg.evaluation import RunOptions, Task
from ovseg.evaluation.metrics.boundary import boundary_counts
from ovseg.evaluation.metrics.confusion import ConfusionMatrix
from ovseg.evaluation.run.runner import evaluate_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cat.jpg"
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
    photo = np.asarray(Image.open(EXAMPLE).convert("RGB").resize((640, 480)))
    for number in range(images):
        Image.fromarray(np.roll(photo, 20 * number, axis=1)).save(root / "images" / f"{number:03d}.jpg")
        mask = invented_map(480, 640, len(NAMES), number).astype(np.uint8)
        Image.fromarray(mask).save(root / "masks" / f"{number:03d}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def milliseconds(job: Callable[[], object], *, rounds: int) -> float:
    """Median over ``rounds``, after one that does not count."""
    job()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        job()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def added_share(task: Task, model: str) -> float:
    """Time of a run outside the model over the time inside it."""
    segmenter = ovseg.load(model)
    options = RunOptions(sheet=False)
    evaluate_task(segmenter, Task(task.benchmark, task.data, 1, task.labels), options=options)  # warm
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        report = evaluate_task(segmenter, task, out=out, options=options)
        wall = time.perf_counter() - started
    inside = sum(row.seconds for row in report.rows)
    return (wall - inside) / inside


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", default="folder")
    parser.add_argument("--data")
    parser.add_argument("--labels")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or invented_folder(Path(folder), images=given.limit)
        added = added_share(Task(given.benchmark, data, given.limit, given.labels), given.model)
    print(f"{'evaluation / model, added':44s} {100 * added:8.1f} %")
    matrix = ConfusionMatrix.empty(847)
    generator = np.random.default_rng(0)
    noise = [generator.integers(-1, 847, (2000, 2000)).astype(np.int32) for _ in range(2)]
    taken = milliseconds(lambda: matrix.update(*noise), rounds=given.rounds)
    print(f"{'confusion matrix, 2000 x 2000, 847 classes':44s} {taken:8.1f} ms")
    for classes in (5, 20):
        first, second = (invented_map(480, 640, classes, seed) for seed in (0, 1))
        taken = milliseconds(lambda a=first, b=second: boundary_counts(a, b), rounds=given.rounds)  # type: ignore[misc]
        print(f"{f'boundaries, 640 x 480, {classes} classes':44s} {taken:8.1f} ms")


if __name__ == "__main__":
    main()
