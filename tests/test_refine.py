from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg.errors import ShapeError
from ovseg.images import ImageGeometry
from ovseg.refine import affinity, pamr, refine_maps


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
    refined = refine_maps(image, maps, record, stride=16, iterations=2, dilations=(1,), long_side=30)
    assert refined.classes.tolist() == [2, 4]
    assert refined.maps.shape == (2, 20, 30)
    torch.testing.assert_close(refined.maps[0], torch.full((20, 30), 0.9))
