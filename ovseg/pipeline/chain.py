"""The modifiers of a segmenter, in the order in which they change logits."""

from __future__ import annotations

from collections.abc import Sequence

from ovseg.encoders.spec import whole_space
from ovseg.heads.maskqueries import MaskQueries
from ovseg.models.model import Model
from ovseg.pipeline.boxes import BoxEvidence
from ovseg.pipeline.maskqueries import QueryMaps
from ovseg.pipeline.modifiers import LabelWeights, Modifier, Pruning


def modifiers_of(model: Model, brought: Sequence[Modifier], added: Sequence[Modifier]) -> tuple[Modifier, ...]:
    """What queries bring along, the model's own, and what a caller added, each in its place.

    Args:
        model: whose file asks for modifiers.
        brought: of the queries.
        added: by ``Segmenter.with_modifiers`` or ``with_concepts``.
    """
    config = model.config
    own: list[Modifier] = [LabelWeights()]
    if config.prune is not None:
        # The image as a whole is compared with text alone, which knows less of a label than its own modifier.
        spared = {name for modifier in (*brought, *added) for name in modifier.names}
        own.append(Pruning(config.prune, whole_space(model.image), spared))
    if config.boxes is not None:
        own.append(BoxEvidence(model, config.boxes))
    if isinstance(model.head, MaskQueries):  # last: they ask what all others made of the map
        own.append(QueryMaps(model.head))
    # weights last: a weight counts in full, whatever the logits were mixed from
    return (*brought, *added, *own)
