"""Maps of an image on the cells of its features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.images.geometry import ImageGeometry
from ovseg.pipeline.encoded import EncodedImage


def cell_shares(maps: Tensor, encoded: EncodedImage) -> Tensor:
    """Means of (M, H, W) maps of the image over the cells that show it: (M, h, w)."""
    geometry, stride = encoded.geometry, encoded.features.stride
    assert isinstance(geometry, ImageGeometry)
    resized = functional.interpolate(maps[None], size=geometry.resized, mode="area")
    edges = [-side % stride for side in geometry.resized]  # part of a cell beyond the image counts as its edge
    resized = functional.pad(resized, (0, edges[1], 0, edges[0]), mode="replicate")
    return functional.avg_pool2d(resized, stride)[0]


def cell_colours(encoded: EncodedImage) -> Tensor:
    """(3, h, w) mean colour in [0, 1] of the cells that show the image."""
    pixels = torch.tensor(encoded.image).permute(2, 0, 1).float() / 255
    return cell_shares(pixels, encoded)


def with_padding(shown: Tensor, encoded: EncodedImage) -> Tensor:
    """Maps (M, h, w) of the cells that show the image on all cells; those of the padding repeat the edge."""
    missing = [whole - part for whole, part in zip(encoded.features.grid, shown.shape[1:], strict=True)]
    return functional.pad(shown[None], (0, missing[1], 0, missing[0]), mode="replicate")[0]


def on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(M, h, w) maps on another grid of the same extent."""
    if (maps.shape[1], maps.shape[2]) == grid:
        return maps
    return functional.interpolate(maps[None].float(), size=grid, mode="bilinear", align_corners=False)[0]
