"""The training loop: prepare, step, validate, save; resumes exactly, stops at the first loss that is no number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ovseg.files import atomic_path
from ovseg.journal import Journal
from ovseg.training.checkpoint import BEST, CHECKPOINT, METRICS, State, TrainingError, settings_of
from ovseg.training.config import Schedule, TrainingConfig
from ovseg.training.recipe import Task
from ovseg.training.schedule import apply_mean, averaged, build_schedule, running_mean, trained, trained_list

Validate = Callable[[], float]


def train_steps(
    task: Task,
    config: TrainingConfig,
    out: Path,
    *,
    run: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    accelerator: Accelerator | None = None,
) -> Iterator[tuple[int, float]]:
    """Train ``task`` and yield (step, loss) after every optimiser step.

    A checkpoint in ``out`` is resumed: the losses that follow are those of a run that was never interrupted. From
    that of a finished run with fewer steps it goes on with the learning rates of the new number of steps.
    When all steps are done the task has the running mean of its weights, where the schedule keeps one.

    Args:
        task: what is trained.
        config: the run.
        out: folder of checkpoints and metrics.
        run: what decides the result, as plain values; None takes the settings alone.
        validate: score of the task as it is, higher is better; the best weights are kept in ``best.pt``.
        accelerator: of this process; None makes one.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint belongs to another run.
    """
    schedule = config.schedule
    accelerator = accelerator or make_accelerator(config)
    torch.manual_seed(config.seed * 1000 + accelerator.process_index)  # of dropout
    generator = torch.Generator().manual_seed(config.seed * 1000 + accelerator.process_index)
    optimizer = torch.optim.AdamW(task.parameter_groups())
    scheduler = build_schedule(optimizer, schedule)
    wrapped, optimizer = accelerator.prepare(task, optimizer)
    mean = running_mean(task, schedule.ema) if schedule.ema else None
    state = State(
        task,
        optimizer=optimizer,
        scheduler=scheduler,
        mean=mean,
        generator=generator,
        run=settings_of(config) if run is None else run,
    )
    done = state.resume(out / CHECKPOINT, accelerator=accelerator)
    with Journal(out / METRICS) as journal:
        for step in range(done + 1, schedule.steps + 1):
            task.progress = (step - 1) / schedule.steps
            loss = _optimise(state, wrapped, schedule, accelerator, step=step)
            total = float(accelerator.reduce(loss, reduction="mean"))
            row = {"step": step, "loss": total, "learning_rate": float(scheduler.get_last_lr()[0])}
            last = step == schedule.steps
            if validate is not None and config.validation and (last or step % config.validation.every == 0):
                row["score"] = _validate(state, validate, out, accelerator)
            if accelerator.is_main_process:
                journal.append(row)
            if last or step % config.save_every == 0:
                journal.sync()  # a checkpoint never has a step that the metrics lack, even after a power cut
                state.save(out / CHECKPOINT, step=step, accelerator=accelerator)
            yield step, total
    if mean is not None:
        apply_mean(task, mean)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator of a run; on a machine without GPU, processes that a launcher started meet over gloo."""
    from accelerate import PartialState

    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    PartialState(cpu=not accelerated)  # without the hint accelerate stays alone on a CPU
    schedule = config.schedule
    return Accelerator(
        cpu=not accelerated,
        mixed_precision=schedule.mixed_precision,
        gradient_accumulation_steps=schedule.accumulate,
    )


def _optimise(state: State, wrapped: Any, schedule: Schedule, accelerator: Accelerator, *, step: int) -> Tensor:
    """One step of optimiser, learning rate and running mean; returns the mean loss of its batches."""
    state.task.train()
    loss = torch.zeros((), device=accelerator.device)
    share = max(1, schedule.batch // accelerator.num_processes)
    for part in range(schedule.accumulate):
        with accelerator.accumulate(wrapped):
            value = wrapped(state.generator, share)
            _check_finite(value, state.task, step=step, batch=part + 1)
            accelerator.backward(value)
            if accelerator.sync_gradients:
                parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
                accelerator.clip_grad_norm_(parameters, schedule.clip)
            state.optimizer.step()
            state.optimizer.zero_grad()
            loss += value.detach() / schedule.accumulate
    state.scheduler.step()
    if state.mean is not None:
        state.mean.update_parameters(trained_list(state.task))
    return loss


def _validate(state: State, validate: Validate, out: Path, accelerator: Accelerator) -> float:
    """The score of the weights that would be kept; the best so far are written beside the last."""
    state.task.eval()
    with averaged(state.task, state.mean):
        score = validate()
        if math.isnan(score):  # nothing is better or worse than it, so the first weights would be kept for the best
            raise TrainingError("the validation has no score: no pixel of its images counts; look at its masks")
        if state.best is None or score > state.best:
            state.best = score
            if accelerator.is_main_process:
                with atomic_path(out / BEST) as temporary:
                    torch.save(trained(state.task), temporary)
    return score


def _check_finite(loss: Tensor, task: Task, *, step: int, batch: int) -> None:
    if torch.isfinite(loss):
        return
    seen = f" on {task.drawn}" if task.drawn else ""
    raise TrainingError(
        f"the loss of step {step} is {float(loss.detach())} (batch {batch}{seen}); training stopped and the last "
        "checkpoint is kept: lower schedule.learning_rate or look at the data of this step"
    )
