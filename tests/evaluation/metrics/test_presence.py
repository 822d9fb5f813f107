from __future__ import annotations

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.presence import presence_from_maps, presence_from_scores, presence_scores
from ovseg.evaluation.metrics.rows import ImageRow


def test_presence_of_a_case_computed_by_hand() -> None:
    scores = presence_scores([[0, 1], [2]], [[0], [1, 2]], [[0, 1, 2], [0, 1, 2]])
    assert scores.precision == scores.recall == pytest.approx(2 / 3)
    assert scores.absent_false_positive_rate == pytest.approx(1 / 3)


def test_presence_equals_the_count_over_single_questions() -> None:
    generator = np.random.default_rng(0)
    claimed, present, asked = generator.random((3, 40, 7)) < 0.5
    lists = [[np.flatnonzero(row).tolist() for row in table] for table in (claimed, present, asked)]
    right = (claimed & present & asked).sum()
    scores = presence_scores(*lists)
    assert scores.precision == pytest.approx(right / (claimed & asked).sum())
    assert scores.recall == pytest.approx(right / (present & asked).sum())
    absent = asked & ~present
    assert scores.absent_false_positive_rate == pytest.approx((absent & claimed).sum() / absent.sum())


def test_presence_by_area_leaves_out_specks() -> None:
    pairs = np.array([[0, 0, 9995], [0, 1, 5]])
    row = ImageRow("a", pairs, candidates=(0, 1), seconds=0.1)
    assert presence_from_maps([row]).absent_false_positive_rate == 0
    assert presence_from_maps([row], area_fraction=0.0001).absent_false_positive_rate == 1
    assert presence_from_scores([row]) is None


def test_presence_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match="one entry an image, got 1, 0 and 1"):
        presence_scores([[0]], [], [[0]])
