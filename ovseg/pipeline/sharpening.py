"""The label map corrected by objects, whose outlines are sharper and whose names are surer than those of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional

from ovseg.images.geometry import ImageGeometry
from ovseg.pipeline.decide import Decision
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.result.segments import Segment, paint

_TRUST = 2.0  # see sharpen
_SURE = 0.5  # score of an object from which it says where its label is not
_OUTSIDE = 3.0  # what its label loses there, times the score


def weighed(logits: ClassLogits, encoded: EncodedImage, found: Sequence[Segment]) -> ClassLogits:
    """The logits with what objects say of where they are not.

    Where a label has an object of score s that is sure enough, every cell outside its objects loses 3 s: what lies
    around the boat is no boat. Cells inside are left to ``sharpen``, which knows the outline to the pixel.

    Args:
        logits: of all labels.
        encoded: the image.
        found: objects.
    """
    if not isinstance(encoded.geometry, ImageGeometry):
        return logits
    rows, amounts = [], []
    height, width = encoded.unpadded(logits.values).shape[-2:]
    for row, label in enumerate(logits.queries.vocabulary.labels):
        own = [each for each in found if each.label == label]
        if not own or own[0].score < _SURE:
            continue
        covered = torch.from_numpy(paint(own, encoded.geometry.original)) > 0
        inside = torch.zeros(logits.grid)
        inside[:height, :width] = functional.adaptive_avg_pool2d(covered[None].float(), (height, width))[0]
        rows.append(row)
        amounts.append(-_OUTSIDE * own[0].score * (1 - inside))
    return logits.plus(torch.tensor(rows), torch.stack(amounts)) if rows else logits


def sharpen(decision: Decision, found: Sequence[Segment], labels: Sequence[str]) -> Decision:
    """The label map with the objects in it: a pixel takes the label of the object that covers it, if that is sure.

    An object of score s replaces a label of probability p where 2 s > p.

    Args:
        decision: a label for every pixel.
        found: objects.
        labels: of the label map, in order.
    """
    size = (int(decision.index.shape[0]), int(decision.index.shape[1]))
    covered = torch.from_numpy(paint(found, size)).to(decision.index.device)
    numbers = [-1, *(labels.index(each.label) for each in found)]
    label = torch.tensor(numbers, dtype=torch.int32, device=covered.device)[covered.long()]
    score = torch.tensor([0.0, *(each.score for each in found)], device=covered.device)[covered.long()]
    taken = (covered > 0) & ((score * _TRUST > decision.best) | (label == decision.index))
    best = torch.where(taken & (label != decision.index), score, decision.best)
    return replace(decision, index=torch.where(taken, label, decision.index), best=best)
