"""Prototypes: a label is one mean vector, or several that stand for its looks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.examples.shot import Lesson, Shot, View, cells_of
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


def kmeans_prototypes(lesson: Lesson, *, count: int = 4) -> Scores:
    """The largest cosine with the mean or any of ``count`` k-means centres of the cells of all shots.

    Source: FSSDINO's multi-class baseline (k-means by cosine on the cells of the shots), with the mean besides.
    """
    vectors = lesson.each_label(lambda shots: _centres(shots, count))
    owner = torch.repeat_interleave(torch.tensor([len(each) for each in vectors]))
    rows = torch.cat(vectors)

    def scores(view: View) -> Tensor:
        cosines = torch.einsum("nc,chw->nhw", rows.to(view.features), view.features)
        best = cosines.new_full((len(vectors), *view.grid), -torch.inf)
        return best.scatter_reduce(0, owner[:, None, None].expand_as(cosines), cosines, "amax")

    return scores


def _mean_of_shots(shots: list[Shot]) -> Tensor:
    means = [functional.normalize(cells_of([shot], inside=True).mean(0), dim=0) for shot in _shown(shots)]
    return functional.normalize(torch.stack(means).mean(0), dim=0)


def _centres(shots: list[Shot], count: int) -> Tensor:
    centres, _ = spherical_kmeans(cells_of(_shown(shots), inside=True), count)
    return torch.cat([_mean_of_shots(shots)[None], centres])


def _shown(shots: list[Shot]) -> list[Shot]:
    """Those that show the label."""
    return [shot for shot in shots if bool(shot.inside.any())]
