from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from helpers.threads import torch_threads

from ovseg.pipeline.side_by_side import side_by_side


@pytest.fixture
def four_threads() -> Iterator[None]:
    with torch_threads(4):
        yield


def test_photos_share_the_threads_and_come_in_order(four_threads: None) -> None:
    together = threading.Barrier(4, timeout=10)  # passed only where four are at work at once

    def work(number: int) -> tuple[int, int]:
        if number < 4:
            together.wait()
        return number, torch.get_num_threads()

    assert list(side_by_side(work, range(9))) == [(number, 1) for number in range(9)]
    assert torch.get_num_threads() == 4


def test_with_more_threads_each_photo_has_several(four_threads: None) -> None:
    torch.set_num_threads(9)
    assert list(side_by_side(lambda _: torch.get_num_threads(), range(3))) == [2, 2, 2]


def test_an_error_comes_at_its_turn_and_the_threads_are_given_back(four_threads: None) -> None:
    done = []
    with pytest.raises(ZeroDivisionError):
        for value in side_by_side(lambda number: 6 // (2 - number), range(20)):
            done.append(value)
    assert done == [3, 6] and torch.get_num_threads() == 4


def test_it_stops_early(four_threads: None) -> None:
    taken: list[int] = []
    running = side_by_side(lambda number: taken.append(number), range(1000))
    next(running)
    running.close()
    assert len(taken) < 20 and torch.get_num_threads() == 4
