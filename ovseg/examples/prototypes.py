"""Prototypes: a label is one mean vector, or several that stand for its looks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.examples.shot import Lesson, Shot, View, cells_of, showing
from ovseg.regions.clusters import spherical_kmeans

Scores = Callable[[View], Tensor]  # a picture to (M, h, w), the higher the likelier


def mean_prototypes(lesson: Lesson) -> Scores:
    """Cosine with the mean over shots of the unit mean of each.

    Source: Snell et al., Prototypical networks, NeurIPS 2017, equation 1, by cosine and cell by cell.
    """
    vectors = torch.stack(lesson.each_label(_mean_of_shots))

    def scores(view: View) -> Tensor:
        return torch.einsum("mc,chw->mhw", vectors.to(view.features), view.features)

    return scores


def kmeans_prototypes(lesson: Lesson, *, count: int = 4, others: int = 8) -> Scores:
    """The largest cosine with prototypes of a label, less the largest with prototypes of what is not the label.

    Of a label they are the mean and ``count`` k-means centres of the cells of all its shots; of the rest ``others``
    centres of the cells outside. Where there are none, nothing is taken away.

    Source: FSSDINO's multi-class baseline (k-means by cosine on the cells of the shots), with the mean besides; the
    background of the shots is a class of its own there.
    """
    own = lesson.each_label(lambda shots: _centres(shots, count))
    rest = lesson.each_label(lambda shots: _centres_outside(shots, others))

    def scores(view: View) -> Tensor:
        best = [_nearest(each, view) for each in own]
        against = [_nearest(each, view) if len(each) else torch.zeros_like(best[0]) for each in rest]
        return torch.stack(best) - torch.stack(against)

    return scores


def _nearest(prototypes: Tensor, view: View) -> Tensor:
    """(h, w) largest cosine with (n, C) prototypes."""
    return torch.einsum("nc,chw->nhw", prototypes.to(view.features), view.features).amax(0)


def _mean_of_shots(shots: list[Shot]) -> Tensor:
    means = [functional.normalize(cells_of([shot], inside=True).mean(0), dim=0) for shot in showing(shots)]
    return functional.normalize(torch.stack(means).mean(0), dim=0)


def _centres(shots: list[Shot], count: int) -> Tensor:
    centres, _ = spherical_kmeans(cells_of(showing(shots), inside=True), count)
    return torch.cat([_mean_of_shots(shots)[None], centres])


def _centres_outside(shots: list[Shot], count: int) -> Tensor:
    cells = cells_of(shots, inside=False)
    return spherical_kmeans(cells, count)[0] if len(cells) else cells
