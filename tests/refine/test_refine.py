from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg.errors import MissingDependencyError, ShapeError
from ovseg.images.geometry import ImageGeometry
from ovseg.images.resize import restore
from ovseg.refine import affinity, dense_crf, guided_filter, pamr, refine_maps
from ovseg.refine.maps import border_cells
from ovseg.refine.pamr import pamr_within

pamr_module = importlib.import_module("ovseg.refine.pamr")  # its name in the package is the function's


def slow_pamr(image: Tensor, maps: Tensor, *, iterations: int, dilations: tuple[int, ...]) -> Tensor:
    """PAMR, pixel by pixel, in double precision."""
    colours, height, width = image.shape
    maps = maps.clone()

    def neighbours(y: int, x: int) -> list[tuple[int, int]]:
        return [
            (min(max(y + dy * d, 0), height - 1), min(max(x + dx * d, 0), width - 1))
            for d in dilations
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if dy or dx
        ]

    weights = {}
    for y in range(height):
        for x in range(width):
            around = neighbours(y, x)
            distance = [0.0] * len(around)
            for c in range(colours):
                values = torch.tensor([image[c, a, b].item() for a, b in around] + [image[c, y, x].item()])
                spread = values.double().std(unbiased=False).item()
                for number, (a, b) in enumerate(around):
                    step = abs(image[c, a, b].item() - image[c, y, x].item())
                    distance[number] += step / (0.1 * spread + 1e-8) / colours
            powers = [math.exp(-value) for value in distance]
            weights[y, x] = [power / sum(powers) for power in powers]
    for _ in range(iterations):
        after = torch.zeros_like(maps)
        for (y, x), shares in weights.items():
            for share, (a, b) in zip(shares, neighbours(y, x), strict=True):
                after[:, y, x] += share * maps[:, a, b]
        maps = after
    return maps


def test_pamr_equals_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 6, 9, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 6, 9, generator=generator, dtype=torch.float64)
    fast = pamr(image[None], maps[None], iterations=3, dilations=(1, 2))[0]
    torch.testing.assert_close(fast, slow_pamr(image, maps, iterations=3, dilations=(1, 2)), atol=1e-6, rtol=0)


def test_pamr_is_the_same_with_and_without_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 3, 9, 11, generator=generator, dtype=torch.float64)
    maps = torch.rand(1, 4, 9, 11, generator=generator, dtype=torch.float64)
    some = torch.rand(9, 11, generator=generator) < 0.4
    found = []
    for entries in (1 << 23, 0):
        monkeypatch.setattr(pamr_module, "_MATRIX_ENTRIES", entries)
        found += [pamr_within(image, maps, where, iterations=4, dilations=(1, 3, 12)) for where in (None, some)]
    torch.testing.assert_close(found[0], found[2], atol=1e-12, rtol=0)
    torch.testing.assert_close(found[1], found[3], atol=1e-12, rtol=0)


def test_pamr_within_some_pixels_leaves_the_others_as_they_are() -> None:
    generator = torch.Generator().manual_seed(6)
    image, maps = (torch.rand(1, count, 7, 8, generator=generator, dtype=torch.float64) for count in (3, 2))
    some = torch.rand(7, 8, generator=generator) < 0.5
    slow = maps[0]
    for _ in range(3):
        slow = torch.where(some, slow_pamr(image[0], slow, iterations=1, dilations=(1, 2)), slow)
    found = pamr_within(image, maps, some, iterations=3, dilations=(1, 2))
    torch.testing.assert_close(found[0], slow, atol=1e-6, rtol=0)
    assert torch.equal(found[0][:, ~some], maps[0][:, ~some])


