"""Objects of an image that nobody named, by one of several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.config import choose
from ovseg.errors import ConfigError, ModelError
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.naming import structure_of
from ovseg.proposals.masks import Masks, box_masks, cut_masks, sam_masks
from ovseg.result.segments import Segment
from ovseg.sam import ask_sam
from ovseg.sam.mobile import MOBILE_SAM

if TYPE_CHECKING:
    from ovseg.images.load import ImageSource
    from ovseg.pipeline.segmenter import Segmenter

OBJECT = "object"
"""The label of what has no name."""
MOST = 10
_LEAST, _LARGEST = 0.005, 0.9  # share of the image that an object has
_OVERLAP = 0.7  # of two masks, over which the less sure is a copy

Proposer = Callable[["Segmenter", EncodedImage], Masks]


def _by_cut(segmenter: Segmenter, encoded: EncodedImage) -> Masks:
    return cut_masks(encoded.pixels, structure_of(encoded))


def _by_sam(segmenter: Segmenter, encoded: EncodedImage) -> Masks:
    return sam_masks(*ask_sam(encoded, MOBILE_SAM))


def _by_detector(segmenter: Segmenter, encoded: EncodedImage) -> Masks:
    if segmenter.model.detector is None:
        raise ModelError(
            f"model '{segmenter.config.name}' has no detector; propose by normalized_cut or sam, or use mini"
        )
    proposals = segmenter.model.detector().propose(encoded.image)
    return box_masks(encoded.pixels, structure_of(encoded), proposals)


PROPOSERS: dict[str, Proposer] = {"normalized_cut": _by_cut, "sam": _by_sam, "detector": _by_detector}


def propose(
    segmenter: Segmenter, image: ImageSource | EncodedImage, *, by: str = "normalized_cut", most: int = MOST
) -> tuple[Segment, ...]:
    """Objects of an image without any word, the surest first; each has the label "object".

    Args:
        segmenter: whose features are cut, or whose detector is asked.
        image: anything ``Segmenter.encode`` takes, or what it returned.
        by: "normalized_cut" (the structure features, at most three objects), "sam" (MobileSAM at a grid of points)
            or "detector" (its boxes, whatever they show, for models that have one).
        most: how many, at most.

    Returns:
        Segments of at least 0.5 % and at most 90 % of the image, no two of which overlap by more than 0.7. Their
        scores compare within one way only.

    Raises:
        ConfigError: there is no such way; or ``most`` is under 1.
        ModelError: the model has no detector.
        ImageError: the image cannot be read.
    """
    proposer = choose("way to propose objects", by, PROPOSERS)
    if most < 1:
        raise ConfigError(f"most must be at least 1, got {most}")
    encoded = image if isinstance(image, EncodedImage) else segmenter.encode(image)
    with torch.inference_mode():
        return tuple(segment for segment, _ in _distinct(proposer(segmenter, encoded), most=most))


def object_vectors(encoded: EncodedImage, segments: tuple[Segment, ...]) -> Tensor:
    """(n, D) float32 unit means of the joint features in each segment, as ``bank.vectors`` has them of regions."""
    maps = encoded.unpadded(encoded.features.values[0]).float().cpu()
    shares = [cell_shares(segment.mask(), (maps.shape[1], maps.shape[2])) for segment in segments]
    if not shares:
        return torch.zeros(0, len(maps))
    return functional.normalize(torch.einsum("nhw,chw->nc", torch.stack(shares), maps), dim=1)


def cell_shares(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], grid: tuple[int, int]) -> Tensor:
    """(h, w) float32: which share of each cell an (H, W) bool mask covers."""
    shares: Tensor = functional.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None], grid)[0]
    return shares


def _distinct(found: Masks, *, most: int) -> Iterator[tuple[Segment, Tensor]]:
    """The segments of masks of a fair size, the surest first, without copies of surer ones."""
    ranked = sorted(_fair(found), key=lambda pair: -pair[0].score)
    kept: list[tuple[Segment, Tensor]] = []
    for segment, thumb in ranked:
        if len(kept) == most:
            return
        if all(_overlap(thumb, other) <= _OVERLAP for _, other in kept):
            kept.append((segment, thumb))
            yield segment, thumb


def _fair(found: Masks) -> Iterator[tuple[Segment, Tensor]]:
    """Segments of masks that are neither tiny nor nearly all, each with what it looks like on 64 × 64 cells."""
    for mask, score in found:
        pixels = mask.cpu().numpy()
        if _LEAST <= pixels.mean() <= _LARGEST:
            segment = Segment.of_mask(pixels, OBJECT, score, corner=(0, 0), size=(pixels.shape[0], pixels.shape[1]))
            yield segment, cell_shares(pixels, (64, 64))


def _overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two masks by their shares of cells."""
    return float(torch.minimum(one, other).sum() / torch.maximum(one, other).sum())
