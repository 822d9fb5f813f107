"""ReCo's co-segmentation: the cells that a set of images have in common, found without any mask."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
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
        return at_cells(self.support, self.seeds)


def cosegment(
    features: Tensor, weights: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> Cosegmentation:
    """Support, one seed per image and their unit-mean reference.

    Args:
        features: (k, C, h, w), unit length over C.
        weights: (k, h, w) in [0, 1]; see ``support``.
        dtype: see ``support``; with another than float32 the best cells are computed again in float32, so
            that the seeds are those of float32.

    Raises:
        ShapeError: see ``support``.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.1.
    """
    scores = support(features, weights, dtype=dtype)
    if dtype not in (None, torch.float32):
        _settle_best(scores, features, weights)
    seeds = best_cells(scores)
    return Cosegmentation(scores, seeds, reference_of(seed_features(features, seeds)))


def support(features: Tensor, weights: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
    """Mean, over the other images, of each cell's best match in that image.

    Works on one pair of images at a time: the largest temporary is (h·w, h·w), and the result equals that of
    the full (k·h·w, k·h·w) affinity.

    Args:
        features: (k, C, h, w), unit length over C.
        weights: (k, h, w) in [0, 1], factor on how well a cell can be matched; None for ones.
        dtype: of the products: float32 (None), bfloat16, or int8, for which each cell is scaled to ±127 by its
            largest channel. See ``quick_dtype``.

    Returns:
        (k, h, w) float32; the largest value of an image is its seed.

    Raises:
        ShapeError: fewer than two images, or ``weights`` is not (k, h, w) of ``features``.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.1.
    """
    total = _total(operands(features, weights, dtype or torch.float32))
    return (total / (len(features) - 1)).view(len(features), *features.shape[2:])


def operands(features: Tensor, weights: Tensor | None, dtype: torch.dtype) -> list[Operand]:
    """Each image as a factor of products; arguments and errors are those of ``support``."""
    check_shape("features", features, "k C h w")
    count, _, rows, columns = features.shape
    if count < 2:
        raise ShapeError(f"co-segmentation needs at least 2 images, got {count}; retrieve more")
    if weights is not None:
        check_shape("weights", weights, "k h w", k=count, h=rows, w=columns)
    return [Operand.of(cells, flat, dtype) for cells, flat in _cells(features, weights)]


def quick_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """The quickest type of products on a device: supports are then good to two or three digits.

    int8 is eight times as fast as float32 on processors with VNNI, bfloat16 four times with AVX-512 BF16.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16
    for name, dtype in (("_is_vnni_supported", torch.int8), ("_is_avx512_bf16_supported", torch.bfloat16)):
        if getattr(torch.cpu, name, bool)():
            return dtype
    return torch.float32


@dataclass(frozen=True)
class Operand:
    """One image as a factor of products.

    Attributes:
        rows: (h·w, C) of the products' type.
        columns: (C, h·w), the same turned over.
        scale: (h·w,) float32 > 0; what ``rows`` must be multiplied by to get the features.
        weights: (h·w,) float32.
    """

    rows: Tensor
    columns: Tensor
    scale: Tensor
    weights: Tensor

    @classmethod
    def of(cls, cells: Tensor, weights: Tensor, dtype: torch.dtype) -> Operand:
        """From (h·w, C) float32 and (h·w,)."""
        scale = torch.ones_like(weights)
        if dtype == torch.int8:
            scale = cells.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            cells = (cells / scale[:, None]).round()
        rows = cells.to(dtype).contiguous()
        return cls(rows, rows.T.contiguous(), scale, weights)

    def products(self, other: Operand) -> Tensor:
        """(h·w, h·w') float32 to be multiplied by both scales: rows are this image's cells."""
        if self.rows.dtype == torch.int8:
            return torch._int_mm(self.rows, other.columns).float()
        return (self.rows @ other.columns).float()


def _cells(features: Tensor, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Per image (h·w, C) float32 features and (h·w,) float32 weights, ones if there are none."""
    if weights is None:
        weights = features.new_ones(len(features), *features.shape[2:])
    return zip(features.flatten(2).transpose(1, 2).float(), weights.flatten(1).float(), strict=True)


def _total(operands: Sequence[Operand]) -> Tensor:
    """(k, h·w): sums of the best matches in the other images, each pair of images multiplied once."""
    total = torch.stack([torch.zeros_like(each.scale) for each in operands])
    for (first, one), (second, other) in itertools.combinations(enumerate(operands), 2):
        # Row maxima serve one image of the pair, column maxima the other: half the products of doing each by
        # itself.
        products = one.products(other)
        total[first] += (products * (other.scale * other.weights)).amax(1) * one.scale
        total[second] += products.mul_((one.scale * one.weights)[:, None]).amax(0) * other.scale
    return total


def _settle_best(scores: Tensor, features: Tensor, weights: Tensor | None, *, cells: int = 16) -> None:
    """Compute the best ``cells`` of each image of (k, h, w) scores again in float32, in place."""
    flat = scores.flatten(1)
    # The seed is among the best few of the quick scores; only these are worth exact ones.
    best = flat.topk(min(cells, flat.shape[1]), dim=1).indices
    images = list(_cells(features, weights))
    chosen = torch.stack([vectors[index] for (vectors, _), index in zip(images, best, strict=True)])
    total = torch.zeros(best.shape, device=scores.device)
    for number, (vectors, weight) in enumerate(images):
        matches = (chosen @ vectors.T * weight).amax(2)  # (k, cells)
        # An image does not support its own cells.
        matches[number] = 0
        total += matches
    flat.scatter_(1, best, total / (len(images) - 1))


def best_cells(scores: Tensor) -> Tensor:
    """(k, 2) int64: row and column of the largest score of each of (k, h, w)."""
    best = scores.flatten(1).argmax(1)
    return torch.stack([best // scores.shape[2], best % scores.shape[2]], dim=1)


def at_cells(scores: Tensor, cells: Tensor) -> Tensor:
    """(k,): the scores of (k, h, w) at (k, 2) rows and columns."""
    return scores[torch.arange(len(scores), device=scores.device), cells[:, 0], cells[:, 1]]


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
        weights = weights * (1 - likeness(features, reference))
    return weights


def likeness(features: Tensor, reference: Tensor, *, sharpness: float = 1.0) -> Tensor:
    """sigmoid(sharpness · cosine) of each cell of unit (k, C, h, w) with a unit (C,) vector: (k, h, w) float32."""
    cosine = torch.einsum("kchw,c->khw", features.float(), reference.to(features.device).float())
    return (sharpness * cosine).sigmoid()
