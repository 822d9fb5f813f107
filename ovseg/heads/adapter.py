"""The lightest trained head: a small map of the features and one of the text, compared by cosine.

It stays a dot product, so one encoded image answers any vocabulary as cheaply as before.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.base import Head, Phrases
from ovseg.heads.stacked import StackedHead, StackedSettings, inputs_of, trust_of


class AdapterSettings(StackedSettings):
    """An ``Adapter``.

    Attributes:
        width: of the space of its cosine.
        hidden: of the two maps.
        kernel: cells that the map of the features looks at, 1 or 3 to a side.
        dropout: of the hidden layer.
        temperature: divides the cosine.
    """

    inputs: Literal["joint", "encoder"] = "encoder"
    width: int = 128
    hidden: int = 256
    kernel: Literal[1, 3] = 1
    dropout: float = 0.1
    temperature: float = 0.07


class Adapter(StackedHead):
    """Logits = those of the head below + gain · cosine / temperature; the gain starts at 0 (1 without residual).

    Source: maps into a shared space as LSeg (Li et al., ICLR 2022, section 3), on both sides because neither
    encoder is trained; the gain from zero as ReZero (Bachlechner et al., UAI 2021, equation 1).
    """

    def __init__(self, base: Head, settings: AdapterSettings) -> None:
        super().__init__(base, settings, kind="adapter")
        hidden, width = settings.hidden, settings.width
        self.temperature = settings.temperature
        self.reduce = nn.Conv2d(self.feature_width, hidden, 1)
        self.around = nn.Conv2d(hidden, hidden, settings.kernel, padding=settings.kernel // 2, groups=hidden)
        self.visual = nn.Conv2d(hidden, width, 1)
        self.dropout = nn.Dropout(settings.dropout)
        self.textual = nn.Sequential(
            nn.Linear(self.phrase_width, hidden), nn.GELU(), nn.Dropout(settings.dropout), nn.Linear(hidden, width)
        )
        self.gain = nn.Parameter(torch.tensor(0.0 if settings.residual else 1.0))

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) encoder features to (B, D, h, w): the scaled joint space below, then the map."""
        below = super().pixels(features)
        mapped = self.visual(self.dropout(functional.gelu(self.around(self.reduce(inputs_of(below))))))
        mapped = functional.normalize(mapped, dim=1) * (self.gain / self.temperature)
        values = [below.values * self.base_scale, mapped] if self.residual else [mapped]
        return DenseFeatures(torch.cat(values, 1), self.space, below.stride, structure=below.structure)

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, C) text vectors to (Q, D): the joint space below, then the map, its length the trust."""
        below = super().phrases(vectors)
        mapped = functional.normalize(self.textual(inputs_of(below)), dim=-1) * trust_of(below)[:, None]
        return Phrases(torch.cat([below.values, mapped], 1) if self.residual else mapped)

    def graded(self, features: DenseFeatures, phrases: Phrases) -> list[tuple[float, Tensor]]:
        """One loss, on the logits."""
        return [(1.0, torch.einsum("bdhw,qd->bqhw", features.values, phrases.values))]
