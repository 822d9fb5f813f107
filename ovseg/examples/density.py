"""How much denser the cells of a label lie around a cell than the others do: FROST's density ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.examples.matching import Reference, candidates, references_of
from ovseg.examples.shot import Comparison, Shot, View, some_cells_of

_WIDTHS = (0.05, 0.1, 0.2, 0.5, 1.0)
_SHRINK = 0.95  # of the covariance towards a ball
_AXES = 128  # the widest; along others the ball is nearly all of it
_STEPS, _PULL = 10, 0.7  # of smoothing
_NEAR = 16  # cells
_REJECTED = -6.0  # log ratio of what the gate keeps out


def density_ratio(*, most: int = 400) -> Comparison[Density]:
    """Logarithm of the density of the label's cells over that of the others, smoothed and gated.

    Pictures of what a label is not count among its others.

    Args:
        most: cells that are kept inside, and as many outside, of the shots of a label.

    Source: FROST (arXiv 2606.31136; jhpark-ai/FROST, frost/density.py and model.py). On purpose: features are not
    freed of directions of position; references are not flipped, which would encode each twice; at most ``most``
    anchors inside and outside; the covariance along its 128 widest directions; candidates are matched by cells that
    are whitened and then unit; what the gate keeps out scores at most −6; where no cell is a candidate, all of it.
    """

    def scores(view: View, densities: Sequence[Density]) -> Tensor:
        edges = affinity(view)
        return torch.stack([each(view, edges) for each in densities])

    return Comparison(lambda shots: Density.of(shots, most), scores)


@dataclass(frozen=True)
class Whitening:
    """Σ^(−1/2) up to a factor, for a covariance within classes that is shrunk to a ball.

    Attributes:
        axes: (r, C) unit directions in which Σ is wider than elsewhere.
        factors: (r,) what becomes of lengths along them.
    """

    axes: Tensor
    factors: Tensor

    @classmethod
    def of(cls, groups: Sequence[Tensor]) -> Whitening:
        """That of (n, C) cells of each class, pooled."""
        centred = torch.cat([group - group.mean(0) for group in groups])
        count, channels = centred.shape
        values, vectors = torch.linalg.eigh(centred @ centred.T / count)
        ball = _SHRINK * float(values.sum()) / channels
        values, vectors = values[-_AXES:], vectors[:, -_AXES:]
        kept = values > 1e-5 * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        axes = (centred.T @ vectors / (values * count).sqrt()).T
        return cls(axes, (ball / ((1 - _SHRINK) * values + ball)).sqrt())

    def __call__(self, cells: Tensor) -> Tensor:
        """(n, C) cells, whitened and unit."""
        axes = self.axes.to(cells)
        along = cells @ axes.T
        return functional.normalize(cells + (along * (self.factors.to(cells) - 1)) @ axes, dim=1)


@dataclass(frozen=True)
class Density:
    """What is kept of the shots of one label: whitened anchors, and the cells of each shot for the gate."""

    whitening: Whitening
    inside: Tensor
    outside: Tensor
    width: float
    references: list[Reference]
    reach: int

    @classmethod
    def of(cls, shots: Sequence[Shot], most: int) -> Density:
        """That of some shots, with so many anchors inside and outside."""
        groups = [some_cells_of(shots, most, inside=side) for side in (True, False)]
        whitening = Whitening.of([group for group in groups if len(group)])
        inside, outside = map(whitening, groups)
        references = references_of(shots, whitening)
        share = sum(float(each.inside.float().mean()) for each in references) / len(references)
        return cls(whitening, inside, outside, best_width(inside, outside), references, round(4 * share))

    def __call__(self, view: View, edges: Tensor) -> Tensor:
        """(h, w)."""
        cells = self.whitening(view.features.flatten(1).T)
        inside, outside = self.inside.to(cells), self.outside.to(cells)
        ratio = log_density(cells @ inside.T, self.width) - log_density(cells @ outside.T, self.width)
        smooth = smoothed(ratio, edges).view(view.grid)
        gate = candidates(cells, self.references, nearest=3).view(view.grid)
        side = 2 * self.reach + 1
        gate = functional.max_pool2d(gate[None, None].float(), side, stride=1, padding=self.reach)[0, 0] > 0
        return torch.where(gate, smooth, smooth.clamp(max=_REJECTED))


def log_density(cosines: Tensor, width: float) -> Tensor:
    """(n,) of (n, N): logarithm of the mean of exp((cosine − 1)/width) over anchors; 0 without any."""
    if not cosines.shape[1]:
        return cosines.new_zeros(len(cosines))
    return ((cosines - 1) / width).logsumexp(1) - math.log(cosines.shape[1])


def best_width(inside: Tensor, outside: Tensor) -> float:
    """The width by which (n, C) and (m, C) cells differ most in their log ratio, each without itself."""
    if len(inside) < 2 or len(outside) < 2:
        return _WIDTHS[1]

    def without_itself(group: Tensor) -> Tensor:
        others = ~torch.eye(len(group), dtype=torch.bool, device=group.device)
        return (group @ group.T)[others].view(len(group), -1)

    same_in, same_out, across = without_itself(inside), without_itself(outside), inside @ outside.T

    def margin(width: float) -> float:
        high = log_density(same_in, width) - log_density(across, width)
        low = log_density(across.T, width) - log_density(same_out, width)
        return float(high.mean() - low.mean())

    return max(_WIDTHS, key=margin)


def affinity(view: View) -> Tensor:
    """(N, N): how much cells of a picture share: alike in features and colour, near, 0 with themselves."""
    cells, colours = view.features.flatten(1).T, view.colours.flatten(1).T
    rows, columns = view.grid
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float().to(cells)
    edges = (cells @ cells.T / 0.2 - torch.cdist(colours, colours).square() / 0.05).exp()
    edges *= torch.cdist(places, places) <= _NEAR
    return edges.fill_diagonal_(0)


def smoothed(ratio: Tensor, edges: Tensor) -> Tensor:
    """(N,) values that take from those of neighbours that are alike, by ``edges`` (N, N) and in value."""
    scaled = ratio / (ratio.std() + 1e-6)
    pull = edges * (-(scaled[:, None] - scaled).square()).exp()
    pull = pull / pull.sum(1, keepdim=True).clamp(min=1e-6)
    found = ratio
    for _ in range(_STEPS):
        found = torch.lerp(ratio, pull @ found, _PULL)
    return found
