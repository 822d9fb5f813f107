"""Work for the workers of a Ray cluster, which are other processes and import it from here."""

from __future__ import annotations

import os
import signal
import threading
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

    def __call__(self) -> Callable[[list[int]], list[int]]:
        """Open a worker."""
        (self.folder / f"opened-{os.getpid()}").touch()
        return lambda numbers: [self.square(number) for number in numbers]

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
    """A command's work, whose first worker is killed as soon as there are ``after`` files of ``pattern``."""

    make: Callable[[], Callable[[list[Any]], list[Any]]]
    folder: Path
    pattern: str
    mark: Path
    after: int = 1

    def __call__(self) -> Callable[[list[Any]], list[Any]]:
        """Open a worker; the first one also gets its killer."""
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return self.make()
        threading.Thread(target=self._kill, daemon=True).start()
        return self.make()

    def _kill(self) -> None:
        while len(list(self.folder.rglob(self.pattern))) < self.after:
            threading.Event().wait(0.005)
        self.mark.with_suffix(".done").touch()
        os.kill(os.getpid(), signal.SIGKILL)
