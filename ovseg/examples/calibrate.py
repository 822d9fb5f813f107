"""From scores, such as cosines, to evidence: measured inside a thing and outside."""

from __future__ import annotations

import torch
from torch import Tensor


def calibrate(inside: Tensor, outside: Tensor) -> tuple[float, float, float]:
    """From a cosine to evidence: logarithm of how much likelier it is inside the concept than outside.

    Both are taken as normal distributions of one variance σ² (the mean of the two) with means μ and ν; the
    logarithm of their ratio at a cosine c is then (c − (μ + ν)/2) · (μ − ν)/σ².

    Args:
        inside: (n,) cosines of cells of the concept, at least one.
        outside: (m,) cosines of other cells; without any, they are taken to lie 0.2 lower.

    Returns:
        The threshold (μ + ν)/2; the spread σ²/(μ − ν), one unit of evidence; and the separation, the largest
        true minus false positive rate that any threshold has.
    """
    inside = inside.float()
    outside = outside.float() if len(outside) else inside - 0.2
    high, low = float(inside.mean()), float(outside.mean())
    variance = float(inside.var(unbiased=False) + outside.var(unbiased=False)) / 2
    spread = max(variance / max(high - low, 0.02), 0.005)
    return (high + low) / 2, spread, separation(inside, outside)


def separation(inside: Tensor, outside: Tensor) -> float:
    """The largest true minus false positive rate of a threshold on (n,) and (m,) cosines."""
    candidates = torch.quantile(torch.cat([_some(inside), _some(outside)]), torch.linspace(0, 1, 201))
    above_in = 1 - torch.searchsorted(inside.sort().values, candidates) / len(inside)
    above_out = 1 - torch.searchsorted(outside.sort().values, candidates) / len(outside)
    return float((above_in - above_out).max())


def _some(values: Tensor, most: int = 100_000) -> Tensor:
    """At most ``most`` of the values, evenly taken: ``torch.quantile`` refuses large inputs."""
    return values[:: max(1, -(-len(values) // most))]
