from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.timing import processor_time
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.confusion import ConfusionMatrix, joint_histogram, sparse_pairs

Maps = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def slow_iou(prediction: Any, truth: Any, classes: int) -> list[float]:
    scores = []
    for index in range(classes):
        both = either = 0
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t == -1:
                continue
            both += p == index and t == index
            either += p == index or t == index
        scores.append(both / either if either else float("nan"))
    return scores


def counted(prediction: Any, truth: Any, classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix.empty(classes)
    matrix.update(np.asarray(prediction, np.int32), np.asarray(truth, np.int32))
    return matrix


def test_iou_equals_the_slow_count(maps: Maps) -> None:
    np.testing.assert_allclose(counted(*maps, 6).iou(), slow_iou(*maps, 6))


def test_scores_of_a_case_computed_by_hand() -> None:
    # truth 0 0 0 1 1 ignored; predicted 0 0 1 1 none 0
    matrix = counted([0, 0, 1, 1, -1, 0], [0, 0, 0, 1, 1, -1], 3)
    np.testing.assert_array_equal(matrix.counts, [[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(matrix.missed, [0, 1, 0])
    np.testing.assert_allclose(matrix.iou(), [2 / 3, 1 / 3, np.nan])
    assert matrix.mean_iou() == pytest.approx(1 / 2)
    assert matrix.pixel_accuracy() == pytest.approx(3 / 5)
    np.testing.assert_allclose(matrix.class_accuracy(), [2 / 3, 1 / 2, np.nan])
    assert matrix.mean_class_accuracy() == pytest.approx(7 / 12)
    assert matrix.frequency_weighted_iou() == pytest.approx((3 * 2 / 3 + 2 * 1 / 3) / 5)


def test_a_class_that_is_only_predicted_counts_in_all_and_not_in_present() -> None:
    matrix = counted([0, 2], [0, 0], 4)
    assert matrix.mean_iou("present") == pytest.approx(1 / 2)
    assert matrix.mean_iou("all") == pytest.approx(1 / 4)
    assert np.isnan(matrix.iou()[3])


def test_foreground_background_iou_equals_the_binary_count(maps: Maps) -> None:
    prediction, truth = maps
    valid = truth >= 0
    scores = []
    for p, t in (
        (prediction[valid] == 0, truth[valid] == 0),
        (prediction[valid] > 0, truth[valid] > 0),
    ):
        scores.append((p & t).sum() / (p | t).sum())
    assert counted(*maps, 5).foreground_background_iou(0) == pytest.approx(np.mean(scores))


def test_harmonic_mean_of_seen_and_unseen() -> None:
    matrix = counted([0, 0, 1, 0], [0, 0, 1, 1], 2)  # IoU 2/3 and 1/2
    scores = matrix.harmonic_iou([1])
    assert scores == pytest.approx({"seen": 2 / 3, "unseen": 1 / 2, "harmonic": 4 / 7})


def test_counts_merge_over_shards(maps: Maps) -> None:
    prediction, truth = maps
    whole, first = counted(prediction, truth, 5), counted(prediction[:20], truth[:20], 5)
    first.merge(counted(prediction[20:], truth[20:], 5))
    np.testing.assert_array_equal(first.counts, whole.counts)
    np.testing.assert_array_equal(first.missed, whole.missed)


def test_sparse_pairs_hold_the_whole_matrix(maps: Maps) -> None:
    matrix = ConfusionMatrix.empty(5)
    matrix.add_pairs(sparse_pairs(*maps, classes=5))
    whole = counted(*maps, 5)
    np.testing.assert_array_equal(matrix.counts, whole.counts)
    np.testing.assert_array_equal(matrix.missed, whole.missed)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=60))
def test_every_labelled_pixel_is_counted_once(pixels: list[tuple[int, int]]) -> None:
    prediction, truth = np.array(pixels, np.int32).T
    matrix = counted(prediction, truth, 4)
    assert matrix.counts.sum() + matrix.missed.sum() == (truth >= 0).sum()
    np.testing.assert_allclose(matrix.iou(), slow_iou(prediction, truth, 4))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_any_integer_type_and_ignored_value_counts_alike(maps: Maps, kind: Any) -> None:
    prediction, truth = maps
    marked = np.where(truth < 0, 99, truth).astype(kind)
    answer = np.maximum(prediction, 0)
    other = ConfusionMatrix.empty(5)
    other.update(answer.astype(kind), marked, ignore=99)
    np.testing.assert_array_equal(other.counts, counted(answer, truth, 5).counts)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_narrow_types_do_not_overflow_and_blocks_do_not_show(kind: Any) -> None:
    generator = np.random.default_rng(0)
    prediction, truth = (generator.integers(0, 200, (211, 307)).astype(kind) for _ in range(2))
    slow = np.zeros((200, 200), np.int64)
    np.add.at(slow, (truth.ravel(), prediction.ravel()), 1)
    np.testing.assert_array_equal(joint_histogram(prediction, truth, classes=200)[:, :-1], slow)


def test_nothing_counted_gives_nan() -> None:
    assert np.isnan(ConfusionMatrix.empty(2).mean_iou())
    assert np.isnan(counted([0, 1], [-1, -1], 2).pixel_accuracy())


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"shape of the truth, \(3, 2\), got \(2, 3\)"),
        (np.zeros(2), np.zeros(2, int), "prediction must hold integer class indices, got dtype float64"),
        (np.array([5]), np.array([0]), r"prediction must be in \[-1, 3\), got 5 to 5"),
        (np.array([-2]), np.array([0]), r"prediction must be in \[-1, 3\)"),
        (np.array([0]), np.array([7]), r"truth must be in \[0, 3\) or the ignored value -1, got 7 to 7"),
    ],
)
def test_bad_maps_are_refused(prediction: Any, truth: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        ConfusionMatrix.empty(3).update(prediction, truth)


def test_matrices_of_other_sizes_do_not_merge() -> None:
    with pytest.raises(ShapeError, match="4 classes into one of 3"):
        ConfusionMatrix.empty(3).merge(ConfusionMatrix.empty(4))


def test_four_megapixels_of_847_classes_cost_at_most_twice_a_plain_bincount() -> None:
    generator = np.random.default_rng(0)
    prediction, truth = (generator.integers(-1, 847, (2000, 2000)).astype(np.int32) for _ in range(2))
    matrix = ConfusionMatrix.empty(847)

    def plain() -> None:
        labelled = truth >= 0
        joint = truth[labelled].astype(np.int64) * 848 + prediction[labelled] + 1
        np.bincount(joint, minlength=847 * 848)

    jobs = (lambda: matrix.update(prediction, truth), plain)
    times = np.array([[processor_time(job) for job in jobs] for _ in range(5)]).min(0)
    assert times[0] < 2 * times[1]
