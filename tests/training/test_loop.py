from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import losses
from torch import Tensor, nn

from ovseg.journal import read_journal
from ovseg.training.checkpoint import CHECKPOINT, METRICS, TrainingError
from ovseg.training.config import Schedule, TrainingConfig
from ovseg.training.loop import train_steps
from ovseg.training.recipe import Task


class Toy(Task):
    """A line fitted to noisy points, with dropout-like noise drawn from the run's generator."""

    def __init__(self, *, broken_from: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.calls = 0
        self.broken_from = broken_from

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        inputs = torch.randn(count, 4, generator=generator)
        targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        loss = (inputs @ self.weight - targets).square().mean()
        self.calls += 1
        broken = self.broken_from is not None and self.calls >= self.broken_from
        return loss * float("nan") if broken else loss

    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": [self.weight], "lr": 0.3, "weight_decay": 0.0}]


def settings(path: Path, **values: Any) -> TrainingConfig:
    schedule = Schedule(**{"steps": 20, "batch": 16, **values.pop("schedule", {})})
    return TrainingConfig(**{"recipe": "toy", "save_every": 5, "schedule": schedule, "out": path / "run", **values})


def test_training_lowers_the_loss_and_writes_it_down(tmp_path: Path) -> None:
    done = list(train_steps(Toy(), settings(tmp_path), tmp_path))
    assert [step for step, _ in done] == list(range(1, 21))
    assert done[-1][1] < done[0][1] / 10
    assert losses(tmp_path) == pytest.approx([loss for _, loss in done])


def test_a_finished_task_has_the_running_mean_of_its_weights(tmp_path: Path) -> None:
    task, decay, mean = Toy(), 0.9, torch.zeros(4)
    for step, _ in train_steps(task, settings(tmp_path, schedule={"ema": decay}), tmp_path):
        share = min(decay, (1 + step) / (10 + step))
        mean = share * mean + (1 - share) * task.weight.detach()
        last = task.weight.detach().clone()
    torch.testing.assert_close(task.weight.detach(), mean)
    assert not torch.allclose(mean, last)
    assert torch.equal(task.frozen, torch.ones(4))


@pytest.mark.parametrize("stopped_after", [5, 7, 13])
def test_a_resumed_run_has_the_losses_of_an_undisturbed_one(tmp_path: Path, stopped_after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = settings(tmp_path)
    undisturbed = list(train_steps(Toy(), config, whole))
    for step, _ in train_steps(Toy(), config, parts):
        if step == stopped_after:
            break
    task = Toy()
    resumed = list(train_steps(task, config, parts))
    assert resumed[0][0] == stopped_after // 5 * 5 + 1
    assert resumed == undisturbed[resumed[0][0] - 1 :]
    assert losses(parts) == losses(whole)
    assert torch.equal(task.frozen, torch.ones(4))


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    list(train_steps(Toy(), settings(tmp_path), tmp_path))
    assert list(train_steps(Toy(), settings(tmp_path), tmp_path)) == []


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step 8 is nan \(batch 1\); .*last checkpoint is kept"):
        list(train_steps(Toy(broken_from=8), settings(tmp_path), tmp_path))
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == 5
    assert all(torch.isfinite(value).all() for value in state["task"].values())
    resumed = list(train_steps(Toy(), settings(tmp_path), tmp_path))
    assert resumed[0][0] == 6 and len(losses(tmp_path)) == 20


def test_the_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    list(train_steps(Toy(), settings(tmp_path), tmp_path))
    told = r"last.pt' is of another run: seed 0 before and 1 now; choose another out folder"
    with pytest.raises(TrainingError, match=told):
        list(train_steps(Toy(), settings(tmp_path, seed=1), tmp_path))


def test_where_a_run_keeps_its_files_makes_it_no_other_run(tmp_path: Path) -> None:
    list(train_steps(Toy(), settings(tmp_path), tmp_path))
    moved = settings(tmp_path, out=tmp_path / "moved", features=tmp_path / "shared", save_every=7)
    assert list(train_steps(Toy(), moved, tmp_path)) == []


def test_a_run_killed_before_its_first_checkpoint_writes_no_step_twice(tmp_path: Path) -> None:
    for step, _ in train_steps(Toy(), settings(tmp_path), tmp_path):
        if step == 3:
            break
    with open(tmp_path / METRICS, "a") as stream:
        stream.write('{"step": 4, "lo')  # killed while writing
    list(train_steps(Toy(), settings(tmp_path), tmp_path))
    assert [row["step"] for row in read_journal(tmp_path / METRICS)] == list(range(1, 21))


def test_two_half_batches_give_the_gradient_of_their_mean(tmp_path: Path) -> None:
    config = settings(tmp_path, schedule={"accumulate": 2, "steps": 3})
    done = list(train_steps(Toy(), config, tmp_path))
    assert len(done) == 3 and all(np.isfinite(loss) for _, loss in done)
