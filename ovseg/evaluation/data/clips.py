"""Made clips whose truth is known to the pixel: a thing cut out of one photo moves before another photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ShapeError

_WINDOW = 0.75  # share of each side of the ground that a frame shows
_NOISE = 4.0  # standard deviation of the camera's noise, in steps of 8 bits
_GAIN = 0.04  # how far the brightness of a frame may be off
_HEIGHT = (0.35, 0.55)  # of the thing, as a share of the frame's


@dataclass(frozen=True)
class MadeClip:
    """T frames and their truth.

    Attributes:
        frames: (T, H, W, 3) uint8.
        truth: (T, H, W) int32 class indices; -1 is ignored.
        thing: (T, H, W) bool, where the moving thing is.
    """

    frames: NDArray[np.uint8]
    truth: NDArray[np.int32]
    thing: NDArray[np.bool_]


def moving_thing(
    ground: NDArray[np.uint8],
    truth: NDArray[np.int32],
    thing: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    label: int,
    count: int,
    size: tuple[int, int] = (288, 384),
    seed: int = 0,
) -> MadeClip:
    """A camera pans over a photo while a thing crosses it, growing or shrinking; every frame has noise of its own.

    Args:
        ground: (h, w, 3) uint8 photo.
        truth: (h, w) int32 class index of its pixels, -1 ignored.
        thing: (a, b, 3) uint8, the photo of the thing, cut to its box.
        mask: (a, b) bool, where in it the thing is.
        label: class index of the thing.
        count: frames T, at least 1.
        size: (H, W) of a frame.
        seed: of the paths, the sizes and the noise.

    Raises:
        ShapeError: photo and truth, or thing and mask, differ in size, or the mask is empty.
    """
    if ground.shape[:2] != truth.shape or thing.shape[:2] != mask.shape or not mask.any():
        raise ShapeError(
            f"photo and truth must be of one size, and so must thing and mask, which must not be empty, got "
            f"{ground.shape[:2]}, {truth.shape}, {thing.shape[:2]}, {mask.shape}"
        )
    draw = np.random.default_rng(seed)
    windows = _windows(truth.shape, count, draw)
    places = _places(count, draw)
    heights = np.linspace(_HEIGHT[0], _HEIGHT[1], count)[:: int(draw.choice([1, -1]))]
    frames, truths, things = [], [], []
    for (top, left, high, wide), place, height in zip(windows, places, heights, strict=True):
        window = (slice(top, top + high), slice(left, left + wide))
        frame, labels = _resize(ground[window], size, smooth=True), _resize(truth[window], size, smooth=False)
        covered = _paste(frame, thing, mask, place, height)
        labels[covered] = label
        gain = 1 + _GAIN * draw.uniform(-1, 1)
        noisy = frame * gain + draw.normal(0, _NOISE, frame.shape)
        frames.append(noisy.clip(0, 255).astype(np.uint8))
        truths.append(labels)
        things.append(covered)
    return MadeClip(np.stack(frames), np.stack(truths), np.stack(things))


def _windows(shape: tuple[int, ...], count: int, draw: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of what each frame shows of the ground: a straight pan, corner to corner."""
    sides = [round(_WINDOW * side) for side in shape]
    room = [side - shown for side, shown in zip(shape, sides, strict=True)]
    ends = draw.integers(0, 2, 2)
    steps = np.linspace(0, 1, count)
    top, left = (
        np.round(free * (steps if end else 1 - steps)).astype(int) for free, end in zip(room, ends, strict=True)
    )
    return [(int(y), int(x), sides[0], sides[1]) for y, x in zip(top, left, strict=True)]


def _places(count: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """(T, 2) in [0, 1], the middle of the thing, row and column: across the frame in an arc."""
    steps = np.linspace(0, 1, count)
    columns = 0.2 + 0.6 * (steps if draw.integers(2) else 1 - steps)
    rows = 0.45 + 0.2 * draw.uniform(-1, 1) * np.sin(np.pi * steps) + 0.1 * draw.uniform(-1, 1)
    return np.stack([rows, columns], 1)


def _paste(
    frame: NDArray[np.uint8],
    thing: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    place: NDArray[np.float64],
    height: float,
) -> NDArray[np.bool_]:
    """Put the thing into the frame, and return the (H, W) pixels that it covers."""
    high, wide = frame.shape[:2]
    scale = min(height * high / mask.shape[0], 0.6 * wide / mask.shape[1])
    size = (max(2, round(scale * mask.shape[0])), max(2, round(scale * mask.shape[1])))
    small, shown = _resize(thing, size, smooth=True), _resize(mask.astype(np.int32), size, smooth=False) > 0
    top, left = (
        round(float(middle) * side - length / 2)
        for middle, side, length in zip(place, (high, wide), size, strict=True)
    )
    rows = slice(max(0, top), min(high, top + size[0]))
    columns = slice(max(0, left), min(wide, left + size[1]))
    own = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    covered = np.zeros((high, wide), bool)
    covered[rows, columns] = shown[own]
    frame[covered] = small[own][shown[own]]
    return covered


def _resize(pixels: NDArray[Any], size: tuple[int, int], *, smooth: bool) -> NDArray[Any]:
    from PIL import Image

    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), how))
