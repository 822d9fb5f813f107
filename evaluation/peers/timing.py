"""What the programs here that measure time have in common: rounds of jobs, processes, the name of the machine."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
Job = Callable[[], object]
Clock = Callable[[], float]


def rounds_of(
    jobs: Mapping[str, Job],
    *,
    rounds: int,
    clock: Clock = time.perf_counter,
    warm: int = 1,
    slow: float = float("inf"),
) -> dict[str, list[float]]:
    """Seconds of every job in every round; all jobs run once in each, so that noise falls on all alike.

    Args:
        jobs: by name.
        rounds: that count.
        clock: ``time.process_time`` for processor time.
        warm: rounds before these, which compile kernels and fill caches.
        slow: a job that takes more seconds of ``clock`` in a warm round runs no more, and that is its figure.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    done: set[str] = set()
    for number in range(-warm, rounds):
        for name, job in jobs.items():
            if name in done:
                continue
            start = clock()
            job()
            spent = clock() - start
            if number >= 0 or spent > slow:
                times[name].append(spent)
            if number < 0 and spent > slow:
                done.add(name)
    return times


def medians(
    jobs: Mapping[str, Job], *, rounds: int, clock: Clock = time.perf_counter, warm: int = 2
) -> dict[str, float]:
    """Milliseconds of every job; see ``rounds_of``."""
    times = rounds_of(jobs, rounds=rounds, clock=clock, warm=warm)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def seconds(job: Job, *, clock: Clock = time.perf_counter) -> float:
    """How long one call takes."""
    return rounds_of({"": job}, rounds=1, clock=clock, warm=0)[""][0]


def run_python(arguments: list[str]) -> str:
    """What a Python process prints."""
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def start_up(arguments: list[str], *, rounds: int = 5) -> float:
    """Median seconds of a Python process."""
    return statistics.median(seconds(lambda: run_python(arguments)) for _ in range(rounds))


def show(figures: Mapping[str, float], path: Path | None) -> None:
    """Print the figures, and write them to a JSON file if there is to be one."""
    for name, value in figures.items():
        print(f"{name:44s} {value:10.2f}")
    if path is not None:
        path.write_text(json.dumps(figures, indent=2))


def machine(packages: tuple[str, ...] = ("torch",), *, threads: int) -> str:
    """The processor, the threads in use, and the versions of Python and of packages, as one line."""
    return ", ".join(
        [
            _processor(),
            f"{threads} thread{'s' * (threads > 1)}",
            f"Python {platform.python_version()}",
            *(f"{name} {_version(name)}" for name in packages),
        ]
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} (model {facts['model']})" if "model" in facts else name
