"""Work for the workers of a Ray cluster, which are other processes and import it from here."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.errors import ModelError


@dataclass(frozen=True)
class Squares:
    """Squares of numbers; some numbers kill their worker.

    Attributes:
        folder: gets a file of each worker that opened.
        once: kills the first worker that gets it.
        always: kills each that gets it.
    """

    folder: Path
    once: int | None = None
    always: int | None = None

    def __call__(self) -> Callable[[list[int], bool], list[int]]:
        """Open a worker."""
        (self.folder / f"opened-{os.getpid()}").touch()
        return lambda numbers, again: [self.square(number) for number in numbers]

    def square(self, number: int) -> int:
        """``number`` squared, or the end of this process."""
        mark = self.folder / "killed"
        if number == self.always or (number == self.once and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2


def refused() -> Any:
    """A worker that cannot be opened."""
    raise ModelError("no model 'x'; see 'ovseg models'")


@dataclass(frozen=True)
class KilledOnce:
    """A command's work; the first worker to do a second piece is killed after that, before it can say so.

    Attributes:
        make: opens a worker.
        mark: file that says that it happened.
    """

    make: Callable[[], Callable[[list[Any], bool], list[Any]]]
    mark: Path

    def __call__(self) -> Callable[[list[Any], bool], list[Any]]:
        """Open a worker."""
        work, calls = self.make(), itertools.count(1)

        def once(items: list[Any], again: bool) -> list[Any]:
            answers = work(items, again)
            if next(calls) == 2 and not self.mark.exists():
                self.mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return answers

        return once
