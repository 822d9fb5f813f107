"""This process among all of a run, and the rows of all; accelerate or torchrun start more than one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ovseg.evaluation.metrics.rows import ImageRow

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all of the run.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Join the run that a launcher started; with CUDA this also chooses this process's GPU."""
        import torch
        from accelerate import PartialState

        accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
        state = PartialState(cpu=not accelerated)  # without the hint accelerate stays alone on a CPU
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this one writes the files that are written once."""
        return self.rank == 0

    def share(self, indices: list[int]) -> list[int]:
        """Every ``count``-th index: by position alone, so that no index has two processes or none."""
        return indices[self.rank :: self.count]

    def gather(self, rows: dict[str, ImageRow]) -> dict[str, ImageRow]:
        """Every process's rows by name, in every process; an image counts once, however often it was done."""
        if self.count == 1:
            return rows
        from accelerate.utils import gather_object

        gathered = gather_object([row.to_dict() for row in rows.values()])
        return {values["name"]: ImageRow.from_dict(values) for values in gathered}

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the main process, in every process; the others do not call it."""
        if self.count == 1:
            return make()
        from accelerate.utils import gather_object

        made: list[T] = gather_object([make()] if self.is_main else [])
        return made[0]
