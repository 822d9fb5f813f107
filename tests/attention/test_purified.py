"""SC-CLIP and SFP against float64 loops that call a small tower's own layers."""

from dataclasses import replace

import pytest
import torch
from helpers.blocks import GRID, make_block
from helpers.towers import twelve_blocks
from torch.nn import functional

from ovseg.attention import RECIPES, RecipeConfig
from ovseg.attention.purified import glared_at, lone_patches, mend
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import EncoderSpec
from ovseg.errors import ModelError

SPEC = EncoderSpec("tiny", "tiny-space", stride=8, channels=16)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def cosines_of(vectors):
    return [[float(functional.cosine_similarity(one, other, dim=0)) for other in vectors] for one in vectors]


def cut(cosines, alike):
    return [[0.0 if value < alike else value for value in row] for row in cosines]


def averaged(vectors, likeness):
    return torch.stack(
        [sum(w * v for w, v in zip(row, vectors, strict=True)) / (sum(row) + 1e-6) for row in likeness]
    )


def over_mean(likeness, sharpness):
    mean = sum(map(sum, likeness)) / len(likeness) ** 2
    rows = [[(value - mean) * sharpness for value in row] for row in likeness]
    return torch.tensor([[v if v >= 0 else -torch.inf for v in row] for row in rows], dtype=torch.double).softmax(1)


def neighbours_of(place, grid):
    row, column = divmod(place, grid[1])
    for y in range(max(row - 1, 0), min(row + 2, grid[0])):
        for x in range(max(column - 1, 0), min(column + 2, grid[1])):
            if (y, x) != (row, column):
                yield y * grid[1] + x


def mended(vectors, outliers, grid):
    out = vectors.clone()
    for place in outliers:
        sound = [vectors[other] for other in neighbours_of(place, grid) if other not in outliers]
        if sound:
            out[place] = sum(sound) / len(sound)
    return out


def lof_outliers(vectors, neighbours, share):
    near, furthest = [], []
    for place, one in enumerate(vectors):
        order = sorted((float((one - other).square().sum()), k) for k, other in enumerate(vectors) if k != place)
        near.append([k for _, k in order[:neighbours]])
        furthest.append(order[neighbours - 1][0])
    factors = [sum(furthest[place] / furthest[k] for k in ks) / len(ks) for place, ks in enumerate(near)]
    limit = torch.tensor(factors, dtype=torch.double).quantile(1 - share)
    return [place for place, factor in enumerate(factors) if factor > limit]


def heads_of(block, vectors):
    joint = functional.linear(block.ln_1(vectors), block.attn.in_proj_weight, block.attn.in_proj_bias)
    return joint.view(len(vectors), 3, block.attn.num_heads, -1).permute(1, 2, 0, 3)


def softmaxed(left, right):
    return (left @ right.T / left.shape[1] ** 0.5).softmax(1)


def tower_tokens(visual, pixels):
    """The tokens (N, D) that leave the embedding and each block."""
    leaving = [OpenClipViT(visual).embed(pixels[None])[0].values]
    for block in visual.transformer.resblocks:
        leaving.append(block(leaving[-1]))
    return [tokens[0] for tokens in leaving]


def by_hand(visual, pixels, outliers, likeness, weights):
    """The two runs of the last block, by layers of the network: (M, C) unit vectors."""
    tokens, last = tower_tokens(visual, pixels), visual.transformer.resblocks[-1]
    grid = pixels.shape[1] // 8, pixels.shape[2] // 8
    shallow = cut(cosines_of(tokens[4][1:]), 0.4)  # leaves block 3, counted from 0
    first = averaged(mended(tokens[11][1:], outliers, grid), cut(likeness, 0.4))
    middle = sum(tokens[number] for number in range(4, 11))  # leaves blocks 3 to 9
    total = 0
    for token, patches in ((tokens[11][0], first), (middle[0], middle[1:])):
        parts = heads_of(last, patches)
        attended = torch.cat([weights(q, k) @ v for q, k, v in parts.transpose(0, 1)], 1)
        total = total + averaged(last.attn.out_proj(attended) + 0.3 * token, shallow)
    return functional.normalize(visual.ln_post(total) @ visual.proj, dim=1)


