"""Which cells of a picture find the label in the shots, and are found by it: forward and backward matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.examples.shot import Shot, showing


@dataclass(frozen=True)
class Reference:
    """The cells of one shot that shows a label, in a quarter of the memory that they take as floats.

    Attributes:
        codes: (n, C) int8, the cells in units of ``steps``.
        steps: (n,) float32.
        inside: (n,) bool, those that show the label.
        mean: (C,) float32 mean of those inside, before they were rounded.
    """

    codes: Tensor
    steps: Tensor
    inside: Tensor
    mean: Tensor

    @classmethod
    def of(cls, cells: Tensor, inside: Tensor) -> Reference:
        """Those of (n, C) unit cells, of which (n,) bool show the label; at least one does."""
        steps = cells.abs().amax(1).clamp_min(1e-12) / 127  # the largest number of 8 bits
        codes = (cells / steps[:, None]).round().to(torch.int8)
        return cls(codes, steps, inside, cells[inside].mean(0))

    def cosines(self, cells: Tensor) -> Tensor:
        """(N, n) cosines with unit cells (N, C)."""
        found: Tensor = cells @ self.codes.T.to(cells) * self.steps.to(cells)
        return found


def references_of(shots: Iterable[Shot], change: Callable[[Tensor], Tensor] | None = None) -> list[Reference]:
    """The cells of those shots that show their label, of which it is known whether they do.

    Args:
        shots: each is looked at once.
        change: (n, C) unit cells to others, such as whitened ones.
    """
    found = []
    for shot in showing(shots):
        known = (shot.inside | shot.outside).flatten()
        cells = shot.view.features.flatten(1).T[known]
        found.append(Reference.of(cells if change is None else change(cells), shot.inside.flatten()[known]))
    return found


def shot_mean(references: Sequence[Reference]) -> Tensor:
    """(C,) unit: the mean over shots of the mean of the cells inside."""
    return functional.normalize(torch.stack([each.mean for each in references]).mean(0), dim=0)


def candidates(cells: Tensor, references: Sequence[Reference], *, nearest: int = 1) -> Tensor:
    """Cells that may show a label: like its mean, and most like cells that show it.

    Forward, the cosine with the mean of the shots is over 0, or, where none is, among the upper tenth. Backward, of
    the ``nearest`` cells of a shot that are most like it, more than half show the label; shots that disagree vote,
    and half of them are enough.

    Args:
        cells: (N, C) unit.
        references: at least one.
        nearest: how many cells of a shot decide.

    Returns:
        (N,) bool.

    Source: INSID3 (visinf/INSID3, insid3.py, _locate_candidates), one nearest; FROST takes three.
    """
    cosines = cells @ shot_mean(references).to(cells)
    forward = cosines > 0
    if not bool(forward.any()):
        forward = cosines > torch.quantile(cosines, 0.9)
    votes = torch.zeros(len(cells), dtype=torch.int64, device=cells.device)
    for each in references:
        asked = min(nearest, len(each.codes))
        found = each.cosines(cells).topk(asked, dim=1).indices  # (N, asked)
        votes += each.inside.to(cells.device)[found].sum(1) > asked // 2
    return forward & (2 * votes >= len(references))
