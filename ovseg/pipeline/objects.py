"""Objects of an image: boxes get the names of labels, masks cut them out, the sure ones correct the label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import ConfigError, ModelError
from ovseg.images.geometry import Size
from ovseg.models.config import ObjectsConfig
from ovseg.models.model import Model
from ovseg.pipeline.decide import Decision
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits, best_query
from ovseg.proposals.boxes import box_overlap, box_shared, distinct
from ovseg.proposals.proposal import NamesClasses, Proposals
from ovseg.result.segments import Segment, connected_parts, paint
from ovseg.sam import load_sam, to_image
from ovseg.vocabulary.labels import Vocabulary, check_things

Quality: TypeAlias = Literal["fast", "best"]

_BOX_OVERLAP = 0.6  # of two boxes of a label, over which one is a copy (PicoDet's own)
_MASK_OVERLAP = 0.7  # of two masks of a label
_COVERED_BOX = 0.2  # share of its score that a box loses where a surer one of its label covers it
_COVERED_MASK = 0.5  # and a mask
_KNOWN = 0.3  # share of a detector's classes at which it knows a label
_SUPPORT = 0.25  # power of the mean probability of the label inside the mask, in the score
_TRUST = 2.0  # an object of score s replaces a label of probability p where s · 2 > p
_SMALLEST = 0.001  # of the image, under which a connected part is no object
_SMALLEST_SHARE = 0.05  # of a box, under which what the map shows in it is no object


@dataclass(frozen=True)
class Candidates:
    """n boxes with names, before they are cut out.

    Attributes:
        boxes: (n, 4) float32, x0, y0, x1, y1 in pixels of the image.
        labels: (n,) int64.
        scores: (n,) float32 in [0, 1].
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def pick(self, rows: Tensor) -> Candidates:
        """Some of them, in this order."""
        return Candidates(self.boxes[rows], self.labels[rows], self.scores[rows])

    def joined(self, other: Candidates) -> Candidates:
        """These and others."""
        pairs = zip((self.boxes, self.labels, self.scores), (other.boxes, other.labels, other.scores), strict=True)
        return Candidates(*(torch.cat(pair) for pair in pairs))


def named_boxes(proposals: Proposals, shares: Tensor, *, least_score: float) -> Candidates:
    """Boxes of a detector with the labels that its classes mean; near copies of a label are dropped.

    Args:
        proposals: n boxes and their classes.
        shares: (L, C) what share of each class a label is; rows add to at most 1.
        least_score: boxes less sure of a label are dropped.
    """
    scores = proposals.classes @ shares.T
    rows, labels = (scores > least_score).nonzero(as_tuple=True)
    found = Candidates(proposals.boxes[rows], labels, scores[rows, labels])
    kept = []
    for label in torch.unique(labels):
        own = (found.labels == label).nonzero().flatten()
        boxes = found.boxes[own]
        kept.append(own[distinct(box_overlap(boxes, boxes), found.scores[own], most_overlap=_BOX_OVERLAP)])
    return found.pick(torch.cat(kept)) if kept else found


def part_boxes(index: Tensor, best: Tensor, labels: Sequence[int]) -> Candidates:
    """The boxes of the 8-connected parts of labels in a label map.

    Args:
        index: (H, W) int32 label at each pixel.
        best: (H, W) float32 its probability; the mean over a part is the part's score.
        labels: which.
    """
    boxes, owners, scores = [], [], []
    for label in labels:
        parts, windows = connected_parts((index == label).cpu().numpy())
        for number, (rows, columns) in enumerate(windows, start=1):
            inside = torch.from_numpy(parts[rows, columns] == number)
            if int(inside.sum()) >= _SMALLEST * index.numel():
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                owners.append(label)
                scores.append(float(best[rows, columns].cpu()[inside].mean()))
    made = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Candidates(made, torch.tensor(owners, dtype=torch.long), torch.tensor(scores, dtype=torch.float32))


@dataclass(frozen=True)
class ObjectSearch:
    """Which objects of an image are looked for, and how.

    Attributes:
        labels: positions of the labels whose objects are found; empty for none.
        reported: those labels whose objects the result holds; the others only correct the label map.
        quality: by which section ``objects`` of the model file.
        wanted: whether the caller asked for objects.
    """

    labels: tuple[int, ...]
    reported: tuple[str, ...]
    quality: Quality
    wanted: bool

    @classmethod
    def of(
        cls, vocabulary: Vocabulary, *, instances: bool | Sequence[str], quality: Quality | None
    ) -> ObjectSearch:
        """See ``Segmenter.segment``.

        Raises:
            VocabularyError: none of the labels is a thing, or a label is not among them.
            ConfigError: there is no such quality.
        """
        if quality not in {None, "fast", "best"}:
            raise ConfigError(f"quality must be 'fast', 'best' or None, got {quality!r}; choose one")
        wanted = instances is not False
        reported = check_things(vocabulary, instances)
        chosen = quality or ("best" if wanted else "fast")
        searched = set(reported) | (set(vocabulary.things) if chosen == "best" else set())
        labels = tuple(number for number, label in enumerate(vocabulary.labels) if label in searched)
        return cls(labels if wanted or chosen == "best" else (), reported, chosen, wanted)

    @property
    def described(self) -> dict[str, Any]:
        """What a result says of it; empty where nothing was looked for."""
        if not self.labels:
            return {}
        return {"quality": self.quality, "instances": list(self.reported)}


