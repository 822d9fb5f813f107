"""A bar with the running mean IoU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ovseg.evaluation.metrics.confusion import ConfusionMatrix

REFRESH_SECONDS = 0.5  # the score of 847 classes takes a millisecond: not after every image


@contextmanager
def running_score(title: str, *, total: int, shown: bool) -> Iterator[Callable[[ConfusionMatrix], None]]:
    """A function to call after each image with the matrix so far; it moves the bar where one is ``shown``."""
    if not shown:
        yield lambda matrix: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("mIoU {task.fields[score]}"),
        TimeRemainingColumn(),
    )
    last = 0.0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, score="–")

        def advance(matrix: ConfusionMatrix) -> None:
            nonlocal last
            bar.advance(task)
            if time.monotonic() - last > REFRESH_SECONDS:
                last = time.monotonic()
                bar.update(task, score=f"{100 * matrix.mean_iou():.1f}")

        yield advance
        bar.update(task, score="done")
