"""``ovseg evaluate --ray``: the rows of a run, made by many workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ovseg.cli.many import over
from ovseg.errors import ClusterError
from ovseg.evaluation.run.runner import open_run
from ovseg.evaluation.run.task import RunOptions, Task
from ovseg.progress import progress_bar

_SHARE = 8  # images that a worker does in a row: each share begins with reading what is done


def evaluate_many(
    address: str,
    load: Callable[[], Any],
    segmenter: Any,
    task: Task,
    *,
    out: Path,
    options: RunOptions,
    gpu: bool,
) -> None:
    """Put the rows of all images of ``task`` into ``out``, where ``evaluate_task`` then finds them.

    Args:
        address: of the cluster.
        load: opens the model in a worker.
        segmenter: the same model, here.
        task: what is evaluated.
        out: the folder of the run, which all machines share.
        options: of the run.
        gpu: a worker needs a GPU, where there are any.

    Raises:
        ClusterError: a share of the images killed three workers, or as ``spread``.
        OvsegError: as ``evaluate``.
    """
    run, indices = open_run(segmenter, task, options)  # what is wrong with the data is told before Ray starts
    size = max(_SHARE, options.batch_size)
    shares = range(-(-len(indices) // size))
    make = partial(_worker, load, task, out=out, options=replace(options, progress=False), size=size)
    title = f"{run.protocol.name} on many"
    with progress_bar(title, total=len(indices), shown=options.progress) as advance:
        for done in over(address, make, shares, gpu=gpu):
            if isinstance(done, ClusterError):
                raise ClusterError(f"a share of the images could not be done: {done}")
            advance(done)


def _worker(
    load: Callable[[], Any], task: Task, *, out: Path, options: RunOptions, size: int
) -> Callable[[list[int], bool], list[int]]:
    run, indices = open_run(load(), task, options)

    def work(shares: list[int], again: bool) -> list[int]:
        # share by share: each has a file of its own, which no two workers write at once
        return [
            len(run.rows(indices[share * size : (share + 1) * size], out=out, journal=share + 1))
            for share in shares
        ]

    return work
