"""What trained heads have in common: they stand on the model's own head and may start from its scores."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ovseg.config import Config
from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.base import Head


class Widths(Config):
    """Channels of a model's features, text vectors and joint space; filled in when training starts."""

    features: int
    text: int
    joint: int


class StackedSettings(Config):
    """Settings of every head that stands on another.

    Attributes:
        widths: of the model below.
        inputs: the joint space of the head below, or the encoders' own features and vectors.
        residual: add the logits of the head below, so that training starts from the untrained score.
        base_scale: factor from the dot products of the head below to its logits.
    """

    widths: Widths
    inputs: Literal["joint", "encoder"] = "joint"
    residual: bool = True
    base_scale: float = 1.0


class StackedHead(nn.Module):
    """The base of trained heads: brings features and vectors into joint space, inputs beside them if need be.

    Args:
        base: the model's own head; frozen, and no part of this head's weights.
        settings: widths, inputs, residual.
        kind: ends the name of the space.
    """

    def __init__(self, base: Head, settings: StackedSettings, *, kind: str) -> None:
        super().__init__()
        self._base = (base,)  # in a tuple, so that its weights are not this module's
        self.residual, self.base_scale = settings.residual, settings.base_scale
        self.widths = settings.widths
        self.apart = settings.inputs == "encoder"
        self.feature_space, self.text_space = base.feature_space, base.text_space
        self.space = f"{base.space}|{kind}"
        joint = settings.widths.joint
        self.pixel_width = settings.widths.features if self.apart else joint
        self.phrase_width = settings.widths.text if self.apart else joint

    @property
    def base(self) -> Head:
        """The head below."""
        return self._base[0]

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) to the joint space of the head below; the encoder's features follow where they are read."""
        with torch.no_grad():
            joint = self.base.pixels(features)
        values = torch.cat([joint.values, features.values], 1) if self.apart else joint.values
        return DenseFeatures(values, self.space, joint.stride, normalized=False, structure=joint.structure)

    def phrases(self, vectors: Tensor) -> Tensor:
        """(Q, C) to the joint space of the head below; the vectors follow where they are read."""
        with torch.no_grad():
            joint = self.base.phrases(vectors)
        return torch.cat([joint, vectors.to(joint)], 1) if self.apart else joint

    def joint_part(self, values: Tensor) -> Tensor:
        """What the head below compares, of (B, D, h, w) pixels or (Q, D) phrases."""
        return values[:, : self.widths.joint]

    def input_part(self, values: Tensor) -> Tensor:
        """What this head reads, of (B, D, h, w) pixels or (Q, D) phrases."""
        return values[:, self.widths.joint :] if self.apart else values

    def base_scores(self, pixels: Tensor, phrases: Tensor) -> Tensor:
        """(B, Q, h, w) logits of the head below."""
        joint, text = self.joint_part(pixels), self.joint_part(phrases)
        return self.base_scale * torch.einsum("bdhw,qd->bqhw", joint, text.to(joint))
