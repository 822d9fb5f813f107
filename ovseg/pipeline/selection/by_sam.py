"""Prompts answered by a SAM: one click is read at three sizes, several at once by one mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.selection.prompts import spread_points
from ovseg.pipeline.selection.words import Words, at
from ovseg.proposals.boxes import mask_box
from ovseg.result.segments import Mask
from ovseg.result.selection import LEVELS, Point, Reading, Selection, SelectionPrompts
from ovseg.sam import PromptedSam, SamEmbedding, ask_sam, to_image
from ovseg.sam.decoder import Multimask

_LARGER = 0.04  # what a mask of e times the area gains over one that the SAM thinks as good
_WORDS = 0.5  # weight of the overlap with what words say
_SURE = 8.0  # logit of a rough mask's pixels

Box = tuple[float, float, float, float]
Answer = tuple[Reading, dict[str, Reading], str | None]
"""The answer, the three levels, and which of them it is, if any."""


@dataclass(frozen=True)
class Asked:
    """What the SAM is asked: points (1, p, 2), their labels (1, p), a box (1, 4), a rough mask (1, h, w)."""

    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    rough: Tensor | None

    @classmethod
    def of(
        cls, on: tuple[Point, ...], off: tuple[Point, ...], box: Box | None = None, rough: Tensor | None = None
    ) -> Asked:
        """From points on the thing and off it."""
        if not on and not off:
            return cls(None, None, torch.tensor([box]), rough)
        labels = torch.tensor([[1] * len(on) + [0] * len(off)])
        return cls(torch.tensor([[*on, *off]]), labels, None if box is None else torch.tensor([box]), rough)

    @property
    def single(self) -> bool:
        """Whether it is one lone point, which may mean several things."""
        return self.boxes is None and self.rough is None and self.points is not None and self.points.shape[1] == 1


def by_sam(
    encoded: EncodedImage, prompts: SelectionPrompts, previous: Selection | None, words: Words | None, *, model: str
) -> Answer:
    """What the SAM ``model`` draws; the photo is embedded once.

    A SAM that reads masks gets its previous answer beside all points so far. One that does not gets all points, and
    the box of a rough mask.

    Raises:
        ModelError: see ``load_sam``.
    """
    return _Asking(*ask_sam(encoded, model)).answer(prompts, previous, words)


def levels_in_box(encoded: EncodedImage, box: Box, *, model: str) -> dict[str, Reading]:
    """The three masks that the SAM ``model`` sees in a box, by level."""
    asking = _Asking(*ask_sam(encoded, model))
    return asking.levels(Asked.of((), (), box))


@dataclass(frozen=True)
class _Asking:
    network: PromptedSam
    embedding: SamEmbedding

    def levels(self, asked: Asked) -> dict[str, Reading]:
        """Three masks of one prompt, by level."""
        return _by_size(self.readings(asked, multimask=True))

    def answer(self, prompts: SelectionPrompts, previous: Selection | None, words: Words | None) -> Answer:
        asked = self._prepared(prompts, previous, words)
        if asked.single:
            levels = self.levels(asked)
            level = _best_level(levels, prompts, words)
            return levels[level], levels, level
        joint, *three = self.readings(asked, multimask="all")
        return self._mended(joint, prompts), _by_size(three), None

    def readings(self, asked: Asked, *, multimask: Multimask) -> list[Reading]:
        """The SAM's masks of one prompt, as many as ``PromptedSam.masks`` has it."""
        logits, quality = self.network.masks(
            self.embedding,
            boxes=asked.boxes,
            points=asked.points,
            point_labels=asked.labels,
            rough=asked.rough,
            multimask=multimask,
        )
        masks = to_image(self.embedding, logits[0])
        scores = quality[0].clamp(0, 1).tolist()
        return [
            Reading(mask.numpy(), score, one.clone())
            for mask, score, one in zip(masks, scores, logits[0], strict=True)
        ]

    def _prepared(self, prompts: SelectionPrompts, previous: Selection | None, words: Words | None) -> Asked:
        on, off, box = prompts.positive, prompts.negative, prompts.box
        earlier = None
        rough = prompts.mask
        if self.network.reads_masks:
            earlier = self._earlier(previous, rough)
            if rough is not None and not on and not off:
                box = box or _box_around(rough, on)  # a mask alone is no prompt
        elif rough is not None:
            on = on or spread_points(rough)
            box = box or _box_around(rough, on)
        if words is not None and box is None and not (len(on) == 1 and not off and earlier is None):
            region = words.pointed_at(prompts)
            box = None if region is None else tuple(map(float, region.box))  # type: ignore[assignment]
        return Asked.of(on, off, box, earlier)

    def _earlier(self, previous: Selection | None, rough: Mask | None) -> Tensor | None:
        """Logits of the previous round, or of a rough mask, or none."""
        kept = None if previous is None else previous.reading.logits
        if isinstance(kept, Tensor):
            return kept[None]
        return None if rough is None else self.drawn(rough)

    def drawn(self, mask: Mask) -> Tensor:
        """(1, h, w) logits of a mask of the photo, as the SAM itself would have given them."""
        return _SURE * self.embedding.framed(2 * torch.from_numpy(mask)[None].float() - 1)

    def _mended(self, found: Reading, prompts: SelectionPrompts) -> Reading:
        """The answer with what a click says that it ignored.

        The least that this click alone may mean is added or cut away, as far as the border of the answer is off.
        """
        mask = found.mask
        for points, others, wanted in (
            (prompts.positive, prompts.negative, True),
            (prompts.negative, prompts.positive, False),
        ):
            for point, held in zip(points, at(mask, points), strict=True):
                if held != wanted and at(mask, [point]) == [held]:
                    piece = self._piece(point, others) & _around(point, mask == wanted)
                    mask = mask | piece if wanted else mask & ~piece
        return found if mask is found.mask else Reading(mask, found.score, found.logits)

    def _piece(self, point: Point, others: tuple[Point, ...]) -> Mask:
        """The smallest mask of a click alone, with as few of the points as can be that mean the opposite."""
        shown = self.readings(Asked.of((point,), others), multimask=True)
        best = min(
            shown, key=lambda each: (at(each.mask, [point]) == [False], sum(at(each.mask, others)), each.mask.sum())
        )
        mask = best.mask.copy()
        mask[int(point[1]), int(point[0])] = True
        for x, y in others:
            mask[int(y), int(x)] = False
        return mask


