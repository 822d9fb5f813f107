from __future__ import annotations

import torch
from helpers.towers import build_network, twelve_blocks
from torch import Tensor

from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.reduction.registry import TokenReduction
from ovseg.encoders.reduction.stop import StopConfig, choose_stops, group, sureness
from ovseg.encoders.reduction.transform import alike


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_group(cells: Tensor, side: int) -> list[int]:
    """K-means of one image's (h, w, D), started at the means of side x side equal parts."""
    rows, columns = cells.shape[0] // side, cells.shape[1] // side
    blocks = [(r * rows, c * columns) for r in range(side) for c in range(side)]
    centres = [cells[r : r + rows, c : c + columns].reshape(-1, cells.shape[2]).mean(0) for r, c in blocks]
    patches = cells.reshape(-1, cells.shape[2])
    for round_ in range(6):
        owner = [min(range(len(centres)), key=lambda j, p=p: float((p - centres[j]).norm())) for p in patches]
        if round_ < 5:
            members = [[p for p, own in zip(patches, owner, strict=True) if own == j] for j in range(len(centres))]
            centres = [torch.stack(m).mean(0) if m else c for m, c in zip(members, centres, strict=True)]
    return owner


def slow_sureness(patches: Tensor, groups: list[int]) -> list[float]:
    present = sorted(set(groups))
    means = {
        j: torch.stack([p for p, own in zip(patches, groups, strict=True) if own == j]).mean(0) for j in present
    }
    found = []
    for patch, own in zip(patches, groups, strict=True):
        others = [float((patch - means[j]).norm()) for j in present if j != own]
        found.append(1 - float((patch - means[own]).norm()) / min(others) if others else 1.0)
    return found


def slow_choice(sure: list[float], groups: list[int], count: int, context: int) -> tuple[list[int], list[int]]:
    kept: set[int] = set()
    for number in set(groups):
        members = [place for place, own in enumerate(groups) if own == number]
        kept |= set(sorted(members, key=lambda place: -sure[place])[:context])
    free = sorted((place for place in range(len(sure)) if place not in kept), key=lambda place: -sure[place])
    stopping = sorted(free[:count])
    return [place for place in range(len(sure)) if place not in stopping], stopping


def test_groups_equal_k_means_by_loops() -> None:
    cells = draw(2, 4, 6, 3)
    found = group(cells.flatten(1, 2), (4, 6), 2)
    assert found.tolist() == [slow_group(image, 2) for image in cells]


def test_sureness_and_who_stops_equal_loops() -> None:
    patches, groups = draw(2, 12, 3), torch.tensor([[0, 0, 1, 1, 1, 3, 3, 0, 3, 1, 0, 0], [2] * 12])
    found = sureness(patches, groups)
    going, stopping = choose_stops(patches, groups, 4, context=2)
    for image in range(2):
        expected = slow_sureness(patches[image], groups[image].tolist())
        torch.testing.assert_close(found[image], torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
        chosen = slow_choice(expected, groups[image].tolist(), 4, 2)
        if image == 0:  # in the other image all are equally sure
            assert (going[image].tolist(), stopping[image].tolist()) == chosen
    assert len(going[1]) == 8 and len(stopping[1]) == 4


def test_the_surest_of_a_group_stop_but_for_its_context_by_hand() -> None:
    """Means -9 and 10: places 1 and 4 are the surest of their groups and go on; of the rest, place 3 is."""
    patches = torch.tensor([[[-11.0], [-9.0], [-7.0], [9.5], [10.0], [11.0], [9.5]]], dtype=torch.float64)
    groups = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    sure = [1 - 2 / 21, 1.0, 1 - 2 / 17, 1 - 0.5 / 18.5, 1.0, 1 - 1 / 20, 1 - 0.5 / 18.5]
    torch.testing.assert_close(sureness(patches, groups)[0], torch.tensor(sure, dtype=torch.float64))
    going, stopping = choose_stops(patches, groups, 1, context=1)
    assert going.tolist() == [[0, 1, 2, 4, 5, 6]] and stopping.tolist() == [[3]]


def test_a_tower_in_which_patches_stop_twice_equals_a_loop() -> None:
    tower = OpenClipViT(twelve_blocks().double())
    config = StopConfig(after=(2, 5), share=0.25, context=1, groups=2, temperature=0.1)
    pixels = draw(1, 3, 32, 48)  # 4 x 6 patches, 6 of which stop each time
    tower.walk = TokenReduction(config, 12)
    found = tower.prefix(pixels).values[0]

    def run(values: Tensor, first: int, end: int) -> Tensor:
        for block in tower.blocks[first:end]:
            values = block(values[None])[0]
        return values

    def back(patches: Tensor, now: Tensor, chosen: tuple[list[int], list[int]]) -> Tensor:
        going, stopping = chosen
        weights = alike(patches[stopping][None], patches[going][None], 0.1)[0]
        full = patches.clone()
        full[going], full[stopping] = now, patches[stopping] + weights @ (now - patches[going])
        return full

    values = run(tower.embed(pixels)[0].values[0], 0, 2)
    prefix, first = values[:1], values[1:]
    groups = slow_group(first.reshape(4, 6, -1), 2)
    once = slow_choice(slow_sureness(first, groups), groups, 6, 1)
    values = run(torch.cat([prefix, first[once[0]]]), 2, 5)
    second, groups = values[1:], [groups[place] for place in once[0]]
    twice = slow_choice(slow_sureness(second, groups), groups, 6, 1)
    assert len(once[1]) == len(twice[1]) == 6
    values = run(torch.cat([values[:1], second[twice[0]]]), 5, 11)
    expected = back(first, back(second, values[1:], twice), once)
    torch.testing.assert_close(found, torch.cat([values[:1], expected]), atol=1e-9, rtol=0)


def test_no_patch_stops_where_the_contexts_of_all_groups_need_them() -> None:
    tower = OpenClipViT(build_network("openclip").double())
    pixels = draw(1, 3, 32, 32)  # 16 patches for 4 groups of 5
    plain = tower.prefix(pixels).values
    tower.walk = TokenReduction(StopConfig(after=(1,), share=0.5, groups=2), 3)
    torch.testing.assert_close(tower.prefix(pixels).values, plain)
