"""Every recipe against a slow float64 version written from the formulas, on a grid that is not square."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.blocks import (
    FINE,
    GRID,
    dot,
    make_block,
    middle_weights,
    nearness,
    of_image,
    region_table,
    rows_softmax,
    self_attention,
    weighted,
)

from ovseg.attention import RECIPES, LastBlock, RecipeConfig, find_recipe
from ovseg.attention.self_attention import neighbourhood
from ovseg.attention.structured import merge_regions, resize_numbers, resize_patches
from ovseg.errors import ConfigError, ModelError, ShapeError

SLOW = {
    "plain": lambda q, k, v, prefix: self_attention(q, k, v),
    "maskclip": lambda q, k, v, prefix: v.double(),
    "sclip": lambda q, k, v, prefix: self_attention(q, q, v) + self_attention(k, k, v),
    "clearclip": lambda q, k, v, prefix: self_attention(q, q, v),
    "naclip": lambda q, k, v, prefix: self_attention(k, k, v, nearness(prefix)),
}


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("name", SLOW)
def test_self_attention_recipes_equal_the_loops(name, prefix):
    block = make_block(prefix=prefix)
    attended = RECIPES[name].run(block, {})
    values = attended.values
    assert (attended.branches, attended.prefix, attended.grid) == ((), prefix, GRID)
    for image in range(2):
        for head in range(2):
            slow = SLOW[name](block.q[image, head], block.k[image, head], block.v[image, head], prefix)
            torch.testing.assert_close(values[image, head].double(), slow, atol=1e-5, rtol=1e-5)


def bilinear(values, grid):
    """(h·w, d) on GRID to ``grid``, pixel centres aligned, by hand."""
    maps = values.double().view(*GRID, -1)
    out = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            y = min(max((row + 0.5) * GRID[0] / grid[0] - 0.5, 0), GRID[0] - 1)
            x = min(max((column + 0.5) * GRID[1] / grid[1] - 0.5, 0), GRID[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, GRID[0] - 1), min(left + 1, GRID[1] - 1)
            dy, dx = y - top, x - left
            out.append(
                (1 - dy) * ((1 - dx) * maps[top, left] + dx * maps[top, right])
                + dy * ((1 - dx) * maps[bottom, left] + dx * maps[bottom, right])
            )
    return torch.stack(out)


def cells(structure):
    return list(structure.flatten(1).T)


def proxy_weights(structure, shift=1.2, sharpness=3.0):
    vectors = cells(structure)
    cosines = [[dot(one, other) for other in vectors] for one in vectors]
    mean = sum(map(sum, cosines)) / len(vectors) ** 2
    rows = []
    for row, line in enumerate(cosines):
        logits = [(value - shift * mean) * sharpness for value in line]
        kept = [logit if logit >= 0 or column == row else -math.inf for column, logit in enumerate(logits)]
        rows.append(rows_softmax(kept))
    return rows


@pytest.mark.parametrize("fine", [FINE, GRID])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_proxyclip_equals_the_loops(prefix, fine):
    block = make_block(prefix=prefix, fine=fine)
    attended = RECIPES["proxyclip"].run(block, {})
    assert (attended.prefix, attended.grid) == (0, fine)
    for image in range(2):
        weights = proxy_weights(block.structure[image])
        for head in range(2):
            patches = bilinear(block.v[image, head, prefix:], fine)
            slow = torch.stack([weighted(row, patches) for row in weights])
            torch.testing.assert_close(attended.values[image, head].double(), slow, atol=1e-5, rtol=1e-5)


def corr_weights(structure, regions, sharpness=4.0):
    vectors = cells(structure)
    cosines = [[dot(one, other) for other in vectors] for one in vectors]
    mean = sum(map(sum, cosines)) / len(vectors) ** 2
    rows = []
    for row, line in enumerate(cosines):
        region = regions[row]
        logits = []
        for column, value in enumerate(line):
            outside = 0 in (region, regions[column])
            seen = value > mean if outside else regions[column] == region
            logits.append(sharpness * value if seen or column == row else -math.inf)
        rows.append(rows_softmax(logits))
    return rows


@pytest.mark.parametrize(("share", "summary"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5), (0.7, 0.3)])
@pytest.mark.parametrize("prefix", [1, 5])
def test_corrclip_equals_the_loops(prefix, share, summary):
    block = make_block(prefix=prefix)
    attended = RECIPES["corrclip"].run(block, {"merge": 0.02, "spatial": share, "semantic": summary})
    merged = merge_regions(block.structure, block.regions, distance=0.02)
    assert [branch.weight for branch in attended.branches] == [weight for weight in (share, summary) if weight]
    for image in range(2):
        weights = corr_weights(block.structure[image], merged[image].flatten().tolist())
        shared = [(attended.values, block.v)]
        if share:
            shared.append((attended.branches[0].values, block.spatial))
        for found, values in shared:
            for head in range(2):
                fine = bilinear(values[image, head, prefix:], FINE)
                slow = torch.stack([weighted(row, fine) for row in weights])
                torch.testing.assert_close(found[image, head].double(), slow, atol=1e-5, rtol=1e-5)
    if summary:
        painted = attended.branches[-1].values
        for image, row, column in ((0, 0, 0), (1, 3, 5), (1, 2, 1)):
            place = row * GRID[0] // FINE[0] * FINE[0] // GRID[0], column * GRID[1] // FINE[1] * FINE[1] // GRID[1]
            region = int(merged[image][place])
            assert torch.equal(painted[image, row * FINE[1] + column], region_table(2)[image, region])


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_of_two_equals_two_of_one(name):
    block = make_block(prefix=1)
    both = RECIPES[name].run(block, {})
    for image in range(2):
        alone = of_image(block, image)
        one = RECIPES[name].run(alone, {})
        torch.testing.assert_close(one.values, both.values[image : image + 1])
        for mine, ours in zip(one.branches, both.branches, strict=True):
            torch.testing.assert_close(mine.values, ours.values[image : image + 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_keep_half_precision(name, dtype):
    block = make_block(prefix=1)
    half = LastBlock(
        *(tensor.to(dtype) for tensor in (block.q, block.k, block.v)),
        1,
        GRID,
        structure=block.structure.to(dtype),
        regions=block.regions,
        spatial=block.spatial.to(dtype),
        tower=block.tower.to(dtype),
    )
    values = RECIPES[name].run(half, {}).values
    assert values.dtype == dtype and values.isfinite().all()


def merged_by_hand(vectors, numbers, distance):
    """Regions joined through chains of pairs, by repeated relabelling; the lowest number stays apart."""
    lowest, *known = sorted(set(numbers))
    means = {}
    for region in known:
        total = sum(vectors[place].double() for place, number in enumerate(numbers) if number == region)
        means[region] = total / total.norm()
    best = max((dot(means[one], means[other]) for one in known for other in known), default=0)
    label = {region: region for region in known}
    for _ in known:
        for one in known:
            for other in known:
                if best - dot(means[one], means[other]) <= distance:
                    label[one] = label[other] = min(label[one], label[other])
    order = sorted(set(label.values()))
    return [0 if number == lowest else order.index(label[number]) + 1 for number in numbers]


@pytest.mark.parametrize("distance", [0.0, 0.02, 0.05, 0.3])
def test_merging_regions_equals_the_loops(distance):
    block = make_block(prefix=0, seed=3)
    merged = merge_regions(block.structure, block.regions, distance=distance)
    for image in range(2):
        slow = merged_by_hand(cells(block.structure[image]), block.regions[image].flatten().tolist(), distance)
        assert merged[image].flatten().tolist() == slow


def test_an_image_without_regions_attends_by_likeness_alone():
    block = make_block(prefix=1)
    empty = torch.full_like(block.regions, -1)
    assert (merge_regions(block.structure, empty, distance=0.2) == 0).all()
    bare = replace(block, regions=empty)
    attended = RECIPES["corrclip"].run(bare, {})
    for image in range(2):
        weights = corr_weights(block.structure[image], [0] * (FINE[0] * FINE[1]))
        fine = bilinear(block.v[image, 0, 1:], FINE)
        slow = torch.stack([weighted(row, fine) for row in weights])
        torch.testing.assert_close(attended.values[image, 0].double(), slow, atol=1e-5, rtol=1e-5)


def test_two_regions_are_never_merged():
    block = make_block(prefix=0)
    regions = torch.zeros(2, *FINE, dtype=torch.long)
    regions[:, :2] = 1
    assert torch.equal(merge_regions(block.structure, regions, distance=2.0), regions)
    regions[:, 2] = 2
    merged = merge_regions(block.structure, regions, distance=2.0)  # the last row, the lowest number, stays apart
    assert merged[:, :3].unique().tolist() == [1] and merged[:, 3].unique().tolist() == [0]


def test_numbers_are_resized_as_torch_does_to_the_nearest():
    numbers = torch.arange(7 * 10).view(1, 7, 10)
    for grid in ((3, 4), (7, 10), (14, 25), (5, 13)):
        theirs = torch.nn.functional.interpolate(numbers[None].double(), size=grid, mode="nearest")[0].long()
        assert torch.equal(resize_numbers(numbers, grid), theirs)


@pytest.mark.parametrize(("mix", "strength"), [(0.0, 1.0), (0.4, 2.0), (1.0, 2.0)])
def test_resclip_mixes_in_the_attention_of_middle_blocks(mix, strength):
    block = make_block(prefix=1)
    count = block.q.shape[2]
    found = RECIPES["resclip-rcs"].run(block, {"mix": mix, "strength": strength}).values
    assert block.tower.asked == [[5, 6, 7, 8]]
    for image in range(2):
        for head in range(2):
            k, v = block.k[image, head], block.v[image, head]
            own = self_attention(k, k, v, bias=nearness(1))
            middle = torch.stack([weighted(row.tolist(), v) for row in middle_weights(2, count)[image, head]])
            slow = strength * ((1 - mix) * own + mix * middle)
            torch.testing.assert_close(found[image, head].double(), slow, atol=1e-5, rtol=1e-5)
    block.tower.depth = 24
    RECIPES["resclip-rcs"].run(block, {})
    assert block.tower.asked[-1] == list(range(10, 18))
    with pytest.raises(ModelError, match="needs the whole tower"):
        RECIPES["resclip-rcs"].run(replace(block, tower=None), {})


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_radseg_attends_by_what_the_block_would_answer(prefix):
    block = make_block(prefix=prefix)
    attended = RECIPES["radseg"].run(block, {"sharpness": 6.0})
    assert (attended.prefix, attended.grid) == (prefix, GRID)
    for image in range(2):
        first = torch.cat(
            [self_attention(block.q[image, h], block.k[image, h], block.v[image, h]) for h in (0, 1)], 1
        )
        answer = first @ block.tower.output.double()
        for head in range(2):
            parts = answer[:, 4 * head : 4 * head + 4]
            rows = []
            for one in parts:
                cosines = [dot(one, other) / float(one.norm() * other.norm()) for other in parts]
                rows.append(rows_softmax([6.0 * value if value >= 0 else -math.inf for value in cosines]))
            slow = torch.stack([weighted(row, block.v[image, head]) for row in rows])
            torch.testing.assert_close(attended.values[image, head].double(), slow, atol=1e-5, rtol=1e-5)


def test_equal_cells_do_not_empty_a_row_of_proxyclip():
    block = make_block(prefix=0)
    same = torch.nn.functional.normalize(torch.ones(2, 8, *FINE), dim=1)
    alike = LastBlock(block.q, block.k, block.v, 0, GRID, structure=same)
    values = RECIPES["proxyclip"].run(alike, {}).values
    torch.testing.assert_close(values, resize_patches(alike, block.v, FINE))


def test_the_neighbourhood_peaks_at_one_and_spares_the_class_token():
    near = neighbourhood((2, 3), 1, sigma=5.0)
    assert near.shape == (7, 7)
    assert near[0].sum() == near[:, 0].sum() == 0
    assert near.diagonal()[1:].tolist() == [1.0] * 6
    assert near[1, 6] == pytest.approx(math.exp(-(1 + 4) / 50))  # one row down, two columns right


def test_unknown_recipes_and_options_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'naclip'"):
        find_recipe(RecipeConfig(name="naclp"))
    with pytest.raises(ConfigError, match="has no option 'sigm'; did you mean 'sigma'"):
        find_recipe(RecipeConfig(name="naclip", options={"sigm": 3}))


def test_missing_parts_are_refused_by_name():
    block = make_block(prefix=0)
    bare = LastBlock(block.q, block.k, block.v, 0, GRID)
    with pytest.raises(ModelError, match="needs a structure encoder"):
        RECIPES["proxyclip"].run(bare, {})
    with pytest.raises(ModelError, match="needs the whole tower"):
        RECIPES["corrclip"].run(replace(block, tower=None), {})
    with pytest.raises(ModelError, match="needs regions"):
        RECIPES["corrclip"].run(LastBlock(block.q, block.k, block.v, 0, GRID, structure=block.structure), {})
    with pytest.raises(ShapeError, match=r"q must be \(B=2, heads=2, N=16, d\)"):
        LastBlock(block.q, block.k, block.v, 1, GRID)
