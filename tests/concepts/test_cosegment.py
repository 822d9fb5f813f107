import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional

from ovseg.concepts.cosegment import (
    context_weights,
    cosegment,
    quick_dtype,
    reference_of,
    support,
)
from ovseg.concepts.released import released_cosegment
from ovseg.errors import ShapeError


def random_maps(k: int, h: int, w: int, *, seed: int = 0, c: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = functional.normalize(torch.randn(k, c, h, w, generator=generator), dim=1)
    return maps, torch.rand(k, h, w, generator=generator)


def slow_support(features: Tensor, weights: Tensor) -> Tensor:
    k, _, h, w = features.shape
    cells = features.flatten(2)
    out = torch.zeros(k, h * w)
    for n in range(k):
        for i in range(h * w):
            bests = [
                max(float(cells[n, :, i] @ cells[m, :, j]) * float(weights[m].flatten()[j]) for j in range(h * w))
                for m in range(k)
                if m != n
            ]
            out[n, i] = sum(bests) / len(bests)
    return out.view(k, h, w)


@settings(max_examples=12, deadline=None)
@given(k=st.integers(2, 4), h=st.integers(1, 3), w=st.integers(1, 4), seed=st.integers(0, 99))
def test_support_equals_a_loop_over_all_pairs_of_cells(k: int, h: int, w: int, seed: int) -> None:
    maps, weights = random_maps(k, h, w, seed=seed)
    torch.testing.assert_close(support(maps, weights), slow_support(maps, weights))
    ones = torch.ones_like(weights)
    torch.testing.assert_close(support(maps), slow_support(maps, ones))


def test_the_released_support_is_that_of_its_slice_of_the_full_affinity() -> None:
    maps, weights = random_maps(4, 2, 3)
    size = 6
    flat = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])  # (k·h·w, C)
    weighted = (flat @ flat.T) * weights.flatten()[None]
    start_stop = [(m * size, m * size + (m + 1) * size) for m in range(4)]
    slices = [weighted[:, start:stop].amax(1) for start, stop in start_stop]
    expected = torch.stack(slices).mean(0).view(4, 2, 3)
    torch.testing.assert_close(released_cosegment(maps, weights).support, expected)


def test_the_common_thing_is_the_seed_and_the_reference() -> None:
    maps, _ = random_maps(5, 4, 5, c=64)
    common = functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(9)), dim=0)
    places = [(0, 0), (1, 4), (3, 2), (2, 2), (0, 3)]
    for image, (row, column) in enumerate(places):
        maps[image, :, row, column] = common
    found = cosegment(maps)
    assert found.seeds.tolist() == [list(place) for place in places]
    torch.testing.assert_close(found.reference, common)
    torch.testing.assert_close(found.seed_support, torch.ones(5))


def test_a_weight_of_zero_keeps_a_cell_from_being_matched() -> None:
    maps, _ = random_maps(3, 3, 3, c=32)
    maps[:, :, 1, 1] = functional.normalize(torch.ones(32), dim=0)
    weights = torch.ones(3, 3, 3)
    weights[:, 1, 1] = 0
    assert cosegment(maps, weights).seed_support.max() < 0.99


def test_permuting_the_images_permutes_the_support() -> None:
    maps, weights = random_maps(4, 3, 2)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(support(maps[order], weights[order]), support(maps, weights)[order])


def test_contexts_weigh_as_the_paper_says() -> None:
    maps, _ = random_maps(2, 1, 1, c=2)
    maps[0, :, 0, 0] = torch.tensor([1.0, 0.0])
    maps[1, :, 0, 0] = torch.tensor([0.0, 1.0])
    weights = context_weights(maps, [torch.tensor([1.0, 0.0])])
    expected = [1 - torch.tensor(1.0).sigmoid(), torch.tensor(0.5)]
    torch.testing.assert_close(weights.flatten(), torch.stack(expected))
    assert context_weights(maps, []).eq(1).all()


def test_the_reference_is_the_unit_mean() -> None:
    torch.testing.assert_close(reference_of(torch.eye(2)), torch.full((2,), 0.5**0.5))


def test_one_image_or_wrong_weights_are_refused() -> None:
    maps, weights = random_maps(3, 2, 2)
    with pytest.raises(ShapeError, match="at least 2 images, got 1"):
        support(maps[:1])
    with pytest.raises(ShapeError, match="weights must be"):
        support(maps, weights[:, :1])


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.int8, 0.01)])
def test_quick_products_are_near_and_their_seeds_are_those_of_float32(dtype: torch.dtype, error: float) -> None:
    maps, weights = random_maps(5, 6, 7, c=33)
    exact, quick = cosegment(maps, weights), cosegment(maps, weights, dtype=dtype)
    torch.testing.assert_close(support(maps, weights, dtype=dtype), exact.support, atol=error, rtol=0)
    assert torch.equal(quick.seeds, exact.seeds)
    torch.testing.assert_close(quick.seed_support, exact.seed_support)


def test_int8_products_do_not_depend_on_the_length_of_the_features() -> None:
    maps, _ = random_maps(3, 4, 4)
    small = maps * torch.tensor([1.0, 1e-3, 1.0])[:, None, None, None]
    rows = support(small, dtype=torch.int8)[0]
    expected = support(small)[0]
    torch.testing.assert_close(rows, expected, atol=0.02 * float(expected.abs().max()), rtol=0)


def test_the_quick_type_is_one_that_the_device_has() -> None:
    assert quick_dtype("cuda") == torch.bfloat16
    assert quick_dtype() in {torch.int8, torch.bfloat16, torch.float32}
