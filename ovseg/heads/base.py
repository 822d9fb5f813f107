"""What a head is: pixels and phrases brought into one space, where a dot product is a logit."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ovseg.encoders.spec import DenseFeatures


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
