"""How the values of an image file become red, green and blue: what a caller may say about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ovseg.errors import ImageError, TooLargeError

MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class Reading:
    """What a caller says about the values of an image; where nothing is said, the file is asked.

    Attributes:
        value_range: the values that are black and white, such as (0, 4095); what lies outside is clipped.
        bands: which band is red, green and blue, or the one that is grey, counted from 1.
        max_pixels: larger images are refused before they are decoded.
        check: called before an image is decoded, with its name and (H, W), to refuse it by an error of its own.

    Raises:
        ImageError: not two rising numbers, or not one or three bands.
    """

    value_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    max_pixels: int = MAX_PIXELS
    check: Callable[[str, tuple[int, int]], None] | None = None

    @classmethod
    def of(cls, value_range: Any = None, bands: Any = None, *, max_pixels: int = MAX_PIXELS) -> Reading:
        """From any sequences of numbers."""
        return cls(_tuple(value_range), _tuple(bands), max_pixels)

    def __post_init__(self) -> None:
        if self.value_range is not None and not _is_range(self.value_range):
            raise ImageError(
                f"a range must be two numbers, the lower first, such as 0,4095, got {_listed(self.value_range)}"
            )
        if self.bands is not None and not (
            len(self.bands) in {1, 3} and all(isinstance(band, int) and band >= 1 for band in self.bands)
        ):
            raise ImageError(
                "bands must be three whole numbers (red, green, blue) or one (grey), counted from 1, such as "
                f"3,2,1, got {_listed(self.bands)}"
            )

    def check_size(self, name: str, *, width: int, height: int) -> None:
        """Refuse an image that is too large.

        Raises:
            TooLargeError: it has more than ``max_pixels``.
            ImageError: ``check`` refuses it.
        """
        if width * height > self.max_pixels:
            raise TooLargeError(
                f"{name} has {width} x {height} pixels, more than the limit of {self.max_pixels}; shrink it, "
                f"or raise the limit with max_pixels={width * height} (--max-pixels on the command line)"
            )
        if self.check is not None:
            self.check(name, (height, width))

    @property
    def says(self) -> bool:
        """Whether anything is said about the values."""
        return self.value_range is not None or self.bands is not None

    def described(self) -> dict[str, str]:
        """What is said, as plain values by which a kept result is known; empty where nothing is."""
        said = {"range": self.value_range, "bands": self.bands}
        return {name: _listed(values) for name, values in said.items() if values is not None}


def _tuple(values: Any) -> tuple[Any, ...] | None:
    if values is None:
        return None
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return (values,)
    return tuple(getattr(value, "item", lambda value=value: value)() for value in values)  # also NumPy's numbers


def _is_range(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return len(values) == len(numbers) == 2 and numbers[0] < numbers[1]


def _listed(values: Sequence[Any]) -> str:
    return ",".join(f"{value:.10g}" if isinstance(value, float) else str(value) for value in values)
