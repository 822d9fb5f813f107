"""From boxes to masks: a SAM cuts out what a detector found, and the masks of a phrase make its score map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovseg.backends.answers import Answer, FoundMask, as_logits, found_mask
from ovseg.encoders.spec import DenseFeatures
from ovseg.images.geometry import Size
from ovseg.images.photo import Photo
from ovseg.sam import ask_sam, to_image

_STRIDE = 4  # pixels of the detector's input per cell of a score map


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes in a photo, each of one phrase.

    Attributes:
        boxes: (n, 4) left, top, right, bottom as shares of the photo's width and height.
        scores: (n,) in [0, 1].
        phrases: (n,) int64, counted from 0.
    """

    boxes: Tensor
    scores: Tensor
    phrases: Tensor

    def surest(self, most: int) -> FoundBoxes:
        """The ``most`` of the highest scores, these first."""
        rows = self.scores.argsort(descending=True, stable=True)[:most]
        return FoundBoxes(self.boxes[rows], self.scores[rows], self.phrases[rows])


@torch.inference_mode()
def cut_boxes(found: FoundBoxes, photo: Photo, *, sam: str) -> tuple[FoundMask, ...]:
    """The object in each box, drawn by a SAM; none for a box where SAM draws nothing.

    Args:
        found: boxes; what of them lies outside the photo is cut off.
        photo: where they are.
        sam: what ``load_sam`` takes.

    Raises:
        ModelError: the weights of the SAM are missing.
    """
    if not len(found.boxes):
        return ()
    (network, embedding), (height, width) = ask_sam(photo, sam), photo.image.shape[:2]
    boxes = found.boxes.cpu().float().clamp(0, 1) * torch.tensor([width, height, width, height])
    logits, _ = network.masks(embedding, boxes=boxes)
    drawn = zip(to_image(embedding, logits[:, 0]), found.phrases.tolist(), found.scores.tolist(), strict=True)
    return tuple(each for mask, phrase, score in drawn for each in found_mask(mask, phrase, score))


def answer_of(objects: tuple[FoundMask, ...], features: DenseFeatures, phrases: int, *, size: Size) -> Answer:
    """Objects, and for each phrase the score of its surest object at every cell, 0 where there is none.

    Args:
        objects: of all phrases.
        features: of a photo without padding, at a stride that is a multiple of 4.
        phrases: Q.
        size: (H, W) of the photo.
    """
    times = features.stride // _STRIDE
    height, width = features.grid[0] * times, features.grid[1] * times
    rows, columns = ((np.arange(n) + 0.5) * full / n for n, full in zip((height, width), size, strict=True))
    maps = torch.zeros(phrases, height, width)
    for each in sorted(objects, key=lambda found: found.score):  # a surer one lies above the others
        (top, left), window = each.corner, each.window
        y, x = (rows - top).astype(int), (columns - left).astype(int)
        inside = [
            np.flatnonzero((n >= start) & (n < start + side))
            for n, start, side in ((rows, top, window.shape[0]), (columns, left, window.shape[1]))
        ]
        if len(inside[0]) and len(inside[1]):
            shown = torch.from_numpy(window[y[inside[0]][:, None], x[inside[1]]])
            block = maps[each.phrase, inside[0][0] : inside[0][-1] + 1, inside[1][0] : inside[1][-1] + 1]
            block[shown] = each.score
    return Answer(as_logits(maps).to(features.values.device), _STRIDE, objects)
