"""What changes the logits of a vocabulary before a label is chosen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ovseg.encoders.spec import check_space
from ovseg.models.config import PruneConfig
from ovseg.pipeline.logits import best_phrase
from ovseg.pipeline.queries import TextBank


def likely_labels(vector: Tensor, bank: TextBank, rule: PruneConfig, *, space: str) -> Tensor:
    """Which labels an image as a whole may show.

    Args:
        vector: (C,) unit vector of the image.
        bank: the phrases, in the same space.
        rule: how many labels stay.
        space: of ``vector``.

    Returns:
        (L,) bool.

    Raises:
        SpaceError: image and bank are in different spaces.

    Source: ActiveSAM, 2026 (classes above the 80th percentile of presence, at most 40), on CLIP image vectors.
    """
    check_space(space, bank.space)
    cosines = (bank.embeddings.float() @ vector.to(bank.embeddings.device).float())[:, None]
    scores = best_phrase(cosines, bank.label_of_query, classes=bank.classes)[: len(bank.vocabulary), 0]
    share = math.ceil(len(scores) * (1 - rule.percentile / 100))
    kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    kept[scores.topk(min(len(scores), max(rule.least, min(rule.most, share)))).indices] = True
    return kept
