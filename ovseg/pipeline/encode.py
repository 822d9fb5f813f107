"""Images that are run window by window, and the features of the windows put together on one grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.attention.structured import resize_numbers
from ovseg.encoders.spec import DenseFeatures, EncoderSpec, ImageEncoder, WholeImageEncoder
from ovseg.errors import ConfigError, ShapeError
from ovseg.images.geometry import Geometry, Size
from ovseg.images.resize import exact_size, prepare, working_size
from ovseg.images.tiles import Tile, plan_tiles
from ovseg.models.sections import InputConfig
from ovseg.pipeline.windows import WindowGeometry, cut, padded_size, place_windows
from ovseg.prefetch import prefetch
from ovseg.tensors import check_shape

Encode = Callable[..., DenseFeatures]
"""From (b, 3, H, W) normalised pixels, and (b, H, W) regions where ``WholeRegions`` gave some, to features."""
WholeRegions = Callable[[npt.NDArray[np.uint8]], "Tensor | None"]
"""From an (H, W, 3) image to its (H, W) regions, or None."""

_READERS = 8  # threads that make the images of a batch ready: an accelerator waits for them
_BATCH_WINDOWS = 8
_BATCH_PIXELS = _BATCH_WINDOWS * 448 * 448  # larger windows run in smaller batches
_STRIP_RATIO = 3.0  # of the sides, above which an image is a strip
_STRIP_ENLARGED = 4.0  # a strip is not blown up more than this
_STRIP_WINDOWS = 8  # a strip is at most this many times max_long_side long, so that memory stays bounded


def plan_input(original: Size, config: InputConfig, *, multiple: int) -> tuple[Size, int | None]:
    """The size to run an image at, and the side of the windows it is cut into (None: run whole).

    A strip, whose sides are further apart than 3 to 1, would become a few pixels high if its long side were
    held to ``max_long_side``; it keeps its short side and runs in windows along its length instead.

    Args:
        original: (H, W) of the image.
        config: sizes of the model file.
        multiple: the sides are multiples of this many pixels.

    Raises:
        ShapeError: a size is not positive.
    """
    longest, shortest = max(original), min(original)
    scale = config.short_side / max(shortest, 1)
    if longest <= _STRIP_RATIO * shortest or scale * longest <= config.max_long_side:
        limit = config.max_long_side
        size = working_size(original, short_side=config.short_side, max_long_side=limit, stride=multiple)
        return size, config.window
    short_side = max(1, round(min(scale, _STRIP_ENLARGED) * shortest))
    limit = max(_STRIP_WINDOWS * config.max_long_side, multiple)
    size = working_size(original, short_side=short_side, max_long_side=limit, stride=multiple)
    return size, config.window or config.max_long_side


def _planned(original: Size, config: InputConfig, spec: EncoderSpec) -> tuple[Size, int | None]:
    """As ``plan_input``, unless the encoder knows one size alone."""
    return (spec.size, None) if spec.size else plan_input(original, config, multiple=spec.granularity)


def input_pixels(original: Size, config: InputConfig, spec: EncoderSpec) -> tuple[int, int]:
    """Pixels of the encoder's input that run at once at least, and those of all windows, for an image of (H, W)."""
    if config.splice == "pixels":
        size = exact_size(original, short_side=config.short_side, max_long_side=config.max_long_side)
        tiles = _placed(size, config)
        padded = padded_size(tiles[0], spec.granularity)
        return padded[0] * padded[1], len(tiles) * padded[0] * padded[1]
    size, window = _planned(original, config, spec)
    whole = size[0] * size[1]
    return whole if window is None else min(window**2, whole), whole


@torch.inference_mode()
def encode_image(
    encode: Encode,
    image: npt.NDArray[np.uint8],
    spec: EncoderSpec,
    config: InputConfig,
    *,
    regions: WholeRegions | None = None,
    labels: Tensor | None = None,
    most: int | None = None,
) -> tuple[DenseFeatures, Geometry]:
    """Features of an image at the size of a model file, whole or in windows, and how its cells lie on it.

    Args:
        encode: (b, 3, H, W) normalised pixels to features; with labels, from these and (b, H, W) labels.
        image: (H, W, 3) uint8.
        spec: preprocessing of the encoder.
        config: sizes and windows of the model file.
        regions: see ``encode_apart``.
        labels: (H, W) integers of the image's pixels, cut as the image is.
        most: pixels of the input that run together at most, if a window has fewer; None leaves it at the default.
    """
    if config.resampling is not None:
        spec = replace(spec, interpolation=config.resampling)
    if config.splice == "pixels":
        known = regions if labels is None else lambda _: labels
        return encode_apart(encode, image, spec, config, regions=known, most=most)
    height, width = image.shape[:2]
    size, window = _planned((height, width), config, spec)
    pixels, geometry = prepare(image, spec, size=size)
    maps = () if labels is None else (resize_numbers(labels, (pixels.shape[2], pixels.shape[3]))[None],)
    if window is None:
        return encode(pixels, *maps), geometry
    features = encode_windows(
        encode,
        pixels,
        window=window,
        overlap=config.overlap,
        multiple=spec.granularity,
        splice=config.splice,
        maps=maps,
        most=most,
    )
    return features, geometry


