"""Prototypes: a label is one mean vector, or several that stand for its looks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.examples.shot import Comparison, Shot, View, cells_of, showing, some_cells_of
from ovseg.regions.clusters import spherical_kmeans

_CELLS = 20_000  # of all shots of a label that centres are found among, 0.13 GB of ``mini``


def mean_prototypes() -> Comparison[Tensor]:
    """Cosine with the mean over shots of the unit mean of each.

    Source: Snell et al., Prototypical networks, NeurIPS 2017, equation 1, by cosine and cell by cell.
    """

    def scores(view: View, vectors: Sequence[Tensor]) -> Tensor:
        return torch.einsum("mc,chw->mhw", torch.stack(list(vectors)).to(view.features), view.features)

    return Comparison(_mean_of_shots, scores)


def kmeans_prototypes(*, count: int = 4, others: int = 8) -> Comparison[tuple[Tensor, Tensor]]:
    """The largest cosine with prototypes of a label, less the largest with prototypes of what is not the label.

    Of a label they are the mean and ``count`` k-means centres of the cells of all its shots; of the rest ``others``
    centres of the cells outside. Where there are none, nothing is taken away.

    Source: FSSDINO's multi-class baseline (k-means by cosine on the cells of the shots), with the mean besides; the
    background of the shots is a class of its own there.
    """

    def describe(shots: Sequence[Shot]) -> tuple[Tensor, Tensor]:
        return _centres(shots, count), _centres_outside(shots, others)

    def scores(view: View, prototypes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        best = [_nearest(own, view) for own, _ in prototypes]
        against = [_nearest(rest, view) if len(rest) else torch.zeros_like(best[0]) for _, rest in prototypes]
        return torch.stack(best) - torch.stack(against)

    return Comparison(describe, scores)


def _nearest(prototypes: Tensor, view: View) -> Tensor:
    """(h, w) largest cosine with (n, C) prototypes."""
    return torch.einsum("nc,chw->nhw", prototypes.to(view.features), view.features).amax(0)


def _mean_of_shots(shots: Sequence[Shot]) -> Tensor:
    means = [functional.normalize(cells_of([shot], inside=True).mean(0), dim=0) for shot in showing(shots)]
    return functional.normalize(torch.stack(means).mean(0), dim=0)


def _centres(shots: Sequence[Shot], count: int) -> Tensor:
    centres, _ = spherical_kmeans(some_cells_of(shots, _CELLS, inside=True), count)
    return torch.cat([_mean_of_shots(shots)[None], centres])


def _centres_outside(shots: Sequence[Shot], count: int) -> Tensor:
    cells = some_cells_of(shots, _CELLS, inside=False)
    return spherical_kmeans(cells, count)[0] if len(cells) else cells
