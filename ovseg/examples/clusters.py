"""Clusters of cells that are taken or left as a whole: INSID3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor
from torch.nn import functional

from ovseg.examples.matching import Reference, candidates, references_of, shot_mean
from ovseg.examples.shot import Comparison, View
from ovseg.tensors import check_shape

_KEPT = 0.2  # a cluster of a higher score shows the label
_UNIT = 0.05  # of the score, one unit of evidence


def cluster_odds(*, alike: float = 0.6, most: int = 1400) -> Comparison[list[Reference]]:
    """Log odds by clusters of like cells: 20 times what their score (``score_clusters``) is over 0.2.

    Pictures of what a label is not teach nothing here.

    Args:
        alike: mean cosine over which two clusters are joined.
        most: finer grids are pooled to so many cells before they are clustered, whose cost grows with their square.

    Source: INSID3 (CVPR 2026, arXiv 2603.28480; visinf/INSID3, insid3.py), whose mask is where this is over 0. On
    purpose: features are not freed of directions of position, clusters are those of the structure where a model has
    some, and where no cell is a candidate, no cluster is taken.
    """

    def odds(view: View, references: Sequence[list[Reference]]) -> Tensor:
        owner = agglomerate(view.likeness, alike=alike, most=most).flatten()
        cells = view.features.flatten(1).T
        found = [score_clusters(cells, owner, each)[owner] for each in references]
        return (torch.stack(found).view(-1, *view.grid) - _KEPT) / _UNIT

    return Comparison(references_of, odds)


def score_clusters(cells: Tensor, owner: Tensor, references: Sequence[Reference]) -> Tensor:
    """The scores of R clusters.

    The seed is the cluster with candidates whose mean is most like that of the shots. Scores are the mean cosine
    with the shots, times the cosine with the seed's mean, times the share of candidates (of the seed 1).

    Args:
        cells: (N, C) unit.
        owner: (N,) int64 cluster of each cell, every number up to the largest taken.
        references: of the label.

    Returns:
        (R,); 0 for all where no cell is a candidate.
    """
    members = functional.one_hot(owner).T.to(cells)  # (R, N)
    members = members / members.sum(1, keepdim=True)
    share = members @ candidates(cells, references).to(cells)
    if not bool(share.any()):
        return share
    prototype = shot_mean(references).to(cells)
    means = functional.normalize(members @ cells, dim=1)
    seed = int((means @ prototype).masked_fill(share == 0, -torch.inf).argmax())
    share[seed] = 1
    return (members @ (cells @ prototype)) * (means @ means[seed]) * share


def agglomerate(structure: Tensor, *, alike: float = 0.6, most: int = 1400) -> Tensor:
    """Clusters of cells by average linkage of cosines, joined while their mean cosine is at least ``alike``.

    Args:
        structure: (S, h, w).
        alike: mean cosine of the cells of two clusters.
        most: cells that are clustered; finer grids are averaged over squares first.

    Returns:
        (h, w) int64, each number from 0 to the largest taken.
    """
    check_shape("structure", structure, "S h w")
    rows, columns = structure.shape[1:]
    side = next(side for side in range(1, rows + columns) if -(-rows // side) * -(-columns // side) <= most)
    pooled = functional.avg_pool2d(structure[None].float(), side, ceil_mode=True)[0]
    cells = functional.normalize(pooled, dim=0).flatten(1).T.cpu()
    owner = torch.zeros(len(cells), dtype=torch.int64)
    if len(cells) > 1:
        first, second = torch.triu_indices(len(cells), len(cells), 1)
        distances = (1 - cells @ cells.T)[first, second].clamp(min=0).double()
        owner = torch.from_numpy(fcluster(linkage(distances.numpy(), "average"), 1 - alike, "distance")).long() - 1
    large = owner.view(pooled.shape[1:]).repeat_interleave(side, 0).repeat_interleave(side, 1)
    return large[:rows, :columns].to(structure.device)
