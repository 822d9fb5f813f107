"""What is asked of a clip: words, or what a mask or clicks show on its first frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import ConfigError, ShapeError, VocabularyError
from ovseg.identity import digest
from ovseg.pipeline.objects import ObjectSearch, Quality
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.selection.prompts import Points, check_points
from ovseg.pipeline.wording import Labels
from ovseg.video.reading import Pixels
from ovseg.video.track import Asked
from ovseg.vocabulary.labels import Background, Concept

DEFAULT_NAME = "object"
MAX_OBJECTS = 255


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of a clip; the fields are arguments of ``segment_video``.

    Raises:
        ConfigError: things are asked for that exclude each other.
        VocabularyError: nothing is asked for, or labels do not name what the mask shows one by one.
        ShapeError: the mask is no (H, W) map, shows nothing, or more than ``MAX_OBJECTS``.
    """

    labels: Labels | None = None
    mask: npt.NDArray[Any] | None = None
    click: Points = ()
    background: Background = "auto"
    refine: bool | None = None
    instances: bool | Sequence[str] = False
    quality: Quality | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and len(self.click):
            raise ConfigError("expected a mask or clicks, got both; give one of them")
        if self.by_words:
            if self.labels is None:
                raise VocabularyError("expected labels, a mask or clicks, got none; name what to find")
            return
        if self.instances or self.quality is not None:
            raise ConfigError("a mask or clicks say which objects are followed; leave instances and quality out")
        names_of(self.labels, 1 if self.mask is None else int(_numbered(self.mask).max()))

    @property
    def by_words(self) -> bool:
        """Whether words are asked, rather than a mask or clicks followed."""
        return self.mask is None and not len(self.click)

    def asked(self, segmenter: Segmenter, first: Callable[[], Pixels]) -> Asked:
        """What a ``Tracker`` is given.

        Args:
            segmenter: that answers.
            first: gives the first frame, which clicks need.

        Raises:
            VocabularyError: a label cannot be used, or none is a thing whose objects could be found.
            ShapeError: a click lies outside the frame.
        """
        if self.by_words:
            queries = segmenter.queries(self.labels, background=self.background)
            search = ObjectSearch.of(queries.vocabulary, instances=self.instances, quality=self.quality)
            return Asked(queries, search, background=self.background is not None, refine=self.refine)
        numbered = _numbered(self._clicked(segmenter, first()) if self.mask is None else self.mask)
        names = names_of(self.labels, int(numbered.max()))
        return Asked.by_mask(numbered - 1, names, refine=self.refine)

    def _clicked(self, segmenter: Segmenter, frame: Pixels) -> npt.NDArray[np.bool_]:
        """(H, W) what the clicks show."""
        clicks = check_points("click", self.click, (frame.shape[0], frame.shape[1]))
        return segmenter.select(frame, positive=clicks).mask

    def identity(self, segmenter: Segmenter) -> dict[str, str]:
        """What decides the result besides the clip and the options."""
        if self.by_words:
            made = segmenter.identity(self.labels, background=self.background, refine=self.refine)
            search = {"instances": self.instances, "quality": self.quality}
            return made | {name: str(value) for name, value in search.items() if value}
        mask = None if self.mask is None else [self.mask.shape, _numbered(self.mask).ravel().tolist()]
        refine = segmenter.config.refine.default if self.refine is None else self.refine
        names = names_of(self.labels, 1 if self.mask is None else int(_numbered(self.mask).max()))
        shown = digest(mask, [list(point) for point in self.click], names)
        return {**segmenter.info, "shown": shown, "refine": str(refine)}


def _numbered(mask: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """(H, W) int32: 0 where nothing is, then 1, 2, … in the order of the values."""
    if mask.ndim != 2 or not (np.issubdtype(mask.dtype, np.integer) or mask.dtype == bool):
        raise ShapeError(f"the mask must be (H, W) bool or integers, got {mask.shape} {mask.dtype}; convert it")
    values, places = np.unique(mask, return_inverse=True)
    if not (values != 0).any():
        raise ShapeError("the mask must show something on the first frame, got 0 everywhere; draw what to follow")
    if np.count_nonzero(values) > MAX_OBJECTS:
        raise ShapeError(
            f"the mask must have at most {MAX_OBJECTS} objects, got {np.count_nonzero(values)} values besides 0; "
            "give one value to each object, in a PNG, which blurs nothing"
        )
    numbers = np.cumsum(values != 0) * (values != 0)
    return np.asarray(numbers[places].reshape(mask.shape), np.int32)


def names_of(labels: Labels | None, count: int) -> tuple[str, ...]:
    """The names of ``count`` objects; "object", "object 2" and so on where none are given.

    Raises:
        VocabularyError: names are no plain text, or not as many as objects.
    """
    if labels is None:
        return (DEFAULT_NAME, *(f"{DEFAULT_NAME} {number}" for number in range(2, count + 1)))
    if not isinstance(labels, list | tuple) or any(isinstance(label, Concept) for label in labels):
        raise VocabularyError("beside a mask or clicks labels are names alone, as text, got others; give strings")
    if len(labels) != count:
        raise VocabularyError(
            f"expected a name for each of {count} objects on the first frame, got {len(labels)}; name each, in the "
            "order of their values, or none"
        )
    return tuple(str(label) for label in labels)
