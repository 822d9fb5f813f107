"""What masks show: how sure pixels are of a label in a mask, and objects from masks that nobody named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.models.sections import ObjectsConfig
from ovseg.pipeline.candidates import surest
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.proposals.masks import Masks, part_masks, sam_masks
from ovseg.proposals.splits import by_affinity, by_watershed
from ovseg.proposals.universal import universal_masks
from ovseg.result.segments import Segment
from ovseg.sam import ask_sam

_LONG_SIDE = 256  # cells on which masks are compared with one another and with the labels
_AROUND = 4  # cells that a mask is grown by to see what lies around it
_CONTRAST = 0.5  # what a label loses of its mean in the mask, times its mean around it
_WHOLE = 0.25  # power of the share that the mask has of all that shows the label
_SAM_LIMITS = {"quality": 0.7, "stability": 0.8, "overlap": 0.85}  # looser than SAM's own: labels choose


@dataclass(frozen=True)
class UnnamedMasks:
    """n masks of one image, before they have names.

    Attributes:
        segments: their pixels, all with the same label; the score says how surely each is an object.
        cells: (n, a, b) bool, the masks on at most 256 cells a side.
    """

    segments: tuple[Segment, ...]
    cells: Tensor

    @classmethod
    def of(cls, masks: Masks, *, size: tuple[int, int]) -> UnnamedMasks:
        """Masks of an image of ``size`` (H, W), one after the other, without those that fill no cell."""
        shrink = min(1.0, _LONG_SIDE / max(size))
        grid = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
        segments, cells = [], []
        for mask, quality in masks:
            small = functional.adaptive_avg_pool2d(mask[None].float().cpu(), grid)[0] > 0.5
            if bool(small.any()):
                segments.append(Segment.of_mask(mask.cpu().numpy(), "", quality, corner=(0, 0), size=size))
                cells.append(small)
        stacked = torch.stack(cells) if cells else torch.zeros(0, *grid, dtype=torch.bool)
        return cls(tuple(segments), stacked)


def proposed_masks(encoded: EncodedImage, config: ObjectsConfig) -> UnnamedMasks:
    """The masks that ``config.proposals`` ("cuts", "sam", "universal") finds without any word; kept with the image.

    Raises:
        ModelError: the weights of a network are missing.
    """

    def propose() -> UnnamedMasks:
        if config.proposals == "cuts":
            masks = part_masks(encoded.pixels, structure_of(encoded))
        elif config.proposals == "universal":
            masks = universal_masks(encoded.pixels, model=config.masks)
        else:
            network, embedding = ask_sam(encoded, config.masks)
            masks = sam_masks(network, embedding, points_per_side=config.points, **_SAM_LIMITS)
        return UnnamedMasks.of(masks, size=encoded.geometry.original)

    return encoded.once(f"masks {config.proposals} {config.masks} {config.points}", propose)


def split_masks(encoded: EncodedImage, index: Tensor, things: Sequence[int], *, by: str) -> UnnamedMasks:
    """The connected parts of labels in a label map, split by "watershed" or "affinity" (``proposals.splits``)."""
    masks = by_watershed(index, things) if by == "watershed" else by_affinity(index, things, structure_of(encoded))
    return UnnamedMasks.of(masks, size=encoded.geometry.original)


def structure_of(encoded: EncodedImage) -> Tensor:
    """(S, h, w) the structure features of the cells that show the image, or the joint ones where there are none."""
    return encoded.unpadded(encoded.features.likeness[0])


def named_objects(
    found: UnnamedMasks,
    logits: ClassLogits,
    encoded: EncodedImage,
    things: Sequence[int],
    *,
    least_score: float,
    most: int,
) -> list[Segment]:
    """The masks with the labels that they show, the surest first; copies of a label are dropped.

    Args:
        found: masks.
        logits: of all labels.
        encoded: the image.
        things: positions of the labels that are looked for.
        least_score: those less sure are dropped, see ``label_scores``.
        most: at most so many.
    """
    size = (found.cells.shape[-2], found.cells.shape[-1])
    maps = label_maps(logits, encoded, torch.tensor(list(things)), size=size)
    quality = torch.tensor([each.score for each in found.segments])
    scores = label_scores(found.cells, maps) * quality[:, None]
    names = logits.queries.vocabulary.labels
    return [
        replace(found.segments[row], label=names[label], score=score)
        for row, label, score in surest(found.cells, scores, things, least_score=least_score, most=most)
    ]


def label_scores(masks: Tensor, maps: Tensor) -> Tensor:
    """How well masks show labels: (n, L) in [0, 1].

    For a label of mean probability p in a mask and r in the ring of four cells around it, and a share w of all that
    the image shows of it: max(0, p − ½ r) · w^¼. So a piece of an object, around which its label goes on, is worth
    less than the whole, and a crumb less than what holds most of the label.

    Args:
        masks: (n, a, b) bool, none of them empty.
        maps: (L, a, b) probabilities of the labels.
    """
    if not len(masks):
        return torch.zeros(0, len(maps))
    flat = maps.flatten(1).T
    grown = functional.max_pool2d(masks[:, None].float(), 2 * _AROUND + 1, stride=1, padding=_AROUND)[:, 0] > 0
    ring = (grown & ~masks).flatten(1).float()
    inside = masks.flatten(1).float()
    held = inside @ flat
    shown = held / inside.sum(1, keepdim=True)
    around = (ring @ flat) / ring.sum(1, keepdim=True).clamp_min(1)
    whole = held / flat.sum(0).clamp_min(1e-9)
    return (shown - _CONTRAST * around).clamp_min(0) * whole**_WHOLE


def pooled(logits: ClassLogits, encoded: EncodedImage, labels: Tensor, masks: Tensor) -> Tensor:
    """(n,) mean probability of each mask's label inside the mask; 0 for a mask of nothing.

    Args:
        logits: of all labels.
        encoded: the image.
        labels: (n,) int64, one for each mask.
        masks: (n, a, b) bool, the image at any size.
    """
    used, row_of = torch.unique(labels, return_inverse=True)
    maps = label_maps(logits, encoded, used, size=(masks.shape[-2], masks.shape[-1]))
    means = [
        float(maps[row][mask].mean()) if bool(mask.any()) else 0.0
        for row, mask in zip(row_of.tolist(), masks, strict=True)
    ]
    return torch.tensor(means)


def label_maps(logits: ClassLogits, encoded: EncodedImage, labels: Tensor, *, size: tuple[int, int]) -> Tensor:
    """(n, a, b) float32 probabilities of labels (n,), by their positions, over the image shrunk to ``size``."""
    probabilities = logits.probabilities(logits.values)[labels.to(logits.values.device)]
    maps = encoded.geometry.shrunk(size).sample(probabilities[None], slice(0, size[0]), stride=logits.stride)
    return maps[0].cpu()
