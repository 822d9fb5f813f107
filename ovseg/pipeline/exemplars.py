"""Boxes in the very photo that is segmented, which show a label to models that read them beside words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ovseg.backends.answers import BoxPrompts, ExemplarHead
from ovseg.errors import VocabularyError
from ovseg.heads.base import Phrases
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.places import Picture, pictures_of
from ovseg.pipeline.queries import QueryBank
from ovseg.vocabulary.labels import Concept

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter


@dataclass(frozen=True)
class Exemplar:
    """A box that shows a label, or one that does not.

    Attributes:
        label: its number among the vocabulary's.
        pixels: (H, W, 3) uint8 of the picture.
        box: x0, y0, x1, y1 in pixels of the picture.
        shows: whether it shows the label.
    """

    label: int
    pixels: npt.NDArray[np.uint8]
    box: tuple[float, float, float, float]
    shows: bool


@dataclass(frozen=True)
class Exemplars:
    """The boxes of all labels that have some.

    Attributes:
        model: the name of the model, for messages.
        boxes: of all labels.
    """

    model: str
    boxes: tuple[Exemplar, ...]

    def prompts(self, encoded: EncodedImage, queries: QueryBank) -> list[BoxPrompts | None]:
        """The boxes for each query, None for those without.

        Raises:
            VocabularyError: a label is shown in other pictures than this.
        """
        here = [each for each in self.boxes if np.array_equal(each.pixels, encoded.image)]
        height, width = encoded.image.shape[:2]
        found: dict[int, BoxPrompts] = {}
        for label in dict.fromkeys(each.label for each in self.boxes):
            own = [each for each in here if each.label == label]
            if not any(each.shows for each in own):
                raise VocabularyError(
                    f"concept '{queries.vocabulary.labels[label]}' is shown in another picture than the one that "
                    f"is segmented, got model '{self.model}', which reads boxes in this very picture alone; show "
                    "it here, or use a model that gives features, such as mini"
                )
            corners = torch.tensor([each.box for each in own]) / torch.tensor([width, height] * 2)
            found[label] = BoxPrompts(corners, torch.tensor([int(each.shows) for each in own]))
        return [found.get(label) for label in queries.class_of_query.tolist()]


def shown_here(segmenter: Segmenter, queries: QueryBank, concepts: Mapping[str, Concept]) -> QueryBank:
    """The queries with the boxes of ``concepts``, by label, for a model that reads them.

    Raises:
        VocabularyError: a concept is shown otherwise than by boxes, or a box lies outside its picture.
        ImageError: a picture cannot be read.
    """
    head = segmenter.model.head
    assert isinstance(head, ExemplarHead)
    labels = queries.vocabulary.labels
    boxes = [
        _exemplar(labels.index(label), picture, segmenter.config.name)
        for label, concept in concepts.items()
        for picture in pictures_of(concept)
    ]
    unnamed = [labels.index(label) for label, concept in concepts.items() if not concept.use_name]
    if unnamed:
        nothing = segmenter.queries([head.unnamed]).phrases
        rows = torch.isin(queries.class_of_query, torch.tensor(unnamed).to(queries.class_of_query))
        queries = replace(queries, phrases=_replaced(queries.phrases, rows, nothing))
    return replace(queries, exemplars=Exemplars(segmenter.config.name, tuple(boxes)))


def _exemplar(label: int, picture: Picture, model: str) -> Exemplar:
    box = picture.within if picture.kind == "none" else picture.place
    if picture.kind not in {"boxes", "none"} or box is None:
        raise VocabularyError(
            f"model '{model}' is shown a label by boxes in the picture that is segmented, got none for "
            f"{picture.where}; give boxes (and not_boxes for not_images), or use a model that gives features"
        )
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (float(number) for number in box)
    if not (x0 >= 0 and x1 <= width and y0 >= 0 and y1 <= height):
        raise VocabularyError(
            f"the box of {picture.where} must lie inside its {width} x {height} pixels, got {box!r}"
        )
    return Exemplar(label, pixels, (x0, y0, x1, y1), picture.kind == "boxes")


def _replaced(phrases: Phrases, rows: torch.Tensor, other: Phrases) -> Phrases:
    """Phrases with the first of ``other`` in the place of some."""
    values = torch.where(rows[:, None], other.values[:1], phrases.values)
    tokens = phrases.tokens
    if tokens is not None and other.tokens is not None:
        tokens = torch.where(rows[:, None], other.tokens[:1], tokens)
    return replace(phrases, values=values, tokens=tokens)