def find_objects(
    model: Model, search: ObjectSearch, encoded: EncodedImage, logits: ClassLogits, decision: Decision
) -> tuple[Decision, tuple[Segment, ...] | None]:
    """The label map with what objects correct in it, and the objects that were asked for, None for none asked.

    Raises:
        ModelError: weights are missing.
    """
    config: ObjectsConfig = getattr(model.config.objects, search.quality)
    if not search.labels or (not search.wanted and config.sharpen is None):
        return decision, None
    found = ObjectFinder(model, config).find(encoded, logits, decision, search.labels)
    if config.sharpen is not None:
        labels = logits.queries.vocabulary.labels
        sure = [each for each in found if each.score >= config.sharpen]
        decision = sharpen(decision, sure, [labels.index(each.label) for each in sure])
    if not search.wanted:
        return decision, None
    shown = (each for each in found if each.label in search.reported and each.score >= config.least_score)
    return decision, tuple(shown)


class ObjectFinder:
    """Finds the objects of images by one section ``objects`` of a model file.

    Args:
        model: with a detector, where the section asks for one.
        config: the section.

    Raises:
        ModelError: the model has no detector, or weights are missing.
    """

    def __init__(self, model: Model, config: ObjectsConfig) -> None:
        self.model, self.config = model, config
        self.least_score = config.least_score if config.sharpen is None else min(config.least_score, config.sharpen)
        if config.proposals == "detector" and model.detector is None:
            raise ModelError(
                f"model '{model.config.name}' has no detector, which its file asks for; write proposals: parts"
            )

    @torch.inference_mode()
    def find(
        self, encoded: EncodedImage, logits: ClassLogits, decision: Decision, things: Sequence[int]
    ) -> tuple[Segment, ...]:
        """The objects of some labels, the surest first.

        Args:
            encoded: the image.
            logits: of all labels.
            decision: a label for every pixel.
            things: positions of the labels to look for.
        """
        candidates = self._candidates(encoded, logits, decision, things)
        if self.config.masks == "map":
            cut = _cut_from_map(candidates, decision, logits.queries.vocabulary.labels)
        else:
            cut = self._cut_with_sam(candidates, encoded, logits)
        # no factor of a score is over 1, so that nothing below the limit is cut out in vain
        sure = (each for each in cut if each.score >= self.least_score)
        return tuple(sorted(sure, key=lambda each: -each.score))

    def _candidates(
        self, encoded: EncodedImage, logits: ClassLogits, decision: Decision, things: Sequence[int]
    ) -> Candidates:
        """Boxes of the detector for labels that it knows, and of connected parts for the others; the surest."""
        shares = self._shares(logits)
        known = [] if shares is None else [label for label in things if float(shares[label].sum()) >= _KNOWN]
        others = [label for label in things if label not in known]
        found = part_boxes(decision.index, decision.best, others)
        if shares is not None and known:
            assert self.model.detector is not None
            proposals = self.model.detector().propose(encoded.image)
            wanted = torch.zeros_like(shares)
            wanted[known] = shares[known]
            found = named_boxes(proposals, wanted, least_score=self.least_score).joined(found)
        shared = box_shared(found.boxes, found.boxes)
        loss = _COVERED_MASK if self.config.masks == "map" else _COVERED_BOX  # masks will tell more than boxes
        kept, scores = apart(shared, found.labels, found.scores, loss=loss, most_overlap=_BOX_OVERLAP)
        kept = kept[scores[kept] >= self.least_score]
        return replace(found, scores=scores).pick(kept[: self.config.most])

    def _shares(self, logits: ClassLogits) -> Tensor | None:
        """(L, C) what share of each of the detector's classes the labels are; None without a detector."""
        head = self.model.head
        if self.config.proposals != "detector" or not isinstance(head, NamesClasses):
            return None
        queries = logits.queries
        shares = head.detector_classes(queries.embeddings).float().cpu()
        return best_query(shares, queries.class_of_query.cpu(), classes=queries.classes)[: queries.labels]

    def _cut_with_sam(self, candidates: Candidates, encoded: EncodedImage, logits: ClassLogits) -> list[Segment]:
        """A mask by SAM for each box; copies are dropped, scores weighed with what the pixels and SAM say."""
        if not len(candidates.boxes):
            return []
        network = load_sam(self.config.masks)
        embedding = network.encode(torch.from_numpy(encoded.image))
        boxes, row_of = torch.unique(
            candidates.boxes, dim=0, return_inverse=True
        )  # two names of a box share its mask
        masks, quality = network.masks(embedding, boxes=boxes)
        inside = embedding.inside(masks[:, 0])[row_of]
        support = pooled(logits, encoded, candidates.labels, inside > 0)
        scores = candidates.scores * support**_SUPPORT * quality[row_of, 0].clamp(0, 1)
        flat = (inside > 0).flatten(1).float()
        kept, scores = apart(
            flat @ flat.T, candidates.labels, scores, loss=_COVERED_MASK, most_overlap=_MASK_OVERLAP
        )
        labels = logits.queries.vocabulary.labels
        found = []
        for row in kept.tolist():
            (mask,) = to_image(embedding, masks[row_of[row]])
            found += _segment(mask, labels[int(candidates.labels[row])], float(scores[row]))
        return found


