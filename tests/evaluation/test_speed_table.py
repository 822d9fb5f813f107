"""``evaluation/peers/speed.py``: rounds in which each job runs once, and ratios within a round."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PEERS = Path(__file__).parents[2] / "evaluation" / "peers"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(PEERS))
    yield importlib.import_module("speed")


class Clock:
    """Time that passes only where a job says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_job_runs_once_in_a_round_and_a_slow_one_in_none_but_the_first(speed: ModuleType) -> None:
    clock, order = Clock(), []

    def job(name: str, seconds: float) -> None:
        order.append(name)
        clock.now += seconds * len(order)  # each is slower than the one before

    jobs = {name: (lambda name=name, seconds=each: job(name, seconds)) for name, each in (("a", 1), ("b", 10))}
    times = speed.rounds_of(jobs, rounds=2, clock=clock, slow=15)
    assert order == ["a", "b", "a", "a"]
    assert times == {"a": [3, 4], "b": [20]}


def test_a_figure_is_the_median_of_the_ratios_within_rounds(speed: ModuleType) -> None:
    table = speed.Table()
    bare, quick = list(speed.FIRST)[:2]
    call = next(iter(speed.CALLS))
    times = {bare: [2.0, 2.0, 3.0], quick: [1.0, 2.0, 4.0], call: [3.0, 4.0, 20.0], "once": [7.0]}
    table.add("clock", times, quick)
    assert table.rows[call] == {"clock": 3.0}  # of 3, 2 and 5
    assert table.rows["once"] == {"clock": 7.0} and table.rows[quick] == {"clock": 1.0}
    assert f"| {call} | – | 3.00 | – | – |" in str(table)


def test_the_best_is_the_quickest_of_the_bare_networks_alone(speed: ModuleType) -> None:
    first, second, third = speed.FIRST
    times = {first: [3.0, 1.0, 3.0], second: [2.0, 2.0, 9.0], third: [4.0, 4.0, 4.0], "a call": [0.1, 0.1, 0.1]}
    assert speed.best_of(times) == second


def test_every_job_has_its_row(speed: ModuleType) -> None:
    rows = [name for names in speed.GROUPS.values() for name in names]
    assert len(rows) == len(set(rows)) and set(speed.ALL) <= set(rows) and set(speed.ALONE) <= set(speed.ALL)