def _by_size(readings: list[Reading]) -> dict[str, Reading]:
    """Three readings by level, the largest is the whole."""
    return dict(zip(LEVELS, sorted(readings, key=lambda each: -int(each.mask.sum())), strict=True))


def _best_level(levels: dict[str, Reading], prompts: SelectionPrompts, words: Words | None) -> str:
    """Which of three readings of one click is meant: the one that the SAM is surest of, the larger of equals, and
    the one that is most like what words say."""
    region = None if words is None else words.pointed_at(prompts)
    said = None if region is None else region.mask()

    def worth(name: str) -> float:
        mask = levels[name].mask
        size = float(np.log(max(mask.mean(), 1e-6)))
        worth = levels[name].score + _LARGER * size
        if said is not None:
            return worth + _WORDS * float((mask & said).sum() / max((mask | said).sum(), 1))
        return worth if words is None else worth + _WORDS * words.agreement(mask)

    return max(levels, key=worth)


def _around(point: Point, border: Mask) -> Mask:
    """(H, W) bool, the pixels no further from a point than the nearest of a border's; all where there is none."""
    height, width = border.shape
    across, down = np.arange(width) - int(point[0]), np.arange(height)[:, None] - int(point[1])
    away = across**2 + down**2
    near: Mask = away <= away[border].min(initial=away.max())
    return near


def _box_around(mask: Mask, points: tuple[Point, ...]) -> Box | None:
    """The box of a mask and of points on the thing."""
    box = mask_box(torch.from_numpy(mask))
    if box is None:
        return None
    x0, y0, x1, y1 = map(float, box)
    across, down = [x for x, _ in points], [y for _, y in points]
    return min([x0, *across]), min([y0, *down]), max([x1, *across]), max([y1, *down])
