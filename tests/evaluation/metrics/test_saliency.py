from __future__ import annotations

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.saliency import saliency_counts, saliency_scores


def slow(maps: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """F at every threshold, image by image, and the mean absolute error, from the pixels."""
    means = []
    for threshold in range(256):
        values = []
        for graded, truth in maps:
            taken, wanted = np.rint(graded * 255) >= threshold, truth == 1
            right = (taken & wanted & (truth >= 0)).sum()
            precision = right / max(1, (taken & (truth >= 0)).sum())
            recall = right / wanted.sum()
            values.append(1.3 * precision * recall / (0.3 * precision + recall) if right else 0.0)
        means.append(np.mean(values))
    errors = [np.abs(np.rint(graded * 255) / 255 - truth)[truth >= 0].mean() for graded, truth in maps]
    return float(max(means)), float(np.mean(errors))


def test_scores_from_levels_are_those_from_pixels() -> None:
    generator = np.random.default_rng(0)
    maps = []
    for _ in range(4):
        truth = (generator.random((9, 14)) < 0.4).astype(np.int32)
        graded = np.clip(0.6 * truth + generator.random(truth.shape) * 0.5, 0, 1)
        truth[0, :3] = -1
        maps.append((graded, truth))
    scores = saliency_scores([saliency_counts(graded, truth, background=0) for graded, truth in maps])
    assert tuple(scores.values()) == pytest.approx(slow(maps))


def test_scores_worked_out_by_hand() -> None:
    """Two of four object pixels are sure and one other is half: P 1, R 1/2 above; F = 1.3 / 2 / (0.3 + 0.5)."""
    truth = np.array([[1, 1, 1, 1, 0, 0, 0, 0]], np.int32)
    graded = np.array([[1, 1, 0, 0, 0.4, 0.4, 0.4, 0.4]])
    scores = saliency_scores([saliency_counts(graded, truth, background=0)])
    assert scores["max_f_measure"] == pytest.approx(0.65 / 0.8)
    assert scores["mean_absolute_error"] == pytest.approx((2 + 1.6) / 8)
    empty = saliency_scores([saliency_counts(graded, np.zeros_like(truth), background=0)])
    assert np.isnan(empty["max_f_measure"]) and empty["mean_absolute_error"] == pytest.approx(3.6 / 8)
    assert all(np.isnan(value) for value in saliency_scores([]).values())


def test_maps_that_do_not_fit_are_refused() -> None:
    truth = np.zeros((2, 3), np.int32)
    with pytest.raises(ShapeError, match=r"the shape of the truth, \(2, 3\), got \(3, 2\)"):
        saliency_counts(np.zeros((3, 2)), truth, background=0)
    with pytest.raises(ShapeError, match=r"must be in \[0, 1\], got 0.0 to 2.0"):
        saliency_counts(np.array([[0, 0, 0], [0, 0, 2.0]]), truth, background=0)
