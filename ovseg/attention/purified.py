"""Recipes that mend outlying patches and gather over patches that are alike in earlier blocks: SC-CLIP and SFP.

Both run the last block twice, on the patches without their class token: on what enters it, its outliers mended, and
on the sum of what enters the middle blocks. Numbers of blocks are those of a tower of 12, others in proportion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.attention.block import Attended, LastBlock, OpenTower, in_proportion
from ovseg.attention.structured import above_mean
from ovseg.errors import ModelError

_REFERENCE = 9  # what enters it says which patches are alike before the last block,
_SHALLOW = 4  # and what enters this one, after it
_MIDDLE = (4, 10)  # what enters these is summed for the second run

Weights = Callable[[Tensor, Tensor], Tensor]
"""From queries and keys (B, heads, M, d) to attention weights that broadcast to (B, heads, M, M)."""


def scclip(
    block: LastBlock,
    *,
    neighbours: int = 30,
    outlying: float = 0.05,
    alike: float = 0.4,
    sharpness: float = 3.0,
    summary: float = 0.3,
) -> Attended:
    """(softmax(M) + softmax(k·kᵀ/√d))/2·v between patches whose outliers were mended, with M from an earlier block.

    M = (S − mean(S))·sharpness, where M < 0 is left out, for the cosines S of the patches that enter block 9.
    Before the last block a patch becomes the mean over the patches with S of at least ``alike``, weighted by S, and
    after it once more, with the cosines of block 4. A share of the class token is added in between.

    Args:
        block: the last block of a tower with a class token.
        neighbours: how many make the local density of a patch.
        outlying: share of the patches that are mended; see ``lone_patches``.
        alike: cosine from which patches are averaged.
        sharpness: factor on the cosines over their mean.
        summary: factor on the class token.

    Raises:
        ModelError: there is no tower, or no class token.

    Source: Bai et al., Self-Calibrated CLIP, 2024, and its released code.
    """
    tower = _with_class_token(block)
    patches = tower.entering(tower.depth - 1)[:, block.prefix :]
    outliers = lone_patches(patches, neighbours=int(neighbours), share=outlying)
    cosines = patch_cosines(mend(_entering(block, _REFERENCE), outliers, block.grid))
    gathered = above_mean(cosines, sharpness=sharpness)[:, None]

    def weights(q: Tensor, k: Tensor) -> Tensor:
        return (gathered + _self_weights(k)) / 2

    return _run_twice(block, outliers, at_least(cosines, alike), weights, alike=alike, summary=summary)


def sfp(
    block: LastBlock,
    *,
    most: int = 10,
    emphasis: float = 1.5,
    alike: float = 0.4,
    sharpness: float = 3.0,
    summary: float = 0.3,
) -> Attended:
    """(softmax(M) + softmax(q·qᵀ/√d) + softmax(k·kᵀ/√d))/3·v between patches whose outliers were mended.

    As ``scclip``, but its outliers are found by attention, and M = (S − mean(S))·sharpness is of the cosines S that
    are 0 where they are under ``alike``.

    Args:
        block: the last block of a tower with a class token.
        most: how many patches are mended at most.
        emphasis: factor on the attention of the class token, where it is compared with that of a patch to itself.
        alike: cosine from which patches are averaged.
        sharpness: factor on the cosines over their mean.
        summary: factor on the class token.

    Raises:
        ModelError: there is no tower, or no class token.

    Source: Jin et al., Feature Purification Matters, ICCV 2025, and its released code.
    """
    outliers = glared_at(block, most=int(most), emphasis=emphasis)
    likeness = at_least(patch_cosines(mend(_entering(block, _REFERENCE), outliers, block.grid)), alike)
    gathered = above_mean(likeness, sharpness=sharpness)[:, None]

    def weights(q: Tensor, k: Tensor) -> Tensor:
        return (gathered + _self_weights(q) + _self_weights(k)) / 3

    return _run_twice(block, outliers, likeness, weights, alike=alike, summary=summary)


def _run_twice(
    block: LastBlock, outliers: Tensor, likeness: Tensor, weights: Weights, *, alike: float, summary: float
) -> Attended:
    """The last block on mended patches and on the sum of middle blocks, both gathered again and added."""
    tower = block.needed_tower()
    last = tower.entering(tower.depth - 1)
    middle = torch.stack([tower.entering(number) for number in in_proportion(*_MIDDLE, depth=tower.depth)]).sum(0)
    mended = gather(mend(last[:, block.prefix :], outliers, block.grid), likeness)
    again = at_least(patch_cosines(_entering(block, _SHALLOW)), alike)
    total = torch.zeros_like(mended)
    for token, patches in ((last[:, :1], mended), (middle[:, :1], middle[:, block.prefix :])):
        q, k, v = tower.patch_qkv(patches)
        attended = tower.merge(weights(q, k).to(v.dtype) @ v)
        total = total + gather(attended + summary * token, again)
    return Attended(total, 0, block.grid)


def lone_patches(patches: Tensor, *, neighbours: int, share: float) -> Tensor:
    """The patches that lie in thinner surroundings than their neighbours do.

    The local outlier factor of a patch is the mean, over its nearest patches, of the squared distance to its own
    furthest neighbour over that of theirs. (The released code takes the larger of a neighbour's distance and the
    patch's own furthest, which is always the latter; Breunig et al. take the neighbour's furthest.)

    Args:
        patches: (B, M, D).
        neighbours: how many patches are near, at most M − 1.
        share: of the patches of an image that are outliers, in [0, 1].

    Returns:
        (B, M) bool.

    Source: Breunig et al., LOF, SIGMOD 2000, as in SC-CLIP.
    """
    count = patches.shape[1]
    if count < 2:
        return torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)
    vectors = patches.float()
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = distances.topk(min(neighbours, count - 1), largest=False)
    furthest = nearest.values[..., -1].clamp_min(torch.finfo(torch.float32).tiny)  # (B, M)
    theirs = furthest[:, None].expand(-1, count, -1).gather(2, nearest.indices)
    factors = (furthest[..., None] / theirs).mean(-1)
    return factors > factors.quantile(1 - share, dim=1, keepdim=True)


def glared_at(block: LastBlock, *, most: int, emphasis: float) -> Tensor:
    """(B, M) bool: patches that the class token attends to more than they do to themselves, the strongest ones.

    Asked in the block before the last, by the mean weights of its heads.

    Args:
        block: the last block of a tower.
        most: how many of an image at most.
        emphasis: factor on the weights of the class token.
    """
    tower = _with_class_token(block)
    attention = tower.mean_attention([max(tower.depth - 2, 0)]).float().mean(1)  # (B, N, N)
    seen = attention[:, 0, block.prefix :] * emphasis
    salient = seen > attention.diagonal(dim1=1, dim2=2)[:, block.prefix :]
    order = seen.masked_fill(~salient, -1).argsort(dim=1, descending=True, stable=True)
    strongest = torch.zeros_like(salient).scatter(1, order[:, :most], True)
    return salient & strongest


def mend(patches: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (B, h·w, D) with each outlier the mean of its up to eight neighbours that are none.

    An outlier amid outliers stays; the released code of SFP makes it 0.

    Args:
        patches: as said.
        outliers: (B, h·w) bool.
        grid: (h, w).
    """
    maps = patches.transpose(1, 2).reshape(patches.shape[0], -1, *grid)
    sound = ~outliers.view(-1, 1, *grid)
    total = _around(maps.float() * sound)
    count = _around(sound.float())
    means = (total / count.clamp_min(1)).to(patches.dtype)
    return torch.where(~sound & (count > 0.5), means, maps).flatten(2).transpose(1, 2)


