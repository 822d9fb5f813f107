"""The program that checks an accelerator, on the processor: there it must find no difference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "evaluation" / "peers" / "device_check.py"
SECTIONS = ["labels", "recipes", "mini", "towers", "windows", "bank", "search", "training"]


@pytest.mark.slow
def test_the_processor_equals_itself_in_every_section(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(PROGRAM), "--device", "cpu", "--quick", "--out", str(out)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())["figures"]
    assert list(figures) == SECTIONS
    assert set(figures["labels"].values()) == {1.0}
    cosines = figures["recipes"]
    assert all(value > (1 - 1e-5 if "float32" in name else 0.999) for name, value in cosines.items())
    assert all(value > 0 for section in SECTIONS[2:] for value in figures[section].values())
