"""ReCo's co-segmentation: the cells that a set of images have in common, found without any mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.tensors import check_shape


@dataclass(frozen=True)
class Cosegmentation:
    """What k images have in common.

    Attributes:
        support: (k, h, w) float32 in [-1, 1]; how well a cell is matched in the other images.
        seeds: (k, 2) int64 row and column of each image's best supported cell.
        reference: (C,) unit mean of the seeds' features.
    """

    support: Tensor
    seeds: Tensor
    reference: Tensor

    @property
    def seed_support(self) -> Tensor:
        """(k,) support at each seed."""
        return self.support.flatten(1).amax(1)


def cosegment(
    features: Tensor, weights: Tensor | None = None, *, compat: bool = False, dtype: torch.dtype | None = None
) -> Cosegmentation:
    """Support, one seed per image and their unit-mean reference.

    Args:
        features: (k, C, h, w), unit length over C.
        weights: (k, h, w) in [0, 1]; see ``support``.
        compat: see ``support``.
        dtype: see ``support``.

    Raises:
        ShapeError: see ``support``.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.1.
    """
    scores = support(features, weights, compat=compat, dtype=dtype)
    best = scores.flatten(1).argmax(1)
    columns = features.shape[3]
    seeds = torch.stack([best // columns, best % columns], dim=1)
    return Cosegmentation(scores, seeds, reference_of(seed_features(features, seeds)))


def support(
    features: Tensor, weights: Tensor | None = None, *, compat: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean, over the other images, of each cell's best match in that image.

    Works on one pair of images at a time: the largest temporary is (h·w, h·w), and the result equals that of
    the full (k·h·w, k·h·w) affinity.

    Args:
        features: (k, C, h, w), unit length over C.
        weights: (k, h, w) in [0, 1], factor on how well a cell can be matched; None for ones.
        compat: reproduce the authors' released code, whose maximum for image m runs over a slice of the
            columns that begins at m and is longer each time, and which also lets a cell match itself.
        dtype: of the products; None is float32, bfloat16 is 2.5 times as fast with AVX-512, see ``quick_dtype``.

    Returns:
        (k, h, w) float32; the largest value of an image is its seed.

    Raises:
        ShapeError: fewer than two images, or ``weights`` is not (k, h, w) of ``features``.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.1.
    """
    check_shape("features", features, "k C h w")
    count, _, rows, columns = features.shape
    if count < 2:
        raise ShapeError(f"co-segmentation needs at least 2 images, got {count}; retrieve more")
    if weights is None:
        weights = features.new_ones(count, rows, columns)
    check_shape("weights", weights, "k h w", k=count, h=rows, w=columns)
    cells = features.flatten(2).to(dtype or torch.float32)  # (k, C, h·w)
    flat = weights.flatten(1).float()  # (k, h·w)
    total = _compat_total(cells, flat) if compat else _total(cells, flat)
    return (total / (count if compat else count - 1)).view(count, rows, columns)


def quick_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it quickly (2.5 times as fast with AVX-512), else float32.

    Similarities are then good to three digits, which is enough to choose seeds.
    """
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if supported or torch.cuda.is_available() else torch.float32


def _total(cells: Tensor, weights: Tensor) -> Tensor:
    """(k, h·w): sums of the best matches in the other images, each pair of images multiplied once."""
    count, _, size = cells.shape
    total = torch.zeros(count, size, device=cells.device)
    rows = cells.transpose(1, 2).contiguous()  # (k, h·w, C)
    even = bool((weights == 1).all())
    for first in range(count):
        for second in range(first + 1, count):
            similarity = (rows[first] @ cells[second]).float()  # rows: first, columns: second
            if even:
                total[first] += similarity.amax(1)
                total[second] += similarity.amax(0)
            else:
                total[first] += (similarity * weights[second]).amax(1)
                total[second] += similarity.mul_(weights[first][:, None]).amax(0)
    return total


def _compat_total(cells: Tensor, weights: Tensor) -> Tensor:
    """The released slice: for image m, columns m·n to (2m+1)·n, cut at the end; own images included."""
    count, _, size = cells.shape
    total = torch.zeros(count, size, device=cells.device)
    for first in range(count):
        best = torch.empty(count, size, device=cells.device)  # of each image's cells
        for second in range(count):
            similarity = (cells[first].T @ cells[second]).float()
            best[second] = (similarity * weights[second]).amax(1)
        for image in range(count):
            total[first] += best[image : 2 * image + 1].amax(0)
    return total


def seed_features(features: Tensor, seeds: Tensor) -> Tensor:
    """(k, C): the vectors of (k, C, h, w) at (k, 2) rows and columns."""
    images = torch.arange(features.shape[0], device=features.device)
    return features[images, :, seeds[:, 0], seeds[:, 1]]


def reference_of(vectors: Tensor) -> Tensor:
    """(C,): unit mean of (k, C) vectors."""
    return functional.normalize(vectors.float().mean(0), dim=0)


def context_weights(features: Tensor, references: Sequence[Tensor]) -> Tensor:
    """How little each cell looks like any of the contexts: Π (1 − sigmoid(cosine)).

    Args:
        features: (k, C, h, w), unit length over C.
        references: unit (C,) vectors of contexts, in any number.

    Returns:
        (k, h, w) in (0, 1]; ones without contexts.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.1, "context elimination".
    """
    weights = features.new_ones(features.shape[0], *features.shape[2:]).float()
    for reference in references:
        cosine = torch.einsum("kchw,c->khw", features.float(), reference.to(features.device).float())
        weights = weights * (1 - cosine.sigmoid())
    return weights


def text_weights(cosines: Tensor, *, sharpness: float = 10.0) -> Tensor:
    """ReCo's language guidance: sigmoid(sharpness · cosine of a cell and the concept's text)."""
    return (sharpness * cosines.float()).sigmoid()