def pooled(logits: ClassLogits, encoded: EncodedImage, labels: Tensor, masks: Tensor) -> Tensor:
    """(n,) mean probability of each mask's label inside the mask.

    Args:
        logits: of all labels.
        encoded: the image.
        labels: (n,) int64, one for each mask.
        masks: (n, a, b) bool, the image at any size.
    """
    used, row_of = torch.unique(labels, return_inverse=True)
    probabilities = logits.probabilities(logits.values)[used.to(logits.values.device)]
    size = (masks.shape[-2], masks.shape[-1])
    maps = encoded.geometry.shrunk(size).sample(probabilities[None], slice(0, size[0]), stride=logits.stride)
    maps = maps[0].cpu()
    means = [
        float(maps[row][mask].mean()) if bool(mask.any()) else 0.0
        for row, mask in zip(row_of.tolist(), masks, strict=True)
    ]
    return torch.tensor(means)


def sharpen(
    decision: Decision, found: Sequence[Segment], label_of: Sequence[int], *, trust: float = _TRUST
) -> Decision:
    """The label map with the objects in it: a pixel takes the label of the object that covers it, if that is sure.

    Args:
        decision: a label for every pixel.
        found: objects, the surest first.
        label_of: position of the label of each.
        trust: an object of score s replaces a label of probability p where s · trust > p.
    """
    size = (int(decision.index.shape[0]), int(decision.index.shape[1]))
    covered = torch.from_numpy(paint(found, size)).to(decision.index.device)
    numbers = torch.tensor([-1, *label_of], dtype=torch.int32, device=covered.device)
    scores = torch.tensor([0.0, *(each.score for each in found)], device=covered.device)
    label, score = numbers[covered.long()], scores[covered.long()]
    taken = (covered > 0) & ((score * trust > decision.best) | (label == decision.index))
    best = torch.where(taken & (label != decision.index), score, decision.best)
    return replace(decision, index=torch.where(taken, label, decision.index), best=best)


def apart(
    shared: Tensor, labels: Tensor, scores: Tensor, *, loss: float, most_overlap: float
) -> tuple[Tensor, Tensor]:
    """Which of n things are objects of their own, and how sure that is.

    What a surer one of its label covers is likely a part or a copy of it: it loses some of its score. Near copies are
    dropped, and what is empty.

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


def _cut_from_map(candidates: Candidates, decision: Decision, labels: Sequence[str]) -> list[Segment]:
    """For each box what the label map says in it; a pixel in several boxes of its label is the nearest one's."""
    size = (int(decision.index.shape[0]), int(decision.index.shape[1]))
    index = decision.index.cpu().numpy()
    found = []
    for row, box in enumerate(candidates.boxes):
        x0, y0, x1, y1 = _outer(box, size)
        if x0 >= x1 or y0 >= y1:
            continue
        own = index[y0:y1, x0:x1] == int(candidates.labels[row])
        rivals = (candidates.labels == candidates.labels[row]).nonzero().flatten()
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


def _segment(mask: Tensor, label: str, score: float) -> list[Segment]:
    """The segment of an (H, W) bool mask; none where it is empty."""
    pixels = mask.cpu().numpy()
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    window = pixels[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    size = (pixels.shape[0], pixels.shape[1])
    return [Segment.of_mask(window, label, min(1.0, score), corner=(top, left), size=size)]
