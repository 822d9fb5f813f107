"""What words say of an image that is pointed at: where they lie, and their objects or regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ovseg.pipeline.encoded import EncodedImage
from ovseg.result.segments import Mask, Segment
from ovseg.result.selection import SelectionPrompts
from ovseg.vocabulary.labels import Concept

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class Words:
    """A text in an image.

    Attributes:
        probability: (H, W) float32 of each pixel.
        regions: its objects, or the connected parts of its area, the surest first.
    """

    probability: npt.NDArray[np.float32]
    regions: tuple[Segment, ...]

    def pointed_at(self, prompts: SelectionPrompts) -> Segment | None:
        """The surest region that holds all that is on the thing and nothing that is off it, or None."""
        for region in self.regions:
            mask = region.mask()
            if all(at(mask, prompts.positive)) and not any(at(mask, prompts.negative)):
                return region
        return None

    def agreement(self, mask: Mask) -> float:
        """The overlap of a mask with the probabilities: the sum of the smaller over the sum of the larger."""
        shared, sums = float(self.probability[mask].sum()), float(self.probability.sum())
        return shared / max(sums + float(mask.sum()) - shared, 1e-9)


def at(mask: Mask, points: Sequence[tuple[float, float]]) -> list[bool]:
    """The values of a mask at points (x, y)."""
    return [bool(mask[int(y), int(x)]) for x, y in points]


def look_for(
    segmenter: Segmenter, encoded: EncodedImage, text: str | Concept | None, *, quality: Literal["fast", "best"]
) -> Words | None:
    """What the words say, found once an image; None without words.

    Raises:
        VocabularyError: the text cannot be used.
    """
    if text is None:
        return None
    label = text if isinstance(text, str) else text.label

    def search() -> Words:
        result = segmenter.segment(encoded, [text], instances=[label], quality=quality, keep_scores=True)
        assert result.scores is not None
        return Words(result.scores[0].astype(np.float32), result.instances or ())

    return encoded.once(f"words {segmenter.identity([text])} {quality}", search)