def encoded(recipe, visual, pixels, **options):
    encoder = RecipeEncoder(OpenClipViT(visual), SPEC, recipe=RecipeConfig(name=recipe, options=options))
    return encoder.dense(pixels).values.flatten(2).transpose(1, 2)


@torch.no_grad()
def test_scclip_equals_the_loops(wide):
    visual, pixels = twelve_blocks().double(), wide.double()
    found = encoded("scclip", visual, pixels, neighbours=5, outlying=0.2)
    for image in range(2):
        tokens = tower_tokens(visual, pixels[image])
        outliers = lof_outliers(tokens[11][1:], 5, 0.2)
        assert len(outliers) == 4
        cosines = cosines_of(mended(tokens[9][1:], outliers, (3, 6)))
        near = over_mean(cosines, 3.0)
        slow = by_hand(
            visual, pixels[image], outliers, cosines, lambda q, k, near=near: (near + softmaxed(k, k)) / 2
        )
        torch.testing.assert_close(found[image], slow, **CLOSE)


@torch.no_grad()
def test_sfp_equals_the_loops(wide):
    visual, pixels = twelve_blocks().double(), wide.double()
    found = encoded("sfp", visual, pixels, most=3, emphasis=4.0)
    for image in range(2):
        tokens = tower_tokens(visual, pixels[image])
        queries, keys, _ = heads_of(visual.transformer.resblocks[10], tokens[10])
        attention = sum(softmaxed(q, k) for q, k in zip(queries, keys, strict=True)) / 4
        salient = [(float(attention[0, n]), n - 1) for n in range(1, 19) if attention[0, n] * 4 > attention[n, n]]
        assert len(salient) > 3
        outliers = [place for _, place in sorted(salient, reverse=True)[:3]]
        likeness = cut(cosines_of(mended(tokens[9][1:], outliers, (3, 6))), 0.4)
        near = over_mean(likeness, 3.0)
        slow = by_hand(
            visual,
            pixels[image],
            outliers,
            likeness,
            lambda q, k, near=near: (near + softmaxed(q, q) + softmaxed(k, k)) / 3,
        )
        torch.testing.assert_close(found[image], slow, **CLOSE)


def test_a_patch_far_from_all_others_is_alone():
    patches = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    patches[0, 7] += 50
    patches[1, 2] -= 50
    alone = lone_patches(patches, neighbours=3, share=0.05)
    assert alone.nonzero().tolist() == [[0, 7], [1, 2]]
    assert not lone_patches(patches[:, :1], neighbours=30, share=0.05).any()
    assert not lone_patches(torch.ones(1, 6, 4), neighbours=3, share=0.5).any()  # no distances, and no error


def test_the_strongest_patches_that_the_class_token_glares_at_are_found():
    block = make_block(prefix=1)
    weights = torch.zeros(2, 2, 16, 16)
    weights[0, :, 0, 1:] = torch.arange(15.0)
    weights[:, :, range(16), range(16)] = 9.0
    block.tower.middle = weights
    assert glared_at(block, most=2, emphasis=1.0).nonzero().tolist() == [[0, 13], [0, 14]]
    assert glared_at(block, most=99, emphasis=1.0).sum() == 5  # 10 to 14
    assert block.tower.asked[-1] == [10]


def test_an_outlier_becomes_the_mean_of_its_sound_neighbours():
    patches = torch.arange(15.0).view(1, 15, 1)  # a grid of 3×5
    outliers = torch.zeros(1, 15, dtype=torch.bool)
    outliers[0, [0, 7]] = True
    found = mend(patches, outliers, GRID)[0, :, 0]
    assert found[0] == (1 + 5 + 6) / 3
    assert found[7] == (1 + 2 + 3 + 6 + 8 + 11 + 12 + 13) / 8
    assert torch.equal(found[~outliers[0]], patches[0, ~outliers[0], 0])
    assert torch.equal(mend(patches, torch.ones_like(outliers), GRID), patches)


@pytest.mark.parametrize("name", ["scclip", "sfp"])
def test_a_tower_without_class_token_is_refused(name):
    block = make_block(prefix=0)
    with pytest.raises(ModelError, match="needs a tower with a class token"):
        RECIPES[name].run(block, {})
    with pytest.raises(ModelError, match="needs the whole tower"):
        RECIPES[name].run(replace(make_block(prefix=1), tower=None), {})