@torch.inference_mode()
def encode_images(
    encode: Encode,
    images: Sequence[npt.NDArray[np.uint8]],
    spec: EncoderSpec,
    config: InputConfig,
    *,
    regions: WholeRegions | None = None,
    most: int | None = None,
) -> list[tuple[DenseFeatures, Geometry]]:
    """As ``encode_image`` of each image; those that are of one size after resizing run through together.

    Images that run in windows fill batches by themselves and are encoded one by one.
    """
    if config.splice == "pixels" or config.resampling is not None:
        return [encode_image(encode, image, spec, config, regions=regions, most=most) for image in images]
    found: dict[int, tuple[DenseFeatures, Geometry]] = {}
    waiting: dict[Size, list[int]] = {}
    for place, image in enumerate(images):
        size, window = _planned((image.shape[0], image.shape[1]), config, spec)
        if window is None:
            waiting.setdefault(size, []).append(place)
        else:
            found[place] = encode_image(encode, image, spec, config, most=most)
    # Only images of one size after resizing make a batch; padding them would change their features at the borders.
    for size, places in waiting.items():
        at_once = _at_once(size[0] * size[1], most)
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            ready = partial(prepare, spec=spec, size=size)
            prepared = list(prefetch(ready, (images[place] for place in some), ahead=len(some), workers=_READERS))
            features = encode(torch.cat([pixels for pixels, _ in prepared]))
            for row, (place, (_, geometry)) in enumerate(zip(some, prepared, strict=True)):
                found[place] = (features.of_image(row), geometry)
    return [found[place] for place in range(len(images))]


@torch.inference_mode()
def encode_apart(
    encode: Encode,
    image: npt.NDArray[np.uint8],
    spec: EncoderSpec,
    config: InputConfig,
    *,
    regions: WholeRegions | None = None,
    most: int | None = None,
) -> tuple[DenseFeatures, WindowGeometry]:
    """Features of an image's windows, one below the other, for maps that are averaged in pixels.

    Args:
        encode: (b, 3, H, W) normalised pixels to features.
        image: (H, W, 3) uint8.
        spec: preprocessing of the encoder.
        config: sizes and windows of the model file.
        regions: of the whole image, for encoders that need some; found once, then cut as the windows are.
        most: see ``encode_image``.
    """
    original = (image.shape[0], image.shape[1])
    size = exact_size(original, short_side=config.short_side, max_long_side=config.max_long_side)
    # without padding, which belongs to the windows
    pixels, _ = prepare(image, replace(spec, stride=1), size=size)
    tiles = _placed(size, config)
    padded = padded_size(tiles[0], spec.granularity)
    maps = None if regions is None else regions(image)
    if maps is not None:
        maps = resize_numbers(maps, size)
        padding = int(maps.max()) + 1  # a region of its own
    parts = []
    for batch in _batches(tiles, most):
        seen = [torch.cat([cut(pixels, tile, padded) for tile in batch])]
        if maps is not None:
            seen.append(torch.stack([cut(maps, tile, padded, fill=padding) for tile in batch]))
        parts.append(encode(*seen))
    rows, columns = parts[0].grid
    geometry = WindowGeometry(original, size, tuple(tiles), padded, (rows, columns))
    # structure compares cells on one grid, which these are not
    kept = [name for name in parts[0].maps if name != "structure"]
    maps_of = {name: _stacked([part.maps[name] for part in parts]) for name in kept}
    whole = _mean([part.whole for part in parts])
    return DenseFeatures(space=parts[0].space, stride=parts[0].stride, whole=whole, **maps_of), geometry