def test_every_pixel_at_a_border_draws_on_a_cell_at_one() -> None:
    maps = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(7))
    maps[0, :, :5] += 0.8
    cells, best = border_cells(maps), maps.argmax(0)
    for y, x in product(range(6), range(9)):
        around = best[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert cells[y, x] == (around != best[y, x]).any()
    record = ImageGeometry((60, 90), (60, 90), (60, 90))
    index = restore(maps[None], record, stride=10)[0].argmax(0)
    near = restore(cells[None, None].float(), record, stride=10)[0, 0] > 0
    assert not near.all()
    for axis in (0, 1):
        size = index.shape[axis] - 1
        differ = index.narrow(axis, 1, size) != index.narrow(axis, 0, size)
        assert (
            differ.any() and near.narrow(axis, 1, size)[differ].all() and near.narrow(axis, 0, size)[differ].all()
        )


def test_pamr_keeps_its_deviation_exact_where_colours_are_large_and_alike() -> None:
    """As the variance of all values minus the square of the mean, it would be lost in single precision."""
    image = 1000 + 0.01 * torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(4))
    maps = torch.rand(1, 2, 9, 11, generator=torch.Generator().manual_seed(5))
    exact = slow_pamr(image[0].double(), maps[0].double(), iterations=1, dilations=(1, 2))
    torch.testing.assert_close(
        pamr(image, maps, iterations=1, dilations=(1, 2))[0].double(), exact, atol=1e-4, rtol=0
    )


def test_pamr_moves_a_border_to_the_edge_of_the_image() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 1.0
    maps = torch.zeros(1, 1, 16, 16)
    maps[..., 5:] = 1.0  # three columns too far to the left
    fine = pamr(image, maps, iterations=40, dilations=(1, 2))
    assert (fine[0, 0, :, 8:] > 0.99).all()
    assert fine[0, 0, :, 6].mean() < 0.7


def test_pamr_refuses_maps_of_another_size() -> None:
    with pytest.raises(ShapeError, match="maps must be"):
        pamr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 9))


def test_affinity_by_hand() -> None:
    structure = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])  # two equal cells, one orthogonal
    weights = affinity(structure, temperature=1.0)
    e = math.e
    assert weights[0].tolist() == pytest.approx([e / (2 * e + 1), e / (2 * e + 1), 1 / (2 * e + 1)])
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


def test_refining_keeps_only_classes_that_can_win() -> None:
    maps = torch.zeros(5, 4, 6)
    maps[2], maps[4] = 0.9, 0.1
    record = ImageGeometry((40, 60), (64, 96), (64, 96))
    image = np.zeros((40, 60, 3), np.uint8)
    refined = refine_maps(
        image, maps, record, stride=16, long_side=30, options={"iterations": 2, "dilations": (1,)}
    )
    assert refined.classes.tolist() == [2, 4]
    assert refined.maps.shape == (2, 20, 30)
    torch.testing.assert_close(refined.maps[0], torch.full((20, 30), 0.9))


def test_maps_are_refined_on_the_photo_that_they_belong_to() -> None:
    """Cells put the border at column 30 of 60, the photo has its edge at column 33; refined, it lies there."""
    maps = torch.zeros(2, 4, 6)
    maps[0, :, :3] = maps[1, :, 3:] = 1
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 33:] = 255
    record = ImageGeometry((40, 60), (64, 96), (64, 96))
    refined = refine_maps(image, maps, record, stride=16, long_side=60, options={"iterations": 30})
    coarse = restore(maps[None], record, stride=16)[0]
    assert (coarse[0] > coarse[1]).sum(1).unique().tolist() == [30]
    assert (refined.maps[0] > refined.maps[1]).sum(1).unique().tolist() == [33]


