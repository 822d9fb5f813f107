"""Maps carried from frames to the next one, by which cells look alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.tensors import check_shape

_BAND_VALUES = 4_000_000  # scores held at once, 16 MB in float32


@dataclass(frozen=True)
class Carried:
    """What the cells of a frame take from earlier ones.

    Attributes:
        maps: (K, h, w), each value a mean of values of the earlier maps.
        match: (h, w) in [-1, 1], the largest cosine of each cell with a cell of an earlier frame.
    """

    maps: Tensor
    match: Tensor


def carry(
    keys: Tensor,
    context: Tensor,
    maps: Tensor,
    *,
    radius: int,
    top: int,
    temperature: float,
    nearness: float = 0.0,
) -> Carried:
    """Maps of earlier frames, carried to a frame by the likeness of cells.

    Each cell takes the mean of the ``top`` cells that are most like it among all that lie within ``radius`` rows
    and columns of it in any of the earlier frames, weighted by exp(cosine / temperature). With ``nearness``, the
    cosine of a cell at distance d is less by ``nearness`` (d / radius)²: of two things that look the same, the
    nearer is taken.

    Args:
        keys: (C, h, w) of the frame, unit length over C.
        context: (n, C, h, w) of n earlier frames, unit length.
        maps: (n, K, h, w) of these.
        radius: cells, at least 0.
        top: cells that are taken, at least 1.
        temperature: > 0; smaller keeps more to the most alike.
        nearness: cosine that a cell at the edge of the square, straight up or aside, loses; at least 0.

    Raises:
        ShapeError: the shapes do not go together.

    Source: Caron et al., Emerging properties in self-supervised vision transformers (DINO), ICCV 2021, section
    4.2.2, by the released eval_video_segmentation.py: exp(cosine / 0.1), the first frame and the last 7, radius 12,
    5 of all context frames together, weights add to 1. Its protocol is that of Jabri et al., Space-time
    correspondence as a contrastive random walk, NeurIPS 2020. ``nearness`` is ours.
    """
    check_shape("keys", keys, "C h w")
    channels, rows, columns = keys.shape
    check_shape("context", context, "n C h w", C=channels, h=rows, w=columns)
    check_shape("maps", maps, "n K h w", n=len(context), h=rows, w=columns)
    band = max(1, _BAND_VALUES // (columns * len(context) * min(rows, 2 * radius + 1) * columns))
    parts = [
        _carry_rows(keys, context, maps, range(first, min(rows, first + band)), radius, top, temperature, nearness)
        for first in range(0, rows, band)
    ]
    return Carried(torch.cat([part.maps for part in parts], 1), torch.cat([part.match for part in parts]))


def _carry_rows(
    keys: Tensor,
    context: Tensor,
    maps: Tensor,
    band: range,
    radius: int,
    top: int,
    temperature: float,
    nearness: float,
) -> Carried:
    """The same for some rows of the frame, against the rows that they can reach."""
    rows, columns = keys.shape[1:]
    reach = slice(max(0, band.start - radius), min(rows, band.stop + radius))
    wanted = keys[:, band.start : band.stop].flatten(1).T  # (b·w, C)
    sources = context[:, :, reach].transpose(0, 1).flatten(1)  # (C, n·m·w)
    loss = _losses(band, range(reach.start, reach.stop), columns, radius, nearness).to(keys)
    cosines = wanted @ sources  # (b·w, n·m·w)
    scores = (cosines.view(len(wanted), len(context), -1) - loss[:, None]).flatten(1)
    best, place = scores.topk(min(top, scores.shape[1]), dim=1)  # (b·w, top)
    weights = (best / temperature).softmax(1).to(maps.dtype)
    values = maps[:, :, reach].transpose(0, 1).flatten(1)  # (K, n·m·w)
    mixed = torch.stack([(row[place] * weights).sum(1) for row in values]) if len(values) else values.new_zeros(0)
    shape = (len(band), columns)
    match = cosines.gather(1, place[:, :1])
    return Carried(mixed.view(len(values), *shape), match.view(shape))


def _losses(wanted: range, reach: range, columns: int, radius: int, nearness: float) -> Tensor:
    """(b·w, m·w) what each cell loses by its distance from another; infinite outside the square around it."""

    def losses(one: range, other: range) -> Tensor:
        first, second = (torch.arange(each.start, each.stop) for each in (one, other))
        distance = (first[:, None] - second[None]).abs().float()
        return torch.where(distance > radius, torch.inf, nearness * (distance / max(radius, 1)) ** 2)

    down, across = losses(wanted, reach), losses(range(columns), range(columns))
    return (down[:, None, :, None] + across[None, :, None, :]).flatten(2).flatten(0, 1)
