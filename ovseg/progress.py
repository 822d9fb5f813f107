"""The one progress bar: on standard error, with a note beside it, and nothing at all where none is wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ovseg.escape import one_line

Advance = Callable[..., None]
"""``advance(done=1, note=None)``: so many more are done, and what the bar says beside itself from now on. A note
may be a function; it is then called only when the bar is drawn again."""


def remark(sentence: str) -> None:
    """A line on standard error that begins with "note:"."""
    sys.stderr.write(f"note: {one_line(sentence)}\n")


_REFRESH = 0.5  # seconds between two notes that take time to make, such as a running score


@contextmanager
def progress_bar(title: str, *, total: int | None, shown: bool = True, done: int = 0) -> Iterator[Advance]:
    """A function to call after each piece of work; it moves the bar where one is ``shown``.

    Args:
        title: what is being done.
        total: pieces of work; None where their number is not known.
        shown: False for no bar.
        done: pieces that an earlier run did.
    """
    if not shown:
        yield lambda done=1, note=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    last = 0.0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(one_line(title), total=total, completed=done, note="")

        def advance(done: int = 1, note: str | Callable[[], str] | None = None) -> None:
            nonlocal last
            bar.advance(task, done)
            if note is not None and time.monotonic() - last > _REFRESH:
                last = time.monotonic()
                bar.update(task, note=one_line(note() if callable(note) else note))

        yield advance
