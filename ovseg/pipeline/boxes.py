"""A detector's boxes: what classes of it the labels are, and what the boxes say of the label of each cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.heads.base import Head
from ovseg.images.geometry import ImageGeometry
from ovseg.models.model import Model
from ovseg.models.sections import BoxesConfig
from ovseg.pipeline.candidates import Candidates, named_boxes
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits, best_query
from ovseg.pipeline.modifiers import Modifier
from ovseg.pipeline.queries import QueryBank
from ovseg.proposals.proposal import NamesClasses, Proposals

_MOST_LIKELY = 0.5  # probability that a label is there because it is asked for
_KNOWN = 0.3  # share of a detector's classes at which it knows a label


def class_shares(head: Head, queries: QueryBank) -> Tensor | None:
    """(L, C) what share of each of the detector's classes the labels are; None for a head that cannot say.

    A label without a name is no class of the detector's, which knows classes by name alone.
    """
    if not isinstance(head, NamesClasses):
        return None
    shares = head.detector_classes(queries.embeddings).float().cpu()
    found = best_query(shares, queries.class_of_query.cpu(), classes=queries.classes)[: queries.labels]
    nameless = [label in queries.vocabulary.nameless for label in queries.vocabulary.labels]
    return found.masked_fill(torch.tensor(nameless)[:, None], 0)


def known_labels(shares: Tensor) -> list[int]:
    """The labels that the detector knows, by their (L, C) shares of its classes."""
    return (shares.sum(1) >= _KNOWN).nonzero().flatten().tolist()


def proposals_of(model: Model, encoded: EncodedImage, *, closer: bool) -> Proposals:
    """The boxes of the model's detector, looked for once for all vocabularies; ``closer`` as of ``Detector``."""
    assert model.detector is not None
    detector = model.detector()
    kept_as = f"proposals {closer} {model.weights['image']}"
    return encoded.once(kept_as, lambda: detector.propose(encoded.image, closer=closer))


def boxes_beside(model: Model, encoded: EncodedImage) -> Proposals:
    """The boxes that came with the features; where none came, those of a look of the detector's own.

    They cost nothing. To find objects the detector looks for itself: large ones are found best in a small copy.
    """
    boxes = encoded.features.boxes
    if boxes is None:
        return proposals_of(model, encoded, closer=False)
    return encoded.once("boxes beside the features", lambda: _on_image(boxes[0], encoded))


def _on_image(boxes: Tensor, encoded: EncodedImage) -> Proposals:
    """(n, 4 + D) boxes in cells and their classes, at their place in the image."""
    geometry, stride = encoded.geometry, encoded.features.stride
    assert isinstance(geometry, ImageGeometry)
    seen = (geometry.resized[0] / stride, geometry.resized[1] / stride)
    return Proposals.placed(boxes[:, :4], boxes[:, 4:], seen=seen, size=geometry.original)


def boxes_of_labels(proposals: Proposals, shares: Tensor, labels: list[int], *, least_score: float) -> Candidates:
    """The boxes that show some of the labels, without near copies; see ``named_boxes``."""
    wanted = torch.zeros_like(shares)
    wanted[labels] = shares[labels]
    return named_boxes(proposals, wanted, least_score=least_score)


@dataclass(frozen=True)
class BoxEvidence(Modifier):
    """Adds to the logits of labels that the detector knows what its boxes say.

    A cell gains ``inside`` times the score of the surest box of the label that covers it, times the share that is
    covered. A label without a sure box gains ``absence`` at every cell, which is less than 0. What competes with
    the labels as background gains as much as the label that gains most there: a box says which label a thing has,
    and not that the thing fills it.

    Attributes:
        model: with a detector.
        rule: the weights.
    """

    model: Model
    rule: BoxesConfig

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """The logits with what the boxes say; unchanged for images that were encoded in windows of their own."""
        return self._changed(logits, encoded, sign=1)

    def undone(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """The logits without it, for those who weigh the boxes themselves."""
        return self._changed(logits, encoded, sign=-1)

    def _changed(self, logits: ClassLogits, encoded: EncodedImage, *, sign: int) -> ClassLogits:
        shares = class_shares(self.model.head, logits.queries)
        known = [] if shares is None else known_labels(shares)
        if shares is None or not known or not isinstance(encoded.geometry, ImageGeometry):
            return logits
        proposals = boxes_beside(self.model, encoded)
        found = boxes_of_labels(proposals, shares, known, least_score=self.rule.least_score)
        grid = encoded.unpadded(logits.values).shape[-2:]
        shown = box_cover(found.boxes, size=encoded.geometry.original, grid=(grid[0], grid[1]))
        amounts = torch.zeros(len(known), *logits.grid)
        for row, label in enumerate(known):
            own = found.labels == label
            if bool(own.any()):
                inside = (shown[own] * found.scores[own, None, None]).amax(0)
                amounts[row, : grid[0], : grid[1]] = self.rule.inside * inside
            else:
                amounts[row] = absence(self.rule, asked=len(known))
        background = torch.arange(logits.queries.labels, logits.queries.classes)
        gained = amounts.amax(0).clamp_min(0).expand(len(background), -1, -1)
        return logits.plus(torch.cat([torch.tensor(known), background]), sign * torch.cat([amounts, gained]))


def absence(rule: BoxesConfig, *, asked: int) -> float:
    """The logarithm of the probability that a label without a box is there all the same.

    An image shows ``rule.shown`` of the ``asked`` labels that the detector knows, so that a label is there with the
    probability p = shown / asked, at most 0.5. Where it is there the detector misses it with the probability
    m = ``rule.missed``: by Bayes what is left is m p / (m p + 1 − p).

    >>> round(absence(BoxesConfig(missed=0.5, shown=5), asked=20), 3)  # 0.125 / 0.875
    -1.946
    """
    there = min(_MOST_LIKELY, rule.shown / asked)
    return math.log(rule.missed * there / (rule.missed * there + 1 - there))


def box_cover(boxes: Tensor, *, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Which share of each cell boxes cover.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels of an image of ``size`` (H, W).
        grid: rows and columns of the cells that show the image.

    Returns:
        (n, rows, columns) in [0, 1].
    """
    parts = []
    for first, (pixels, cells) in enumerate(zip(reversed(size), reversed(grid), strict=True)):
        low, high = (boxes[:, place, None] * (cells / pixels) for place in (first, first + 2))
        edges = torch.arange(cells)
        parts.append((torch.minimum(high, edges + 1) - torch.maximum(low, edges)).clamp(0, 1))
    across, down = parts
    return down[:, :, None] * across[:, None, :]
