"""One round of selecting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ovseg.errors import ConfigError
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.selection.by_features import by_features
from ovseg.pipeline.selection.by_sam import Answer, by_sam, levels_in_box
from ovseg.pipeline.selection.words import Words, look_for
from ovseg.result.selection import LEVELS, Reading, Selection, SelectionPrompts
from ovseg.sam.mobile import MOBILE_SAM

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter

Using: TypeAlias = Literal["sam", "features"]
FEATURES = "features"


def select(
    segmenter: Segmenter,
    encoded: EncodedImage,
    prompts: SelectionPrompts,
    *,
    previous: Selection | None,
    using: Using | None,
) -> Selection:
    """See ``Segmenter.select``.

    Args:
        segmenter: whose SAM, features and words.
        encoded: the image.
        prompts: of all rounds.
        previous: the selection before.
        using: see ``Segmenter.select``.
    """
    if using not in (None, "sam", FEATURES):
        raise ConfigError(f"using must be 'sam', 'features' or None, got {using!r}; choose one")
    model = FEATURES if using == FEATURES else sam_of(segmenter)
    if previous is not None and previous.using != model:
        previous = None  # its points are in the prompts; what another way remembers is of no use
    if previous is not None and model != FEATURES:
        prompts = _with_chosen(prompts, previous)
    quality: Literal["fast", "best"] = "fast" if model == FEATURES else "best"
    words = look_for(segmenter, encoded, prompts.text, quality=quality)
    answer: Answer
    if words is not None and not prompts.positive and prompts.box is None and prompts.mask is None:
        answer = _surest(words, prompts, encoded, model)
    elif model == FEATURES:
        answer = by_features(encoded, prompts, previous, words)
    else:
        answer = by_sam(encoded, prompts, previous, words, model=model)
    reading, levels, level = answer
    return Selection(
        reading, levels, level, prompts=prompts, image=encoded.image, using=model, source=encoded.source
    )


def sam_of(segmenter: Segmenter) -> str:
    """The SAM that the model file names for objects, or the embedded one."""
    named = segmenter.config.objects.best.masks
    return MOBILE_SAM if named == "map" else named


def _with_chosen(prompts: SelectionPrompts, previous: Selection) -> SelectionPrompts:
    """The prompts with the mask of a level that somebody chose as their rough mask, unless another came since."""
    replaced = prompts.mask is not previous.prompts.mask
    if replaced or not previous.chosen or not previous.mask.any():
        return prompts
    return replace(prompts, mask=previous.mask)


def _surest(words: Words, prompts: SelectionPrompts, encoded: EncodedImage, model: str) -> Answer:
    """The surest region of a text that holds nothing that is off the thing; an empty one where there is none.

    Its levels are what a SAM sees in its box; without one, the region and the parts of it that show the text best.
    """
    region = words.pointed_at(prompts)
    if region is None:
        empty = Reading(np.zeros(encoded.image.shape[:2], bool), 0.0)
        return empty, dict.fromkeys(LEVELS, empty), None
    mask, score = region.mask(), min(1.0, max(0.0, region.score))
    if model != FEATURES:
        x0, y0, x1, y1 = map(float, region.box)
        return Reading(mask, score), levels_in_box(encoded, (x0, y0, x1, y1), model=model), None
    inside = words.probability[mask]
    levels = {
        name: Reading(mask & (words.probability >= np.quantile(inside, share)), score)
        for name, share in zip(LEVELS, (0.0, 0.5, 0.75), strict=True)
    }
    return levels["whole"], levels, "whole"
