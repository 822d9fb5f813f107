"""What trained heads have in common: they stand on the model's own head and may start from its scores."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        trust: with ``residual``, a phrase gets the more of the head the more it is like a name that was trained on:
            none of it at this cosine of text vectors or under, all of it at 1. None: all phrases get all of it.
            In a head that fuses, the phrases that get some share among them the cells that they won below.
        contrast: share of its mean over the image that is taken off a phrase's score below.
        names: how many names are trained on; filled in when training starts.
    """

    widths: Widths
    inputs: Literal["joint", "encoder"] = "joint"
    residual: bool = True
    base_scale: float = 1.0
    trust: float | None = None
    contrast: float = 0.0
    names: int = 0


class StackedHead(nn.Module):
    """The base of trained heads: brings features and vectors into joint space, inputs beside them if need be.

    Args:
        base: the model's own head; frozen, and no part of this head's weights.
        settings: widths, inputs, residual.
        kind: ends the name of the space.

    Source of ``trust``: seen and unseen names weighed apart (FC-CLIP, Yu et al., NeurIPS 2023, equation 7), here
    by degrees.
    """

    known: Tensor

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
        self.trust = settings.trust if settings.residual else None
        self.contrast = settings.contrast
        self.register_buffer("known", torch.zeros(settings.names, settings.widths.text))

    @property
    def base(self) -> Head:
        """The head below."""
        return self._base[0]

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) to the joint space of the head below; the encoder's features follow where they are read."""
        joint = self.base.pixels(features)
        values = joint.values - self.contrast * joint.values.mean((2, 3), keepdim=True)
        values = torch.cat([values, features.values], 1) if self.apart else values
        return DenseFeatures(values, self.space, joint.stride, structure=joint.structure)

    def phrases(self, vectors: Tensor) -> Tensor:
        """(Q, C) to the joint space of the head below, the vectors where they are read, and the trust in each."""
        joint = self.base.phrases(vectors)
        parts = [joint, vectors.to(joint)] if self.apart else [joint]
        return torch.cat([*parts, self._trust_in(vectors)[:, None].to(joint)], 1)

    def remember(self, vectors: Tensor) -> None:
        """Keep the text vectors of the names trained on, (names, C)."""
        self.known.copy_(vectors)

    def joint_part(self, values: Tensor) -> Tensor:
        """What the head below compares, of (B, D, h, w) pixels or (Q, D) phrases."""
        return values[:, : self.widths.joint]

    def pixel_inputs(self, pixels: Tensor) -> Tensor:
        """(B, C, h, w) that this head reads of pixels."""
        return pixels[:, self.widths.joint :] if self.apart else pixels

    def phrase_inputs(self, phrases: Tensor) -> Tensor:
        """(Q, C) that this head reads of phrases."""
        return phrases[:, self.widths.joint : -1] if self.apart else self.joint_part(phrases)

    def trusted(self, phrases: Tensor) -> Tensor:
        """(Q, 1, 1) in [0, 1]: how much of this head's correction the phrases get."""
        return phrases[:, -1, None, None]

    def corrected(self, below: Tensor, answer: Tensor, phrases: Tensor) -> Tensor:
        """The answer for phrases like those trained on, the logits below for the others.

        Args:
            below: (B, Q, h, w) logits of the head below.
            answer: (B, Q, h, w) logits of this head.
            phrases: (Q, D) from ``phrases``.

        Returns:
            (B, Q, h, w): below + trust · (answer − below). Where only some phrases get some of the answer, these
            are then moved together, so that the best of them at a cell is as high as it was below: training on few
            names raises them all, also where a name without a mask belongs.

        Source: after calibrated stacking (Chao et al., ECCV 2016), here by cell and with nothing to choose.
        """
        trust = self.trusted(phrases)
        mixed = below + trust * (answer - below)
        liked = trust.flatten() > 0
        if liked.all() or not liked.any():
            return mixed
        gap = below[:, liked].amax(1, keepdim=True) - mixed[:, liked].amax(1, keepdim=True)
        return mixed + gap * liked[:, None, None]

    def _trust_in(self, vectors: Tensor) -> Tensor:
        """(Q,): nearness to the names trained on, from 0 at ``trust`` to 1."""
        if self.trust is None or not len(self.known):
            return vectors.new_ones(len(vectors))
        unit, known = functional.normalize(vectors, dim=-1), functional.normalize(self.known, dim=-1)
        nearest = (unit @ known.T.to(unit)).amax(-1)
        return ((nearest - self.trust) / (1 - self.trust)).clamp(0, 1)

    def base_scores(self, pixels: Tensor, phrases: Tensor) -> Tensor:
        """(B, Q, h, w) logits of the head below."""
        joint, text = self.joint_part(pixels), self.joint_part(phrases)
        return self.base_scale * torch.einsum("bdhw,qd->bqhw", joint, text.to(joint))
