"""The training loop: data, prepare, step, save; resumes exactly, stops at the first loss that is not a number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ovseg.errors import OvsegError
from ovseg.files import atomic_path
from ovseg.training.config import TrainingConfig

CHECKPOINT = "last.pt"
METRICS = "metrics.jsonl"


class TrainingError(OvsegError):
    """Training cannot go on; the last good checkpoint is kept."""


def train_steps(task: nn.Module, config: TrainingConfig, out: Path) -> Iterator[tuple[int, float]]:
    """Train ``task`` and yield (step, loss) after every optimiser step.

    ``task(generator, count)`` returns the loss of ``count`` examples drawn with ``generator``;
    ``task.parameter_groups()`` says what is trained. A checkpoint in ``out`` is resumed: the losses that follow
    are those of a run that was never interrupted.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint belongs to another run.
    """
    schedule = config.schedule
    accelerator = Accelerator(
        mixed_precision=schedule.mixed_precision, gradient_accumulation_steps=schedule.accumulate
    )
    groups: list[dict[str, Any]] = task.parameter_groups()  # type: ignore[operator]
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[group["lr"] for group in groups], total_steps=schedule.steps
    )
    task, optimizer = accelerator.prepare(task, optimizer)
    generator = torch.Generator().manual_seed(config.seed * 1000 + accelerator.process_index)
    done = _resume(accelerator.unwrap_model(task), optimizer, scheduler, generator, out / CHECKPOINT, config)
    share = max(1, schedule.batch // accelerator.num_processes)
    for step in range(done, schedule.steps):
        task.train()
        loss = torch.zeros((), device=accelerator.device)
        for _ in range(schedule.accumulate):
            with accelerator.accumulate(task):
                part = task(generator, share)
                _check_finite(part, step)
                accelerator.backward(part)
                if accelerator.sync_gradients:
                    parameters = [p for group in optimizer.param_groups for p in group["params"]]
                    accelerator.clip_grad_norm_(parameters, schedule.clip)
                optimizer.step()
                optimizer.zero_grad()
                loss += part.detach() / schedule.accumulate
        scheduler.step()
        mean = float(accelerator.reduce(loss, reduction="mean"))
        if accelerator.is_main_process:
            _log(out / METRICS, step + 1, mean, float(scheduler.get_last_lr()[0]))
            if (step + 1) % config.save_every == 0 or step + 1 == schedule.steps:
                _save(accelerator.unwrap_model(task), optimizer, scheduler, generator, out, step + 1, config)
        yield step + 1, mean


def _check_finite(loss: torch.Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss of step {step + 1} is {float(loss.detach())}; training stopped and the last checkpoint is "
            "kept: lower schedule.learning_rate or look at the data of this step"
        )


def _trained(task: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in task.named_parameters()}


def _save(
    task: nn.Module,
    optimizer: Any,
    scheduler: Any,
    generator: torch.Generator,
    out: Path,
    step: int,
    config: Any,
) -> None:
    state = {
        "step": step,
        "config": config.model_dump_json(),
        "task": _trained(task),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "generator": generator.get_state(),
    }
    with atomic_path(out / CHECKPOINT) as path:
        torch.save(state, path)


def _resume(
    task: nn.Module,
    optimizer: Any,
    scheduler: Any,
    generator: torch.Generator,
    path: Path,
    config: TrainingConfig,
) -> int:
    """Load the checkpoint, if there is one, and return the number of steps done."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    if state["config"] != config.model_dump_json():
        raise TrainingError(
            f"'{path}' is a checkpoint of another configuration; choose another out folder or remove it"
        )
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            parameter.copy_(state["task"][name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    generator.set_state(state["generator"])
    _cut_log(path.with_name(METRICS), state["step"])
    return int(state["step"])


def _log(path: Path, step: int, loss: float, rate: float) -> None:
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step, "loss": loss, "learning_rate": rate}) + "\n")


def _cut_log(path: Path, steps: int) -> None:
    """Drop the lines after the checkpoint, which will be written again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
