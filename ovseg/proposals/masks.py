"""Masks of objects that nobody named: by normalised cuts, by SAM, or from a detector's boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.proposals.boxes import BOX_OVERLAP, box_overlap, distinct
from ovseg.proposals.proposal import Proposals
from ovseg.refine.guided import guided_filter
from ovseg.regions.cuts import normalized_cut, object_masks
from ovseg.sam import PromptedSam, SamEmbedding, automatic_masks, to_image
from ovseg.tensors import check_shape

Masks: TypeAlias = Iterator[tuple[Tensor, float]]
"""(H, W) bool of the image's size, and how sure it is that this is an object, in [0, 1]."""

_LONG_SIDE = 256  # pixels at which borders are drawn: enlarging what is sharp there costs little
_TOGETHER = 8  # maps that are sharpened at once: what the filter computes of the image alone is shared
_PART_CELLS = 900  # the same, where few cuts are made
_CELLS = 400  # a cut takes time with their third power
_LEAST_APART = 0.02  # score of a cut, under which it parts what is alike
_LEAST_SHARE = 0.1  # of a box, under which the map does not know its object, and all of it is taken


def cut_masks(image: Tensor, structure: Tensor, *, most: int = 3, threshold: float | None = None) -> Masks:
    """Objects by ``regions.object_masks``, their borders drawn on the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: (S, h, w) of the whole image; at most 400 cells are cut, larger maps are averaged.
        most: how many are looked for.
        threshold: cosine over which two cells are alike; None takes the mean of all pairs, which
            suits any encoder.

    Yields:
        A mask, perhaps empty, and half of 1 − the cosine between the means of its cells and of all others. What is
        hardly unlike the rest, in a picture of nothing, is left out.

    Raises:
        ShapeError: image or structure have another shape.
    """
    check_shape("image", image, "H W c", c=3)
    check_shape("structure", structure, "S h w")
    unit = functional.normalize(at_most_cells(structure.float().cpu(), _CELLS), dim=0)
    if threshold is None:
        threshold = float(unit.flatten(1).mean(1).square().sum())
    found = object_masks(unit, most=most, threshold=threshold)
    scores = [apartness(unit, mask) for mask in found]
    apart = [number for number, score in enumerate(scores) if score >= _LEAST_APART]
    return zip(sharp_masks(image, found[apart].float()), [scores[number] for number in apart], strict=True)


def part_masks(image: Tensor, structure: Tensor, *, most: int = 8) -> Masks:
    """Parts that cover an image, by ``regions.normalized_cut`` of at most 900 cells, with the image's borders.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: (S, h, w) of the whole image.
        most: how many parts, besides what is left.

    Yields:
        A mask, perhaps empty, and 1: nothing says how good a part is.

    Raises:
        ShapeError: image or structure have another shape.
    """
    check_shape("image", image, "H W c", c=3)
    check_shape("structure", structure, "S h w")
    parts = normalized_cut(at_most_cells(structure.float().cpu(), _PART_CELLS), most=most)
    maps = (parts[None] == torch.arange(int(parts.max()) + 1)[:, None, None]).float()
    return ((mask, 1.0) for mask in sharp_masks(image, maps))


def sam_masks(network: PromptedSam, embedding: SamEmbedding, *, points_per_side: int = 8, **limits: float) -> Masks:
    """What a SAM finds at a grid of points. The score is the overlap that it expects.

    Args:
        network: a SAM.
        embedding: the image as it sees it.
        points_per_side: side of the grid; the time grows with its square.
        limits: ``quality``, ``stability`` and ``overlap`` of ``automatic_masks``.
    """
    found = automatic_masks(network, embedding, points_per_side=points_per_side, **limits)
    scores = found.quality.clamp(0, 1).tolist()
    return zip(to_image(found.embedding, found.logits), scores, strict=True)


def box_masks(
    image: Tensor, structure: Tensor, proposals: Proposals, *, least_score: float = 0.3, most: int = 20
) -> Masks:
    """A detector's surest boxes, whatever their class, cut out by the structure of the image.

    A pixel of a box is the object's where its features are nearer to the mean of the middle of the box than to that
    of a frame around it, borders drawn on the image; where nearly nothing of a box is, all of it is taken.

    Args:
        image: (H, W, 3) uint8 RGB.
        structure: (S, h, w) of the whole image.
        proposals: boxes of the image; near copies are dropped here.
        least_score: probability of the best class, under which a box is dropped.
        most: how many boxes, at most.

    Yields:
        A mask, which lies in its box, and the probability of the best class.
    """
    check_shape("image", image, "H W c", c=3)
    check_shape("structure", structure, "S h w")
    scores = proposals.classes.amax(1)
    sure = (scores >= least_score).nonzero().flatten()
    boxes, scores = proposals.boxes[sure], scores[sure]
    kept = distinct(box_overlap(boxes, boxes), scores, most_overlap=BOX_OVERLAP)[:most]
    boxes, scores = boxes[kept], scores[kept]
    size = (image.shape[0], image.shape[1])
    unit = functional.normalize(structure.float().cpu(), dim=0)
    maps = [_object_in_box(unit, box, size) for box in boxes]
    masks = sharp_masks(image, torch.stack(maps)) if maps else iter(())
    for mask, box, score in zip(masks, boxes, scores.tolist(), strict=True):
        inside = _on_cells(box, *size)
        own = mask & inside
        yield (own if own.sum() >= _LEAST_SHARE * inside.sum() else inside), score


