"""Accuracy of ``mini`` and its baselines on every data set of a folder, into ``evaluation/results``.

    make results DATA=../shared/data
    .venv/bin/python tools/results.py ../shared/data --only camvid11 robustness
    .venv/bin/python tools/results.py ../shared/data --limit 3 --out runs/results-trial

Writes, for each set, ``NAME/report.json`` with a row for each image and ``NAME/report.md``, its baselines as
``NAME/BASELINE.json`` without such rows, the robustness table beside CamVid's report, and one table of all as
``README.md``, made from the files that lie there. No pictures. Nothing is kept from an earlier run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from ovseg.errors import OvsegError
from ovseg.evaluation import EvaluationReport, RunOptions, Task, load_protocol
from ovseg.evaluation.run.baselines import make_baseline
from ovseg.evaluation.run.corruptions import CORRUPTIONS
from ovseg.evaluation.run.robustness import measure_robustness
from ovseg.evaluation.run.runner import evaluate_task
from ovseg.files import atomic_path

BASELINES = ("majority", "no-refinement", "no-background")
OPTIONS = RunOptions(sheet=False)
ROBUSTNESS = "robustness"
SEVERITIES = (1, 3, 5)
ROBUST_IMAGES = 10
DEFAULT_OUT = Path(__file__).parents[1] / "evaluation" / "results"
HEADER = """# Results

Mean IoU in percent with its 95 % interval over images, of `{model}` and of three baselines on the same images
and labels: one label everywhere, chosen by looking at the truth (majority); the model without its refinement
of borders; the model without its handling of background ("–": the protocol has no background).

"""
NOTES = """
The rows marked with * are **not** a measure of accuracy: the alignment inside `mini` was trained on these very
images, and the row marked with † is on images a quarter of which it was trained on. They guard against
regressions. Accuracy on images and on names that were not trained on is what `tools/cross_validate.py` measures;
its numbers are in the project's README.

All of it again: `make results DATA=FOLDER`. One row:

"""


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        name: its folder under ``evaluation/results``.
        benchmark: protocol.
        folder: below the data folder.
        labels: label mode.
        limit: images at most; None: all.
        mark: of a set whose images the model has seen: * all, † a quarter.
    """

    name: str
    benchmark: str
    folder: str
    labels: str = "all"
    limit: int | None = None
    mark: Literal["", "*", "†"] = ""

    def task(self, data: Path, limit: int | None) -> Task:
        """What is evaluated; ``limit`` may only make it smaller."""
        limits = [value for value in (self.limit, limit) if value is not None]
        return Task(self.benchmark, data / self.folder, min(limits, default=None), self.labels)

    def command(self) -> str:
        """The line that measures the model alone."""
        limit = "" if self.limit is None else f" --limit {self.limit}"
        labels = "" if self.labels == "all" else f" --labels {self.labels}"
        return f"ovseg evaluate {self.benchmark} --data {self.folder}{labels}{limit} --out results/{self.name}"


COCO = "coco-panoptic-133"
ENTRIES = (
    Entry("camvid11", "camvid11", "camvid/val"),
    Entry("facade8", "facade8", "facade-train100"),
    Entry("clothing", "clothing", "clothing", limit=60, mark="†"),
    Entry(COCO, COCO, "coco-train100", mark="*"),
    Entry(f"{COCO}-present", COCO, "coco-train100", labels="present", mark="*"),
    Entry(f"{COCO}-things", COCO, "coco-train100", labels="things", mark="*"),
)
ROBUST_ENTRY = ENTRIES[0]


@dataclass(frozen=True)
class Job:
    """What one process measures: the entry of this name, or the robustness table."""

    name: str
    model: str
    data: Path
    out: Path
    limit: int | None
    threads: int


