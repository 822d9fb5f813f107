"""Learning rates over time; the trained weights, put back and averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from ovseg.training.config import Schedule


def build_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule) -> Any:
    """The scheduler of a run; ``step()`` once per optimiser step."""
    if schedule.kind == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=schedule.steps)
    return lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, schedule))


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


class Average:
    """Running mean of the trained weights: mean ← decay · mean + (1 − decay) · weight, after every step.

    Source: Polyak and Juditsky, 1992; the first steps use a smaller decay, (1 + n)/(10 + n).
    """

    def __init__(self, task: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = _copied(task)

    def update(self, task: nn.Module, *, step: int) -> None:
        """Take in the weights after ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in trained(task).items():
            self.values[name].lerp_(value, 1 - decay)

    @contextmanager
    def applied(self, task: nn.Module) -> Iterator[None]:
        """Inside the block the task has the averaged weights."""
        own = _copied(task)
        restore(task, self.values)
        try:
            yield
        finally:
            restore(task, own)


def _copied(task: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trained(task).items()}
