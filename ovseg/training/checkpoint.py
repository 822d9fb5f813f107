"""Checkpoints that a run goes on from exactly: weights, optimiser, schedule and every process's random numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ovseg.errors import OvsegError
from ovseg.files import atomic_path
from ovseg.training.config import TrainingConfig
from ovseg.training.schedule import Average, restore, trained

CHECKPOINT, BEST, METRICS = "last.pt", "best.pt", "metrics.jsonl"


class TrainingError(OvsegError):
    """Training cannot go on; the last good checkpoint is kept."""


class State:
    """Everything that changes while a run goes on."""

    def __init__(
        self, task: nn.Module, optimizer: Any, scheduler: Any, average: Average | None, generator: torch.Generator
    ) -> None:
        self.task, self.optimizer, self.scheduler = task, optimizer, scheduler
        self.average, self.generator = average, generator
        self.best: float | None = None

    def save(self, path: Path, *, step: int, config: TrainingConfig, accelerator: Accelerator) -> None:
        """Write it, whole or not at all; every process must call, the main one writes."""
        randomness = gather_object([(self.generator.get_state(), torch.get_rng_state())])
        if not accelerator.is_main_process:
            return
        state = {
            "step": step,
            "config": config.model_dump_json(),
            "task": trained(self.task),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": None if self.average is None else self.average.values,
            "randomness": randomness,
            "best": self.best,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path, *, config: TrainingConfig, accelerator: Accelerator) -> int:
        """Load the checkpoint, if there is one, and return the number of steps done.

        Raises:
            TrainingError: it belongs to another run, or was written by another number of processes.
        """
        if not path.is_file():
            return 0
        state = torch.load(path, weights_only=True)
        if state["config"] != config.model_dump_json():
            raise TrainingError(
                f"'{path}' is a checkpoint of another configuration; choose another out folder or remove it"
            )
        randomness = state["randomness"]
        if len(randomness) != accelerator.num_processes:
            raise TrainingError(
                f"'{path}' was written by {len(randomness)} processes, this run has {accelerator.num_processes}; "
                "go on with as many, or choose another out folder"
            )
        restore(self.task, state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.values = state["average"]
        mine, everyones = randomness[accelerator.process_index]
        self.generator.set_state(mine)
        torch.set_rng_state(everyones)
        self.best = state["best"]
        if accelerator.is_main_process:
            cut_log(path.with_name(METRICS), state["step"])
        return int(state["step"])


def append_log(path: Path, row: dict[str, Any]) -> None:
    """Write one line of the metrics."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of the metrics."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cut_log(path: Path, steps: int) -> None:
    """Drop the lines after the checkpoint, which will be written again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
