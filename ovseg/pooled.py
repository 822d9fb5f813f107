"""What a network knows of an image as a whole: one value of each channel."""

from __future__ import annotations

from torch import Tensor, nn


class Pooled(nn.Module):
    """The mean of each channel over the whole input, or its largest value.

    A layer of its own, so that whoever shows a network an image piece by piece can give all pieces one value.

    Args:
        largest: take the largest value instead of the mean.
        over: the axes of height and width.
    """

    def __init__(self, *, largest: bool = False, over: tuple[int, int] = (2, 3)) -> None:
        super().__init__()
        self.largest, self.over = largest, over

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, 1, 1), where channels come first."""
        return maps.amax(self.over, keepdim=True) if self.largest else maps.mean(self.over, keepdim=True)
