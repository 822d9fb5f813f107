"""Cells of an image's frozen features, the class that each shows, and the directions in which they vary most."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ovseg.models.model import Model
from ovseg.training.features import encoder_pixels


def cell_features(
    model: Model, image: NDArray[np.uint8], *, size: tuple[int, int] | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """Frozen features of one image: (h·w, C) float32 and the grid (h, w).

    Args:
        model: its image encoder runs.
        image: (H, W, 3) uint8.
        size: (H, W) to run at; None follows the model file.
    """
    pixels = encoder_pixels(model, image, size=size)
    with torch.inference_mode():
        dense = model.image.dense(pixels)
    return dense.values[0].flatten(1).T.float(), dense.grid


def cell_classes(truth: Tensor, grid: tuple[int, int], *, classes: int, coverage: float) -> Tensor:
    """The class that covers most of each cell.

    Args:
        truth: (H, W) int64, −1 ignored.
        grid: (h, w) cells.
        classes: number of classes.
        coverage: share of the cell that it must cover.

    Returns:
        (h·w,) int64, −1 where no class covers enough.
    """
    present = [index for index in torch.unique(truth).tolist() if 0 <= index < classes]
    if not present:
        return torch.full((grid[0] * grid[1],), -1)
    masks = torch.stack([(truth == index).float() for index in present])
    shares = functional.adaptive_avg_pool2d(masks, grid)
    best, which = shares.max(0)
    return torch.where(best >= coverage, torch.tensor(present)[which], -1).flatten()


def principal_axes(features: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) and the ``count`` directions of largest variance (C, count) of (n, C) features."""
    mean = features.mean(0)
    centred = features - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return mean, vectors[:, -min(count, vectors.shape[1]) :].flip(1)
