"""Objects of an image: boxes get the names of labels, masks cut them out, the sure ones correct the label map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ovseg.backends.answers import FoundMask
from ovseg.errors import ConfigError, ModelError
from ovseg.heads.maskqueries import MaskQueries
from ovseg.models.model import Model
from ovseg.models.sections import ObjectsConfig
from ovseg.pipeline.boxes import BoxEvidence, boxes_of_labels, class_shares, known_labels, proposals_of
from ovseg.pipeline.candidates import (
    Candidates,
    apart,
    cut_from_map,
    masks_apart,
    part_boxes,
    segment_of_mask,
)
from ovseg.pipeline.decide import Decision
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.maskqueries import boxes_of, query_objects
from ovseg.pipeline.naming import named_objects, pooled, proposed_masks, split_masks
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.sharpening import sharpen, weighed
from ovseg.proposals.boxes import BOX_OVERLAP, box_area, box_shared
from ovseg.result.segments import Segment
from ovseg.sam import PromptedSam, SamEmbedding, ask_sam, to_image
from ovseg.vocabulary.labels import Vocabulary, check_things

Quality: TypeAlias = Literal["fast", "best"]

_COVERED_BOX = 0.3  # share of its score that a box loses where a surer one of its label covers it
_COVERED_ALONE = 0.5  # and where no masks will tell more
_SPREAD = 0.05  # share of the cells from which a label has objects even where the detector sees none
_SUPPORT = 0.25  # power of the mean probability of the label inside the mask, in the score


@dataclass(frozen=True)
class ObjectSearch:
    """Which objects of an image are looked for, and how.

    Attributes:
        labels: positions of the labels whose objects are found; empty for none.
        reported: those labels whose objects the result holds; the others only correct the label map.
        quality: by which section ``objects`` of the model file.
    """

    labels: tuple[int, ...]
    reported: tuple[str, ...]
    quality: Quality

    @classmethod
    def of(
        cls, vocabulary: Vocabulary, *, instances: bool | Sequence[str], quality: Quality | None
    ) -> ObjectSearch:
        """See ``Segmenter.segment``.

        Raises:
            VocabularyError: none of the labels is a thing, or a label is not among them.
            ConfigError: there is no such quality.
        """
        if quality not in {None, "fast", "best"}:
            raise ConfigError(f"quality must be 'fast', 'best' or None, got {quality!r}; choose one")
        reported = check_things(vocabulary, instances)
        chosen = quality or ("best" if reported else "fast")
        searched = set(reported) | (set(vocabulary.things) if chosen == "best" else set())
        labels = tuple(number for number, label in enumerate(vocabulary.labels) if label in searched)
        return cls(labels, reported, chosen)

    @property
    def wanted(self) -> bool:
        """Whether the caller asked for objects."""
        return bool(self.reported)

    @property
    def described(self) -> dict[str, Any]:
        """What a result says of it; empty where nothing was looked for."""
        if not self.labels:
            return {}
        return {"quality": self.quality, "instances": list(self.reported)}


NO_OBJECTS = ObjectSearch((), (), "fast")


def find_objects(
    model: Model,
    search: ObjectSearch,
    encoded: EncodedImage,
    logits: ClassLogits,
    decide: Callable[[ClassLogits], Decision],
) -> tuple[Decision, tuple[Segment, ...] | None]:
    """The label map with what objects correct in it, and the objects that were asked for, None for none asked.

    Raises:
        ModelError: weights are missing.
    """
    config: ObjectsConfig = getattr(model.config.objects, search.quality)
    decided = cache(lambda: decide(logits))
    if logits.objects is not None or not search.labels or (not search.wanted and config.sharpen is None):
        return decided(), wanted_objects(model, search, encoded, logits, decided)
    found = ObjectFinder(model, config).find(encoded, logits, decided, search.labels)
    objects = _reported(found, search, config) if search.wanted else None
    sure = [] if config.sharpen is None else [each for each in found if each.score >= config.sharpen]
    if not sure:
        return decided(), objects
    return sharpen(decide(weighed(logits, encoded, sure)), sure, logits.queries.vocabulary.labels), objects


def wanted_objects(
    model: Model,
    search: ObjectSearch,
    encoded: EncodedImage,
    logits: ClassLogits,
    decided: Callable[[], Decision],
) -> tuple[Segment, ...] | None:
    """The objects that were asked for, None for none asked, by themselves: no label map is corrected by them.

    Raises:
        ModelError: weights are missing.
    """
    config: ObjectsConfig = getattr(model.config.objects, search.quality)
    if not search.wanted:
        return None
    if logits.objects is not None:
        return _own_objects(logits.objects, search, config, logits.queries, encoded)
    names = logits.queries.vocabulary.labels
    reported = [label for label in search.labels if names[label] in search.reported]
    return _reported(ObjectFinder(model, config).find(encoded, logits, decided, reported), search, config)


def _reported(found: Sequence[Segment], search: ObjectSearch, config: ObjectsConfig) -> tuple[Segment, ...]:
    return tuple(each for each in found if each.label in search.reported and each.score >= config.least_score)


def _own_objects(
    found: Sequence[FoundMask],
    search: ObjectSearch,
    config: ObjectsConfig,
    queries: QueryBank,
    encoded: EncodedImage,
) -> tuple[Segment, ...]:
    """What the model found itself of the labels that were asked for, the surest first.

    Of ``config``, ``least_score`` and ``most`` count.
    """
    names, owner = queries.vocabulary.labels, queries.class_of_query.tolist()
    asked = {number for number, name in enumerate(names) if name in search.reported}
    sure = [each for each in found if owner[each.phrase] in asked and each.score >= config.least_score]
    surest = sorted(sure, key=lambda each: -each.score)[: config.most]
    size = encoded.geometry.original
    return tuple(
        Segment.of_mask(each.window, names[owner[each.phrase]], each.score, corner=each.corner, size=size)
        for each in surest
    )


class ObjectFinder:
    """Finds the objects of images by one section ``objects`` of a model file.

    Args:
        model: with a detector, where the section asks for one.
        config: the section.

    Raises:
        ModelError: the model has no detector, or weights are missing.
    """

    def __init__(self, model: Model, config: ObjectsConfig) -> None:
        self.model, self.config = model, config
        self.least_score = config.least_score if config.sharpen is None else min(config.least_score, config.sharpen)
        if config.proposals == "detector" and model.detector is None:
            raise ModelError(
                f"model '{model.config.name}' has no detector, which its file asks for; write proposals: parts"
            )
        if config.proposals == "queries" and not isinstance(model.head, MaskQueries):
            raise ModelError(
                f"model '{model.config.name}' has no head with mask queries, which its file asks for; train one, "
                "or write proposals: parts"
            )

    @torch.inference_mode()
    def find(
        self,
        encoded: EncodedImage,
        logits: ClassLogits,
        decided: Callable[[], Decision],
        things: Sequence[int],
    ) -> tuple[Segment, ...]:
        """The objects of some labels, the surest first.

        Args:
            encoded: the image.
            logits: of all labels.
            decided: gives the label of every pixel, which not every way needs.
            things: positions of the labels to look for.
        """
        labels = logits.queries.vocabulary.labels
        own = self._own_masks(encoded, logits, decided, things)
        if own is not None and (self.config.masks == "map" or self.config.proposes_by_network):
            cut = own
        else:
            found = self._candidates(encoded, logits, decided, things) if own is None else boxes_of(own, labels)
            by_map = self.config.masks == "map"
            cut = cut_from_map(found, decided(), labels) if by_map else self._cut_with_sam(found, encoded, logits)
        # no factor of a score is over 1, so that nothing below the limit is cut out in vain
        sure = (each for each in cut if each.score >= self.least_score)
        return tuple(sorted(sure, key=lambda each: -each.score))

    def _own_masks(
        self,
        encoded: EncodedImage,
        logits: ClassLogits,
        decided: Callable[[], Decision],
        things: Sequence[int],
    ) -> list[Segment] | None:
        """The objects of a way that proposes masks; None where it proposes boxes."""
        way, least_score, most = self.config.proposals, self.least_score, self.config.most
        if way in {"detector", "parts"}:
            return None
        if way == "queries":
            return query_objects(logits, encoded, things, least_score=least_score, most=most)
        if way in {"watershed", "affinity"}:
            masks = split_masks(encoded, decided().index, things, by=way)
        else:
            masks = proposed_masks(encoded, self.config)
        return named_objects(masks, logits, encoded, things, least_score=least_score, most=most)

    def _candidates(
        self,
        encoded: EncodedImage,
        logits: ClassLogits,
        decided: Callable[[], Decision],
        things: Sequence[int],
    ) -> Candidates:
        """Boxes of the detector for labels that it knows, and of connected parts for the others; the surest."""
        by_detector = self.config.proposals == "detector"
        shares = class_shares(self.model.head, logits.queries) if by_detector else None
        known = [] if shares is None else [label for label in known_labels(shares) if label in things]
        found = Candidates.none()
        if shares is not None and known:
            proposals = proposals_of(self.model, encoded, closer=self.config.closer)
            found = boxes_of_labels(proposals, shares, known, least_score=self.least_score)
        boxed = set(found.labels.tolist())
        others = [label for label in things if label not in known]
        others += [label for label in _spread(logits, known) if label not in boxed]
        if others:
            found = found.joined(part_boxes(decided().index, decided().best, others))
        shared = box_shared(found.boxes, found.boxes)
        loss = _COVERED_ALONE if self.config.masks == "map" else _COVERED_BOX
        kept, scores = apart(shared, found.labels, found.scores, loss=loss, most_overlap=BOX_OVERLAP)
        kept = kept[scores[kept] >= self.least_score]
        return replace(found, scores=scores).pick(kept[: self.config.most])

    def _cut_with_sam(self, candidates: Candidates, encoded: EncodedImage, logits: ClassLogits) -> list[Segment]:
        """A mask by SAM for each box; copies are dropped, scores weighed with what the pixels and SAM say."""
        if not len(candidates.boxes):
            return []
        network, embedding = ask_sam(encoded, self.config.masks)
        masks, quality, row_of = _ask(network, embedding, candidates)
        inside = embedding.inside(masks)[row_of]
        if self.config.proposals == "detector" and self.model.config.boxes is not None:
            # the score of the box counts already
            logits = BoxEvidence(self.model, self.model.config.boxes).undone(logits, encoded)
        support = pooled(logits, encoded, candidates.labels, inside > 0)
        scores = candidates.scores * support**_SUPPORT * quality[row_of].clamp(0, 1)
        kept, scores = masks_apart(inside > 0, candidates.labels, scores)
        labels = logits.queries.vocabulary.labels
        found = []
        for row in kept.tolist():
            (mask,) = to_image(embedding, masks[row_of[row]][None])
            found += segment_of_mask(mask, labels[int(candidates.labels[row])], float(scores[row]))
        return found


def _spread(logits: ClassLogits, labels: Sequence[int]) -> list[int]:
    """Those of the labels that win at least 5 % of the cells."""
    winners = logits.probabilities(logits.values).argmax(0)
    return [label for label in labels if float((winners == label).float().mean()) >= _SPREAD]


def _ask(network: PromptedSam, embedding: SamEmbedding, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """The masks of candidates by box, and by point where there is one; two names of a prompt share its mask.

    The box of a connected part is only as good as the label map. Where it takes half of the image, the map floods,
    and its surest pixel alone is asked: of the three things that it may mean, the mask that SAM is surest of.

    Returns:
        (m, h, w) logits, their quality (m,), and (n,) the mask of each candidate.
    """
    prompts = torch.cat([candidates.boxes, candidates.points.nan_to_num(-1)], 1)
    prompts, row_of = torch.unique(prompts, dim=0, return_inverse=True)
    boxes, points = prompts[:, :4], prompts[:, 4:]
    height, width = embedding.geometry.original
    pointed = points[:, 0] >= 0
    flooded = pointed & (box_area(boxes) >= height * width / 2)
    small = pointed & ~flooded
    by_box, sure_by_box = network.masks(embedding, boxes=boxes[~pointed])
    by_both, sure_by_both = network.masks(embedding, boxes=boxes[small], points=points[small])
    three, sure = network.masks(embedding, points=points[flooded], multimask=True)
    best = sure.argmax(1, keepdim=True)
    by_point = torch.take_along_dim(three, best[:, :, None, None], 1)
    order = torch.cat([rows.nonzero().flatten() for rows in (~pointed, small, flooded)]).argsort()
    masks = torch.cat([by_box, by_both, by_point])[order, 0]
    return masks, torch.cat([sure_by_box, sure_by_both, sure.gather(1, best)])[order, 0], row_of
