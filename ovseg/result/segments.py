"""Objects of a result: parts of the image with a label, each as small as its outline is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ovseg.errors import ShapeError

if TYPE_CHECKING:
    from PIL import Image

    from ovseg.result.core import SegmentationResult

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]


class Boxed(Protocol):
    """What has a label and a place, as ``Segment`` has."""

    @property
    def label(self) -> str:
        """What it is."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels; x1 and y1 are not included."""


@dataclass(frozen=True)
class Segment:
    """One object, or one label's whole area.

    Attributes:
        label: what it is.
        score: how sure that is, in [0, 1].
        box: x0, y0, x1, y1 in pixels; x1 and y1 are not included.
        area: pixels.
        rle: COCO's compressed run-length encoding, ``size`` [H, W] and ``counts`` as text.

    Raises:
        ShapeError: the box is empty or outside the image.
    """

    label: str
    score: float
    box: tuple[int, int, int, int]
    area: int
    rle: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", tuple(self.box))
        (height, width), (x0, y0, x1, y1) = self.rle["size"], self.box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ShapeError(f"box must be x0, y0, x1, y1 inside {height} x {width} pixels, got {self.box}")

    @classmethod
    def of_mask(cls, mask: Mask, label: str, score: float, *, corner: tuple[int, int], size: Size) -> Segment:
        """The segment of a mask with at least one pixel, which lies in an image of ``size`` (H, W) with its first
        pixel at row and column ``corner``; costs what its own size costs."""
        rows, columns = np.nonzero(mask)
        rows, columns = rows + corner[0], columns + corner[1]
        box = _box(rows, columns)
        return cls(label, score, box, len(rows), encode_pixels(rows, columns, size))

    @classmethod
    def of_pixels(
        cls, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], label: str, scores: npt.NDArray[np.float32]
    ) -> Segment:
        """The segment of some pixels, at least one, of an image with (H, W) scores; costs what its pixels cost."""
        rle = encode_pixels(rows, columns, scores.shape)
        score = float(scores[rows, columns].mean(dtype=np.float64))
        return cls(label, score, _box(rows, columns), len(rows), rle)

    def mask(self) -> Mask:
        """(H, W) bool."""
        from pycocotools import mask as masks

        decoded: Mask = masks.decode(self.rle).astype(bool)
        return decoded


def _box(rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of at least one pixel; x1 and y1 are not included."""
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def whole_labels(result: SegmentationResult, labels: Sequence[str]) -> Iterator[Segment]:
    """One segment for each of the labels that has pixels."""
    for label in labels:
        rows, columns = np.nonzero(result.mask(label))
        if len(rows):
            yield Segment.of_pixels(rows, columns, label, result.score_map)


def components(result: SegmentationResult, labels: Sequence[str]) -> Iterator[Segment]:
    """One segment for each 8-connected part of each of the labels; many small parts cost little more than few."""
    for name in labels:
        parts, windows = connected_parts(result.mask(name))
        for number, window in enumerate(windows, start=1):
            rows, columns = np.nonzero(parts[window] == number)
            top, left = window[0].start, window[1].start
            yield Segment.of_pixels(rows + top, columns + left, name, result.score_map)


def connected_parts(mask: Mask) -> tuple[npt.NDArray[np.int32], list[tuple[slice, slice]]]:
    """The 8-connected parts of an (H, W) bool mask, numbered from 1, top down, and the rows and columns of each."""
    from scipy.ndimage import find_objects, label

    parts, _ = label(mask, structure=np.ones((3, 3)))
    return parts, find_objects(parts)


def boxes(mask: Mask) -> list[tuple[int, int, int, int]]:
    """x0, y0, x1, y1 in pixels, the last two not included, of each 8-connected part, from the top down."""
    return [(x.start, y.start, x.stop, y.stop) for y, x in connected_parts(mask)[1]]


def small_parts(index_map: npt.NDArray[np.int32], *, min_area: int) -> Mask:
    """(H, W) bool, true in 8-connected parts of a label with fewer than ``min_area`` pixels."""
    small = np.zeros(index_map.shape, dtype=bool)
    for index in np.unique(index_map[index_map >= 0]):
        parts, _ = connected_parts(index_map == index)
        areas = np.bincount(parts.ravel())
        areas[0] = min_area  # where the label is not
        small |= areas[parts] < min_area
    return small


def encode_mask(mask: Mask) -> dict[str, Any]:
    """COCO's compressed run-length encoding of an (H, W) bool mask, with ``counts`` as text."""
    rows, columns = np.nonzero(mask)
    return encode_pixels(rows, columns, mask.shape)


def encode_pixels(
    rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], size: tuple[int, ...]
) -> dict[str, Any]:
    """The same of the pixels of a mask, in any order, without making the mask."""
    places = np.sort(columns.astype(np.int64) * size[0] + rows)  # COCO counts column by column
    breaks = np.flatnonzero(np.diff(places) > 1)
    first = places[np.concatenate([[0], breaks + 1])] if len(places) else places
    last = places[np.concatenate([breaks, [-1]])] + 1 if len(places) else places
    return encode_runs(first, last, size)


