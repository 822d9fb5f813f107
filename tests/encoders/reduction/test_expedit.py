from __future__ import annotations

import math

import pytest
import torch
from helpers.towers import build_network
from torch import Tensor

from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.reduction.expedit import ExpeditConfig, cluster, put_back
from ovseg.encoders.reduction.registry import TokenReduction

GRID = (4, 6)


def patches(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(1, 24, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_cluster(given: Tensor, config: ExpeditConfig) -> Tensor:
    """Soft k-means by loops: a grid of 4 x 6 patches, of 2 x 3 centres."""
    cells = given[0].reshape(4, 6, 5)
    places = [(r, c) for r in range(2) for c in range(3)]
    centres = {(r, c): cells[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(-1, 5).mean(0) for r, c in places}
    for _ in range(config.iterations):
        sums = {place: torch.zeros(5, dtype=torch.float64) for place in centres}
        totals = dict.fromkeys(centres, 0.0)
        for y in range(4):
            for x in range(6):
                reach = config.window // 2
                near = [(r, c) for r, c in centres if abs(r - y // 2) <= reach and abs(c - x // 2) <= reach]
                away = [float((cells[y, x] - centres[place]).square().sum()) for place in near]
                powers = [math.exp(-config.sharpness * distance) for distance in away]
                for place, power in zip(near, powers, strict=True):
                    sums[place] += power / sum(powers) * cells[y, x]
                    totals[place] += power / sum(powers)
        centres = {place: sums[place] / totals[place] for place in centres}
    return torch.stack([centres[place] for place in places])


@pytest.mark.parametrize("window", [1, 3, 5])
def test_clusters_equal_a_loop_over_patches(window: int) -> None:
    config = ExpeditConfig(after=1, share=0.5, window=window, sharpness=0.1, iterations=3)
    found = cluster(patches(), GRID, config)
    torch.testing.assert_close(found[0], slow_cluster(patches(), config), atol=1e-9, rtol=0)


def test_patches_are_put_back_from_their_nearest_centres() -> None:
    given, centres = patches(), patches(1)[:, :6]
    processed = patches(2)[:, :6]
    found = put_back(given, centres, processed, sharpness=0.1, nearest=2)
    for number, patch in enumerate(given[0]):
        distances = [float((patch - centre).square().sum()) for centre in centres[0]]
        powers = sorted(((math.exp(-0.1 * far), place) for place, far in enumerate(distances)), reverse=True)[:2]
        total = sum(power for power, _ in powers)
        expected = sum(power / total * processed[0, place] for power, place in powers)
        torch.testing.assert_close(found[0, number], expected, atol=1e-9, rtol=0)


def test_patches_of_equal_squares_come_back_as_they_would_without() -> None:
    """Where the patches of a centre are all alike, clustering loses nothing but what attention counts twice."""
    square = torch.zeros(2, 3, 5, dtype=torch.float64)
    square[..., 0] = 40 * torch.arange(6, dtype=torch.float64).view(2, 3)  # far apart: own centres
    given = square.repeat_interleave(2, 0).repeat_interleave(2, 1).reshape(1, 24, 5)
    config = ExpeditConfig(after=1, share=0.5)
    centres = cluster(given, GRID, config)
    torch.testing.assert_close(centres[0], square.reshape(6, 5), atol=1e-4, rtol=0)
    back = put_back(given, centres, centres + 1, sharpness=config.sharpness, nearest=20)
    torch.testing.assert_close(back, given + 1, atol=1e-4, rtol=0)


def test_blocks_in_between_see_fewer_tokens_and_the_last_all() -> None:
    tower, seen = OpenClipViT(build_network("openclip")), []
    pixels = torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(1))
    plain = tower.prefix(pixels).values
    tower.walk = TokenReduction(ExpeditConfig(after=1, share=0.5), len(tower.blocks))
    run = tower.run_block
    tower.run_block = lambda block, values, rope: seen.append(values.shape[1]) or run(block, values, rope)  # type: ignore[method-assign, func-returns-value]
    reduced = tower.prefix(pixels).values
    assert seen == [1 + 6 * 4, 1 + 3 * 2]
    assert reduced.shape == plain.shape and not torch.allclose(reduced, plain)
    twice = tower.prefix(pixels).values  # nothing of the first batch is left
    torch.testing.assert_close(twice, reduced)
