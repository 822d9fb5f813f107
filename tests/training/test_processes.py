"""Runs in processes of their own: killed and resumed, and two at once over gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from ovseg.training.checkpoint import read_log

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def write_recipe(folder: Path, out: Path, **schedule: object) -> Path:
    model = yaml.safe_load((ROOT / "configs/models/mini.yaml").read_text())
    model["input"] = {"short_side": 64, "max_long_side": 96}
    (folder.parent / "tiny.yaml").write_text(yaml.safe_dump(model))
    values = {
        "recipe": "masks",
        "model": str(folder.parent / "tiny.yaml"),
        "head": {"kind": "fusioner", "settings": {"width": 16, "layers": 1, "attention_heads": 2, "inner": 16}},
        "data": [{"protocol": "folder", "path": str(folder)}],
        "crop": [2, 2],
        "views": 2,
        "schedule": {"steps": 12, "batch": 2, "ema": 0.9, **schedule},
        "save_every": 2,
        "features": str(folder.parent / "features"),
        "out": str(out),
    }
    values["head"]["settings"] |= {"upsamplings": 1, "dropout": 0.2}  # type: ignore[index]
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return path


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_log(out / "metrics.jsonl")]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def test_a_run_killed_at_any_instant_ends_with_the_same_curve(folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out in (whole, parts):
        write_recipe(folder, out)
    subprocess.run(command("ovseg.cli", "train", whole.with_suffix(".yaml")), check=True, env=ENVIRONMENT, cwd=ROOT)
    process = subprocess.Popen(command("ovseg.cli", "train", parts.with_suffix(".yaml")), env=ENVIRONMENT, cwd=ROOT)
    metrics = parts / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 3):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (parts / "model.yaml").is_file(), "the run ended before it was killed"
    subprocess.run(command("ovseg.cli", "train", parts.with_suffix(".yaml")), check=True, env=ENVIRONMENT, cwd=ROOT)
    assert losses(parts) == losses(whole) and len(losses(whole)) == 12
    assert (parts / "head.safetensors").read_bytes()[-512:] == (whole / "head.safetensors").read_bytes()[-512:]


def test_two_processes_train_one_head(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    recipe = write_recipe(folder, out, steps=4)
    # --multi_gpu is accelerate's name for "start as many processes"; without a GPU they meet over gloo
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1)
    # the port is the test's own, so that two test runs on one machine do not meet
    port = ("--main_process_port", 20000 + os.getpid() % 20000)
    options = ("--mixed_precision", "no", "--dynamo_backend", "no", *port)
    done = subprocess.run(
        command(*launch, *options, "-m", "ovseg.cli", "train", recipe),
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(losses(out)) == 4 and (out / "model.yaml").is_file()
    state = torch.load(out / "last.pt", weights_only=True)
    assert len(state["randomness"]) == 2
    assert not torch.equal(state["randomness"][0][0], state["randomness"][1][0])
    alone = subprocess.run(
        command("ovseg.cli", "train", recipe, "--set", "schedule.steps=4"),
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert alone.returncode != 0 and "was written by 2 processes, this run has 1" in alone.stderr + alone.stdout
