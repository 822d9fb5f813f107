"""What trained heads have in common: they stand on the model's own head and may start from its scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.config import Config
from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.base import Head, Phrases


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
        trust: with ``residual``, the cosine between a phrase and the nearest name that was trained on, up to which
            the phrase keeps its score of the head below. From there to 1 the head's correction grows linearly to
            the whole. None: the whole for every phrase. In a head that fuses, the phrases that are corrected win
            no cell from the others.
        contrast: share of its mean over the image that is subtracted from a phrase's score below.
        names: number of names that are trained on; filled in when training starts.
    """

    widths: Widths
    inputs: Literal["joint", "encoder"] = "joint"
    residual: bool = True
    base_scale: float = 1.0
    trust: float | None = None
    contrast: float = 0.0
    names: int = 0


class StackedHead(nn.Module):
    """The base of trained heads: features and phrases in the joint space of the head below, and this head's inputs.

    Args:
        base: the model's own head; frozen, and no part of this head's weights.
        settings: widths, inputs, residual.
        kind: ends the name of the space.

    Source of ``trust``: seen and unseen names weighed apart (FC-CLIP, Yu et al., NeurIPS 2023, equation 7), here
    by degrees.
    """

    known: Tensor
    reads_tokens = False
    reads_whole = False

    def __init__(self, base: Head, settings: StackedSettings, *, kind: str) -> None:
        super().__init__()
        self._base = (base,)  # in a tuple, so that its weights are not this module's
        self.residual, self.base_scale = settings.residual, settings.base_scale
        self.widths = settings.widths
        self.apart = settings.inputs == "encoder"
        self.feature_space, self.text_space = base.feature_space, base.text_space
        self.space = f"{base.space}|{kind}"
        joint = settings.widths.joint
        self.feature_width = settings.widths.features if self.apart else joint
        self.phrase_width = settings.widths.text if self.apart else joint
        self.trust = settings.trust if settings.residual else None
        self.contrast = settings.contrast
        self.register_buffer("known", torch.zeros(settings.names, settings.widths.text))

    @property
    def base(self) -> Head:
        """The head below."""
        return self._base[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # the head below moves to a device with this one
        if isinstance(self.base, nn.Module):
            self.base._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) encoder features to the joint space of the head below, with this head's inputs."""
        joint = self.base.pixels(features)
        values = joint.values - self.contrast * joint.values.mean((2, 3), keepdim=True)
        inputs, whole = (features.values, features.whole) if self.apart else (None, self._joined(features))
        return DenseFeatures(
            values, self.space, joint.stride, structure=joint.structure, inputs=inputs, whole=whole
        )

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, C) text vectors to the joint space of the head below, with this head's inputs and the trust."""
        values = self.base.phrases(vectors).values
        inputs = vectors.to(values) if self.apart else None
        return Phrases(values, inputs=inputs, trust=self._trust_in(vectors).to(values))

    def remember(self, vectors: Tensor) -> None:
        """Keep the text vectors of the names trained on, (names, C)."""
        self.known.copy_(vectors)

    def corrected(self, below: Tensor, answer: Tensor, phrases: Phrases) -> Tensor:
        """The answer for phrases like those trained on, the logits below for the others.

        Args:
            below: (B, Q, h, w) logits of the head below.
            answer: (B, Q, h, w) logits of this head.
            phrases: Q rows from ``phrases``.

        Returns:
            (B, Q, h, w): below + trust · (answer − below). Where only some phrases are trusted, their scores are
            then shifted together, so that the best of them at a cell is as high as it was below: training on few
            names raises them all, also where a name without a mask belongs.

        Source: after calibrated stacking (Chao et al., ECCV 2016), here by cell and with nothing to choose.
        """
        trust = trust_of(phrases)[:, None, None]
        mixed = below + trust * (answer - below)
        trusted = trust.flatten() > 0
        if trusted.all() or not trusted.any():
            return mixed
        gap = below[:, trusted].amax(1, keepdim=True) - mixed[:, trusted].amax(1, keepdim=True)
        return mixed + gap * trusted[:, None, None]

    def base_scores(self, features: DenseFeatures, phrases: Phrases) -> Tensor:
        """(B, Q, h, w) logits of the head below."""
        values = features.values
        return self.base_scale * torch.einsum("bdhw,qd->bqhw", values, phrases.values.to(values))

    def _joined(self, features: DenseFeatures) -> Tensor | None:
        """The vectors of whole images in the joint space of the head below, (B, D), each as if it were a cell."""
        if features.whole is None:
            return None
        cells = DenseFeatures(features.whole[:, :, None, None], features.space, features.stride)
        return self.base.pixels(cells).values.flatten(1)

    def _trust_in(self, vectors: Tensor) -> Tensor:
        """(Q,): nearness to the names trained on, from 0 at ``trust`` to 1."""
        if self.trust is None or not len(self.known):
            return vectors.new_ones(len(vectors))
        unit, known = functional.normalize(vectors, dim=-1), functional.normalize(self.known, dim=-1)
        nearest = (unit @ known.T.to(unit)).amax(-1)
        return ((nearest - self.trust) / (1 - self.trust)).clamp(0, 1)


def inputs_of(given: DenseFeatures | Phrases) -> Tensor:
    """What a trained head reads of features or phrases: their ``inputs``; their ``values`` where there are none."""
    return given.values if given.inputs is None else given.inputs


def trust_of(phrases: Phrases) -> Tensor:
    """(Q,) in [0, 1]; 1 where ``trust`` was left out."""
    return phrases.values.new_ones(len(phrases)) if phrases.trust is None else phrases.trust
