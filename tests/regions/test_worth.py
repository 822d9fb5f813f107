"""What a region is worth: RIPU's score against loops and by hand, and choices that are spread out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.regions.worth import apart, region_worth, unlike


def slow(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """RIPU's formulas by loops, in float64, over the windows that lie inside."""
    values = probabilities.double()
    count, rows, columns = values.shape
    impurity = torch.zeros(rows - 2 * k, columns - 2 * k, dtype=torch.float64)
    uncertainty = torch.zeros_like(impurity)
    for i in range(k, rows - k):
        for j in range(k, columns - k):
            tally = [0] * count
            entropy = 0.0
            for y in range(i - k, i + k + 1):
                for x in range(j - k, j + k + 1):
                    cell = values[:, y, x].tolist()
                    tally[cell.index(max(cell))] += 1
                    entropy -= sum(p * math.log(p) for p in cell)
            shares = [n / (2 * k + 1) ** 2 for n in tally if n]
            impurity[i - k, j - k] = -sum(q * math.log(q) for q in shares) / math.log(count)
            uncertainty[i - k, j - k] = entropy / (2 * k + 1) ** 2 / math.log(count)
    return impurity, uncertainty


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_worth_of_regions_equals_that_of_loops(k: int) -> None:
    probabilities = torch.randn(4, 7, 9, generator=torch.Generator().manual_seed(k)).mul(3).softmax(0)
    impurity, uncertainty = slow(probabilities, k)
    found = region_worth(probabilities, window=2 * k + 1)
    torch.testing.assert_close(found.impurity.double(), impurity, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.uncertainty.double(), uncertainty, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.score.double(), impurity * uncertainty, atol=1e-5, rtol=1e-5)


def test_the_worth_of_a_region_by_hand() -> None:
    """Of nine cells six say "a" at 0.75 and three say "b" for sure."""
    a, b = [0.75, 0.25], [0.0, 1.0]
    probabilities = torch.tensor([[a, a, b]] * 3).permute(2, 0, 1)
    found = region_worth(probabilities, window=3)
    impurity = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))  # 0.918 bits of shares 2/3 and 1/3
    uncertainty = 2 / 3 * -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))  # 0.811 bits in six cells of nine
    assert found.impurity.item() == pytest.approx(impurity)
    assert found.uncertainty.item() == pytest.approx(uncertainty)
    assert found.score.item() == pytest.approx(0.918296 * 0.540852, abs=1e-5)
    doubled = region_worth(probabilities * 2, window=3)  # probabilities that do not add to 1
    assert doubled.score.item() == pytest.approx(found.score.item())


def test_one_label_that_is_sure_is_worth_nothing() -> None:
    sure = torch.zeros(3, 5, 5)
    sure[1] = 1
    assert float(region_worth(sure, window=3).score.abs().max()) == 0


def test_a_map_smaller_than_a_window_is_one_window() -> None:
    probabilities = torch.rand(2, 2, 5, generator=torch.Generator().manual_seed(0))
    assert region_worth(probabilities, window=3).score.shape == (1, 3)


def test_unusable_maps_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least 2 classes"):
        region_worth(torch.ones(1, 4, 4), window=3)
    with pytest.raises(ShapeError, match="at least 1 cell, got 2 and 0"):
        region_worth(torch.ones(2, 4, 4), window=0)
    with pytest.raises(ShapeError, match="probabilities"):
        region_worth(torch.ones(2, 4), window=3)


def test_regions_of_an_image_do_not_overlap() -> None:
    scores = torch.tensor([[5.0, 4, 1, 2], [3, 4, 0, 0], [0, 0, 0, 3]])
    assert apart(scores, most=9, distance=2) == [(0, 0), (2, 3), (0, 3)]  # (0, 2) is one column from (0, 3)
    assert apart(scores, most=1, distance=2) == [(0, 0)]
    assert apart(torch.zeros(2, 2), most=3, distance=1) == []


def test_a_copy_of_what_was_taken_is_worth_nothing() -> None:
    """After the first, worth is score × (1 − cosine): 0.9 · 0, 0.5 · 1, 0.6 · 0.4."""
    vectors = functional.normalize(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0.6, 0.8]]), dim=1)
    scores, groups = torch.tensor([1.0, 0.9, 0.5, 0.6]), [0, 1, 2, 3]
    # then 0.6 · (1 − 0.8) beside a copy that stays at nothing
    assert unlike(scores, vectors, groups, count=4, each=2, weight=1.0) == [0, 2, 3, 1]
    assert unlike(scores, vectors, groups, count=3, each=2, weight=0.0) == [0, 1, 3]
    assert unlike(scores, vectors, groups, count=9, each=2, weight=0.0) == [0, 1, 3, 2]


def test_an_image_gives_no_more_regions_than_it_may() -> None:
    vectors = torch.eye(5)
    scores = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6])
    assert unlike(scores, vectors, [7, 7, 7, 8, 8], count=5, each=1, weight=1.0) == [0, 3]
    assert unlike(scores, vectors, [7, 7, 7, 8, 8], count=5, each=2, weight=1.0) == [0, 1, 3, 4]
