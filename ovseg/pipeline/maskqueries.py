"""Mask queries of a trained head: their classes mixed with the dense map, label maps and objects from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.heads.maskqueries import MaskQueries, class_trust
from ovseg.heads.stacked import inputs_of
from ovseg.images.geometry import ImageGeometry
from ovseg.pipeline.candidates import Candidates, segment_of_mask, surest
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits, NamedMasks, best_query
from ovseg.pipeline.modifiers import Modifier
from ovseg.result.segments import Segment
from ovseg.sam import ask_sam
from ovseg.sam.features import embedding_map
from ovseg.tensors import check_shape


@dataclass(frozen=True)
class QueryMaps(Modifier):
    """Adds to the logits what the queries of the model's head found, and paints the label map by it where asked to.

    Attributes:
        head: the queries; ``labels`` of its settings says where the label map comes from.
    """

    head: MaskQueries

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """The logits with ``found``; their values are others where the label map comes from the queries."""
        if not isinstance(encoded.geometry, ImageGeometry):
            raise ConfigError("mask queries need cells on one grid, got input.splice 'pixels'; use 'scores'")
        found = cache(lambda: self._found(logits, encoded))
        if self.head.settings.labels == "below":
            return replace(logits, found=found)
        below = logits.probabilities(logits.values)
        values = painted(found(), below).clamp_min(1e-12).log()
        gone = below.flatten(1).amax(1) == 0
        values = values.masked_fill(gone[:, None, None], -torch.inf)
        return replace(logits, values=values, class_of_row=None, found=found)

    @torch.inference_mode()
    def _found(self, logits: ClassLogits, encoded: EncodedImage) -> NamedMasks:
        """The masks of all queries, and their classes."""
        head, queries = self.head, logits.queries
        sam = head.settings.sam
        appearance = None
        if sam:
            appearance = embedding_map(ask_sam(encoded, sam)[1]).to(head.queries)
        answer = head.answers(encoded.features, appearance)[-1]
        masks, vectors = answer.masks[0], answer.vectors[0]
        below = logits.probabilities(logits.values).to(masks)  # (K, h, w)
        inside = mask_pooled(below, masks)
        classes = inside
        if not head.settings.agnostic and head.reads(queries.phrases):
            scores = head.class_logits(vectors, inputs_of(queries.phrases))  # (n, Q)
            own = best_query(scores.T, queries.class_of_query, classes=queries.classes).T
            own = own.masked_fill(below.flatten(1).amax(1) == 0, -torch.inf).softmax(-1)
            trust = class_trust(queries.phrases, queries.class_of_query, classes=queries.classes)
            classes = head.fused(own, inside, trust.to(own))
        return NamedMasks(masks.float().cpu(), classes.float().cpu(), head.objectness(vectors).float().cpu())


def mask_pooled(probabilities: Tensor, masks: Tensor) -> Tensor:
    """The mean of class probabilities inside masks, rows adding to 1.

    Args:
        probabilities: (K, h, w).
        masks: (n, h', w') logits, of the same extent. A cell weighs the probability of the mask where that is over
            a half; of a mask that is so nowhere, all cells do.

    Returns:
        (n, K).
    """
    check_shape("probabilities", probabilities, "K h w")
    weights = _on_grid(masks, probabilities).flatten(1)  # (n, h·w)
    sure = weights * (weights > 0.5)
    weights = torch.where(sure.sum(1, keepdim=True) > 0, sure, weights)
    means = weights @ probabilities.flatten(1).T
    return means / means.sum(1, keepdim=True).clamp_min(1e-12)


def painted(found: NamedMasks, below: Tensor) -> Tensor:
    """Class probabilities of cells from masks: Σ objectness · mask · classes, and the map below where none claims.

    Args:
        found: n masks.
        below: (K, h, w) probabilities of the map below.

    Returns:
        (K, h, w); what the masks leave of a cell, 1 − Σ objectness · mask, at least 0, goes to the map below.

    Source: the sum is MaskFormer's (Cheng et al., NeurIPS 2021, section 3.4); it leaves nothing to a map below.
    """
    claims = _on_grid(found.masks, below) * found.objectness[:, None, None].to(below)
    named = torch.einsum("nhw,nk->khw", claims, found.classes.to(below))
    return named + (1 - claims.sum(0)).clamp_min(0) * below


def query_objects(
    logits: ClassLogits, encoded: EncodedImage, things: Sequence[int], *, least_score: float, most: int
) -> list[Segment]:
    """The objects that the queries found, by their own masks, the surest first.

    The score of a mask for a label is objectness · probability of the label · mean of the mask's probabilities
    inside it (FC-CLIP's, with its void apart).

    Args:
        logits: with ``found``.
        encoded: the image.
        things: positions of the labels that are looked for.
        least_score: those less sure are dropped.
        most: at most so many.

    Raises:
        ConfigError: the model's head has no queries.
    """
    if logits.found is None:
        raise ConfigError("objects by 'queries' need a head of kind 'maskqueries'; train one, or proposals: parts")
    found, names = logits.found(), logits.queries.vocabulary.labels
    sure = (found.masks.sigmoid() * (found.masks > 0)).flatten(1).sum(1) / (found.masks > 0).flatten(1).sum(
        1
    ).clamp_min(1)
    scores = found.objectness[:, None] * found.classes[:, list(things)] * sure[:, None]  # (n, things)
    segments = []
    for row, label, score in surest(found.masks > 0, scores, things, least_score=least_score, most=most):
        segments += segment_of_mask(_in_pixels(found.masks[row], encoded), names[label], score)
    return segments


def boxes_of(segments: Sequence[Segment], labels: Sequence[str]) -> Candidates:
    """The boxes of objects with their names, for a SAM to cut out anew."""
    count = len(segments)
    return Candidates(
        torch.tensor([each.box for each in segments], dtype=torch.float32).view(count, 4),
        torch.tensor([labels.index(each.label) for each in segments], dtype=torch.long),
        torch.tensor([each.score for each in segments], dtype=torch.float32),
        torch.full((count, 2), torch.nan),
    )


def _in_pixels(mask: Tensor, encoded: EncodedImage) -> Tensor:
    """(h', w') logits to the (H, W) bool pixels of the image."""
    finer = mask.shape[0] // encoded.features.grid[0]
    rows = slice(0, encoded.image.shape[0])
    maps = mask[None, None]
    stride, left = divmod(encoded.features.stride, finer)
    if left:  # a cell does not part into whole pixels
        maps = functional.interpolate(maps, size=encoded.features.grid, mode="bilinear")
        stride = encoded.features.stride
    return encoded.geometry.sample(maps, rows, stride=stride)[0, 0] > 0


def _on_grid(masks: Tensor, maps: Tensor) -> Tensor:
    """(n, h', w') logits as probabilities on the grid of (K, h, w) maps: (n, h, w)."""
    size = (maps.shape[-2], maps.shape[-1])
    return functional.adaptive_avg_pool2d(masks.to(maps).sigmoid()[None], size)[0]
