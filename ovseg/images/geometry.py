"""Sizes on the way from an image to an encoder's pixels and back; always (H, W), height first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ovseg.errors import ShapeError
from ovseg.tensors import check_shape

if TYPE_CHECKING:
    import torch

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[int, int, int, int]


class Geometry(Protocol):
    """How the cells of a map lie on the pixels of the image as it was given.

    A resized and padded image is one kind (``ImageGeometry``). A map whose rows and columns do not follow those of
    the image, such as the faces of a panorama, is another: it has to say where each pixel takes its value from.
    """

    @property
    def original(self) -> Size:
        """(H, W) of the image as it was given."""

    def shrunk(self, size: Size) -> Geometry:
        """The same for the image shrunk to ``size``."""

    def sample(self, maps: torch.Tensor, rows: slice, *, stride: float) -> torch.Tensor:
        """Maps (B, K, h, w) on ``rows`` of the image's pixels: (B, K, rows, W) float32.

        Every value is a mean of cells, with weights that add to 1.
        """

    def block(self, box: Box, *, stride: int) -> tuple[slice, slice]:
        """Rows and columns of the smallest block of cells that holds what a box of the image shows."""


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

    def shrunk(self, size: Size) -> ImageGeometry:
        """The same for the image shrunk to ``size``."""
        return replace(self, original=size)

    def sample(self, maps: torch.Tensor, rows: slice, *, stride: float) -> torch.Tensor:
        """Maps (B, K, h, w) on ``rows`` of the image's pixels, bilinear, pixel centres at half positions.

        Raises:
            ShapeError: (h, w) is not the padded size divided by ``stride``.
        """
        import torch

        h, w = (int(side // stride) for side in self.padded)
        check_shape("maps", maps, "B K h w", h=h, w=w)
        down, across = (self._centres(axis, like=maps) for axis in (0, 1))
        y, x = torch.meshgrid(down[rows], across, indexing="ij")
        grid = torch.stack([x, y], dim=-1).expand(maps.shape[0], -1, -1, -1)  # (B, rows, W, 2)
        return torch.nn.functional.grid_sample(
            maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )

    def block(self, box: Box, *, stride: int) -> tuple[slice, slice]:
        """Rows and columns of the cells that a box touches; never empty.

        Args:
            box: top, left, bottom, right in pixels of the original image; bottom and right are not included.
            stride: pixels of the padded image per cell.

        Raises:
            ShapeError: the box is empty or not inside the image.
        """
        top, left, bottom, right = box
        height, width = self.original
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ShapeError(f"box must be top, left, bottom, right inside {height} x {width} pixels, got {box}")
        sides = zip(((top, bottom), (left, right)), self.original, self.resized, strict=True)
        rows, columns = (
            # whole numbers: a quotient of floats may end just above a cell's border
            slice(
                first * new // (old * stride),
                max(-(-last * new // (old * stride)), first * new // (old * stride) + 1),
            )
            for (first, last), old, new in sides
        )
        return rows, columns

    def _centres(self, axis: int, *, like: torch.Tensor) -> torch.Tensor:
        """Centres of the original pixels along an axis, in the [-1, 1] coordinates of the padded side."""
        import torch

        original, resized, padded = self.original[axis], self.resized[axis], self.padded[axis]
        centres = (torch.arange(original, device=like.device, dtype=torch.float32) + 0.5) * (resized / original)
        return centres * (2 / padded) - 1


def interpolation_matrix(length: int, cells: int, *, cells_per_pixel: float, device: torch.device) -> torch.Tensor:
    """Linear interpolation along one axis, pixel centres aligned (``align_corners=False``).

    Args:
        length: number of pixels.
        cells: number of cells.
        cells_per_pixel: cells that one pixel spans.
        device: where to make it.

    Returns:
        (length, cells) float32; rows add to 1, at most two entries each.
    """
    import torch

    position = (torch.arange(length, device=device, dtype=torch.float64) + 0.5) * cells_per_pixel - 0.5
    position = position.clamp(0, cells - 1)
    lower = position.floor().long().clamp(max=max(cells - 2, 0))
    weight = (position - lower).float()
    matrix = torch.zeros(length, cells, device=device)
    rows = torch.arange(length, device=device)
    matrix[rows, lower] = 1 - weight
    if cells > 1:
        matrix[rows, lower + 1] = weight
    return matrix


def check_size(name: str, size: Size) -> None:
    """Refuse a size that is not two whole numbers of at least 1."""
    if len(size) != 2 or any(isinstance(side, bool) or int(side) != side or side < 1 for side in size):
        raise ShapeError(f"{name} must be two whole numbers of at least 1, got {size}")
