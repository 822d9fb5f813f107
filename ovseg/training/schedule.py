"""Learning rates over time; the trained weights, kept, put back and averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ovseg.training.config import Schedule


def build_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule) -> Any:
    """The scheduler of a run; ``step()`` once per optimiser step."""
    if schedule.kind == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=schedule.steps)
    return lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, schedule))


def move_to(scheduler: Any, done: int) -> None:
    """Give the optimiser the rates that a fresh ``scheduler`` has after ``done`` steps.

    The rates of all steps depend on their total number; of one that is raised, the steps to come have those of the
    new total, whatever the steps before had.
    """
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": done - 1, "_step_count": done + 1})
    scheduler.step()


def rate_factor(step: int, schedule: Schedule) -> float:
    """Share of the largest learning rate at ``step`` (from 0), in [0, 1].

    Linear over the warm-up; then with t in [0, 1) over the rest, (1 + cos πt)/2 or (1 − t)^power.
    """
    if step < schedule.warmup:
        return (step + 1) / (schedule.warmup + 1)
    time = min(1.0, (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup))
    if schedule.kind == "poly":
        return float((1 - time) ** schedule.power)
    return 0.5 * (1 + math.cos(math.pi * time))


def trained(task: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by name."""
    return {name: value.detach() for name, value in task.named_parameters() if value.requires_grad}


@torch.no_grad()
def restore(task: nn.Module, values: dict[str, Tensor]) -> None:
    """Put back what ``trained`` returned."""
    for name, value in trained(task).items():
        value.copy_(values[name])


def running_mean(task: nn.Module, decay: float) -> AveragedModel:
    """The running mean of the trained weights: mean ← decay · mean + (1 − decay) · weight, at every update.

    Source: Polyak and Juditsky, 1992; the first updates use a smaller decay, (1 + n)/(10 + n).
    """

    def update(means: Any, weights: Any, count: Any) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(now)(means, weights, count)  # type: ignore[no-untyped-call]

    mean = AveragedModel(trained_list(task), multi_avg_fn=update)
    mean.update_parameters(trained_list(task))  # the first update only copies: the mean starts where training does
    return mean


def trained_list(task: nn.Module) -> nn.ParameterList:
    """The trained weights alone, so that no copy is made of the frozen ones."""
    return nn.ParameterList(weight for weight in task.parameters() if weight.requires_grad)


@contextmanager
def averaged(task: nn.Module, mean: AveragedModel | None) -> Iterator[None]:
    """Inside the block the task has the averaged weights, where there are any."""
    if mean is None:
        yield
        return
    own = {name: value.clone() for name, value in trained(task).items()}
    apply_mean(task, mean)
    try:
        yield
    finally:
        restore(task, own)


def apply_mean(task: nn.Module, mean: AveragedModel) -> None:
    """Give the task the averaged weights."""
    restore(task, dict(zip(trained(task), mean.module.parameters(), strict=True)))
