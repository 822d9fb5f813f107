"""What changes logits before a label is chosen: weights of labels, pruning, and whatever else knows something.

A modifier takes the logits of an image and returns others. A ``Segmenter`` applies its list in order; learned
concepts and the support of a bank are modifiers that live in rooms of their own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ovseg.encoders.spec import check_space
from ovseg.models.sections import PruneConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits, best_query
from ovseg.pipeline.queries import QueryBank


class Modifier(Protocol):
    """Knows something about an image or a vocabulary that the dot products do not."""

    @property
    def info(self) -> Mapping[str, str]:
        """What tells its results from those without it; empty where settings or labels say it already."""
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """Labels that it knows by itself: what is looked for where no labels are given."""
        return ()

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """The logits with what it knows; the given ones stay as they are."""
        ...


class LabelWeights(Modifier):
    """The odds of each label times its weight (``Concept.weight``)."""

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """Adds the logarithm of each weight."""
        weights = torch.tensor(logits.queries.vocabulary.weights)
        if bool((weights == 1).all()):
            return logits
        return logits.plus(torch.arange(len(weights)), weights.log()[:, None, None])


@dataclass(frozen=True)
class Pruning(Modifier):
    """Labels that the image as a whole does not suggest are left out.

    Attributes:
        rule: how many labels stay.
        space: of the vector of the whole image.
        spared: labels that stay whatever the image suggests, because another modifier knows them better.

    Source: ActiveSAM, 2026 (classes above the 80th percentile of presence, at most 40), on CLIP image vectors.
    """

    rule: PruneConfig
    space: str
    spared: Collection[str] = ()

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """Makes the labels impossible that are not likely."""
        if encoded.vector is None:
            return logits
        kept = likely_labels(encoded.vector, logits.queries, self.rule, space=self.space)
        spared = torch.tensor([label in self.spared for label in logits.queries.vocabulary.labels])
        return logits.without(~(kept | spared.to(kept.device)))


def likely_labels(vector: Tensor, queries: QueryBank, rule: PruneConfig, *, space: str) -> Tensor:
    """Which labels an image as a whole may show.

    Args:
        vector: (C,) unit vector of the image.
        queries: in the same space.
        rule: how many labels stay.
        space: of ``vector``.

    Returns:
        (L,) bool.

    Raises:
        SpaceError: image and queries are in different spaces.
    """
    check_space(space, queries.space)
    cosines = (queries.embeddings.float() @ vector.to(queries.embeddings.device).float())[:, None]
    scores = best_query(cosines, queries.class_of_query, classes=queries.classes)[: queries.labels, 0]
    share = math.ceil(len(scores) * (1 - rule.percentile / 100))
    kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    kept[scores.topk(min(len(scores), max(rule.least, min(rule.most, share)))).indices] = True
    return kept
