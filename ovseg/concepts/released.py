"""ReCo as its authors' released code computes it, to compare with its numbers; ``learn`` follows the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.concepts.cosegment import (
    Cosegmentation,
    Operand,
    best_cells,
    likeness,
    operands,
    reference_of,
    seed_features,
)

_SHARPNESS = 10.0  # of the text's attention


def released_cosegment(features: Tensor, weights: Tensor | None = None) -> Cosegmentation:
    """Support, seeds and reference of the release.

    The maximum for image m runs over a slice of the columns that begins at m and is longer each time, so that later
    images count too, and a cell may match itself. The reference is the mean of the seeds' features as they come, so
    that longer ones weigh more.

    Args:
        features: (k, C, h, w), of any length over C.
        weights: (k, h, w) in [0, 1], factor on how well a cell can be matched; None for ones.

    Raises:
        ShapeError: fewer than two images, or ``weights`` is not (k, h, w) of ``features``.

    Source: Shin et al., ReCo, NeurIPS 2022, and NoelShin/reco, ``reco.py``.
    """
    images = operands(functional.normalize(features.float(), dim=1), weights, torch.float32)
    support = (_total(images) / len(features)).view(len(features), *features.shape[2:])
    seeds = best_cells(support)
    return Cosegmentation(support, seeds, reference_of(seed_features(features, seeds)))


def text_attention(dense: Tensor, text: Tensor, grid: Sequence[int]) -> Tensor:
    """How much each cell looks like a phrase: sigmoid(10 · cosine), on another grid.

    Args:
        dense: (k, C, h, w) image-text features, of any length over C.
        text: (C,) unit vector.
        grid: (h', w') of the answer.

    Returns:
        (k, h', w') float32 in (0, 1).

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.2.
    """
    found = likeness(functional.normalize(dense.float(), dim=1), text, sharpness=_SHARPNESS)
    return functional.interpolate(found[None], size=tuple(grid), mode="bilinear", align_corners=False)[0]


def _total(images: Sequence[Operand]) -> Tensor:
    """The released slice: for image m, columns m·n to (2m+1)·n, cut at the end; own images included."""
    total = torch.stack([torch.zeros_like(each.scale) for each in images])
    for first, one in enumerate(images):
        best = torch.stack(
            [(one.products(other) * (other.scale * other.weights)).amax(1) * one.scale for other in images]
        )
        for image in range(len(images)):
            total[first] += best[image : 2 * image + 1].amax(0)
    return total
