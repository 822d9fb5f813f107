"""Features against a text bank: logits per class, smoothed over cells that look alike."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures, check_space
from ovseg.errors import ShapeError
from ovseg.heads.base import FusionHead, Head, Phrases
from ovseg.pipeline.queries import TextBank
from ovseg.refine import affinity, pool_cells

POOL = 2  # cells take from squares of 2×2 cells, so only those are compared with text: a quarter of the cost


def match(features: DenseFeatures, bank: TextBank, *, smoothing: float | None = None) -> Tensor:
    """Logits of every class at every cell.

    Args:
        features: of one image, (1, C, h, w), in the bank's space.
        bank: Q phrases of K classes (labels, then background phrases).
        smoothing: temperature of the affinity between cells; None leaves the cells alone.

    Returns:
        (K, h, w) float32: per class the largest logit of its phrases, then smoothed. Smoothed cells take from
        means of squares of cells, which are compared with the phrases in place of the cells.

    Raises:
        SpaceError: features and bank are in different spaces.
        ShapeError: more than one image.
    """
    check_space(features.space, bank.space)
    if features.values.shape[0] != 1:
        raise ShapeError(f"features must be of one image, (1, C, h, w), got {tuple(features.values.shape)}")
    values = features.values[0]
    weights = _cell_weights(features, smoothing)
    if weights is not None:
        values = pool_cells(values, POOL)
    logits = (bank.embeddings.to(values) @ values.flatten(1)).float() * bank.logit_scale
    logits = best_phrase(logits, bank.label_of_query, classes=bank.classes)
    if weights is not None:
        logits = logits @ weights.T
    return logits.view(bank.classes, *features.grid)


def score(
    head: Head, features: DenseFeatures, bank: TextBank, *, smoothing: float | None = None
) -> tuple[Tensor, int]:
    """Logits of every class, and the pixels per cell: ``match``, or the score maps of a head that fuses.

    Args:
        head: of the model that made features and bank.
        features, bank, smoothing: as of ``match``; a fused map that is finer than the structure is not smoothed.

    Returns:
        (K, h, w) float32, and its stride.

    Raises:
        SpaceError: features and bank are in different spaces.
    """
    if not isinstance(head, FusionHead):
        return match(features, bank, smoothing=smoothing), features.stride
    check_space(features.space, bank.space)
    phrases = bank.phrases or Phrases(bank.embeddings)
    fused = head.fuse(features, phrases.to(features.values.device))
    logits = best_phrase(fused.values[0].flatten(1).float(), bank.label_of_query, classes=bank.classes)
    logits = logits.view(bank.classes, *fused.grid)
    weights = _cell_weights(fused, smoothing)
    if weights is not None:
        logits = (pool_cells(logits, POOL).flatten(1) @ weights.T).view_as(logits)
    return logits, fused.stride


def _cell_weights(features: DenseFeatures, temperature: float | None) -> Tensor | None:
    """How much each cell takes from each square of cells; None where the cells are left alone."""
    if temperature is None or features.structure is None:
        return None
    return affinity(features.structure[0], temperature=temperature, pool=POOL).float()


def best_phrase(logits: Tensor, label_of_query: Tensor, *, classes: int) -> Tensor:
    """Per class the maximum over its phrases.

    Args:
        logits: (Q, n).
        label_of_query: (Q,) int64 in [0, classes).
        classes: K.

    Returns:
        (K, n).
    """
    if classes == logits.shape[0]:
        return logits
    owner = label_of_query.to(logits.device)[:, None].expand_as(logits)
    empty = torch.full((classes, logits.shape[1]), -torch.inf, dtype=logits.dtype, device=logits.device)
    return empty.scatter_reduce(0, owner, logits, reduce="amax")
