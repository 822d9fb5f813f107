"""Normalised cuts against whole decompositions, flood fills and pictures whose parts are known."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from ovseg.errors import ShapeError
from ovseg.regions import RegionsConfig, build_regions, normalized_cut, object_masks, salient_object
from ovseg.regions.cuts import _halve

GRID = (9, 13)


def smooth(seed: int, *, channels: int = 6) -> torch.Tensor:
    """(C, 9, 13) features that change slowly over the map."""
    coarse = torch.randn(1, channels, 3, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=GRID, mode="bicubic")[0]


@pytest.fixture
def blobs():
    """(12, 14) numbers, 0 for the ground and 1 to 3 for blobs; and noisy features (8, 12, 14) of them."""
    numbers = torch.zeros(12, 14, dtype=torch.long)
    numbers[1:5, 2:7], numbers[7:11, 1:5], numbers[3:10, 9:13] = 1, 2, 3
    noise = torch.randn(8, 12, 14, generator=torch.Generator().manual_seed(0))
    return numbers, torch.eye(8)[:, numbers] + 0.05 * noise


def graph(vectors, threshold):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(unit @ unit.T > threshold, 1.0, 1e-5)


def dense_solution(weights):
    degrees = np.diag(weights.sum(1))
    return eigh(degrees - weights, degrees)[1][:, 1]


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_equals_the_whole_decomposition(seed):
    vectors = smooth(seed).flatten(1).T.double()
    unit = torch.nn.functional.normalize(vectors, dim=1).numpy()
    half, weights = _halve(unit, 0.3), graph(vectors.numpy(), 0.3)
    slow = dense_solution(weights)
    slow = slow * np.sign(slow[np.abs(slow).argmax()])
    np.testing.assert_allclose(half.values, slow, atol=1e-7)
    one = np.flatnonzero(slow > slow.mean())
    other = np.flatnonzero(slow <= slow.mean())
    severed = sum(weights[i, j] for i in one for j in other)
    assert half.cost == pytest.approx(severed / weights[one].sum() + severed / weights[other].sum())


def flood(side, seed):
    found, stack = np.zeros_like(side), [seed]
    while stack:
        row, column = stack.pop()
        if 0 <= row < GRID[0] and 0 <= column < GRID[1] and side[row, column] and not found[row, column]:
            found[row, column] = True
            stack += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return found


def slow_part(vectors, free, threshold, *, corners):
    solution = dense_solution(graph(vectors[free], threshold))
    solution = solution * np.sign(solution[np.abs(solution).argmax()])
    side, end = solution > solution.mean(), solution.argmax()
    whole = np.zeros(GRID, bool)
    whole[np.unravel_index(free, GRID)] = side
    held = sum(bool(whole[row, column]) for row in (0, -1) for column in (0, -1))
    if corners and held >= 3:
        whole[np.unravel_index(free, GRID)] = ~side
        end = solution.argmin()
    return flood(whole, np.unravel_index(free[end], GRID))


@pytest.mark.parametrize("seed", range(4))
def test_the_parts_of_an_image_equal_the_slow_version(seed):
    features = smooth(seed)
    vectors = features.flatten(1).T.double().numpy()
    slow = np.full(GRID, -1)
    for number in range(3):
        free = np.flatnonzero(slow < 0)
        if len(free) <= 5:
            break
        slow[slow_part(vectors, free, 0.3, corners=True)] = number
    found = normalized_cut(features, threshold=0.3, most=3, cost=2.1)
    assert found.dtype == torch.int64 and found.max() == 2
    np.testing.assert_array_equal(found.numpy(), slow)
    assert torch.equal(normalized_cut(7 * features, threshold=0.3, most=3, cost=2.1), found)


@pytest.mark.parametrize("seed", range(4))
def test_the_salient_object_equals_the_slow_version(seed):
    vectors = smooth(seed).flatten(1).T.double().numpy()
    slow = slow_part(vectors, np.arange(len(vectors)), 0.2, corners=False)
    np.testing.assert_array_equal(salient_object(smooth(seed)).numpy(), slow)


def test_known_blobs_are_the_parts(blobs):
    numbers, features = blobs
    parts = normalized_cut(features)
    for blob in (1, 2, 3):
        assert (parts[numbers == blob] == parts[numbers == blob][0]).all()
        assert (parts == parts[numbers == blob][0]).sum() == (numbers == blob).sum()
    assert parts.max() == 2 and (parts[numbers == 0] == -1).all()  # the ground is what is left


def test_known_blobs_are_the_objects(blobs):
    numbers, features = blobs
    masks = object_masks(features)
    assert masks.dtype == torch.bool and masks.shape == (3, 12, 14)
    assert sorted(int(numbers[mask].unique()) for mask in masks) == [1, 2, 3]
    assert all(int(mask.sum()) == int((numbers == numbers[mask][0]).sum()) for mask in masks)
    assert len(object_masks(features, most=1)) == 1
    assert len(object_masks(features, most=3, least=0.14)) == 1  # blobs hold 12, 10 and 17 %
    salient = salient_object(features)
    assert len(numbers[salient].unique()) == 1


def test_an_image_without_parts_is_left_whole():
    assert (normalized_cut(torch.ones(4, 6, 6)) == -1).all()  # every cut of it costs 1
    assert (normalized_cut(torch.ones(4, 6, 6), cost=2.1, most=2) >= 0).any()
    assert (normalized_cut(torch.rand(4, 1, 2)) == -1).all()
    assert not salient_object(torch.rand(4, 1, 1)).any() and object_masks(torch.rand(4, 1, 1)).shape == (0, 1, 1)


def test_cells_that_are_all_unlike_are_cut_without_an_error():
    features = torch.eye(36).view(36, 6, 6)
    assert normalized_cut(features, most=2).shape == (6, 6)
    assert object_masks(torch.zeros(3, 6, 6)).shape[1:] == (6, 6)


def test_as_a_source_of_regions_large_maps_are_averaged_first(blobs):
    _, features = blobs
    image = torch.zeros(48, 56, 3, dtype=torch.uint8)
    fine = features.repeat_interleave(2, 1).repeat_interleave(2, 2)  # (8, 24, 28)
    regions = build_regions(RegionsConfig(source="normalized_cut", options={"cells": 168}))(image, fine)
    assert regions.dtype == torch.int32
    expected = normalized_cut(features).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(regions.long(), expected)


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"features must be \(C, h, w\), got \(4, 6\)"):
        normalized_cut(torch.zeros(4, 6))
    with pytest.raises(ShapeError, match=r"structure must be \(S, h, w\)"):
        build_regions(RegionsConfig(source="normalized_cut"))(
            torch.zeros(4, 4, 3, dtype=torch.uint8), torch.ones(4)
        )
