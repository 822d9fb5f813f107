"""How well outlines match: boundary IoU and the boundary F-score, all classes of an image at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.confusion import IGNORE

ClassMap = NDArray[np.int32]
BAND_FRACTION = 0.02  # of the image's diagonal: Cheng et al. 2021, section 4
TOLERANCE_FRACTION = 0.0075  # of the image's diagonal: Csurka et al. 2013, section 4
COLUMNS = ("class", "intersection", "union", "predicted", "predicted_hit", "true", "true_hit")
WORD = 64  # classes handled in one pass, a bit each
BIT_TYPES = (np.uint8, np.uint16, np.uint32, np.uint64)
Bits = NDArray[np.unsignedinteger[Any]]


def boundary_counts(prediction: ClassMap, truth: ClassMap) -> NDArray[np.int64]:
    """(k, 7) int64, a row for each class in the image: what boundary IoU and F-score are made of.

    The columns are ``COLUMNS``: the class; pixels in both boundary bands and in either (boundary IoU);
    outline pixels of the prediction, those near an outline of the truth, and the same the other way round.

    Args:
        prediction: (H, W) class indices, -1 none of the labels.
        truth: (H, W) class indices, -1 ignored; there neither map has an outline of its own.

    Raises:
        ShapeError: the two differ in shape or are not two-dimensional.

    Source: band of 2 % of the diagonal, Cheng et al., Boundary IoU, CVPR 2021; F-score within 0.75 % of the
    diagonal, Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013.
    Distances are Chebyshev (as the erosions of the former are), also for the F-score.
    """
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ShapeError(f"both maps must be (H, W) and alike, got {prediction.shape} and {truth.shape}")
    valid = truth != IGNORE
    predicted = np.where(valid, prediction, IGNORE - 1)  # one value that stands for no class in either map
    actual = np.where(valid, truth, IGNORE - 1)
    present = np.flatnonzero(_occurrences(predicted, like=actual) + _occurrences(actual, like=predicted))
    columns = np.zeros((len(present), len(COLUMNS)), np.int64)
    columns[:, 0] = present
    _fill_bands(columns, predicted, actual)
    _fill_outlines(columns, predicted, actual)
    return columns


def boundary_iou(counts: NDArray[np.int64], *, classes: int) -> NDArray[np.float64]:
    """(L,) boundary IoU over a data set from stacked ``boundary_counts``; NaN where a class never was."""
    totals = _totals(counts, classes)
    return _divide(totals[:, 1], totals[:, 2])


def boundary_f_score(counts: NDArray[np.int64], *, classes: int) -> NDArray[np.float64]:
    """(L,) harmonic mean of outline precision and recall over a data set; NaN where a class never was."""
    totals = _totals(counts, classes).astype(np.float64)
    hits_by_precision = totals[:, 4] * totals[:, 5]
    hits_by_recall = totals[:, 6] * totals[:, 3]
    return _divide(
        2 * totals[:, 4] * totals[:, 6],
        hits_by_precision + hits_by_recall,
        absent=totals[:, 3] + totals[:, 5],
    )


def band_width(shape: tuple[int, ...], *, fraction: float = BAND_FRACTION) -> int:
    """Pixels of ``fraction`` of the diagonal of an (H, W) image, at least 1."""
    return max(1, round(fraction * float(np.hypot(shape[0], shape[1]))))


def boundary_band(labels: ClassMap, *, width: int) -> NDArray[np.bool_]:
    """(H, W) bool: pixels within ``width`` of a pixel of another class or of the image's edge (Chebyshev)."""
    # a window is connected, so it holds two classes exactly if it holds two neighbours of different classes
    padded = np.pad(labels, width, constant_values=IGNORE - 2)
    across = _spread(padded[:, 1:] != padded[:, :-1], 2 * width, axis=1)
    down = _spread(padded[1:] != padded[:-1], 2 * width, axis=0)
    band = _spread(across, 2 * width + 1, axis=0) | _spread(down, 2 * width + 1, axis=1)
    return np.asarray(band)


