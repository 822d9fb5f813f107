from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.timing import processor_time
from scipy.ndimage import minimum_filter

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.boundary import (
    band_width,
    boundary_band,
    boundary_counts,
    boundary_f_score,
    boundary_iou,
    outline,
)

Maps = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def slow_band(mask: Any, width: int) -> Any:
    """Erosion by looking at every neighbour; outside the image is not the mask."""
    padded = np.pad(mask, width)
    band = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        window = padded[row : row + 2 * width + 1, column : column + 2 * width + 1]
        band[row, column] = not window.all()
    return band


def slow_near(points: Any, radius: int) -> Any:
    near = np.zeros_like(points)
    for row, column in np.argwhere(points):
        near[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = True
    return near


def slow_counts(prediction: Any, truth: Any) -> Any:
    valid = truth >= 0
    prediction, truth = np.where(valid, prediction, -2), np.where(valid, truth, -2)
    width, radius = band_width(truth.shape), band_width(truth.shape, fraction=0.0075)
    rows = []
    for index in sorted((set(np.unique(prediction)) | set(np.unique(truth))) - {-1, -2}):
        p, t = prediction == index, truth == index
        bp, bt = slow_band(p, width), slow_band(t, width)
        ep, et = p & outline(prediction), t & outline(truth)
        hits = (ep & slow_near(et, radius)).sum(), (et & slow_near(ep, radius)).sum()
        rows.append([index, (bp & bt).sum(), (bp | bt).sum(), ep.sum(), hits[0], et.sum(), hits[1]])
    return np.array(rows)


def test_counts_equal_the_slow_version(maps: Maps) -> None:
    np.testing.assert_array_equal(boundary_counts(*maps), slow_counts(*maps))


def test_more_than_64_classes_are_counted_alike() -> None:
    generator = np.random.default_rng(1)
    truth = np.kron(generator.integers(0, 90, (10, 12)), np.ones((4, 4), int)).astype(np.int32)
    prediction = np.roll(truth, 1, axis=1)
    np.testing.assert_array_equal(boundary_counts(prediction, truth), slow_counts(prediction, truth))


def test_a_case_computed_by_hand() -> None:
    truth = np.zeros((5, 6), np.int32)
    truth[:, 3:] = 1
    prediction = np.zeros((5, 6), np.int32)
    prediction[:, 4:] = 1
    counts = boundary_counts(prediction, truth)
    # band of 1 pixel: truth 1 is 5 x 3 with 3 inside; prediction 1 is 5 x 2, all of it band
    assert counts[1].tolist()[:3] == [1, 2 + 5, 12 + 10 - 7]
    # outlines are columns 4 and 3, one pixel apart and so within the tolerance
    assert counts[1].tolist()[3:] == [5, 5, 5, 5]
    assert boundary_f_score(counts, classes=2).tolist() == [1.0, 1.0]


def test_a_perfect_map_scores_one_and_an_absent_class_nan() -> None:
    truth = np.zeros((20, 30), np.int32)
    truth[5:10, 5:20] = 1
    counts = boundary_counts(truth, truth)
    np.testing.assert_array_equal(boundary_iou(counts, classes=3), [1, 1, np.nan])
    np.testing.assert_array_equal(boundary_f_score(counts, classes=3), [1, 1, np.nan])


def test_f_score_is_the_harmonic_mean_of_precision_and_recall() -> None:
    counts = np.array([[0, 0, 0, 8, 4, 10, 2]])
    precision, recall = 4 / 8, 2 / 10
    assert boundary_f_score(counts, classes=1)[0] == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_edge_of_the_image_belongs_to_the_band_but_is_no_outline() -> None:
    labels = np.zeros((6, 7), np.int32)
    assert boundary_band(labels, width=1).sum() == 6 * 7 - 4 * 5
    assert not outline(labels).any()


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"must be \(H, W\) and alike, got \(2, 3\) and \(3, 2\)"):
        boundary_counts(np.zeros((2, 3), np.int32), np.zeros((3, 2), np.int32))


def test_all_classes_at_once_cost_less_than_the_erosions_of_one_after_the_other() -> None:
    generator = np.random.default_rng(0)
    truth = np.kron(generator.integers(0, 20, (24, 32)), np.ones((20, 20), int)).astype(np.int32)
    prediction = np.roll(truth, 5, axis=0)
    window = 2 * band_width(truth.shape) + 1

    def one_by_one() -> None:
        for index in range(20):
            for labels in (prediction, truth):
                minimum_filter(labels == index, size=window, mode="constant")

    jobs = (lambda: boundary_counts(prediction, truth), one_by_one)
    times = np.array([[processor_time(job) for job in jobs] for _ in range(3)]).min(0)
    assert times[0] < times[1]