def _placed(size: Size, config: InputConfig) -> list[Tile]:
    stride = max(1, (config.window or 0) - config.overlap)
    return place_windows(size, window=config.window, stride=stride)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Windows (b, C, h, w), in several batches, one below the other: (1, C, n·h, w)."""
    windows = torch.cat(list(parts)).transpose(0, 1)  # (C, n, h, w)
    return windows.flatten(1, 2)[None]


@torch.inference_mode()
def encode_windows(
    encode: Encode,
    pixels: Tensor,
    *,
    window: int,
    overlap: int,
    multiple: int,
    splice: Literal["scores", "features"] = "scores",
    maps: Sequence[Tensor] = (),
    most: int | None = None,
) -> DenseFeatures:
    """Features of an image that runs in windows: on each cell the mean over the windows that hold it.

    Logits are linear in the features. The mean of features that are not brought back to unit length thus gives
    the mean of the windows' cosine maps, which is how the field's evaluation code splices ("scores"). A unit
    mean ("features") gives the cosine of the mean direction instead.

    Args:
        encode: (b, 3, window, window) to features with unit vectors or not; runs a few windows at once.
        pixels: (1, 3, H, W), normalised; H and W multiples of ``multiple``.
        window: side in pixels; rounded down to a multiple of ``multiple``.
        overlap: pixels that neighbouring windows share at least; rounded up to a multiple of ``multiple``.
        multiple: windows start, and their sides end, at multiples of this; a multiple of the features' stride.
        splice: what is averaged.
        maps: (1, H, W) of the image, cut as it is and given to ``encode`` too.
        most: see ``encode_image``.

    Returns:
        (1, C, H/stride, W/stride) features; ``structure`` is averaged too and has unit length again.
        An image no larger than a window is encoded whole.

    Raises:
        ShapeError: ``pixels`` is not one image of such a size, or ``multiple`` not a multiple of the stride.
    """
    check_shape("pixels", pixels, "B C H W", B=1)
    height, width = pixels.shape[2:]
    if height % multiple or width % multiple:
        raise ShapeError(
            f"pixels must have sides that are multiples of {multiple}, got {height} x {width}; pad them"
        )
    tiles = _plan(height, width, window=window, overlap=overlap, multiple=multiple)
    if len(tiles) == 1:
        return encode(pixels, *maps)
    sums: dict[str, Tensor] = {}
    count = torch.zeros(0)
    wholes: list[Tensor | None] = []
    for batch in _batches(tiles, most):
        part = encode(*(torch.cat([_window(each, tile) for tile in batch]) for each in (pixels, *maps)))
        if multiple % part.stride:
            raise ShapeError(f"multiple must be a multiple of the stride {part.stride}, got {multiple}")
        wholes.append(part.whole)
        grid = (height // part.stride, width // part.stride)
        if not sums:
            sums = {name: found.new_zeros(1, found.shape[1], *grid) for name, found in part.maps.items()}
            count = part.values.new_zeros(grid)
        for number, tile in enumerate(batch):
            place = _cells(tile, part.stride)
            count[place] += 1
            for name, found in part.maps.items():
                sums[name][0][:, *place] += found[number]
    means = {name: total / count for name, total in sums.items()}
    unit = {"structure"} | ({"values", "inputs"} if splice == "features" else set())
    means = {name: functional.normalize(mean, dim=1) if name in unit else mean for name, mean in means.items()}
    return DenseFeatures(space=part.space, stride=part.stride, whole=_mean(wholes), **means)


def _mean(wholes: Sequence[Tensor | None]) -> Tensor | None:
    """(1, C), the mean over the (b, C) vectors of all windows; None where there are none."""
    vectors = [vector for vector in wholes if vector is not None]
    return torch.cat(vectors).mean(0, keepdim=True) if vectors else None


def _plan(height: int, width: int, *, window: int, overlap: int, multiple: int) -> list[Tile]:
    """``plan_tiles`` on a grid of ``multiple`` pixels."""
    side = max(1, window // multiple)
    shared = min(-(-overlap // multiple), side - 1)
    tiles = plan_tiles(height // multiple, width // multiple, window=side, overlap=shared)
    return [
        Tile(tile.top * multiple, tile.left * multiple, tile.height * multiple, tile.width * multiple)
        for tile in tiles
    ]


def _at_once(pixels: int, most: int | None) -> int:
    """How many inputs of so many pixels run together."""
    return max(1, (_BATCH_PIXELS if most is None else min(most, _BATCH_PIXELS)) // pixels)


def _batches(tiles: list[Tile], most: int | None) -> Iterator[list[Tile]]:
    """Runs of windows (all are of one size) with a bounded number of pixels."""
    size = min(_BATCH_WINDOWS, _at_once(tiles[0].height * tiles[0].width, most))
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def _window(maps: Tensor, tile: Tile) -> Tensor:
    """A window of (..., H, W) maps."""
    return maps[..., tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]


def _cells(tile: Tile, stride: int) -> tuple[slice, slice]:
    top, left = tile.top // stride, tile.left // stride
    return slice(top, top + tile.height // stride), slice(left, left + tile.width // stride)


def whole_image(encoder: ImageEncoder, pixels: Tensor) -> Tensor:
    """(1, 3, H, W) pixels to the (C,) unit vector of the image.

    Raises:
        ConfigError: the encoder has no vector for a whole image.
    """
    if not isinstance(encoder, WholeImageEncoder):
        raise ConfigError(
            "'prune:' needs a tower with a vector for the whole image, and so does 'whole:'; remove them from the "
            "model file"
        )
    return encoder.image_vector(pixels)[0]
