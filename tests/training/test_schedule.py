from __future__ import annotations

import pytest
import torch
from torch import nn

from ovseg.training.config import Schedule
from ovseg.training.schedule import apply_mean, averaged, rate_factor, running_mean, trained, trained_list


def test_the_rate_warms_up_and_falls() -> None:
    cosine = Schedule(steps=110, kind="cosine", warmup=10)
    rates = [rate_factor(step, cosine) for step in range(111)]
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5) and rates[110] == pytest.approx(0)
    poly = Schedule(steps=100, kind="poly", power=0.9)
    assert rate_factor(50, poly) == pytest.approx(0.5**0.9)


class Part(nn.Module):
    """A matrix, a number, and a vector that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 4))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        self.number = nn.Parameter(torch.tensor(2.0))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_running_mean_equals_a_loop_to_the_last_digit(decay: float) -> None:
    """mean ← mean + (1 − d) (weight − mean), d = min(decay, (1 + n) / (10 + n)), from the weights before step 1."""
    task = Part()
    mean = running_mean(task, decay)
    expected = {name: value.clone() for name, value in trained(task).items()}
    for step in range(1, 41):
        for weight in trained_list(task):
            weight.data += torch.randn(weight.shape)
        mean.update_parameters(trained_list(task))
        for name, value in trained(task).items():
            expected[name].lerp_(value, 1 - min(decay, (1 + step) / (10 + step)))
    own = {name: value.clone() for name, value in trained(task).items()}
    with averaged(task, mean):
        assert all(torch.equal(value, expected[name]) for name, value in trained(task).items())
    assert all(torch.equal(value, own[name]) for name, value in trained(task).items())
    apply_mean(task, mean)
    assert all(torch.equal(value, expected[name]) for name, value in trained(task).items())
    assert torch.equal(task.frozen, torch.ones(5)) and len(list(mean.parameters())) == 2


def test_without_a_mean_the_weights_stay_as_they_are() -> None:
    task = Part()
    before = task.matrix.clone()
    with averaged(task, None):
        assert torch.equal(task.matrix, before)
