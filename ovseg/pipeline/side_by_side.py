"""Photos side by side on a processor: a photo needs no other, and threads that share one mostly wait."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TypeVar

import torch

from ovseg.prefetch import prefetch

ItemT = TypeVar("ItemT")
DoneT = TypeVar("DoneT")

_MOST = 4  # photos at once, so that memory stays bounded on processors with many cores


def side_by_side(function: Callable[[ItemT], DoneT], items: Iterable[ItemT]) -> Generator[DoneT, None, None]:
    """``function`` of every item, in order, up to four at once, which share torch's threads.

    Args:
        function: what is done, by torch on the processor; an error is raised when the turn of its item comes.
        items: taken one by one, a few before their turn.
    """
    threads = torch.get_num_threads()
    workers = min(threads, _MOST)
    begin = partial(torch.set_num_threads, threads // workers)
    try:
        yield from prefetch(function, items, ahead=workers, workers=workers, begin=begin)
    finally:  # what a thread sets also holds for threads that begin later
        torch.set_num_threads(threads)
