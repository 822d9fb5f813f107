"""Objects of many photos in groups that look alike: spherical k-means, what fits no group put aside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, ShapeError

MOST_GROUPS = 300
"""As many as U2Seg makes of ImageNet."""
LEAST_MEMBERS = 3
_FAR = 2.0  # standard deviations under the mean cosine, at which an object fits no group
_TRIES = 5  # beginnings of k-means, of which the best is kept
_STEPS = 30


@dataclass(frozen=True)
class Grouping:
    """n objects in K groups, the first group the largest and tightest.

    Attributes:
        owner: (n,) int64 number of the group from 0; −1 for an object of none.
        cosine: (n,) float32 with the centre of the group; 0 for an object of none.
        centres: (K, D) float32 unit means of the members.
    """

    owner: NDArray[np.int64]
    cosine: NDArray[np.float32]
    centres: NDArray[np.float32]


def auto_groups(objects: int) -> int:
    """How many groups are looked for where nobody says: twice the square root of the objects, 1 to 300.

    Rather too many than too few: two groups of one name are joined by giving both the name.

    >>> auto_groups(0), auto_groups(200), auto_groups(10**6)
    (1, 28, 300)
    """
    return max(1, min(MOST_GROUPS, round(2 * math.sqrt(objects))))


def group_vectors(
    vectors: NDArray[np.float32], *, groups: int | None = None, everything: bool = False, seed: int = 0
) -> Grouping:
    """Unit vectors in groups by FAISS's spherical k-means; the same vectors give the same groups.

    An object of none is one whose cosine with its centre is two standard deviations under the mean of all, and one
    of a group of fewer than three. Groups are ranked by their members times the mean cosine with the centre.

    Args:
        vectors: (n, D) float32 unit.
        groups: how many are looked for; None takes ``auto_groups``. There may be fewer in the end.
        everything: whether every object belongs to a group, however small the group is.
        seed: of the beginnings of k-means.

    Raises:
        ShapeError: ``vectors`` is not (n, D) float32.
        ConfigError: fewer than one group.

    Source: the clusters are U2Seg's pseudo-classes (Niu et al., CVPR 2024), which have no objects of none.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ShapeError(f"vectors must be (n, D) float32, got {vectors.shape} {vectors.dtype}")
    if groups is not None and groups < 1:
        raise ConfigError(f"expected at least one group, got {groups}; give a number, or auto")
    count = min(auto_groups(len(vectors)) if groups is None else groups, len(vectors))
    if not count:
        return Grouping(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, vectors.shape[1]), np.float32))
    owner, cosine = cluster_vectors(np.ascontiguousarray(vectors), count, seed=seed)
    if not everything:
        owner[cosine < cosine.mean() - _FAR * cosine.std() - 1e-6] = -1
    return _ranked(vectors, owner, count, least=1 if everything else LEAST_MEMBERS)


def cluster_vectors(
    vectors: NDArray[np.float32], count: int, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The cluster of each of (n, D) float32 unit vectors by spherical k-means, and its cosine with the centre.

    Args:
        vectors: at least ``count``.
        count: how many clusters; one may be empty.
        seed: of the beginnings, of which five are tried and the best is kept.

    Returns:
        (n,) int64 and (n,) float32.
    """
    run = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_STEPS,
        nredo=_TRIES if count < len(vectors) else 1,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),  # all take part, so that chance chooses no sample
    )
    run.train(vectors)
    cosine, owner = run.index.search(vectors, 1)
    return owner[:, 0].astype(np.int64), cosine[:, 0]


def _ranked(vectors: NDArray[np.float32], owner: NDArray[np.int64], count: int, *, least: int) -> Grouping:
    """The groups that have enough members, in order; the others' objects are of none."""
    described = []
    for number in range(count):
        members = np.flatnonzero(owner == number)
        if len(members) >= least:
            mean = vectors[members].mean(0)
            centre = mean / max(float(np.linalg.norm(mean)), 1e-9)
            described.append((float((vectors[members] @ centre).sum()), members, centre))
    described.sort(key=lambda group: (-group[0], int(group[1][0])))
    ranked = Grouping(
        np.full(len(vectors), -1, np.int64),
        np.zeros(len(vectors), np.float32),
        np.array([centre for _, _, centre in described], np.float32).reshape(-1, vectors.shape[1]),
    )
    for number, (_, members, centre) in enumerate(described):
        ranked.owner[members], ranked.cosine[members] = number, vectors[members] @ centre
    return ranked
