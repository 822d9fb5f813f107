"""Augmentation: images flipped, cut, resized, recoloured, four in one, or mixed by patches, label maps alike.

Everything is decided by a NumPy generator seeded with the view, so that a view is the same whenever it is made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from ovseg.config import Config
from ovseg.training.config import Share
from ovseg.training.data import Labelled, Source

_PATCHES = 4  # rows and columns of patches that MixReorg exchanges
_SMALLEST = 64  # pixels of a side after cutting and resizing


class Augmentation(Config):
    """How a view of an image is changed, image and label map together; the first view is the image as it is.

    Attributes:
        flip: chance of a left-right flip.
        crop: smallest share of each side that is kept.
        scale: the kept part is resized by a factor up to this, or down to its inverse.
        photometric: largest relative change of brightness, contrast and saturation.
        mosaic: chance that the view is four images in one, two by two.
        mix: chance that patches of another image replace some of this one's (MixReorg, Cai et al., ICCV 2023).
    """

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    crop: Annotated[float, Field(gt=0, le=1)] = 0.6
    scale: Annotated[float, Field(ge=1)] = 1.5
    photometric: Share = 0.3
    mosaic: Annotated[float, Field(ge=0, le=1)] = 0.2
    mix: Annotated[float, Field(ge=0, le=1)] = 0.2

    @property
    def joins(self) -> bool:
        """Whether a view may hold parts of other images."""
        return self.mosaic > 0 or self.mix > 0


def make_view(source: Source, index: int, view: int, *, augmentation: Augmentation, seed: int) -> Labelled:
    """View ``view`` of the image at ``index``; view 0 is the image as it is.

    Source of the mix: Cai et al., MixReorg, ICCV 2023, section 3.2: patches of several images in one, each with
    the label of the image it came from.
    """
    example = source.load(index)
    if view == 0:
        return example
    random = np.random.default_rng([seed, view, zlib.crc32(source.names[index].encode())])
    changed = change(example, augmentation, random)
    kind = random.random()
    if kind < augmentation.mosaic:
        return mosaic([changed, *(_another(source, augmentation, random) for _ in range(3))])
    if kind < augmentation.mosaic + augmentation.mix:
        return mix(changed, _another(source, augmentation, random), random)
    return changed


def change(example: Labelled, augmentation: Augmentation, random: np.random.Generator) -> Labelled:
    """Flip, cut, resize and recolour."""
    height, width = example.truth.shape
    rows, columns = (max(1, round(side * random.uniform(augmentation.crop, 1))) for side in (height, width))
    top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    step = -1 if random.random() < augmentation.flip else 1
    factor = augmentation.scale ** random.uniform(-1, 1)
    size = (max(_SMALLEST, round(rows * factor)), max(_SMALLEST, round(columns * factor)))

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        return array[top : top + rows, left : left + columns][:, ::step]

    changed = resize(_each(example, cut), size)
    return Labelled(recolour(changed.image, augmentation.photometric, random), changed.truth, changed.confidence)


def recolour(image: NDArray[np.uint8], strength: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation, each times a factor in [1 − strength, 1 + strength]."""
    brightness, contrast, saturation = random.uniform(1 - strength, 1 + strength, 3)
    values = image.astype(np.float32) * brightness
    values = values.mean() + contrast * (values - values.mean())
    grey = values.mean(2, keepdims=True)
    return np.asarray((grey + saturation * (values - grey)).round().clip(0, 255), np.uint8)


def mosaic(tiles: list[Labelled]) -> Labelled:
    """Four images in one, two by two, each half as high and wide as the first."""
    height, width = tiles[0].truth.shape
    size = (max(1, height // 2), max(1, width // 2))
    small = [resize(tile, size) for tile in tiles]

    def join(part: str) -> NDArray[Any]:
        arrays = [getattr(tile, part) for tile in small]
        return np.concatenate([np.concatenate(arrays[:2], axis=1), np.concatenate(arrays[2:], axis=1)])

    sure = any(tile.confidence is None for tile in small)
    return Labelled(join("image"), join("truth"), None if sure else join("confidence"))


def mix(first: Labelled, second: Labelled, random: np.random.Generator) -> Labelled:
    """``first`` with half of its patches, drawn at random, taken from the same places of ``second``."""
    size = first.truth.shape
    other = resize(second, size)
    chosen = random.random((_PATCHES, _PATCHES)) < 0.5
    rows, columns = (np.arange(side) * _PATCHES // side for side in size)
    place = chosen[rows][:, columns]
    image = np.where(place[..., None], other.image, first.image)
    confidence = None
    if first.confidence is not None and other.confidence is not None:
        confidence = np.where(place, other.confidence, first.confidence)
    return Labelled(image, np.where(place, other.truth, first.truth), confidence)


def resize(example: Labelled, size: tuple[int, ...]) -> Labelled:
    """The example at (H, W): the image bilinear, what is known of its pixels nearest."""
    height, width = size
    picture = Image.fromarray(np.ascontiguousarray(example.image))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    truth = nearest(example.truth, (height, width))
    confidence = None if example.confidence is None else nearest(example.confidence, (height, width))
    return Labelled(np.asarray(picture), truth, confidence)


def nearest(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(H, W) values read at the centres of another grid."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, array.shape, strict=True)
    )
    read: NDArray[Any] = array[rows][:, columns]
    return read


def _each(example: Labelled, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Labelled:
    confidence = None if example.confidence is None else function(example.confidence)
    return Labelled(function(example.image), function(example.truth), confidence)


def _another(source: Source, augmentation: Augmentation, random: np.random.Generator) -> Labelled:
    return change(source.load(int(random.integers(len(source.names)))), augmentation, random)