def slow_guided(image: Tensor, maps: Tensor, *, radius: int, epsilon: float) -> Tensor:
    """The guided filter, window by window: ridge regression by the normal equations."""
    _, height, width = image.shape
    fits: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def window(y: int, x: int) -> list[tuple[int, int]]:
        rows = range(max(0, y - radius), min(height, y + radius + 1))
        return [(a, b) for a in rows for b in range(max(0, x - radius), min(width, x + radius + 1))]

    for y in range(height):
        for x in range(width):
            colours = torch.stack([image[:, a, b] for a, b in window(y, x)])
            values = torch.stack([maps[:, a, b] for a, b in window(y, x)])
            centred = colours - colours.mean(0)
            covariance = centred.T @ centred / len(colours) + epsilon * torch.eye(3, dtype=colours.dtype)
            slope = torch.linalg.inv(covariance) @ (centred.T @ (values - values.mean(0)) / len(colours))
            fits[y, x] = (slope, values.mean(0) - colours.mean(0) @ slope)
    out = torch.zeros_like(maps)
    for y in range(height):
        for x in range(width):
            parts = [image[:, y, x] @ fits[place][0] + fits[place][1] for place in window(y, x)]
            out[:, y, x] = torch.stack(parts).mean(0)
    return out


def test_the_guided_filter_equals_a_regression_in_every_window() -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(3, 6, 8, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 6, 8, generator=generator, dtype=torch.float64)
    fast = guided_filter(image[None], maps[None], radius=2, epsilon=0.01)[0]
    torch.testing.assert_close(fast, slow_guided(image, maps, radius=2, epsilon=0.01), atol=1e-9, rtol=0)


def test_the_crf_moves_a_border_to_the_edge_of_the_image() -> None:
    pytest.importorskip("pydensecrf.densecrf", reason="the extra 'crf' is not installed")
    image = torch.zeros(1, 3, 24, 24)
    image[..., 12:] = 1.0
    maps = torch.full((1, 2, 24, 24), 0.25)
    maps[:, 0, :, :9], maps[:, 1, :, 9:] = 0.7, 0.7  # three columns too far to the left
    fine = dense_crf(image, maps)
    assert (fine[0].argmax(0)[:, :12] == 0).all()
    assert (fine[0].argmax(0)[:, 12:] == 1).all()


def test_a_missing_crf_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ovseg\[crf\]'"):
        dense_crf(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("method", [guided_filter, dense_crf])
def test_other_refinements_refuse_maps_of_another_size(method: Callable[..., Tensor]) -> None:
    with pytest.raises(ShapeError, match="maps must be"):
        method(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 9))


def test_at_most_sixteen_classes_are_refined_those_that_win_most() -> None:
    maps = torch.zeros(40, 6, 10)
    for cell in range(60):
        maps[cell % 30 if cell < 40 else 39, cell // 10, cell % 10] = 1.0
    record = ImageGeometry((12, 20), (12, 20), (12, 20))
    refined = refine_maps(np.zeros((12, 20, 3), np.uint8), maps, record, stride=2, long_side=20)
    assert len(refined.classes) == 16
    assert 39 in refined.classes.tolist()


def test_classes_that_are_seldom_second_are_not_refined() -> None:
    maps = torch.zeros(4, 10, 10)
    maps[0] = 0.6
    maps[1] = 0.3
    maps[2, 0, 0] = 0.4  # second in one cell of a hundred
    maps[3, 5, :3] = 0.5  # second in three
    record = ImageGeometry((20, 20), (20, 20), (20, 20))
    refined = refine_maps(np.zeros((20, 20, 3), np.uint8), maps, record, stride=2, long_side=20)
    assert refined.classes.tolist() == [0, 1, 3]


def test_borders_alone_give_what_all_pixels_give() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 22:] = 255
    maps = torch.zeros(2, 10, 10)
    maps[0, :, :5], maps[1, :, 5:] = 1, 1  # the border is two pixels off
    record = ImageGeometry((40, 40), (40, 40), (40, 40))
    everywhere, near = (
        refine_maps(image, maps, record, stride=4, long_side=40, borders_only=only).maps.argmax(0)
        for only in (False, True)
    )
    assert torch.equal(everywhere, near) and (near[:, :22] == 0).all() and (near[:, 22:] == 1).all()
