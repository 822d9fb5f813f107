"""How concepts are learned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LearnOptions:
    """How concepts are learned.

    Attributes:
        k: images retrieved per concept.
        grid: side, in cells, of the square grid that every image's features are brought to.
        features: "structure", "joint", or "auto": structure where the model has it.
        parts: regions per image, at most, over which the text's probability is averaged: a region of similar cells
            shows the concept as a whole or not at all.
        agreement: probability of the concept in a seed's region under which the seed is left out.
        max_references: clusters of seeds, at most.
        cluster_gain: mean cosine to the nearest reference that one more cluster must add.
        negatives: random bank images that stand for everything else in the calibration.
        regions: retrieve by region vectors, where the bank has them.
    """

    k: int = 50
    grid: int = 24
    features: str = "auto"
    parts: int = 12
    agreement: float = 0.3
    max_references: int = 3
    cluster_gain: float = 0.06
    negatives: int = 24
    regions: bool = True
