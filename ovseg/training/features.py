"""Frozen features computed once: memory-mapped cells of every image, keyed by what decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.files import atomic_path, write_json
from ovseg.images.resize import prepare, working_size
from ovseg.models.model import Model

KEY = "key.json"
FINER = 4  # labels are kept on a grid so many times finer than the features


@dataclass(frozen=True)
class Cells:
    """Feature cells of many images, one after the other.

    Attributes:
        features: (n, C) float16, memory-mapped.
        classes: (n,) int64; −1 where a cell counts for nothing.
        first: (images + 1,) where each image's cells begin.
    """

    features: NDArray[np.float16]
    classes: NDArray[np.int64]
    first: NDArray[np.int64]

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Per image its features (cells, C) float32 and classes (cells,)."""
        for start, stop in zip(self.first, self.first[1:], strict=False):
            yield (
                torch.from_numpy(self.features[start:stop].astype(np.float32)),
                torch.from_numpy(self.classes[start:stop].copy()),
            )


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


def cell_features(
    model: Model, image: NDArray[np.uint8], *, size: tuple[int, int] | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """Frozen features of one image: (cells, C) float32 and the grid (h, w).

    Args:
        model: its image encoder runs.
        image: (H, W, 3) uint8.
        size: (H, W) to run at; None follows the model file.
    """
    pixels = whole_pixels(model, image, size=size)
    with torch.inference_mode():
        dense = model.image.dense(pixels)
    return dense.values[0].flatten(1).T.float(), dense.grid


def whole_pixels(model: Model, image: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> Tensor:
    """(H, W, 3) uint8 to the (1, 3, H', W') pixels of the whole image, at ``size`` or as the model file says."""
    sizes, spec = model.config.input, model.image.spec
    height, width = image.shape[:2]
    size = size or working_size(
        (height, width),
        short_side=sizes.short_side,
        max_long_side=sizes.max_long_side,
        stride=spec.granularity,
    )
    return prepare(image, spec, size=size)[0]


def encoder_key(model: Model) -> dict[str, object]:
    """What decides the frozen features of an image: the encoder's weights and the preprocessing."""
    return {"encoder": f"{model.image.spec.space}@{model.encoder_digest}"}


class FeatureCache:
    """Cells on disk, under a folder named by the hash of encoder, preprocessing and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fetch(self, key: dict[str, object], examples: Iterator[tuple[Tensor, Tensor]]) -> Cells:
        """The cells stored under ``key``; computed from ``examples`` (features, classes) when there are none."""
        folder = self.folder / _digest(key)
        if not (folder / KEY).is_file():
            self._write(folder, key, examples)
        check_key(folder, key)
        return Cells(
            np.load(folder / "features.npy", mmap_mode="r"),
            np.load(folder / "classes.npy"),
            np.load(folder / "first.npy"),
        )

    def _write(self, folder: Path, key: dict[str, object], examples: Iterator[tuple[Tensor, Tensor]]) -> None:
        parts, classes, first = [], [], [0]
        for features, labels in examples:
            parts.append(features.to(torch.float16).numpy())
            classes.append(labels.numpy())
            first.append(first[-1] + len(labels))
        arrays = {
            "features": np.concatenate(parts),
            "classes": np.concatenate(classes),
            "first": np.asarray(first, np.int64),
        }
        for name, array in arrays.items():
            with atomic_path(folder / f"{name}.npy") as path:
                np.save(path, array)
        write_json(folder / KEY, key)


@dataclass(frozen=True)
class View:
    """An image as the encoder sees it, and what is known of its pixels.

    Attributes:
        features: (h, w, C) float16.
        truth: (f·h, f·w) int16 class indices, f = FINER; −1 ignored, −2 none of the classes.
        confidence: (f·h, f·w) uint8, 255 is certain; None where every pixel is.
    """

    features: NDArray[np.float16]
    truth: NDArray[np.int16]
    confidence: NDArray[np.uint8] | None = None


class ViewCache:
    """Views on disk, one file each and memory-mapped, under a folder named by the hash of what decides them.

    Args:
        folder: where the caches of all keys are; None keeps nothing, so that every view is computed again.
        key: encoder, preprocessing, data and augmentation.
    """

    def __init__(self, folder: Path | None, key: dict[str, object]) -> None:
        self.folder = None if folder is None else folder / _digest(key)
        if self.folder is not None:
            if not (self.folder / KEY).is_file():
                write_json(self.folder / KEY, key)
            check_key(self.folder, key)

    def fetch(self, name: str, make: Callable[[], View]) -> View:
        """The view called ``name``; computed by ``make`` when it is not there."""
        if self.folder is None:
            return make()
        paths = {part: self.folder / f"{name}.{part}.npy" for part in ("features", "truth", "confidence")}
        if not paths["features"].is_file():  # written last
            view = make()
            for part in ("confidence", "truth", "features"):
                array = getattr(view, part)
                if array is not None:
                    with atomic_path(paths[part]) as path:
                        np.save(path, array)
        confidence = np.load(paths["confidence"], mmap_mode="r") if paths["confidence"].is_file() else None
        return View(np.load(paths["features"], mmap_mode="r"), np.load(paths["truth"], mmap_mode="r"), confidence)


def check_key(folder: Path, key: dict[str, object]) -> None:
    """Refuse features that were cached by another encoder or from other data.

    Raises:
        ConfigError: names the first thing that differs.
    """
    stored = json.loads((folder / KEY).read_text(encoding="utf-8"))
    for part, value in json.loads(json.dumps(key)).items():
        if stored.get(part) != value:
            raise ConfigError(
                f"the features in '{folder}' were cached with {part} {stored.get(part)!r}, this run has {value!r}; "
                "remove the folder or set 'features' to another one"
            )


def _digest(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def principal_axes(features: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) and the ``count`` directions of largest variance (C, count) of (n, C) features."""
    mean = features.mean(0)
    centred = features - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return mean, vectors[:, -min(count, vectors.shape[1]) :].flip(1)