def _around(maps: Tensor) -> Tensor:
    """Sums over squares of 3×3 cells; what is outside the map counts as 0."""
    return functional.avg_pool2d(maps, 3, stride=1, padding=1) * 9


def patch_cosines(patches: Tensor) -> Tensor:
    """(B, M, D) to the cosines of all pairs, (B, M, M) float32."""
    unit = functional.normalize(patches.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def at_least(cosines: Tensor, alike: float) -> Tensor:
    """Cosines with 0 for those under ``alike``."""
    return torch.where(cosines < alike, 0, cosines)


def gather(patches: Tensor, likeness: Tensor) -> Tensor:
    """Means of patches (B, M, D), weighted by rows of ``likeness`` (B, M, M)."""
    shares = likeness / (likeness.sum(-1, keepdim=True) + 1e-6)
    means: Tensor = shares @ patches.float()
    return means.to(patches.dtype)


def _self_weights(vectors: Tensor) -> Tensor:
    """softmax(x·xᵀ/√d) of (B, heads, M, d)."""
    vectors = vectors.float()
    weights: Tensor = (vectors @ vectors.transpose(2, 3) * vectors.shape[-1] ** -0.5).softmax(-1)
    return weights


def _entering(block: LastBlock, number: int) -> Tensor:
    """The patches (B, M, D) that enter block ``number`` of a tower of 12, or the like of another one."""
    tower = _with_class_token(block)
    return tower.entering(in_proportion(number, number, depth=tower.depth)[0])[:, block.prefix :]


def _with_class_token(block: LastBlock) -> OpenTower:
    if block.prefix == 0:
        raise ModelError(
            "this recipe needs a tower with a class token, got one without; choose another tower or recipe"
        )
    return block.needed_tower()
