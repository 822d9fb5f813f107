"""Proposals: places where an object may be, and what is known of it before it has a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.tensors import check_shape

LEAST_SCORE = 0.04
"""Probability of its likeliest class below which a box shows nothing."""


@dataclass(frozen=True)
class Proposals:
    """n boxes of one image.

    Attributes:
        boxes: (n, 4) float32, x0, y0, x1, y1 in pixels of the image, inside it.
        classes: (n, C) probabilities of the proposer's own classes, in [0, 1]; they need not add to 1.
    """

    boxes: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        check_shape("boxes", self.boxes, "n 4")
        check_shape("classes", self.classes, "n C", n=len(self.boxes))

    @classmethod
    def placed(
        cls, boxes: Tensor, classes: Tensor, *, seen: tuple[float, float], size: tuple[int, int]
    ) -> Proposals:
        """What a network found, at its place in the image; boxes that show nothing are dropped.

        Args:
            boxes: (n, 4) x0, y0, x1, y1 in any unit.
            classes: (n, C) as above.
            seen: height and width of what the network saw, in that unit.
            size: (H, W) of the image.
        """
        likely = classes.amax(1) > LEAST_SCORE
        (rows, columns), (height, width) = seen, size
        scale = torch.tensor([width / columns, height / rows] * 2)
        found = (boxes[likely].float().cpu() * scale).clamp_min(0)
        return cls(found.minimum(torch.tensor([width, height] * 2)), classes[likely].float().cpu())


class Detector(Protocol):
    """A frozen network that proposes objects of classes of its own."""

    def propose(self, image: npt.NDArray[np.uint8], *, closer: bool = True) -> Proposals:
        """The objects that an image may show; near copies are not dropped.

        Args:
            image: (H, W, 3) uint8 RGB.
            closer: also look at a larger copy of it, for small objects.
        """


@runtime_checkable
class NamesClasses(Protocol):
    """A head whose queries say how far they are a detector's classes."""

    def detector_classes(self, queries: Tensor) -> Tensor:
        """(Q, D) vectors in the joint space to (Q, C): what share of each class a query is, at most 1 in all."""
