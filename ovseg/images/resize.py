"""Pixels for an encoder, and maps brought back to the size of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.errors import ShapeError
from ovseg.images.geometry import Geometry, ImageGeometry, Size, check_size

if TYPE_CHECKING:
    import torch


_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
OPENCV = "opencv"  # bilinear without antialiasing, rounded to 8 bits


class Preprocessing(Protocol):
    """What an encoder wants of its pixels; every encoder's specification has these attributes."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each RGB channel, in [0, 1]."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of each RGB channel, in units of [0, 1]."""

    @property
    def interpolation(self) -> str:
        """``"bilinear"`` or ``"bicubic"``, both with antialiasing, or ``"opencv"``."""

    @property
    def stride(self) -> int:
        """Pixels per feature cell; the padded height and width are multiples of it."""


@dataclass(frozen=True)
class Plain:
    """Preprocessing of a picture that stays one: values in [0, 1], no normalisation, no padding."""

    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stride: int = 1


def working_size(original: Size, *, short_side: int, max_long_side: int | None, stride: int) -> Size:
    """The size to resize an image to: its ratio kept, its sides multiples of ``stride``.

    Args:
        original: (H, W) of the image.
        short_side: wanted length of the shorter side, in pixels.
        max_long_side: upper limit of the longer side, which wins over ``short_side``; None for no limit.
        stride: each side is rounded to a multiple of this, and is at least this.

    Raises:
        ShapeError: a size is not positive.
    """
    check_size("original", original)
    check_size("short_side and stride", (short_side, stride))
    check_size("max_long_side and stride", (max_long_side or stride, stride))
    scale = short_side / min(original)
    if max_long_side is not None:
        scale = min(scale, max_long_side / max(original))
    height, width = (_to_multiple(side * scale, stride, limit=max_long_side) for side in original)
    return height, width


def prepare(image: npt.NDArray[np.uint8], spec: Preprocessing, *, size: Size) -> tuple[torch.Tensor, ImageGeometry]:
    """The image as an encoder's pixels, and the record of how to undo it.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: the encoder's preprocessing.
        size: (H, W) to resize to, with antialiasing.

    Returns:
        (1, 3, Hp, Wp) float32, normalised by mean and standard deviation, padded at the bottom and right with
        0 (the mean colour) to multiples of ``spec.stride``; and the geometry.

    Raises:
        ShapeError: the image is not (H, W, 3) uint8, or ``size`` or the interpolation cannot be used.
    """
    import torch

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}; use load_image first")
    check_size("size", size)
    resized = _resize(image, size, interpolation=spec.interpolation)
    pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].float().div_(255)  # (1, 3, H, W)
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1)
    bottom, right = -size[0] % spec.stride, -size[1] % spec.stride
    padded = torch.nn.functional.pad(pixels.sub_(mean).div_(std), (0, right, 0, bottom))
    height, width = image.shape[:2]
    geometry = ImageGeometry((height, width), size, (size[0] + bottom, size[1] + right))
    return padded, geometry


def restore(maps: torch.Tensor, geometry: Geometry, *, stride: float) -> torch.Tensor:
    """Coarse maps at the size of the original image, without the padding.

    One bilinear interpolation (pixel centres at half positions) from cells to original pixels; without
    padding and resizing it equals ``interpolate(mode="bilinear", align_corners=False)``.

    Args:
        maps: (B, L, h, w) floating point, one cell per ``stride`` pixels of the padded image.
        geometry: as returned by ``prepare``.
        stride: pixels of the padded image per cell.

    Returns:
        (B, L, H, W) float32 of the original (H, W).

    Raises:
        ShapeError: (h, w) is not the padded size divided by ``stride``.
    """
    return geometry.sample(maps, slice(0, geometry.original[0]), stride=stride)


def _resize(image: npt.NDArray[np.uint8], size: Size, *, interpolation: str) -> npt.NDArray[np.uint8]:
    if interpolation not in {*_RESAMPLING, OPENCV}:
        known = ", ".join([*_RESAMPLING, OPENCV])
        raise ShapeError(f"interpolation must be one of {known}, got '{interpolation}'")
    if image.shape[:2] == size:
        return image.copy()
    if interpolation == OPENCV:
        return _resize_plainly(image, size)
    resized = Image.fromarray(image).resize((size[1], size[0]), _RESAMPLING[interpolation])
    return np.array(resized)


def _resize_plainly(image: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """Bilinear between the four nearest pixels; OpenCV's own 8-bit arithmetic may differ by one."""
    import torch

    maps = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    plain: npt.NDArray[np.uint8] = resized[0].round().to(torch.uint8).permute(1, 2, 0).numpy()
    return plain


def exact_size(original: Size, *, short_side: int, max_long_side: int) -> Size:
    """The size to resize an image to, its ratio kept to the pixel, as mmcv's Resize has it.

    Args:
        original: (H, W) of the image.
        short_side: wanted length of the shorter side, in pixels.
        max_long_side: upper limit of the longer side, which wins over ``short_side``.

    Raises:
        ShapeError: a size is not positive.
    """
    check_size("original", original)
    check_size("short_side and max_long_side", (short_side, max_long_side))
    factor = min(max_long_side / max(original), short_side / min(original))
    height, width = (max(1, int(side * factor + 0.5)) for side in original)
    return height, width


def _to_multiple(length: float, stride: int, *, limit: int | None) -> int:
    cells = round(length / stride)
    if limit is not None:
        cells = min(cells, limit // stride)
    return max(1, cells) * stride
