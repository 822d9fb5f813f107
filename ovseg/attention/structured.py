"""Recipes whose correlations come from another encoder: ProxyCLIP and CorrCLIP.

Both answer on the grid of the structure encoder, to which the values are resized.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.attention.block import Attended, Branch, LastBlock

_NEVER = float("-inf")


def proxyclip(block: LastBlock, *, shift: float = 1.2, sharpness: float = 3.0) -> Attended:
    """softmax(M)·v over the patches with M = (S − shift·mean(S))·sharpness, where M < 0 is left out.

    S holds the cosines of the structure cells of one image, and its mean is over all pairs. A cell always
    attends to itself, so that no row is empty.

    Args:
        block: the last block, with structure features.
        shift, sharpness: constants of the paper.

    Raises:
        ModelError: there are no structure features.

    Source: Lan et al., ProxyCLIP, ECCV 2024, equations 5 to 7.
    """
    structure = block.needed_structure()
    weights = above_mean(pair_cosines(structure), shift=shift, sharpness=sharpness).to(block.v.dtype)
    grid = _grid_of(structure)
    return Attended(weights[:, None] @ resize_patches(block, block.v, grid), 0, grid)


def corrclip(
    block: LastBlock,
    *,
    sharpness: float = 4.0,
    spatial: float = 1.0,
    semantic: float = 0.5,
    merge: float = 0.2,
) -> Attended:
    """Attention that stays inside regions, plus a spatial and a semantic branch.

    A cell attends to the cells of its region; where one of two cells lies outside every region, they attend to each
    other if their cosine is over the mean. Inside that scope the weights are softmax(sharpness·S). The spatial
    branch sends the values of intermediate layers through the same weights. The semantic branch gives each region,
    what is outside of them included, a copy of the class token that sees nothing else of the patches from the first
    block on, and paints it on the region. Each branch has its own output projection and last normalisation.

    Args:
        block: the last block, with structure features, regions and, for the branches, ``spatial`` and its tower.
        sharpness: factor on the cosines.
        spatial, semantic: weights of the branches; 0 leaves one out.
        merge: regions whose mean features are this near to the largest cosine become one.

    Raises:
        ModelError: structure features, regions or a class token are missing.

    Source: Zhang et al., CorrCLIP, ICCV 2025, and version 1 of its released code.
    """
    structure, grid = block.needed_structure(), _grid_of(block.needed_structure())
    cosines = pair_cosines(structure)
    regions = merge_regions(structure, block.needed_regions(), distance=merge)
    weights = softmax_within(cosines * sharpness, region_scope(cosines, regions.flatten(1)))
    weights = weights.to(block.v.dtype)[:, None]
    branches = []
    if spatial and block.spatial is not None:
        branches.append(Branch(spatial, weights @ resize_patches(block, block.spatial, grid)))
    if semantic:
        branches.append(Branch(semantic, _painted_tokens(block, regions)))
    return Attended(weights @ resize_patches(block, block.v, grid), 0, grid, tuple(branches))


def pair_cosines(structure: Tensor) -> Tensor:
    """Cosines between all cells of an image: (B, S, h, w) unit over S to (B, h·w, h·w) float32."""
    vectors = structure.float().flatten(2)
    return vectors.transpose(1, 2) @ vectors


def above_mean(cosines: Tensor, *, sharpness: float, shift: float = 1.0) -> Tensor:
    """softmax(M) over the last axis with M = (S − shift·mean(S))·sharpness, where M < 0 is left out.

    A cell always sees itself. The mean is over all pairs of an image.

    Args:
        cosines: (B, M, M).
        sharpness, shift: as said.

    Returns:
        (B, M, M), rows add to 1.
    """
    logits = (cosines - shift * cosines.mean((1, 2), keepdim=True)) * sharpness
    return softmax_within(logits, logits >= 0)


def region_scope(cosines: Tensor, regions: Tensor) -> Tensor:
    """Which cell may attend to which.

    Args:
        cosines: (B, M, M).
        regions: (B, M) numbers from 0, which is outside every region.

    Returns:
        (B, M, M) bool, symmetric.
    """
    same = regions[:, :, None] == regions[:, None, :]
    outside = (regions[:, :, None] == 0) | (regions[:, None, :] == 0)
    alike = cosines > cosines.mean((1, 2), keepdim=True)
    return torch.where(outside, alike, same)


def merge_regions(structure: Tensor, regions: Tensor, *, distance: float) -> Tensor:
    """Regions of like content made one: those linked by pairs that are near enough.

    A pair is near where the cosine of the mean features is at most ``distance`` under the largest cosine of
    the image. This is DBSCAN with one point as the smallest cluster. The lowest number stays by itself, as what is
    outside every region; so it does where every cell lies in one, as in the released code.

    Args:
        structure: (B, S, h, w) unit over S.
        regions: (B, h, w) integers, −1 outside every region.
        distance: in cosine.

    Returns:
        (B, h, w) int64 numbers from 0, the lowest old number, in the order of the smallest old number.
    """
    merged = [
        _merge_one(vectors.flatten(1), numbers.flatten(), distance)
        for vectors, numbers in zip(structure, regions, strict=True)
    ]
    return torch.stack(merged).view(regions.shape)


def _merge_one(vectors: Tensor, numbers: Tensor, distance: float) -> Tensor:
    known: Tensor
    index: Tensor
    known, index = torch.unique(numbers.long(), return_inverse=True)
    if len(known) < 3:
        return index
    members = functional.one_hot(index, len(known))[:, 1:].to(vectors.dtype)  # (M, R)
    means = functional.normalize((vectors @ members).float(), dim=0)
    cosines = means.T @ means
    groups = _linked(cosines >= cosines.max() - distance)
    table = torch.cat([groups.new_zeros(1), torch.unique(groups, return_inverse=True)[1] + 1])
    merged: Tensor = table[index]
    return merged


def _linked(near: Tensor) -> Tensor:
    """(R, R) symmetric bool to (R,): the smallest index that each can be reached from."""
    count = len(near)
    own = torch.eye(count, dtype=torch.bool, device=near.device)
    labels = torch.arange(count, device=near.device)
    while True:
        smallest = torch.where(near | own, labels[None], count).amin(1)
        if torch.equal(smallest, labels):
            return labels
        labels = smallest


def _painted_tokens(block: LastBlock, regions: Tensor) -> Tensor:
    """The class token's copy of each region of (B, h, w), painted on it by way of the block's grid: (B, h·w, D)."""
    coarse = resize_numbers(regions, block.grid)
    tokens = block.needed_tower().region_tokens(coarse)
    seen = resize_numbers(coarse, _grid_of(regions)).flatten(1)
    return tokens.gather(1, seen[..., None].expand(-1, -1, tokens.shape[-1]))


def resize_numbers(numbers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Integers (..., H, W) on (h, w) cells, each that of its upper left corner, as "nearest" of torch does."""
    rows, columns = (
        torch.arange(cells, device=numbers.device) * size // cells
        for size, cells in zip(numbers.shape[-2:], grid, strict=True)
    )
    return numbers[..., rows[:, None], columns[None]]


def resize_patches(block: LastBlock, values: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches of (B, heads, N, d) on ``grid``, bilinear, without the prefix: (B, heads, M, d)."""
    patches = values[:, :, block.prefix :]
    if grid == block.grid:
        return patches
    batch, heads, _, size = patches.shape
    maps = patches.transpose(2, 3).reshape(batch, heads * size, *block.grid)
    resized = functional.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)
    return resized.to(values.dtype).view(batch, heads, size, -1).transpose(2, 3)


def softmax_within(logits: Tensor, scope: Tensor) -> Tensor:
    """Softmax over the last axis of (B, M, M) where ``scope`` allows it; a cell always sees itself."""
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return logits.masked_fill(~(scope | own), _NEVER).softmax(-1)


def _grid_of(structure: Tensor) -> tuple[int, int]:
    return structure.shape[-2], structure.shape[-1]
