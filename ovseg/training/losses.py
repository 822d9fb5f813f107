"""Losses on score maps with pixels that do not count, and pixels that count for less."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def softmax_loss(logits: Tensor, truth: Tensor, *, weights: Tensor, confidence: Tensor | None = None) -> Tensor:
    """Weighted mean of −log softmax at the true phrase.

    Args:
        logits: (B, Q, H, W).
        truth: (B, H, W) int64 in [0, Q); negative is ignored.
        weights: (Q,) factor of each phrase.
        confidence: (B, H, W) in [0, 1], factor of each pixel.

    Returns:
        Scalar; 0 where no pixel counts.
    """
    known = truth >= 0
    factor = weights[truth.clamp_min(0)] * known
    if confidence is not None:
        factor = factor * confidence
    cost = functional.cross_entropy(logits.float(), truth.clamp_min(0), reduction="none")
    return (cost * factor).sum() / factor.sum().clamp_min(1e-6)


def binary_loss(logits: Tensor, truth: Tensor, *, weights: Tensor, confidence: Tensor | None = None) -> Tensor:
    """One binary question for each phrase: weighted mean over pixels and phrases of the cross-entropy.

    Args:
        logits: (B, Q, H, W).
        truth: (B, H, W) int64 in [0, Q); −1 is ignored, −2 is none of the phrases.
        weights: (Q,) factor of each phrase where it is the answer; where it is not, the factor is 1.
        confidence: (B, H, W) in [0, 1], factor of each pixel.

    Returns:
        Scalar; 0 where no pixel counts.
    """
    phrases = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    target = (truth[:, None] == phrases).float()
    factor = (truth != -1)[:, None].float().expand_as(target) * torch.where(target > 0, weights[:, None, None], 1.0)
    if confidence is not None:
        factor = factor * confidence[:, None]
    cost = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (cost * factor).sum() / factor.sum().clamp_min(1e-6)
