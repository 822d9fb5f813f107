"""Objects that a model that answers with masks found itself."""

from __future__ import annotations

from ovseg.images.geometry import Size
from ovseg.models.config import ObjectsConfig, QualityConfig
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.objects import ObjectSearch
from ovseg.result.segments import Segment


def own_objects(
    search: ObjectSearch, config: QualityConfig, logits: ClassLogits, *, size: Size
) -> tuple[Segment, ...] | None:
    """The model's own objects of the labels that were asked for, the surest first; None for none asked.

    Args:
        search: which labels.
        config: the section ``objects``; of the quality, ``least_score`` and ``most`` count.
        logits: with the objects.
        size: (H, W) of the image.
    """
    if not search.wanted:
        return None
    assert logits.objects is not None
    rule: ObjectsConfig = getattr(config, search.quality)
    names, owner = logits.queries.vocabulary.labels, logits.queries.class_of_query.tolist()
    asked = {number for number, name in enumerate(names) if name in search.reported}
    sure = [each for each in logits.objects if owner[each.phrase] in asked and each.score >= rule.least_score]
    surest = sorted(sure, key=lambda each: -each.score)[: rule.most]
    return tuple(
        Segment.of_mask(each.window, names[owner[each.phrase]], each.score, corner=each.corner, size=size)
        for each in surest
    )
