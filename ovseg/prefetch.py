"""Work done in threads, a little ahead of the one who needs it, and taken in portions."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
DoneT = TypeVar("DoneT")


def prefetch(
    function: Callable[[ItemT], DoneT],
    items: Iterable[ItemT],
    *,
    ahead: int = 1,
    workers: int = 1,
    begin: Callable[[], object] | None = None,
) -> Generator[DoneT, None, None]:
    """``function`` of every item, in order; while the caller works on one, the next are computed in threads.

    Closing it waits until the threads have ended: what an error leaves open may otherwise go on for a while.

    Args:
        function: what is done; an error is raised when the turn of its item comes.
        items: taken one by one, never more than ``ahead`` + 1 before their turn.
        ahead: how many results may wait.
        workers: how many threads.
        begin: called once in each of them, before anything else.

    >>> list(prefetch(str.upper, ["a", "b", "c"]))
    ['A', 'B', 'C']
    """
    source = iter(items)
    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        waiting: deque[Future[DoneT]] = deque()
        for item in itertools.islice(source, ahead + 1):
            waiting.append(pool.submit(function, item))
        try:
            while waiting:
                done = waiting.popleft().result()
                for item in itertools.islice(source, 1):
                    waiting.append(pool.submit(function, item))
                yield done
        finally:  # the caller stopped early, or an item failed: what has not begun is not done
            for future in waiting:
                future.cancel()


def chunks(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Lists of ``size`` items that follow each other; the last may be shorter.

    >>> list(chunks([1, 2, 3], 2))
    [[1, 2], [3]]
    """
    source = iter(items)
    while some := list(itertools.islice(source, size)):
        yield some
