"""Fusioner: cells and phrases pass together through a transformer before they are compared.

Source: Ma et al., "Open-vocabulary Semantic Segmentation with Frozen Vision-Language Models" (Fusioner), BMVC 2022,
sections 3.2 and 3.3; written from the paper's description.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.base import SCORES, Head, Phrases
from ovseg.heads.blocks import Block
from ovseg.heads.stacked import StackedHead, StackedSettings, inputs_of


class FusionerSettings(StackedSettings):
    """A ``Fusioner``; the defaults are the paper's.

    Attributes:
        width, layers, attention_heads, inner: of the transformer.
        fusion: "early" mixes cells and phrases; "late" lets each look only at its own kind.
        upsamplings: steps of the decoder, each doubles the grid.
        dropout: in the transformer.
        temperature: divides the cosine.
    """

    inputs: Literal["joint", "encoder"] = "encoder"
    width: int = 512
    layers: int = 12
    attention_heads: int = 8
    inner: int = 2048
    fusion: Literal["early", "late"] = "early"
    upsamplings: int = 3
    dropout: float = 0.0
    temperature: float = 0.07


class Fusioner(StackedHead):
    """Cosine of fused cells and fused phrases over the temperature; any two encoders will do.

    Deviation: with ``residual``, gain · cosine / temperature is added to the logits of the head below, with a
    gain that starts at 0, and one offset for all phrases (which only the binary loss can see).
    """

    def __init__(self, base: Head, settings: FusionerSettings) -> None:
        super().__init__(base, settings, kind="fusioner")
        width = settings.width
        self.temperature, self.late = settings.temperature, settings.fusion == "late"
        self.visual_in = nn.Sequential(
            nn.LayerNorm(self.feature_width), nn.Linear(self.feature_width, width), nn.LayerNorm(width)
        )
        self.text_in = nn.Sequential(
            nn.LayerNorm(self.phrase_width),
            nn.Linear(self.phrase_width, width),
        )
        self.text_mark = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(width, heads=settings.attention_heads, inner=settings.inner, dropout=settings.dropout)
            for _ in range(settings.layers)
        )
        self.visual_out, self.text_out = nn.Linear(width, width), nn.Linear(width, width)
        self.decoder = _decoder(width, settings.upsamplings)
        self.shrink = 2**settings.upsamplings
        self.gain = nn.Parameter(torch.tensor(0.0 if settings.residual else 1.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def fuse(self, features: DenseFeatures, phrases: Phrases) -> DenseFeatures:
        """(B, Q, h·2^u, w·2^u) logits, u the number of upsamplings."""
        logits = self.graded(features, phrases)[0][1]
        structure = features.structure if self.shrink == 1 else None
        return DenseFeatures(logits, SCORES, features.stride // self.shrink, structure=structure)

    def graded(self, features: DenseFeatures, phrases: Phrases) -> list[tuple[float, Tensor]]:
        """One loss, on the logits."""
        cosine = self.cosine(inputs_of(features), inputs_of(phrases))
        logits = self.gain * cosine / self.temperature + self.offset
        if self.residual:
            below = self.base_scores(features, phrases)
            below = functional.interpolate(below, size=logits.shape[-2:], mode="bilinear")
            logits = self.corrected(below, below + logits, phrases)
        return [(1.0, logits)]

    def cosine(self, cells: Tensor, phrases: Tensor) -> Tensor:
        """(B, C, h, w) inputs and (Q, C') inputs to (B, Q, h·2^u, w·2^u) in [−1, 1]."""
        grid = cells.shape[-2:]
        visual = self.visual_in(cells.flatten(2).transpose(1, 2))  # (B, n, W)
        text = (self.text_in(phrases) + self.text_mark).expand(len(cells), -1, -1)  # (B, Q, W)
        count = visual.shape[1]
        tokens = torch.cat([visual, text], 1)
        allowed = self._own_kind(count, text.shape[1], tokens.device) if self.late else None
        for block in self.blocks:
            tokens = block(tokens, allowed)
        maps = self.visual_out(tokens[:, :count]).transpose(1, 2).unflatten(2, grid)
        fine = functional.normalize(self.decoder(maps), dim=1)
        words = functional.normalize(self.text_out(tokens[:, count:]), dim=-1)
        return torch.einsum("bdhw,bqd->bqhw", fine, words)

    @staticmethod
    def _own_kind(cells: int, phrases: int, device: torch.device) -> Tensor:
        is_text = torch.arange(cells + phrases, device=device) >= cells
        return is_text[:, None] == is_text[None]


def _decoder(width: int, upsamplings: int) -> nn.Sequential:
    """Steps of 3×3 convolution, instance norm, ReLU and doubling; then two more convolutions."""
    layers: list[nn.Module] = []
    for _ in range(upsamplings):
        layers += [
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        ]
    return nn.Sequential(
        *layers, nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )
