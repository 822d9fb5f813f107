"""Sizes on the way from an image to an encoder's pixels and back; always (H, W), height first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ovseg.errors import ShapeError

Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class ImageGeometry:
    """How an image became the pixels of an encoder; all sizes (H, W) in pixels.

    Attributes:
        original: size of the image as it was given.
        resized: size after resizing, without the padding.
        padded: size of the encoder's pixels; the padding is at the bottom and right.

    Raises:
        ShapeError: a size is not positive, or ``padded`` is smaller than ``resized``.
    """

    original: Size
    resized: Size
    padded: Size

    def __post_init__(self) -> None:
        for name in ("original", "resized", "padded"):
            check_size(name, getattr(self, name))
        if self.padded[0] < self.resized[0] or self.padded[1] < self.resized[1]:
            raise ShapeError(
                f"padded must be at least resized {self.resized}, got {self.padded}; "
                f"padding is added at the bottom and right"
            )


def check_size(name: str, size: Size) -> None:
    """Refuse a size that is not two whole numbers of at least 1."""
    if len(size) != 2 or any(isinstance(side, bool) or int(side) != side or side < 1 for side in size):
        raise ShapeError(f"{name} must be two whole numbers of at least 1, got {size}")
