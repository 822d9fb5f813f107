from __future__ import annotations

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.calibration import expected_calibration_error, map_reliability, reliability_bins


def slow_error(confidence: list[float], right: list[bool], bins: int) -> float:
    total = 0.0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = [n for n, c in enumerate(confidence) if low < c <= high or (place == 0 and c == 0)]
        if inside:
            accuracy = sum(right[n] for n in inside) / len(inside)
            mean = sum(confidence[n] for n in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def test_calibration_error_equals_the_slow_version() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.random(500).astype(np.float32)
    right = generator.random(500) < confidence
    table = reliability_bins(confidence, right, bins=10)
    assert expected_calibration_error(table) == pytest.approx(slow_error(confidence.tolist(), right.tolist(), 10))


def test_calibration_error_of_a_case_computed_by_hand() -> None:
    table = reliability_bins(np.array([0.9, 0.9, 0.3, 0.3], np.float32), np.array([1, 0, 0, 0], bool), bins=2)
    assert expected_calibration_error(table) == pytest.approx(0.5 * 0.4 + 0.5 * 0.3)
    assert np.isnan(expected_calibration_error(np.zeros((2, 3))))


def test_ignored_pixels_are_left_out_of_the_calibration() -> None:
    confidence, ones = np.full((2, 2), 0.5, np.float32), np.ones((2, 2), np.int32)
    truth = np.array([[1, -1], [0, -1]], np.int32)
    assert map_reliability(confidence, ones, truth).sum(0).tolist() == [2, 1, 1]


def test_confidences_above_one_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"confidence must be in \[0, 1\], got 0.0 to 3.0"):
        reliability_bins(np.array([0, 3], np.float32), np.array([True, False]))
