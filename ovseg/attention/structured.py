"""Recipes whose correlations come from another encoder: ProxyCLIP and CorrCLIP.

Both answer on the grid of the structure encoder, to which the values are resized.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.attention.block import Attended, LastBlock
from ovseg.errors import ModelError

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
    cosines = pair_cosines(structure)
    logits = (cosines - shift * cosines.mean((1, 2), keepdim=True)) * sharpness
    weights = _softmax_within(logits, logits >= 0).to(block.v.dtype)
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

    A cell of a region attends to the cells of that region; a cell outside every region attends to those
    whose cosine is over the mean. Inside that scope the weights are softmax(sharpness·S). The spatial branch
    sends the values of intermediate layers through the same weights. The semantic branch gives each region a
    copy of the class token, which attends to the patches of the region only, and paints its answer on it.
    Values that share weights are added before they are multiplied, as are all branches before the output
    projection: both are linear (EVA-02, which normalises before it projects, normalises the sum).

    Args:
        block: the last block, with structure features, regions and, for the spatial branch, ``spatial``.
        sharpness: factor on the cosines.
        spatial, semantic: weights of the branches; 0 leaves one out.
        merge: regions whose mean features are this near to the largest cosine become one.

    Raises:
        ModelError: structure features, regions or a class token are missing.

    Source: Zhang et al., CorrCLIP, ICCV 2025. Here the copies of the class token are made in the last block.
    """
    structure, grid = block.needed_structure(), _grid_of(block.needed_structure())
    cosines = pair_cosines(structure)
    regions = merge_regions(structure, block.needed_regions(), distance=merge).flatten(1)
    weights = _softmax_within(cosines * sharpness, region_scope(cosines, regions)).to(block.v.dtype)[:, None]
    own = resize_patches(block, block.v, grid)
    if block.spatial is None or not spatial:
        spatial, mixed = 0.0, own
    else:
        mixed = own + spatial * resize_patches(block, block.spatial, grid)
    values = weights @ mixed
    if semantic:
        values = values + semantic * region_summaries(block, own, regions, grid)
    return Attended(values, 0, grid, total=1 + spatial + semantic)


def pair_cosines(structure: Tensor) -> Tensor:
    """Cosines between all cells of an image: (B, S, h, w) unit over S to (B, h·w, h·w) float32."""
    vectors = structure.float().flatten(2)
    return vectors.transpose(1, 2) @ vectors


def region_scope(cosines: Tensor, regions: Tensor) -> Tensor:
    """Which cell may attend to which.

    Args:
        cosines: (B, M, M).
        regions: (B, M) integers, −1 outside every region.

    Returns:
        (B, M, M) bool.
    """
    same = regions[:, :, None] == regions[:, None, :]
    alike = cosines > cosines.mean((1, 2), keepdim=True)
    return torch.where((regions >= 0)[:, :, None], same, alike)


def merge_regions(structure: Tensor, regions: Tensor, *, distance: float) -> Tensor:
    """Regions of like content made one: those linked by pairs that are near enough.

    A pair is near where the cosine of the mean features is at most ``distance`` under the largest cosine of
    the image. This is DBSCAN with one point as the smallest cluster.

    Args:
        structure: (B, S, h, w) unit over S.
        regions: (B, h, w) integers, −1 outside every region.
        distance: in cosine.

    Returns:
        (B, h, w) int64, numbered from 0 in the order of the smallest old number; −1 stays.
    """
    merged = [
        _merge_one(vectors.flatten(1), numbers.flatten(), distance)
        for vectors, numbers in zip(structure, regions, strict=True)
    ]
    return torch.stack(merged).view(regions.shape)


def _merge_one(vectors: Tensor, numbers: Tensor, distance: float) -> Tensor:
    known, index = torch.unique(numbers.long().clamp_min(-1), return_inverse=True)
    outside = int((known < 0).sum())  # 1 where −1 occurs, and it is then the first
    count = len(known) - outside
    if count == 0:
        return torch.full_like(index, -1)
    members = functional.one_hot(index, len(known))[:, outside:].to(vectors.dtype)  # (M, R)
    means = functional.normalize((vectors @ members).float(), dim=0)
    cosines = means.T @ means
    groups = _linked(cosines >= cosines.max() - distance)
    table = torch.cat([groups.new_full((outside,), -1), torch.unique(groups, return_inverse=True)[1]])
    return table[index]


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


def region_summaries(block: LastBlock, values: Tensor, regions: Tensor, grid: tuple[int, int]) -> Tensor:
    """What the class token gathers from each region, painted on the region; zero outside every region.

    Args:
        block: the last block; its first token is the class token.
        values: (B, heads, M, d), the patches' values on ``grid``.
        regions: (B, M) integers on ``grid``, −1 outside every region.
        grid: (h, w) with h·w = M.

    Returns:
        (B, heads, M, d).

    Raises:
        ModelError: the tower has no class token.
    """
    if block.prefix == 0:
        raise ModelError(
            "recipe 'corrclip' needs a class token for its semantic branch, but this tower has none; "
            "set its option semantic: 0"
        )
    products = block.k.float() @ block.q[:, :, :1].float().transpose(2, 3)  # (B, heads, N, 1)
    logits = resize_patches(block, products, grid) / block.k.shape[-1] ** 0.5  # resized keys give the same
    count = int(regions.max()) + 2  # the first is outside every region
    owner = (regions + 1)[:, None, :, None].expand(logits.shape)
    lowest = logits.new_full((*logits.shape[:2], count, 1), _NEVER)
    largest = lowest.scatter_reduce(2, owner, logits, "amax")
    evidence = (logits - largest.gather(2, owner)).exp()
    members = functional.one_hot(regions + 1, count)[:, None, :, 1:].float()  # (B, 1, M, R)
    joint = members.transpose(2, 3) @ torch.cat([evidence * values, evidence], 3)  # (B, heads, R, d + 1)
    means = joint[..., :-1] / joint[..., -1:].clamp_min(torch.finfo(joint.dtype).tiny)
    painted: Tensor = members @ means
    return painted.to(values.dtype)


def resize_patches(block: LastBlock, values: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches of (B, heads, N, d) on ``grid``, bilinear, without the prefix: (B, heads, M, d)."""
    patches = values[:, :, block.prefix :]
    if grid == block.grid:
        return patches
    batch, heads, _, size = patches.shape
    maps = patches.transpose(2, 3).reshape(batch, heads * size, *block.grid)
    resized = functional.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)
    return resized.to(values.dtype).view(batch, heads, size, -1).transpose(2, 3)


def _softmax_within(logits: Tensor, scope: Tensor) -> Tensor:
    """Softmax over the last axis of (B, M, M) where ``scope`` allows it; a cell always sees itself."""
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return logits.masked_fill(~(scope | own), _NEVER).softmax(-1)


def _grid_of(structure: Tensor) -> tuple[int, int]:
    return structure.shape[-2], structure.shape[-1]
