"""Cells of frozen features with the class that each shows, and photos with the name that each shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ovseg.config import Config
from ovseg.files import sha256_of_bytes
from ovseg.heads.alignment import AlignmentHead
from ovseg.images.load import load_image
from ovseg.models.model import Model
from ovseg.training.config import Above0, Positive
from ovseg.training.data import MaskData, held_out_classes, open_masks, read_table, reading_of
from ovseg.training.features import Arrays, FeatureCache, encoder_pixels

_SQUARE = 256  # named photos are small: one size for all


class CellData(MaskData):
    """Images with masks for the alignment; names compete only with those of entries with the same classes.

    Attributes:
        weight: factor on their loss.
        every: only every n-th image is read.
    """

    weight: Above0 = 1.0
    every: Positive = 1


class NamedData(Config):
    """Images with one name each, from a CSV with the columns ``file`` and ``name``.

    Attributes:
        table: the CSV; files are relative to its folder.
        weight: factor on their loss.
        cells: how many cells of an image, those that look most like its name, stand for the object.
    """

    table: Path
    weight: Above0 = 0.3
    cells: Positive = 24


class Cells:
    """The cells of images with masks: their frozen features, and the class that each shows.

    Args:
        data: the images, and what of them is held out.
        model: its image encoder runs.
        cache: of the features.
        coverage: share of a cell that one class must cover for the cell to count.

    Raises:
        ConfigError: a held-out class is unknown.
        DatasetError: the data are incomplete.
    """

    def __init__(self, data: CellData, model: Model, cache: FeatureCache, *, coverage: float) -> None:
        self.dataset = open_masks(data)
        self.rows = range(0, len(self.dataset.names), data.every)
        self.names = list(self.dataset.protocol.names)
        self.data, self._model, self._cache, self._coverage = data, model, cache, coverage
        # a cell of the background counts for nothing: no word asks for it
        background = self.dataset.protocol.background_index
        self._ignored = [*held_out_classes(data, self.dataset), *([] if background is None else [background])]
        self._key = {"encoder": model.encoder_digest, **reading_of(self.dataset), "coverage": coverage}
        self._images = self.dataset.names

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def fetch(self, place: int) -> Arrays:
        """The image at ``place``: "features" (n, C) float16, and "classes" (n,) int64, −1 where none counts."""
        row = self.rows[place]
        files = self.dataset.files(row)
        arrays = self._cache.fetch({**self._key, "image": self._images[row]}, files, lambda: self._make(row))
        hidden = np.isin(arrays["classes"], self._ignored)
        if self.data.held_out is not None and place % self.data.folds == self.data.held_out:
            hidden[:] = True
        return {**arrays, "classes": np.where(hidden, -1, arrays["classes"])}

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (n, C) float32 and classes (n,) of every image."""
        for place in range(len(self)):
            arrays = self.fetch(place)
            yield torch.from_numpy(arrays["features"].astype(np.float32)), torch.from_numpy(arrays["classes"])

    def present(self) -> Tensor:
        """Sorted indices of the classes that some cell shows."""
        shown = set().union(*(np.unique(self.fetch(place)["classes"]).tolist() for place in range(len(self))))
        return torch.tensor(sorted(shown - {-1}), dtype=torch.int64)

    def _make(self, row: int) -> Arrays:
        example = self.dataset.load(row)
        features, grid = cell_features(self._model, example.image)
        truth = torch.from_numpy(example.truth.astype(np.int64))
        classes = cell_classes(truth, grid, classes=len(self.names), coverage=self._coverage)
        return {"features": features.to(torch.float16).numpy(), "classes": classes.numpy()}


def read_named(
    data: NamedData,
    model: Model,
    head: AlignmentHead,
    encode: Callable[[Sequence[str]], Tensor],
    *,
    cache: FeatureCache,
    accelerator: Accelerator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per named photo the mean feature of the cells that look most like its name, by the head's untrained evidence.

    Returns:
        (n, C) features, (n,) name numbers, and (N, 384) text vectors of the names, which ``encode`` makes.

    Raises:
        DatasetError: the table or a photo is missing, or the table has other columns.
    """
    rows = read_table(data.table, column="name")
    names = sorted({name for _, name in rows})
    numbers = [names.index(name) for _, name in rows]
    text = encode(names)
    prototypes = head.prototypes(text).detach()

    def fetch(place: int) -> Arrays:
        file, prototype = data.table.parent / rows[place][0], prototypes[numbers[place]]
        # all that name, templates, text encoder and head have to do with the choice of cells is in the prototype
        looks = sha256_of_bytes(prototype.cpu().numpy().tobytes())
        key = {"encoder": model.encoder_digest, "side": _SQUARE, "cells": data.cells, "prototype": looks}
        return cache.fetch(key, [file], lambda: make(file, prototype))

    def make(file: Path, prototype: Tensor) -> Arrays:
        features, _ = cell_features(model, load_image(file), size=(_SQUARE, _SQUARE))
        score = head.untrained_part(features) @ prototype
        best = score.topk(min(data.cells, len(score))).indices
        return {"features": features[best].mean(0).to(torch.float16).numpy()}

    cache.fill(f"photos of {data.table.name}", len(rows), fetch, accelerator=accelerator)
    pooled = np.stack([fetch(place)["features"] for place in range(len(rows))]).astype(np.float32)
    return torch.from_numpy(pooled), torch.tensor(numbers), text


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
