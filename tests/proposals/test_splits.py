"""Parts of a label map that hold more than one object."""

import pytest
import torch

from ovseg.errors import ShapeError
from ovseg.proposals.splits import by_affinity, by_watershed
from ovseg.regions.cuts import split_region


def two_discs(bridge: int) -> torch.Tensor:
    """(60, 120) label map: two discs of radius 20 whose middles are 50 pixels apart, joined by a bridge."""
    y, x = torch.meshgrid(torch.arange(60), torch.arange(120), indexing="ij")
    discs = ((y - 30) ** 2 + (x - 35) ** 2 <= 400) | ((y - 30) ** 2 + (x - 85) ** 2 <= 400)
    discs[30 - bridge : 30 + bridge, 35:85] = True
    return torch.where(discs, 2, 0)


def test_a_watershed_parts_two_discs_at_their_bridge() -> None:
    index = two_discs(bridge=3)
    left, right = (mask for mask, _ in by_watershed(index, [2]))
    assert not bool((left & right).any()) and bool(((left | right) == (index == 2)).all())
    assert left[30, 20:55].all() and right[30, 66:105].all()


def test_a_watershed_leaves_one_disc_and_a_wide_bridge_whole() -> None:
    ((whole, score),) = by_watershed(two_discs(bridge=16), [2])
    assert bool((whole == (two_discs(bridge=16) == 2)).all()) and score == 1


def test_large_maps_are_split_at_the_same_place() -> None:
    large = two_discs(bridge=3).repeat_interleave(10, 0).repeat_interleave(10, 1)
    masks = [mask for mask, _ in by_watershed(large, [2])]
    assert len(masks) == 2 and abs(int(masks[0].sum()) - int(masks[1].sum())) < 0.05 * int(masks[0].sum())


def test_a_part_whose_halves_look_unlike_is_split_between_them() -> None:
    index = torch.zeros(64, 128, dtype=torch.int32)
    index[16:48, 16:112] = 1
    structure = torch.zeros(2, 8, 16)
    structure[0, :, :8], structure[1, :, 8:] = 1, 1
    left, right = sorted(
        (mask for mask, _ in by_affinity(index, [1], structure)), key=lambda mask: -int(mask[20, 20])
    )
    assert bool((left == ((index == 1) & (torch.arange(128) < 64))).all())
    assert bool(((left | right) == (index == 1)).all())


def test_a_part_of_one_look_stays_whole_and_crumbs_are_none() -> None:
    index = torch.zeros(64, 128, dtype=torch.int32)
    index[16:48, 16:112] = 1
    index[0, 0] = 1  # a pixel of 8,192
    masks = [mask for mask, _ in by_affinity(index, [1, 5], torch.ones(3, 8, 16))]
    assert len(masks) == 1 and int(masks[0].sum()) == 32 * 96


def test_regions_are_split_as_long_as_cuts_are_cheap() -> None:
    features = torch.zeros(3, 6, 9)
    for number in range(3):
        features[number, :, 3 * number : 3 * number + 3] = 1
    region = torch.ones(6, 9, dtype=torch.bool)
    region[0] = False
    numbers = split_region(features, region)
    assert (numbers[0] == -1).all() and len(numbers[1:].unique()) == 3
    assert all(len(numbers[1:, 3 * part : 3 * part + 3].unique()) == 1 for part in range(3))
    assert split_region(features, region, least=20)[1:].unique().tolist() == [0]
    assert (split_region(features, region & False) == -1).all()


def test_maps_of_another_form_are_refused() -> None:
    with pytest.raises(ShapeError, match="index"):
        next(by_watershed(torch.zeros(3, 4, 5), [0]))
    with pytest.raises(ShapeError, match="structure"):
        next(by_affinity(torch.zeros(4, 5), [0], torch.zeros(4, 5)))
    with pytest.raises(ShapeError, match="region"):
        split_region(torch.zeros(3, 6, 9), torch.zeros(6, 8, dtype=torch.bool))