def measure(job: Job) -> float:
    """Measure and write; the seconds that it took."""
    import torch

    import ovseg

    torch.set_num_threads(job.threads)
    started = time.perf_counter()
    segmenter = ovseg.load(job.model, device="cpu")
    if job.name == ROBUSTNESS:
        task = ROBUST_ENTRY.task(job.data, min(ROBUST_IMAGES, job.limit or ROBUST_IMAGES))
        chosen = [f"{name}:{severity}" for name in CORRUPTIONS for severity in SEVERITIES]
        table = measure_robustness(segmenter, task, corruptions=chosen, options=OPTIONS)
        table.save(job.out / ROBUST_ENTRY.name)
        return time.perf_counter() - started
    entry = next(entry for entry in ENTRIES if entry.name == job.name)
    task, folder = entry.task(job.data, job.limit), job.out / entry.name
    report = evaluate_task(segmenter, task, options=OPTIONS)
    report.save(folder / "report.json")
    with atomic_path(folder / "report.md") as temporary:
        temporary.write_text(report.to_markdown(), encoding="utf-8")
    for name in baselines_of(entry):
        baseline = make_baseline(name, segmenter, task, OPTIONS)
        evaluate_task(baseline, task, options=OPTIONS).without_images().save(folder / f"{name}.json")
    return time.perf_counter() - started


def baselines_of(entry: Entry) -> list[str]:
    """Names of the baselines that differ from the model there."""
    closed = load_protocol(entry.benchmark).background.phrases is None
    return [name for name in BASELINES if not (closed and name == "no-background")]


def results_table(out: Path) -> str:
    """The page over all reports below ``out``."""
    columns = " | ".join(name.replace("-", " ") for name in BASELINES)
    model, rows, commands = "mini", [], []
    for entry in ENTRIES:
        if not (out / entry.name / "report.json").is_file():
            continue
        report = EvaluationReport.load(out / entry.name / "report.json")
        model = report.manifest["model"]["name"]
        cells = [shown(out / entry.name / f"{name}.json") for name in ("report", *BASELINES)]
        title = f"[{entry.benchmark}]({entry.name}/report.md), labels `{entry.labels}`{entry.mark}"
        rows.append(f"| {title} | {report.manifest['images']} | {' | '.join(cells)} |")
        commands.append(f"    {entry.command()} --model {model}")
    lines = [f"| set | images | {model} | {columns} |", "|---" * (3 + len(BASELINES)) + "|", *rows]
    page = HEADER.format(model=model) + "\n".join(lines) + "\n" + NOTES + "\n".join(commands) + "\n"
    robust = out / ROBUST_ENTRY.name / "robustness.md"
    if robust.is_file():
        limit = f"{ROBUST_IMAGES} images of {ROBUST_ENTRY.benchmark}"
        page += f"\n## Robustness, {limit}\n\n" + robust.read_text(encoding="utf-8")
    return page


def shown(path: Path) -> str:
    """``"38.3 [37.7, 38.8]"`` of a report; a dash where there is none."""
    if not path.is_file():
        return "–"
    report = EvaluationReport.load(path)
    low, high = report.interval
    return f"{100 * report.mean_iou:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def run_jobs(jobs: list[Job], *, processes: int) -> list[str]:
    """What went wrong, a line for each failed job; the others are done, ``processes`` at a time."""
    failures = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(measure, job): job.name for job in jobs}
        for done in as_completed(running):
            try:
                print(f"{running[done]}: {done.result():.0f} s", file=sys.stderr, flush=True)
            except OvsegError as error:
                failures.append(f"{running[done]}: {error}")
    return failures


def main() -> None:
    """Measure and write."""
    names = [ROBUSTNESS, *(entry.name for entry in ENTRIES)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets' folders")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--model", default="mini", help="a name from 'ovseg models'")
    parser.add_argument("--limit", type=int, help="only so many images of each set")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    given = parser.parse_args()
    folders = {entry.name: given.data / entry.folder for entry in ENTRIES}
    folders[ROBUSTNESS] = given.data / ROBUST_ENTRY.folder
    wanted = [name for name in given.only if folders[name].is_dir()]
    for name in set(given.only) - set(wanted):
        print(f"{name}: skipped, there is no folder '{folders[name]}'", file=sys.stderr)
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    jobs = [Job(name, given.model, given.data, given.out, given.limit, threads) for name in wanted]
    failures = run_jobs(jobs, processes=given.jobs)
    with atomic_path(given.out / "README.md") as temporary:
        temporary.write_text(results_table(given.out), encoding="utf-8")
    if failures:
        parser.exit(2, "error: " + "\nerror: ".join(failures) + "\n")


if __name__ == "__main__":
    main()
