"""What a head is: features and phrases brought into one space, where a dot product is a logit.

A head whose text depends on the image answers with score maps instead (``FusionHead``). One that returns masks of
its own (``MaskQueries``) or learns labels from pictures (``ShotHead``) keeps the two of the head below, and adds to
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures
from ovseg.tensors import check_shape

SCORES = "scores"  # the space of score maps: channel q is phrase q


@dataclass(frozen=True)
class Phrases:
    """Phrases as a head compares them with features, a row each.

    Attributes:
        values: (Q, D) in the joint space; of a ``FusionHead``, in the joint space of the head below it.
        inputs: (Q, C) that a ``FusionHead`` reads beside ``values``, such as the text encoder's own vectors.
        trust: (Q,) in [0, 1], share of a ``FusionHead``'s correction that a phrase gets.
        tokens: (Q, T) int64, −1 after the last token, for a head that encodes the phrases anew for every image.

    Raises:
        ShapeError: a field has another shape, or another number of rows.
    """

    values: Tensor
    inputs: Tensor | None = None
    trust: Tensor | None = None
    tokens: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape("values", self.values, "Q D")
        for name, axes in (("inputs", "Q C"), ("trust", "Q"), ("tokens", "Q T")):
            field = getattr(self, name)
            if field is not None:
                check_shape(name, field, axes, Q=len(self))

    def __len__(self) -> int:
        """Q."""
        return len(self.values)

    def __getitem__(self, rows: slice | Tensor) -> Phrases:
        """The phrases at ``rows``: a slice, (n,) int64 positions or (Q,) bool."""
        return self._each(lambda field: field[rows])

    def to(self, device: torch.device) -> Phrases:
        """The same phrases on ``device``."""
        return self._each(lambda field: field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Phrases:
        fields = (self.inputs, self.trust, self.tokens)
        return Phrases(change(self.values), *(None if field is None else change(field) for field in fields))


@runtime_checkable
class Head(Protocol):
    """Maps frozen features and frozen text vectors into a joint space.

    Attributes:
        feature_space: space of the image features it takes.
        text_space: space of the text vectors it takes.
        space: space of what it returns.
        reads_tokens: whether ``phrases`` takes tokens (see ``heads.prompts.encode_tokens``) in place of vectors.
    """

    feature_space: str
    text_space: str
    space: str
    reads_tokens: bool

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) encoder features to (B, D, h, w) in the joint space; ``structure`` is kept."""

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, C) text vectors, or (Q, T) tokens where ``reads_tokens``, to the joint space."""


@runtime_checkable
class FusionHead(Head, Protocol):
    """A head whose logits are more than a dot product.

    ``pixels`` and ``phrases`` still run once per image and once per vocabulary: they bring features and vectors
    into what ``fuse`` takes.
    """

    def fuse(self, features: DenseFeatures, phrases: Phrases) -> DenseFeatures:
        """Logits of every phrase at every cell, from what ``pixels`` and ``phrases`` returned.

        Returns:
            (B, Q, h', w') float logits in the space ``SCORES``, and their stride in pixels.
        """


def reads_whole(head: Head) -> bool:
    """Whether a head reads ``whole`` of the features, the vector of an image as a whole, where there is one."""
    return bool(getattr(head, "reads_whole", False))


@runtime_checkable
class TrainableHead(Head, Protocol):
    """A head that the recipe ``masks`` can train."""

    def graded(self, features: DenseFeatures, phrases: Phrases) -> list[tuple[float, Tensor]]:
        """Weights of the losses and the (B, Q, h', w') logits that each grades; the answer comes first."""


class IdentityHead:
    """For towers that already share one space, as CLIP's do: returns what it is given."""

    reads_tokens = False

    def __init__(self, space: str) -> None:
        self.feature_space = self.text_space = self.space = space

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """``features`` as they are."""
        return features

    def phrases(self, vectors: Tensor) -> Phrases:
        """``vectors`` as they are."""
        return Phrases(vectors)
