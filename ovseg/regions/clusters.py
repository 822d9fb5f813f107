"""Regions from structure features: cells that look alike to a vision-only encoder."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from ovseg.tensors import check_shape


def kmeans(image: Tensor, structure: Tensor, *, count: int = 12, steps: int = 20) -> Tensor:
    """``cluster_cells`` as regions of the image.

    Args:
        image: (H, W, 3), for its size.
        structure, count, steps: as of ``cluster_cells``.

    Returns:
        (H, W) int32 numbers from 0.
    """
    return numbers_on_pixels(cluster_cells(structure, count=count, steps=steps), image)


def cluster_cells(structure: Tensor, *, count: int = 12, steps: int = 20) -> Tensor:
    """Clusters of structure cells by cosine; the same features always give the same clusters.

    Args:
        structure: (S, h, w) unit over S.
        count: how many clusters, at most.
        steps: how often the centres move, at most.

    Returns:
        (h, w) int64 numbers from 0.
    """
    check_shape("structure", structure, "S h w")
    _, owner = spherical_kmeans(structure.flatten(1).T.float(), count, steps=steps)
    compact: Tensor = torch.unique(owner, return_inverse=True)[1].view(structure.shape[1:])
    return compact


def spherical_kmeans(vectors: Tensor, count: int, *, steps: int = 20) -> tuple[Tensor, Tensor]:
    """K-means by cosine, without chance: the same vectors always give the same clusters.

    The first centre is the vector nearest to the mean; each further one is the vector furthest from those chosen.

    Args:
        vectors: (n, C) float32 unit.
        count: how many clusters, at most.
        steps: how often the centres move, at most.

    Returns:
        (R, C) unit centres, R at most ``count``, and (n,) int64 the cluster of each vector; a cluster may be empty.

    Source: Dhillon and Modha, Machine Learning 2001, section 3.
    """
    centres = _spread(vectors, min(int(count), len(vectors)))
    owner = (vectors @ centres.T).argmax(1)
    for _ in range(int(steps)):
        centres = _means(vectors, owner, centres)
        moved = (vectors @ centres.T).argmax(1)
        if torch.equal(moved, owner):
            break
        owner = moved
    return centres, owner


def linked(image: Tensor, structure: Tensor, *, nearness: float = 0.6) -> Tensor:
    """Cells joined with their four neighbours wherever the cosine is over ``nearness``.

    Args:
        image: (H, W, 3), for its size.
        structure: (S, h, w) unit over S.
        nearness: cosine over which two neighbours belong together.

    Returns:
        (H, W) int32 numbers from 0; each region is connected.
    """
    check_shape("structure", structure, "S h w")
    rows, columns = structure.shape[1:]
    numbers = np.arange(rows * columns).reshape(rows, columns)
    beside = (structure[:, :, 1:] * structure[:, :, :-1]).sum(0).cpu().numpy() > nearness  # (h, w−1)
    below = (structure[:, 1:] * structure[:, :-1]).sum(0).cpu().numpy() > nearness  # (h−1, w)
    first = np.concatenate([numbers[:, :-1][beside], numbers[:-1][below]])
    second = np.concatenate([numbers[:, 1:][beside], numbers[1:][below]])
    joined = coo_array((np.ones(len(first), bool), (first, second)), shape=(numbers.size, numbers.size))
    _, owner = connected_components(joined, directed=False)
    return numbers_on_pixels(torch.from_numpy(owner).view(rows, columns), image)


def _spread(vectors: Tensor, count: int) -> Tensor:
    """(count, S) rows of (M, S), far from one another."""
    chosen = [int((vectors @ vectors.mean(0)).argmax())]
    nearest = vectors @ vectors[chosen[0]]
    for _ in range(count - 1):
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, vectors @ vectors[chosen[-1]])
    return vectors[chosen]


def _means(vectors: Tensor, owner: Tensor, centres: Tensor) -> Tensor:
    """Unit means of the clusters; an empty one keeps its centre."""
    members = functional.one_hot(owner, len(centres)).to(vectors.dtype)  # (M, K)
    totals = members.T @ vectors
    moved = torch.where((members.sum(0) > 0)[:, None], totals, centres)
    return functional.normalize(moved, dim=1)


def numbers_on_pixels(numbers: Tensor, image: Tensor) -> Tensor:
    """(h, w) integers on the pixels of (H, W, 3), each that of its cell: (H, W) int32."""
    height, width = image.shape[:2]
    maps = numbers[None, None].float()
    return functional.interpolate(maps, size=(height, width), mode="nearest-exact")[0, 0].to(torch.int32)
