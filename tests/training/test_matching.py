"""Points, matching and losses of masks against loops, every permutation, and those of transformers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.training.matching import (
    CLASS,
    DICE,
    MASK,
    at_points,
    mask_costs,
    mask_losses,
    match,
    random_points,
    unsure_points,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def binary(*shape: int, seed: int = 0) -> Tensor:
    return (draw(*shape, seed=seed) > 0).float()


def test_points_take_the_value_of_centres_and_the_means_between_them() -> None:
    maps = torch.tensor([[[0.0, 4.0], [8.0, 12.0]], [[1.0, 1.0], [1.0, 5.0]]])
    places = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.5, 0.25], [0.5, 0.5], [0.0, 1.0]])
    expected = torch.tensor([[0.0, 4.0, 2.0, 6.0, 8.0], [1.0, 1.0, 1.0, 2.0, 1.0]])
    torch.testing.assert_close(at_points(maps, places), expected)
    torch.testing.assert_close(at_points(maps, places.expand(2, -1, -1)), expected)
    with pytest.raises(ShapeError, match=r"maps must be \(n, h, w\)"):
        at_points(maps[0], places)


def test_costs_equal_a_loop_over_pairs_and_points() -> None:
    masks, truth, known = draw(3, 7), binary(2, 7, seed=1), binary(7, seed=2)
    entropy, dice = mask_costs(masks, truth, known)
    for row, column in itertools.product(range(3), range(2)):
        total = shared = area = 0.0
        for point in range(7):
            chance, wanted = float(masks[row, point].sigmoid()), float(truth[column, point])
            weight = float(known[point])
            total -= weight * (wanted * math.log(chance) + (1 - wanted) * math.log(1 - chance))
            shared += 2 * weight * chance * wanted
            area += weight * (chance + wanted)
        assert float(entropy[row, column]) == pytest.approx(total / float(known.sum()), rel=1e-4)
        assert float(dice[row, column]) == pytest.approx(1 - (shared + 1) / (area + 1), rel=1e-4)


def test_costs_and_losses_are_those_of_mask2former_where_every_point_is_known() -> None:
    from transformers.models.mask2former.modeling_mask2former import (
        dice_loss,
        pair_wise_dice_loss,
        pair_wise_sigmoid_cross_entropy_loss,
        sigmoid_cross_entropy_loss,
    )

    masks, truth, known = draw(4, 9), binary(3, 9, seed=1), torch.ones(9)
    entropy, dice = mask_costs(masks, truth, known)
    torch.testing.assert_close(entropy, pair_wise_sigmoid_cross_entropy_loss(masks, truth))
    torch.testing.assert_close(dice, pair_wise_dice_loss(masks, truth))
    entropy, dice = mask_losses(masks[:3], truth, known.expand(3, -1))
    torch.testing.assert_close(entropy, sigmoid_cross_entropy_loss(masks[:3], truth, 3))
    torch.testing.assert_close(dice, dice_loss(masks[:3], truth, 3))


@pytest.mark.parametrize("queries", [5, 2])
def test_the_match_is_the_cheapest_of_all_permutations(queries: int) -> None:
    logits, masks = draw(queries, 4, seed=3), 2 * draw(queries, 20)
    classes, truth, known = torch.tensor([2, 0, 2]), binary(3, 20, seed=1), binary(20, seed=2)
    rows, columns = match(logits, masks, classes, truth, known)
    entropy, dice = mask_costs(masks, truth, known)
    cost = MASK * entropy + DICE * dice - CLASS * logits.softmax(-1)[:, classes]
    pairs = min(queries, 3)
    cheapest = min(
        sum(float(cost[row, column]) for row, column in zip(some, others, strict=True))
        for some in itertools.permutations(range(queries), pairs)
        for others in itertools.combinations(range(3), pairs)
    )
    assert len(rows) == len(set(rows.tolist())) == pairs == len(set(columns.tolist()))
    assert float(cost[rows, columns].sum()) == pytest.approx(cheapest, rel=1e-5)


def test_a_match_without_objects_is_empty_and_wrong_ones_are_refused() -> None:
    none = torch.zeros(0, 6)
    rows, columns = match(draw(2, 4), draw(2, 6), torch.zeros(0, dtype=torch.long), none, torch.ones(6))
    assert not len(rows) and not len(columns)
    assert mask_losses(none, none, none) == (0, 0)
    with pytest.raises(ShapeError, match=r"classes must be in \[0, 3\), got \[3\]"):
        match(draw(2, 4), draw(2, 6), torch.tensor([3]), binary(1, 6), torch.ones(6))
    with pytest.raises(ShapeError, match="finite"):
        match(draw(2, 4), draw(2, 6) * torch.nan, torch.tensor([0]), binary(1, 6), torch.ones(6))


def test_losses_leave_out_what_is_not_known() -> None:
    masks, truth = torch.tensor([[2.0, -1.0, 50.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    entropy, dice = mask_losses(masks, truth, torch.tensor([[1.0, 1.0, 0.0]]))
    expected = functional.binary_cross_entropy_with_logits(masks[:, :2], truth[:, :2])
    assert float(entropy) == pytest.approx(float(expected))
    first, second = torch.tensor([2.0, -1.0]).sigmoid().tolist()
    assert float(dice) == pytest.approx(1 - (2 * first + 1) / (first + second + 1 + 1))


def test_most_points_lie_where_a_mask_is_unsure() -> None:
    masks = torch.full((1, 8, 8), 9.0)
    masks[:, :, 4:] = -9  # unsure only at the border in the middle
    generator = torch.Generator().manual_seed(0)
    found = unsure_points(masks, 200, generator)
    assert found.shape == (1, 200, 2)
    near = ((found[0, :, 0] - 0.5).abs() < 1 / 16 + 1e-6).float()
    assert float(near[:150].mean()) > 0.45 > 0.3 > float(near[150:].mean())  # an eighth of all places
    again = unsure_points(masks, 200, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, again)
    assert random_points(5, generator).shape == (5, 2)
