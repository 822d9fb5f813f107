from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.bootstrap import ClassAreas, bootstrap_interval, centred_percentiles, paired_bootstrap
from ovseg.evaluation.metrics.confusion import ConfusionMatrix, sparse_pairs


def sample(images: int, *, right: float, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        truth = generator.integers(-1, 4, (9, 11)).astype(np.int32)
        wrong = generator.integers(-1, 4, truth.shape).astype(np.int32)
        prediction = np.where(generator.random(truth.shape) < right, truth, wrong)
        pairs.append(sparse_pairs(prediction, truth, classes=4))
    return pairs


def slow_mean_iou(pairs: list[Any], weights: Any) -> float:
    matrix = ConfusionMatrix.empty(4)
    for rows, weight in zip(pairs, weights, strict=True):
        for _ in range(int(weight)):
            matrix.add_pairs(rows)
    return matrix.mean_iou()


def test_weighted_scores_equal_matrices_of_repeated_images() -> None:
    pairs = sample(7, right=0.6)
    weights = np.random.default_rng(1).multinomial(7, np.full(7, 1 / 7), size=5).astype(float)
    scores = ClassAreas.from_pairs(pairs, classes=4).mean_iou(weights)
    np.testing.assert_allclose(scores, [slow_mean_iou(pairs, row) for row in weights])


def test_the_interval_holds_the_score_and_is_the_same_for_the_same_seed() -> None:
    areas = ClassAreas.from_pairs(sample(30, right=0.6), classes=4)
    low, high = bootstrap_interval(areas)
    assert low < areas.mean_iou(np.ones((1, 30)))[0] < high
    assert bootstrap_interval(areas) == (low, high)


def rare(*, hits: int, seed: int = 0) -> list[Any]:
    """30 images of one common class, each with a rare class of its own that is found well."""
    noise = np.random.default_rng(seed).integers(0, 20, 30)
    return [
        np.array([[0, 0, 60 + extra], [0, -1, 100], [n, n, hits + extra], [n, -1, 100 - hits]])
        for n, extra in enumerate(noise, start=1)
    ]


def slow_draws(pairs: list[Any], classes: int) -> list[float]:
    """The means of the draws, one matrix of repeated images each."""
    scores = []
    for start in range(0, 1000, 64):
        if start == 0:
            generator = np.random.default_rng(0)
        size = min(64, 1000 - start)
        for weights in generator.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=size):
            matrix = ConfusionMatrix.empty(classes)
            for rows, weight in zip(pairs, weights, strict=True):
                matrix.add_pairs(rows * [1, 1, weight])
            scores.append(matrix.mean_iou())
    return scores


def test_centred_percentiles_by_hand() -> None:
    # mean of the draws 0.25; their quartiles 0.175 and 0.325 move up by 0.25, the NaN does not count
    draws = np.array([0.1, 0.4, 0.2, np.nan, 0.3])
    assert centred_percentiles(draws, 0.5, level=0.5) == pytest.approx((0.425, 0.575))
    assert all(np.isnan(centred_percentiles(np.array([np.nan]), 0.5)))
    assert all(np.isnan(centred_percentiles(draws, np.nan)))


def test_the_interval_equals_the_slow_version() -> None:
    pairs = sample(12, right=0.6)
    scores, estimate = slow_draws(pairs, 4), slow_mean_iou(pairs, np.ones(12))
    low, high = np.percentile(scores, [2.5, 97.5]) + estimate - np.mean(scores)
    assert bootstrap_interval(ClassAreas.from_pairs(pairs, classes=4)) == pytest.approx((low, high))


def test_the_interval_holds_the_score_of_rare_classes_that_most_draws_miss() -> None:
    pairs = [*rare(hits=70), *([np.array([[31, -1, 50]])] * 20)]  # and one class that is never found
    areas = ClassAreas.from_pairs(pairs, classes=32)
    score = areas.mean_iou(np.ones((1, 50)))[0]
    assert np.percentile(slow_draws(pairs, 32), 97.5) < score  # what the plain percentiles say
    low, high = bootstrap_interval(areas)
    assert low < score < high <= 1


def test_the_paired_interval_holds_the_difference_of_rare_classes() -> None:
    first, second = (ClassAreas.from_pairs(rare(hits=hits), classes=31) for hits in (30, 70))
    change = paired_bootstrap(first, second)
    assert change.low < change.difference < change.high and change.significant
    back = paired_bootstrap(second, first)
    assert (back.low, back.high) == pytest.approx((-change.high, -change.low))


def test_the_interval_stays_within_zero_and_one() -> None:
    areas = ClassAreas.from_pairs([np.array([[0, 0, 1]])] * 9 + [np.array([[1, -1, 5]])], classes=2)
    low, high = bootstrap_interval(areas)
    assert 0 <= low < 0.5 < high <= 1


def test_one_image_drawn_over_and_over_has_no_spread() -> None:
    # by hand: class 0 has 3 of 4 pixels right and nothing else is predicted as it
    areas = ClassAreas.from_pairs([np.array([[0, 0, 3], [0, -1, 1]])], classes=1)
    assert bootstrap_interval(areas) == (0.75, 0.75)


def test_unscored_classes_are_left_out_of_the_mean() -> None:
    pairs = [np.array([[0, 0, 10], [1, 0, 1], [1, 1, 1]])]
    areas = ClassAreas.from_pairs(pairs, classes=2, scored=[1])
    assert areas.mean_iou(np.ones((1, 1)))[0] == pytest.approx(0.5)


def test_a_better_model_is_significantly_better_and_a_twin_is_not() -> None:
    worse = ClassAreas.from_pairs(sample(40, right=0.5), classes=4)
    better = ClassAreas.from_pairs(sample(40, right=0.9), classes=4)
    change = paired_bootstrap(worse, better)
    assert change.significant and change.difference > 0 and change.p_value < 0.05
    twin = paired_bootstrap(worse, worse)
    assert not twin.significant and twin.difference == 0 and twin.p_value == 1


def test_different_images_cannot_be_paired() -> None:
    few, many = (ClassAreas.from_pairs(sample(n, right=0.5), classes=4) for n in (3, 4))
    with pytest.raises(ShapeError, match="same images, got 3 and 4"):
        paired_bootstrap(few, many)
    with pytest.raises(ShapeError, match="at least one image, got none"):
        bootstrap_interval(ClassAreas.from_pairs([], classes=4))
