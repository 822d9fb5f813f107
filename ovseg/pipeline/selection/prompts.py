"""What was pointed at, checked against the image and joined with earlier rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ovseg.errors import ImageError, ShapeError
from ovseg.images.geometry import Size
from ovseg.result.selection import Point, Selection, SelectionPrompts
from ovseg.vocabulary.labels import Concept, check_label

Points: TypeAlias = Sequence[Sequence[float]] | npt.NDArray[Any]
Box: TypeAlias = Sequence[float] | npt.NDArray[Any]

SCRIBBLE_POINTS = 4  # that a scribble becomes
_LOOKED_AT = 4000  # pixels of a drawn mask among which points are chosen


def check_previous(previous: Selection | None, image: npt.NDArray[np.uint8]) -> None:
    """Refuse a selection of another image.

    Raises:
        ImageError: it is of another.
    """
    if previous is None or previous.image is image:
        return
    if previous.image.shape != image.shape or not np.array_equal(previous.image, image):
        raise ImageError(
            "previous must be a selection in this image, got one of another; leave it out to begin anew here"
        )


def join_prompts(
    size: Size,
    previous: SelectionPrompts | None,
    *,
    positive: Points = (),
    negative: Points = (),
    box: Box | None = None,
    scribble: Points | None = None,
    mask: npt.NDArray[Any] | None = None,
    text: str | Concept | None = None,
) -> SelectionPrompts:
    """The prompts of this round after those of earlier ones; a new box, mask or text takes the place of an old one.

    Args:
        size: (H, W) of the image.
        previous: of earlier rounds.
        positive, negative, box, scribble, mask, text: see ``Segmenter.select``.

    Raises:
        ShapeError: a point lies outside the image or is on and off at once, a box has no area or lies outside, a
            mask has another size, type or no pixel, or nothing is given at all.
        VocabularyError: the text cannot be used.
    """
    before = previous or SelectionPrompts()
    drawn = () if scribble is None else sample_scribble(scribble, size)
    joined = SelectionPrompts(
        positive=(*before.positive, *check_points("positive", positive, size), *drawn),
        negative=(*before.negative, *check_points("negative", negative, size)),
        box=before.box if box is None else _box(box, size),
        mask=before.mask if mask is None else _drawn("mask", mask, size),
        text=before.text if text is None else _text(text),
    )
    if not joined.positive and joined.box is None and joined.mask is None and joined.text is None:
        only = "negative points alone" if joined.negative else "nothing"
        raise ShapeError(
            f"expected a click, box, scribble, mask or text to select by, got {only}; point at the thing"
        )
    both = {_pixel(point) for point in joined.positive} & {_pixel(point) for point in joined.negative}
    if both:
        x, y = min(both)
        raise ShapeError(f"a point is on the thing or off it, got both at ({x}, {y}); drop one of them")
    return joined


def sample_scribble(scribble: Points, size: Size) -> tuple[Point, ...]:
    """At most ``SCRIBBLE_POINTS`` points of a line, evenly along it, or of a drawn (H, W) bool mask, far apart.

    Raises:
        ShapeError: a point lies outside the image, or the mask has another size, type or no pixel.
    """
    if isinstance(scribble, np.ndarray) and (scribble.dtype == bool or scribble.shape == size):
        return spread_points(_drawn("scribble", scribble, size))
    corners = np.asarray(check_points("scribble", scribble, size), float).reshape(-1, 2)
    if len(corners) <= 1:
        return tuple((float(x), float(y)) for x, y in corners)
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    if not lengths[-1]:
        return ((float(corners[0, 0]), float(corners[0, 1])),)
    # the middles of equal parts: where a hand sets out and stops it slips off the thing
    places = (np.arange(SCRIBBLE_POINTS) + 0.5) / SCRIBBLE_POINTS * lengths[-1]
    x, y = (np.interp(places, lengths, corners[:, axis]) for axis in (0, 1))
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


def spread_points(mask: npt.NDArray[np.bool_], count: int = SCRIBBLE_POINTS) -> tuple[Point, ...]:
    """Middles of at most ``count`` pixels of a mask: that nearest to its middle, then each furthest from those."""
    rows, columns = np.nonzero(mask)
    step = -(-len(rows) // _LOOKED_AT)
    places = np.stack([columns, rows], 1)[::step].astype(float)
    away = np.square(places - places.mean(0)).sum(1)
    chosen = [int(away.argmin())]
    away = np.square(places - places[chosen[0]]).sum(1)
    while len(chosen) < count and away.max() > 0:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.square(places - places[chosen[-1]]).sum(1))
    return tuple((float(x) + 0.5, float(y) + 0.5) for x, y in places[chosen])


def check_points(name: str, points: Points, size: Size) -> tuple[Point, ...]:
    """The points (x, y), where all lie in an image of ``size`` (H, W).

    Args:
        name: what a message calls them.
        points: in pixels from the left and from the top.
        size: of the image.

    Raises:
        ShapeError: one is no pair of numbers, or lies outside the image.
    """
    height, width = size
    found = []
    for point in _listed(name, points):
        try:
            x, y = (float(value) for value in point)
        except (TypeError, ValueError) as error:
            raise ShapeError(
                f"{name} must be a list of points (x, y), got {points!r:.80}; write [(x, y)]"
            ) from error
        if not (0 <= x < width and 0 <= y < height):
            raise ShapeError(
                f"{name} must lie in the image of {width} x {height} pixels, got ({x:g}, {y:g}); x counts from the "
                "left, y from the top"
            )
        found.append((x, y))
    return tuple(found)


def _listed(name: str, points: Any) -> list[Any]:
    if isinstance(points, str) or not isinstance(points, Iterable):
        raise ShapeError(f"{name} must be a list of points (x, y), got {points!r:.80}; write [(x, y)]")
    return list(points)


def _box(box: Box, size: Size) -> tuple[float, float, float, float]:
    height, width = size
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"box must be x0, y0, x1, y1 in pixels, got {box!r:.80}; give four numbers") from error
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 >= x1 or y0 >= y1:
        raise ShapeError(
            f"box must have an area, x0 below x1 and y0 below y1, got ({x0:g}, {y0:g}, {x1:g}, {y1:g}); give two "
            "opposite corners, top left first"
        )
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        raise ShapeError(
            f"box must lie in the image of {width} x {height} pixels, got ({x0:g}, {y0:g}, {x1:g}, {y1:g}); x "
            "counts from the left, y from the top"
        )
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def _drawn(name: str, mask: Any, size: Size) -> npt.NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.shape != size or array.dtype != bool:
        raise ShapeError(
            f"{name} must be {size} bool (H, W), got {array.shape} {array.dtype}; draw it on this image"
        )
    if not array.any():
        raise ShapeError(f"{name} must have at least one pixel, got none; draw where the thing is")
    return array


def _text(text: Any) -> str | Concept:
    return text if isinstance(text, Concept) else check_label(text, where="text")


def _pixel(point: Point) -> tuple[int, int]:
    return int(point[0]), int(point[1])
