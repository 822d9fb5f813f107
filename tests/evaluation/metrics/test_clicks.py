"""The simulated clicker, and the number of clicks, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ovseg.evaluation.metrics.clicks import Click, click_scores, next_click, number_of_clicks, overlap


def mask(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


THING = mask(".......", ".#####.", ".#####.", ".#####.", ".......")
NOTHING = np.zeros_like(THING)


def slow_click(truth: np.ndarray, found: np.ndarray) -> Click | None:
    """For every wrong pixel the distance to the nearest pixel that is not wrong in that way, or lies outside."""
    best = None
    for on, error in ((True, truth & ~found), (False, found & ~truth)):
        framed = np.pad(error, 1)
        other = np.argwhere(~framed)
        for row, column in np.argwhere(error):
            reach = np.sqrt(((other - (row + 1, column + 1)) ** 2).sum(1).min())
            if best is None or reach > best[0]:
                best = (reach, Click(int(column), int(row), on))
    return None if best is None else best[1]


def test_the_first_click_falls_on_the_middle_of_the_thing() -> None:
    assert next_click(THING, NOTHING) == Click(2, 2, True)  # 2 from the edge, as are the two to its right


def test_the_next_click_falls_on_the_larger_error_whichever_kind_it_is() -> None:
    flood = np.ones_like(THING)
    assert next_click(THING, flood) == Click(0, 0, False)  # the frame is one pixel wide: all of it is 1 deep
    left = mask(".......", ".##....", ".##....", ".##....", ".......")
    assert next_click(THING, left) == Click(4, 2, True)  # three columns are missed, the middle one 2 deep
    assert next_click(THING, THING) is None


def test_the_border_of_the_image_counts_as_an_edge() -> None:
    assert next_click(np.ones((3, 5), bool), np.zeros((3, 5), bool)) == Click(1, 1, True)


def test_what_does_not_count_is_never_clicked() -> None:
    counted = np.ones_like(THING)
    counted[:, :4] = False
    assert next_click(THING, NOTHING, counted) == Click(4, 1, True)  # two columns are left, all 1 deep: the first
    assert next_click(THING, NOTHING, np.zeros_like(THING)) is None


@pytest.mark.parametrize("seed", range(20))
def test_clicks_equal_those_of_a_slow_loop(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth, found = (draw.random((9, 12)) < share for share in (0.8, 0.3))
    assert next_click(truth, found) == slow_click(truth, found)


def test_the_overlap_is_that_of_the_pixels_that_count() -> None:
    half = mask(".......", ".##....", ".##....", ".##....", ".......")
    assert overlap(THING, half) == 6 / 15
    counted = np.ones_like(THING)
    counted[:, 4:] = False
    assert overlap(THING, half, counted) == 6 / 9
    assert overlap(NOTHING, NOTHING) == 1 and overlap(THING, NOTHING) == 0


def test_clicks_are_counted_up_to_the_limit_and_those_that_never_reach_it_as_the_most() -> None:
    assert number_of_clicks([0.5, 0.86, 0.8, 0.91], 0.85) == 2
    assert number_of_clicks([0.5, 0.86, 0.8, 0.91], 0.9) == 4
    assert number_of_clicks([0.85], 0.85) == 1
    assert number_of_clicks([0.1] * 20, 0.85) == 20 and number_of_clicks([0.1] * 30 + [0.9], 0.85) == 20


def test_scores_are_means_over_segments() -> None:
    scores = click_scores([[0.6, 0.7, 0.88, 0.88, 0.92], [0.95], [0.2] * 20])
    assert scores["iou_after_1"] == pytest.approx((0.6 + 0.95 + 0.2) / 3)
    assert scores["iou_after_3"] == pytest.approx((0.88 + 0.95 + 0.2) / 3)
    assert scores["iou_after_5"] == pytest.approx((0.92 + 0.95 + 0.2) / 3)
    assert scores["noc_85"] == (3 + 1 + 20) / 3 and scores["noc_90"] == (5 + 1 + 20) / 3
    assert scores["failed_85"] == scores["failed_90"] == pytest.approx(1 / 3)
