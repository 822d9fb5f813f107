"""What those ask for who look at an encoded photo itself, and not at its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MadeT = TypeVar("MadeT")


class Photo(Protocol):
    """A photo that was encoded; what is made of it once is kept with it."""

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8, upright."""

    @property
    def pixels(self) -> Tensor:
        """The same as a tensor."""

    @property
    def device(self) -> torch.device:
        """Where its features are, and where further networks look at it."""

    def once(self, name: str, make: Callable[[], MadeT]) -> MadeT:
        """What ``make`` gives, made when it is first asked for; ``name`` says everything that decides it."""
