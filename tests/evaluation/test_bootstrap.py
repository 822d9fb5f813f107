from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.bootstrap import ClassAreas, bootstrap_interval, paired_bootstrap
from ovseg.evaluation.confusion import ConfusionMatrix, sparse_pairs


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
