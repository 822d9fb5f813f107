"""The training loop: prepare, step, validate, save; resumes exactly, stops at the first loss that is no number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ovseg.files import atomic_path
from ovseg.training.checkpoint import BEST, CHECKPOINT, METRICS, State, TrainingError, append_log
from ovseg.training.config import TrainingConfig
from ovseg.training.schedule import Average, build_schedule, restore, trained

__all__ = ["BEST", "CHECKPOINT", "METRICS", "TrainingError", "train_steps"]
Validate = Callable[[], float]


def train_steps(
    task: nn.Module,
    config: TrainingConfig,
    out: Path,
    *,
    validate: Validate | None = None,
    accelerator: Accelerator | None = None,
) -> Iterator[tuple[int, float]]:
    """Train ``task`` and yield (step, loss) after every optimiser step.

    ``task(generator, count)`` returns the loss of ``count`` examples drawn with ``generator``;
    ``task.parameter_groups()`` says what is trained; ``task.drawn``, if there, names the last examples.
    A checkpoint in ``out`` is resumed: the losses that follow are those of a run that was never interrupted.
    When all steps are done the task has the running mean of its weights, where the schedule keeps one.

    Args:
        task: what is trained.
        config: the run.
        out: folder of checkpoints and metrics.
        validate: score of the task as it is, higher is better; the best weights are kept in ``best.pt``.
        accelerator: of this process; None makes one.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint belongs to another run.
    """
    schedule = config.schedule
    accelerator = accelerator or make_accelerator(config)
    torch.manual_seed(config.seed * 1000 + accelerator.process_index)  # of dropout
    generator = torch.Generator().manual_seed(config.seed * 1000 + accelerator.process_index)
    groups: list[dict[str, Any]] = task.parameter_groups()  # type: ignore[operator]
    optimizer = torch.optim.AdamW(groups)
    scheduler = build_schedule(optimizer, schedule)
    wrapped, optimizer = accelerator.prepare(task, optimizer)
    average = Average(task, schedule.ema) if schedule.ema else None
    state = State(task, optimizer, scheduler, average, generator)
    done = state.resume(out / CHECKPOINT, config=config, accelerator=accelerator)
    share = max(1, schedule.batch // accelerator.num_processes)
    for step in range(done + 1, schedule.steps + 1):
        task.train()
        loss = torch.zeros((), device=accelerator.device)
        for part in range(schedule.accumulate):
            with accelerator.accumulate(wrapped):
                value = wrapped(generator, share)
                _check_finite(value, task, step=step, batch=part + 1)
                accelerator.backward(value)
                if accelerator.sync_gradients:
                    parameters = [p for group in optimizer.param_groups for p in group["params"]]
                    accelerator.clip_grad_norm_(parameters, schedule.clip)
                optimizer.step()
                optimizer.zero_grad()
                loss += value.detach() / schedule.accumulate
        scheduler.step()
        if average is not None:
            average.update(task, step=step)
        mean = float(accelerator.reduce(loss, reduction="mean"))
        row = {"step": step, "loss": mean, "learning_rate": float(scheduler.get_last_lr()[0])}
        last = step == schedule.steps
        if validate is not None and config.validation and (last or step % config.validation.every == 0):
            row["score"] = _validate(state, validate, out, accelerator)
        if accelerator.is_main_process:
            append_log(out / METRICS, row)
        if last or step % config.save_every == 0:
            state.save(out / CHECKPOINT, step=step, config=config, accelerator=accelerator)
        yield step, mean
    if average is not None:
        restore(task, average.values)


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


def _validate(state: State, validate: Validate, out: Path, accelerator: Accelerator) -> float:
    """The score of the weights that would be kept; the best so far are written beside the last."""
    state.task.eval()
    kept = nullcontext() if state.average is None else state.average.applied(state.task)
    with kept:
        score = validate()
        if state.best is None or score > state.best:
            state.best = score
            if accelerator.is_main_process:
                with atomic_path(out / BEST) as temporary:
                    torch.save(trained(state.task), temporary)
    return score


def _check_finite(loss: Tensor, task: nn.Module, *, step: int, batch: int) -> None:
    if torch.isfinite(loss):
        return
    drawn = getattr(task, "drawn", "")
    seen = f" on {drawn}" if drawn else ""
    raise TrainingError(
        f"the loss of step {step} is {float(loss.detach())} (batch {batch}{seen}); training stopped and the last "
        "checkpoint is kept: lower schedule.learning_rate or look at the data of this step"
    )
