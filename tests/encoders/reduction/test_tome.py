from __future__ import annotations

import pytest
import torch
from helpers.towers import build_network
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.reduction.registry import TokenReduction
from ovseg.encoders.reduction.tome import ToMeConfig, merge, pair
from ovseg.encoders.reduction.walk import attend
from ovseg.encoders.timm_vit import TimmViT
from ovseg.encoders.tower import TowerTokens, ViTTower


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_pair(compared: Tensor, most: int, first: int) -> list[int]:
    """The new place of each patch of one image."""
    total = len(compared)
    movers, targets = range(first, total, 2), range(1 - first, total, 2)
    best = {}
    for mover in movers:
        alike = [float(functional.cosine_similarity(compared[mover], compared[each], dim=0)) for each in targets]
        best[mover] = max(zip(alike, targets, strict=True))
    gone = sorted(movers, key=lambda mover: -best[mover][0])[: min(most, total // 2)]
    order = [mover for mover in movers if mover not in gone] + list(targets)
    return [order.index(best[number][1] if number in gone else number) for number in range(total)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("total", [2, 8, 9])
def test_pairs_equal_a_loop_and_no_more_than_half_are_merged(first: int, total: int) -> None:
    compared = draw(2, total, 5)
    for most in (1, 3, 7):
        owner, count = pair(compared, most, first=first)
        assert count == total - min(most, total // 2)
        assert owner.tolist() == [slow_pair(image, most, first) for image in compared]


def test_one_patch_alone_stays() -> None:
    owner, count = pair(draw(2, 1, 5), 1, first=0)
    assert owner.tolist() == [[0], [0]] and count == 1


def test_the_most_alike_neighbours_are_merged_by_hand() -> None:
    """Patches 1 and 3 may move; 3 points where 0 does, 1 between 0 and 2, so 3 goes first."""
    compared = torch.tensor([[[1.0, 0], [1, 1.1], [0, 1], [2, 0]]])
    assert pair(compared, 1, first=1)[0].tolist() == [[1, 0, 2, 1]]
    assert pair(compared, 2, first=1)[0].tolist() == [[0, 1, 1, 0]]


def test_a_merged_patch_is_the_mean_of_all_in_it() -> None:
    patches = torch.tensor([[[1.0], [4.0], [10.0]]])
    values, sizes = merge(patches, torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[0, 0, 1]]), 2)
    assert values.tolist() == [[[2.0], [10.0]]] and sizes.tolist() == [[3.0, 3.0]]


def test_a_token_is_attended_to_as_often_as_the_patches_in_it() -> None:
    tower = OpenClipViT(build_network("openclip").double())
    values, sizes = draw(1, 4, 32), torch.tensor([[1.0, 3.0, 1.0, 2.0]], dtype=torch.float64)
    often = values.repeat_interleave(sizes[0].long(), 1)
    expected = attend(tower, tower.blocks[0], often)[0][:, [0, 1, 4, 5]]
    torch.testing.assert_close(attend(tower, tower.blocks[0], values, sizes)[0], expected, atol=1e-12, rtol=0)


def slow_walk(tower: ViTTower, tokens: TowerTokens, config: ToMeConfig) -> Tensor:
    """The tokens of one image before the last block: each a vector, and the patches that are in it."""
    prefix, total = tokens.prefix, tokens.values.shape[1] - tokens.prefix
    values, inside = list(tokens.values[0]), [[number] for number in range(total)]
    for number in range(config.after, len(tower.blocks) - 1):
        block = tower.blocks[number]
        joint = torch.stack(values)
        counts = torch.tensor([1] * prefix + [len(each) if config.proportional else 1 for each in inside])
        queries, keys, kept = tower.block_qkv(block, TowerTokens(joint[None], prefix, (0, 0)))
        weights = (queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5).exp() * counts
        joint = joint + tower.block_merge(block, weights / weights.sum(-1, keepdim=True) @ kept)[0]
        compared = keys[0].mean(0) if config.by == "keys" else joint
        places = slow_pair(compared[prefix:], round(config.merged * total), prefix % 2)
        sizes = [len(each) for each in inside]
        values, gathered = list(joint[:prefix]), []
        for place in range(max(places) + 1):
            parts = [part for part, where in enumerate(places) if where == place]
            weight = sum(sizes[part] for part in parts)
            values.append(sum(joint[prefix + part] * sizes[part] for part in parts) / weight)
            gathered.append([patch for part in parts for patch in inside[part]])
        inside = gathered
        joint = torch.stack(values)
        values = list(joint + tower.block_feed_forward(block, joint[None])[0])
    owner = {patch: place for place, each in enumerate(inside) for patch in each}
    return torch.stack([*values[:prefix], *(values[prefix + owner[patch]] for patch in range(total))])


@pytest.mark.parametrize("name", ["openclip", "timm-siglip", "timm-dinov2"])
@pytest.mark.parametrize("options", [{}, {"by": "tokens"}, {"proportional": False}])
def test_a_tower_that_merges_equals_a_loop_over_tokens(name: str, options: dict[str, object]) -> None:
    family = OpenClipViT if name == "openclip" else TimmViT
    tower, config = family(build_network(name).double()), ToMeConfig(merged=0.2, **options)
    pixels = draw(2, 3, 24, 40)
    tower.walk = TokenReduction(config, 3)
    found = tower.prefix(pixels).values
    entering, _ = tower.embed(pixels)
    for image in range(2):
        one = TowerTokens(entering.values[image : image + 1], entering.prefix, entering.grid)
        torch.testing.assert_close(found[image], slow_walk(tower, one, config), atol=1e-9, rtol=0)


def test_merging_nothing_is_the_tower_itself() -> None:
    tower = OpenClipViT(build_network("openclip"))
    pixels = draw(1, 3, 24, 40).float()
    plain = tower.prefix(pixels).values
    tower.walk = TokenReduction(ToMeConfig(merged=0.01), 3)
    torch.testing.assert_close(tower.prefix(pixels).values, plain, atol=1e-5, rtol=1e-5)
