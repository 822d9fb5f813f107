"""A folder of photos on all of torch's threads, beside the same photos one after the other on one thread.

    .venv/bin/python evaluation/peers/folder_speed.py PHOTOS [--count 40] [--rounds 3] [--threads 2]

Three ways, in turn within every round: one by one on one thread, one by one on all threads, and
``Segmenter.segment_batch``, which does photos side by side. Wall time and processor time, medians over rounds of
ratios within one round; and how many label maps differ from those of one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import ovseg
from ovseg.images.find import find_images
from ovseg.result import SegmentationResult

LABELS = ["person", "dog", "car", "tree", "road"]
Results = list[SegmentationResult]


def timed(job: Callable[[], Results], *, threads: int) -> tuple[float, float, Results]:
    """Seconds on the clock, of the processor, and the results."""
    torch.set_num_threads(threads)
    clock, processor = time.perf_counter(), time.process_time()
    results = job()
    return time.perf_counter() - clock, time.process_time() - processor, results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    paths = find_images(given.photos)[: given.count]
    segmenter = ovseg.load("mini", device="cpu")
    ways: dict[str, tuple[int, Callable[[], Results]]] = {
        "one by one, one thread": (1, lambda: [segmenter.segment(path, LABELS) for path in paths]),
        "one by one, all threads": (given.threads, lambda: [segmenter.segment(path, LABELS) for path in paths]),
        "side by side": (given.threads, lambda: list(segmenter.segment_batch(paths, LABELS))),
    }
    segmenter.segment(paths[0], LABELS)
    rounds = [{name: timed(job, threads=count) for name, (count, job) in ways.items()} for _ in range(given.rounds)]
    base = next(iter(ways))
    print(f"{len(paths)} photos, {given.threads} threads, torch {torch.__version__}")
    for name in ways:
        faster = statistics.median(each[base][0] / each[name][0] for each in rounds)
        work = statistics.median(each[name][1] / each[base][1] for each in rounds)
        maps = zip(rounds[-1][base][2], rounds[-1][name][2], strict=True)
        other = sum(not np.array_equal(one.index_map, two.index_map) for one, two in maps)
        print(f"{name:24s} {faster:.2f} times as fast, {work:.2f} times the processor time, {other} maps differ")


if __name__ == "__main__":
    main()
