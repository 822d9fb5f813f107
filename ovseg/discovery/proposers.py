"""Objects of an image that nobody named, by one of several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.checkpoints import mark_of
from ovseg.config import choose
from ovseg.errors import ConfigError, ModelError
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.naming import structure_of
from ovseg.proposals.masks import Masks, box_masks, cut_masks, sam_masks
from ovseg.proposals.universal import EXPECTED, load_universal, universal_masks
from ovseg.result.segments import Segment
from ovseg.sam.load import ask_sam, load_sam, sam_mark
from ovseg.sam.mobile import MOBILE_SAM

if TYPE_CHECKING:
    from ovseg.images.load import ImageSource
    from ovseg.pipeline.segmenter import Segmenter

OBJECT = "object"
"""The label of what has no name."""
MOST = 10
_LEAST, _LARGEST = 0.005, 0.9  # share of the image that an object has
_OVERLAP = 0.7  # of two masks, over which the less sure is a copy

_TAKE_MODELS = ("sam", "universal")  # ways that work by another network than the segmenter's

Proposer = Callable[["Segmenter", EncodedImage, str], Masks]
"""Gives masks of an image by a segmenter, and by the network that a way was given, or an empty string."""


def _by_cut(segmenter: Segmenter, encoded: EncodedImage, model: str) -> Masks:
    return cut_masks(encoded.pixels, structure_of(encoded))


def _by_sam(segmenter: Segmenter, encoded: EncodedImage, model: str) -> Masks:
    return sam_masks(*ask_sam(encoded, model or MOBILE_SAM))


def _by_universal(segmenter: Segmenter, encoded: EncodedImage, model: str) -> Masks:
    return universal_masks(encoded.pixels, model=model)


def _by_detector(segmenter: Segmenter, encoded: EncodedImage, model: str) -> Masks:
    if segmenter.model.detector is None:
        raise ModelError(
            f"model '{segmenter.config.name}' has no detector; propose by normalized_cut or sam, or use mini"
        )
    proposals = segmenter.model.detector().propose(encoded.image)
    return box_masks(encoded.pixels, structure_of(encoded), proposals)


PROPOSERS: dict[str, Proposer] = {
    "normalized_cut": _by_cut,
    "sam": _by_sam,
    "detector": _by_detector,
    "universal": _by_universal,
}


def parse_way(by: str) -> tuple[str, str]:
    """The way and the network of "WAY" or "WAY:MODEL"; the network is an empty string where none is given.

    Raises:
        ConfigError: there is no such way, it takes no network, or needs one.
    """
    way, colon, model = by.partition(":")
    choose("way to propose objects", way, PROPOSERS)
    if colon and (way not in _TAKE_MODELS or not model):
        raise ConfigError(
            f"{' and '.join(_TAKE_MODELS)} take a model after a colon, got '{by}'; write {way} or universal:MODEL"
        )
    if way == "universal" and not model:
        raise ConfigError(f"expected universal:MODEL, got 'universal'; give {EXPECTED}")
    return way, model


def way_mark(by: str) -> str:
    """What the weights of the network after the colon are known by, fetched if need be; empty where there is none.

    Raises:
        ConfigError: as ``parse_way``.
        ModelError: the weights are missing, or of another kind of network.
    """
    way, model = parse_way(by)
    if not model:
        return ""
    if way == "sam":
        load_sam(model)
        return sam_mark(model)
    load_universal(model)
    return mark_of(model)


def propose(
    segmenter: Segmenter, image: ImageSource | EncodedImage, *, by: str = "normalized_cut", most: int = MOST
) -> tuple[Segment, ...]:
    """Objects of an image without any word, the surest first; each has the label "object".

    Args:
        segmenter: whose features are cut, or whose detector is asked.
        image: anything ``Segmenter.encode`` takes, or what it returned.
        by: "normalized_cut" (the structure features, at most three objects), "sam" (MobileSAM at a grid of points,
            another as "sam:facebook/sam-vit-base"), "detector" (its boxes, whatever they show, for models that have
            one) or "universal:MODEL" (a Mask2Former, OneFormer or EoMT, whatever it would call them; see
            ``proposals.universal.load_universal``).
        most: how many, at most.

    Returns:
        Segments of at least 0.5 % and at most 90 % of the image, no two of which overlap by more than 0.7. Their
        scores compare within one way only.

    Raises:
        ConfigError: there is no such way; or ``most`` is under 1.
        ModelError: the model has no detector, or the weights after the colon are missing or of another network.
        ImageError: the image cannot be read.
    """
    way, model = parse_way(by)
    if most < 1:
        raise ConfigError(f"most must be at least 1, got {most}")
    encoded = image if isinstance(image, EncodedImage) else segmenter.encode(image)
    with torch.inference_mode():
        return tuple(segment for segment, _ in _distinct(PROPOSERS[way](segmenter, encoded, model), most=most))


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
