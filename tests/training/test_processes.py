"""Runs in processes of their own: killed, and two at once over gloo. They go on in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers.threads import torch_threads
from helpers.training import losses, same_weights

from ovseg.training import TrainingConfig, load_training, train
from ovseg.training.checkpoint import TrainingError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """As in the other processes: the number of threads decides the last digits of sums."""
    with torch_threads(1):
        yield


OF_CROPS = {"recipe": "masks", "crop": [2, 2]}
OF_EPISODES = {"recipe": "shots", "ways": 3, "shots": 2}


def write_recipe(folder: Path, out: Path, kind: str = "fusioner", **schedule: object) -> TrainingConfig:
    model = yaml.safe_load((ROOT / "configs/models/mini.yaml").read_text())
    model["input"] = {"short_side": 64, "max_long_side": 96}
    (folder.parent / "tiny.yaml").write_text(yaml.safe_dump(model))
    settings = {"width": 16, "layers": 1, "attention_heads": 2, "inner": 16, "dropout": 0.2}
    settings |= {"upsamplings": 1} if kind == "fusioner" else {}
    values = {
        **(OF_CROPS if kind == "fusioner" else OF_EPISODES),
        "model": str(folder.parent / "tiny.yaml"),
        "head": {"kind": kind, "settings": settings},
        "data": [{"protocol": "folder", "path": str(folder)}],
        "schedule": {"steps": 12, "batch": 2, "ema": 0.9, **schedule},
        "save_every": 2,
        "features": str(folder.parent / "features"),
        "out": str(out),
    }
    out.with_suffix(".yaml").write_text(yaml.safe_dump(values))
    return load_training(out.with_suffix(".yaml"))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fusioner", "multimodal", "labelanything"])
def test_a_process_that_was_killed_goes_on_as_if_it_had_not_been(kind: str, folder: Path, tmp_path: Path) -> None:
    whole, parts = (write_recipe(folder, tmp_path / name, kind) for name in ("whole", "parts"))
    train(whole)
    process = subprocess.Popen(command("ovseg.cli", "train", tmp_path / "parts.yaml"), env=ENVIRONMENT, cwd=ROOT)
    metrics = parts.out / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 3):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (parts.out / "result.json").is_file(), "the run ended before it was killed"
    train(parts)
    assert losses(parts.out) == losses(whole.out) and len(losses(whole.out)) == 12
    assert same_weights(parts.out, whole.out)


@pytest.mark.slow
def test_two_processes_train_one_head(folder: Path, tmp_path: Path) -> None:
    config = write_recipe(folder, tmp_path / "two", steps=4)
    # --multi_gpu is accelerate's name for "start as many processes"; without a GPU they meet over gloo
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1)
    # the port is the test's own, so that two test runs on one machine do not meet
    port = ("--main_process_port", 20000 + os.getpid() % 20000)
    options = ("--mixed_precision", "no", "--dynamo_backend", "no", *port)
    done = subprocess.run(
        command(*launch, *options, "-m", "ovseg.cli", "train", tmp_path / "two.yaml"),
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(losses(config.out)) == 4 and (config.out / "model.yaml").is_file()
    state = torch.load(config.out / "last.pt", weights_only=True)
    assert len(state["randomness"]) == 2
    assert not torch.equal(state["randomness"][0][0], state["randomness"][1][0])
    (config.out / "result.json").unlink()  # as if it had been killed before it was finished
    with pytest.raises(TrainingError, match="was written by 2 processes, this run has 1; go on with as many"):
        train(config)