def sharp_masks(image: Tensor, maps: Tensor) -> Iterator[Tensor]:
    """Coarse maps as masks whose borders follow the image's, by the guided filter.

    Args:
        image: (H, W, 3) uint8 RGB.
        maps: (n, h, w) in [0, 1], how surely a cell is inside, over the whole image.

    Yields:
        (H, W) bool, one for each map.
    """
    for fine in _sharp_maps(image, maps):
        yield fine > 0.5


def sharp_partition(image: Tensor, owner: Tensor) -> Tensor:
    """Numbers of cells as numbers of pixels, the borders between them drawn on the image, by the guided filter.

    Args:
        image: (H, W, 3) uint8 RGB.
        owner: (h, w) int64 from 0, over the whole image.

    Returns:
        (H, W) int64; a number of few cells may have no pixel.

    Raises:
        ShapeError: image or numbers have another shape.
    """
    check_shape("image", image, "H W c", c=3)
    check_shape("owner", owner, "h w")
    maps = functional.one_hot(owner).permute(2, 0, 1).float()
    numbers = torch.zeros(image.shape[:2], dtype=torch.int64)
    best = torch.full(image.shape[:2], -torch.inf)
    for number, fine in enumerate(_sharp_maps(image, maps)):
        numbers[fine > best] = number
        best = torch.maximum(best, fine)
    return numbers


def _sharp_maps(image: Tensor, maps: Tensor) -> Iterator[Tensor]:
    """(n, h, w) maps, each as (H, W) float32 whose borders follow the image's."""
    if not len(maps):
        return
    size = (image.shape[0], image.shape[1])
    scale = min(1.0, _LONG_SIDE / max(size))
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    pixels = image.cpu().permute(2, 0, 1)[None].float() / 255
    pixels = functional.interpolate(pixels, small, mode="bilinear", antialias=True)
    for some in torch.split(maps[None].float(), _TOGETHER, dim=1):
        coarse = functional.interpolate(some, small, mode="bilinear", align_corners=False)
        for fine in guided_filter(pixels, coarse)[0]:
            whole = functional.interpolate(fine[None, None], size, mode="bilinear", align_corners=False)
            yield whole[0, 0]


def apartness(features: Tensor, mask: Tensor) -> float:
    """Half of 1 − the cosine between the means of (C, h, w) features in and outside of an (h, w) mask; 0 for none.

    >>> import torch
    >>> apartness(torch.tensor([[[1.0, -1.0]]]), torch.tensor([[True, False]]))
    1.0
    """
    if bool(mask.all()) or not bool(mask.any()):
        return 0.0
    inside, outside = features[:, mask].mean(1), features[:, ~mask].mean(1)
    return float((1 - functional.cosine_similarity(inside, outside, dim=0)) / 2)


def at_most_cells(maps: Tensor, cells: int) -> Tensor:
    """(C, h, w) maps averaged to at most so many cells, their ratio kept."""
    rows, columns = maps.shape[1:]
    shrink = (cells / (rows * columns)) ** 0.5
    if shrink >= 1:
        return maps
    return functional.adaptive_avg_pool2d(maps, (max(1, int(rows * shrink)), max(1, int(columns * shrink))))


def _object_in_box(unit: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) in [0, 1]: over a half where (S, h, w) cells are nearer to the middle of a box than to its frame."""
    rows, columns = unit.shape[1:]
    cells = box * torch.tensor([columns / size[1], rows / size[0]] * 2)
    middle = _on_cells(_grown(cells, 0.5), rows, columns)
    frame = _on_cells(_grown(cells, 1.5), rows, columns) & ~_on_cells(cells, rows, columns)
    if not bool(frame.any()):  # the box is as large as the image
        return _on_cells(cells, rows, columns).float()
    centres = [functional.normalize(unit[:, where].mean(1), dim=0) for where in (middle, frame)]
    inner, outer = (torch.einsum("s,shw->hw", centre, unit) for centre in centres)
    return ((inner - outer) / 2 + 0.5).clamp(0, 1)


def _grown(box: Tensor, factor: float) -> Tensor:
    """A box with sides so many times as long about its middle."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * factor
    return torch.cat([middle - half, middle + half])


def _on_cells(box: Tensor, rows: int, columns: int) -> Tensor:
    """(rows, columns) bool of the cells whose middle is in the box; at least the one that holds its middle."""
    y, x = torch.arange(rows) + 0.5, torch.arange(columns) + 0.5
    inside = ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))[None]
    middle = (box[:2] + box[2:]) / 2
    inside[int(middle[1].clamp(0, rows - 1)), int(middle[0].clamp(0, columns - 1))] = True
    return inside
