"""Which cells of a picture find the label in the shots, and are found by it: forward and backward matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.examples.shot import Shot, showing


@dataclass(frozen=True)
class Reference:
    """The cells of one shot that shows a label.

    Attributes:
        cells: (n, C) unit.
        inside: (n,) bool, those that show the label.
    """

    cells: Tensor
    inside: Tensor


def references_of(shots: Sequence[Shot]) -> list[Reference]:
    """The cells of those shots that show their label, of which it is known whether they do."""
    found = []
    for shot in showing(shots):
        known = (shot.inside | shot.outside).flatten()
        found.append(Reference(shot.view.features.flatten(1).T[known], shot.inside.flatten()[known]))
    return found


def shot_mean(references: Sequence[Reference]) -> Tensor:
    """(C,) unit: the mean over shots of the mean of the cells inside."""
    means = torch.stack([each.cells[each.inside].mean(0) for each in references])
    return functional.normalize(means.mean(0), dim=0)


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
        asked = min(nearest, len(each.cells))
        found = (cells @ each.cells.T.to(cells)).topk(asked, dim=1).indices  # (N, asked)
        votes += each.inside.to(cells.device)[found].sum(1) > asked // 2
    return forward & (2 * votes >= len(references))
