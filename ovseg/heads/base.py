"""What a head is: pixels and phrases brought into one space, where a dot product is a logit.

A head whose text depends on the image answers with score maps instead (``FusionHead``). Heads that return masks
of their own (FrozenSeg's queries) or take visual examples (multi-modal prototypes) fit the same two protocols:
``fuse`` may compute its maps from masks, and ``phrases`` is any set of (Q, D) rows, pictures included.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ovseg.encoders.spec import DenseFeatures

SCORES = "scores"  # the space of score maps: channel q is phrase q


@runtime_checkable
class Head(Protocol):
    """Maps frozen features and frozen text vectors into a joint space.

    Attributes:
        feature_space: space of the image features it takes.
        text_space: space of the text vectors it takes.
        space: space of what it returns.
    """

    feature_space: str
    text_space: str
    space: str

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) encoder features to (B, D, h, w) in the joint space; ``structure`` is kept."""

    def phrases(self, vectors: Tensor) -> Tensor:
        """(Q, C) text vectors to (Q, D) in the joint space."""


@runtime_checkable
class FusionHead(Head, Protocol):
    """A head whose logits are more than a dot product.

    ``pixels`` and ``phrases`` still run once per image and once per vocabulary: they bring features and vectors
    into what ``fuse`` takes.
    """

    def fuse(self, pixels: DenseFeatures, phrases: Tensor) -> DenseFeatures:
        """Logits of every phrase at every cell, from what ``pixels`` and ``phrases`` returned.

        Args:
            pixels: (B, D, h, w).
            phrases: (Q, D').

        Returns:
            (B, Q, h', w') float logits in the space ``SCORES``, and their stride in pixels.
        """


@runtime_checkable
class TrainableHead(Head, Protocol):
    """A head that the recipe ``masks`` can train."""

    def graded(self, pixels: DenseFeatures, phrases: Tensor) -> list[tuple[float, Tensor]]:
        """Weights of the losses and the (B, Q, h', w') logits that each grades; the answer comes first."""


class IdentityHead:
    """For towers that already share one space, as CLIP's do: returns what it is given."""

    def __init__(self, space: str) -> None:
        self.feature_space = self.text_space = self.space = space

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """``features`` as they are."""
        return features

    def phrases(self, vectors: Tensor) -> Tensor:
        """``vectors`` as they are."""
        return vectors
