from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.datasets import Oracle

from ovseg.evaluation import evaluate
from ovseg.evaluation.run.processes import Processes

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from helpers.datasets import Oracle
from ovseg.evaluation import RunOptions, evaluate

report = evaluate(Oracle(3), "folder", data=sys.argv[1], out=sys.argv[2], options=RunOptions(sheet=False))
print(report.mean_iou, report.manifest["processes"], len(report.rows))
"""


def test_each_process_takes_every_nth_image_from_its_own_rank_on() -> None:
    images = [10, 11, 12, 13, 14, 15, 16]
    assert Processes(rank=0, count=3).share(images) == [10, 13, 16]
    assert Processes(rank=1, count=3).share(images) == [11, 14]
    assert Processes(rank=2, count=3).share(images) == [12, 15]
    assert Processes().share(images) == images


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11])
def test_the_shares_of_all_processes_hold_each_image_once(count: int) -> None:
    shares = [Processes(rank, count).share(list(range(7))) for rank in range(count)]
    assert sorted(image for share in shares for image in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_first_process_alone_writes_what_is_written_once() -> None:
    assert [Processes(rank, 3).is_main for rank in range(3)] == [True, False, False]


@pytest.mark.slow
def test_two_processes_count_every_image_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(tmp_path / "program.py"), str(folder), str(tmp_path / "out")]
    path = f"{ROOT}:{ROOT / 'tests'}"
    cpu = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=cpu, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert len(lines) == 2 and all(line[1:] == ["2", "6"] for line in lines)
    assert float(lines[0][0]) == float(lines[1][0]) == evaluate(Oracle(3), "folder", data=folder).mean_iou
    rows = [path.read_text().splitlines()[1:] for path in (tmp_path / "out").glob("rows-*.jsonl")]
    assert [len(part) for part in rows] == [3, 3]