def outline(labels: ClassMap) -> NDArray[np.bool_]:
    """(H, W) bool: pixels with one of the four neighbours in another class; the image's edge is none."""
    edge = np.zeros(labels.shape, bool)
    vertical = labels[1:] != labels[:-1]
    horizontal = labels[:, 1:] != labels[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    return edge


def _fill_bands(columns: NDArray[np.int64], predicted: ClassMap, actual: ClassMap) -> None:
    width = band_width(actual.shape)
    in_prediction = boundary_band(predicted, width=width) & (predicted >= 0)
    in_truth = boundary_band(actual, width=width) & (actual >= 0)
    both = in_prediction & in_truth & (predicted == actual)
    intersection = _count(actual[both], columns[:, 0])
    either = _count(predicted[in_prediction], columns[:, 0]) + _count(actual[in_truth], columns[:, 0])
    columns[:, 1], columns[:, 2] = intersection, either - intersection


def _fill_outlines(columns: NDArray[np.int64], predicted: ClassMap, actual: ClassMap) -> None:
    radius = band_width(actual.shape, fraction=TOLERANCE_FRACTION)
    predicted_edge = outline(predicted) & (predicted >= 0)
    true_edge = outline(actual) & (actual >= 0)
    columns[:, 3] = _count(predicted[predicted_edge], columns[:, 0])
    columns[:, 5] = _count(actual[true_edge], columns[:, 0])
    for start in range(0, len(columns), WORD):
        chunk = columns[start : start + WORD, 0]
        near_truth = _near(actual, true_edge, chunk, radius=radius)
        near_prediction = _near(predicted, predicted_edge, chunk, radius=radius)
        columns[start : start + WORD, 4] = _hits(predicted, predicted_edge, near_truth, chunk)
        columns[start : start + WORD, 6] = _hits(actual, true_edge, near_prediction, chunk)


def _near(labels: ClassMap, edge: NDArray[np.bool_], chunk: NDArray[np.int64], *, radius: int) -> Bits:
    """(H, W): bit b is set within ``radius`` of an outline pixel of class ``chunk[b]``."""
    bits = np.pad(np.where(edge, _bit_of(labels, chunk), 0), radius)
    for axis in (0, 1):
        bits = _spread(bits, 2 * radius + 1, axis=axis)
    return bits


def _spread(bits: NDArray[Any], length: int, *, axis: int) -> NDArray[Any]:
    """OR over each window of ``length`` along ``axis``, which gets shorter by ``length - 1``."""
    window = np.moveaxis(bits, axis, 0)
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        window = window[:-step] | window[step:]
        covered += step
    return np.moveaxis(window, 0, axis)


def _bit_of(labels: ClassMap, chunk: NDArray[np.int64]) -> Bits:
    """(H, W): the bit of each pixel's class, 0 outside ``chunk``; of the narrowest type that has the bits."""
    narrowest = next(kind for kind in BIT_TYPES if len(chunk) <= 8 * kind().itemsize)
    table = np.zeros(max(int(labels.max(initial=0)), int(chunk.max(initial=0))) + 3, narrowest)
    table[chunk] = np.left_shift(narrowest(1), np.arange(len(chunk), dtype=narrowest))
    return np.asarray(table[labels])  # -1 and -2 read the two spare places at the end


def _hits(labels: ClassMap, edge: NDArray[np.bool_], near: Bits, chunk: NDArray[np.int64]) -> NDArray[np.int64]:
    matched = edge & ((_bit_of(labels, chunk) & near) != 0)
    return _count(labels[matched], chunk)


def _count(values: NDArray[np.int32], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each of the sorted ``classes`` is among the non-negative ``values``."""
    length = max(int(values.max(initial=0)), int(classes.max(initial=0))) + 1
    return np.asarray(np.bincount(values, minlength=length)[classes], np.int64)


def _occurrences(labels: ClassMap, *, like: ClassMap | None = None) -> NDArray[np.int64]:
    """How often each class is in ``labels``; as long as for ``like``, if that has higher ones."""
    highest = max(int(labels.max(initial=0)), 0 if like is None else int(like.max(initial=0)))
    return np.asarray(np.bincount(labels.ravel() + 2, minlength=highest + 3)[2:])  # -2 and -1 are no classes


def _totals(counts: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    totals = np.zeros((classes, len(COLUMNS)), np.int64)
    np.add.at(totals, counts[:, 0], counts)
    return totals


def _divide(part: Any, whole: Any, *, absent: Any = None) -> NDArray[np.float64]:
    absent = whole if absent is None else absent
    ratio = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
    return np.where(absent > 0, ratio, np.nan)