def encode_runs(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], size: tuple[int, ...]
) -> dict[str, Any]:
    """The same of runs of pixels, column by column, apart and in order; the inverse of ``decode_runs``."""
    from pycocotools import mask as masks

    height, width = size
    # runs of zeros and ones in turn, zeros first
    ends = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [height * width]])
    encoded = masks.frPyObjects({"size": [height, width], "counts": np.diff(ends).tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def paint(segments: Sequence[Segment], size: Size) -> npt.NDArray[np.int32]:
    """(H, W) int32: at each pixel the number, from 1, of a segment that covers it, 0 for none.

    Where several do, the one with the highest score is seen; of equals, the first.
    """
    order = sorted(range(len(segments)), key=lambda number: (segments[number].score, -number))
    numbers = [number + 1 for number in order]
    return paint_over([segments[number].rle for number in order], numbers, size, ground=0)


def paint_over(
    rles: Sequence[Mapping[str, Any]], values: Sequence[int], size: Size, *, ground: int
) -> npt.NDArray[np.int32]:
    """(H, W) int32 of masks painted one over the other, the first lowest; ``ground`` where none is.

    Args:
        rles: COCO's compressed run-length encodings, with ``counts`` as text.
        values: one for each.
        size: (H, W).
        ground: as said.
    """
    height, width = size
    columns = np.full(height * width, ground, dtype=np.int32)  # column by column, as COCO counts
    for rle, value in zip(rles, values, strict=True):
        for start, end in decode_runs(rle["counts"]):
            columns[start:end] = value
    return np.ascontiguousarray(columns.reshape(width, height).T)


def edges(ids: npt.NDArray[np.int32]) -> Mask:
    """(H, W) bool, true where the number right or below of a pixel is another."""
    found = np.zeros(ids.shape, bool)
    found[:-1] |= ids[:-1] != ids[1:]
    found[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    return found


def cut_out(image: npt.NDArray[np.uint8], segment: Segment, *, padding: int = 0) -> Image.Image:
    """The segment cut out of its (H, W, 3) image, RGBA, transparent where it is not; see ``Segment.box``."""
    from PIL import Image

    height, width = image.shape[:2]
    x0, y0, x1, y1 = segment.box
    rows = slice(max(0, y0 - padding), min(height, y1 + padding))
    columns = slice(max(0, x0 - padding), min(width, x1 + padding))
    opaque = segment.mask()[rows, columns].astype(np.uint8) * 255
    return Image.fromarray(np.dstack([image[rows, columns], opaque]))


def stretches(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The whole numbers of several stretches, one after the other.

    >>> stretches(np.array([7, 2]), np.array([3, 2])).tolist()
    [7, 8, 9, 2, 3]
    """
    before = np.cumsum(lengths) - lengths
    found: npt.NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return found


def decode_runs(counts: str) -> list[tuple[int, int]]:
    """Start and end of each run of ones, column by column, of COCO's compressed run-length encoding.

    Each count is written in groups of five bits, the lowest first, the sixth bit set where more follow; from the
    fourth count on, what is written is the difference from the count before the last (pycocotools, maskApi.c).
    """
    letters = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    last = (letters & 32) == 0
    first = np.flatnonzero(np.concatenate([[True], last[:-1]])) if len(letters) else np.zeros(0, np.int64)
    place = stretches(np.zeros_like(first), np.diff(np.append(first, len(letters))))
    values = np.add.reduceat((letters & 31) << (5 * place), first) if len(first) else np.zeros(0, np.int64)
    negative = (letters[last] & 16) != 0
    values[negative] -= np.int64(1) << (5 * (place[last][negative] + 1))
    for begin in (1, 2):
        values[begin::2] = np.cumsum(values[begin::2])
    ends = np.cumsum(values)
    return list(zip(ends[0::2].tolist(), ends[1::2].tolist(), strict=False))
