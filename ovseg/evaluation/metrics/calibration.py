"""Whether a confidence of 0.8 is right in 80 of 100 pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.confusion import IGNORE

BINS = 15  # Guo et al. 2017


def reliability_bins(
    confidence: NDArray[np.float32], right: NDArray[np.bool_], *, bins: int = BINS
) -> NDArray[np.float64]:
    """(bins, 3) float64: pixels, right pixels and summed confidence in each of equal intervals of [0, 1].

    Args:
        confidence: any shape, float in [0, 1].
        right: same shape, whether the prediction there is right.
        bins: number of intervals; an interval holds its upper end, the first one 0 as well.

    Raises:
        ShapeError: the shapes differ or a confidence is outside [0, 1].
    """
    if confidence.shape != right.shape:
        raise ShapeError(f"confidence and right must be alike, got {confidence.shape} and {right.shape}")
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1):
        raise ShapeError(f"confidence must be in [0, 1], got {confidence.min()} to {confidence.max()}")
    values = confidence.ravel().astype(np.float64)
    place = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    pixels = np.bincount(place, minlength=bins)
    hits = np.bincount(place, right.ravel(), minlength=bins)
    return np.stack([pixels, hits, np.bincount(place, values, minlength=bins)], 1)


def map_reliability(
    confidence: NDArray[np.float32],
    prediction: NDArray[np.int32],
    truth: NDArray[np.int32],
    *,
    bins: int = BINS,
) -> NDArray[np.float64]:
    """``reliability_bins`` over the labelled pixels of one image; all maps (H, W)."""
    valid = truth != IGNORE
    return reliability_bins(confidence[valid], prediction[valid] == truth[valid], bins=bins)


def expected_calibration_error(table: NDArray[np.float64]) -> float:
    """Mean distance of confidence from accuracy over the bins, by their pixels; in [0, 1], NaN when empty.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    pixels, hits, confidence = table.T
    total = pixels.sum()
    return float(np.abs(hits - confidence).sum() / total) if total else float("nan")
