"""What the programs in ``evaluation/peers/`` share: one command line, one report, whatever is measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.evaluation.datasets import open_dataset
from ovseg.evaluation.protocol import Protocol, load_protocol
from ovseg.evaluation.runner import RunOptions, choose, evaluate

Make = Callable[[argparse.Namespace], Any]


def peer_parser(description: str) -> argparse.ArgumentParser:
    """The options every peer has: benchmark, data, out, limit, labels, split."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("benchmark", help="a protocol's name or YAML file")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="folder for report.json and report.md")
    parser.add_argument("--limit", type=int, help="only so many images")
    parser.add_argument("--labels", help="all, present, present+N or a subset")
    parser.add_argument("--split", help="instead of the protocol's")
    return parser


def run_peer(parser: argparse.ArgumentParser, make: Make, *, arguments: Sequence[str] | None = None) -> str:
    """The scores, as a line of JSON, of the segmenter that ``make`` builds from the parsed arguments."""
    given = parser.parse_args(arguments)
    options = RunOptions(split=given.split, progress=True)
    report = evaluate(
        make(given),
        given.benchmark,
        data=given.data,
        out=given.out,
        limit=given.limit,
        labels=given.labels,
        options=options,
    )
    summary = {
        "model": report.manifest["model"],
        "mean_iou": report.mean_iou,
        "interval": report.interval,
        "pixel_accuracy": report.pixel_accuracy,
        "seconds_per_image": report.manifest["seconds_per_image"],
    }
    return json.dumps(summary)


def class_areas(benchmark: str | Protocol, *, data: str, limit: int | None = None) -> dict[str, int]:
    """Pixels of each class by the words it is asked by, over the truth of a data set."""
    dataset = open_dataset(load_protocol(benchmark), data)
    names = dataset.protocol.names
    total: NDArray[np.int64] = np.zeros(len(names) + 1, np.int64)
    for index in choose(dataset.names, limit):
        truth = dataset.load(index).truth
        total += np.bincount(truth.ravel() + 1, minlength=len(names) + 1)  # place 0 holds the ignored pixels
    asked = [entry.prompt or entry.name for entry in dataset.protocol.classes]
    return dict(zip(asked, total[1:].tolist(), strict=True))
