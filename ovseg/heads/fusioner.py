"""Fusioner: cells and phrases pass together through a transformer before they are compared.

Source: Ma et al., "Open-vocabulary Semantic Segmentation with Frozen Vision-Language Models" (Fusioner), BMVC 2022,
sections 3.2 and 3.3; what the paper leaves open is as in the authors' code, whose numbers the tests hold.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError
from ovseg.heads.base import SCORES, Head, Phrases
from ovseg.heads.blocks import Block
from ovseg.heads.stacked import StackedHead, StackedSettings, inputs_of


class FusionerSettings(StackedSettings):
    """A ``Fusioner``; the defaults are the paper's, but for ``residual``.

    Attributes:
        width, layers, attention_heads, inner: of the transformer.
        fusion: "early" mixes cells and phrases; "late" lets each look only at its own kind.
        upsamplings: steps of the decoder that double the grid.
        pixels: resize the decoded map to the pixels of the encoder's input before it is compared, which takes
            ``width`` numbers a pixel; otherwise the answer has the decoder's grid.
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
    pixels: bool = True
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
        self.pixelwise = settings.pixels
        self.visual_in = nn.Sequential(
            nn.LayerNorm(self.feature_width), nn.Linear(self.feature_width, width), nn.LayerNorm(width)
        )
        self.text_in = nn.Sequential(nn.LayerNorm(self.phrase_width), nn.Linear(self.phrase_width, width))
        self.text_mark = nn.Parameter(torch.randn(width))
        self.blocks = nn.ModuleList(
            Block(width, heads=settings.attention_heads, inner=settings.inner, dropout=settings.dropout)
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.visual_out, self.text_out = _projection(width), _projection(width)
        self.decoder = FusionDecoder(width, settings.upsamplings)
        if settings.residual:
            self.gain = nn.Parameter(torch.tensor(0.0))
            self.offset = nn.Parameter(torch.tensor(0.0))

    def fuse(self, features: DenseFeatures, phrases: Phrases) -> DenseFeatures:
        """(B, Q, H, W) logits at the pixels of the encoder's input, or on the grid of the decoder."""
        logits = self.graded(features, phrases)[0][1]
        stride = features.stride * features.grid[0] // logits.shape[-2]
        same = tuple(logits.shape[-2:]) == features.grid
        return DenseFeatures(logits, SCORES, stride, structure=features.structure if same else None)

    def graded(self, features: DenseFeatures, phrases: Phrases) -> list[tuple[float, Tensor]]:
        """One loss, on the logits."""
        fine, words = self.fused(inputs_of(features), inputs_of(phrases))
        logits = self.logits(fine, words, size=self._size(features))
        if self.residual:
            below = self.base_scores(features, phrases)
            below = functional.interpolate(below, size=logits.shape[-2:], mode="bilinear")
            logits = self.corrected(below, below + self.gain * logits + self.offset, phrases)
        return [(1.0, logits)]

    def fused(self, cells: Tensor, phrases: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and phrases after the transformer.

        Args:
            cells: (B, C, h, w) inputs.
            phrases: (Q, C') inputs.

        Returns:
            (B, W, h, w) and (B, Q, W).
        """
        visual = self.visual_in(cells.flatten(2).transpose(1, 2))  # (B, n, W)
        text = (self.text_in(phrases) + self.text_mark).expand(len(cells), -1, -1)  # (B, Q, W)
        count = visual.shape[1]
        tokens = torch.cat([visual, text], 1)
        allowed = self._own_kind(count, text.shape[1], tokens.device) if self.late else None
        for block in self.blocks:
            tokens = block(tokens, allowed)
        tokens = self.norm(tokens)
        maps = self.visual_out(tokens[:, :count]).transpose(1, 2).unflatten(2, cells.shape[-2:])
        return maps, self.text_out(tokens[:, count:])

    def decoded(self, maps: Tensor, *, size: tuple[int, int] | None = None) -> Tensor:
        """Fused cells (B, W, h, w) through the decoder, resized to ``size``: (B, W, H, W')."""
        fine: Tensor = self.decoder(maps)
        return fine if size is None else functional.interpolate(fine, size=size, mode="bilinear")

    def logits(self, maps: Tensor, words: Tensor, *, size: tuple[int, int] | None = None) -> Tensor:
        """Cosines of fused cells (B, W, h, w), decoded, and fused phrases (B, Q, W) over the temperature."""
        fine = functional.normalize(self.decoded(maps, size=size), dim=1)
        cosine = torch.einsum("bdhw,bqd->bqhw", fine, functional.normalize(words, dim=-1))
        return cosine / self.temperature

    def _size(self, features: DenseFeatures) -> tuple[int, int] | None:
        """Of the answer; None where it is the decoder's own."""
        stride, finer = features.stride, self.decoder.finer
        if self.pixelwise:
            return stride * features.grid[0], stride * features.grid[1]
        if stride % finer:
            raise ConfigError(
                f"without 'pixels', 'fusioner' must part cells of {stride} pixels into whole pixels, got {finer} "
                "parts to a side; set head.settings.pixels to true or upsamplings to 0"
            )
        return None

    @staticmethod
    def _own_kind(cells: int, phrases: int, device: torch.device) -> Tensor:
        is_text = torch.arange(cells + phrases, device=device) >= cells
        return is_text[:, None] == is_text[None]


class FusionDecoder(nn.Module):
    """Convolutions, each normalised over the image; all but the last double the grid; then a 1×1 convolution."""

    def __init__(self, width: int, upsamplings: int) -> None:
        super().__init__()
        self.finer = 2**upsamplings
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(upsamplings + 1))
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, W, h, w) to (B, W, finer·h, finer·w)."""
        for number, convolution in enumerate(self.convolutions):
            if number:
                maps = functional.interpolate(maps, scale_factor=2, mode="bilinear")
            maps = convolution(maps)
            # an instance norm, which as a layer norm also takes a map of one cell
            maps = functional.relu(functional.layer_norm(maps, maps.shape[-2:]))
        decoded: Tensor = self.out(maps)
        return decoded


def _projection(width: int) -> nn.Linear:
    projection = nn.Linear(width, width, bias=False)
    nn.init.normal_(projection.weight, std=width**-0.5)
    return projection
