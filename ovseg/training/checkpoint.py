"""Checkpoints that a run goes on from exactly: weights, optimiser, schedule and every process's random numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
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
from ovseg.training.schedule import move_to, restore, trained

CHECKPOINT, BEST, METRICS = "last.pt", "best.pt", "metrics.jsonl"
STEPS = "schedule.steps"  # the one setting that a finished run may be given anew


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
        self.before: list[int] = []  # steps of the finished runs that this one goes on from

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
            "before": self.before,
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
        state = read_checkpoint(path, self.run)
        randomness = state["randomness"]
        if len(randomness) != accelerator.num_processes:
            raise TrainingError(
                f"'{path}' was written by {len(randomness)} processes, this run has {accelerator.num_processes}; "
                "go on with as many, or choose another out folder"
            )
        restore(self.task, state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        done = int(state["step"])
        self.before = list(state.get("before", ()))
        if more_steps(state["run"], self.run):
            self.before.append(done)
            move_to(self.scheduler, done)
        else:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
        mine, everyones = randomness[accelerator.process_index]
        self.generator.set_state(mine)
        torch.set_rng_state(everyones)
        self.best = state["best"]
        return done


def read_checkpoint(path: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint at ``path``, which must be of ``run``, or of one that is finished and had fewer steps.

    Raises:
        TrainingError: it is of another run, or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        reason = " ".join(str(error).split())[:100] or "it is empty"
        raise TrainingError(f"'{path}' is damaged ({reason}); remove it to start anew") from error
    kept: Any = state.get("run")
    if not more_steps(kept, run):
        refuse_other_run(kept, run, path=path)
    elif state["step"] < kept[STEPS]:
        raise TrainingError(
            f"'{path}' is of a run of {kept[STEPS]} steps that stopped at step {state['step']}; finish it with "
            f"{STEPS}={kept[STEPS]}, then more steps go on from there, or choose another out folder"
        )
    return state


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


def more_steps(kept: Any, run: Mapping[str, Any]) -> bool:
    """Whether ``run`` is what a folder says about its own, but for a larger number of steps."""
    if not isinstance(kept, dict) or not isinstance(kept.get(STEPS), int) or not kept[STEPS] < run.get(STEPS, 0):
        return False
    return difference({**kept, STEPS: 0}, {**run, STEPS: 0}) is None


def cut_metrics(path: Path, steps: int) -> None:
    """Keep the lines of the steps that the checkpoint has done, each once; later ones will be written again.

    Raises:
        TrainingError: the line of such a step is missing.
    """
    rows = read_journal(path)
    last = {row.get("step"): row for row in rows}  # of two lines of one step the later one is the run's own
    missing = [step for step in range(1, steps + 1) if step not in last]
    if missing:
        raise TrainingError(
            f"'{path}' must hold the {steps} steps that '{CHECKPOINT}' has done, got none of step {missing[0]}; "
            f"put the file back as it was, or remove '{CHECKPOINT}' to start anew"
        )
    kept = [last[step] for step in range(1, steps + 1)]
    if kept != rows:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
