"""The program that measures an index larger than memory, on few vectors."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parents[2] / "evaluation" / "peers" / "large_bank.py"


def test_vectors_are_drawn_again_by_their_seed_and_have_near_neighbours() -> None:
    world = runpy.run_path(str(PROGRAM))["World"](32)
    rows = world.draw(3000, 1, 0)
    assert rows.shape == (3000, 32) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert (rows == world.draw(3000, 1, 0)).all() and (rows != world.draw(3000, 1, 1)).any()
    cosines = rows[:50] @ rows.T
    nearest = np.sort(cosines, axis=1)[:, -2].mean()
    assert nearest > 0.5 > 0.2 > abs(cosines.mean())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux counts it")
def test_the_program_reaches_its_recall_within_its_memory(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--count", "30000", "--dimensions", "32", "--memory", "2", "--threads"]
    command += ["1", "--json", str(tmp_path / "figures.json"), "--folder", str(tmp_path / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["recall@10 of new queries"] >= 0.9
    assert figures["vectors (GB)"] == pytest.approx((30_000 * 32 * 4 + 128) / 1e9)
    assert figures["lists (GB)"] == pytest.approx(30_000 * (4 + 8) / 1e9)  # a code and a number each
    assert 0 < figures["build: of it anonymous (GB)"] < figures["build: memory (GB)"] < 2
    again = subprocess.run(
        [*command, "--memory", "0.01"], env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and "GB, may be 0.01" in again.stderr
