"""Towers without attention to open: CLIP's ResNets, ConvNeXt and FastViT, read densely."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures, EncoderSpec, as_features
from ovseg.encoders.tower import check_pixels, last_width


class ConvolutionalEncoder(nn.Module):
    """Dense features of a convolutional tower; it takes no attention recipe.

    Each cell of the last map goes through the tower's head as if it were a whole image. For CLIP's ResNets
    that is the value path of the attention pool.

    Args:
        visual: image tower of an open_clip model.
        spec: preprocessing and space.

    Source: Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022, section 3.2.
    """

    def __init__(self, visual: Any, spec: EncoderSpec) -> None:
        super().__init__()
        self.visual = visual
        self._spec = spec

    @property
    def spec(self) -> EncoderSpec:
        """Preprocessing, space and licence."""
        return self._spec

    def dense(self, pixels: Tensor) -> DenseFeatures:
        """Features of ``pixels`` (B, 3, H, W), normalised; H and W multiples of the stride.

        Returns:
            values (B, C, h, w), unit length over C.

        Raises:
            ShapeError: the sizes do not fit.
        """
        return as_features(self(pixels), pixels, self._spec.space)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """What ``dense`` returns as plain tensors, for export: values alone."""
        check_pixels(pixels, self._spec.stride)
        maps = self._maps(pixels.to(self._dtype))
        batch, _, rows, columns = maps.shape
        cells = self._project(maps.permute(0, 2, 3, 1).flatten(0, 2))  # (B·h·w, C)
        values = cells.view(batch, rows, columns, -1).permute(0, 3, 1, 2)
        return (functional.normalize(values, dim=1),)

    def image_vector(self, pixels: Tensor) -> Tensor:
        """Image vectors (B, C), unit length; CLIP's ResNets take only their own input size."""
        vectors: Tensor = self.visual(pixels.to(self._dtype))
        return functional.normalize(vectors, dim=-1)

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.visual.parameters()).dtype
        return dtype

    def _maps(self, pixels: Tensor) -> Tensor:
        visual = self.visual
        if hasattr(visual, "trunk"):
            features: Tensor = visual.trunk.forward_features(pixels)
            return features
        maps: Tensor = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            maps = layer(maps)
        return maps

    def _project(self, cells: Tensor) -> Tensor:
        """(n, D) to (n, C)."""
        visual = self.visual
        if hasattr(visual, "trunk"):
            projected: Tensor = visual.head(visual.trunk.forward_head(cells[:, :, None, None]))
            return projected
        value: Tensor = visual.attnpool.c_proj(visual.attnpool.v_proj(cells))
        return value


def convolutional_stride(visual: Any) -> int:
    """Pixels per cell of the last map."""
    return int(visual.trunk.feature_info[-1]["reduction"]) if hasattr(visual, "trunk") else 32


def convolutional_channels(visual: Any) -> int:
    """Length of a feature vector."""
    return int(visual.output_dim) if hasattr(visual, "output_dim") else last_width(visual, default=0)


def is_convolutional(visual: Any) -> bool:
    """Whether an open_clip image tower has no transformer blocks to open."""
    trunk = getattr(visual, "trunk", visual)
    return not hasattr(trunk, "blocks") and not hasattr(trunk, "transformer")
