from __future__ import annotations

import math

import pytest
import torch
from helpers.towers import build_network
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.reduction.registry import TokenReduction
from ovseg.encoders.reduction.transform import TransformConfig, alike


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_alike(given: Tensor, others: Tensor, temperature: float) -> Tensor:
    """One image: given (m, D) and others (n, D) to weights (m, n)."""
    rows = []
    for one in given:
        powers = [
            math.exp(float(functional.cosine_similarity(one, other, dim=0)) / temperature) for other in others
        ]
        rows.append([power / sum(powers) for power in powers])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_weights_equal_a_loop(temperature: float) -> None:
    given, others = draw(2, 3, 5), draw(2, 7, 5, seed=1)
    found = alike(given, others, temperature)
    for image in range(2):
        expected = slow_alike(given[image], others[image], temperature)
        torch.testing.assert_close(found[image], expected, atol=1e-11, rtol=0)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_no_weight_is_too_small_for_a_fast_product() -> None:
    found = alike(torch.tensor([[[1.0, 0]]]), torch.tensor([[[1.0, 0], [-1, 0.1]]]), 0.022)
    assert found.tolist() == [[[1.0, 0.0]]]  # exp(-91) is no normal float32


def test_a_tower_that_transforms_equals_a_loop() -> None:
    tower, config = (
        OpenClipViT(build_network("openclip").double()),
        TransformConfig(after=1, left=0.4, temperature=0.1),
    )
    pixels = draw(1, 3, 24, 40)
    tower.walk = TokenReduction(config, 3)
    found = tower.prefix(pixels).values[0]
    entering = tower.blocks[0](tower.embed(pixels)[0].values)[0]
    patches = entering[1:]  # 3 x 5
    at = patches[[0, 2, 5, 7, 10, 12]]  # 0.4 of 15 are 6, every 2.5th
    made = slow_alike(at, patches, 0.1) @ patches
    left = tower.blocks[1](torch.cat([entering[:1], made])[None])[0]
    expected = patches + slow_alike(patches, at, 0.1) @ (left[1:] - made)
    torch.testing.assert_close(found, torch.cat([left[:1], expected]), atol=1e-9, rtol=0)
