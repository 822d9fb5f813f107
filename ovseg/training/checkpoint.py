"""Checkpoints that a run goes on from exactly: weights, optimiser, schedule and every process's random numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.swa_utils import AveragedModel

from ovseg.errors import OvsegError
from ovseg.files import atomic_path
from ovseg.identity import difference
from ovseg.journal import read_journal
from ovseg.training.config import TrainingConfig
from ovseg.training.recipe import Task
from ovseg.training.schedule import restore, trained

CHECKPOINT, BEST, METRICS = "last.pt", "best.pt", "metrics.jsonl"


class TrainingError(OvsegError):
    """Training cannot go on; the last good checkpoint is kept."""


class State:
    """Everything that changes while a run goes on.

    Args:
        task, optimizer, scheduler, mean, generator: of the run.
        run: what decides its result, as plain values.
    """

    def __init__(
        self,
        task: Task,
        *,
        optimizer: Any,
        scheduler: Any,
        mean: AveragedModel | None,
        generator: torch.Generator,
        run: Mapping[str, Any],
    ) -> None:
        self.task, self.optimizer, self.scheduler = task, optimizer, scheduler
        self.mean, self.generator, self.run = mean, generator, run
        self.best: float | None = None

    def save(self, path: Path, *, step: int, accelerator: Accelerator) -> None:
        """Write it, whole or not at all; every process must call, the main one writes."""
        randomness = gather_object([(self.generator.get_state(), torch.get_rng_state())])
        if not accelerator.is_main_process:
            return
        state = {
            "step": step,
            "run": dict(self.run),
            "task": trained(self.task),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "mean": None if self.mean is None else self.mean.state_dict(),
            "randomness": randomness,
            "best": self.best,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path, *, accelerator: Accelerator) -> int:
        """Load the checkpoint, if there is one, and return the number of steps done; later metrics are dropped.

        Raises:
            TrainingError: it belongs to another run, or was written by another number of processes.
        """
        done = self._load(path, accelerator) if path.is_file() else 0
        if accelerator.is_main_process:
            cut_metrics(path.with_name(METRICS), done)
        return done

    def _load(self, path: Path, accelerator: Accelerator) -> int:
        state = torch.load(path, weights_only=True)
        refuse_other_run(state.get("run"), self.run, path=path)
        randomness = state["randomness"]
        if len(randomness) != accelerator.num_processes:
            raise TrainingError(
                f"'{path}' was written by {len(randomness)} processes, this run has {accelerator.num_processes}; "
                "go on with as many, or choose another out folder"
            )
        restore(self.task, state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
        mine, everyones = randomness[accelerator.process_index]
        self.generator.set_state(mine)
        torch.set_rng_state(everyones)
        self.best = state["best"]
        return int(state["step"])


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """The settings that decide a run's result, by dotted key; where its files lie does not."""
    return flatten(config.model_dump(mode="json", exclude={"out", "features", "save_every"}))


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys.

    >>> flatten({"a": {"b": 1}, "c": [2, 3]})
    {'a.b': 1, 'c.0': 2, 'c.1': 3}
    """
    if isinstance(values, dict):
        pairs = list(values.items())
    elif isinstance(values, list):
        pairs = list(enumerate(values))
    else:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def refuse_other_run(kept: Any, run: Mapping[str, Any], *, path: Path) -> None:
    """Refuse what another configuration, model or other data left in a run folder.

    Args:
        kept: what the folder says about its run.
        run: the present one.
        path: where ``kept`` was read.

    Raises:
        TrainingError: names the first thing that differs, with both values.
    """
    told = difference(kept, run) if isinstance(kept, dict) else "another version of ovseg wrote it"
    if told is not None:
        raise TrainingError(f"'{path}' is of another run: {told}; choose another out folder, or remove this one")


def cut_metrics(path: Path, steps: int) -> None:
    """Drop the lines of steps that come after the checkpoint; they will be written again."""
    rows = read_journal(path)
    if len(rows) > steps:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows[:steps]), encoding="utf-8")
