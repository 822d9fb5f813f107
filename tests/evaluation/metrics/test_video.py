"""J, F and flicker, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.video import flicker, outline_accuracy, region_similarity, score_object


def square(top: int, left: int, side: int = 20, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((60, 80), bool)


def test_region_similarity_is_the_iou() -> None:
    assert region_similarity(square(10, 10), square(10, 20)) == pytest.approx(200 / 600)
    assert region_similarity(EMPTY, EMPTY) == 1 and region_similarity(EMPTY, square(10, 10)) == 0


def test_outlines_within_the_bound_count_in_full_and_beyond_it_not() -> None:
    # the diagonal is 100 pixels, so that the bound is ceil(0.8) = 1 pixel
    assert outline_accuracy(square(10, 10), square(10, 10)) == 1
    assert outline_accuracy(square(11, 10), square(10, 10)) == 1
    assert outline_accuracy(EMPTY, EMPTY) == 1 and outline_accuracy(EMPTY, square(10, 10)) == 0
    assert outline_accuracy(square(10, 50), square(10, 10)) == 0


def test_an_outline_that_is_half_off_by_hand() -> None:
    # Lines from edge to edge: the outline of what lies above row r is row r - 1 alone. Left half as in the truth,
    # right half five rows lower; the step down adds the pixels of its own rise.
    truth, prediction = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    truth[:30] = True
    prediction[:30, :40] = True
    prediction[:35, 40:] = True
    # the outline of the prediction: row 29 at columns 0 to 39, row 34 at columns 39 to 79, and column 39 at rows 30
    # to 33; near row 29 (one pixel): the first 40, and row 30 of the step
    precision = 41 / (40 + 41 + 4)
    # of the 80 pixels of the true outline, columns 0 to 40 are within one pixel of (29, 39) and those left of it
    recall = 41 / 80
    assert outline_accuracy(prediction, truth) == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_first_and_the_last_frame_do_not_count() -> None:
    truths = [square(10, 10)] * 4
    score = score_object([EMPTY, square(10, 10), square(10, 20), EMPTY], truths)
    assert score.region == pytest.approx((1 + 1 / 3) / 2)
    assert score.both == pytest.approx((score.region + score.outline) / 2)
    with pytest.raises(ShapeError, match="at least three frames"):
        score_object(truths[:2], truths[:2])


def test_flicker_is_the_share_of_still_pixels_that_change() -> None:
    truth = [np.array([[0, 0, 1, -1]]), np.array([[0, 0, 0, -1]]), np.array([[0, 0, 0, 0]])]
    seen = [np.array([[0, 1, 1, 0]]), np.array([[1, 1, 0, 1]]), np.array([[1, 0, -1, 1]])]
    # first pair: pixels 0 and 1 stand still, pixel 0 changes; second: 0, 1 and 2 do, 1 and 2 change
    assert flicker(seen, truth) == pytest.approx(3 / 5)
    assert flicker([seen[0]] * 3, truth) == 0
    assert math.isnan(flicker(seen[:1], truth[:1]))


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"alike, got \(60, 80\) and \(60, 79\)"):
        region_similarity(EMPTY, EMPTY[:, :79])
    with pytest.raises(ShapeError, match="alike"):
        flicker([np.zeros((2, 2), int)] * 2, [np.zeros((2, 2), int), np.zeros((2, 3), int)])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        flicker([np.zeros((2, 2), int)] * 2, [np.zeros((2, 2), int)])
