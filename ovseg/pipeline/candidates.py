"""Boxes with names, and which of them are objects of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.images.geometry import Size
from ovseg.pipeline.decide import Decision
from ovseg.proposals.boxes import BOX_OVERLAP, box_overlap, distinct, mask_box
from ovseg.proposals.proposal import Proposals
from ovseg.result.segments import Segment, connected_parts

_MASK_OVERLAP = 0.7  # of two masks of a label, over which the less sure is a copy
_COVERED_MASK = 0.5  # share of its score that a mask loses where a surer one of its label covers it
_SMALLEST = 0.001  # of the image, under which a connected part is no object
_SMALLEST_SHARE = 0.05  # of a box, under which what the map shows in it is no object


@dataclass(frozen=True)
class Candidates:
    """n boxes with names, before they are cut out.

    Attributes:
        boxes: (n, 4) float32, x0, y0, x1, y1 in pixels of the image.
        labels: (n,) int64.
        scores: (n,) float32 in [0, 1].
        points: (n, 2) float32, x, y of a pixel that shows the object for sure; not a number where none is known.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    points: Tensor

    @classmethod
    def none(cls) -> Candidates:
        """No box at all."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0, 2))

    def pick(self, rows: Tensor) -> Candidates:
        """Some of them, in this order."""
        return Candidates(self.boxes[rows], self.labels[rows], self.scores[rows], self.points[rows])

    def joined(self, other: Candidates) -> Candidates:
        """These and others."""
        names = ("boxes", "labels", "scores", "points")
        return Candidates(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))


def named_boxes(proposals: Proposals, shares: Tensor, *, least_score: float) -> Candidates:
    """Boxes of a detector with the labels that its classes mean; near copies of a label are dropped.

    Args:
        proposals: n boxes and their classes.
        shares: (L, C) what share of each class a label is; rows add to at most 1.
        least_score: boxes less sure of a label are dropped.
    """
    scores = proposals.classes @ shares.T
    rows, labels = (scores > least_score).nonzero(as_tuple=True)
    unknown = torch.full((len(rows), 2), torch.nan)
    found = Candidates(proposals.boxes[rows], labels, scores[rows, labels], unknown)
    kept = []
    for label in torch.unique(labels):
        own = (found.labels == label).nonzero().flatten()
        boxes = found.boxes[own]
        kept.append(own[distinct(box_overlap(boxes, boxes), found.scores[own], most_overlap=BOX_OVERLAP)])
    return found.pick(torch.cat(kept)) if kept else found


def part_boxes(index: Tensor, best: Tensor, labels: Sequence[int]) -> Candidates:
    """The boxes of the 8-connected parts of labels in a label map, and the surest pixel of each.

    Args:
        index: (H, W) int32 label at each pixel.
        best: (H, W) float32 its probability; the mean over a part is the part's score.
        labels: which.
    """
    boxes, owners, scores, points = [], [], [], []
    for label in labels:
        parts, windows = connected_parts((index == label).cpu().numpy())
        for number, (rows, columns) in enumerate(windows, start=1):
            inside = torch.from_numpy(parts[rows, columns] == number)
            if int(inside.sum()) >= _SMALLEST * index.numel():
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                owners.append(label)
                sure = best[rows, columns].cpu() * inside
                scores.append(float(sure.sum() / inside.sum()))
                down, across = divmod(int(sure.argmax()), sure.shape[1])
                points.append([columns.start + across + 0.5, rows.start + down + 0.5])
    return Candidates(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(owners, dtype=torch.long),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(points, dtype=torch.float32).view(-1, 2),
    )


def apart(
    shared: Tensor, labels: Tensor, scores: Tensor, *, loss: float, most_overlap: float
) -> tuple[Tensor, Tensor]:
    """Which of n things are objects of their own, and how sure that is.

    What a surer one of its label covers is likely a part or a copy of it: it loses some of its score. Near copies
    are dropped, and what is empty.

    Args:
        shared: (n, n) area that two things share, their own on the diagonal.
        labels: (n,) int64.
        scores: (n,) in [0, 1].
        loss: the share of its score that a wholly covered one loses.
        most_overlap: intersection over union above which the less sure of two of a label is dropped.

    Returns:
        (k,) positions of those that stay, the surest first, and all (n,) scores.
    """
    if not len(scores):
        return torch.zeros(0, dtype=torch.long), scores
    areas = shared.diagonal()
    shared = shared * (labels[:, None] == labels)
    surer = scores[:, None] > scores
    scores = scores * (1 - loss * (shared * surer).amax(0) / areas.clamp_min(1e-9))
    overlap = shared / (areas[:, None] + areas - shared).clamp_min(1e-9)
    kept = distinct(overlap, scores, most_overlap=most_overlap)
    return kept[areas[kept] > 0], scores


def masks_apart(masks: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """``apart`` of masks (n, a, b) bool."""
    flat = masks.flatten(1).float()
    return apart(flat @ flat.T, labels, scores, loss=_COVERED_MASK, most_overlap=_MASK_OVERLAP)


def surest(
    masks: Tensor, scores: Tensor, labels: Sequence[int], *, least_score: float, most: int
) -> list[tuple[int, int, float]]:
    """Which masks are objects of which labels: row, label and score of each, the surest first.

    Args:
        masks: (n, a, b) bool.
        scores: (n, L) how surely each mask shows each label; a mask may show several.
        labels: L positions of the labels.
        least_score: those less sure are dropped, before and after ``masks_apart`` has weighed them.
        most: at most so many.
    """
    rows, places = (scores >= max(least_score, 1e-6)).nonzero(as_tuple=True)
    shown = torch.tensor(list(labels), dtype=torch.long, device=rows.device)[places]
    kept, weighed = masks_apart(masks[rows], shown, scores[rows, places])
    kept = kept[weighed[kept] >= least_score][:most]
    return [(int(rows[row]), int(shown[row]), float(weighed[row])) for row in kept.tolist()]


def segment_of_mask(mask: Tensor, label: str, score: float) -> list[Segment]:
    """The segment of an (H, W) bool mask of the whole image; none where it is empty."""
    box = mask_box(mask)
    if box is None:
        return []
    x0, y0, x1, y1 = box
    size = (mask.shape[0], mask.shape[1])
    return [Segment.of_mask(mask[y0:y1, x0:x1].cpu().numpy(), label, min(1.0, score), corner=(y0, x0), size=size)]


def cut_from_map(candidates: Candidates, decision: Decision, labels: Sequence[str]) -> list[Segment]:
    """For each box what the label map says in it, less what is nearer to a surer box of the label."""
    size = (int(decision.index.shape[0]), int(decision.index.shape[1]))
    index = decision.index.cpu().numpy()
    found = []
    for row, box in enumerate(candidates.boxes):
        x0, y0, x1, y1 = _outer(box, size)
        if x0 >= x1 or y0 >= y1:
            continue
        own = index[y0:y1, x0:x1] == int(candidates.labels[row])
        alike = candidates.labels == candidates.labels[row]
        rivals = (alike & (candidates.scores >= candidates.scores[row])).nonzero().flatten()
        distance = _distances(candidates.boxes[rivals], (x0, y0, x1, y1))
        nearest = (distance.argmin(0) == int((rivals == row).nonzero())).numpy()
        mask = own & nearest
        if mask.sum() >= _SMALLEST_SHARE * mask.size:
            label, score = labels[int(candidates.labels[row])], float(candidates.scores[row])
            found.append(Segment.of_mask(mask, label, score, corner=(y0, x0), size=size))
    return found


def _distances(boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """(n, h, w) how far the pixels of a window are from the middles of boxes, squared, in halves of their sides."""
    x0, y0, x1, y1 = window
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp_min(0.5)
    across = ((torch.arange(x0, x1) + 0.5 - middle[:, :1]) / half[:, :1]).abs()
    down = ((torch.arange(y0, y1) + 0.5 - middle[:, 1:]) / half[:, 1:]).abs()
    return across[:, None, :] ** 2 + down[:, :, None] ** 2


def _outer(box: Tensor, size: Size) -> tuple[int, int, int, int]:
    """The whole pixels that a box touches, inside an image of ``size`` (H, W)."""
    x0, y0, x1, y1 = box.tolist()
    return max(0, int(x0)), max(0, int(y0)), min(size[1], -int(-x1 // 1)), min(size[0], -int(-y1 // 1))
