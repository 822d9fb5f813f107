"""What the programs in ``evaluation/peers/`` share: one command line, one report, whatever is measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ovseg.evaluation.report.report import EvaluationReport
from ovseg.evaluation.run.baselines import make_baseline
from ovseg.evaluation.run.runner import evaluate_task
from ovseg.evaluation.run.task import RunOptions, Task

Make = Callable[[argparse.Namespace, Task, RunOptions], Any]


def peer_parser(description: str) -> argparse.ArgumentParser:
    """The options every peer has, as ``ovseg evaluate`` names them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="a protocol's name or YAML file")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="folder for report.json and report.md")
    parser.add_argument("--limit", type=int, help="only so many images")
    parser.add_argument("--labels", help="all, present, present+N or a subset")
    parser.add_argument("--split", help="instead of the protocol's")
    return parser


def model_parser(description: str) -> argparse.ArgumentParser:
    """``peer_parser`` with ``--model``."""
    parser = peer_parser(description)
    parser.add_argument("--model", default="mini", help="a name from 'ovseg models'")
    return parser


def run_peer(parser: argparse.ArgumentParser, make: Make, *, arguments: Sequence[str] | None = None) -> str:
    """The scores, as a line of JSON, of the segmenter that ``make`` builds from the parsed arguments.

    A mistake of the user's ends the program with one line and status 2.
    """
    from ovseg.errors import OvsegError

    given = parser.parse_args(arguments)
    task, options = task_of(given)
    try:
        report = evaluate_task(make(given, task, options), task, out=given.out, options=options)
    except OvsegError as error:
        parser.exit(2, f"error: {error}\n")
    return json.dumps({**summary(report), "model": report.manifest["model"]})


def run_all(
    segmenters: dict[str, Any], task: Task, *, out: Path | None, options: RunOptions
) -> dict[str, EvaluationReport]:
    """The report of each segmenter on the same images and labels, by name; each in its own folder of ``out``."""
    reports = {}
    for name, segmenter in segmenters.items():
        folder = None if out is None else out / name
        reports[name] = evaluate_task(segmenter, task, out=folder, options=options)
    return reports


def with_baselines(segmenter: Any, names: Sequence[str], task: Task, options: RunOptions) -> dict[str, Any]:
    """The segmenter under the name "model", then the baselines of these names."""
    return {"model": segmenter, **{name: make_baseline(name, segmenter, task, options) for name in names}}


def side_by_side(reports: dict[str, EvaluationReport]) -> str:
    """A markdown table with a row for each report."""
    lines = ["| | mIoU | 95 % interval | pixel accuracy | s an image |", "|---|---|---|---|---|"]
    for name, report in reports.items():
        low, high = report.interval
        lines.append(
            f"| {name} | {100 * report.mean_iou:.1f} | {100 * low:.1f} to {100 * high:.1f} "
            f"| {100 * report.pixel_accuracy:.1f} | {report.manifest['seconds_per_image']:.3f} |"
        )
    return "\n".join(lines)


def task_of(given: argparse.Namespace) -> tuple[Task, RunOptions]:
    """What the parsed options of ``peer_parser`` say."""
    task = Task(given.benchmark, given.data, limit=given.limit, labels=given.labels)
    return task, RunOptions(split=given.split, progress=True, sheet=False)


def summary(report: EvaluationReport) -> dict[str, Any]:
    """The few numbers that a line has room for."""
    return {
        "mean_iou": report.mean_iou,
        "interval": report.interval,
        "pixel_accuracy": report.pixel_accuracy,
        "seconds_per_image": report.manifest["seconds_per_image"],
    }
